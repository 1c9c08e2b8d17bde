//! Why there is no order, in as few operations as possible.
//!
//! Two reductions, both by asking the search again. First time: a prefix of a linearizable history is linearizable, so
//! there is a first answer with which the history stops being it; that operation is at fault. Then knowledge: any other
//! operation may be taken as if it had not been answered (a read then says nothing at all), which only allows more
//! orders. Where there is still none, it was not needed; what cannot be taken away, together with the operation at
//! fault, is what the story names.
//!
//! A question that the budget leaves open counts as "it was needed": the story then names more than it must.

use std::collections::BTreeSet;

use super::model::{Case, Problem, What, Whole};
use super::search::{Verdict, search};
use super::{Hold, Record, Versions, cases, is_read};
use crate::check::Objection;
use crate::history::{Operation, Outcome};

/// One of the searches that take knowledge away may try this part of what a whole search may; all of them together as
/// much as one, the steps of their problems included.
const SHARE: u64 = 40;
/// Where the reduction ends early, the last of what is left are named.
const NAMED: usize = 6;

/// `failed` are groups of keys for which there is no order.
pub fn explain(records: &[Record], aside: &BTreeSet<i64>, failed: &[Vec<&str>], budget: u64) -> Objection {
    let mut why = Why {
        records,
        aside,
        keys: &failed[0],
        versions: Versions::All,
        lean: false,
        only: None,
        each: budget,
        left: u64::MAX,
        proof: 0,
    };
    let mut first = usize::MAX;
    for keys in failed {
        let before = std::mem::replace(&mut why.keys, keys);
        let cut = why.first_failing_answer();
        if cut < first {
            first = cut;
        } else {
            why.keys = before;
        }
    }
    (why.each, why.left) = ((budget / SHARE).max(2 * why.proof), budget);
    let mut holds = until(records, first);
    let answered_at = |record: &Record| record.answer.as_ref().map(|answer| answer.position);
    let at = records.iter().position(|record| answered_at(record) == Some(first)).expect("an answer has a record");

    if let Some(refused) = why.refused_that_took_effect(&holds) {
        let what = format!(
            "{} ({}), which needs the effect of {}",
            why.claim(&records[at]),
            times(&records[at]),
            names(records, &[refused])
        );
        return objection(records, "refused write took effect", at, &[refused], &what);
    }
    let place = why.place(at, &holds);
    why.forget(at, &mut holds);
    let (sources, mut others) = why.sources(at, why.needed(at, &holds));
    let more = others.len().saturating_sub(NAMED);
    others.drain(..more);
    let mut what = format!("{} ({})", why.claim(&records[at]), times(&records[at]));
    if !sources.is_empty() {
        what += &format!(", what {} wrote", names(records, &sources));
    }
    let completed = |other: &usize| {
        let answer = records[*other].answer.as_ref().filter(|_| records[*other].is_settled());
        answer.is_some_and(|answer| answer.position < records[at].asked)
    };
    what += &match names(records, &others) {
        _ if others.is_empty() => ", which no order allows".to_owned(),
        names if others.iter().all(completed) => format!(", though {names} had completed before it was asked"),
        names => format!(", and no order allows that together with {names}"),
    };
    if more > 0 {
        what += &format!(" and {more} more");
    }
    objection(records, place, at, &[sources, others].concat(), &what)
}

/// The story of an objection: `what` the operation `at` did. Its last words are the numbers of the operations in it,
/// for the picture.
pub fn objection(records: &[Record], place: &'static str, at: usize, others: &[usize], what: &str) -> Objection {
    let record = &records[at];
    let numbers: BTreeSet<u64> = others.iter().chain([&at]).map(|at| records[*at].number).collect();
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    let (number, client) = (record.number, record.client);
    Objection::new(place, format!("operation {number} of client {client} {what}; operations: {}", numbers.join(" ")))
}

/// `operation 12 of client 1 (put k=1.7 at revision 40, asked at 2.000s, answered at 2.100s)`, and so on.
pub fn names(records: &[Record], which: &[usize]) -> String {
    let name = |record: &Record| {
        format!("operation {} of client {} ({}, {})", record.number, record.client, claim(record, None), times(record))
    };
    which.iter().map(|at| name(&records[*at])).collect::<Vec<_>>().join(" and ")
}

struct Why<'a> {
    records: &'a [Record],
    aside: &'a BTreeSet<i64>,
    keys: &'a [&'a str],
    versions: Versions,
    /// Leave out what nobody saw: see [`Problem::lean`].
    lean: bool,
    /// Of what this record saw, look at this key only.
    only: Option<(usize, &'a str)>,
    each: u64,
    left: u64,
    /// The steps of the last search that found that there is no order.
    proof: u64,
}

