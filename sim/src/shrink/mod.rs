//! Makes a failing scenario small: what is not needed for the failure goes, what is needed becomes plain.
//!
//! Only the failure's signature decides whether a smaller scenario still shows the same. Runs are dear in the beginning
//! and cheap in the end, so the order is: what removes most for one run first (all choices at once, everything after
//! the failure), then delta debugging over faults, operations and choices, and only then members, times, knobs and
//! names ([`members`], [`plainer`]). A run without choices is another run: whether it fails in the same way is luck,
//! and a few throws of that dice (operations shifted by some milliseconds) are cheaper than taking thousands of choices
//! away.
//!
//! Nothing is drawn, so the same failure shrinks to the same file. Every round ends, whatever the runs say; the
//! caller's budget ends all of it by answering that nothing fails any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::choices::{Exception, Point};
use crate::fault::print_time;
use crate::knobs::Knobs;
use crate::scenario::{Event, Expect, Scenario, What};

mod members;
mod plainer;

/// A round is all passes; after so many, whatever still helps a little is not worth it.
const MOST_ROUNDS: usize = 6;
/// With fewer choices than this, they are taken away one by one rather than by luck.
const MANY_CHOICES: usize = 40;
/// How far the operations are shifted for another throw.
const THROWS_MS: [u64; 6] = [0, 7, 23, 41, 67, 89];
/// Below this size, what was tried is remembered: printing is then cheaper than running.
const SMALL: usize = 500;
/// The phases after the safety phase, while the large cuts are made.
const BRIEF_MS: u64 = 3_000;

/// The smallest scenario found that fails with this signature; the given one when nothing smaller does.
///
/// `try_run` says with which signature a scenario fails, `None` if it passes or if no more runs are wanted. `progress`
/// hears one line for every step forward.
pub fn shrink(
    scenario: &Scenario,
    signature: &str,
    try_run: &mut dyn FnMut(&Scenario) -> Option<String>,
    progress: &mut dyn FnMut(&str),
) -> Scenario {
    let mut best = scenario.clone();
    best.events.sort_by_key(|event| event.at_us);
    best.trace = None;
    best.expect = Expect::Fail(signature.to_owned());
    let mut hunt = Hunt { best, signature, try_run, progress, runs: 0, tried: BTreeSet::new() };
    if !hunt.attempt(hunt.best.clone()) {
        (hunt.progress)("it does not fail so any more: nothing to shrink");
        return scenario.clone();
    }
    hunt.large_cuts();
    for _ in 0..MOST_ROUNDS {
        let before = hunt.best.to_string();
        hunt.fewer();
        hunt.fewer_members();
        hunt.shorter();
        hunt.plainer();
        if hunt.best.to_string() == before {
            break;
        }
    }
    hunt.best
}

struct Hunt<'a> {
    best: Scenario,
    signature: &'a str,
    try_run: &'a mut dyn FnMut(&Scenario) -> Option<String>,
    progress: &'a mut dyn FnMut(&str),
    runs: u64,
    /// Hashes of the texts of small scenarios that have been run.
    tried: BTreeSet<String>,
}

