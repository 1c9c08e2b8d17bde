//! What one operation claims about the store, and the part of a history that is searched as one problem.
//!
//! The store is etcd's, as far as clients can see it: a key has a value and a version (the number of puts since it was
//! created), and the whole has a revision, which every transaction that changes anything raises by one. So an operation
//! is three things: what it saw, what it wrote, and the revision it was told.
//!
//! The revision is part of the model and not only a check beside it. Operations that were told one are ordered by it,
//! up to reads at the same revision, which commute. What is left to search is where the operations without an answer
//! took effect: only at revisions that nobody was told, and each of those must be somebody's. A revision of 0 means
//! "not told"; such operations are ordered by time alone, and the search is the classical one.
//!
//! Nothing here judges; a [`Problem`] is a statement of what [`super::search`] has to order.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Operation, Outcome};

/// What an operation saw and wrote if it took effect.
#[derive(Clone, Debug)]
pub struct Deed<'a> {
    pub saw: Vec<Saw<'a>>,
    /// Everything else in this interval was seen not to exist.
    pub interval: Option<(&'a str, &'a str)>,
    pub wrote: Vec<(&'a str, Option<&'a str>)>,
    /// 0: not told.
    pub revision: i64,
}

#[derive(Clone, Debug)]
pub struct Saw<'a> {
    pub key: &'a str,
    pub what: What<'a>,
    pub version: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    Value(&'a str),
    Nothing,
    /// Any value: what an unanswered delete needs to find, because without it the delete changes nothing.
    Something,
}

