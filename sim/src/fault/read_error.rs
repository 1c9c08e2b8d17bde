//! A file that cannot be read for a while: `read-error`.
//!
//! Model: every read of one file of the log or of the store answers EIO, under whatever name it has by then; writes and
//! fsyncs of it succeed. The member may go on with what it has in memory, may stop, and may refuse to start, with an
//! error that names the file; it must not take what it cannot read for what is not there.
//!
//! ```text
//! read-error 2 member/snap/db for 2s
//! ```

use std::fmt;

use super::crash::{down_us, for_us, pick_up};
use super::links::present;
use super::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "read-error", draw, parse };

#[derive(Clone, Debug)]
struct ReadError {
    member: u64,
    path: String,
    for_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = pick_up(random, sight)?;
    let files = sight.disks.get(&member)?.files();
    if files.is_empty() {
        return None;
    }
    Some(Box::new(ReadError { member, path: random.pick(&files).clone(), for_us: down_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    let path = words.word("a path")?.to_owned();
    Ok(Box::new(ReadError { member, path, for_us: for_us(words)? }))
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "read-error {} {} for {}", self.member, self.path, print_time(self.for_us))
    }
}

impl Fault for ReadError {
    fn kind(&self) -> &'static str {
        "read-error"
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
        let hit = machine.member.disk().read_error(&self.path, true);
        hit.map_err(|error| format!("{}: {error}", self.path))?;
        machine.damaged += 1;
        Ok(())
    }

    fn end(&self, world: &mut World) {
        let machine = world.machine(self.member);
        machine.member.disk().read_error(&self.path, false).expect("ending needs no file");
        machine.damaged -= 1;
    }
}
