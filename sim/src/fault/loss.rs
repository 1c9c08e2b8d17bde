//! `loss 1->2 200 permille for 2s`: links lose some of what is sent on them.
//!
//! # Model
//!
//! Each message is lost with the same chance, whatever became of the one before, and nobody notices: a full queue, a
//! stream that is torn down and set up again in between. Several losses on a link each take their share. A record has
//! a line for every message lost, so in a replay this line loses nothing more.

use crate::fault::{Fault, Kind, Sight, Words, links, window};
use crate::network::Window;
use crate::random::Random;

pub const KIND: Kind = Kind { name: "loss", draw, parse };

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    window::draw(KIND.name, random, sight, |random| Window::Loss { permille: *random.pick(&[20, 100, 300, 900]) })
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    window::parse(KIND.name, words, |words| Ok(Window::Loss { permille: links::permille(words)? }))
}
