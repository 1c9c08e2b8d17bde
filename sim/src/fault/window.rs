//! What loss, duplicates and reordering share: a [`Window`] that is open on some links for a while.

use std::fmt;

use crate::fault::links::{Links, duration_us, lasting};
use crate::fault::{Fault, Sight, Words, print_time};
use crate::network::Window;
use crate::random::Random;
use crate::world::World;

#[derive(Debug)]
struct Windowed {
    kind: &'static str,
    links: Links,
    window: Window,
    lasts_us: u64,
}

pub(super) fn draw(
    kind: &'static str,
    random: &mut Random,
    sight: &Sight,
    window: fn(&mut Random) -> Window,
) -> Option<Box<dyn Fault>> {
    let links = Links::draw(random, sight)?;
    let window = window(random);
    Some(Box::new(Windowed { kind, links, window, lasts_us: duration_us(random, sight) }))
}

pub(super) fn parse(
    kind: &'static str,
    words: &mut Words,
    window: fn(&mut Words) -> Result<Window, String>,
) -> Result<Box<dyn Fault>, String> {
    let links = Links::parse(words)?;
    let window = window(words)?;
    Ok(Box::new(Windowed { kind, links, window, lasts_us: lasting(words)? }))
}

impl Fault for Windowed {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn members(&self) -> Vec<u64> {
        self.links.members()
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(self.lasts_us)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        self.links.strike(world, |network, from, to| network.open(from, to, self.window))
    }

    fn end(&self, world: &mut World) {
        self.links.end(world, |network, from, to| network.close(from, to, self.window));
    }
}

impl fmt::Display for Windowed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} ", self.kind, self.links)?;
        match self.window {
            Window::Loss { permille } => write!(out, "{permille} permille")?,
            Window::Duplicate { permille, most_us } => write!(out, "{permille} permille by {}", print_time(most_us))?,
            Window::Reorder { most_us } => write!(out, "by {}", print_time(most_us))?,
        }
        write!(out, " for {}", print_time(self.lasts_us))
    }
}
