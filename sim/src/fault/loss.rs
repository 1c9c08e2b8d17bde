//! `loss 1->2 200 permille for 2s`: links lose some of what is sent on them.
//!
//! # Model
//!
//! Each message is lost with the same chance, whatever became of the one before, and nobody notices: a full queue, a
//! stream that is torn down and set up again in between. Several losses on a link each take their share. A record has
//! a line for every message lost, so in a replay this line loses nothing more.

use std::fmt;

use crate::fault::links::{self, Links, lasting};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::network::Window;
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "loss", draw, parse };

#[derive(Debug)]
struct Loss {
    links: Links,
    permille: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    let permille = *random.pick(&[20, 100, 300, 900]);
    Some(Box::new(Loss { links, permille, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Loss { links: Links::parse(words)?, permille: links::permille(words)?, lasts_us: lasting(words)? }))
}

impl Loss {
    fn window(&self) -> Window {
        Window::Loss { permille: self.permille }
    }
}

impl Fault for Loss {
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

impl fmt::Display for Loss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {} permille for {}", KIND.name, self.links, self.permille, print_time(self.lasts_us))
    }
}
