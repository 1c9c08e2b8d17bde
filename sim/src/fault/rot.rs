//! Bits that flip on the disk: `rot-wal`, `rot-store`.
//!
//! Model: one or a few bits of a file of the log or of the store are read wrong from now on. They are wrong on the
//! medium, so a crash changes nothing about them; writing over a byte mends it. At the end of the time the good copy is
//! brought back, as by an operator. In between the member either never reads the place, or stops or refuses to start
//! with an error that names the file. It must never serve, send or apply what is wrong, nor forget what was synced.
//!
//! ```text
//! rot-wal 3 member/wal/0000000000000001.seg 4711 bit 3 for 4s
//! rot-store 3 member/snap/db 4711 bit 3 9000 bit 0 for 4s
//! ```

use std::fmt;

use super::crash::down_us;
use super::links::present;
use super::{Fault, Kind, Sight, Words, print_time};
use crate::random::Random;
use crate::world::World;

pub const WAL: Kind = Kind {
    name: "rot-wal",
    draw: |random, sight| draw("rot-wal", random, sight),
    parse: |words| parse("rot-wal", words),
};
pub const STORE: Kind = Kind {
    name: "rot-store",
    draw: |random, sight| draw("rot-store", random, sight),
    parse: |words| parse("rot-store", words),
};

/// What it takes to bring the good copy back.
const REPAIR_US: u64 = 100_000;

/// Bytes in which something is drawn together: a page of the store.
const PAGE: usize = 4096;
/// The store's header says where everything is.
const STORE_HEADER: u64 = 320;

#[derive(Clone, Debug)]
struct Rot {
    kind: &'static str,
    member: u64,
    path: String,
    /// Offset and bit.
    bits: Vec<(u64, u8)>,
    for_us: u64,
}

fn draw(kind: &'static str, random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let is_store = kind == "rot-store";
    let member = *random.pick(&sight.members);
    let disk = sight.disks.get(&member)?;
    let wanted = |path: &String| {
        if is_store { path == "member/snap/db" } else { path.starts_with("member/wal/") && path.ends_with(".seg") }
    };
    let files: Vec<String> = disk.files().into_iter().filter(wanted).collect();
    if files.is_empty() {
        return None;
    }
    let path = random.pick(&files).clone();
    let contents = disk.contents(&path).ok()?;
    // Where nothing was ever written, nothing can be lost.
    let used: Vec<usize> = contents
        .chunks(PAGE)
        .enumerate()
        .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
        .map(|(number, _)| number)
        .collect();
    if used.is_empty() {
        return None;
    }
    let count = if random.permille(700) { 1 } else { random.between(2, 4) };
    let bits = (0..count).map(|_| {
        let offset = if is_store && random.permille(200) {
            random.below(STORE_HEADER.min(contents.len() as u64))
        } else {
            let page = *random.pick(&used) * PAGE;
            page as u64 + random.below(PAGE.min(contents.len() - page) as u64)
        };
        (offset, random.below(8) as u8)
    });
    let bits = bits.collect();
    Some(Box::new(Rot { kind, member, path, bits, for_us: down_us(random, sight) }))
}

fn parse(kind: &'static str, words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    let path = words.word("a path")?.to_owned();
    let mut bits = Vec::new();
    loop {
        let offset = words.number("an offset")?;
        words.expect("bit")?;
        let bit = words.number("a bit")?;
        if bit > 7 {
            return Err(format!("bit {bit} is none of 0 to 7"));
        }
        bits.push((offset, bit as u8));
        if words.take("for") {
            break;
        }
    }
    let for_us = words.time_us("how long")?;
    words.end()?;
    Ok(Box::new(Rot { kind, member, path, bits, for_us }))
}

impl fmt::Display for Rot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.kind, self.member, self.path)?;
        for (offset, bit) in &self.bits {
            write!(out, " {offset} bit {bit}")?;
        }
        write!(out, " for {}", print_time(self.for_us))
    }
}

impl Fault for Rot {
    fn kind(&self) -> &'static str {
        self.kind
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
        let disk = machine.member.disk().clone();
        let mut hit = Ok(());
        let mut flipped = 0;
        for (offset, bit) in &self.bits {
            match disk.flip_bit(&self.path, *offset, *bit) {
                Ok(()) => flipped += 1,
                Err(error) => hit = Err(format!("{}: {error}", self.path)),
            }
        }
        if flipped > 0 {
            machine.damaged += 1;
            hit = Ok(());
        }
        hit
    }

    fn end(&self, world: &mut World) {
        // Nobody changes a file below a running process, not even for the better.
        if world.is_up(self.member) {
            world.stop(self.member, REPAIR_US);
        }
        let machine = world.machine(self.member);
        for (offset, bit) in &self.bits {
            machine.member.disk().mend(&self.path, *offset, *bit);
        }
        machine.damaged -= 1;
    }
}
