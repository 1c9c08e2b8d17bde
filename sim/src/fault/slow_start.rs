//! `slow-start 3 by 2s for 10s`: whenever this member is started while this lasts, it takes so much longer.
//!
//! # Model
//!
//! A cold cache, a disk that is being checked, an image that has to be fetched: the process is not there yet, and to
//! its peers that is the same as down. Several of these add up. A start that was under way before keeps its time.

use std::fmt;

use crate::fault::links::{self, lasting, present, time_after};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "slow-start", draw, parse };

#[derive(Debug)]
struct SlowStart {
    member: u64,
    longer_us: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::anyone(random, sight)?;
    let longer_us = links::duration_us(random, sight);
    // It does nothing to a member that nobody starts, so it lasts.
    let most_ms = sight.knobs.fault_most_ms.max(1);
    Some(Box::new(SlowStart { member, longer_us, lasts_us: random.between(most_ms.div_ceil(2), most_ms) * 1_000 }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(SlowStart {
        member: words.number("a member")?,
        longer_us: time_after(words, "by")?,
        lasts_us: lasting(words)?,
    }))
}

impl Fault for SlowStart {
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
        world.machine(self.member).slow_start_us += self.longer_us;
        Ok(())
    }

    fn end(&self, world: &mut World) {
        world.machine(self.member).slow_start_us -= self.longer_us;
    }
}

impl fmt::Display for SlowStart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (longer, lasts) = (print_time(self.longer_us), print_time(self.lasts_us));
        write!(out, "{} {} by {longer} for {lasts}", KIND.name, self.member)
    }
}
