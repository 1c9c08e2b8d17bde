//! The power fails in the middle of something: `crash-in-operation`, `crash-in-commit`, `crash-after-defragment`,
//! `crash-before-dir-sync`.
//!
//! Model: the disk's operations (writes, lengths, syncs, names) succeed up to a point; from there every call fails, so
//! the code in between is cut off wherever it is: between the write of a record and its sync, between any two of the
//! many writes of one redb commit, between the rename of a segment and the sync of its folder (then the rename or
//! creation is undone, unless what is lost says otherwise). Then the machine is off, and what was not synced goes as
//! the word says.
//!
//! * `crash-in-operation 2 after 17 torn for 500ms`: at the 18th operation from now on that changes the disk.
//! * `crash-in-commit 2 after 4 prefix for 500ms`: at the 5th operation of the next commit of the store; it stays armed
//!   until there is one.
//! * `crash-after-defragment 2 after 1 everything for 500ms`: somebody has the member defragment its store; at the 2nd
//!   operation after the new file has taken the store's name.
//! * `crash-before-dir-sync 2 everything for 500ms`: at the next sync of a directory whose names changed.
//!
//! The first and the last come after a while anyway, where no such operation does.

use std::fmt;

use super::crash::{down_us, for_us, parse_loss, pick_up, running};
use super::{Fault, Kind, Sight, Words, print_time};
use crate::disk::Loss;
use crate::random::Random;
use crate::world::{PowerCut, World};

pub const OPERATION: Kind = Kind {
    name: "crash-in-operation",
    draw: |random, sight| {
        let most = *random.pick(&[3, 20, 100]);
        let place = Place::Operation(random.below(most));
        draw("crash-in-operation", place, random, sight)
    },
    parse: |words| {
        let (member, operations) = parse_after(words)?;
        finish("crash-in-operation", member, Place::Operation(operations), words)
    },
};

pub const COMMIT: Kind = Kind {
    name: "crash-in-commit",
    draw: |random, sight| {
        let place = Place::Commit(random.below(24));
        draw("crash-in-commit", place, random, sight)
    },
    parse: |words| {
        let (member, operations) = parse_after(words)?;
        finish("crash-in-commit", member, Place::Commit(operations), words)
    },
};

pub const DEFRAGMENT: Kind = Kind {
    name: "crash-after-defragment",
    draw: |random, sight| {
        let most = *random.pick(&[2, 8]);
        let place = Place::Defragment(random.below(most));
        draw("crash-after-defragment", place, random, sight)
    },
    parse: |words| {
        let (member, operations) = parse_after(words)?;
        finish("crash-after-defragment", member, Place::Defragment(operations), words)
    },
};

pub const DIR_SYNC: Kind = Kind {
    name: "crash-before-dir-sync",
    draw: |random, sight| draw("crash-before-dir-sync", Place::DirSync, random, sight),
    parse: |words| {
        let member = words.number("the member")?;
        finish("crash-before-dir-sync", member, Place::DirSync, words)
    },
};

/// Where the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Operation(u64),
    Commit(u64),
    Defragment(u64),
    DirSync,
}

#[derive(Clone, Debug)]
pub(super) struct CrashInside {
    kind: &'static str,
    member: u64,
    place: Place,
    loss: Loss,
    /// The kind's name says it already.
    loss_is_implied: bool,
    down_us: u64,
}

impl CrashInside {
    /// With `implied` the line does not name the loss.
    pub fn new(kind: &'static str, member: u64, place: Place, implied: Option<Loss>, down_us: u64) -> CrashInside {
        let loss = implied.unwrap_or(Loss::Everything);
        CrashInside { kind, member, place, loss, loss_is_implied: implied.is_some(), down_us }
    }
}

fn draw(kind: &'static str, place: Place, random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = pick_up(random, sight)?;
    let loss = *random.pick(&Loss::ALL);
    Some(Box::new(CrashInside { loss, ..CrashInside::new(kind, member, place, None, down_us(random, sight)) }))
}

fn parse_after(words: &mut Words) -> Result<(u64, u64), String> {
    let member = words.number("the member")?;
    words.expect("after")?;
    Ok((member, words.number("how many operations")?))
}

fn finish(kind: &'static str, member: u64, place: Place, words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let loss = parse_loss(words)?;
    Ok(Box::new(CrashInside { loss, ..CrashInside::new(kind, member, place, None, for_us(words)?) }))
}

impl fmt::Display for CrashInside {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind, self.member)?;
        if let Place::Operation(operations) | Place::Commit(operations) | Place::Defragment(operations) = self.place {
            write!(out, " after {operations}")?;
        }
        if !self.loss_is_implied {
            write!(out, " {}", self.loss.name())?;
        }
        write!(out, " for {}", print_time(self.down_us))
    }
}

impl Fault for CrashInside {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        running(world, self.member)?;
        let machine = world.machine(self.member);
        let disk = machine.member.disk().clone();
        if disk.is_fused() || machine.crash_in_commit.is_some() || machine.crash_after_defragment.is_some() {
            return Err(format!("member {} is about to crash already", self.member));
        }
        let (loss, down_us) = (self.loss, self.down_us);
        match self.place {
            Place::Operation(operations) => world.crash_after(self.member, operations, loss, down_us),
            Place::Commit(after_operations) => {
                machine.crash_in_commit = Some(PowerCut { after_operations, loss, down_us });
            }
            Place::Defragment(after_operations) => {
                machine.crash_after_defragment = Some(PowerCut { after_operations, loss, down_us });
                machine.member.defragment();
            }
            Place::DirSync => {
                disk.crash_before_dir_sync();
                world.light_fuse(self.member, loss, down_us);
            }
        }
        Ok(())
    }
}
