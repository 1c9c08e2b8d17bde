//! What goes wrong in a world, one file a kind; the head comment of each is its model.
//!
//! A fault is a value that can be printed as a line of a scenario, read back and struck again: everything about it that
//! was drawn is in the line. [`KINDS`] lists all kinds; chance draws among those that the run's knobs switch on. A
//! fault either strikes at once and is over, or lasts (`for 2s`) and is then undone by [`Fault::end`]. The budget
//! ([`budget`]) refuses what no cluster could survive, and says so in the trace.

use std::collections::BTreeMap;
use std::fmt;

use change::Change;

use crate::disk::MemDisk;
use crate::knobs::Knobs;
use crate::random::Random;
use crate::world::World;

pub mod budget;
pub mod change;
pub mod clock_drift;
pub mod clock_jump;
pub mod clock_offset;
pub mod clog;
pub mod crash;
pub mod crash_all;
pub mod crash_inside;
pub mod defragment;
pub mod duplicate;
pub mod fsync_error;
pub mod full;
pub mod half_open;
pub mod latency;
pub mod links;
pub mod loss;
pub mod out;
pub mod partition;
pub mod pause;
pub mod read_error;
pub mod reorder;
pub mod restart;
pub mod rot;
pub mod rules;
pub mod slow_disk;
pub mod slow_start;
mod window;

/// One fault, fully determined. Its `Display` is its scenario line without the time, and begins with its kind's name.
pub trait Fault: fmt::Display + fmt::Debug {
    fn kind(&self) -> &'static str;

    /// Members that suffer from it, for budget and picture; all endpoints of links.
    fn members(&self) -> Vec<u64>;

    /// `None`: over at once.
    fn lasts_us(&self) -> Option<u64> {
        None
    }

    /// What is asked of the cluster's membership.
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }

    /// The machine that is gone for good.
    fn loses(&self) -> Option<u64> {
        None
    }

    /// It begins. Draws nothing; `Err` says why it had no effect (nobody to hit), which is traced and not counted.
    fn strike(&self, world: &mut World) -> Result<(), String>;

    /// It is over, by its time or because the safety phase ends.
    fn end(&self, _world: &mut World) {}
}

/// What a fault's drawing may look at.
pub struct Sight<'a> {
    pub knobs: &'a Knobs,
    /// Those that run, or will again.
    pub members: Vec<u64>,
    pub up: Vec<u64>,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// Voters whose machine is lost for good.
    pub lost: Vec<u64>,
    /// Machines that no member has run on yet.
    pub spares: Vec<u64>,
    /// Members that someone believes to lead.
    pub leaders: Vec<u64>,
    /// The members' disks, to see what is there.
    pub disks: BTreeMap<u64, MemDisk>,
}

pub struct Kind {
    pub name: &'static str,
    /// `None`: not possible now.
    pub draw: fn(&mut Random, &Sight) -> Option<Box<dyn Fault>>,
    /// Reads what `Display` printed, after the kind's name.
    pub parse: fn(&mut Words) -> Result<Box<dyn Fault>, String>,
}

/// All kinds, in the order in which they are counted and printed.
pub const KINDS: &[Kind] = &[
    // The network.
    loss::KIND,
    duplicate::KIND,
    reorder::KIND,
    latency::KIND,
    partition::ONE_WAY,
    partition::ISOLATE,
    partition::SPLIT,
    partition::BRIDGE,
    partition::RING,
    clog::KIND,
    half_open::KIND,
    rules::DROP,
    rules::HOLD,
    rules::REPEAT,
    // The process.
    restart::KIND,
    pause::KIND,
    slow_start::KIND,
    defragment::KIND,
    // The clock.
    clock_offset::KIND,
    clock_drift::KIND,
    clock_jump::KIND,
    // Crashes and disks.
    crash::CRASH,
    crash::KILL,
    crash::PREFIX,
    crash::TORN,
    crash_all::KIND,
    crash_inside::OPERATION,
    crash_inside::COMMIT,
    crash_inside::DEFRAGMENT,
    crash_inside::DIR_SYNC,
    slow_disk::KIND,
    full::KIND,
    fsync_error::KIND,
    read_error::KIND,
    rot::WAL,
    rot::STORE,
    // The operator changes the membership.
    change::ADD,
    change::LEARNER,
    change::PROMOTE,
    change::REMOVE,
    change::UPDATE,
    change::REPLACE,
    change::MOVE_LEADER,
    // The liveness phase.
    out::KIND,
];

/// Those that strike by chance; the others are for scenarios, or for the world itself.
pub fn weather() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| !matches!(kind.name, "drop" | "hold" | "out"))
}

pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The words of a scenario line, read from left to right.
pub struct Words<'a> {
    rest: std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>,
}

impl<'a> Words<'a> {
    pub fn new(line: &'a str) -> Words<'a> {
        Words { rest: line.split_ascii_whitespace().peekable() }
    }

    pub fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.next().ok_or_else(|| format!("{what} is missing"))
    }

    pub fn try_word(&mut self) -> Option<&'a str> {
        self.rest.next()
    }

    /// Whether the next word is this one; then it is taken.
    pub fn take(&mut self, word: &str) -> bool {
        self.rest.next_if_eq(&word).is_some()
    }

    pub fn expect(&mut self, word: &str) -> Result<(), String> {
        match self.rest.next() {
            Some(found) if found == word => Ok(()),
            Some(found) => Err(format!("{word:?} expected, {found:?} found")),
            None => Err(format!("{word:?} is missing")),
        }
    }

    pub fn number(&mut self, what: &str) -> Result<u64, String> {
        let word = self.word(what)?;
        word.parse().map_err(|_| format!("{what}: {word:?} is not a number"))
    }

    /// `1,2,5`
    pub fn members(&mut self, what: &str) -> Result<Vec<u64>, String> {
        let word = self.word(what)?;
        word.split(',').map(|m| m.parse().map_err(|_| format!("{what}: {word:?} is not like 1,2"))).collect()
    }

    /// `1->2`
    pub fn link(&mut self) -> Result<(u64, u64), String> {
        let word = self.word("a link")?;
        let parts = word.split_once("->").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        parts.ok_or_else(|| format!("{word:?} is not a link like 1->2"))
    }

    /// `2s`, `15ms`, `300us`, `1.5s`
    pub fn time_us(&mut self, what: &str) -> Result<u64, String> {
        let word = self.word(what)?;
        parse_time_us(word).ok_or_else(|| format!("{what}: {word:?} is not a time like 1.5s, 20ms or 300us"))
    }

    pub fn end(&mut self) -> Result<(), String> {
        self.rest.next().map_or(Ok(()), |word| Err(format!("{word:?} is too much")))
    }
}

pub fn parse_time_us(word: &str) -> Option<u64> {
    let (number, unit_us) = if let Some(number) = word.strip_suffix("ms") {
        (number, 1_000)
    } else if let Some(number) = word.strip_suffix("us") {
        (number, 1)
    } else {
        (word.strip_suffix('s')?, 1_000_000)
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > 6 || (whole.is_empty() && part.is_empty()) || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = 10u64.pow(part.len() as u32);
    let part: u64 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    whole.checked_mul(unit_us)?.checked_add(part * unit_us / scale)
}

/// The shortest of `2s`, `15ms`, `300us` that says it exactly.
pub fn print_time(us: u64) -> String {
    match us {
        0 => "0s".into(),
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1_000 == 0 => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}

pub fn print_members(members: &[u64]) -> String {
    members.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}
