//! The nine guarantees of a watch, against the history of revisions (etcd's robustness tests; etcd #15220, #15271,
//! #17247, #17529, #18089, #19179, #20221).
//!
//! ```text
//! ordered       revisions never go back                        events out of order
//! unique        nothing comes twice                            duplicate event
//! atomic        a revision comes whole, in one response        revision torn apart
//! reliable      nothing is left out                            event lost, event never came
//! resumable     ... from wherever a watcher is resumed         event from before the start, event lost
//! bookmarkable  progress covers what it says, and what was     progress ahead of events, event behind progress,
//!               there when it was asked for                    progress older than the question
//! prevKV        the value before is that                       wrong previous value
//! isCreate      created, and how often changed, is true        wrong event
//! filter        nothing that was not asked for                 event that was not asked for
//! ```
//!
//! The history is what the first view that showed a revision had in its rows; that all members have the same is for
//! [`super::applied_hash`], and that rows say of themselves what the rows before them demand is checked here. A watcher
//! is followed over all its streams: what it hears is, event for event, what comes next of what it asked for. At the
//! end, when all have come to rest, there is nothing left that it has not heard.
//!
//! Does not see when events come; nor revisions that were compacted before any member showed them: a watcher that wants
//! these is not judged on them. A previous value may be missing where compaction has taken it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep::mvcc::View;
use lockstep::mvcc::read::Read;
use lockstep_proto::mvccpb::event::EventType;
use lockstep_proto::mvccpb::{Event, KeyValue};

use super::{Checker, Heard, Objection, Seen, object};
use crate::asks::WatchSpec;

#[derive(Debug, Default)]
pub struct Watches {
    /// Rows of each revision, with what the key was before.
    made: BTreeMap<i64, Vec<Change>>,
    newest: BTreeMap<Vec<u8>, KeyValue>,
    /// There is no hole in the history from here on.
    known_from: i64,
    last: i64,
    /// The newest compaction of each member.
    compacted: BTreeMap<u64, i64>,
    watchers: BTreeMap<u64, Watcher>,
    at_rest: i64,
}

#[derive(Debug)]
struct Change {
    kv: KeyValue,
    prev: Option<KeyValue>,
}

/// Whoever has heard of an event so shortly before the end is on the way: with one row a piece, and turns with others,
/// the next may be some tenths of a second off (seed 4676).
const STILL_TOLD_US: u64 = 1_000_000;

#[derive(Debug)]
struct Watcher {
    spec: WatchSpec,
    member: u64,
    /// Everything of this revision and later is still to come; 0 until it was told where it begins.
    next: i64,
    /// The first revision it may hear of on this stream.
    from: i64,
    /// It was told that it has heard everything up to here.
    promised: i64,
    heard: i64,
    /// When it last heard of an event.
    heard_us: Option<u64>,
    is_live: bool,
    is_created: bool,
    /// Progress was asked for when this was the newest revision, and has not come.
    wants: Vec<i64>,
}

impl Watches {
    fn made(&mut self, revision: i64, events: &[KeyValue]) -> Result<(), Objection> {
        if revision > self.last + 1 {
            // What lies between was compacted before it was seen.
            self.known_from = revision;
        }
        let is_known = self.known_from <= 2;
        self.last = revision;
        let mut changes = Vec::with_capacity(events.len());
        for kv in events {
            let prev = self.newest.remove(&*kv.key);
            if kv.version != 0 {
                let (created, version) = prev.as_ref().map_or((revision, 1), |p| (p.create_revision, p.version + 1));
                if is_known && (kv.create_revision, kv.version) != (created, version) {
                    let story = format!(
                        "{} at revision {revision} says version {} since {}, and is version {version} since {created}",
                        name(&kv.key),
                        kv.version,
                        kv.create_revision
                    );
                    return object("row that does not follow", story);
                }
                self.newest.insert(kv.key.to_vec(), kv.clone());
            }
            changes.push(Change { kv: kv.clone(), prev });
        }
        self.made.insert(revision, changes);
        Ok(())
    }