impl<'a> Why<'a> {
    fn verdict(&mut self, holds: &[Hold]) -> Verdict {
        if self.left == 0 {
            return Verdict::Undecided;
        }
        let mut cases: Vec<Case<'a>> = cases(self.records, holds, self.versions);
        if let Some((record, key)) = self.only {
            let deed = &mut cases.iter_mut().find(|case| case.record == record).expect("it was answered").deed;
            deed.saw.retain(|saw| saw.key == key);
            deed.interval = None;
            if deed.saw.is_empty() {
                deed.saw.push(super::model::Saw { key, what: What::Nothing, version: None });
            }
        }
        let may = self.each.min(self.left);
        let mut budget = may;
        let whole = Whole::new(cases, self.aside);
        let problem = if self.lean { Problem::lean(&whole, self.keys) } else { Problem::new(&whole, self.keys) };
        let verdict = search(&problem, &mut budget);
        self.left = self.left.saturating_sub(may - budget + problem.steps.len() as u64);
        if verdict == Verdict::Not {
            self.proof = may - budget;
        }
        verdict
    }

    fn fails(&mut self, holds: &[Hold]) -> bool {
        self.verdict(holds) == Verdict::Not
    }

    /// The position of the first answer with which there is no order.
    fn first_failing_answer(&mut self) -> usize {
        let records = self.records;
        let mut answers: Vec<usize> =
            records.iter().filter(|r| r.is_settled()).filter_map(|r| r.answer.as_ref()).map(|a| a.position).collect();
        answers.sort_unstable();
        let (mut passes, mut fails) = (0, answers.len() - 1);
        while passes < fails {
            let middle = (passes + fails) / 2;
            if self.fails(&until(records, answers[middle])) {
                fails = middle;
            } else {
                passes = middle + 1;
            }
        }
        answers[fails]
    }

    /// One that was refused, and with which there is an order.
    fn refused_that_took_effect(&mut self, holds: &[Hold]) -> Option<usize> {
        let asked = |at: &usize| self.records[*at].is_refused() && holds[*at] == Hold::AsTold;
        let refused: Vec<usize> = (0..self.records.len()).filter(asked).collect();
        refused.into_iter().find(|at| {
            let mut holds = holds.to_vec();
            holds[*at] = Hold::Open;
            self.verdict(&holds) == Verdict::Linearizable
        })
    }

    /// What to call it; also turns the eye to less where that is enough to see it.
    fn place(&mut self, at: usize, holds: &[Hold]) -> &'static str {
        let operation = &self.records[at].operation;
        self.versions = Versions::None;
        if !self.fails(holds) {
            self.versions = Versions::Of(at);
            self.lean = true;
            if !self.fails(holds) {
                (self.versions, self.lean) = (Versions::All, false);
            }
            return "wrong version";
        }
        self.lean = true;
        self.lean = self.fails(holds);
        let keys = self.keys;
        match operation {
            Operation::Get { key, .. } if keys.contains(&key.as_str()) => "stale read",
            Operation::Range { key, end, .. } => {
                for key in keys.iter().filter(|k| key.as_str() <= **k && **k < end.as_str()) {
                    self.only = Some((at, key));
                    if self.fails(holds) {
                        return "stale read";
                    }
                }
                self.only = None;
                "torn read"
            }
            _ if is_read(operation) => "not linearizable",
            _ => "lost update",
        }
    }

    /// Takes away what is not needed: first the reads, because that leaves less to search, then what was done to other
    /// keys, then the rest.
    fn forget(&mut self, at: usize, holds: &mut Vec<Hold>) {
        let all = cases(self.records, holds, Versions::All);
        let mine: BTreeSet<&str> = all.iter().filter(|c| c.record == at).flat_map(|case| case.deed.keys()).collect();
        let near = |case: &&Case<'_>| case.deed.keys().any(|key| mine.contains(key));
        let near: BTreeSet<usize> = all.iter().filter(near).map(|case| case.record).collect();
        let (reads, writes): (Vec<usize>, Vec<usize>) =
            self.needed(at, holds).into_iter().partition(|other| is_read(&self.records[*other].operation));
        let (near, far) = writes.into_iter().partition(|other| near.contains(other));
        for which in [reads, far, near] {
            self.forget_among(which, holds);
        }
    }

    /// In one piece, halves, quarters and so on.
    fn forget_among(&mut self, mut which: Vec<usize>, holds: &mut Vec<Hold>) {
        let mut size = which.len();
        while size > 0 {
            for chunk in which.chunks(size) {
                let mut less = holds.clone();
                chunk.iter().for_each(|other| less[*other] = Hold::Open);
                if self.fails(&less) {
                    *holds = less;
                }
            }
            which.retain(|other| holds[*other] == Hold::AsTold);
            size = if size == 1 { 0 } else { size.div_ceil(2).min(which.len()) };
        }
    }

    /// Whose answers still say something.
    fn needed(&self, at: usize, holds: &[Hold]) -> Vec<usize> {
        let says = |other: &usize| {
            let record = &self.records[*other];
            let told = holds[*other] == Hold::AsTold && record.is_settled() && !record.is_refused();
            *other != at && told && !super::is_serializable(&record.operation)
        };
        (0..self.records.len()).filter(says).collect()
    }

    /// Of the operations that are named, those that wrote what `at` saw come first, needed or not: they are what a
    /// reader looks for. Of a read of many keys only the transfers, which it may have torn.
    fn sources(&self, at: usize, needed: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        let all = cases(self.records, &vec![Hold::AsTold; self.records.len()], Versions::All);
        let saw: Vec<_> = all.iter().filter(|case| case.record == at).flat_map(|case| &case.deed.saw).collect();
        let many = self.only.is_none() && matches!(self.records[at].operation, Operation::Range { .. });
        let wrote_it = |case: &&Case<'_>| {
            case.deed.wrote.iter().any(|(key, value)| {
                let seen = saw.iter().any(|saw| saw.key == *key && value.is_some_and(|v| saw.what == What::Value(v)));
                seen && self.only.is_none_or(|(_, only)| only == *key)
            })
        };
        let is_fit = |other: &usize| {
            *other != at && (!many || matches!(self.records[*other].operation, Operation::Transfer { .. }))
        };
        let sources: Vec<usize> = all.iter().filter(wrote_it).map(|case| case.record).filter(is_fit).collect();
        let others = needed.into_iter().filter(|other| !sources.contains(other)).collect();
        (sources, others)
    }

    fn claim(&self, record: &Record) -> String {
        claim(record, self.only.map(|(_, key)| key))
    }
}

