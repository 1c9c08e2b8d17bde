//! Everything in a run that could have gone another way, in one place: drawn from the seed, or played from a record.
//!
//! A choice has a point (the 17th message from 1 to 2, the 4th fsync of member 3) and a stated constant, mostly a knob.
//! Chance mostly takes the constant; where it takes something else, the choice is recorded as an [`Exception`]. Playing
//! a record back looks the exceptions up and draws nothing, so a record of a run, with lines taken out of it, is still
//! a run: what is not said is the constant.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lockstep::ports::dice::Dice;

use crate::fault::{Words, parse_time_us, print_time};
use crate::random::{Purpose, Random};

/// Where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The so-manieth message of this link, counted from 1: how much later than usual it arrives.
    Message { from: u64, to: u64, number: u64 },
    /// ... and how long after the first a second copy comes.
    Twice { from: u64, to: u64, number: u64 },
    /// ... and whether it is lost (1).
    Lost { from: u64, to: u64, number: u64 },
    /// The so-manieth fsync of this member's log: what it takes longer than usual.
    Fsync { member: u64, number: u64 },
    /// The so-manieth work of this member's stage: how much later than usual it begins.
    Stage { member: u64, stage: Stage, number: u64 },
    /// How many of its inputs apply takes at once: all but so many.
    Leave { member: u64, number: u64 },
    /// How many of the publishes that wait for it the watch machine leaves at its so-manieth work.
    LeaveWatch { member: u64, number: u64 },
    /// The so-manieth response of this watch stream: how much later than usual it arrives.
    Hear { stream: u64, number: u64 },
    /// The so-manieth question about a lease that a member passes on: how much later than usual it arrives.
    Forward { number: u64 },
    /// The so-manieth operation of the run: how long after it got its view it reads.
    Look { number: u64 },
    /// How long after its start the so-manieth life of a member has its first tick.
    FirstTick { member: u64, life: u64 },
    /// The so-manieth election time-out that this member draws: one less than this above the least, in ticks. The
    /// constant is two ticks more for each member.
    Election { member: u64, number: u64 },
    /// What the so-manieth crash of this member keeps of what was not synced: the so-manieth question of the disk.
    Kept { member: u64, crash: u64, nth: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Consensus,
    Log,
    Apply,
    Backend,
    Compaction,
    /// The watch machine.
    Watch,
    /// The keeper of leases.
    Lease,
}

impl Stage {
    pub const ALL: [Stage; 7] =
        [Stage::Consensus, Stage::Log, Stage::Apply, Stage::Backend, Stage::Compaction, Stage::Watch, Stage::Lease];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Consensus => "consensus",
            Stage::Log => "log",
            Stage::Apply => "apply",
            Stage::Backend => "backend",
            Stage::Compaction => "compaction",
            Stage::Watch => "watch",
            Stage::Lease => "lease",
        }
    }
}

/// A choice that was not the constant: a line of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    pub point: Point,
    pub value: u64,
}

/// See the head of this file.
pub enum Choices {
    Chance(Box<Chance>),
    Record(BTreeMap<Point, u64>),
}

/// A stream for each purpose, and what was drawn.
pub struct Chance {
    schedule: Random,
    network: Random,
    disk: Random,
    elections: Random,
    exceptions: Vec<Exception>,
}

impl Choices {
    pub fn chance(seed: u64) -> Choices {
        let random = |purpose| Random::new(seed, purpose);
        Choices::Chance(Box::new(Chance {
            schedule: random(Purpose::Schedule),
            network: random(Purpose::Network),
            disk: random(Purpose::Disk),
            elections: random(Purpose::Elections),
            exceptions: Vec::new(),
        }))
    }

    pub fn record(exceptions: &[Exception]) -> Choices {
        Choices::Record(exceptions.iter().map(|e| (e.point, e.value)).collect())
    }

    /// What happens at this point: 0 is the constant. `draw` is asked only where chance decides.
    pub fn choose(&mut self, point: Point, draw: impl FnOnce(&mut Random) -> u64) -> u64 {
        match self {
            Choices::Record(exceptions) => exceptions.get(&point).copied().unwrap_or(0),
            Choices::Chance(chance) => {
                let random = match point {
                    Point::Message { .. } | Point::Twice { .. } | Point::Lost { .. } => &mut chance.network,
                    Point::Fsync { .. } | Point::Kept { .. } => &mut chance.disk,
                    Point::Election { .. } => &mut chance.elections,
                    _ => &mut chance.schedule,
                };
                let value = draw(random);
                if value != 0 {
                    chance.exceptions.push(Exception { point, value });
                }
                value
            }
        }
    }

    /// The choices that were not constant, so far.
    pub fn exceptions(&self) -> Vec<Exception> {
        match self {
            Choices::Chance(chance) => chance.exceptions.clone(),
            Choices::Record(exceptions) => {
                exceptions.iter().map(|(point, value)| Exception { point: *point, value: *value }).collect()
            }
        }
    }
}