    fn heard(&mut self, now_us: u64, name: u64, member: u64, heard: &Heard) -> Result<(), Objection> {
        if let Heard::Asked { spec, from } = heard {
            let watcher = self.watchers.entry(name).or_insert_with(|| Watcher {
                spec: (*spec).clone(),
                member,
                next: *from,
                from: *from,
                promised: 0,
                heard: 0,
                heard_us: None,
                is_live: true,
                is_created: false,
                wants: Vec::new(),
            });
            (watcher.member, watcher.from, watcher.is_live, watcher.is_created) = (member, *from, true, false);
            // Its client knows what it has heard, and never asks for less.
            watcher.promised = 0;
            watcher.wants.clear();
            return Ok(());
        }
        let Some(watcher) = self.watchers.get_mut(&name) else { return Ok(()) };
        match heard {
            Heard::Asked { .. } => {}
            Heard::Created { revision } => {
                watcher.is_created = true;
                if watcher.from == 0 {
                    (watcher.next, watcher.from) = (revision + 1, revision + 1);
                }
            }
            Heard::Events { revision, events } => {
                watcher.heard_us = Some(now_us);
                return self.events(name, *revision, events);
            }
            Heard::Wants { newest } => watcher.wants.push(*newest),
            Heard::Progress { revision, asked } => {
                if let Some(newest) = watcher.wants.first().filter(|newest| *asked && *newest > revision) {
                    let story = format!(
                        "watcher {name} ({}) asked member {member} for progress when {newest} was the newest revision \
                         there, and is told {revision}",
                        watcher.spec
                    );
                    return object("progress older than the question", story);
                }
                // One question at least is answered; how many a member answers together is its own business.
                if *asked && !watcher.wants.is_empty() {
                    watcher.wants.remove(0);
                }
                let watcher = &self.watchers[&name];
                if let Some(missing) = self.next_of(watcher).filter(|missing| missing.kv.mod_revision <= *revision) {
                    let story = format!(
                        "watcher {name} ({}) is told by member {member} that it has heard everything up to {revision}, \
                         and has not heard of {} at {}",
                        watcher.spec,
                        self::name(&missing.kv.key),
                        missing.kv.mod_revision
                    );
                    return object("progress ahead of events", story);
                }
                self.promise(name, *revision);
            }
            Heard::Compacted { revision } => {
                watcher.is_live = false;
                let compacted = self.compacted.get(&member).copied().unwrap_or(0);
                if *revision > compacted || *revision <= watcher.next {
                    let story = format!(
                        "watcher {name} from {} has heard of everything before {}, and is canceled because history \
                         before {revision} is gone; member {member} has compacted {compacted}",
                        watcher.from, watcher.next
                    );
                    return object("canceled without need", story);
                }
                watcher.next = watcher.next.max(*revision);
            }
            Heard::Canceled => drop(self.watchers.remove(&name)),
            Heard::Refused { error } => {
                let story = format!("watcher {name} ({}) at member {member}: {error}", watcher.spec);
                return object("watch refused", story);
            }
            Heard::Broken => watcher.is_live = false,
        }
        Ok(())
    }

    fn promise(&mut self, name: u64, revision: i64) {
        if let Some(watcher) = self.watchers.get_mut(&name) {
            watcher.promised = watcher.promised.max(revision);
            if watcher.next > 0 {
                watcher.next = watcher.next.max(revision + 1);
            }
        }
    }

    /// What a watcher is to hear of next.
    fn next_of(&self, watcher: &Watcher) -> Option<&Change> {
        if watcher.next == 0 {
            return None;
        }
        let changes = self.made.range(watcher.next.max(self.known_from)..).flat_map(|(_, changes)| changes);
        changes.into_iter().find(|change| wanted(&watcher.spec, &change.kv))
    }

    fn events(&mut self, name: u64, revision: i64, events: &[Event]) -> Result<(), Objection> {
        let watcher = &self.watchers[&name];
        let compacted = self.compacted.get(&watcher.member).copied().unwrap_or(0);
        let mut last = 0;
        let first = events.first().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        let begin = watcher.next.max(self.known_from);
        let mut expected = self
            .made
            .range(begin..)
            .flat_map(|(_, changes)| changes)
            .filter(|change| wanted(&watcher.spec, &change.kv))
            .peekable();
        for event in events {
            let kv = event.kv.clone().unwrap_or_default();
            let at = kv.mod_revision;
            if at < self.known_from {
                continue;
            }
            let story = |why: String| {
                format!(
                    "watcher {name} ({}) at member {} hears of {} at {at}; {why}",
                    watcher.spec,
                    watcher.member,
                    self::name(&kv.key)
                )
            };
            let right = expected.next_if(|change| change.kv.mod_revision == at && change.kv.key == kv.key);
            let Some(right) = right else {
                let (place, why) = self.misfit(watcher, &kv, last, expected.peek().copied());
                return object(place, story(why));
            };
            last = at;
            let is_delete = event.r#type() == EventType::Delete;
            if right.kv != kv || is_delete != (kv.version == 0) {
                return object("wrong event", story(format!("it says {kv:?}, and is {:?}", right.kv)));
            }
            let right_prev = if watcher.spec.prev_kv { &right.prev } else { &None };
            let may_be_gone = at <= compacted || at <= self.known_from;
            if event.prev_kv != *right_prev && !(event.prev_kv.is_none() && may_be_gone) {
                let why = format!("before it was {right_prev:?}, it says {:?}", event.prev_kv);
                return object("wrong previous value", story(why));
            }
        }
        if let Some(rest) = expected.next_if(|change| change.kv.mod_revision == last) {
            let story = format!(
                "watcher {name} ({}) at member {} hears of revision {last} without {}",
                watcher.spec,
                watcher.member,
                self::name(&rest.kv.key)
            );
            return object("revision torn apart", story);
        }
        if let Some(missing) = expected.next_if(|change| change.kv.mod_revision <= revision) {
            let story = format!(
                "watcher {name} ({}) at member {} hears of {first} to {last} as of revision {revision}, and not of {} \
                 at {}",
                watcher.spec,
                watcher.member,
                self::name(&missing.kv.key),
                missing.kv.mod_revision
            );
            return object("progress ahead of events", story);
        }
        drop(expected);
        if let Some(watcher) = self.watchers.get_mut(&name) {
            watcher.next = watcher.next.max(last + 1);
            watcher.heard = watcher.heard.max(last);
        }
        self.promise(name, revision.min(last));
        Ok(())
    }

