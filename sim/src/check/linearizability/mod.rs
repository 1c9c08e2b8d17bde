//! Linearizability of what clients saw: each operation that was answered took effect at one instant between its
//! question and its answer, and those without an answer at one instant after the question, or never.
//!
//! ```text
//! mod        collects the history; what one answer alone can show is judged when it comes
//! model      what an operation claims; a group of keys as a problem for the search
//! partition  which keys must be judged together
//! search     is there an order?
//! explain    there is none: from which answer on, and which operations show it
//! ```
//!
//! Serializable reads promise no order and are left out, except that they too may only see what somebody wrote. A
//! compaction changes no value and is left out.
//!
//! etcd tells every client a revision, and this makes the check strict and the search short:
//!
//! * At once, at the answer: the revision is not below any that was told before the question, a write's is above, and
//!   no two writes have the same. A value that was seen was asked for, and not only by operations that were refused.
//! * At the end: every revision belongs to a write of somebody. So whoever adds writes that no client asked for shows
//!   them to the checkers as operations.
//! * Then the search, in which the revisions of answered operations give their order ([`model`]).
//!
//! The budget counts steps. When it ends, the objection is `undecided`: neither passed nor failed.

mod explain;
mod model;
mod partition;
mod search;

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Objection, Seen};
use crate::asks;
use crate::history::{Operation, Outcome};
use model::{Case, Deed, FIRST_REVISION, Problem, What, Whole};
use search::{Verdict, search};

/// Steps that a search may try. A run of 60 s takes some thousands.
const BUDGET: u64 = 400_000;

#[derive(Debug)]
pub struct Linearizability {
    records: Vec<Record>,
    numbers: BTreeMap<u64, usize>,
    /// Counts questions and answers.
    position: usize,
    /// The highest revision told so far, and in which record.
    highest: (i64, Option<usize>),
    /// Writes by their revision.
    revisions: BTreeMap<i64, usize>,
    /// Key -> value -> who asked to write it and who saw it.
    values: BTreeMap<String, BTreeMap<String, Known>>,
    /// Revisions that changed only keys of leases and locks: they are for others to judge.
    aside: BTreeSet<i64>,
    budget: u64,
    finished: bool,
}

#[derive(Debug, Default)]
struct Known {
    writers: Vec<usize>,
    first_seen: Option<usize>,
}

/// One operation of the history.
#[derive(Clone, Debug)]
pub struct Record {
    pub number: u64,
    pub client: u64,
    pub operation: Operation,
    pub asked_us: u64,
    pub answer: Option<Answer>,
    asked: usize,
    /// The highest revision that was told before this was asked, and in which record.
    floor: (i64, Option<usize>),
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub us: u64,
    pub outcome: Outcome,
    position: usize,
}

impl Default for Linearizability {
    fn default() -> Linearizability {
        Linearizability::with_budget(BUDGET)
    }
}

impl Linearizability {
    /// `steps` are what the search of one group of keys may try.
    pub fn with_budget(steps: u64) -> Linearizability {
        Linearizability {
            records: Vec::new(),
            numbers: BTreeMap::new(),
            position: 0,
            highest: (FIRST_REVISION, None),
            revisions: BTreeMap::new(),
            values: BTreeMap::new(),
            aside: BTreeSet::new(),
            budget: steps,
            finished: false,
        }
    }

    /// All operations so far but compactions, in the order in which they were asked.
    pub fn history(&self) -> &[Record] {
        &self.records
    }

    fn ask(&mut self, now_us: u64, number: u64, client: u64, operation: &Operation) {
        if matches!(operation, Operation::Compact { .. }) || operation.is_aside() || self.numbers.contains_key(&number)
        {
            return;
        }
        let record = self.records.len();
        self.numbers.insert(number, record);
        for (key, value) in Deed::open(operation).iter().flat_map(|deed| &deed.wrote) {
            let Some(value) = value else { continue };
            let values = match self.values.contains_key(*key) {
                true => self.values.get_mut(*key).expect("it is there"),
                false => self.values.entry((*key).to_owned()).or_default(),
            };
            values.entry((*value).to_owned()).or_default().writers.push(record);
        }
        self.records.push(Record {
            number,
            client,
            operation: operation.clone(),
            asked_us: now_us,
            answer: None,
            asked: self.position,
            floor: self.highest,
        });
    }

