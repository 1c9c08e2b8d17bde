//! A run as a text: one event a line, written by people, by the recorder and by the shrinker.
//!
//! ```text
//! # What this shows, and where it was seen.
//! members 3
//! until 20s
//! mutation ack-before-fsync                the deliberate bug it needs, if any
//! expect fail durability: acknowledged write lost
//! trace 5feceb66...                        the hash of the run that was recorded, if it was
//! knob delay_us 2000                       where it differs from Knobs::plain
//!
//! 1.2s    client 1 at 2 put k 1.1          time, client, member, operation (crate::history)
//! 1.25s   crash 2 for 500ms                time, fault (crate::fault)
//! message 1->2 #17 lost                    a choice that is not the constant (crate::choices)
//! ```
//!
//! Replaying draws nothing: what no line says is the knob's constant. What begins with `#` is a comment, at the end of
//! a line too. Of the comments only those above everything else, the head, belong to the scenario. A file may come from
//! anywhere: whatever it says, reading it ends with a scenario that a world can play, or with the line that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use lockstep::mutation::Mutation;

use crate::choices::{Exception, Point};
use crate::fault::{self, Fault, Words, parse_time_us};
use crate::history::Operation;
use crate::knobs::Knobs;
use crate::workload;

/// No cluster of a scenario is larger.
pub const MOST_MEMBERS: u64 = 9;
/// Nothing takes longer, in virtual time.
const LONGEST_MS: u64 = 24 * 3_600_000;
const MOST_CLIENTS: u64 = 1_000;
const MOST_BYTES: u64 = 1 << 30;
const MOST_COUNT: u64 = 1 << 32;
const LONGEST_ERROR: usize = 1_000;

#[derive(Clone, Debug)]
pub struct Scenario {
    /// The comment lines before the first other line, without `# `.
    pub head: Vec<String>,
    pub knobs: Knobs,
    pub mutation: Option<Mutation>,
    pub expect: Expect,
    /// The trace hash of the run that this is the record of.
    pub trace: Option<String>,
    pub events: Vec<Event>,
    pub exceptions: Vec<Exception>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    Pass,
    /// With this signature (`checker: place`).
    Fail(String),
}

#[derive(Clone, Debug)]
pub struct Event {
    pub at_us: u64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Client { client: u64, member: u64, operation: Operation },
    Fault(Rc<dyn Fault>),
}

impl Scenario {
    /// A world in which nothing is asked for and nothing goes wrong.
    pub fn new(knobs: Knobs) -> Scenario {
        Scenario {
            head: Vec::new(),
            knobs,
            mutation: None,
            expect: Expect::Pass,
            trace: None,
            events: Vec::new(),
            exceptions: Vec::new(),
        }
    }

    /// Reads a scenario file. An error begins with `line 12: ` and says what to write instead.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let mut reader = Reader::default();
        for (at, line) in text.lines().enumerate() {
            reader.line(at + 1, line).map_err(|error| format!("line {}: {}", at + 1, shortened(error)))?;
        }
        let last = text.lines().count().max(1);
        reader.close_head().map_err(|error| format!("line {last}: {error}"))?;
        let mut scenario = reader.scenario.expect("the head is closed");
        scenario.events.sort_by_key(|event| event.at_us);
        Ok(scenario)
    }

    /// How long the run is if nothing ends it earlier.
    pub fn until_ms(&self) -> u64 {
        let Knobs { safety_ms, core_ms, rest_ms, .. } = self.knobs;
        safety_ms.saturating_add(core_ms).saturating_add(rest_ms)
    }
}

