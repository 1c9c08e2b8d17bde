//! Plainer lines: shorter and rounder times, the usual knobs, few clients, short names, simpler operations.
//!
//! Each pass offers a handful of values that are simpler than the one that stands there, the simplest first, and never
//! one that is not.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Hunt, is_fault, plain_knobs, set_safety};
use crate::fault::{Fault, parse_time_us, print_time};
use crate::history::Operation;
use crate::knobs::Knobs;
use crate::scenario::{Scenario, What, parse_fault};

/// With more events than this, times and names of single ones are not worth a run each.
const FEW_EVENTS: usize = 120;
const ROUND_US: [u64; 4] = [1_000_000, 100_000, 10_000, 1_000];
const PLAIN_TIMES_US: [u64; 7] = [10_000, 100_000, 500_000, 1_000_000, 2_000_000, 3_000_000, 5_000_000];

impl Hunt<'_> {
    pub(super) fn shorter(&mut self) {
        self.earlier();
        self.usual_phases();
    }

    pub(super) fn plainer(&mut self) {
        self.plain_faults();
        self.rounder();
        self.usual_knobs();
        self.few_clients();
        self.simple_operations();
        self.short_names();
    }

    /// Nothing happens between two events for a shorter time.
    fn earlier(&mut self) {
        if self.best.events.len() > FEW_EVENTS {
            return;
        }
        for nth in 0..self.best.events.len() {
            let before_us = if nth == 0 { 0 } else { self.best.events[nth - 1].at_us };
            let gap_us = self.best.events[nth].at_us - before_us;
            let half_us = gap_us / 2 / 1_000 * 1_000;
            let gaps = [0, 1_000, 10_000, 100_000, 500_000, 1_000_000, half_us];
            for shorter_us in gaps.into_iter().filter(|shorter_us| *shorter_us < gap_us) {
                let moved = self.edit(|s| {
                    for event in &mut s.events[nth..] {
                        event.at_us -= gap_us - shorter_us;
                    }
                });
                if moved {
                    break;
                }
            }
        }
    }

    /// One `until` that says all three phases, as early as it can be.
    fn usual_phases(&mut self) {
        let about_time = self.is_about_time();
        let Knobs { members, safety_ms, core_ms, .. } = self.best.knobs;
        let in_safety = self.best.events.iter().filter(|event| event.at_us <= safety_ms * 1_000);
        let last_us = in_safety.map(|event| event.at_us).max().unwrap_or(0);
        let soonest_s = last_us.div_ceil(1_000_000) * 3 / 2;
        let until_ms = self.best.until_ms();
        let longer_s = [1, 2, 3, 4, 6, 9, 12, 18, 24, 30, 45, 60, 90, 120, 240];
        for until_ms in longer_s.map(|s| (soonest_s + s) * 1_000).into_iter().chain([until_ms]) {
            let plain = Knobs::plain(members, until_ms);
            if until_ms > self.best.until_ms() || (about_time && plain.core_ms < core_ms) {
                continue;
            }
            let shorter = self.edit(|s| {
                set_safety(s, plain.safety_ms, about_time);
                (s.knobs.core_ms, s.knobs.rest_ms) = (plain.core_ms, plain.rest_ms);
            });
            if shorter {
                return;
            }
        }
    }

    /// Each word of a fault that is a time or a count becomes smaller.
    fn plain_faults(&mut self) {
        for nth in 0..self.best.events.len() {
            let What::Fault(fault) = &self.best.events[nth].what else { continue };
            let words = fault.to_string().split_ascii_whitespace().count();
            for word in 1..words {
                self.plain_word(nth, word);
            }
        }
    }

    fn plain_word(&mut self, nth: usize, at: usize) {
        let What::Fault(fault) = &self.best.events[nth].what else { return };
        let line = fault.to_string();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(word) = words.get(at) else { return };
        let is_count = words[at - 1] == "after";
        let smaller: Vec<String> = if let Some(us) = parse_time_us(word) {
            PLAIN_TIMES_US.iter().filter(|plain| **plain < us).map(|plain| print_time(*plain)).collect()
        } else if let (true, Ok(count)) = (is_count, word.parse::<u64>()) {
            [0, 1, 2, 5, 10, count / 2].into_iter().filter(|c| *c < count).map(|c| c.to_string()).collect()
        } else {
            return;
        };
        let members = self.best.knobs.members;
        let offers: Vec<Rc<dyn Fault>> = smaller
            .iter()
            .filter_map(|new| {
                let mut words = words.clone();
                words[at] = new;
                parse_fault(&words.join(" "), members).ok()
            })
            .collect();
        for fault in offers {
            if self.edit(|s| s.events[nth].what = What::Fault(fault)) {
                return;
            }
        }
    }

    /// All times to whole seconds, or tenths, ...; else one by one.
    fn rounder(&mut self) {
        let round = |at_us: u64, unit_us: u64| (at_us + unit_us / 2) / unit_us * unit_us;
        for unit_us in ROUND_US {
            if self.best.events.iter().all(|event| event.at_us % unit_us == 0) {
                return;
            }
            if self.edit(|s| s.events.iter_mut().for_each(|event| event.at_us = round(event.at_us, unit_us))) {
                return;
            }
        }
        if self.best.events.len() > FEW_EVENTS {
            return;
        }
        for nth in 0..self.best.events.len() {
            for unit_us in ROUND_US {
                let at_us = self.best.events[nth].at_us;
                let rounded_us = round(at_us, unit_us);
                let floor_us = if nth == 0 { 0 } else { self.best.events[nth - 1].at_us };
                let ceiling_us = self.best.events.get(nth + 1).map_or(u64::MAX, |event| event.at_us);
                if rounded_us == at_us {
                    break;
                }
                if (floor_us..=ceiling_us).contains(&rounded_us) && self.edit(|s| s.events[nth].at_us = rounded_us) {
                    break;
                }
            }
        }
    }

    fn usual_knobs(&mut self) {
        let mut plain = self.best.clone();
        plain_knobs(&mut plain);
        if plain.knobs == self.best.knobs || self.attempt(plain.clone()) {
            return;
        }
        let (faults, work) = (plain.knobs.faults.clone(), plain.knobs.work.clone());
        self.edit(|s| (s.knobs.faults, s.knobs.work) = (faults, work));
        for (name, value) in plain.knobs.numbers() {
            let is_plain = self.best.knobs.numbers().contains(&(name, value));
            if !is_plain {
                self.edit(|s| s.knobs.set(name, value).expect("a knob's own name"));
            }
        }
    }

    /// One client does all, or at least they are counted from 1.
    fn few_clients(&mut self) {
        let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
        for event in &self.best.events {
            if let What::Client { client, .. } = &event.what {
                let next = numbers.len() as u64 + 1;
                numbers.entry(*client).or_insert(next);
            }
        }
        let usual = Knobs::plain(1, 1).clients;
        let rename = |s: &mut Scenario, to: &dyn Fn(u64) -> u64| {
            for event in &mut s.events {
                if let What::Client { client, .. } = &mut event.what {
                    *client = to(*client);
                }
            }
            let most = s.events.iter().map(|e| if let What::Client { client, .. } = e.what { client } else { 0 }).max();
            s.knobs.clients = usual.max(most.unwrap_or(0));
        };
        if !self.edit(|s| rename(s, &|_| 1)) {
            self.edit(|s| rename(s, &|client| numbers[&client]));
        }
    }

    fn simple_operations(&mut self) {
        if self.best.events.len() > FEW_EVENTS {
            return;
        }
        for nth in 0..self.best.events.len() {
            let What::Client { operation, .. } = &self.best.events[nth].what else { continue };
            let simpler = match operation.clone() {
                Operation::Cas { key, new, .. } => Operation::Put { key, value: new },
                Operation::Transfer { mut from, mut to } if from.len() > 1 => {
                    from.pop();
                    to.pop();
                    Operation::Transfer { from, to }
                }
                Operation::Transfer { from, to } => match (from.into_iter().next(), to.into_iter().next()) {
                    (Some((key, old)), Some((_, new))) => Operation::Cas { key, old, new },
                    _ => continue,
                },
                Operation::Range { key, serializable, .. } => Operation::Get { key, serializable },
                _ => continue,
            };
            self.edit(|s| {
                if let What::Client { operation, .. } = &mut s.events[nth].what {
                    *operation = simpler;
                }
            });
        }
    }

    /// Keys a, b, c and values 1, 2, 3, in the order in which they are first named.
    fn short_names(&mut self) {
        let (mut keys, mut values) = (Names::new(letters), Names::new(|nth| nth.to_string()));
        for event in self.best.events.iter().filter(|event| !is_fault(&event.what)) {
            let What::Client { operation, .. } = &event.what else { continue };
            rename(&mut operation.clone(), &mut |key| keys.note(key), &mut |value| values.note(value));
        }
        let change = |s: &mut Scenario, with_keys: bool, with_values: bool| {
            for event in &mut s.events {
                if let What::Client { operation, .. } = &mut event.what {
                    let key = &mut |key: &mut String| {
                        if with_keys {
                            keys.apply(key)
                        }
                    };
                    rename(operation, key, &mut |value| {
                        if with_values {
                            values.apply(value)
                        }
                    });
                }
            }
        };
        if !self.edit(|s| change(s, true, true)) && !self.edit(|s| change(s, false, true)) {
            self.edit(|s| change(s, true, false));
        }
    }
}

