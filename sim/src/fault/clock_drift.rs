//! `clock-drift 3 fast 200 permille for 5s`, `… slow …`: a member's clock has another pace.
//!
//! # Model
//!
//! Everything that the member times by itself goes faster or slower: its ticks, and with them elections, heartbeats
//! and the check of the quorum, and the expiry of requests. Disk, network and stages keep their time. Real clocks are
//! wrong by less than one permille; a starved virtual machine is wrong by much more, which is why chance goes to half
//! the pace and to twice of it. Several drifts add up, between a tenth of the pace and ten times of it.

use std::fmt;

use crate::fault::links::{self, lasting, permille, present};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "clock-drift", draw, parse };

#[derive(Debug)]
struct ClockDrift {
    member: u64,
    is_fast: bool,
    permille: u64,
    lasts_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::anyone(random, sight)?;
    let (is_fast, permille) =
        *random.pick(&[(true, 1), (false, 1), (true, 100), (false, 100), (true, 1_000), (false, 500)]);
    // The longer, the more it brings.
    let most_ms = sight.knobs.fault_most_ms.max(1);
    let lasts_us = random.between(most_ms.div_ceil(4), most_ms) * 1_000;
    Some(Box::new(ClockDrift { member, is_fast, permille, lasts_us }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("a member")?;
    let is_fast = words.take("fast");
    if !is_fast {
        words.expect("slow")?;
    }
    Ok(Box::new(ClockDrift { member, is_fast, permille: permille(words)?, lasts_us: lasting(words)? }))
}

impl ClockDrift {
    fn drift_permille(&self) -> i64 {
        let permille = self.permille as i64;
        if self.is_fast { permille } else { -permille }
    }
}

impl Fault for ClockDrift {
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
        world.machine(self.member).clock.drift(now_us, self.drift_permille());
        Ok(())
    }

    fn end(&self, world: &mut World) {
        let now_us = world.now_us();
        world.machine(self.member).clock.drift(now_us, -self.drift_permille());
    }
}

impl fmt::Display for ClockDrift {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.is_fast { "fast" } else { "slow" };
        let lasts = print_time(self.lasts_us);
        write!(out, "{} {} {side} {} permille for {lasts}", KIND.name, self.member, self.permille)
    }
}