impl Hunt<'_> {
    /// Runs a candidate; keeps it if it fails in the same way.
    fn attempt(&mut self, candidate: Scenario) -> bool {
        let is_small = candidate.events.len() + candidate.exceptions.len() < SMALL;
        if is_small && !self.tried.insert(candidate.to_string()) {
            return false;
        }
        // A line may name a machine that is there no more.
        if candidate.knobs.machines() != self.best.knobs.machines() && Scenario::parse(&candidate.to_string()).is_err()
        {
            return false;
        }
        self.runs += 1;
        if (self.try_run)(&candidate).as_deref() != Some(self.signature) {
            return false;
        }
        self.best = candidate;
        let Scenario { events, exceptions, knobs, .. } = &self.best;
        let faults = events.iter().filter(|event| is_fault(&event.what)).count();
        let line = format!(
            "{} runs: {} members, {}, {faults} faults, {} operations, {} choices",
            self.runs,
            knobs.members,
            print_time(self.best.until_ms().saturating_mul(1_000)),
            events.len() - faults,
            exceptions.len(),
        );
        (self.progress)(&line);
        true
    }

    /// Tries the best with this change.
    fn edit(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.attempt(candidate)
    }

    // Large cuts, for few runs.

    fn large_cuts(&mut self) {
        self.drop_all_choices();
        let brief = |ms: u64| ms.min(BRIEF_MS);
        if !self.is_about_time() && self.best.knobs.core_ms.max(self.best.knobs.rest_ms) > BRIEF_MS {
            self.edit(|s| (s.knobs.core_ms, s.knobs.rest_ms) = (brief(s.knobs.core_ms), brief(s.knobs.rest_ms)));
        }
        self.end_soon();
        if self.best.exceptions.is_empty() {
            return;
        }
        // Those after the failure are never looked up.
        self.bisect(1_000, |s, permille| keep_first(&mut s.exceptions, permille));
    }

    fn drop_all_choices(&mut self) {
        let count = self.best.exceptions.len();
        if count == 0 || self.edit(|s| s.exceptions.clear()) || count < MANY_CHOICES {
            return;
        }
        for later_ms in THROWS_MS {
            for plain in [false, true] {
                if later_ms == 0 && !plain {
                    continue;
                }
                let thrown = self.edit(|s| {
                    s.exceptions.clear();
                    shift_operations(s, later_ms);
                    if plain {
                        plain_knobs(s);
                    }
                });
                if thrown {
                    return;
                }
            }
        }
    }

    /// Everything after the failure goes, and the end of the safety phase with it.
    fn end_soon(&mut self) {
        let about_time = self.is_about_time();
        self.bisect(self.best.knobs.safety_ms, |s, safety_ms| {
            let was_us = s.knobs.safety_ms * 1_000;
            s.events.retain(|event| {
                event.at_us <= safety_ms * 1_000 || (event.at_us > was_us && (about_time || belongs_to_core(event)))
            });
            set_safety(s, safety_ms.max(1), about_time);
        });
    }

    /// Finds a small number, below `most`, with which `change` keeps the failure; not the least where there is none.
    fn bisect(&mut self, most: u64, change: impl Fn(&mut Scenario, u64)) {
        let start = self.best.clone();
        let mut fails_with = |value| {
            let mut candidate = start.clone();
            change(&mut candidate, value);
            self.attempt(candidate)
        };
        let (mut too_small, mut enough) = (0, most);
        if fails_with(0) {
            return;
        }
        while enough - too_small > (enough / 64).max(1) {
            let middle = too_small + (enough - too_small) / 2;
            if fails_with(middle) {
                enough = middle;
            } else {
                too_small = middle;
            }
        }
    }

    // Fewer lines.

    fn fewer(&mut self) {
        self.drop_choices_by_kind();
        self.minimize(|s| count(s, true), |s, nth| remove_events(s, true, nth));
        self.drop_choices_by_kind();
        self.minimize(|s| count(s, false), |s, nth| remove_events(s, false, nth));
        self.drop_choices_by_kind();
        self.minimize(|s| s.exceptions.len(), |s, nth| drop(s.exceptions.drain(nth)));
    }

    fn drop_choices_by_kind(&mut self) {
        if self.best.exceptions.is_empty() || self.edit(|s| s.exceptions.clear()) {
            return;
        }
        let kinds: BTreeSet<String> = self.best.exceptions.iter().map(kind_of).collect();
        for kind in kinds {
            self.edit(|s| s.exceptions.retain(|e| kind_of(e) != kind));
        }
    }

    /// Delta debugging, greedily and from the end: ever smaller groups are taken out, down to single items.
    fn minimize(&mut self, count: impl Fn(&Scenario) -> usize, remove: impl Fn(&mut Scenario, std::ops::Range<usize>)) {
        let mut group = count(&self.best);
        while group > 0 {
            let mut end = count(&self.best);
            while end > 0 {
                let start = end.saturating_sub(group);
                self.edit(|s| remove(s, start..end));
                end = start;
            }
            group /= 2;
        }
    }

    /// Whether the failure is that something takes too long: then less time is no smaller case of the same.
    fn is_about_time(&self) -> bool {
        self.signature.starts_with("progress") || self.signature.starts_with("liveness")
    }
}