    fn answer(&mut self, now_us: u64, number: u64, outcome: &Outcome) -> Result<(), Objection> {
        let Some(&at) = self.numbers.get(&number) else { return Ok(()) };
        if self.records[at].is_settled() {
            return Err(self.object("answered twice", at, &[], &format!("was answered a second time: {outcome:?}")));
        }
        let answer = Answer { us: now_us, outcome: outcome.clone(), position: self.position };
        self.records[at].answer = Some(answer);
        if matches!(outcome, Outcome::Refused { .. }) {
            return self.refused(at);
        }
        let operation = self.records[at].operation.clone();
        let deed = match Deed::told(&operation, outcome) {
            Err(error) => return Err(self.object("impossible answer", at, &[], &format!("was answered: {error}"))),
            Ok(None) => return Ok(()),
            Ok(Some(deed)) => deed,
        };
        self.written_by_somebody(at, &deed)?;
        if is_serializable(&operation) || deed.revision == 0 {
            return Ok(());
        }
        self.in_order(at, &deed)
    }

    /// Nobody may have seen what it would have written.
    fn refused(&self, at: usize) -> Result<(), Objection> {
        let Some(deed) = Deed::open(&self.records[at].operation) else { return Ok(()) };
        for (key, value) in &deed.wrote {
            let Some(value) = value else { continue };
            let known = &self.values[*key][*value];
            if let Some(reader) = known.first_seen.filter(|_| self.all_refused(known)) {
                let what = format!("was refused, though {key}={value} had been seen by {}", self.names(&[reader]));
                return Err(self.object("refused write took effect", at, &[reader], &what));
            }
        }
        Ok(())
    }

    fn written_by_somebody(&mut self, at: usize, deed: &Deed<'_>) -> Result<(), Objection> {
        for saw in &deed.saw {
            let What::Value(value) = saw.what else { continue };
            let Some(known) = self.values.get(saw.key).and_then(|values| values.get(value)) else {
                let what = format!("saw {}={value}, which nobody had asked to write", saw.key);
                return Err(self.object("value from nowhere", at, &[], &what));
            };
            if self.all_refused(known) {
                let what = format!("saw {}={value}, the write of {}", saw.key, self.names(&known.writers));
                return Err(self.object("refused write took effect", at, &known.writers, &what));
            }
            if known.first_seen.is_none() {
                let known = self.values.get_mut(saw.key).and_then(|values| values.get_mut(value));
                known.expect("looked at above").first_seen = Some(at);
            }
        }
        Ok(())
    }

    /// The order by revision agrees with real time.
    fn in_order(&mut self, at: usize, deed: &Deed<'_>) -> Result<(), Objection> {
        let writes = !deed.wrote.is_empty();
        let (floor, by) = self.records[at].floor;
        if deed.revision < floor || writes && deed.revision == floor {
            let place = if is_read(&self.records[at].operation) { "stale read" } else { "lost update" };
            let by: Vec<usize> = by.into_iter().collect();
            let what = format!(
                "{} ({}), though revision {floor} had been told before it was asked, to {}",
                explain::claim(&self.records[at], None),
                explain::times(&self.records[at]),
                self.names(&by)
            );
            return Err(self.object(place, at, &by, &what));
        }
        if writes && let Some(other) = self.revisions.insert(deed.revision, at) {
            let what = format!("was told revision {}, as was {}", deed.revision, self.names(&[other]));
            return Err(self.object("revision given twice", at, &[other], &what));
        }
        if deed.revision > self.highest.0 {
            self.highest = (deed.revision, Some(at));
        }
        Ok(())
    }

    fn all_refused(&self, known: &Known) -> bool {
        known.writers.iter().all(|at| self.records[*at].is_refused())
    }

    fn object(&self, place: &'static str, at: usize, others: &[usize], what: &str) -> Objection {
        explain::objection(&self.records, place, at, others, what)
    }

    fn names(&self, which: &[usize]) -> String {
        explain::names(&self.records, which)
    }

    fn judge(&self) -> Result<(), Objection> {
        let holds = vec![Hold::AsTold; self.records.len()];
        let whole = Whole::new(cases(&self.records, &holds, Versions::All), &self.aside);
        self.revisions_of_somebody(&whole.cases)?;
        // Refused writes join keys as well, so that one which did take effect can be named as what is wrong.
        let judged = self.records.iter().filter(|record| match record.operation {
            Operation::Get { .. } | Operation::Range { .. } => {
                !is_serializable(&record.operation) && record.is_settled()
            }
            _ => true,
        });
        let mut undecided = Vec::new();
        let mut failed = Vec::new();
        for keys in partition::groups(judged.map(|record| &record.operation)) {
            let problem = Problem::new(&whole, &keys);
            match search(&problem, &mut self.budget.clone()) {
                Verdict::Linearizable => {}
                Verdict::Not => failed.push(keys),
                Verdict::Undecided => undecided.push((keys, problem)),
            }
        }
        if !failed.is_empty() {
            return Err(explain::explain(&self.records, &self.aside, &failed, self.budget));
        }
        let Some((keys, problem)) = undecided.first() else { return Ok(()) };
        let open = problem.steps.iter().filter(|step| step.answered.is_none()).count();
        let story = format!(
            "no order of the {} operations ({open} of them open) on {} was found or excluded in {} steps",
            problem.steps.len(),
            keys.join(" "),
            self.budget
        );
        Err(Objection { place: "undecided", story, undecided: true })
    }

