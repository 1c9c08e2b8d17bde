//! A disk that takes its time: `slow-disk`.
//!
//! Model: for a while every fsync of the member takes so much longer, as on a disk that is busy with something else or
//! collects its garbage. Nothing fails and nothing is lost; what waits for the fsync waits.
//!
//! ```text
//! slow-disk 2 by 20ms for 3s
//! ```

use std::fmt;

use super::crash::{down_us, for_us, pick_up};
use super::links::present;
use super::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "slow-disk", draw, parse };

#[derive(Clone, Debug)]
struct SlowDisk {
    member: u64,
    by_us: u64,
    for_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = pick_up(random, sight)?;
    let by_us = *random.pick(&[5_000, 20_000, 100_000, 500_000, 2_000_000]);
    Some(Box::new(SlowDisk { member, by_us, for_us: down_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    words.expect("by")?;
    let by_us = words.time_us("by how much")?;
    Ok(Box::new(SlowDisk { member, by_us, for_us: for_us(words)? }))
}

impl fmt::Display for SlowDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "slow-disk {} by {} for {}", self.member, print_time(self.by_us), print_time(self.for_us))
    }
}

impl Fault for SlowDisk {
    fn kind(&self) -> &'static str {
        "slow-disk"
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(self.for_us)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.member)?;
        let machine = world.machine(self.member);
        let sum = machine.extra_fsync_us.checked_add(self.by_us);
        machine.extra_fsync_us = sum.ok_or("it is slow enough")?;
        Ok(())
    }

    fn end(&self, world: &mut World) {
        world.machine(self.member).extra_fsync_us -= self.by_us;
    }
}
