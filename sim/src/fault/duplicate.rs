//! `duplicate 1->2 200 permille by 2s for 5s`: links bring some messages twice, the copy by up to so much later.
//!
//! # Model
//!
//! A transport that is not told whether a message arrived sends it again, and a proxy may keep the first for as long as
//! it likes. One copy a message, so late that it may meet another term, another leader or another life of its
//! receiver. A record has a line for every copy, so in a replay this line makes no more of them.

use crate::fault::{Fault, Kind, Sight, Words, links, window};
use crate::network::Window;
use crate::random::Random;

pub const KIND: Kind = Kind { name: "duplicate", draw, parse };

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    window::draw(KIND.name, random, sight, |random| {
        let permille = *random.pick(&[20, 100, 500]);
        Window::Duplicate { permille, most_us: *random.pick(&[1_000, 50_000, 1_000_000, 5_000_000]) }
    })
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    window::parse(KIND.name, words, |words| {
        Ok(Window::Duplicate { permille: links::permille(words)?, most_us: links::time_after(words, "by")? })
    })
}
