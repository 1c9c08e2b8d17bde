//! `reorder 1->2 by 50ms for 2s`: links bring each message late by a time of its own, up to so much.
//!
//! # Model
//!
//! A message overtakes another that was sent before it when its lateness is less by more than the time between them:
//! several paths, several connections, a resent packet. Such a message may reach a later life of its receiver. A
//! record has a line for every message that was late, so in a replay this line makes no more of them late.

use crate::fault::{Fault, Kind, Sight, Words, links, window};
use crate::network::Window;
use crate::random::Random;

pub const KIND: Kind = Kind { name: "reorder", draw, parse };

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    window::draw(KIND.name, random, sight, |random| Window::Reorder {
        most_us: *random.pick(&[2_000, 10_000, 50_000, 300_000, 2_000_000]),
    })
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    window::parse(KIND.name, words, |words| Ok(Window::Reorder { most_us: links::time_after(words, "by")? }))
}