/// The history up to the answer at this position.
fn until(records: &[Record], position: usize) -> Vec<Hold> {
    let hold = |record: &Record| match &record.answer {
        _ if record.asked > position => Hold::Gone,
        Some(answer) if answer.position > position => Hold::Open,
        _ => Hold::AsTold,
    };
    records.iter().map(hold).collect()
}

/// `read k=1.4 at revision 40`
pub fn claim(record: &Record, only: Option<&str>) -> String {
    let pair = |(key, value): &(String, Option<String>)| format!("{key}={}", value.as_deref().unwrap_or("-"));
    let pairs = |found: &[(String, Option<String>)]| found.iter().map(pair).collect::<Vec<_>>().join(" ");
    let outcome = record.answer.as_ref().map(|answer| &answer.outcome);
    let (revision, succeeded, found) = match outcome {
        Some(Outcome::Done { revision, succeeded, found }) => (*revision, *succeeded, found.as_slice()),
        Some(Outcome::Read { revision, found, .. }) => (*revision, true, found.as_slice()),
        _ => (0, true, [].as_slice()),
    };
    let what = match &record.operation {
        Operation::Put { key, value } => format!("put {key}={value}"),
        Operation::Delete { key } => {
            format!("deleted {}", if found.is_empty() { format!("{key}=-") } else { pairs(found) })
        }
        Operation::Get { .. } => format!("read {}", pairs(found)),
        Operation::Range { key, end, .. } => match only {
            Some(only) => {
                let value = found.iter().find(|(key, _)| key == only).and_then(|(_, value)| value.clone());
                format!("read {}", pair(&(only.to_owned(), value)))
            }
            None => format!("read [{}] from {key} to {end}", pairs(found)),
        },
        Operation::Cas { key, old, new } => {
            let old = old.as_deref().unwrap_or("-");
            match succeeded {
                true => format!("swapped {key}={old} for {new}"),
                false => format!("found {} where it compared with {old}", pairs(found)),
            }
        }
        Operation::Transfer { from, to } => match succeeded {
            true => {
                let to: Vec<String> = to.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("swapped {} for {}", pairs(from), to.join(" "))
            }
            false => format!("found {} where it compared with {}", pairs(found), pairs(from)),
        },
        Operation::Compact { revision } => format!("compacted {revision}"),
        aside => aside.to_string(),
    };
    if revision == 0 { what } else { format!("{what} at revision {revision}") }
}

pub fn times(record: &Record) -> String {
    let seconds = |us: u64| format!("{}.{:03}s", us / 1_000_000, us / 1_000 % 1_000);
    match record.answer.as_ref().filter(|_| record.is_settled()) {
        Some(answer) if record.is_refused() => {
            format!("asked at {}, refused at {}", seconds(record.asked_us), seconds(answer.us))
        }
        Some(answer) => format!("asked at {}, answered at {}", seconds(record.asked_us), seconds(answer.us)),
        None => format!("asked at {}, never answered", seconds(record.asked_us)),
    }
}
