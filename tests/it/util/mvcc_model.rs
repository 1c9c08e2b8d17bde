//! The naive store: every row for ever, every answer worked out from all of them. Slow, obvious, and the judge of the
//! real one.

use std::collections::BTreeMap;

use lockstep::mvcc::read::{Error, RangeOptions, RangeResult, Revision};
use lockstep::mvcc::row_key;
use lockstep::proto::mvccpb::KeyValue;
use prost::Message;

#[derive(Clone, Debug)]
pub struct Model {
    pub rev: i64,
    pub compact_rev: i64,
    /// Version 0 is a tombstone, as the store keeps it: the key alone.
    rows: BTreeMap<Revision, KeyValue>,
    pub lease_bucket: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Step {
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64 },
    Delete { key: Vec<u8>, end: Vec<u8> },
}

impl Default for Model {
    fn default() -> Model {
        Model { rev: 1, compact_rev: -1, rows: BTreeMap::new(), lease_bucket: BTreeMap::new() }
    }
}

pub fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

impl Model {
    pub fn txn(&mut self, steps: &[Step]) {
        let main = self.rev + 1;
        let mut sub = 0;
        let mut add = |rows: &mut BTreeMap<Revision, KeyValue>, kv| {
            rows.insert(Revision { main, sub }, kv);
            sub += 1;
        };
        for step in steps {
            match step {
                Step::Put { key, value, lease } => {
                    let before = self.live(main).remove(key);
                    let (created, version) = before.map_or((main, 0), |(_, kv)| (kv.create_revision, kv.version));
                    let (key, value) = (key.clone().into(), value.clone().into());
                    let version = version + 1;
                    let kv =
                        KeyValue { key, value, create_revision: created, mod_revision: main, version, lease: *lease };
                    add(&mut self.rows, kv);
                }
                Step::Delete { key, end } => {
                    for found in self.live(main).into_keys().filter(|k| in_range(k, key, end)) {
                        add(&mut self.rows, KeyValue { key: found.into(), ..KeyValue::default() });
                    }
                }
            }
        }
        if sub > 0 {
            self.rev = main;
        }
    }

    pub fn compact(&mut self, rev: i64) -> Result<(), Error> {
        if rev <= self.compact_rev {
            return Err(Error::Compacted);
        }
        if rev > self.rev {
            return Err(Error::FutureRev);
        }
        self.compact_rev = rev;
        Ok(())
    }

    pub fn range(&self, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error> {
        let at = if options.rev <= 0 { self.rev } else { options.rev };
        if at > self.rev {
            return Err(Error::FutureRev);
        }
        if at < self.compact_rev {
            return Err(Error::Compacted);
        }
        let mut kvs: Vec<KeyValue> =
            self.live(at).into_iter().filter(|(k, _)| in_range(k, key, end)).map(|(_, (_, kv))| kv).collect();
        let count = kvs.len() as i64;
        if options.count_only {
            kvs.clear();
        }
        if options.limit > 0 {
            kvs.truncate(options.limit);
        }
        if options.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(RangeResult { kvs, count, rev: self.rev })
    }

    /// The rows from `from` on; what a compaction removes is left out.
    pub fn rows(&self, from: Revision) -> Vec<(Revision, KeyValue)> {
        let mut newest = BTreeMap::new();
        for (revision, kv) in self.rows.iter().filter(|(r, _)| r.main <= self.compact_rev) {
            newest.insert(&kv.key, *revision);
        }
        // Of what the compaction passes, the newest of a key stays: if it is a tombstone, then only right at the
        // compaction.
        let keeps = |revision: &Revision, kv: &KeyValue| {
            let stays = newest.get(&kv.key) == Some(revision) && (kv.version > 0 || revision.main == self.compact_rev);
            revision.main > self.compact_rev || stays
        };
        self.rows.range(from..).filter(|(r, kv)| keeps(r, kv)).map(|(r, kv)| (*r, kv.clone())).collect()
    }

    /// Keys that have a lease, and which.
    pub fn attachments(&self) -> Vec<(Vec<u8>, i64)> {
        let live = self.live(self.rev).into_iter();
        live.filter(|(_, (_, kv))| kv.lease != 0).map(|(k, (_, kv))| (k, kv.lease)).collect()
    }

    pub fn hash_kv(&self, at: i64) -> u32 {
        let newest: Vec<Revision> = self.live(at).into_values().map(|(r, _)| r).collect();
        let survivors: Vec<Revision> = self.live(self.compact_rev).into_values().map(|(r, _)| r).collect();
        let kept = if newest.is_empty() { survivors } else { newest };
        let mut bytes = b"key".to_vec();
        for (revision, kv) in self.rows.iter().filter(|(r, _)| r.main <= at) {
            if revision.main > self.compact_rev || kept.contains(revision) {
                bytes.extend(row_key(*revision));
                bytes.extend((kv.version == 0).then_some(b't'));
                bytes.extend(kv.encode_to_vec());
            }
        }
        crc32c::crc32c(&bytes)
    }

    fn live(&self, at: i64) -> BTreeMap<Vec<u8>, (Revision, KeyValue)> {
        let mut live = BTreeMap::new();
        for (revision, kv) in self.rows.iter().filter(|(r, _)| r.main <= at) {
            live.insert(kv.key.to_vec(), (*revision, kv.clone()));
        }
        live.retain(|_, (_, kv)| kv.version > 0);
        live
    }
}