/// New names, given in the order of asking.
struct Names {
    given: BTreeMap<String, String>,
    nth: fn(usize) -> String,
}

impl Names {
    fn new(nth: fn(usize) -> String) -> Names {
        Names { given: BTreeMap::new(), nth }
    }

    fn note(&mut self, name: &str) {
        let next = (self.nth)(self.given.len() + 1);
        self.given.entry(name.to_owned()).or_insert(next);
    }

    fn apply(&self, name: &mut String) {
        if let Some(new) = self.given.get(name) {
            name.clone_from(new);
        }
    }
}

fn letters(nth: usize) -> String {
    match nth {
        1..=26 => char::from(b'a' + (nth - 1) as u8).to_string(),
        _ => format!("k{nth}"),
    }
}

/// Shows all keys and values of an operation. The end of a range is no key, and goes with its beginning: left alone.
fn rename(operation: &mut Operation, key: &mut dyn FnMut(&mut String), value: &mut dyn FnMut(&mut String)) {
    match operation {
        Operation::Put { key: k, value: v } => {
            key(k);
            value(v);
        }
        Operation::Delete { key: k } | Operation::Get { key: k, .. } => key(k),
        Operation::Cas { key: k, old, new } => {
            key(k);
            old.iter_mut().for_each(&mut *value);
            value(new);
        }
        Operation::Transfer { from, to } => {
            for ((k, old), (other, new)) in from.iter_mut().zip(to) {
                key(k);
                key(other);
                old.iter_mut().for_each(&mut *value);
                value(new);
            }
        }
        Operation::Range { .. } | Operation::Compact { .. } => {}
        Operation::Watch(_) | Operation::Lease(_) | Operation::Lock(_) => {}
    }
}