impl<'a> Deed<'a> {
    /// What an answer claims; `Err` if no answer to this operation can look like that. Nothing for an operation that
    /// was refused, or whose fate is open.
    pub fn told(operation: &'a Operation, outcome: &'a Outcome) -> Result<Option<Deed<'a>>, String> {
        use Operation as O;
        let mut deed = Deed { saw: Vec::new(), interval: None, wrote: Vec::new(), revision: 0 };
        match (operation, outcome) {
            (_, Outcome::Refused { .. } | Outcome::Unknown { .. }) => return Ok(None),
            (O::Get { key, .. }, Outcome::Read { revision, found, versions }) => {
                deed.revision = *revision;
                deed.see(&[key], found, versions)?;
            }
            (O::Range { key, end, .. }, Outcome::Read { revision, found, versions }) => {
                deed.revision = *revision;
                deed.interval = Some((key, end));
                let keys: Vec<&String> = found.iter().map(|(key, _)| key).collect();
                let ascending = keys.windows(2).all(|pair| pair[0] < pair[1]);
                let within = keys.iter().all(|found| *key <= **found && **found < *end);
                if !ascending || !within || found.iter().any(|(_, value)| value.is_none()) {
                    return Err(format!("keys {keys:?} for the range from {key} to {end}"));
                }
                deed.see(&keys, found, versions)?;
            }
            (O::Put { key, value }, Outcome::Done { revision, .. }) => {
                deed.revision = *revision;
                deed.wrote.push((key, Some(value)));
            }
            (O::Delete { key }, Outcome::Done { revision, found, .. }) => {
                deed.revision = *revision;
                deed.see(&[key], found, &[])?;
                if deed.saw[0].what != What::Nothing {
                    deed.wrote.push((key, None));
                }
            }
            (O::Cas { .. } | O::Transfer { .. }, Outcome::Done { revision, succeeded: true, .. }) => {
                deed = Deed::open(operation).ok_or("a read")?;
                deed.revision = *revision;
            }
            (O::Cas { key, old, .. }, Outcome::Done { revision, found, .. }) => {
                deed.revision = *revision;
                deed.see(&[key], found, &[])?;
                if deed.saw[0].what == What::of(old) {
                    return Err("failed, though it found what it compared with".into());
                }
            }
            (O::Transfer { from, .. }, Outcome::Done { revision, found, .. }) => {
                deed.revision = *revision;
                deed.see(&from.iter().map(|(key, _)| key).collect::<Vec<_>>(), found, &[])?;
                if deed.saw.iter().zip(from).all(|(saw, (_, value))| saw.what == What::of(value)) {
                    return Err("failed, though it found what it compared with".into());
                }
            }
            (O::Compact { .. } | O::Watch(_) | O::Lease(_) | O::Lock(_), _) => return Ok(None),
            (_, Outcome::Told { .. }) => return Err("what belongs to no key".into()),
            (_, Outcome::Done { .. }) => return Err("a read that was done".into()),
            (_, Outcome::Read { .. }) => return Err("a write that was read".into()),
        }
        Ok(Some(deed))
    }

    /// What an operation does if it takes effect, as far as one knows without an answer. A compare that fails changes
    /// nothing, so for the search it is the same as never; hence the compare is what it "saw".
    pub fn open(operation: &'a Operation) -> Option<Deed<'a>> {
        let saw = |key, what| Saw { key, what, version: None };
        let (saw, wrote) = match operation {
            Operation::Put { key, value } => (vec![], vec![(key.as_str(), Some(value.as_str()))]),
            Operation::Delete { key } => (vec![saw(key.as_str(), What::Something)], vec![(key.as_str(), None)]),
            Operation::Cas { key, old, new } => {
                (vec![saw(key.as_str(), What::of(old))], vec![(key.as_str(), Some(new.as_str()))])
            }
            Operation::Transfer { from, to } => (
                from.iter().map(|(key, value)| saw(key.as_str(), What::of(value))).collect(),
                to.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect(),
            ),
            Operation::Get { .. } | Operation::Range { .. } | Operation::Compact { .. } => return None,
            Operation::Watch(_) | Operation::Lease(_) | Operation::Lock(_) => return None,
        };
        Some(Deed { saw, interval: None, wrote, revision: 0 })
    }

    /// Those that it names.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.saw.iter().map(|saw| saw.key).chain(self.wrote.iter().map(|(key, _)| *key))
    }

    pub fn touches(&self, keys: &[&str]) -> bool {
        let has = |key: &str| keys.binary_search(&key).is_ok();
        self.keys().any(has) || self.interval.is_some_and(|(key, end)| keys.iter().any(|k| key <= *k && *k < end))
    }

    fn see(
        &mut self,
        keys: &[&'a String],
        found: &'a [(String, Option<String>)],
        versions: &[i64],
    ) -> Result<(), String> {
        // An answer about one key may leave out that there was nothing.
        if keys.len() == 1 && found.is_empty() {
            self.saw.push(Saw { key: keys[0], what: What::Nothing, version: None });
            return Ok(());
        }
        if !found.iter().map(|(key, _)| key).eq(keys.iter().copied()) {
            return Err(format!("{} pairs, not those of {keys:?}", found.len()));
        }
        if !versions.is_empty() && versions.len() != found.len() {
            return Err(format!("{} pairs with {} versions", found.len(), versions.len()));
        }
        for (nth, (key, value)) in found.iter().enumerate() {
            let version = versions.get(nth).map(|version| u32::try_from(*version)).transpose();
            let version = version.map_err(|_| format!("{key} with version {}", versions[nth]))?;
            if version.is_some_and(|version| (version == 0) != value.is_none()) {
                return Err(format!("{key} with version {}", versions[nth]));
            }
            self.saw.push(Saw { key, what: What::of(value), version });
        }
        Ok(())
    }
}

impl<'a> What<'a> {
    pub fn of(value: &'a Option<String>) -> What<'a> {
        value.as_deref().map_or(What::Nothing, What::Value)
    }
}

/// An operation in its time: positions count the questions and answers of the run.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// Where the checker keeps it.
    pub record: usize,
    pub asked: usize,
    /// `None`: open for ever. What it claims is then [`Deed::open`].
    pub answered: Option<usize>,
    pub deed: Deed<'a>,
}

