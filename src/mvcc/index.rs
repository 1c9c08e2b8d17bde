//! The key index: which revisions each key has, for every reader at once.
//!
//! There is one index. Readers tell versions apart by revision: a view at revision 7 looks past every mark above 7, so
//! a write is invisible until a view with its revision is published. Only compaction takes marks away, and `pruned`
//! says up to where it may have: a reader below that asks no further, it might be told wrong. Long walks hold the lock
//! for about [`CHUNK`] keys at a time and check `pruned` again at each turn.
//!
//! Keys live in sorted blocks. A block knows how many of its keys exist and when that last changed, so counting a quiet
//! range costs one step a block, not one a key, and is still exact.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use super::key_index::{Compacted, KeyIndex, Mark};
use super::read::Revision;

/// Keys looked at in one hold of the lock.
pub const CHUNK: usize = 1_000;
const BLOCK_MAX: usize = 128;
const BLOCK_MERGE: usize = 48;

/// Compaction has overtaken the reader: what it would find at its revision may be gone from the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned;

/// The keys a request means, in etcd's notation resolved once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    One(&'a [u8]),
    From(&'a [u8]),
    Between(&'a [u8], &'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// An empty end means the one key, `\0` every key from `key` on, anything else is exclusive.
    pub fn new(key: &'a [u8], end: &'a [u8]) -> KeyRange<'a> {
        match end {
            [] => KeyRange::One(key),
            [0] => KeyRange::From(key),
            _ => KeyRange::Between(key, end),
        }
    }

    fn start(&self) -> &'a [u8] {
        match self {
            KeyRange::One(key) | KeyRange::From(key) | KeyRange::Between(key, _) => key,
        }
    }

    fn is_past(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::One(only) => key > *only,
            KeyRange::From(_) => false,
            KeyRange::Between(_, end) => key >= *end,
        }
    }
}

/// What one step of pruning did.
#[derive(Clone, Debug, Default)]
pub struct PruneStep {
    /// The revisions whose rows may go.
    pub dropped: Vec<Revision>,
    /// Where the next step goes on; `None` at the end.
    pub next: Option<Box<[u8]>>,
}

#[derive(Debug)]
pub struct Index {
    inner: RwLock<Blocks>,
}

#[derive(Debug)]
struct Blocks {
    /// By the least key a block may hold; the first block's is empty, so that every key has a block.
    blocks: BTreeMap<Box<[u8]>, Block>,
    /// Compaction may have taken marks up to here.
    pruned: i64,
    keys: usize,
}

#[derive(Debug, Default)]
struct Block {
    entries: Vec<Entry>,
    /// What all keys of the block start with is so long.
    shared: usize,
    /// The eight bytes after that of each key, as a number: a search touches the keys themselves only where these are
    /// equal.
    heads: Vec<u64>,
    /// Keys that exist now.
    live: usize,
    /// The main revision at which a key of this block last began or ceased to exist.
    live_changed: i64,
}

#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    index: KeyIndex,
}

impl Default for Index {
    fn default() -> Index {
        let blocks = BTreeMap::from([(Box::default(), Block::default())]);
        Index { inner: RwLock::new(Blocks { blocks, pruned: -1, keys: 0 }) }
    }
}

impl Index {
    /// Adds a put; returns the creation revision and the version it has.
    pub fn put(&self, key: &[u8], revision: Revision) -> (i64, i64) {
        self.inner.write().change(
            key,
            revision.main,
            |found| match found {
                Some(index) => index.put(revision),
                None => (revision.main, 1),
            },
            |&(created, version)| KeyIndex::new(Mark::new(revision, false), created, version),
        )
    }

    /// Adds a deletion; `false` when there is nothing to delete.
    pub fn tombstone(&self, key: &[u8], revision: Revision) -> bool {
        let mut inner = self.inner.write();
        let block = inner.block_mut(key);
        let Ok(at) = block.find(key) else {
            return false;
        };
        let deleted = block.entries[at].index.tombstone(revision);
        if deleted {
            block.live -= 1;
            block.live_changed = revision.main;
        }
        deleted
    }

