//! A member's core, without consensus, on a disk in memory: applies requests as the log does, answers reads as the
//! services do, and compares all of it with what the published changes come to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use lockstep::member::apply::{Applier, Change, Effect, Input, Response, range, txn};
use lockstep::member::check;
use lockstep::member::error::EtcdError;
use lockstep::member::lease::Change as LeaseChange;
use lockstep::mvcc::read::{Error, RangeOptions, Read};
use lockstep::mvcc::{Backend, Options, Store, View};
use lockstep::ports::disk::Disk;
use lockstep_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep_proto::etcdserverpb::{InternalRaftRequest, RangeRequest, TxnRequest};
use lockstep_proto::mvccpb::KeyValue;
use lockstep_proto::raftpb::{Entry, EntryType};
use lockstep_sim::disk::MemDisk;
use prost::Message;

/// As `--max-txn-ops` has it.
pub const MAX_TXN_OPS: usize = 128;

/// A disk with an empty store, made once: to make one takes longer than all that most inputs ask for.
static EMPTY: LazyLock<MemDisk> = LazyLock::new(|| {
    let disk = MemDisk::new();
    let (applier, mut backend, view) = open(&disk);
    backend.keep().expect("the disk is sound");
    drop((applier, view));
    drop(backend);
    disk
});

type Keys = BTreeMap<Bytes, KeyValue>;
type Answer = Result<Response, EtcdError>;

/// See the head of this file.
pub struct Member {
    /// One of its own, where anything is committed.
    disk: Option<MemDisk>,
    applier: Applier,
    backend: Backend,
    pub view: Arc<View>,
    /// What watchers are to be told, until a target takes it.
    pub published: Vec<(Arc<View>, Arc<[Change]>)>,
    index: u64,
    /// The keys at each revision since the beginning, as the changes say.
    known: BTreeMap<i64, Keys>,
    leases: BTreeSet<i64>,
    replies: BTreeMap<u64, Answer>,
    is_compacting: bool,
    restarts: u8,
}

impl Member {
    /// Without a disk of its own, which takes time, it commits nothing and cannot be restarted.
    pub fn new(has_disk: bool) -> Member {
        let disk = has_disk.then(|| EMPTY.fork());
        let (applier, backend, view) = open(disk.as_ref().unwrap_or(&EMPTY));
        let mut member = Member {
            disk,
            applier,
            backend,
            view,
            published: Vec::new(),
            index: 0,
            known: BTreeMap::from([(1, Keys::new())]),
            leases: BTreeSet::new(),
            replies: BTreeMap::new(),
            is_compacting: false,
            restarts: 0,
        };
        member.start();
        member
    }

    fn start(&mut self) {
        let effects = self.applier.start();
        self.carry_out(effects);
    }

    /// Through the log, as a service proposes it; `None` when the answer waits.
    pub fn propose(&mut self, request: InternalRaftRequest) -> Option<Answer> {
        let header = lockstep_proto::etcdserverpb::RequestHeader { id: self.index + 1, ..Default::default() };
        let request = InternalRaftRequest { header: Some(header), ..request };
        self.apply(EntryType::EntryNormal, &request.encode_to_vec());
        self.replies.remove(&self.index)
    }

    /// What a peer's entry holds, whatever it is.
    pub fn apply(&mut self, kind: EntryType, data: &[u8]) {
        self.index += 1;
        let entry = Entry {
            r#type: Some(kind as i32),
            term: Some(1),
            index: Some(self.index),
            data: Some(Bytes::copy_from_slice(data)),
        };
        self.step(Input::Entries(vec![entry]));
    }

    pub fn commit(&mut self) {
        if self.disk.is_some() {
            self.step(Input::Commit);
        }
    }

    /// A piece of the compaction that is under way, if there is one.
    pub fn compact_step(&mut self) {
        if std::mem::take(&mut self.is_compacting) {
            self.step(Input::CompactStep);
        }
    }