fn is_fault(what: &What) -> bool {
    matches!(what, What::Fault(_))
}

fn count(scenario: &Scenario, faults: bool) -> usize {
    scenario.events.iter().filter(|event| is_fault(&event.what) == faults).count()
}

/// Removes some of the faults, or some of the operations, counted among their like.
fn remove_events(scenario: &mut Scenario, faults: bool, which: std::ops::Range<usize>) {
    let mut nth = 0;
    scenario.events.retain(|event| {
        if is_fault(&event.what) != faults {
            return true;
        }
        nth += 1;
        !which.contains(&(nth - 1))
    });
}

/// Members that stay out of the liveness phase do so from its beginning, whenever that is.
fn belongs_to_core(event: &Event) -> bool {
    matches!(&event.what, What::Fault(fault) if fault.kind() == "out")
}

/// Ends the safety phase at another time, and moves what belongs to the phases after it: all of it, or the members that
/// stay out.
fn set_safety(scenario: &mut Scenario, safety_ms: u64, all: bool) {
    let was_us = scenario.knobs.safety_ms * 1_000;
    scenario.knobs.safety_ms = safety_ms;
    for event in &mut scenario.events {
        if event.at_us > was_us && (all || belongs_to_core(event)) {
            event.at_us = event.at_us - was_us + safety_ms * 1_000;
        }
    }
    scenario.events.sort_by_key(|event| event.at_us);
}

fn shift_operations(scenario: &mut Scenario, later_ms: u64) {
    for event in &mut scenario.events {
        if !is_fault(&event.what) {
            event.at_us += later_ms * 1_000;
        }
    }
    scenario.events.sort_by_key(|event| event.at_us);
}

/// All knobs as a scenario has them when it says nothing, but for its size and its phases.
fn plain_knobs(scenario: &mut Scenario) {
    let Knobs { members, spares, clients, safety_ms, core_ms, rest_ms, .. } = scenario.knobs;
    let plain = Knobs::plain(members, scenario.until_ms());
    scenario.knobs = Knobs { spares, clients, safety_ms, core_ms, rest_ms, ..plain };
}

/// The words by which a choice's line begins and goes on: `message late`, `fsync late`.
fn kind_of(exception: &Exception) -> String {
    let line = exception.to_string();
    let words: Vec<&str> =
        line.split_ascii_whitespace().filter(|w| w.bytes().all(|b| b.is_ascii_lowercase())).collect();
    words.join(" ")
}

/// What is counted together, and at which number this choice stands there. Numbers grow with time.
fn place_in_series(point: Point) -> (Point, u64) {
    let mut series = point;
    let place = match &mut series {
        Point::Message { number, .. }
        | Point::Twice { number, .. }
        | Point::Lost { number, .. }
        | Point::Fsync { number, .. }
        | Point::Stage { number, .. }
        | Point::Leave { number, .. }
        | Point::LeaveWatch { number, .. }
        | Point::Hear { number, .. }
        | Point::Forward { number }
        | Point::Look { number }
        | Point::Election { number, .. } => std::mem::take(number),
        Point::FirstTick { life, .. } => std::mem::take(life),
        Point::Kept { crash, nth, .. } => {
            *nth = 0;
            std::mem::take(crash)
        }
    };
    (series, place)
}

/// Keeps the first part of every series of choices.
fn keep_first(exceptions: &mut Vec<Exception>, permille: u64) {
    let mut last: BTreeMap<Point, u64> = BTreeMap::new();
    for exception in &*exceptions {
        let (series, place) = place_in_series(exception.point);
        let last = last.entry(series).or_default();
        *last = place.max(*last);
    }
    exceptions.retain(|exception| {
        let (series, place) = place_in_series(exception.point);
        u128::from(place) * 1_000 <= u128::from(last[&series]) * u128::from(permille)
    });
}