    /// Adds a row found at opening. Rows come in the order of their revisions.
    pub fn restore(&self, key: &[u8], mark: Mark, created: i64, version: i64) {
        self.inner.write().change(
            key,
            mark.main,
            |found| {
                if let Some(index) = found {
                    index.restore(mark, created, version);
                }
            },
            |()| KeyIndex::new(mark, created, version),
        );
    }

    /// The revision a reader at `at` finds for one key.
    pub fn get(&self, key: &[u8], at: i64) -> Result<Option<Revision>, Pruned> {
        let inner = self.inner.read();
        inner.check(at)?;
        let block = inner.block(key);
        Ok(block.find(key).ok().and_then(|i| block.entries[i].index.live_at(at)))
    }

    /// The revisions of the first `want` keys of a range as of `at`, in key order, and how many keys there are in all.
    pub fn revisions(&self, range: KeyRange<'_>, at: i64, want: usize) -> Result<(Vec<Revision>, usize), Pruned> {
        if let KeyRange::One(key) = range {
            let found = self.get(key, at)?;
            let count = usize::from(found.is_some());
            return Ok((found.into_iter().take(want).collect(), count));
        }
        let mut revisions = Vec::new();
        let mut count = 0;
        self.walk(range, at, |block, from, to| {
            if revisions.len() >= want && from == 0 && to == block.entries.len() && block.live_changed <= at {
                count += block.live;
                return 1;
            }
            for entry in &block.entries[from..to] {
                if let Some(revision) = entry.index.live_at(at) {
                    count += 1;
                    if revisions.len() < want {
                        revisions.push(revision);
                    }
                }
            }
            to - from
        })?;
        Ok((revisions, count))
    }

    /// The keys of a range that exist as of `at`, in order.
    pub fn keys(&self, range: KeyRange<'_>, at: i64) -> Result<Vec<Bytes>, Pruned> {
        let mut keys = Vec::new();
        self.walk(range, at, |block, from, to| {
            let live = block.entries[from..to].iter().filter(|e| e.index.live_at(at).is_some());
            keys.extend(live.map(|e| Bytes::copy_from_slice(&e.key)));
            to - from
        })?;
        Ok(keys)
    }

    /// Calls `f` with every key that exists as of `at`, in order, and the revision of its value.
    pub fn for_each_live(&self, at: i64, mut f: impl FnMut(&[u8], Revision)) -> Result<(), Pruned> {
        self.walk(KeyRange::From(b""), at, |block, from, to| {
            for entry in &block.entries[from..to] {
                if let Some(revision) = entry.index.live_at(at) {
                    f(&entry.key, revision);
                }
            }
            to - from
        })
    }

    /// Calls `f` with the newest mark up to `at` of every key that has one.
    pub fn for_each_mark(&self, at: i64, mut f: impl FnMut(Mark)) -> Result<(), Pruned> {
        self.walk(KeyRange::From(b""), at, |block, from, to| {
            block.entries[from..to].iter().filter_map(|e| e.index.mark_at(at)).for_each(&mut f);
            to - from
        })
    }

    /// Keys in the index, deleted but not yet compacted ones included.
    pub fn len(&self) -> usize {
        self.inner.read().keys
    }

    /// Takes what a compaction at `at` no longer needs from a part of the keys, at most `budget` revisions, starting at
    /// `from`. From the first step on, readers below `at` are turned away.
    pub fn prune(&self, at: i64, from: &[u8], budget: usize) -> PruneStep {
        let budget = budget.max(1);
        let examine = budget.saturating_mul(8).max(BLOCK_MAX);
        let mut dropped = Vec::new();
        let mut cursor: Box<[u8]> = from.into();
        let mut examined = 0;
        while dropped.len() < budget && examined < examine {
            let mut inner = self.inner.write();
            inner.pruned = inner.pruned.max(at);
            let mut held = 0;
            while held < CHUNK && dropped.len() < budget {
                let (looked, next) = inner.prune_block(&cursor, at, budget, &mut dropped);
                held += looked;
                match next {
                    Some(next) => cursor = next,
                    None => return PruneStep { dropped, next: None },
                }
            }
            examined += held;
        }
        PruneStep { dropped, next: Some(cursor) }
    }

