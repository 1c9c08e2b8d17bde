//! `clock-jump 3 ahead 5s`: a member's clock leaps forward, once and for good.
//!
//! # Model
//!
//! A virtual machine that was frozen, clock and all, and learns what time it is. All requests of its clients whose
//! time is now over expire with the next tick. Ticks do not follow: production takes one tick after a gap and lets the
//! others go, so no election comes of it. A wall clock may leap back as well; the monotonic one, which is the only
//! clock that members are given, may not, so there is no such line.

use std::fmt;

use crate::fault::links::{self, present, time_after};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "clock-jump", draw, parse };

#[derive(Debug)]
struct ClockJump {
    member: u64,
    by_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::anyone(random, sight)?;
    Some(Box::new(ClockJump { member, by_us: *random.pick(&[100_000, 1_000_000, 10_000_000, 3_600_000_000]) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let (member, by_us) = (words.number("a member")?, time_after(words, "ahead")?);
    words.end()?;
    Ok(Box::new(ClockJump { member, by_us }))
}

impl Fault for ClockJump {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.member)?;
        let now_us = world.now_us();
        world.machine(self.member).clock.jump(now_us, self.by_us);
        Ok(())
    }
}

impl fmt::Display for ClockJump {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} ahead {}", KIND.name, self.member, print_time(self.by_us))
    }
}
