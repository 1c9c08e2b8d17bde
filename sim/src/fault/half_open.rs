//! `half-open 1->2 for 2s`: a connection of which one end is gone, and the other does not know.
//!
//! # Model
//!
//! A firewall has forgotten the connection, or the cable was pulled: what the sender writes vanishes, and its transport
//! believes that all is well, so raft goes on as if everything had been sent. At the end the transport's time-out
//! comes: the sender is told that the peer cannot be reached, and later messages arrive. What was on its way before
//! arrives. A cut of the same link ([`super::partition`]) does not break the silence.

use std::fmt;

use lockstep::member::raft::Input;

use crate::fault::links::{self, Links, lasting};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "half-open", draw, parse };

#[derive(Debug)]
struct HalfOpen {
    links: Links,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    Some(Box::new(HalfOpen { links, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(HalfOpen { links: Links::parse(words)?, lasts_us: lasting(words)? }))
}

impl Fault for HalfOpen {
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
        self.links.strike(world, |network, from, to| network.half_open(from, to))
    }

    fn end(&self, world: &mut World) {
        for (from, to) in self.links.pairs(&world.ids()) {
            if world.network().half_closed(from, to) && world.is_up(from) {
                world.machine(from).member.input(Input::Unreachable(to));
            }
        }
    }
}

impl fmt::Display for HalfOpen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} for {}", KIND.name, self.links, print_time(self.lasts_us))
    }
}
