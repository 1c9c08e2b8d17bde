//! `reorder 1->2 by 50ms for 2s`: links bring each message late by a time of its own, up to so much.
//!
//! # Model
//!
//! A message overtakes another that was sent before it when its lateness is less by more than the time between them:
//! several paths, several connections, a resent packet. Such a message may reach a later life of its receiver. A
//! record has a line for every message that was late, so in a replay this line makes no more of them late.

use std::fmt;

use crate::fault::links::{self, Links, lasting};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::network::Window;
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "reorder", draw, parse };

#[derive(Debug)]
struct Reorder {
    links: Links,
    most_us: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    let most_us = *random.pick(&[2_000, 10_000, 50_000, 300_000, 2_000_000]);
    Some(Box::new(Reorder { links, most_us, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Reorder {
        links: Links::parse(words)?,
        most_us: links::time_after(words, "by")?,
        lasts_us: lasting(words)?,
    }))
}

impl Reorder {
    fn window(&self) -> Window {
        Window::Reorder { most_us: self.most_us }
    }
}

impl Fault for Reorder {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn members(&self) -> Vec<u64> {
        self.links.members()
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(self.lasts_us)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        self.links.strike(world, |network, from, to| network.open(from, to, self.window()))
    }

    fn end(&self, world: &mut World) {
        self.links.end(world, |network, from, to| network.close(from, to, self.window()));
    }
}

impl fmt::Display for Reorder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, lasts) = (print_time(self.most_us), print_time(self.lasts_us));
        write!(out, "{} {} by {most} for {lasts}", KIND.name, self.links)
    }
}
