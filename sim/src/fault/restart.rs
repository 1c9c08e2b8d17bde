//! `restart 3 for 200ms`: a member is told to stop (SIGTERM), stops cleanly, and is started again so much later.
//!
//! # Model
//!
//! Nothing that was written is lost, synced or not: the machine stays up. Everything in memory is: entries not yet
//! appended, batches not yet committed, requests under way. What was on its way to the process is lost with its
//! connections. A process that is paused cannot hear the signal, so it is left alone.

use std::fmt;

use crate::fault::links::{self, lasting, present};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "restart", draw, parse };

#[derive(Debug)]
struct Restart {
    member: u64,
    down_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::someone_up(random, sight)?;
    Some(Box::new(Restart { member, down_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Restart { member: words.number("a member")?, down_us: lasting(words)? }))
}

impl Fault for Restart {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.member)?;
        if !world.is_up(self.member) {
            return Err(format!("member {} is down", self.member));
        }
        if world.machine(self.member).paused_until_us > world.now_us() {
            return Err(format!("member {} is paused", self.member));
        }
        world.stop(self.member, self.down_us);
        Ok(())
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} for {}", KIND.name, self.member, print_time(self.down_us))
    }
}
