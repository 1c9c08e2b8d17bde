//! A round: some consecutive revisions, and for each kind of watcher the responses that tell of them.
//!
//! Watchers of the same group that want the same are told the same, so it is put together once for all of them. Where
//! the history before an event is asked for it is read from the view, at the revision before.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_proto::mvccpb::{Event, KeyValue, event::EventType};
use prost::Message;

use super::groups::Groups;
use super::response::Events;
use crate::mvcc::View;
use crate::mvcc::read::{Error, RangeOptions, Read};

/// What sets the responses of two watchers of a group apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wants {
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
}

/// The events of one response.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// The revision of the first event.
    pub first: i64,
    /// That of the last.
    pub last: i64,
    pub events: Arc<Events>,
    /// Another fragment follows.
    pub more: bool,
    /// No other piece has this number.
    pub number: u64,
}

/// A response takes no further revision when its events come to so many bytes, or so many revisions.
const RESPONSE_BYTES: usize = 512 << 10;
const RESPONSE_REVISIONS: usize = 1_000;
/// What the rest of a response comes to at the most: a header of four numbers, an id and flags.
const REST_BYTES: usize = 64;

pub(super) struct Round<'a> {
    view: &'a View,
    changes: Vec<Changed>,
    /// By group: which of the changes are on its keys.
    touched: BTreeMap<usize, Vec<usize>>,
    made: BTreeMap<(usize, Wants, usize), Arc<[Piece]>>,
    fragment_bytes: usize,
    /// Pieces made so far, in all rounds.
    numbers: u64,
}

struct Changed {
    kv: KeyValue,
    /// The key before, once it has been looked up.
    prev: Option<Option<KeyValue>>,
}

impl<'a> Round<'a> {
    /// `changes` in the order of their revisions; a deletion has the version 0.
    pub fn new(
        view: &'a View,
        changes: impl Iterator<Item = KeyValue>,
        groups: &Groups,
        fragment_bytes: usize,
        numbers: u64,
    ) -> Round<'a> {
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut kept = Vec::new();
        for kv in changes {
            let mut is_watched = false;
            groups.of_key(&kv.key, |group| {
                touched.entry(group).or_default().push(kept.len());
                is_watched = true;
            });
            if is_watched {
                kept.push(Changed { kv, prev: None });
            }
        }
        Round { view, changes: kept, touched, made: BTreeMap::new(), fragment_bytes, numbers }
    }

    /// The groups that hear of something.
    pub fn groups(&self) -> Vec<usize> {
        self.touched.keys().copied().collect()
    }

    /// How many pieces have been made, these included.
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// What a watcher of the group is told that has heard of everything before the revision `from`.
    pub fn pieces(&mut self, group: usize, wants: Wants, from: i64) -> Result<Arc<[Piece]>, Error> {
        let Some(touched) = self.touched.get(&group) else { return Ok(Arc::default()) };
        let start = touched.partition_point(|i| self.changes[*i].kv.mod_revision < from);
        if let Some(made) = self.made.get(&(group, wants, start)) {
            return Ok(made.clone());
        }
        let mut pieces = Pieces { fragment_bytes: wants.fragment.then_some(self.fragment_bytes), ..Pieces::default() };
        for i in &touched[start..] {
            let changed = &mut self.changes[*i];
            let is_delete = changed.kv.version == 0;
            if is_delete && wants.no_delete || !is_delete && wants.no_put {
                continue;
            }
            let prev_kv = if wants.prev_kv { changed.prev(self.view)? } else { None };
            let r#type = if is_delete { EventType::Delete } else { EventType::Put };
            pieces.add(Event { r#type: r#type.into(), kv: Some(changed.kv.clone()), prev_kv });
        }
        pieces.cut();
        for piece in &mut pieces.done {
            self.numbers += 1;
            piece.number = self.numbers;
        }
        let made: Arc<[Piece]> = pieces.done.into();
        self.made.insert((group, wants, start), made.clone());
        Ok(made)
    }
}

impl Changed {
    /// The key as it was before this change; nothing where the change created it, or compaction took what was before.
    fn prev(&mut self, view: &View) -> Result<Option<KeyValue>, Error> {
        if let Some(known) = &self.prev {
            return Ok(known.clone());
        }
        let is_create = self.kv.version != 0 && self.kv.create_revision == self.kv.mod_revision;
        let before = RangeOptions { rev: self.kv.mod_revision - 1, ..Default::default() };
        let prev = match is_create {
            true => None,
            false => match view.range(&self.kv.key, b"", before) {
                Ok(mut found) => found.kvs.pop(),
                Err(error @ Error::Storage(_)) => return Err(error),
                Err(Error::Compacted | Error::FutureRev | Error::Overtaken) => None,
            },
        };
        self.prev = Some(prev.clone());
        Ok(prev)
    }
}

/// Events being laid out in responses: whole revisions together, cut within one only for those who take fragments.
#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
    events: Vec<Event>,
    bytes: usize,
    revisions: usize,
    fragment_bytes: Option<usize>,
}

impl Pieces {
    fn add(&mut self, event: Event) {
        if self.events.last().is_none_or(|last| revision(last) != revision(&event)) {
            if self.bytes >= RESPONSE_BYTES || self.revisions >= RESPONSE_REVISIONS {
                self.cut();
            }
            self.revisions += 1;
        }
        self.bytes += len(&event);
        self.events.push(event);
    }

    /// What has been gathered is a response, or several fragments of one.
    fn cut(&mut self) {
        let events = std::mem::take(&mut self.events);
        let bytes = std::mem::take(&mut self.bytes);
        self.revisions = 0;
        match self.fragment_bytes {
            Some(limit) if REST_BYTES + bytes >= limit => self.cut_fragments(events, limit),
            _ if events.is_empty() => {}
            _ => self.push(events, false),
        }
    }

    /// As many events in each as stay below the limit, but at least one.
    fn cut_fragments(&mut self, events: Vec<Event>, limit: usize) {
        let mut part: Vec<Event> = Vec::new();
        let mut bytes = REST_BYTES;
        for event in events {
            let len = len(&event);
            if !part.is_empty() && bytes + len >= limit {
                self.push(std::mem::take(&mut part), true);
                bytes = REST_BYTES;
            }
            bytes += len;
            part.push(event);
        }
        self.push(part, false);
    }

    fn push(&mut self, events: Vec<Event>, more: bool) {
        let (first, last) = (events.first().map_or(0, revision), events.last().map_or(0, revision));
        self.done.push(Piece { first, last, events: Arc::new(Events::new(events)), more, number: 0 });
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// What the event adds to a response.
fn len(event: &Event) -> usize {
    let len = event.encoded_len();
    1 + prost::length_delimiter_len(len) + len
}
