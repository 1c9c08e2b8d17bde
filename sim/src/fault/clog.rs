//! `clog 1->2 for 2s`: links hold what is sent on them, and bring it all at once when the clog is gone.
//!
//! # Model
//!
//! Nothing is lost, nobody notices, the order stays; a full buffer in a router, a proxy that hangs. What was on its way
//! before arrives. Two clogs on a link hold until both are gone. What was held belongs to no process: it reaches
//! whichever life of its receiver there is by then.

use std::fmt;

use crate::fault::links::{self, Links, lasting};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "clog", draw, parse };

#[derive(Debug)]
struct Clog {
    links: Links,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    Some(Box::new(Clog { links, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Clog { links: Links::parse(words)?, lasts_us: lasting(words)? }))
}

impl Fault for Clog {
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
        self.links.strike(world, |network, from, to| network.clog(from, to))
    }

    fn end(&self, world: &mut World) {
        self.links.end(world, |network, from, to| network.unclog(from, to));
        world.release_held();
    }
}

impl fmt::Display for Clog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} for {}", KIND.name, self.links, print_time(self.lasts_us))
    }
}