impl fmt::Display for Scenario {
    /// Always the same text for the same scenario: events by time, choices by their points.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.head {
            writeln!(out, "{}", format!("# {line}").trim_end())?;
        }
        writeln!(out, "members {}", self.knobs.members)?;
        writeln!(out, "until {}", seconds(self.until_ms().saturating_mul(1_000)))?;
        if let Some(mutation) = self.mutation {
            writeln!(out, "mutation {}", mutation.name())?;
        }
        if let Expect::Fail(signature) = &self.expect {
            writeln!(out, "expect fail {signature}")?;
        }
        if let Some(hash) = &self.trace {
            writeln!(out, "trace {hash}")?;
        }
        let plain = Knobs::plain(self.knobs.members, self.until_ms());
        for ((name, value), (_, usual)) in self.knobs.numbers().into_iter().zip(plain.numbers()) {
            if value != usual {
                writeln!(out, "knob {name} {value}")?;
            }
        }
        for (name, set, usual) in
            [("faults", &self.knobs.faults, &plain.faults), ("work", &self.knobs.work, &plain.work)]
        {
            if set != usual {
                let words: Vec<&str> = set.iter().map(String::as_str).collect();
                writeln!(out, "{}", format!("{name} {}", words.join(" ")).trim_end())?;
            }
        }
        if !self.events.is_empty() {
            writeln!(out)?;
        }
        let mut events: Vec<&Event> = self.events.iter().collect();
        events.sort_by_key(|event| event.at_us);
        for event in events {
            writeln!(out, "{:<9} {}", seconds(event.at_us), event.what)?;
        }
        if !self.exceptions.is_empty() {
            writeln!(out)?;
        }
        let mut exceptions: Vec<&Exception> = self.exceptions.iter().collect();
        exceptions.sort_by_key(|exception| exception.point);
        exceptions.into_iter().try_for_each(|exception| writeln!(out, "{exception}"))
    }
}

impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Client { client, member, operation } => write!(out, "client {client} at {member} {operation}"),
            What::Fault(fault) => write!(out, "{fault}"),
        }
    }
}

/// Reads a fault's line, without its time, for a world of so many machines.
pub fn parse_fault(line: &str, machines: u64) -> Result<Rc<dyn Fault>, String> {
    let mut words = Words::new(line);
    let name = words.word("a fault")?;
    let kind = fault::kind(name).ok_or_else(|| {
        let all: Vec<&str> = fault::KINDS.iter().map(|kind| kind.name).collect();
        format!("{:?} is neither a client nor a fault; the faults are: {}", clip(name), all.join(" "))
    })?;
    if let Some(word) =
        line.split_ascii_whitespace().find(|w| parse_time_us(w).is_some_and(|us| us / 1_000 > LONGEST_MS))
    {
        return Err(format!("{:?} is too long: nothing takes more than {}", clip(word), longest()));
    }
    let fault = (kind.parse)(&mut words)?;
    words.end()?;
    for member in fault.members() {
        check_member(member, machines)?;
    }
    Ok(Rc::from(fault))
}

