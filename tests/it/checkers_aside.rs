//! The checkers of watches, leases and locks, each on its own: a script of what is seen, and what the checker must
//! find in it.
//!
//! Revisions are made by hand: `made 3 a=1 -b` has a put and a deletion, whose versions follow from what was made
//! before.
//! The language is in [`Script::line`].

use std::collections::BTreeMap;

use lockstep::member::raft::{Persist, Role, Status};
use lockstep::mvcc::read::Read;
use lockstep::ports::clock::Instant;
use lockstep_proto::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest};
use lockstep_proto::mvccpb::event::EventType;
use lockstep_proto::mvccpb::{Event, KeyValue};
use lockstep_proto::raftpb::{Entry, EntryType};
use lockstep_sim::asks::{Told, WatchAsk};
use lockstep_sim::calm::Calm;
use lockstep_sim::check::{self, Checker, Heard, Objection, Seen};
use lockstep_sim::fault::Words;
use lockstep_sim::history::{Operation, Outcome};
use lockstep_sim::knobs::Knobs;
use lockstep_sim::lab::put;
use lockstep_sim::member::Setup;
use prost::Message;

/// Script, and the place and words of what is found; empty for nothing.
type Case = (&'static str, &'static str, &'static str);

const WATCHES: &[Case] = &[
    ("made 2 a=1; made 3 a=2; watch 1 a from 2; created 1 3; hear 1 3 2:a 3:a; over", "", ""),
    ("made 2 a=1; watch 1 a; created 1 2; made 3 a=2; made 4 b=1; made 5 -a; hear 1 5 3:a 5:a; over", "", ""),
    // Ordered, unique, resumable.
    ("made 2 a=1; made 3 a=2; watch 1 a from 2; hear 1 3 2:a 3:a; hear 1 2 2:a", "events out of order", "heard of 3"),
    ("made 2 a=1; watch 1 a from 2; hear 1 2 2:a; hear 1 2 2:a", "duplicate event", "heard of that"),
    (
        "made 2 a=1; watch 1 a from 2; hear 1 2 2:a; broken 1; watch 1 a from 3; hear 1 2 2:a",
        "event from before",
        "from 3",
    ),
    ("made 2 a=1; made 3 a=2; watch 1 a from 9; hear 1 3 3:a", "event from before the start", "from 9"),
    // Atomic.
    ("made 2 a=1 b=1; watch 1 a to c from 2; hear 1 2 2:a", "revision torn apart", "without b"),
    ("made 2 a=1 b=1; watch 1 a to c from 2; created 1 2; hear 1 2 2:a 2:b; over", "", ""),
    // Reliable.
    ("made 2 a=1; made 3 a=2; watch 1 a from 2; hear 1 3 3:a", "event lost", "never of a at 2"),
    ("made 2 a=1; watch 1 a from 2; created 1 2; rest 2; over", "event never came", "a at 2"),
    ("made 2 a=1; watch 1 a from 2; created 1 2; hear 1 2 2:a; rest 2; over", "", ""),
    ("watch 1 a; over", "watch never answered", "watcher 1"),
    ("made 2 a=1; watch 1 a from 2; created 1 2; broken 1; rest 2; over", "", ""),
    // Bookmarkable.
    ("made 2 a=1; watch 1 a from 2; created 1 2; progress 1 2", "progress ahead of events", "up to 2"),
    ("made 2 a=1; watch 1 a from 2; created 1 2; hear 1 2 2:a; progress 1 2; made 3 a=2; hear 1 3 3:a; over", "", ""),
    ("made 2 a=1; made 3 a=2; watch 1 a from 2; hear 1 3 2:a", "progress ahead of events", "a at 3"),
    ("watch 1 a; created 1 1; progress 1 5; made 2 a=1; hear 1 2 2:a", "event behind progress", "up to 5"),
    ("watch 1 a; created 1 1; wants 1 5; progress 1 4", "progress older than the question", "when 5 was"),
    ("watch 1 a; created 1 1; wants 1 5; progress 1 5; progress 1 6", "", ""),
    // The value before, and what the event says of itself.
    ("made 2 a=1; made 3 a=2; watch 1 a from 2 prev; hear 1 3 2:a 3:a", "", ""),
    ("made 2 a=1; made 3 a=2; watch 1 a from 2 prev; hear 1 3 2:a 3:a:noprev", "wrong previous value", "before it was"),
    ("made 2 a=1; made 3 a=2; watch 1 a from 2; hear 1 3 2:a 3:a:recreated", "wrong event", "it says"),
    ("made 2 a=1; made 3 a=2:recreated", "row that does not follow", "is version 2 since 2"),
    // Filter.
    ("made 2 a=1; made 3 -a; watch 1 a from 2 no-put; created 1 3; hear 1 3 3:a; over", "", ""),
    ("made 2 a=1; made 3 -a; watch 1 a from 2 no-put; hear 1 3 2:a 3:a", "event that was not asked for", "not what"),
    ("made 2 b=1; watch 1 a from 2; hear 1 2 2:b", "event that was not asked for", "not what"),
    ("made 2 a=1; watch 1 a from 2; compacted 1 1", "canceled without need", "before 1 is gone"),
];

const LEASES: &[Case] = &[
    ("clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; clocks 1 2000; write 6 revoke 7; commit 6", "", ""),
    (
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; clocks 1 1500; write 6 revoke 7; commit 6",
        "revoked while kept alive",
        "1500 ms had passed",
    ),
    (
        // What counts is when the answered keep-alive was sent.
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; clocks 1 1000; renew 1 7; renewed 1 7 2
         clocks 1 2500; write 6 revoke 7; commit 6",
        "revoked while kept alive",
        "1500 ms had passed",
    ),
    (
        // ... and one that was not answered promises nothing.
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; clocks 1 1000; renew 1 7
         clocks 1 2500; write 6 revoke 7; commit 6",
        "",
        "",
    ),
    (
        // An answer that comes later than the revocation promises as well.
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; clocks 1 1000; renew 1 7
         clocks 1 2500; write 6 revoke 7; commit 6; renewed 1 7 2",
        "revoked while kept alive",
        "1500 ms had passed",
    ),
    (
        // A clock that leapt excuses its own leader.
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; clocks 1 9000; write 6 revoke 7; commit 6",
        "",
        "",
    ),
    (
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; revoke 7; clocks 1 100; write 6 revoke 7; commit 6",
        "",
        "",
    ),
    ("clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; renew 1 7; renewed 1 7 0", "lease is not there", "7"),
    (
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; core; lead 1 term:2 commit:6
         at 9000; clocks 1 9000; lead 1 term:2 commit:7",
        "expired lease is still there",
        "9000 ms have passed",
    ),
    (
        "clocks 1 0; grant 7 2; write 5 grant 7; commit 5; granted; core; lead 1 term:2 commit:6
         at 6000; clocks 1 6000; lead 1 term:2 commit:7",
        "",
        "",
    ),
    (
        // Six steady seconds under one leader, and the next one says that all of 20 s are left.
        "clocks 1 0; grant 7 20; write 5 grant 7; commit 5; granted; lead 1 term:2 commit:6; steady 1 2 10 8000
         clocks 2 9000; lead 2 term:3 commit:99; left 7 20",
        "time of a lease begins anew",
        "20 s left",
    ),
    (
        "clocks 1 0; grant 7 20; write 5 grant 7; commit 5; granted; lead 1 term:2 commit:6; steady 1 2 10 8000
         clocks 2 9000; lead 2 term:3 commit:99; left 7 12",
        "",
        "",
    ),
];

const LOCKS: &[Case] = &[
    ("made 2 lock/a/7=; made 3 lock/a/8=; told 3 owns lock/a 7; told 3 waits lock/a 8", "", ""),
    ("made 2 lock/a/7=; made 3 lock/a/8=; told 3 owns lock/a 8", "two holders", "lock/a/7 since 2"),
    ("made 2 lock/a/7=; made 3 -lock/a/7; made 4 lock/a/8=; told 4 owns lock/a 8", "", ""),
    // What counts is the revision of the answer.
    ("made 2 lock/a/7=; made 3 lock/a/8=; made 4 -lock/a/7; told 3 owns lock/a 7; told 4 owns lock/a 8", "", ""),
    ("made 2 lock/a/7=; made 3 -lock/a/7; told 3 owns lock/a 7", "holder without a key", "it is nobody"),
    ("made 2 lock/a/7=; told 2 waits lock/a 7", "wait for nobody", "to wait"),
    ("fence 7 x; made 2 lock/a/7=; made 3 guard/lock/a=x", "", ""),
    (
        "fence 7 x; made 2 lock/a/7=; made 3 lock/a/8=; made 4 -lock/a/7; made 5 guard/lock/a=x",
        "fenced write of who has no lock",
        "was there from 2 to 4",
    ),
    (
        "fence 7 x; fence 8 y; made 2 lock/a/7=; made 3 lock/a/8=; made 4 guard/lock/a=y; made 5 guard/lock/a=x",
        "fenced write of who was overtaken",
        "came at 3",
    ),
    ("made 2 elect/a/7=p; made 3 elect/a/8=q; made 4 elect/a/7=r; told 4 leads elect/a elect/a/7 r", "", ""),
    ("made 2 elect/a/7=p; made 3 elect/a/7=r; told 2 leads elect/a elect/a/7 p", "", ""),
    ("made 2 elect/a/7=p; made 3 elect/a/7=r; told 3 leads elect/a elect/a/7 p", "not who leads", "\"r\""),
    ("made 2 elect/a/7=p; made 3 elect/a/8=q; told 3 leads elect/a elect/a/8 q", "not who leads", "elect/a/7"),
];

#[test]
fn watch_checker_finds_what_it_must_and_nothing_else() {
    check("watches", WATCHES);
}

#[test]
fn lease_checker_finds_what_it_must_and_nothing_else() {
    check("leases", LEASES);
}

#[test]
fn lock_checker_finds_what_it_must_and_nothing_else() {
    check("locks", LOCKS);
}

fn check(name: &str, cases: &[Case]) {
    let mut wrong = Vec::new();
    for (script, place, words) in cases {
        let knobs = Knobs { lease_checkpoint_ms: 500, ..Knobs::plain(3, 60_000) };
        let checker = check::all(&knobs).into_iter().find(|checker| checker.name() == name).expect("a checker");
        let found = Script::new(checker).run(script);
        let is_right = match &found {
            Ok(()) => place.is_empty(),
            Err(objection) => {
                !place.is_empty() && objection.place.starts_with(place) && objection.story.contains(words)
            }
        };
        if !is_right {
            wrong.push(format!("{name} must say {place:?}, {words:?} to\n{script}\nand says {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A script under way.
struct Script {
    checker: Box<dyn Checker>,
    now_us: u64,
    /// Of operations that were asked.
    number: u64,
    /// Of the newest grant.
    ttl_s: i64,
    /// What the newest watcher wants.
    with_prev: bool,
    newest: BTreeMap<String, KeyValue>,
    /// Rows by revision and key, and what was before.
    made: BTreeMap<(i64, String), (KeyValue, Option<KeyValue>)>,
}

impl Script {
    fn new(checker: Box<dyn Checker>) -> Script {
        let (newest, made) = (BTreeMap::new(), BTreeMap::new());
        Script { checker, now_us: 0, number: 0, ttl_s: 0, with_prev: false, newest, made }
    }

    fn run(mut self, script: &str) -> Result<(), Objection> {
        let lines = script.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty());
        lines.into_iter().try_for_each(|line| self.line(line))
    }

    /// `made 3 a=1 -b`; `watch 1 a to c from 2 prev` (again: resumed), `created 1 2`, `hear 1 HEADER 2:a 3:b`,
    /// `wants 1 5`, `progress 1 2`, `compacted 1 2`, `broken 1`, `rest 3`; `clocks 1 MS`, `grant 7 2` and `granted`,
    /// `renew 1 7`, `renewed 1 7 2`, `revoke 7`, `left 7 12`, `write 5 grant 7` (member 1 has entry 5), `commit 5`,
    /// `lead 1 term:2 commit:6`, `steady 1 TERM FROM_COMMIT MS`, `core`; `told 3 owns lock/a 7`, `fence 7 x`; `at MS`.
    fn line(&mut self, line: &str) -> Result<(), Objection> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap_or_else(|_| panic!("{line:?}: a number at {at}"));
        let unsigned = |at: usize| number(at) as u64;
        match words[0] {
            "at" => {
                self.now_us = unsigned(1) * 1_000;
                Ok(())
            }
            "made" => {
                let rows: Vec<KeyValue> = words[2..].iter().map(|word| self.row(number(1), word)).collect();
                self.see(&Seen::Made { revision: number(1), events: &rows })
            }
            "watch" => {
                let ask = WatchAsk::parse("watch", &mut Words::new(&words[1..].join(" ")));
                let Ok(Some(WatchAsk::Create { watcher, spec, .. })) = ask else { panic!("{line:?}: {ask:?}") };
                self.with_prev = spec.prev_kv;
                self.see(&Seen::Watch { watcher, member: 1, heard: Heard::Asked { from: spec.from, spec: &spec } })
            }
            "created" => self.hear(unsigned(1), Heard::Created { revision: number(2) }),
            "progress" => self.hear(unsigned(1), Heard::Progress { revision: number(2), asked: true }),
            "wants" => self.hear(unsigned(1), Heard::Wants { newest: number(2) }),
            "compacted" => self.hear(unsigned(1), Heard::Compacted { revision: number(2) }),
            "broken" => self.hear(unsigned(1), Heard::Broken),
            "hear" => {
                let events: Vec<Event> = words[3..].iter().map(|word| self.event(word, self.with_prev)).collect();
                self.hear(unsigned(1), Heard::Events { revision: number(2), events: &events })
            }
            "rest" => self.rest(number(1)),
            "clocks" => self.see(&Seen::Clocks(&[(unsigned(1), Instant(unsigned(2)))])),
            "grant" => {
                self.ttl_s = number(2);
                self.ask(&format!("grant {} {}", words[1], words[2]))
            }
            "granted" => {
                let told = Told::Granted { ttl_s: self.ttl_s };
                self.answer("grant 7 2", Outcome::Told { revision: 1, told })
            }
            "revoke" => self.ask(&format!("revoke {}", words[1])),
            "left" => {
                let ask = format!("left {}", words[1]);
                self.ask(&ask)?;
                self.answer(&ask, Outcome::Told { revision: 0, told: Told::Left { ttl_s: number(2) } })
            }
            "renew" => self.see(&Seen::Renews { number: unsigned(1), lease: number(2) }),
            "renewed" => self.see(&Seen::Renewed { number: unsigned(1), lease: number(2), ttl_s: number(3) }),
            "write" => {
                let entries = vec![entry(unsigned(1), words[2], number(3))];
                let persist = Persist { number: 1, snapshot: None, hard_state: Default::default(), entries };
                self.see(&Seen::Persist { member: 1, persist: &persist })
            }
            "commit" => self.see(&Seen::Committed { member: 1, entries: &[entry(unsigned(1), "", 0)] }),
            "lead" => self.lead(unsigned(1), field(&words, "term:"), field(&words, "commit:")),
            "steady" => {
                let (member, term, from) = (unsigned(1), unsigned(2), unsigned(3));
                for step in 1..=unsigned(4) / 100 {
                    self.see(&Seen::Clocks(&[(member, Instant(step * 100))]))?;
                    self.lead(member, term, from + step)?;
                }
                Ok(())
            }
            "core" => self.see(&Seen::Core { members: &[1, 2, 3], clients: &[] }),
            "fence" => self.ask(&format!("fenced lock/a {} {}", words[1], words[2])),
            "told" => {
                let (told, ask) = match words[2] {
                    "owns" => (Told::Owns, format!("await {} {}", words[3], words[4])),
                    "waits" => (Told::Waits, format!("await {} {}", words[3], words[4])),
                    _ => {
                        let leader = (words[4].to_owned(), words[5].to_owned());
                        (Told::Leads(Some(leader)), format!("observe {}", words[3]))
                    }
                };
                self.answer(&ask, Outcome::Told { revision: number(1), told })
            }
            "over" => self.see(&Seen::Over),
            other => panic!("{other:?} is nothing that is seen"),
        }
    }
}

impl Script {
    fn see(&mut self, seen: &Seen) -> Result<(), Objection> {
        self.checker.see(self.now_us, seen)
    }

    fn hear(&mut self, watcher: u64, heard: Heard) -> Result<(), Objection> {
        self.see(&Seen::Watch { watcher, member: 1, heard })
    }

    fn ask(&mut self, text: &str) -> Result<(), Objection> {
        self.number += 1;
        let operation = operation(text);
        self.see(&Seen::Asked { number: self.number, client: 1, member: 1, operation: &operation })
    }

    /// To what was asked last.
    fn answer(&mut self, text: &str, outcome: Outcome) -> Result<(), Objection> {
        let (number, operation) = (self.number, operation(text));
        self.see(&Seen::Answered { number, client: 1, member: 1, operation: &operation, outcome: &outcome })
    }

    fn lead(&mut self, member: u64, term: u64, commit: u64) -> Result<(), Objection> {
        let status = Status { id: member, role: Role::Leader, term, commit, ..Status::default() };
        self.see(&Seen::Stepped { status: &status, voters: &[1, 2, 3] })
    }

    /// `a=1`, `-a`; `a=2:recreated` says that it was created just now, though it was there.
    fn row(&mut self, revision: i64, word: &str) -> KeyValue {
        let (word, is_recreated) = word.strip_suffix(":recreated").map_or((word, false), |word| (word, true));
        let (key, value) = match word.strip_prefix('-') {
            Some(key) => (key, None),
            None => word.split_once('=').map(|(key, value)| (key, Some(value))).expect("key=value or -key"),
        };
        let prev = self.newest.remove(key);
        let mut kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..Default::default() };
        if let Some(value) = value {
            let before = prev.as_ref().filter(|_| !is_recreated);
            kv.value = value.to_owned().into();
            (kv.create_revision, kv.version) = before.map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
            self.newest.insert(key.to_owned(), kv.clone());
        }
        self.made.insert((revision, key.to_owned()), (kv.clone(), prev));
        kv
    }

    /// `3:a`: what was made of `a` at 3; `3:a:noprev`, `3:a:recreated`: but that is wrong.
    fn event(&self, word: &str, with_prev: bool) -> Event {
        let mut parts = word.split(':');
        let revision = parts.next().and_then(|word| word.parse().ok()).expect("a revision");
        let key = parts.next().expect("a key").to_owned();
        let wrong = parts.next().unwrap_or_default();
        let (mut kv, prev) = self.made.get(&(revision, key)).cloned().expect("it was made");
        if wrong == "recreated" {
            kv.create_revision = revision;
        }
        let r#type = if kv.version == 0 { EventType::Delete } else { EventType::Put };
        let prev_kv = prev.filter(|_| with_prev && wrong != "noprev");
        Event { r#type: r#type.into(), kv: Some(kv), prev_kv }
    }

    /// A member of its own that has done as much as these revisions.
    fn rest(&mut self, revision: i64) -> Result<(), Objection> {
        let mut cluster = Calm::new(&Setup { members: 1, ..Setup::default() });
        cluster.boot(1).expect("a new member starts");
        let leader = cluster.elect().expect("nobody dies");
        for _ in 1..revision {
            cluster.propose(leader, put("k", "1")).expect("it runs");
            cluster.settle();
        }
        let view = cluster.member(1).view().expect("it runs");
        assert_eq!(view.rev(), revision);
        let status = Status { id: 1, ..Status::default() };
        self.see(&Seen::AtRest { status: &status, view: &view })
    }
}

fn operation(text: &str) -> Operation {
    Operation::parse(&mut Words::new(text)).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Entry of term 1; any act but these two is none.
fn entry(index: u64, act: &str, lease: i64) -> Entry {
    let mut request = InternalRaftRequest::default();
    match act {
        "grant" => request.lease_grant = Some(LeaseGrantRequest { id: lease, ttl: 2 }),
        "revoke" => request.lease_revoke = Some(LeaseRevokeRequest { id: lease }),
        _ => {}
    }
    let (r#type, data) = (Some(EntryType::EntryNormal as i32), Some(request.encode_to_vec().into()));
    Entry { term: Some(1), index: Some(index), r#type, data }
}

fn field(words: &[&str], name: &str) -> u64 {
    let word = words.iter().find_map(|word| word.strip_prefix(name));
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{words:?}: {name}"))
}
