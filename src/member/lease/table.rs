//! The replicated table of leases: which there are, their TTLs, the keys attached to each.
//!
//! Every member's table is the same after the same entries, and a restart finds it again: leases from the bucket
//! `lease` (etcd's bytes), attachments from the newest version of each key. There is no time here, and nothing here
//! writes to the store; `member/apply/lease.rs` does both halves of an entry. What changes is noted as [`Change`]s for
//! the keeper.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lockstep_proto::leasepb;
use lockstep_proto::mvccpb::KeyValue;
use prost::Message;

use crate::member::error::EtcdError;

/// The longest TTL that is granted, in seconds.
pub const MAX_TTL_S: i64 = 9_000_000_000;

/// What an entry did to a lease, for [`Keeper::changed`](super::Keeper::changed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there now. `remaining_s`: as [`Change::Checkpointed`] has it; not 0 only for leases found at boot.
    Granted { id: i64, ttl_s: i64, remaining_s: i64 },
    /// It is gone, and its keys with it.
    Revoked { id: i64 },
    /// What was left of its time, when a leader last said so; 0 means all of it.
    Checkpointed { id: i64, remaining_s: i64 },
}

/// See the head of this file. Lean: 1,000,000 leases without keys take some 60 MB.
#[derive(Debug, Default)]
pub struct Table {
    leases: BTreeMap<i64, Lease>,
    /// The lease of each key that has one.
    attached: BTreeMap<Bytes, i64>,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    /// 0: not checkpointed since it was granted or renewed.
    remaining_s: i64,
    keys: Keys,
}

/// Most leases have no key or one.
#[derive(Debug, Default)]
enum Keys {
    #[default]
    None,
    One(Bytes),
    Many(BTreeSet<Bytes>),
}

impl Table {
    /// The table of a store: the values of its bucket `lease`, and the keys whose newest version names a lease. The
    /// error says which value is damaged.
    pub fn load<'a>(
        records: impl IntoIterator<Item = &'a [u8]>,
        attachments: Vec<(Bytes, i64)>,
    ) -> Result<Table, String> {
        let mut table = Table::default();
        for record in records {
            let damaged = |why: &str| format!("a row of the bucket lease ({}) {why}", record.escape_ascii());
            let lease = leasepb::Lease::decode(record).map_err(|e| damaged(&e.to_string()))?;
            if lease.id == 0 || lease.ttl <= 0 {
                return Err(damaged("is no lease"));
            }
            let leasepb::Lease { id, ttl: ttl_s, remaining_ttl: remaining_s } = lease;
            table.leases.insert(id, Lease { ttl_s, remaining_s, keys: Keys::None });
            table.changes.push(Change::Granted { id, ttl_s, remaining_s });
        }
        for (key, id) in attachments {
            table.attach(&key, id);
        }
        Ok(table)
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn ids(&self) -> impl Iterator<Item = i64> {
        self.leases.keys().copied()
    }

    pub fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Grants a lease; returns its TTL. Id 0 is not found, because whoever proposes fills one in.
    pub fn grant(&mut self, id: i64, ttl_s: i64) -> Result<i64, EtcdError> {
        if id == 0 {
            return Err(EtcdError::LeaseNotFound);
        }
        if ttl_s > MAX_TTL_S {
            return Err(EtcdError::LeaseTtlTooLarge);
        }
        if self.exists(id) {
            return Err(EtcdError::LeaseExists);
        }
        // Proposers raise it to the minimum; an entry of another implementation may hold anything.
        let ttl_s = ttl_s.max(1);
        self.leases.insert(id, Lease { ttl_s, remaining_s: 0, keys: Keys::None });
        self.changes.push(Change::Granted { id, ttl_s, remaining_s: 0 });
        Ok(ttl_s)
    }

    /// Takes a lease away, if it is there. Its keys must be deleted in the same transaction: [`Table::keys`] first.
    pub fn revoke(&mut self, id: i64) -> bool {
        let Some(lease) = self.leases.remove(&id) else { return false };
        for key in lease.keys.iter() {
            self.attached.remove(key);
        }
        self.changes.push(Change::Revoked { id });
        true
    }

    /// Notes what is left of a lease's time; 0 sets it back to all of it. False when there is no such lease.
    pub fn checkpoint(&mut self, id: i64, remaining_s: i64) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        let remaining_s = remaining_s.clamp(0, lease.ttl_s);
        lease.remaining_s = remaining_s;
        self.changes.push(Change::Checkpointed { id, remaining_s });
        true
    }

    /// The keys attached to a lease, in key order; `None` when there is no such lease.
    pub fn keys(&self, id: i64) -> Option<Vec<Bytes>> {
        Some(self.leases.get(&id)?.keys.iter().cloned().collect())
    }

    /// The lease that a key is attached to.
    pub fn lease_of(&self, key: &[u8]) -> Option<i64> {
        self.attached.get(key).copied()
    }

    /// Attaches and detaches keys as a transaction has changed them: a put to its lease, or to none; a deletion
    /// (version 0) to none.
    pub fn follow(&mut self, changes: &[KeyValue]) {
        for kv in changes {
            if kv.lease == 0 && self.attached.is_empty() {
                continue;
            }
            let lease = if kv.version == 0 { 0 } else { kv.lease };
            match self.lease_of(&kv.key) {
                Some(old) if old == lease => {}
                None if lease == 0 => {}
                old => {
                    if let Some(old) = old {
                        self.detach(&kv.key, old);
                    }
                    if lease != 0 {
                        self.attach(&kv.key, lease);
                    }
                }
            }
        }
    }

    /// A lease's row in the bucket `lease`: key and value.
    pub fn record(&self, id: i64) -> Option<([u8; 8], Vec<u8>)> {
        let Lease { ttl_s, remaining_s, .. } = self.leases.get(&id)?;
        let lease = leasepb::Lease { id, ttl: *ttl_s, remaining_ttl: *remaining_s };
        Some((Table::record_key(id), lease.encode_to_vec()))
    }

    /// The key of a lease's row in the bucket `lease`.
    pub fn record_key(id: i64) -> [u8; 8] {
        id.to_be_bytes()
    }

    /// What has changed since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn attach(&mut self, key: &[u8], id: i64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        // A copy: the key of a request is a piece of the whole entry's buffer.
        let key = Bytes::copy_from_slice(key);
        lease.keys.insert(key.clone());
        self.attached.insert(key, id);
    }

    fn detach(&mut self, key: &[u8], id: i64) {
        self.attached.remove(key);
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}

impl Keys {
    fn insert(&mut self, key: Bytes) {
        match self {
            Keys::None => *self = Keys::One(key),
            Keys::One(one) => {
                let one = std::mem::take(one);
                *self = Keys::Many(BTreeSet::from([one, key]));
            }
            Keys::Many(many) => drop(many.insert(key)),
        }
    }

    fn remove(&mut self, key: &[u8]) {
        match self {
            Keys::One(one) if one == key => *self = Keys::None,
            Keys::Many(many) => {
                many.remove(key);
                if many.is_empty() {
                    *self = Keys::None;
                }
            }
            Keys::None | Keys::One(_) => {}
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let (one, many) = match self {
            Keys::None => (None, None),
            Keys::One(one) => (Some(one), None),
            Keys::Many(many) => (None, Some(many.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