/// The cases of all keys, and what follows from all of them.
#[derive(Debug)]
pub struct Whole<'a> {
    pub cases: Vec<Case<'a>>,
    /// For each the highest revision that had been told before it was asked.
    floors: Vec<i64>,
    /// Runs of revisions that somebody was told to have made: first and last.
    taken: Vec<(i64, i64)>,
}

impl<'a> Whole<'a> {
    /// `aside` are revisions that others have made, and told nobody here.
    pub fn new(cases: Vec<Case<'a>>, aside: &BTreeSet<i64>) -> Whole<'a> {
        Whole { floors: floors(&cases), taken: taken(&cases, aside), cases }
    }
}

/// A key's state: the value by number, [`NOTHING`] if it does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub value: u32,
    pub version: u32,
}

pub const NOTHING: u32 = 0;
/// All values of a key that no operation of the problem claims to have seen, or compares with: nobody can tell them
/// apart.
const UNSEEN: u32 = 1;
pub const SOMETHING: u32 = u32::MAX;

/// A case in numbers.
#[derive(Clone, Debug)]
pub struct Step {
    pub asked: usize,
    pub answered: Option<usize>,
    pub revision: i64,
    /// The highest revision that anybody had been told when this was asked: if it wrote, then above that.
    pub floor: i64,
    pub saw: Vec<(usize, Cell, bool)>,
    pub wrote: Vec<(usize, u32)>,
    /// The keys of both.
    pub keys: BTreeSet<usize>,
    /// An open step that does the same and was asked before: it goes first.
    pub twin: Option<usize>,
}

impl Step {
    pub fn ranked(&self) -> bool {
        self.revision != 0
    }
}

/// What the ranked steps still ask of a key, seen from one of its touches.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    /// Puts before the next step that sees the key, and what the last of them writes.
    pub puts: u32,
    pub last: Option<u32>,
    /// What that step sees, whether it also tells the version, and its revision.
    pub seen: Option<(Cell, bool, i64)>,
}

/// Some keys, and everything that was done to them.
#[derive(Debug, Default)]
pub struct Problem {
    pub steps: Vec<Step>,
    pub keys: usize,
    /// Steps with a revision, in its order.
    pub ranked: Vec<usize>,
    /// The others.
    pub free: Vec<usize>,
    /// For each key, by the number of its touches by ranked steps that are done.
    pub ahead: Vec<Vec<Ahead>>,
    /// For each key, which free steps write it, and what.
    pub writers: Vec<Vec<(usize, u32)>>,
    /// As in [`Whole`].
    taken: Vec<(i64, i64)>,
    /// From this floor on there is some open write outside of this problem, to which a revision that nobody was told
    /// may belong.
    pub strangers: Option<i64>,
}

impl Problem {
    /// `keys` are sorted, and no case of them touches others.
    pub fn new(whole: &Whole<'_>, keys: &[&str]) -> Problem {
        Problem::without(whole, keys, &vec![false; whole.cases.len()])
    }

    /// Without the open writes that nobody can have seen. That allows more: a revision that must have been made by such
    /// a write is anybody's, and what else the write would have done is forgotten. So there is an order for this if
    /// there is one for the whole, and the search is short even where most answers are held back.
    pub fn lean(whole: &Whole<'_>, keys: &[&str]) -> Problem {
        Problem::without(whole, keys, &droppable(&whole.cases, keys))
    }

