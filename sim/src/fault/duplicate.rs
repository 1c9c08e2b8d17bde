//! `duplicate 1->2 200 permille by 2s for 5s`: links bring some messages twice, the copy by up to so much later.
//!
//! # Model
//!
//! A transport that is not told whether a message arrived sends it again, and a proxy may keep the first for as long as
//! it likes. One copy a message, so late that it may meet another term, another leader or another life of its
//! receiver. A record has a line for every copy, so in a replay this line makes no more of them.

use std::fmt;

use crate::fault::links::{self, Links, lasting};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::network::Window;
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "duplicate", draw, parse };

#[derive(Debug)]
struct Duplicate {
    links: Links,
    permille: u64,
    most_us: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    let permille = *random.pick(&[20, 100, 500]);
    let most_us = *random.pick(&[1_000, 50_000, 1_000_000, 5_000_000]);
    Some(Box::new(Duplicate { links, permille, most_us, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Duplicate {
        links: Links::parse(words)?,
        permille: links::permille(words)?,
        most_us: links::time_after(words, "by")?,
        lasts_us: lasting(words)?,
    }))
}

impl Duplicate {
    fn window(&self) -> Window {
        Window::Duplicate { permille: self.permille, most_us: self.most_us }
    }
}

impl Fault for Duplicate {
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

impl fmt::Display for Duplicate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, lasts) = (print_time(self.most_us), print_time(self.lasts_us));
        write!(out, "{} {} {} permille by {most} for {lasts}", KIND.name, self.links, self.permille)
    }
}