    pub fn lease_keys(&mut self, lease: i64) {
        self.step(Input::LeaseKeys { id: 0, lease });
        match self.replies.remove(&0).expect("an answer") {
            Ok(Response::LeaseKeys(keys)) => {
                let attached = |kv: &&KeyValue| kv.lease == lease;
                assert!(keys.iter().eq(self.newest().values().filter(attached).map(|kv| &kv.key)));
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!((error, self.leases.contains(&lease)), (EtcdError::LeaseNotFound, false)),
        }
    }

    /// The process is killed and another one begins, with what the disk holds; twice at most, for it takes its time.
    pub fn restart(&mut self) {
        self.commit();
        let Some(disk) = self.disk.as_ref().filter(|_| self.restarts < 2) else { return };
        self.restarts += 1;
        let before = self.view.clone();
        self.backend.poison();
        (self.applier, self.backend, self.view) = open(disk);
        assert_eq!((self.view.rev(), self.applier.applied()), (before.rev(), self.index));
        self.leases.clear();
        self.start();
        self.check();
    }

    /// A range as both of the server's ways answer it.
    pub fn range(&self, request: &RangeRequest) {
        if let Err(error) = check::range(request) {
            assert!(matches!(error, EtcdError::EmptyKey | EtcdError::InvalidSortOption));
            return;
        }
        let is_streamed = check::range_stream(request).is_ok() && request.sort_target == SortTarget::Key as i32;
        let answer = range::range(&*self.view, request);
        let selected = range::select(&self.view, request);
        let (answer, selected) = match (answer, selected) {
            (Ok(answer), Ok(selected)) => (answer, selected),
            (answer, selected) => return assert_eq!(answer.err(), selected.err()),
        };
        let at = if request.revision <= 0 { self.view.rev() } else { request.revision };
        let within = |kv: &&KeyValue| is_within(&kv.key, &request.key, &request.range_end);
        let count = self.known[&at].values().filter(within).count();
        assert_eq!((answer.count, answer.more), (count as i64, selected.more));
        assert_eq!((selected.count, selected.rev), (answer.count, self.view.rev()));
        assert!(request.limit <= 0 || answer.kvs.len() as i64 <= request.limit);
        assert!(answer.kvs.iter().all(|kv| within(&kv)));
        assert!(!is_streamed || answer.kvs.is_sorted_by(|a, b| a.key < b.key));
        assert!(is_sorted(request, &answer.kvs));
        let rows = selected.revisions.iter().map(|revision| {
            let row = range::with_selected(&self.view, request, *revision, |row| KeyValue::decode(row));
            row.expect("a row that was selected").expect("a key and its value")
        });
        assert!(request.count_only || rows.eq(answer.kvs.iter().cloned()));
    }

    /// A txn, the way that its contents choose.
    pub fn txn(&mut self, request: TxnRequest) {
        if check::txn(&request, MAX_TXN_OPS).is_err() {
            return;
        }
        if !txn::is_readonly(&request) {
            self.propose(InternalRaftRequest { txn: Some(request), ..Default::default() });
        } else if let Ok(response) = txn::txn_readonly(&*self.view, &request) {
            let taken = if response.succeeded { &request.success } else { &request.failure };
            assert_eq!(response.responses.len(), taken.len());
        }
    }

    /// What is there is what was told, now and at every revision that is not compacted.
    pub fn check(&self) {
        let view = &self.view;
        assert_eq!(*self.known.last_key_value().expect("the first").0, view.rev());
        for (rev, known) in &self.known {
            let found = view.range(b"", b"\0", RangeOptions { rev: *rev, ..Default::default() });
            match found {
                Ok(found) => assert!(found.kvs.iter().eq(known.values()), "revision {rev}"),
                Err(error) => assert_eq!((error, *rev < view.compact_rev()), (Error::Compacted, true)),
            }
        }
        assert!(self.newest().values().all(|kv| kv.lease == 0 || self.leases.contains(&kv.lease)));
    }

    fn newest(&self) -> &Keys {
        self.known.last_key_value().expect("the first").1
    }

    fn step(&mut self, input: Input) {
        let effects = self.applier.step([input]);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Leases(changes) => {
                    for change in changes.iter() {
                        match *change {
                            LeaseChange::Granted { id, ttl_s, remaining_s } => {
                                assert!(ttl_s > 0 && (0..=ttl_s).contains(&remaining_s));
                                assert!(self.leases.insert(id), "lease {id} is granted once");
                            }
                            LeaseChange::Revoked { id } => assert!(self.leases.remove(&id)),
                            LeaseChange::Checkpointed { id, .. } => assert!(self.leases.contains(&id)),
                        }
                    }
                }
                Effect::Publish { view, changes } => {
                    for change in changes.iter() {
                        let mut keys = self.newest().clone();
                        for kv in &change.events {
                            assert_eq!(kv.mod_revision, change.revision);
                            if kv.version == 0 {
                                keys.remove(&kv.key).expect("what is deleted was there");
                            } else {
                                keys.insert(kv.key.clone(), kv.clone());
                            }
                        }
                        let before = self.known.insert(change.revision, keys);
                        assert!(before.is_none() && change.revision == self.known.len() as i64, "one after another");
                    }
                    self.published.push((view.clone(), changes));
                    self.view = view;
                }
                Effect::Applied { index, .. } => assert_eq!(index, self.index),
                Effect::Reply(reply) => drop(self.replies.insert(reply.id, reply.result)),
                Effect::Commit(batch) => {
                    let done = self.backend.commit(&batch).expect("the disk is sound");
                    self.step(Input::Committed(done));
                }
                Effect::Compacting => self.is_compacting = true,
                Effect::Stop(reason) => panic!("the member stops: {reason}"),
                Effect::Defragment => panic!("nobody has asked for it"),
                Effect::ConfChange(_)
                | Effect::Removed(_)
                | Effect::Membership(_)
                | Effect::Alarms(_)
                | Effect::NoSpace
                | Effect::StoreDurable(_)
                | Effect::Snapshot { .. } => {}
            }
        }
    }
}

impl Drop for Member {
    /// Nothing is written any more: that would take its time.
    fn drop(&mut self) {
        self.backend.poison();
    }
}

fn open(disk: &MemDisk) -> (Applier, Backend, Arc<View>) {
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, backend) = Store::open(disk, "member/snap/db", options).expect("the store opens");
    let view = store.view();
    (Applier::new(store).expect("a sound store"), backend, view)
}

pub fn is_within(key: &[u8], begin: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == begin,
        b"\0" => key >= begin,
        end => key >= begin && key < end,
    }
}

/// A target without an order sorts what the limit has left, but for keys, which are in order anyway.
fn is_sorted(request: &RangeRequest, kvs: &[KeyValue]) -> bool {
    let is_descending = request.sort_order == SortOrder::Descend as i32;
    kvs.is_sorted_by(|a, b| {
        let order = match SortTarget::try_from(request.sort_target) {
            Ok(SortTarget::Key) => a.key.cmp(&b.key),
            Ok(SortTarget::Version) => a.version.cmp(&b.version),
            Ok(SortTarget::Create) => a.create_revision.cmp(&b.create_revision),
            Ok(SortTarget::Mod) => a.mod_revision.cmp(&b.mod_revision),
            // Values may have been left out after they were sorted by.
            Ok(SortTarget::Value) | Err(_) => return true,
        };
        if is_descending { order.is_ge() } else { order.is_le() }
    })
}