/// All that has been read so far.
#[derive(Default)]
struct Reader {
    head: Vec<String>,
    /// Something other than a comment has been read.
    begun: bool,
    /// Words that may be said once, and the line that said them.
    said: BTreeMap<String, usize>,
    members: Option<u64>,
    until_ms: Option<u64>,
    knobs: Vec<(String, u64)>,
    faults: Option<BTreeSet<String>>,
    work: Option<BTreeSet<String>>,
    mutation: Option<Mutation>,
    expect: Expect,
    trace: Option<String>,
    points: BTreeMap<Point, usize>,
    /// From the first event on.
    scenario: Option<Scenario>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if let Some(comment) = line.trim().strip_prefix('#') {
            if !self.begun {
                self.head.push(comment.strip_prefix(' ').unwrap_or(comment).to_owned());
            }
            return Ok(());
        }
        let line = without_comment(line);
        let Some(first) = line.split_ascii_whitespace().next() else { return Ok(()) };
        self.begun = true;
        if first.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            self.event(line)
        } else if Exception::is_head(first) {
            self.exception(number, line)
        } else {
            self.head_line(number, line)
        }
    }

    fn head_line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let mut words = Words::new(line);
        let name = words.word("a word")?;
        if !matches!(name, "members" | "until" | "mutation" | "expect" | "trace" | "knob" | "faults" | "work") {
            return Err(format!("{:?} is no time, no choice and no word of the head", clip(name)));
        }
        if self.scenario.is_some() {
            return Err(format!("{name:?} belongs above the first event"));
        }
        let knob = if name == "knob" { words.word("the knob's name")? } else { "" };
        let said = format!("{name} {}", clip(knob)).trim_end().to_owned();
        if let Some(before) = self.said.insert(format!("{name} {knob}"), number) {
            return Err(format!("{said} was said before, in line {before}"));
        }
        match name {
            "members" => {
                let members = words.number("members")?;
                check_member(members, MOST_MEMBERS)?;
                self.members = Some(members);
            }
            "until" => {
                let us = words.time_us("until")?;
                if us == 0 || us % 1_000 != 0 || us / 1_000 > LONGEST_MS {
                    return Err(format!("until is at least 1ms, at most {}, in whole milliseconds", longest()));
                }
                self.until_ms = Some(us / 1_000);
            }
            "mutation" => {
                let name = words.word("the mutation's name")?;
                let mutation = Mutation::parse(name).ok_or_else(|| {
                    let all: Vec<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
                    format!("there is no mutation {:?}; there are: {}", clip(name), all.join(" "))
                })?;
                self.mutation = Some(mutation);
            }
            "expect" => self.expect = expectation(&mut words)?,
            "trace" => {
                let hash = words.word("the trace's hash")?;
                if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(format!("{:?} is not a trace hash: 64 lower-case hex digits", clip(hash)));
                }
                self.trace = Some(hash.to_owned());
            }
            "knob" => {
                let value = words.number(knob)?;
                check_knob(knob, value)?;
                Knobs::plain(1, 1).set(knob, value)?;
                self.knobs.push((knob.to_owned(), value));
            }
            "faults" => self.faults = Some(names(&mut words, |name| fault::kind(name).is_some())?),
            _ => self.work = Some(names(&mut words, |name| workload::kind(name).is_some())?),
        }
        words.end()
    }

    fn event(&mut self, line: &str) -> Result<(), String> {
        let scenario = self.close_head()?;
        let (time, rest) = line.trim().split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((line.trim(), ""));
        let at_us = parse_time_us(time).ok_or_else(|| format!("{:?} is not a time like 1.5s or 20ms", clip(time)))?;
        if at_us / 1_000 > LONGEST_MS {
            return Err(format!("{:?} is too late: no run takes more than {}", clip(time), longest()));
        }
        let mut words = Words::new(rest);
        let what = if words.take("client") {
            let client = words.number("a client")?;
            let most = scenario.knobs.clients;
            if !(1..=most).contains(&client) {
                return Err(format!("client {client} is not one of 1 to {most}: say `knob clients {client}` above"));
            }
            words.expect("at")?;
            let member = words.number("a member")?;
            check_member(member, scenario.knobs.machines())?;
            let operation = Operation::parse(&mut words)?;
            words.end()?;
            What::Client { client, member, operation }
        } else {
            What::Fault(parse_fault(rest, scenario.knobs.machines())?)
        };
        scenario.events.push(Event { at_us, what });
        Ok(())
    }

    fn exception(&mut self, number: usize, line: &str) -> Result<(), String> {
        let exception = Exception::parse(line)?;
        if let Some(before) = self.points.insert(exception.point, number) {
            return Err(format!("this choice was made before, in line {before}"));
        }
        let scenario = self.close_head()?;
        for member in members_of(exception.point) {
            check_member(member, scenario.knobs.machines())?;
        }
        let is_count = matches!(
            exception.point,
            Point::Lost { .. }
                | Point::Leave { .. }
                | Point::LeaveWatch { .. }
                | Point::Election { .. }
                | Point::Kept { .. }
        );
        let most = if is_count { MOST_COUNT } else { LONGEST_MS * 1_000 };
        if exception.value > most {
            return Err(format!("{} is too much: at most {most}", exception.value));
        }
        scenario.exceptions.push(exception);
        Ok(())
    }

    /// The head is complete with the first event, or with the end of the file.
    fn close_head(&mut self) -> Result<&mut Scenario, String> {
        if self.scenario.is_none() {
            let (Some(members), Some(until_ms)) = (self.members, self.until_ms) else {
                return Err("say `members 3` and `until 20s`, or the like, above the first event".into());
            };
            let mut knobs = Knobs::plain(members, until_ms);
            for (name, value) in self.knobs.drain(..) {
                knobs.set(&name, value)?;
            }
            knobs.faults = self.faults.take().unwrap_or(knobs.faults);
            knobs.work = self.work.take().unwrap_or(knobs.work);
            self.scenario = Some(Scenario {
                head: std::mem::take(&mut self.head),
                mutation: self.mutation,
                expect: std::mem::take(&mut self.expect),
                trace: self.trace.take(),
                ..Scenario::new(knobs)
            });
        }
        Ok(self.scenario.as_mut().expect("just made"))
    }
}

