//! `latency 1->* by 50ms for 3s`: links are slower by so much.
//!
//! # Model
//!
//! Every message sent on the link while this lasts takes so much longer, the same for each, so their order stays. When
//! it ends, the next message may overtake the last slow ones. Latencies of several faults add up. A slow link is no
//! box that keeps messages: what is on its way dies with its receiver.

use std::fmt;

use crate::fault::links::{self, Links, lasting};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "latency", draw, parse };

#[derive(Debug)]
struct Latency {
    links: Links,
    added_us: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    let added_us = *random.pick(&[2_000, 20_000, 100_000, 800_000]);
    Some(Box::new(Latency { links, added_us, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Latency {
        links: Links::parse(words)?,
        added_us: links::time_after(words, "by")?,
        lasts_us: lasting(words)?,
    }))
}

impl Fault for Latency {
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
        self.links.strike(world, |network, from, to| network.add_latency(from, to, self.added_us))
    }

    fn end(&self, world: &mut World) {
        self.links.end(world, |network, from, to| network.sub_latency(from, to, self.added_us));
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (added, lasts) = (print_time(self.added_us), print_time(self.lasts_us));
        write!(out, "{} {} by {added} for {lasts}", KIND.name, self.links)
    }
}
