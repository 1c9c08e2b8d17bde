//! The linearizability checker against histories of known worth: a table written by hand, executions that are linear by
//! construction, and the same with one thing changed, where trying every order says what is right.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_sim::check::linearizability::Linearizability;
use lockstep_sim::check::{Checker, Objection, Seen};
use lockstep_sim::history::{Operation, Outcome};
use lockstep_sim::random::{Purpose, Random};

/// What must be said of a history: `ok`, or the place and the operations that the story names. One line an operation:
/// asked, answered or `open`, what, `->` and the answer, with `/version` after a value and `@revision` at the end where
/// they are told. Operations are numbered by their lines, from 1.
const TABLE: &[(&str, &str, &str)] = &[
    ("nothing", "", "ok"),
    ("one after the other", "1 2 put k a -> ok\n3 4 get k -> a\n5 6 delete k -> a\n7 8 get k -> -", "ok"),
    ("stale read", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 get k -> a", "stale read: 1 2 3"),
    ("a write may be seen at once", "1 9 put k a -> ok\n2 3 get k -> a\n4 5 get k -> a", "ok"),
    ("... and then stays", "1 9 put k a -> ok\n2 3 get k -> a\n4 5 get k -> -", "stale read: 2 3"),
    (
        "reads that go back in time",
        "1 2 put k a -> ok\n3 20 put k b -> ok\n4 5 get k -> b\n6 7 get k -> a",
        "stale read: 1 3 4",
    ),
    ("reads at the same time", "1 2 put k a -> ok\n3 20 put k b -> ok\n4 7 get k -> b\n5 6 get k -> a", "ok"),
    ("a read of the future", "1 2 get k -> a\n3 4 put k a -> ok", "value from nowhere: 1"),
    ("a read of nothing", "1 2 put k a -> ok\n3 4 get k -> z", "value from nowhere: 2"),
    ("an open write is never seen", "1 open put k a\n2 3 put k b -> ok\n4 5 get k -> b\n6 7 get k -> b", "ok"),
    ("an open write is seen late", "1 open put k a\n2 3 put k b -> ok\n4 5 get k -> b\n6 7 get k -> a", "ok"),
    ("... and then un-seen", "1 open put k a\n2 3 put k b -> ok\n4 5 get k -> a\n6 7 get k -> b", "stale read: 2 3 4"),
    ("an open write is seen before it is asked", "1 2 get k -> a\n3 open put k a", "value from nowhere: 1"),
    ("an open delete", "1 2 put k a -> ok\n3 open delete k\n4 5 get k -> a\n6 7 get k -> -", "ok"),
    ("an open delete, once", "1 2 put k a -> ok\n3 open delete k\n4 5 get k -> -\n6 7 get k -> a", "stale read: 1 3 4"),
    ("told that nobody knows", "1 2 put k a -> ?\n3 4 get k -> -\n5 6 get k -> a", "ok"),
    ("a swap after its time-out", "1 2 put k a -> ok\n3 open cas k a b\n4 5 get k -> a\n6 7 cas k b c -> ok", "ok"),
    (
        "two swaps from the same value",
        "1 2 put k a -> ok\n3 6 cas k a b -> ok\n4 5 cas k a c -> ok",
        "lost update: 1 2 3",
    ),
    ("one of two swaps", "1 2 put k a -> ok\n3 6 cas k a b -> ok\n4 5 cas k a c -> found b", "ok"),
    ("a swap with what was", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 cas k a c -> ok", "lost update: 1 2 3"),
    ("a swap that fails for no reason", "1 2 put k a -> ok\n3 4 cas k a b -> found a", "impossible answer: 2"),
    (
        "a swap that found the old",
        "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 cas k c d -> found a",
        "lost update: 1 2 3",
    ),
    ("a swap with nothing", "1 2 cas k - a -> ok\n3 4 cas k - b -> found a", "ok"),
    ("a swap with nothing, twice", "1 2 cas k - a -> ok\n3 4 cas k - b -> ok", "lost update: 1 2"),
    ("a delete of what was", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 delete k -> a", "lost update: 1 2 3"),
    ("a delete of nothing", "1 2 put k a -> ok\n3 4 delete k -> -", "lost update: 1 2"),
    ("two deletes of one", "1 2 put k a -> ok\n3 6 delete k -> a\n4 5 delete k -> a", "lost update: 1 2 3"),
    ("a refused write", "1 2 put k a -> refused\n3 4 get k -> -", "ok"),
    ("a refused write is seen", "1 2 put k a -> refused\n3 4 get k -> a", "refused write took effect: 1 2"),
    ("a refused write was seen", "1 4 put k a -> refused\n2 3 get k -> a", "refused write took effect: 1 2"),
    ("... serializably", "1 4 put k a -> refused\n2 3 get k serializable -> a", "refused write took effect: 1 2"),
    (
        "a refused delete",
        "1 2 put k a -> ok\n3 4 delete k -> refused\n5 6 get k -> -",
        "refused write took effect: 2 3",
    ),
    ("what was refused is written again", "1 2 put k a -> refused\n3 4 put k a -> ok\n5 6 get k -> a", "ok"),
    ("serializable reads may be old", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 get k serializable -> a", "ok"),
    ("a range", "1 2 put a x -> ok\n3 4 put b y -> ok\n5 6 range a c -> a=x b=y\n7 8 range a b -> a=x", "ok"),
    ("a stale range", "1 2 put a x -> ok\n3 4 put b y -> ok\n5 6 range a c -> a=x", "stale read: 2 3"),
    (
        "a range that sees half of a transfer",
        "1 2 transfer a:->x b:->x -> ok\n3 8 transfer a:x>y b:x>y -> ok\n4 5 range a c -> a=x b=y",
        "torn read: 1 2 3",
    ),
    (
        "two reads that see two writes in two orders",
        "1 9 put a x -> ok\n2 9 put b y -> ok\n3 4 range a c -> a=x\n5 6 range a c -> b=y",
        "stale read: 3 4",
    ),
    (
        "write skew",
        "1 2 transfer a:->1 b:->1 -> ok\n3 6 transfer a:1>0 b:1>2 -> ok\n4 5 transfer a:1>2 b:1>0 -> ok",
        "lost update: 1 2 3",
    ),
    (
        "a transfer that failed sees all",
        "1 2 transfer a:->1 b:->1 -> ok\n3 6 transfer a:1>0 b:1>2 -> ok\n4 5 transfer a:1>2 b:1>0 -> found a=0 b=2",
        "ok",
    ),
    (
        "a transfer that failed and sees half",
        "1 2 transfer a:->1 b:->1 -> ok\n3 6 transfer a:1>0 b:1>2 -> ok\n4 5 transfer a:1>2 b:1>0 -> found a=0 b=1",
        "lost update: 1 2 3",
    ),
    (
        "everything at once",
        "1 99 put k a -> ok\n2 98 put k b -> ok\n3 97 cas k a c -> ok\n4 96 cas k b d -> ok\n5 95 get k -> -\n\
         6 94 delete k -> c\n7 93 get k -> d\n8 open put k e\n9 92 get k -> e",
        "ok",
    ),
    (
        "everything at once, one too many",
        "1 99 put k a -> ok\n2 98 cas k a b -> ok\n3 97 cas k a c -> ok\n4 96 get k -> -",
        "lost update: 1 2 3",
    ),
    (
        "keys are judged apart",
        "1 2 put a x -> ok\n3 4 put b y -> ok\n5 6 get a -> x\n7 8 get b -> -",
        "stale read: 2 4",
    ),
    ("answered twice", "1 2 put k a -> ok\n1 3 again 1 -> ok", "answered twice: 1"),
    ("a range of other keys", "1 2 put z x -> ok\n3 4 range a c -> z=x", "impossible answer: 2"),
    // With versions: puts are counted.
    ("versions", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 get k -> b/2\n7 8 get n -> -/0", "ok"),
    ("a put applied twice", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 get k -> b/3", "wrong version: 2 3"),
    ("a put applied never", "1 2 put k a -> ok\n3 4 put k b -> ok\n5 6 get k -> b/1", "wrong version: 1 2 3"),
    ("an open put that counts", "1 open put k a\n2 3 put k b -> ok\n4 5 get k -> b/2", "ok"),
    ("versions begin again", "1 2 put k a -> ok\n3 4 delete k -> a\n5 6 put k b -> ok\n7 8 get k -> b/1", "ok"),
    // With revisions: writes are counted, and their order is told.
    ("revisions", "1 2 put k a -> ok @2\n3 4 put j b -> ok @3\n5 6 get k -> a @3\n7 8 delete n -> - @3", "ok"),
    ("a read at an old revision", "1 2 put k a -> ok @2\n3 4 put j b -> ok @3\n5 6 get k -> a @2", "stale read: 2 3"),
    ("a write at an old revision", "1 2 put k a -> ok @2\n3 4 put j b -> ok @2", "lost update: 1 2"),
    ("a revision given twice", "1 4 put k a -> ok @2\n2 3 put j b -> ok @2", "revision given twice: 1 2"),
    ("a revision that nobody made", "1 2 put k a -> ok @2\n3 4 put j b -> ok @4", "revision from nowhere: 2"),
    ("a revision that an open write made", "1 2 put k a -> ok @2\n3 open put k c\n4 5 put j b -> ok @4", "ok"),
    (
        "... in vain",
        "1 2 put k a -> ok @2\n3 open put k c\n4 5 put k b -> ok @4\n6 7 get k -> b/2 @4",
        "wrong version: 3 4",
    ),
    ("an open write finds no revision", "1 2 put k a -> ok @2\n3 open put k c\n4 5 get k -> c @2", "stale read: 1 2 3"),
    (
        "at the same time, in the order of revisions",
        "1 9 put k a -> ok @3\n2 8 put k b -> ok @2\n10 11 get k -> a @3",
        "ok",
    ),
    (
        "at the same time, in the other order",
        "1 9 put k a -> ok @3\n2 8 put k b -> ok @2\n10 11 get k -> b @3",
        "stale read: 1 2 3",
    ),
];

#[test]
fn histories_written_by_hand() {
    let mut wrong = String::new();
    for (name, history, expected) in TABLE {
        let said = match judge(&parse(history), 100_000) {
            Ok(()) => "ok".to_owned(),
            Err(objection) => {
                let operations = objection.story.rsplit_once("; operations: ").expect("the story names operations").1;
                format!("{}: {operations}", objection.place)
            }
        };
        if said != *expected {
            wrong += &format!("{name}: {said}, not {expected}\n{:?}\n", judge(&parse(history), 100_000));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_story_names_who_and_when() {
    let history = "1 2 put k a -> ok\n3 4 put j x -> ok\n5 6 put k b -> ok\n7 8 get j -> x\n9 11 get k -> a";
    let story = judge(&parse(history), 1_000).expect_err("a stale read").story;
    insta::assert_snapshot!(story.replace(", ", ",\n"), @r"
    operation 5 of client 5 read k=a (asked at 0.009s,
    answered at 0.011s),
    what operation 1 of client 1 (put k=a,
    asked at 0.001s,
    answered at 0.002s) wrote,
    though operation 3 of client 3 (put k=b,
    asked at 0.005s,
    answered at 0.006s) had completed before it was asked; operations: 1 3 5
    ");
}

/// A search that may try too little says so, and does not call it a failure.
#[test]
fn a_small_budget_ends_undecided() {
    let history = parse("1 99 put k a -> ok\n2 98 put k b -> ok\n3 97 put k c -> ok\n4 96 get k -> b\n5 95 get k -> a");
    let objection = judge(&history, 3).expect_err("three steps cannot do");
    assert!(objection.undecided, "{objection:?}");
    assert_eq!(judge(&history, 1_000), Ok(()));
}

/// Whole runs: linear by construction, as long and as wide as a simulated minute, a third with one group of all keys.
#[test]
fn long_linear_executions_pass_in_few_steps() {
    let mut undecided = 0;
    for seed in 0..40 {
        let history = Draw::long(seed).history;
        match judge(&history, 20_000) {
            Ok(()) => {}
            Err(objection) if objection.undecided => undecided += 1,
            Err(objection) => panic!("seed {seed}: {objection:?}"),
        }
    }
    assert_eq!(undecided, 0);
}

/// Tiny histories, linear and not: the search agrees with trying every order.
#[test]
fn agrees_with_every_order() {
    let (mut linear, mut not) = (0, 0);
    for seed in 0..6_000 {
        let draw = Draw::tiny(seed);
        compare(seed, &draw, &draw.history);
        let mut changed = draw.history.clone();
        corrupt(&mut changed, &mut Random::new(seed, Purpose::Disk));
        match compare(seed, &draw, &changed) {
            true => linear += 1,
            false => not += 1,
        }
        assert!(every_order(&draw.history), "seed {seed}: made linear:\n{}", print(&draw.history));
    }
    assert!(linear > 1_000 && not > 1_000, "{linear} linear, {not} not");
}

/// Whether there is an order.
fn compare(seed: u64, draw: &Draw, history: &[Asked]) -> bool {
    let said = judge(history, 100_000);
    let exists = every_order(history);
    let agrees = match &said {
        Ok(()) => exists || draw.revisions && !draw.one_group,
        Err(objection) => !objection.undecided && !exists,
    };
    assert!(agrees, "seed {seed}: said {said:?}, an order exists: {exists}\n{}", print(history));
    exists
}

#[derive(Clone, Debug)]
struct Asked {
    asked: u64,
    /// When, and `None` when it never was.
    answered: Option<(u64, Outcome)>,
    operation: Operation,
    /// Answers the operation of that line a second time.
    again: Option<u64>,
}

fn judge(history: &[Asked], budget: u64) -> Result<(), Objection> {
    let mut checker = Linearizability::with_budget(budget);
    // At the same time questions come first: such operations overlap.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, asked) in history.iter().enumerate() {
        events.push((asked.asked, false, at));
        events.extend(asked.answered.iter().map(|(time, _)| (*time, true, at)));
    }
    events.sort_unstable();
    for (time, is_answer, at) in events {
        let asked = &history[at];
        let (number, client, member, operation) =
            (asked.again.unwrap_or(at as u64 + 1), at as u64 % 8 + 1, 1, &asked.operation);
        let seen = match &asked.answered {
            Some((_, outcome)) if is_answer => Seen::Answered { number, client, member, operation, outcome },
            _ if asked.again.is_some() => continue,
            _ => Seen::Asked { number, client, member, operation },
        };
        checker.see(time * 1_000, &seen)?;
    }
    checker.see(1_000_000, &Seen::Over)
}

/// The store as clients see it: key -> (value, version), and the revision.
#[derive(Clone, Debug)]
struct Store {
    keys: BTreeMap<String, (String, i64)>,
    revision: i64,
}

impl Store {
    fn new() -> Store {
        Store { keys: BTreeMap::new(), revision: 1 }
    }

    fn value(&self, key: &str) -> Option<String> {
        self.keys.get(key).map(|(value, _)| value.clone())
    }

    fn apply(&mut self, operation: &Operation) -> Outcome {
        let mut succeeded = true;
        let mut found = Vec::new();
        match operation {
            Operation::Put { key, value } => self.write(&[(key.clone(), value.clone())]),
            Operation::Delete { key } => {
                found.push((key.clone(), self.value(key)));
                self.revision += i64::from(self.keys.remove(key).is_some());
            }
            Operation::Get { key, .. } => {
                let versions = vec![self.keys.get(key).map_or(0, |(_, version)| *version)];
                return Outcome::Read {
                    revision: self.revision,
                    found: vec![(key.clone(), self.value(key))],
                    versions,
                };
            }
            Operation::Range { key, end, .. } => {
                let within = self.keys.range(key.clone()..end.clone());
                let (found, versions) =
                    within.map(|(key, (value, version))| ((key.clone(), Some(value.clone())), *version)).unzip();
                return Outcome::Read { revision: self.revision, found, versions };
            }
            Operation::Cas { key, old, new } => {
                succeeded = self.value(key) == *old;
                match succeeded {
                    true => self.write(&[(key.clone(), new.clone())]),
                    false => found.push((key.clone(), self.value(key))),
                }
            }
            Operation::Transfer { from, to } => {
                succeeded = from.iter().all(|(key, value)| self.value(key) == *value);
                match succeeded {
                    true => self.write(to),
                    false => found = from.iter().map(|(key, _)| (key.clone(), self.value(key))).collect(),
                }
            }
            Operation::Compact { .. } => {}
            aside => panic!("{aside} is not about keys"),
        }
        Outcome::Done { revision: self.revision, succeeded, found }
    }

    fn write(&mut self, pairs: &[(String, String)]) {
        self.revision += 1;
        for (key, value) in pairs {
            let version = self.keys.get(key).map_or(0, |(_, version)| *version);
            self.keys.insert(key.clone(), (value.clone(), version + 1));
        }
    }
}

/// When it was asked; when it was answered, and how; what it was.
type Left<'a> = (u64, Option<(u64, &'a Outcome)>, &'a Operation);

/// Tries every order, with the store itself as the judge. Revision 0 and no versions: not told.
fn every_order(history: &[Asked]) -> bool {
    let settled = |asked: &&Asked| !matches!(asked.answered, Some((_, Outcome::Refused { .. })));
    let left: Vec<Left<'_>> = history
        .iter()
        .filter(settled)
        .map(|asked| {
            let told = asked.answered.as_ref().filter(|(_, outcome)| !matches!(outcome, Outcome::Unknown { .. }));
            (asked.asked, told.map(|(time, outcome)| (*time, outcome)), &asked.operation)
        })
        .collect();
    order(&Store::new(), &left)
}

fn order(store: &Store, left: &[Left<'_>]) -> bool {
    let Some(first) = left.iter().filter_map(|(_, told, _)| told.map(|(time, _)| time)).min() else { return true };
    (0..left.len()).any(|next| {
        let (asked, told, operation) = &left[next];
        if *asked > first {
            return false;
        }
        let mut store = store.clone();
        let outcome = store.apply(operation);
        if told.is_some_and(|(_, told)| !is_same(told, &outcome)) {
            return false;
        }
        let mut left = left.to_vec();
        left.remove(next);
        order(&store, &left)
    })
}

fn is_same(told: &Outcome, right: &Outcome) -> bool {
    match (told, right) {
        (
            Outcome::Done { revision, succeeded, found },
            Outcome::Done { revision: right, succeeded: right_succeeded, found: right_found },
        ) => (*revision == 0 || revision == right) && succeeded == right_succeeded && found == right_found,
        (
            Outcome::Read { revision, found, versions },
            Outcome::Read { revision: right, found: right_found, versions: right_versions },
        ) => {
            (*revision == 0 || revision == right)
                && found == right_found
                && (versions.is_empty() || versions == right_versions)
        }
        _ => false,
    }
}

/// A history drawn from a linear execution.
struct Draw {
    history: Vec<Asked>,
    revisions: bool,
    /// There is but one key. Several groups may claim the same revision that nobody was told; the search allows that.
    one_group: bool,
}

impl Draw {
    /// At most 8 operations, few values, everything overlapping: what tells the search from a wrong one.
    fn tiny(seed: u64) -> Draw {
        let random = &mut Random::new(seed, Purpose::Workload);
        let keys = ["a", "b", "c"][..random.between(1, 3) as usize].to_vec();
        let (revisions, versions) = (random.permille(500), random.permille(400));
        // Half of the values are written more than once.
        let values = if random.permille(500) { 2 } else { 1_000 };
        let mut store = Store::new();
        let mut history = Vec::new();
        for nth in 1..=random.between(2, 8) {
            let mut any = |random: &mut Random| match values {
                2 => random.pick(&["x", "y"]).to_string(),
                _ => format!("v{nth}.{}", random.below(1_000)),
            };
            let operation = operation(random, &keys, &store, &mut any);
            let spread = random.between(1, 60);
            let asked = (nth * 10).saturating_sub(random.below(spread));
            let answered = nth * 10 + random.below(spread);
            let mut asked = Asked { asked, answered: None, operation, again: None };
            match random.below(10) {
                0 => asked.answered = Some((answered, Outcome::Refused { error: "no leader".into() })),
                1 => {}
                2 => _ = store.apply(&asked.operation),
                3 => {
                    store.apply(&asked.operation);
                    asked.answered = Some((answered, Outcome::Unknown { why: "time-out".into() }));
                }
                _ => {
                    let mut outcome = store.apply(&asked.operation);
                    forget(&mut outcome, revisions && random.permille(900), versions && random.permille(900));
                    asked.answered = Some((answered, outcome));
                }
            }
            history.push(asked);
        }
        let groups = groups(&history);
        Draw { history, revisions, one_group: groups <= 1 }
    }

    /// 1,500 operations of 8 clients in a minute, 60 of them open. Half of these took effect, some of them much later.
    fn long(seed: u64) -> Draw {
        let random = &mut Random::new(seed, Purpose::Workload);
        let names: Vec<String> = (0..random.between(1, 16)).map(|nth| format!("k{nth:02}")).collect();
        let keys: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut store = Store::new();
        let mut history: Vec<Asked> = Vec::new();
        // Operations take effect in the order of these moments.
        let mut moments: BTreeMap<(u64, usize), (u64, Option<u64>)> = BTreeMap::new();
        let mut free_at = [0u64; 8];
        for nth in 0..1_500usize {
            let client = (0..8).min_by_key(|client| free_at[*client]).expect("eight clients");
            let asked = free_at[client] + random.between(1, 300_000);
            let takes = random.between(1_000, 500_000);
            let moment = asked + random.below(takes);
            free_at[client] = asked + takes;
            match random.below(25) {
                0 => {
                    free_at[client] = asked + 5_000_000;
                    let late = if random.permille(300) { random.below(20_000_000) } else { random.below(2_000_000) };
                    if random.permille(500) {
                        moments.insert((asked + late, nth), (asked, None));
                    } else {
                        moments.insert((u64::MAX, nth), (asked, None));
                    }
                }
                _ => _ = moments.insert((moment, nth), (asked, Some(asked + takes))),
            }
        }
        for (count, ((moment, _), (asked, answered))) in moments.into_iter().enumerate() {
            let operation = operation(random, &keys, &store, &mut |_| format!("v{count}"));
            let outcome = (moment != u64::MAX).then(|| store.apply(&operation));
            let answered = answered.map(|time| (time, outcome.expect("what is answered took effect")));
            history.push(Asked { asked, answered, operation, again: None });
        }
        Draw { history, revisions: true, one_group: true }
    }
}

/// Mostly something that can succeed.
fn operation(
    random: &mut Random,
    keys: &[&str],
    store: &Store,
    any: &mut dyn FnMut(&mut Random) -> String,
) -> Operation {
    let key = random.pick(keys).to_string();
    let old = |random: &mut Random, key: &str| match random.below(4) {
        0 => store.keys.values().next().map(|(value, _)| value.clone()),
        _ => store.value(key),
    };
    match random.below(12) {
        0..=3 => Operation::Put { key, value: any(random) },
        4 => Operation::Delete { key },
        5..=7 => Operation::Get { key, serializable: false },
        8 => Operation::Range { key, end: "z".into(), serializable: false },
        9 | 10 => Operation::Cas { old: old(random, &key), key, new: any(random) },
        _ => {
            let both: BTreeSet<String> = [key, random.pick(keys).to_string()].into();
            let from = both.iter().map(|key| (key.clone(), old(random, key))).collect();
            let to = both.into_iter().map(|key| (key, any(random))).collect();
            Operation::Transfer { from, to }
        }
    }
}

fn forget(outcome: &mut Outcome, keep_revision: bool, keep_versions: bool) {
    let (Outcome::Done { revision, .. } | Outcome::Read { revision, .. }) = outcome else { return };
    if !keep_revision {
        *revision = 0;
    }
    if let Outcome::Read { versions, .. } = outcome
        && !keep_versions
    {
        versions.clear();
    }
}

/// Changes one thing that somebody saw.
fn corrupt(history: &mut [Asked], random: &mut Random) {
    let values: Vec<Option<String>> = history
        .iter()
        .filter_map(|asked| match &asked.operation {
            Operation::Put { value, .. } | Operation::Cas { new: value, .. } => Some(Some(value.clone())),
            _ => None,
        })
        .chain([None])
        .collect();
    let value = random.pick(&values).clone();
    let at = random.below(history.len() as u64) as usize;
    let Some((time, outcome)) = &mut history[at].answered else { return };
    match (random.below(4), outcome) {
        (0, Outcome::Done { revision, .. } | Outcome::Read { revision, .. }) if *revision != 0 => {
            *revision = (*revision + random.below(5) as i64 - 2).max(1);
        }
        (1, Outcome::Read { versions, .. }) if versions.first().is_some_and(|version| *version > 0) => {
            versions[0] = (versions[0] + random.below(3) as i64 - 1).max(1);
        }
        (2, _) => *time = history[at].asked + random.below(3),
        (_, Outcome::Read { found, versions, .. }) if !found.is_empty() => {
            found[0].1 = value;
            if found[0].1.is_none()
                && history[at].operation != (Operation::Get { key: found[0].0.clone(), serializable: false })
            {
                found.remove(0);
                versions.drain(..versions.len().min(1));
            } else if let Some(version) = versions.first_mut() {
                *version = i64::from(found[0].1.is_some());
            }
        }
        (_, Outcome::Done { found, .. }) if !found.is_empty() => found[0].1 = value,
        (_, Outcome::Done { succeeded, .. }) if matches!(history[at].operation, Operation::Cas { .. }) => {
            *succeeded = false;
            let Operation::Cas { key, .. } = &history[at].operation else { return };
            let told = Outcome::Done { revision: 0, succeeded: false, found: vec![(key.clone(), value)] };
            history[at].answered.as_mut().expect("answered").1 = told;
        }
        _ => {}
    }
}

/// How many groups of keys no operation joins.
fn groups(history: &[Asked]) -> usize {
    let keys_of = |operation: &Operation| -> Vec<String> {
        match operation {
            Operation::Put { key, .. }
            | Operation::Delete { key }
            | Operation::Get { key, .. }
            | Operation::Cas { key, .. } => {
                vec![key.clone()]
            }
            Operation::Transfer { from, .. } => from.iter().map(|(key, _)| key.clone()).collect(),
            _ => vec![],
        }
    };
    history.iter().flat_map(|asked| keys_of(&asked.operation)).collect::<BTreeSet<String>>().len()
}

fn print(history: &[Asked]) -> String {
    history.iter().map(|asked| format!("{asked:?}\n")).collect()
}

fn parse(text: &str) -> Vec<Asked> {
    text.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Asked {
    let (question, answer) =
        line.split_once(" -> ").map_or((line, None), |(question, answer)| (question, Some(answer)));
    let words: Vec<&str> = question.split_whitespace().collect();
    let value = |text: &str| (text != "-").then(|| text.to_owned());
    let mut again = None;
    let key = words[3].to_owned();
    let serializable = words.last() == Some(&"serializable");
    let operation = match words[2] {
        "put" => Operation::Put { key, value: words[4].into() },
        "delete" => Operation::Delete { key },
        "get" => Operation::Get { key, serializable },
        "range" => Operation::Range { key, end: words[4].into(), serializable },
        "cas" => Operation::Cas { key, old: value(words[4]), new: words[5].into() },
        "transfer" => {
            let parts = words[3..].iter().map(|word| {
                let (key, change) = word.split_once(':').expect("key:old>new");
                let (old, new) = change.rsplit_once('>').expect("old>new");
                ((key.to_owned(), value(old)), (key.to_owned(), new.to_owned()))
            });
            let (from, to) = parts.unzip();
            Operation::Transfer { from, to }
        }
        "again" => {
            again = Some(key.parse().expect("a number"));
            Operation::Put { key: "k".into(), value: "a".into() }
        }
        other => panic!("no operation {other}"),
    };
    let answered = answer.map(|answer| (words[1].parse().expect("a time"), parse_answer(&operation, answer)));
    Asked { asked: words[0].parse().expect("a time"), answered, operation, again }
}

fn parse_answer(operation: &Operation, answer: &str) -> Outcome {
    let mut words: Vec<&str> = answer.split_whitespace().collect();
    let revision = words.pop_if(|word| word.starts_with('@')).map_or(0, |word| word[1..].parse().expect("a revision"));
    match words.as_slice() {
        ["refused"] => return Outcome::Refused { error: "no leader".into() },
        ["?"] => return Outcome::Unknown { why: "time-out".into() },
        ["ok"] => return Outcome::Done { revision, succeeded: true, found: vec![] },
        _ => {}
    }
    let succeeded = words.first() != Some(&"found");
    let mut versions = Vec::new();
    let mut pair = |word: &&str| {
        let (word, version) = word.split_once('/').map_or((*word, None), |(word, version)| (word, Some(version)));
        versions.extend(version.map(|version| version.parse::<i64>().expect("a version")));
        let key = match operation {
            Operation::Get { key, .. } | Operation::Delete { key } | Operation::Cas { key, .. } => key,
            _ => "",
        };
        let (key, value) = word.split_once('=').unwrap_or((key, word));
        (key.to_owned(), (value != "-").then(|| value.to_owned()))
    };
    let found: Vec<(String, Option<String>)> = words.iter().filter(|word| **word != "found").map(&mut pair).collect();
    match operation {
        Operation::Get { .. } | Operation::Range { .. } => Outcome::Read { revision, found, versions },
        _ => Outcome::Done { revision, succeeded, found },
    }
}
