//! Smaller clusters: the members that a failure does not need go, the others move up.
//!
//! Which words of a fault's line are members is known to the fault alone. So its line is rewritten by what looks like
//! one, read back, and taken only if the fault then says that it hits exactly the members it should.

use std::collections::BTreeMap;

use super::Hunt;
use crate::choices::{Exception, Point};
use crate::scenario::{Event, Scenario, What, members_of, parse_fault};

/// Old numbers of the members that stay, and their new ones.
type Places = BTreeMap<u64, u64>;

impl Hunt<'_> {
    /// Tries the smaller clusters, the smallest first. Operations at a member that goes move, or go with it.
    pub(super) fn fewer_members(&mut self) {
        let members = self.best.knobs.members;
        // Of a large cluster only two at a time: they are 2^n.
        let least = if members > 5 { members.saturating_sub(2) } else { 1 };
        for size in least..members {
            for set in 1u64..1 << members {
                if u64::from(set.count_ones()) != size {
                    continue;
                }
                let stay: Vec<u64> = (1..=members).filter(|member| set & (1 << (member - 1)) != 0).collect();
                for keep_operations in [true, false] {
                    if self.edit(|s| restrict(s, &stay, keep_operations)) {
                        return self.fewer_members();
                    }
                }
            }
        }
    }
}

fn restrict(scenario: &mut Scenario, stay: &[u64], keep_operations: bool) {
    let (size, spares) = (stay.len() as u64, scenario.knobs.spares);
    let first_spare = scenario.knobs.members + 1;
    let spare_ids = first_spare..first_spare + spares;
    let places: Places = stay.iter().copied().chain(spare_ids).zip(1..).collect();
    scenario.knobs.members = size;
    let move_event = |event: Event| {
        let what = match event.what {
            What::Client { client, member, operation } => {
                let elsewhere = || keep_operations.then(|| (member - 1) % size + 1);
                let member = places.get(&member).copied().or_else(elsewhere)?;
                What::Client { client, member, operation }
            }
            What::Fault(fault) => {
                let line = rename(&fault.to_string(), &places)?;
                let moved = parse_fault(&line, size + spares).ok()?;
                let mut hit = moved.members();
                let mut wanted: Vec<u64> = fault.members().iter().filter_map(|m| places.get(m).copied()).collect();
                hit.sort_unstable();
                hit.dedup();
                wanted.sort_unstable();
                wanted.dedup();
                if hit != wanted {
                    return None;
                }
                What::Fault(moved)
            }
        };
        Some(Event { at_us: event.at_us, what })
    };
    scenario.events = std::mem::take(&mut scenario.events).into_iter().filter_map(move_event).collect();
    let move_choice = |mut exception: Exception| {
        if !members_of(exception.point).iter().all(|member| places.contains_key(member)) {
            return None;
        }
        exception.point = renumbered(exception.point, &places);
        Some(exception)
    };
    scenario.exceptions = std::mem::take(&mut scenario.exceptions).into_iter().filter_map(move_choice).collect();
}

/// A fault's line for the smaller cluster; `None` when nothing is left of it.
fn rename(line: &str, places: &Places) -> Option<String> {
    let mut words = Vec::new();
    let mut is_count = false;
    for word in line.split_ascii_whitespace() {
        let new = if let Some((from, to)) = word.split_once("->") {
            format!("{}->{}", those_that_stay(from, places)?, those_that_stay(to, places)?)
        } else if is_count {
            word.to_owned()
        } else {
            let groups: Option<Vec<String>> = word.split('|').map(|group| those_that_stay(group, places)).collect();
            groups?.join("|")
        };
        is_count = matches!(word, "after" | "to");
        words.push(new);
    }
    Some(words.join(" "))
}

/// The rest of a list of members, if anything is left of it; a word that is none is itself.
fn those_that_stay(word: &str, places: &Places) -> Option<String> {
    let Ok(members) = word.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>() else {
        return Some(word.to_owned());
    };
    let stay: Vec<String> = members.iter().filter_map(|member| places.get(member)).map(u64::to_string).collect();
    (!stay.is_empty()).then(|| stay.join(","))
}

fn renumbered(point: Point, places: &Places) -> Point {
    let at = |member: u64| places[&member];
    match point {
        Point::Message { from, to, number } => Point::Message { from: at(from), to: at(to), number },
        Point::Twice { from, to, number } => Point::Twice { from: at(from), to: at(to), number },
        Point::Lost { from, to, number } => Point::Lost { from: at(from), to: at(to), number },
        Point::Fsync { member, number } => Point::Fsync { member: at(member), number },
        Point::Stage { member, stage, number } => Point::Stage { member: at(member), stage, number },
        Point::Leave { member, number } => Point::Leave { member: at(member), number },
        Point::FirstTick { member, life } => Point::FirstTick { member: at(member), life },
        Point::Election { member, number } => Point::Election { member: at(member), number },
        Point::Kept { member, crash, nth } => Point::Kept { member: at(member), crash, nth },
        Point::LeaveWatch { member, number } => Point::LeaveWatch { member: at(member), number },
        Point::Look { .. } | Point::Hear { .. } | Point::Forward { .. } => point,
    }
}
