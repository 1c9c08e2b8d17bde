//! A disk without room: `full`.
//!
//! Model: the disk takes so many bytes more, counted by the lengths of its files; then a call that needs room answers
//! "no space left on device" and changes nothing. The member may stop with that, and is started again when there is
//! room: nothing it acknowledged is lost. While it lasts, starting may fail as well.
//!
//! ```text
//! full 2 after 4096 for 2s
//! ```

use std::fmt;

use super::crash::{down_us, for_us, pick_up};
use super::links::present;
use super::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "full", draw, parse };

#[derive(Clone, Debug)]
struct Full {
    member: u64,
    bytes: u64,
    for_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = pick_up(random, sight)?;
    let bytes = *random.pick(&[0, 1_000, 20_000, 200_000]);
    Some(Box::new(Full { member, bytes, for_us: down_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    words.expect("after")?;
    let bytes = words.number("how many bytes")?;
    Ok(Box::new(Full { member, bytes, for_us: for_us(words)? }))
}

impl fmt::Display for Full {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "full {} after {} for {}", self.member, self.bytes, print_time(self.for_us))
    }
}

impl Fault for Full {
    fn kind(&self) -> &'static str {
        "full"
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
        let disk = machine.member.disk();
        if disk.is_limited() {
            return Err(format!("the disk of member {} is full already", self.member));
        }
        disk.full_after(Some(self.bytes));
        machine.damaged += 1;
        Ok(())
    }

    fn end(&self, world: &mut World) {
        let machine = world.machine(self.member);
        machine.member.disk().full_after(None);
        machine.damaged -= 1;
    }
}
