//! Watchers on what all the others write, and on a few keys of its own: from now on, from the past, the future, or
//! from before a compaction; alone on a stream or beside another; with readers that take their time. A watcher whose
//! member is gone is resumed at another one.
//!
//! Good at finding: events lost, doubled, torn apart or out of order, where a stream is slow, breaks, is resumed by a
//! member that is behind, or meets a compaction; progress that promises too much.

use std::collections::{BTreeMap, BTreeSet};

use super::{Keys, Kind, Work};
use crate::asks::{WatchAsk, WatchSpec, prefix_end};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "watch", make: |_| Box::new(Watching::new()), weight: 5 };

const KEYS: u64 = 3;
/// Of one client at a time.
const MOST_WATCHERS: usize = 2;
const SINGLE: &[&str] = &["seen0", "seen1", "hot0", "cas0", "own1", "old0", "reg0"];
const PREFIXES: &[&str] = &["seen", "seen", "hot", "cas", "old", "own", "held", "lock/", "elect/", "guard/"];

#[derive(Debug)]
struct Watching {
    keys: Keys,
    made: u64,
    mine: BTreeMap<u64, BTreeSet<u64>>,
    broken: BTreeMap<u64, BTreeSet<u64>>,
    newest: i64,
}

impl Watching {
    fn new() -> Watching {
        Watching { keys: Keys::new("seen"), made: 0, mine: BTreeMap::new(), broken: BTreeMap::new(), newest: 1 }
    }

    fn create(&mut self, client: u64, random: &mut Random) -> WatchAsk {
        self.made += 1;
        let (key, end) = match random.below(10) {
            0..3 => ((*random.pick(SINGLE)).to_owned(), None),
            3..9 => {
                let prefix = *random.pick(PREFIXES);
                (prefix.to_owned(), Some(prefix_end(prefix)))
            }
            _ => ("!".to_owned(), Some("~".to_owned())),
        };
        let newest = self.newest.max(1);
        let from = match random.below(20) {
            0..9 => 0,
            9..13 => newest + 1,
            13..16 => (newest - random.below(40) as i64).max(1),
            16..18 => newest + 1 + random.below(40) as i64,
            _ => random.between(1, newest as u64) as i64,
        };
        let spec = WatchSpec {
            key,
            end,
            from,
            prev_kv: random.permille(400),
            no_put: random.permille(80),
            no_delete: random.permille(120),
            notify: random.permille(400),
            fragment: random.permille(400),
        };
        let slow_us = *random.pick(&[0, 0, 0, 20_000, 100_000, 400_000]);
        let beside = self.mine.get(&client).and_then(|mine| mine.first()).copied();
        let beside = beside.filter(|_| random.permille(400));
        self.mine.entry(client).or_default().insert(self.made);
        WatchAsk::Create { watcher: self.made, spec, beside, slow_us }
    }

    fn forget(&mut self, client: u64, watcher: u64) {
        for known in [&mut self.mine, &mut self.broken] {
            known.entry(client).or_default().remove(&watcher);
        }
    }
}

impl Work for Watching {
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let mine: Vec<u64> = self.mine.entry(client).or_default().iter().copied().collect();
        if let Some(watcher) = self.broken.entry(client).or_default().first().copied()
            && random.permille(800)
        {
            return Operation::Watch(WatchAsk::Resume { watcher });
        }
        if mine.len() < MOST_WATCHERS && random.permille(400) {
            return Operation::Watch(self.create(client, random));
        }
        if !mine.is_empty() && random.permille(350) {
            let watcher = *random.pick(&mine);
            return Operation::Watch(match random.below(10) {
                0..3 => WatchAsk::Resume { watcher },
                3..5 => WatchAsk::Cancel { watcher },
                _ => WatchAsk::Progress { watcher },
            });
        }
        let key = self.keys.name(random.below(KEYS));
        match random.below(10) {
            0..6 => Operation::Put { key, value: fresh() },
            6..9 => Operation::Delete { key },
            _ => Operation::Get { key, serializable: false },
        }
    }

    fn learn(&mut self, client: u64, operation: &Operation, outcome: &Outcome) {
        self.keys.learn(operation, outcome);
        if let Outcome::Done { revision, .. } | Outcome::Read { revision, .. } = outcome {
            self.newest = self.newest.max(*revision);
        }
        let Operation::Watch(ask) = operation else { return };
        let is_refused = matches!(outcome, Outcome::Refused { .. });
        match ask {
            WatchAsk::Create { watcher, .. } if is_refused => self.forget(client, *watcher),
            WatchAsk::Cancel { watcher } if !is_refused => self.forget(client, *watcher),
            WatchAsk::Resume { watcher } if !is_refused => {
                self.broken.entry(client).or_default().remove(watcher);
            }
            _ => {}
        }
    }

    fn broke(&mut self, client: u64, watcher: u64) {
        if self.mine.get(&client).is_some_and(|mine| mine.contains(&watcher)) {
            self.broken.entry(client).or_default().insert(watcher);
        }
    }
}
