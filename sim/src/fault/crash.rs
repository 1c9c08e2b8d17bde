//! A machine loses its power, or a process is killed: `crash`, `kill`, `crash-prefix`, `crash-torn`.
//!
//! Model: the process is gone between two of its steps, with everything in memory. Of what it wrote and did not sync
//! * `kill` loses nothing (SIGKILL: the page cache outlives the process),
//! * `crash` loses everything,
//! * `crash-prefix` keeps of each file and directory the first so many changes (a disk that writes in order),
//! * `crash-torn` keeps any subset of sectors and of names: writes torn anywhere, and writes that overtook each other.
//!
//! What was synced is there afterwards, always. The member boots again after the time given. With `after 17` the power
//! fails at the 18th of the operations from now on that change the disk, see [`super::crash_inside`].
//!
//! ```text
//! crash 2 for 500ms
//! crash-torn 2 after 17 for 500ms
//! ```

use std::fmt;

use super::crash_inside::{CrashInside, Place};
use super::links::present;
use super::{Fault, Kind, Sight, Words, print_time};
use crate::disk::Loss;
use crate::random::Random;
use crate::world::World;

pub const CRASH: Kind =
    Kind { name: "crash", draw: |random, sight| draw("crash", random, sight), parse: |words| parse("crash", words) };
pub const KILL: Kind =
    Kind { name: "kill", draw: |random, sight| draw("kill", random, sight), parse: |words| parse("kill", words) };
pub const PREFIX: Kind = Kind {
    name: "crash-prefix",
    draw: |random, sight| draw("crash-prefix", random, sight),
    parse: |words| parse("crash-prefix", words),
};
pub const TORN: Kind = Kind {
    name: "crash-torn",
    draw: |random, sight| draw("crash-torn", random, sight),
    parse: |words| parse("crash-torn", words),
};

/// Power fails now.
#[derive(Clone, Debug)]
struct Crash {
    kind: &'static str,
    member: u64,
    down_us: u64,
}

fn loss(kind: &str) -> Loss {
    match kind {
        "kill" => Loss::Nothing,
        "crash-prefix" => Loss::Prefix,
        "crash-torn" => Loss::Sectors,
        _ => Loss::Everything,
    }
}

fn draw(kind: &'static str, random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = pick_up(random, sight)?;
    Some(Box::new(Crash { kind, member, down_us: down_us(random, sight) }))
}

fn parse(kind: &'static str, words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    let after = if words.take("after") { Some(words.number("how many operations")?) } else { None };
    let down_us = for_us(words)?;
    Ok(match after {
        Some(operations) => {
            Box::new(CrashInside::new(kind, member, Place::Operation(operations), Some(loss(kind)), down_us))
        }
        None => Box::new(Crash { kind, member, down_us }),
    })
}

impl fmt::Display for Crash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} for {}", self.kind, self.member, print_time(self.down_us))
    }
}

impl Fault for Crash {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        running(world, self.member)?;
        world.crash(self.member, loss(self.kind), self.down_us);
        Ok(())
    }
}

// What faults of members and disks have in common.

pub(super) fn running(world: &World, member: u64) -> Result<(), String> {
    present(world, member)?;
    if world.is_up(member) { Ok(()) } else { Err(format!("member {member} is down")) }
}

pub(super) fn pick_up(random: &mut Random, sight: &Sight) -> Option<u64> {
    (!sight.up.is_empty()).then(|| *random.pick(&sight.up))
}

/// How long a machine is down, or a disk bad: often short, sometimes as long as the knobs allow.
pub(super) fn down_us(random: &mut Random, sight: &Sight) -> u64 {
    let most_ms = sight.knobs.fault_most_ms.max(1);
    let most_ms = if random.permille(700) { most_ms.min(1_000) } else { most_ms };
    random.between(1, most_ms) * 1_000
}

/// The last words of a line: `for 500ms`.
pub(super) fn for_us(words: &mut Words) -> Result<u64, String> {
    words.expect("for")?;
    let us = words.time_us("how long")?;
    words.end()?;
    Ok(us)
}

pub(super) fn parse_loss(words: &mut Words) -> Result<Loss, String> {
    let word = words.word("what is lost")?;
    Loss::parse(word).ok_or_else(|| format!("{word:?} is none of everything, nothing, prefix, torn"))
}
