//! An fsync that fails: `fsync-error`.
//!
//! Model: the next fsync of a file of the log (`wal`), of the store (`store`), or of any file (`any`), answers EIO.
//! What was unsynced in that file will never become durable, whatever later fsyncs answer, as on Linux; until the next
//! crash it is still read, as from the page cache (`linger`), or the old bytes come back at once (`revert`). The member
//! has to stop, having acknowledged nothing of it, and is started again when the time is over: a process's end is not a
//! power cut, so what lingers is still there then, and still not durable.
//!
//! ```text
//! fsync-error 2 wal linger for 2s
//! ```

use std::fmt;

use super::crash::{down_us, for_us, pick_up};
use super::links::present;
use super::{Fault, Kind, Sight, Words, print_time};
use crate::disk::FailedSync;
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "fsync-error", draw, parse };

/// The words for files, and a part of their paths.
const WHERE: [(&str, &str); 3] = [("any", ""), ("wal", "member/wal"), ("store", "member/snap")];
const AFTER: [(&str, FailedSync); 2] = [("linger", FailedSync::Linger), ("revert", FailedSync::Revert)];

#[derive(Clone, Debug)]
struct FsyncError {
    member: u64,
    place: (&'static str, &'static str),
    after: (&'static str, FailedSync),
    for_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = pick_up(random, sight)?;
    let (place, after) = (*random.pick(&WHERE), *random.pick(&AFTER));
    Some(Box::new(FsyncError { member, place, after, for_us: down_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    let place = words.word("which files")?;
    let place = *WHERE.iter().find(|(name, _)| *name == place).ok_or("which files: any, wal or store")?;
    let after = words.word("what is read then")?;
    let after = *AFTER.iter().find(|(name, _)| *name == after).ok_or("what is read then: linger or revert")?;
    Ok(Box::new(FsyncError { member, place, after, for_us: for_us(words)? }))
}

impl fmt::Display for FsyncError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, after) = (self.place.0, self.after.0);
        write!(out, "fsync-error {} {place} {after} for {}", self.member, print_time(self.for_us))
    }
}

impl Fault for FsyncError {
    fn kind(&self) -> &'static str {
        "fsync-error"
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
        if disk.fails_sync() {
            return Err(format!("an fsync of member {} is about to fail already", self.member));
        }
        disk.after_failed_sync(self.after.1);
        disk.fail_sync(self.place.1, 1);
        machine.damaged += 1;
        Ok(())
    }

    fn end(&self, world: &mut World) {
        let machine = world.machine(self.member);
        machine.member.disk().fail_sync("", 0);
        machine.damaged -= 1;
    }
}