    fn without(whole: &Whole<'_>, keys: &[&str], dropped: &[bool]) -> Problem {
        let Whole { cases, floors, taken } = whole;
        let mut problem = Problem { keys: keys.len(), taken: taken.clone(), ..Problem::default() };
        let mine: Vec<bool> = cases.iter().map(|case| case.deed.touches(keys)).collect();
        let seen: BTreeSet<(&str, &str)> = (cases.iter().zip(dropped).zip(&mine))
            .filter(|((_, dropped), mine)| **mine && !**dropped)
            .flat_map(|((case, _), _)| values_seen(case))
            .collect();
        let mut numbers: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for (number, pair) in seen.into_iter().enumerate() {
            numbers.insert(pair, UNSEEN + 1 + number as u32);
        }
        let number = |key, what| match what {
            What::Nothing => NOTHING,
            What::Something => SOMETHING,
            What::Value(value) => numbers.get(&(key, value)).copied().unwrap_or(UNSEEN),
        };
        let place = |key: &str| keys.binary_search(&key).expect("a problem holds all keys of its cases");
        for (nth, case) in cases.iter().enumerate() {
            if !mine[nth] || dropped[nth] {
                let writes = !case.deed.wrote.is_empty() && case.deed.revision == 0;
                if writes && problem.strangers.is_none_or(|floor| floors[nth] < floor) {
                    problem.strangers = Some(floors[nth]);
                }
                continue;
            }
            let deed = &case.deed;
            let mut saw: Vec<(usize, Cell, bool)> = deed
                .saw
                .iter()
                .map(|saw| {
                    let cell = Cell { value: number(saw.key, saw.what), version: saw.version.unwrap_or(0) };
                    (place(saw.key), cell, saw.version.is_some())
                })
                .collect();
            if let Some((from, end)) = deed.interval {
                for (at, _) in keys.iter().enumerate().filter(|(_, key)| from <= **key && **key < end) {
                    if saw.iter().all(|(seen, ..)| *seen != at) {
                        saw.push((at, Cell::default(), false));
                    }
                }
            }
            let value = |value: Option<_>| value.map_or(What::Nothing, What::Value);
            let wrote: Vec<(usize, u32)> =
                deed.wrote.iter().map(|(key, wrote)| (place(key), number(key, value(*wrote)))).collect();
            problem.steps.push(Step {
                asked: case.asked,
                answered: case.answered,
                revision: deed.revision,
                floor: floors[nth],
                keys: saw.iter().map(|(key, ..)| *key).chain(wrote.iter().map(|(key, _)| *key)).collect(),
                saw,
                wrote,
                twin: None,
            });
        }
        problem.arrange();
        problem
    }

    /// The first revision from `revision` on that nobody was told to have made.
    pub fn untold_from(&self, revision: i64) -> i64 {
        let run = self.taken.partition_point(|(first, _)| *first <= revision);
        match run.checked_sub(1).map(|run| self.taken[run]) {
            Some((_, last)) if last >= revision => last + 1,
            _ => revision,
        }
    }

    fn arrange(&mut self) {
        // At the same revision the write comes first, and reads in the order in which they were asked: that agrees with
        // real time, and no other order of reads at one revision could end otherwise.
        let (mut ranked, free): (Vec<usize>, Vec<usize>) = (0..self.steps.len()).partition(|s| self.steps[*s].ranked());
        ranked.sort_by_key(|step| {
            let step = &self.steps[*step];
            (step.revision, step.wrote.is_empty(), step.asked)
        });
        self.writers = vec![Vec::new(); self.keys];
        for step in &free {
            for (key, value) in &self.steps[*step].wrote {
                self.writers[*key].push((*step, *value));
            }
        }
        // Of two open steps that do the same, the one asked first may take the place of the other wherever that stands:
        // it was there to be done even earlier. So only one order of them needs to be tried.
        let mut open: Vec<usize> = free.iter().copied().filter(|step| self.steps[*step].answered.is_none()).collect();
        open.sort_by_key(|step| self.steps[*step].asked);
        for (nth, step) in open.iter().enumerate() {
            let same = |other: &&usize| {
                let (a, b) = (&self.steps[**other], &self.steps[*step]);
                a.saw == b.saw && a.wrote == b.wrote
            };
            let twin = open[..nth].iter().rev().find(same).copied();
            self.steps[*step].twin = twin;
        }
        self.ahead = (0..self.keys).map(|_| vec![Ahead::default()]).collect();
        for step in ranked.iter().rev().map(|step| &self.steps[*step]) {
            for key in step.keys.iter().copied() {
                let next = self.ahead[key].last().expect("the end is there");
                let seen = step.saw.iter().find(|(k, ..)| *k == key);
                let wrote = step.wrote.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
                let here = match (seen, wrote) {
                    (Some((_, cell, told)), _) => {
                        Ahead { puts: 0, last: None, seen: Some((*cell, *told, step.revision)) }
                    }
                    (None, wrote) => Ahead { puts: next.puts + 1, last: next.last.or(wrote), seen: next.seen },
                };
                self.ahead[key].push(here);
            }
        }
        for ahead in &mut self.ahead {
            ahead.reverse();
        }
        (self.ranked, self.free) = (ranked, free);
    }
}