fn expectation(words: &mut Words) -> Result<Expect, String> {
    match words.word("pass or fail")? {
        "pass" => Ok(Expect::Pass),
        "fail" => {
            let mut signature = Vec::new();
            while let Some(word) = words.try_word() {
                signature.push(word);
            }
            if signature.is_empty() {
                return Err("say how it fails: `expect fail checker: place`".into());
            }
            Ok(Expect::Fail(signature.join(" ")))
        }
        other => Err(format!("expect pass or fail, not {:?}", clip(other))),
    }
}

fn names(words: &mut Words, known: impl Fn(&str) -> bool) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    while let Some(name) = words.try_word() {
        if !known(name) {
            return Err(format!("{:?} is not known here", clip(name)));
        }
        names.insert(name.to_owned());
    }
    Ok(names)
}

/// What a world can be made of: no overflow, no empty cluster, no endless loop.
fn check_knob(name: &str, value: u64) -> Result<(), String> {
    let (least, most) = match name {
        "members" => return Err("the members are said by `members 3`".into()),
        "spares" => (0, MOST_MEMBERS),
        "clients" => (1, MOST_CLIENTS),
        "watch_progress_ms" | "lease_checkpoint_ms" | "watch_catch_up_rows" => (1, LONGEST_MS),
        "stage_us" | "store_commit_ms" | "request_timeout_ms" | "safety_ms" => (1, LONGEST_MS),
        _ if name.ends_with("_us") => (0, LONGEST_MS * 1_000),
        _ if name.ends_with("_ms") => (0, LONGEST_MS),
        _ if name.ends_with("_permille") => (0, 1_000),
        _ if name.ends_with("_bytes") => (1, MOST_BYTES),
        _ => (0, MOST_COUNT),
    };
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{} is from {least} to {most}, not {value}", clip(name)))
}

fn check_member(member: u64, members: u64) -> Result<(), String> {
    if (1..=members).contains(&member) {
        return Ok(());
    }
    Err(format!("{member} is not from 1 to {members}: members are counted from 1"))
}

pub(crate) fn members_of(point: Point) -> Vec<u64> {
    match point {
        Point::Message { from, to, .. } | Point::Twice { from, to, .. } | Point::Lost { from, to, .. } => {
            vec![from, to]
        }
        Point::Fsync { member, .. }
        | Point::Stage { member, .. }
        | Point::Leave { member, .. }
        | Point::LeaveWatch { member, .. }
        | Point::FirstTick { member, .. }
        | Point::Election { member, .. }
        | Point::Kept { member, .. } => vec![member],
        Point::Look { .. } | Point::Hear { .. } | Point::Forward { .. } => Vec::new(),
    }
}

/// Without what follows a `#` that stands alone: `#17` is a number, `60#1.2` a value.
fn without_comment(line: &str) -> &str {
    let alone = line.match_indices('#').find(|(at, _)| {
        let blank = |c: Option<char>| c.is_none_or(|c| c.is_ascii_whitespace());
        blank(line[..*at].chars().next_back()) && blank(line[at + 1..].chars().next())
    });
    alone.map_or(line, |(at, _)| &line[..at])
}

/// All times of events in one unit, so that they can be compared by eye.
fn seconds(us: u64) -> String {
    let (whole, part) = (us / 1_000_000, us % 1_000_000);
    if part == 0 {
        return format!("{whole}s");
    }
    format!("{whole}.{}s", format!("{part:06}").trim_end_matches('0'))
}

fn longest() -> String {
    format!("{}s", LONGEST_MS / 1_000)
}

/// A file that is no scenario may have lines of any length, and some errors quote.
fn shortened(mut error: String) -> String {
    if let Some((end, _)) = error.char_indices().nth(LONGEST_ERROR) {
        error.truncate(end);
        error.push_str("...");
    }
    error
}

/// As much of a word as belongs into an error.
fn clip(word: &str) -> &str {
    word.char_indices().nth(60).map_or(word, |(end, _)| &word[..end])
}
