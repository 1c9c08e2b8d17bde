//! `pause 3 for 2s`: a process stands still (SIGSTOP, a virtual machine being moved, a page that has to be swapped in).
//!
//! # Model
//!
//! Every event of the member waits until the pause is over and then happens in order: messages that arrived, answers of
//! its disk, its ticks. Its clock goes on, so afterwards requests find themselves expired; the ticks that it missed are
//! gone, as in production. A paused leader does not know that it was deposed. Of overlapping pauses the last to end
//! counts. A crash ends a pause.

use std::fmt;

use crate::fault::links::{self, lasting, present};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "pause", draw, parse };

#[derive(Debug)]
struct Pause {
    member: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::someone_up(random, sight)?;
    Some(Box::new(Pause { member, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Pause { member: words.number("a member")?, lasts_us: lasting(words)? }))
}

impl Fault for Pause {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(self.lasts_us)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.member)?;
        if !world.is_up(self.member) {
            return Err(format!("member {} is down", self.member));
        }
        let until_us = world.now_us().saturating_add(self.lasts_us);
        let machine = world.machine(self.member);
        machine.paused_until_us = machine.paused_until_us.max(until_us);
        Ok(())
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} for {}", KIND.name, self.member, print_time(self.lasts_us))
    }
}