/// The dice of simulated members. The draws of elections happen inside of a member's step, so they have choices of
/// their own, which only elections use.
#[derive(Clone)]
pub struct ElectionDice(Arc<Mutex<(Choices, BTreeMap<u64, u64>)>>);

impl ElectionDice {
    pub fn new(choices: Choices) -> ElectionDice {
        ElectionDice(Arc::new(Mutex::new((choices, BTreeMap::new()))))
    }

    pub fn exceptions(&self) -> Vec<Exception> {
        let choices = &self.0.lock().unwrap_or_else(PoisonError::into_inner).0;
        let elections = choices.exceptions().into_iter();
        elections.filter(|exception| matches!(exception.point, Point::Election { .. })).collect()
    }
}

impl Dice for ElectionDice {
    fn roll(&self, member: u64, sides: u64) -> u64 {
        let (choices, rolled) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = rolled.entry(member).or_default();
        *number += 1;
        let value = choices.choose(Point::Election { member, number: *number }, |random| 1 + random.below(sides));
        value.checked_sub(1).unwrap_or(2 * (member - 1)) % sides
    }
}

impl fmt::Debug for ElectionDice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ElectionDice")
    }
}

/// `message 1->2 #17 late 3ms`, `message 1->2 #17 lost`, `fsync 2 #4 late 20ms`, `apply 3 #9 leaves 2`
impl fmt::Display for Exception {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = print_time(self.value);
        match self.point {
            Point::Message { from, to, number } => write!(out, "message {from}->{to} #{number} late {time}"),
            Point::Twice { from, to, number } => write!(out, "message {from}->{to} #{number} again {time}"),
            Point::Lost { from, to, number } => write!(out, "message {from}->{to} #{number} lost"),
            Point::Fsync { member, number } => write!(out, "fsync {member} #{number} late {time}"),
            Point::Stage { member, stage, number } => write!(out, "{} {member} #{number} late {time}", stage.name()),
            Point::Leave { member, number } => write!(out, "apply {member} #{number} leaves {}", self.value),
            Point::LeaveWatch { member, number } => write!(out, "watch {member} #{number} leaves {}", self.value),
            Point::Hear { stream, number } => write!(out, "stream {stream} #{number} late {time}"),
            Point::Forward { number } => write!(out, "forward #{number} late {time}"),
            Point::Look { number } => write!(out, "look #{number} late {time}"),
            Point::FirstTick { member, life } => write!(out, "tick {member} #{life} late {time}"),
            Point::Election { member, number } => write!(out, "election {member} #{number} waits {}", self.value - 1),
            Point::Kept { member, crash, nth } => write!(out, "kept {member} #{crash} {nth} {}", self.value),
        }
    }
}

impl Exception {
    /// The first words of exception lines.
    pub fn is_head(word: &str) -> bool {
        let is_stage = Stage::ALL.iter().any(|stage| stage.name() == word);
        is_stage || matches!(word, "message" | "fsync" | "look" | "stream" | "forward" | "tick" | "kept" | "election")
    }

    pub fn parse(line: &str) -> Result<Exception, String> {
        let mut words = Words::new(line);
        let head = words.word("a choice")?;
        let link = if head == "message" { words.link()? } else { (0, 0) };
        let member = if matches!(head, "message" | "look" | "forward") { 0 } else { words.number("a member")? };
        let number = words.word("a number like #17")?;
        let counted = number.strip_prefix('#').and_then(|n| n.parse().ok());
        let number = counted.ok_or(format!("{number:?} is not like #17"))?;
        if head == "kept" {
            let point = Point::Kept { member, crash: number, nth: words.number("which question")? };
            let value = words.number("what is kept")?;
            words.end()?;
            return Ok(Exception { point, value });
        }
        let verb = words.word("late, lost, again, leaves or waits")?;
        let value = match verb {
            "lost" => 1,
            "leaves" => words.number("how many")?,
            "waits" => words.number("how many ticks")?.saturating_add(1),
            _ => words.word("a time").and_then(|w| parse_time_us(w).ok_or(format!("{w:?} is not a time like 3ms")))?,
        };
        words.end()?;
        let (from, to) = link;
        let stage = Stage::ALL.into_iter().find(|stage| stage.name() == head);
        let point = match (head, verb, stage) {
            ("message", "late", _) => Point::Message { from, to, number },
            ("message", "again", _) => Point::Twice { from, to, number },
            ("message", "lost", _) => Point::Lost { from, to, number },
            ("fsync", "late", _) => Point::Fsync { member, number },
            ("stream", "late", _) => Point::Hear { stream: member, number },
            ("forward", "late", _) => Point::Forward { number },
            ("watch", "leaves", _) => Point::LeaveWatch { member, number },
            ("look", "late", _) => Point::Look { number },
            ("tick", "late", _) => Point::FirstTick { member, life: number },
            ("election", "waits", _) => Point::Election { member, number },
            ("apply", "leaves", _) => Point::Leave { member, number },
            (_, "late", Some(stage)) => Point::Stage { member, stage, number },
            _ => return Err(format!("{head} cannot be {verb:?}")),
        };
        Ok(Exception { point, value })
    }
}
