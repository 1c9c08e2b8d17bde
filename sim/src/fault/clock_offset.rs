//! `clock-offset 3 ahead 500ms for 2s`, `… behind …`: a member's clock is away from the others', and comes back.
//!
//! # Model
//!
//! Set ahead, it shows so much more from one moment to the next; set behind, and likewise when an offset ahead is taken
//! back, it stands still until time has caught up, because a monotonic clock does no other. Its pace stays right.
//!
//! What this can touch: a member measures with its clock only how long requests of its own clients have left, so an
//! offset may make them expire at once, or not for a while. What it cannot touch: raft counts ticks and compares no
//! times, and no member sends a time to another, so where the zero of a clock is means nothing to anyone else.

use std::fmt;

use crate::fault::links::{self, lasting, present, time_after};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "clock-offset", draw, parse };

#[derive(Debug)]
struct ClockOffset {
    member: u64,
    is_ahead: bool,
    by_us: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::anyone(random, sight)?;
    let by_us = *random.pick(&[1_000, 50_000, 1_000_000, 10_000_000]);
    let is_ahead = random.permille(500);
    Some(Box::new(ClockOffset { member, is_ahead, by_us, lasts_us: links::duration_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("a member")?;
    let is_ahead = words.take("ahead");
    let by_us = if is_ahead { links::time(words, "ahead")? } else { time_after(words, "behind")? };
    Ok(Box::new(ClockOffset { member, is_ahead, by_us, lasts_us: lasting(words)? }))
}

impl ClockOffset {
    fn shift_us(&self) -> i64 {
        let by_us = self.by_us as i64;
        if self.is_ahead { by_us } else { -by_us }
    }
}

impl Fault for ClockOffset {
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
        let now_us = world.now_us();
        world.machine(self.member).clock.shift(now_us, self.shift_us());
        Ok(())
    }

    fn end(&self, world: &mut World) {
        let now_us = world.now_us();
        world.machine(self.member).clock.shift(now_us, -self.shift_us());
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.is_ahead { "ahead" } else { "behind" };
        let (by, lasts) = (print_time(self.by_us), print_time(self.lasts_us));
        write!(out, "{} {} {side} {by} for {lasts}", KIND.name, self.member)
    }
}