    /// Each revision that nobody was told needs an open write that may have made it. A write that was applied twice
    /// leaves one too many.
    fn revisions_of_somebody(&self, cases: &[Case<'_>]) -> Result<(), Objection> {
        let mut floors: Vec<i64> = cases
            .iter()
            .filter(|case| !case.deed.wrote.is_empty() && case.deed.revision == 0)
            .map(|case| self.records[case.record].floor.0)
            .collect();
        floors.sort_unstable();
        let untold = (FIRST_REVISION + 1..=self.highest.0)
            .filter(|revision| !self.revisions.contains_key(revision) && !self.aside.contains(revision));
        for (nth, revision) in untold.enumerate() {
            if floors.get(nth).is_none_or(|floor| *floor >= revision) {
                let told = cases.iter().filter(|case| case.deed.revision >= revision);
                let next = told.min_by_key(|case| case.deed.revision).expect("a higher one was told").record;
                let what = format!("shows that there was a revision {revision}, which no operation can have made");
                return Err(self.object("revision from nowhere", next, &[], &what));
            }
        }
        Ok(())
    }
}

impl Checker for Linearizability {
    fn name(&self) -> &'static str {
        "linearizability"
    }

    fn see(&mut self, now_us: u64, seen: &Seen) -> Result<(), Objection> {
        if self.finished {
            return Ok(());
        }
        self.position += 1;
        let verdict = match seen {
            Seen::Asked { number, client, operation, .. } => {
                self.ask(now_us, *number, *client, operation);
                Ok(())
            }
            Seen::Answered { number, outcome, .. } => self.answer(now_us, *number, outcome),
            Seen::Made { revision, events } => {
                let is_aside = |key: &[u8]| asks::KEYS.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
                if !events.is_empty() && events.iter().all(|kv| is_aside(&kv.key)) {
                    self.aside.insert(*revision);
                }
                Ok(())
            }
            Seen::Over => {
                self.finished = true;
                self.judge()
            }
            _ => Ok(()),
        };
        self.finished |= verdict.is_err();
        verdict
    }
}

impl Record {
    /// Its fate is known to the client.
    fn is_settled(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !matches!(answer.outcome, Outcome::Unknown { .. }))
    }

    fn is_refused(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| matches!(answer.outcome, Outcome::Refused { .. }))
    }
}

/// How a record is taken, to see what follows from less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    AsTold,
    /// As if it had not been answered.
    Open,
    /// As if it had not been asked.
    Gone,
}

/// Whose sight of versions counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    All,
    /// Of one record.
    Of(usize),
    None,
}

/// What enters the search. Reads without an answer claim nothing.
fn cases<'a>(records: &'a [Record], holds: &[Hold], versions: Versions) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    for (at, record) in records.iter().enumerate().filter(|(_, record)| !is_serializable(&record.operation)) {
        let told = record.answer.as_ref().filter(|_| record.is_settled() && holds[at] == Hold::AsTold);
        let deed = match (holds[at], told) {
            (Hold::Gone, _) => None,
            (_, Some(answer)) => Deed::told(&record.operation, &answer.outcome).expect("looked at when it came"),
            (_, None) => Deed::open(&record.operation),
        };
        let Some(mut deed) = deed else { continue };
        if versions != Versions::All && versions != Versions::Of(at) {
            deed.saw.iter_mut().for_each(|saw| saw.version = None);
        }
        let answered = told.map(|answer| answer.position);
        cases.push(Case { record: at, asked: record.asked, answered, deed });
    }
    cases
}

fn is_read(operation: &Operation) -> bool {
    matches!(operation, Operation::Get { .. } | Operation::Range { .. })
}

fn is_serializable(operation: &Operation) -> bool {
    matches!(operation, Operation::Get { serializable: true, .. } | Operation::Range { serializable: true, .. })
}