    /// Which promise an event breaks that is not the one to come next.
    fn misfit(&self, watcher: &Watcher, kv: &KeyValue, last: i64, expected: Option<&Change>) -> (&'static str, String) {
        let at = kv.mod_revision;
        let made = self.made.get(&at).and_then(|changes| changes.iter().find(|change| change.kv.key == kv.key));
        if !wanted(&watcher.spec, kv) {
            return ("event that was not asked for", "it is not what it watches".into());
        }
        if made.is_none() {
            return ("event that never was", "nothing like that is in any store".into());
        }
        if at < watcher.from {
            return ("event from before the start", format!("it asked for what comes from {} on", watcher.from));
        }
        if at == last || (at < watcher.next && at == watcher.heard) {
            return ("duplicate event", "it has heard of that".into());
        }
        if at < watcher.next || at < last {
            if at <= watcher.promised && at > watcher.heard {
                return ("event behind progress", format!("it was told of progress up to {}", watcher.promised));
            }
            return ("events out of order", format!("it has heard of {}", watcher.heard.max(last)));
        }
        let lost =
            expected.map_or("?".to_owned(), |lost| format!("{} at {}", name(&lost.kv.key), lost.kv.mod_revision));
        ("event lost", format!("and never of {lost}"))
    }

    fn over(&self, now_us: u64) -> Result<(), Objection> {
        // Who still hears of one event after the other is slow, not forgotten.
        let is_told = |watcher: &Watcher| watcher.heard_us.is_some_and(|heard| now_us - heard < STILL_TOLD_US);
        let watchers = self.watchers.iter().filter(|(_, watcher)| watcher.is_live && !is_told(watcher));
        for (name, watcher) in watchers {
            if !watcher.is_created {
                let story = format!("watcher {name} ({}) at member {}", watcher.spec, watcher.member);
                return object("watch never answered", story);
            }
            if let Some(missing) = self.next_of(watcher).filter(|missing| missing.kv.mod_revision <= self.at_rest) {
                let story = format!(
                    "watcher {name} ({}) at member {} never heard of {} at {}; it has heard of everything before {}",
                    watcher.spec,
                    watcher.member,
                    self::name(&missing.kv.key),
                    missing.kv.mod_revision,
                    watcher.next
                );
                return object("event never came", story);
            }
        }
        Ok(())
    }

    fn compacted(&mut self, member: u64, view: &View) {
        self.compacted.insert(member, view.compact_rev());
    }
}

impl Checker for Watches {
    fn name(&self) -> &'static str {
        "watches"
    }

    fn see(&mut self, now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Made { revision, events } => self.made(*revision, events),
            Seen::Booted { member, view, .. } => {
                self.compacted(*member, view);
                Ok(())
            }
            Seen::Published { member, view } => {
                let view: &Arc<View> = view;
                self.compacted(*member, view);
                Ok(())
            }
            Seen::Watch { watcher, member, heard } => self.heard(now_us, *watcher, *member, heard),
            Seen::AtRest { view, .. } => {
                self.at_rest = view.rev();
                Ok(())
            }
            Seen::Over => self.over(now_us),
            _ => Ok(()),
        }
    }
}

fn wanted(spec: &WatchSpec, kv: &KeyValue) -> bool {
    let is_filtered = if kv.version == 0 { spec.no_delete } else { spec.no_put };
    !is_filtered && spec.covers(&kv.key)
}

fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