/// The highest revision told before each case was asked.
fn floors(cases: &[Case<'_>]) -> Vec<i64> {
    let mut told: Vec<(usize, i64)> =
        cases.iter().filter_map(|case| case.answered.map(|at| (at, case.deed.revision))).collect();
    told.sort_unstable();
    let mut highest = FIRST_REVISION;
    for (_, revision) in &mut told {
        highest = highest.max(*revision);
        *revision = highest;
    }
    let floor = |case: &Case<'_>| {
        let before = told.partition_point(|(at, _)| *at < case.asked);
        before.checked_sub(1).map_or(FIRST_REVISION, |last| told[last].1)
    };
    cases.iter().map(floor).collect()
}

/// The revision of an empty store.
pub const FIRST_REVISION: i64 = 1;

fn taken(cases: &[Case<'_>], aside: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let writes = cases.iter().filter(|case| !case.deed.wrote.is_empty());
    let told: BTreeSet<i64> = writes.map(|case| case.deed.revision).chain(aside.iter().copied()).collect();
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for revision in told.into_iter().filter(|revision| *revision != 0) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == revision => *last = revision,
            _ => runs.push((revision, revision)),
        }
    }
    runs
}

fn values_seen<'a>(case: &Case<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    case.deed.saw.iter().filter_map(|saw| match saw.what {
        What::Value(value) => Some((saw.key, value)),
        What::Nothing | What::Something => None,
    })
}

/// Open writes that can be left out. Such a write leaves only values that nothing in the problem sees or compares with,
/// on keys whose version nothing sees. Wherever it stands in an order, what comes next at its keys is then a write that
/// does not look, or an open delete, which goes with it if there was nothing before. So the order holds without it, but
/// for the revision that it made. One that is left out compares with nothing any more, which may free the next.
///
/// Whole runs are not reduced like this: there, versions are seen nearly everywhere, and each revision is somebody's.
fn droppable(cases: &[Case<'_>], keys: &[&str]) -> Vec<bool> {
    let counted: BTreeSet<&str> = cases
        .iter()
        .flat_map(|case| &case.deed.saw)
        .filter(|saw| saw.version.is_some() && saw.what != What::Nothing)
        .map(|saw| saw.key)
        .collect();
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for pair in cases.iter().flat_map(values_seen) {
        *seen.entry(pair).or_default() += 1;
    }
    let mut dropped = vec![false; cases.len()];
    loop {
        let before = seen.len();
        for (nth, case) in
            cases.iter().enumerate().filter(|(_, case)| case.answered.is_none() && case.deed.touches(keys))
        {
            let unseen = |(key, value): &(&str, Option<&str>)| {
                value.is_some_and(|value| !seen.contains_key(&(*key, value))) && !counted.contains(key)
            };
            if dropped[nth] || !case.deed.wrote.iter().all(unseen) {
                continue;
            }
            dropped[nth] = true;
            for pair in values_seen(case) {
                let count = seen.get_mut(&pair).expect("counted above");
                *count -= 1;
                if *count == 0 {
                    seen.remove(&pair);
                }
            }
        }
        if seen.len() == before {
            return dropped;
        }
    }
}