    /// Walks the blocks of a range; `f` gets a block and the part of it inside the range, and returns what it cost.
    fn walk(
        &self,
        range: KeyRange<'_>,
        at: i64,
        mut f: impl FnMut(&Block, usize, usize) -> usize,
    ) -> Result<(), Pruned> {
        let mut cursor: Option<Box<[u8]>> = None;
        loop {
            let inner = self.inner.read();
            inner.check(at)?;
            let from = cursor.as_deref().unwrap_or(range.start());
            let first = inner.least(from);
            let mut blocks = inner.blocks.range::<[u8], _>((Bound::Included(first), Bound::Unbounded));
            let mut held = 0;
            cursor = loop {
                let Some((least, block)) = blocks.next() else {
                    return Ok(());
                };
                if range.is_past(least) {
                    return Ok(());
                }
                if held >= CHUNK {
                    break Some(least.clone());
                }
                let start = if &**least < from { block.find(from).unwrap_or_else(|at| at) } else { 0 };
                let end = match block.entries.last() {
                    Some(last) if range.is_past(&last.key) => block.entries.partition_point(|e| !range.is_past(&e.key)),
                    _ => block.entries.len(),
                };
                if start < end {
                    held += f(block, start, end);
                }
            };
        }
    }
}

impl Blocks {
    fn check(&self, at: i64) -> Result<(), Pruned> {
        if at < self.pruned { Err(Pruned) } else { Ok(()) }
    }

    /// The least key of the block that `key` belongs to.
    fn least(&self, key: &[u8]) -> &[u8] {
        let mut upto = self.blocks.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        upto.next_back().expect("the first block starts at the empty key").0
    }

    fn block(&self, key: &[u8]) -> &Block {
        let mut upto = self.blocks.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        upto.next_back().expect("the first block starts at the empty key").1
    }

    fn block_mut(&mut self, key: &[u8]) -> &mut Block {
        let mut upto = self.blocks.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        upto.next_back().expect("the first block starts at the empty key").1
    }

    /// Changes the entry of `key` with `alter`, or inserts what `create` makes; keeps the block's count.
    fn change<T>(
        &mut self,
        key: &[u8],
        main: i64,
        alter: impl FnOnce(Option<&mut KeyIndex>) -> T,
        create: impl FnOnce(&T) -> KeyIndex,
    ) -> T {
        let block = self.block_mut(key);
        match block.find(key) {
            Ok(at) => {
                let index = &mut block.entries[at].index;
                let was_live = index.is_live();
                let result = alter(Some(&mut *index));
                let is_live = index.is_live();
                if was_live != is_live {
                    block.live = if is_live { block.live + 1 } else { block.live - 1 };
                    block.live_changed = main;
                }
                result
            }
            Err(at) => {
                let result = alter(None);
                let index = create(&result);
                if index.is_live() {
                    block.live += 1;
                    block.live_changed = main;
                }
                block.insert(at, Entry { key: key.into(), index });
                let full = block.entries.len() > BLOCK_MAX;
                let split = full.then(|| block.split(at));
                if let Some(right) = split {
                    self.blocks.insert(right.entries[0].key.clone(), right);
                }
                self.keys += 1;
                result
            }
        }
    }

