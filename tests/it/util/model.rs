//! A naive store that keeps all of its history: what the KV semantics are tested on without the real store.
//!
//! Slow on purpose and as plain as possible; it shares no code with the real one, so the two can be compared.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lockstep::member::error::EtcdError;
use lockstep::mvcc::read::{Error, RangeOptions, RangeResult, Read, Revision, Write};
use lockstep::proto::mvccpb::KeyValue;
use prost::Message;

/// The store. A key's history holds `None` for a deletion.
#[derive(Clone, Debug)]
pub struct Model {
    rev: i64,
    compact_rev: i64,
    keys: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    /// The TTL of each.
    pub leases: BTreeMap<i64, i64>,
}

/// A write transaction; its writes are in the model at once, and `end` moves the revision.
pub struct ModelTxn<'a> {
    model: &'a mut Model,
    begin: i64,
    changes: i64,
}

impl Default for Model {
    fn default() -> Self {
        Model { rev: 1, compact_rev: -1, keys: BTreeMap::new(), leases: BTreeMap::new() }
    }
}

impl Model {
    pub fn begin(&mut self) -> ModelTxn<'_> {
        let begin = self.rev;
        ModelTxn { model: self, begin, changes: 0 }
    }

    /// Grants a lease, or refuses it as etcd does; its TTL is at least that of a lone member of the tests.
    pub fn grant(&mut self, id: i64, ttl_s: i64) -> Result<i64, EtcdError> {
        if ttl_s > 9_000_000_000 {
            return Err(EtcdError::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(EtcdError::LeaseExists);
        }
        let ttl_s = ttl_s.max(1);
        self.leases.insert(id, ttl_s);
        Ok(ttl_s)
    }

    /// The keys whose newest version names this lease, in key order; `None` when there is no such lease.
    pub fn leased_keys(&self, id: i64) -> Option<Vec<Bytes>> {
        self.leases.get(&id)?;
        let newest = self.keys.iter().filter_map(|(key, history)| Some((key, history.last()?.1.as_ref()?)));
        Some(newest.filter(|(_, kv)| kv.lease == id).map(|(key, _)| key.clone()).collect())
    }

    pub fn compact(&mut self, rev: i64) -> Result<(), Error> {
        if rev <= self.compact_rev {
            return Err(Error::Compacted);
        }
        if rev > self.rev {
            return Err(Error::FutureRev);
        }
        self.compact_rev = rev;
        for history in self.keys.values_mut() {
            let keep = last_at(history, rev).map(|i| if history[i].1.is_some() { i } else { i + 1 });
            history.drain(..keep.unwrap_or(0));
        }
        self.keys.retain(|_, history| !history.is_empty());
        Ok(())
    }

    /// etcd's HashKV: the hash, and the revision it is of.
    pub fn hash_kv(&self, rev: i64) -> Result<(u32, i64), Error> {
        if rev > 0 && rev < self.compact_rev {
            return Err(Error::Compacted);
        }
        if rev > self.rev {
            return Err(Error::FutureRev);
        }
        let rev = if rev == 0 { self.rev } else { rev };
        let mut rows = BTreeMap::new();
        let mut live = BTreeSet::new();
        for (key, history) in &self.keys {
            if let Some(i) = last_at(history, rev)
                && history[i].1.is_some()
            {
                live.insert(history[i].0);
            }
            rows.extend(history.iter().filter(|(at, _)| at.main <= rev).map(|(at, kv)| (*at, (key, kv))));
        }
        let mut hash = Crc32c::default();
        hash.write(b"key");
        for (at, (key, kv)) in rows {
            if at.main <= self.compact_rev && !live.is_empty() && !live.contains(&at) {
                continue;
            }
            hash.write(&at.main.to_be_bytes());
            hash.write(b"_");
            hash.write(&at.sub.to_be_bytes());
            match kv {
                Some(kv) => hash.write(&kv.encode_to_vec()),
                None => {
                    hash.write(b"t");
                    hash.write(&KeyValue { key: key.clone(), ..Default::default() }.encode_to_vec());
                }
            }
        }
        Ok((hash.finish(), rev))
    }

    fn read(&self, newest: i64, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error> {
        if options.rev > newest {
            return Err(Error::FutureRev);
        }
        let rev = if options.rev <= 0 { newest } else { options.rev };
        if rev < self.compact_rev {
            return Err(Error::Compacted);
        }
        let found = self.keys.iter().filter(|(k, _)| within(k, key, end));
        let mut kvs: Vec<KeyValue> =
            found.filter_map(|(_, history)| history[last_at(history, rev)?].1.clone()).collect();
        let count = kvs.len() as i64;
        if options.count_only {
            kvs.clear();
        }
        if options.limit > 0 {
            kvs.truncate(options.limit);
        }
        if options.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                kv.lease = 0;
            }
        }
        Ok(RangeResult { kvs, count, rev: newest })
    }
}

impl Read for Model {
    fn rev(&self) -> i64 {
        self.rev
    }

    fn compact_rev(&self) -> i64 {
        self.compact_rev
    }

    fn range(&self, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error> {
        self.read(self.rev, key, end, options)
    }
}

impl ModelTxn<'_> {
    pub fn end(self) {
        self.model.rev = self.rev();
    }

    fn push(&mut self, key: Bytes, kv: Option<KeyValue>) {
        let at = Revision { main: self.begin + 1, sub: self.changes };
        self.model.keys.entry(key).or_default().push((at, kv));
        self.changes += 1;
    }
}

impl Read for ModelTxn<'_> {
    fn rev(&self) -> i64 {
        self.begin + i64::from(self.changed())
    }

    fn compact_rev(&self) -> i64 {
        self.model.compact_rev
    }

    fn range(&self, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error> {
        self.model.read(self.rev(), key, end, options)
    }
}

impl Write for ModelTxn<'_> {
    fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> i64 {
        let rev = self.begin + 1;
        let before = self.model.keys.get(&key).and_then(|history| history.last()?.1.as_ref());
        let (create_revision, version) = before.map_or((rev, 1), |kv| (kv.create_revision, kv.version + 1));
        let kv = KeyValue { key: key.clone(), create_revision, mod_revision: rev, version, value, lease };
        self.push(key, Some(kv));
        rev
    }

    fn delete_range(&mut self, key: &[u8], end: &[u8]) -> i64 {
        let live = self
            .model
            .keys
            .iter()
            .filter(|(k, history)| within(k, key, end) && history.last().is_some_and(|(_, kv)| kv.is_some()));
        let keys: Vec<Bytes> = live.map(|(k, _)| k.clone()).collect();
        let count = keys.len() as i64;
        for key in keys {
            self.push(key, None);
        }
        count
    }

    fn changed(&self) -> bool {
        self.changes > 0
    }
}

fn within(k: &[u8], key: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => k == key,
        b"\0" => k >= key,
        _ => k >= key && k < end,
    }
}

/// The place of the last change at or before a revision.
fn last_at(history: &[(Revision, Option<KeyValue>)], rev: i64) -> Option<usize> {
    history.iter().rposition(|(at, _)| at.main <= rev)
}

/// CRC-32 with Castagnoli's polynomial, bit by bit.
struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(!0)
    }
}

impl Crc32c {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                self.0 = if self.0 & 1 == 1 { (self.0 >> 1) ^ 0x82f6_3b78 } else { self.0 >> 1 };
            }
        }
    }

    fn finish(self) -> u32 {
        !self.0
    }
}