    /// Prunes the block that `from` belongs to, from there on, until `dropped` holds `budget` revisions; returns the
    /// keys it looked at and where to go on.
    fn prune_block(
        &mut self,
        from: &[u8],
        at: i64,
        budget: usize,
        dropped: &mut Vec<Revision>,
    ) -> (usize, Option<Box<[u8]>>) {
        let least: Box<[u8]> = self.least(from).into();
        let after = (Bound::Excluded(&*least), Bound::Unbounded);
        let mut next = self.blocks.range::<[u8], _>(after).next().map(|(k, _)| k.clone());
        let block = self.blocks.get_mut(&least).expect("the block was just found");
        let before = block.entries.len();
        if !block.entries.iter().all(|e| e.index.is_single_put()) {
            let mut stopped = false;
            block.entries.retain_mut(|entry| {
                if stopped || &*entry.key < from {
                    return true;
                }
                match entry.index.compact(at, budget - dropped.len(), dropped) {
                    Compacted::Finished => true,
                    Compacted::Gone => false,
                    Compacted::Unfinished => {
                        stopped = true;
                        next = Some(entry.key.clone());
                        true
                    }
                }
            });
        }
        let left = block.entries.len();
        self.keys -= before - left;
        if left < before {
            block.measure();
            self.merge(&least, left);
        }
        (before.max(1), next)
    }

    /// Lets a block that has become small join the one before it.
    fn merge(&mut self, least: &[u8], left: usize) {
        if least.is_empty() || left > BLOCK_MERGE {
            return;
        }
        let (previous, room) = {
            let mut before = self.blocks.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(least)));
            let (key, block) = before.next_back().expect("the first block starts at the empty key");
            (key.clone(), block.entries.len() + left <= BLOCK_MAX - BLOCK_MERGE)
        };
        if !room && left > 0 {
            return;
        }
        let mut small = self.blocks.remove(least).expect("the block was just found");
        let previous = self.blocks.get_mut(&previous).expect("the block was just found");
        previous.entries.append(&mut small.entries);
        previous.measure();
        previous.live += small.live;
        previous.live_changed = previous.live_changed.max(small.live_changed);
    }
}

impl Block {
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(first) = self.entries.first() else {
            return Err(0);
        };
        let shared = &first.key[..self.shared];
        if !key.starts_with(shared) {
            return Err(if key < shared { 0 } else { self.entries.len() });
        }
        let head = head(key, self.shared);
        let from = self.heads.partition_point(|h| *h < head);
        let equal = self.heads[from..].partition_point(|h| *h == head);
        let found = self.entries[from..from + equal].binary_search_by(|e| (*e.key).cmp(key));
        found.map(|at| from + at).map_err(|at| from + at)
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        let shared = match self.entries.first() {
            Some(first) => shared_len(&first.key[..self.shared], &entry.key),
            None => entry.key.len(),
        };
        self.heads.insert(at, head(&entry.key, shared));
        self.entries.insert(at, entry);
        if shared < self.shared {
            self.measure();
        }
        self.shared = shared;
    }

    /// Works out again what the keys share, and their heads.
    fn measure(&mut self) {
        self.shared = match &self.entries[..] {
            [first, .., last] => shared_len(&first.key, &last.key),
            [only] => only.key.len(),
            [] => 0,
        };
        self.heads.clear();
        self.heads.extend(self.entries.iter().map(|e| head(&e.key, self.shared)));
    }

    /// Cuts the block in two after an insertion at `inserted`: in the middle, or at the end where keys arrive in order.
    fn split(&mut self, inserted: usize) -> Block {
        let at = if inserted + 1 == self.entries.len() { inserted } else { self.entries.len() / 2 };
        let entries = self.entries.split_off(at);
        let live = entries.iter().filter(|e| e.index.is_live()).count();
        self.live -= live;
        if at < inserted {
            self.entries.shrink_to(BLOCK_MAX * 3 / 4);
        }
        self.measure();
        let mut right = Block { entries, live, live_changed: self.live_changed, ..Block::default() };
        right.measure();
        right
    }
}

fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The eight bytes of a key after the first `skip`, zeros where it ends: never out of order, though different keys may
/// be equal.
fn head(key: &[u8], skip: usize) -> u64 {
    let rest = &key[skip..];
    match rest.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(bytes)
        }
    }
}
