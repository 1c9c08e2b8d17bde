//! The store against a reference that remembers everything: ranges at every revision, compaction, crashes, views that must not change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep::mvcc::read::{Error, RangeOptions, Read, Revision, Write};
use lockstep::mvcc::{Backend, Batch, Bucket, CompactProgress, OpenError, Options, Store, View, read_newest};
use lockstep::ports::disk::Disk;
use proptest::prelude::*;

use crate::util::mvcc_model::{Model, Step};
use crate::util::small_disk::SmallDisk;

const PATH: &str = "member/snap/db";

fn open(disk: &Arc<SmallDisk>) -> (Store, Backend) {
    Store::open(disk.clone() as Arc<dyn Disk>, PATH, Options { cache_bytes: 1 << 20 }).expect("the store opens")
}

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(store: &mut Store, key: &str, value: &str) -> i64 {
    store.write().put(b(key), b(value), 0)
}

fn commit(store: &mut Store, backend: &mut Backend) {
    let batch = store.seal().expect("there is something to seal");
    store.committed(backend.commit(&batch).expect("the batch commits"));
}

/// `key=value` of a range, with what the revision numbers are, in one line.
fn show(reader: &impl Read, key: &str, end: &str, options: RangeOptions) -> String {
    match reader.range(key.as_bytes(), end.as_bytes(), options) {
        Err(error) => error.to_string(),
        Ok(found) => {
            let kvs: Vec<String> = found
                .kvs
                .iter()
                .map(|kv| {
                    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
                    format!("{key}={value}({},{},{})", kv.create_revision, kv.mod_revision, kv.version)
                })
                .collect();
            format!("{} of {} @{}", kvs.join(" "), found.count, found.rev)
        }
    }
}

#[test]
fn revisions_are_etcds() {
    let (mut store, _backend) = open(&Arc::default());
    assert_eq!((store.revision(), store.compact_revision()), (1, -1));
    assert_eq!(put(&mut store, "a", "1"), 2);
    assert_eq!(store.write().delete_range(b"x", b""), 0);
    assert_eq!(store.revision(), 2, "deleting nothing moves nothing");
    {
        let mut txn = store.write();
        assert_eq!(txn.rev(), 2);
        txn.put(b("c"), b("1"), 0);
        txn.put(b("b"), b("1"), 7);
        assert_eq!(txn.rev(), 3);
        assert_eq!(txn.delete_range(b"a", b"c"), 2);
        let changes: Vec<(String, i64, i64)> =
            txn.changes().iter().map(|c| (c.key.escape_ascii().to_string(), c.mod_revision, c.version)).collect();
        let expected = [("c", 3, 1), ("b", 3, 1), ("a", 3, 0), ("b", 3, 0)];
        assert_eq!(changes, expected.map(|(k, r, v)| (k.to_string(), r, v)));
    }
    assert_eq!(store.revision(), 3);
    let view = store.publish(1);
    let rows = view.rows(Revision::default(), 100).unwrap();
    let subs: Vec<(i64, i64, bool)> =
        rows.iter().map(|r| (r.revision.main, r.revision.sub, r.is_tombstone())).collect();
    assert_eq!(subs, [(2, 0, false), (3, 0, false), (3, 1, false), (3, 2, true), (3, 3, true)]);
    put(&mut store, "a", "2");
    let view = store.publish(2);
    let all = RangeOptions::default();
    assert_eq!(show(&*view, "\0", "\0", all), "a=2(4,4,1) c=1(3,3,1) of 2 @4");
    assert_eq!(show(&*view, "\0", "\0", RangeOptions { rev: 2, ..all }), "a=1(2,2,1) of 1 @4");
    assert_eq!(show(&*view, "a", "", RangeOptions { rev: 3, ..all }), " of 0 @4");
    assert_eq!(show(&*view, "a", "", RangeOptions { rev: 5, ..all }), Error::FutureRev.to_string());
    assert_eq!(show(&*view, "a", "z", RangeOptions { limit: 1, ..all }), "a=2(4,4,1) of 2 @4");
    assert_eq!(show(&*view, "a", "z", RangeOptions { count_only: true, ..all }), " of 2 @4");
    assert_eq!(show(&*view, "a", "z", RangeOptions { keys_only: true, ..all }), "a=(4,4,1) c=(3,3,1) of 2 @4");
    assert_eq!(show(&*view, "z", "a", all), " of 0 @4");
}

/// What the random test does next.
#[derive(Clone, Debug)]
enum Op {
    Txn(Vec<Step>),
    Bucket(u8, Option<u8>),
    Compact(u8),
    Sweep(u8),
    Publish,
    KeepView,
    Seal,
    Commit,
    /// The process dies; with a number, in the middle of the next commit after so many changes to the disk.
    Crash(Option<u8>, u64),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', 0xff]), 1..3)
}

fn end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![0]), 2 => key()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..40), 0..3i64)
            .prop_map(|(key, value, lease)| Step::Put { key, value, lease }),
        1 => (key(), end()).prop_map(|(key, end)| Step::Delete { key, end }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop::collection::vec(step(), 1..4).prop_map(Op::Txn),
        2 => (0..4u8, prop::option::of(any::<u8>())).prop_map(|(k, v)| Op::Bucket(k, v)),
        2 => any::<u8>().prop_map(Op::Compact),
        3 => (1..4u8).prop_map(Op::Sweep),
        4 => Just(Op::Publish),
        2 => Just(Op::KeepView),
        2 => Just(Op::Seal),
        2 => Just(Op::Commit),
        1 => (prop::option::of(any::<u8>()), any::<u64>()).prop_map(|(after, seed)| Op::Crash(after, seed)),
    ]
}

struct World {
    disk: Arc<SmallDisk>,
    store: Store,
    backend: Backend,
    model: Model,
    /// The model as of every entry whose changes were sealed.
    sealed: BTreeMap<u64, Model>,
    in_flight: Option<Arc<Batch>>,
    kept: Vec<(Arc<View>, Model)>,
    published: Model,
    /// Compaction has begun to take rows up to here.
    swept: i64,
}

impl World {
    fn new() -> World {
        let disk = Arc::<SmallDisk>::default();
        let (store, backend) = open(&disk);
        let model = Model::default();
        let sealed = BTreeMap::from([(0, model.clone())]);
        let published = model.clone();
        World { disk, store, backend, model, sealed, in_flight: None, kept: Vec::new(), published, swept: -1 }
    }

    fn run(&mut self, op: &Op) {
        let entry = self.store.consistent_index() + 1;
        match op {
            Op::Txn(steps) => {
                self.model.txn(steps);
                let mut txn = self.store.write();
                for step in steps.iter().cloned() {
                    match step {
                        Step::Put { key, value, lease } => drop(txn.put(key.into(), value.into(), lease)),
                        Step::Delete { key, end } => drop(txn.delete_range(&key, &end)),
                    }
                }
                drop(txn);
                self.store.set_consistent_index(entry, 1);
            }
            Op::Bucket(key, Some(value)) => {
                self.model.lease_bucket.insert(vec![*key], vec![*value]);
                self.store.bucket_put(Bucket::Lease, &[*key], &[*value]);
                self.store.set_consistent_index(entry, 1);
            }
            Op::Bucket(key, None) => {
                self.model.lease_bucket.remove(&vec![*key]);
                self.store.bucket_delete(Bucket::Lease, &[*key]);
                self.store.set_consistent_index(entry, 1);
            }
            Op::Compact(part) => {
                let rev = self.model.rev * i64::from(*part) / 255;
                assert_eq!(self.store.compact(rev), self.model.compact(rev));
                self.store.set_consistent_index(entry, 1);
            }
            Op::Sweep(budget) => {
                if self.store.compact_step(usize::from(*budget)) != CompactProgress::Idle {
                    self.swept = self.store.compact_revision().min(self.published.rev);
                }
            }
            Op::Publish => {
                self.published = self.model.clone();
                let view = self.store.publish(entry - 1);
                check(&*view, &self.model, -1);
                check_view(&view, &self.model, -1);
            }
            Op::KeepView => self.kept.push((self.store.view(), self.published.clone())),
            Op::Seal => {
                if let Some(batch) = self.store.seal() {
                    self.sealed.insert(batch.consistent_index(), self.model.clone());
                    self.in_flight = Some(batch);
                }
            }
            Op::Commit => {
                if let Some(batch) = self.in_flight.take() {
                    let done = self.backend.commit(&batch).expect("the disk is well");
                    self.store.committed(done);
                    assert_eq!(self.store.durable_index(), batch.consistent_index());
                }
            }
            Op::Crash(after, seed) => self.crash(*after, *seed),
        }
        check(&self.store.write(), &self.model, -1);
        assert_eq!(self.store.bucket_scan(Bucket::Lease).unwrap(), pairs(&self.model));
    }

    fn crash(&mut self, after: Option<u8>, seed: u64) {
        let mut durable = vec![self.store.durable_index()];
        if let (Some(after), Some(batch)) = (after, self.in_flight.take()) {
            self.disk.fail_after(Some(u64::from(after) % 40));
            durable.push(batch.consistent_index());
            if self.backend.commit(&batch).is_ok() {
                durable.remove(0);
            }
            self.disk.fail_after(None);
        }
        self.backend.poison();
        let mut state = seed | 1;
        let disk = self.disk.crash(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 63 == 1
        });
        self.disk = Arc::new(disk);
        (self.store, self.backend) = open(&self.disk);
        let found = self.store.consistent_index();
        assert!(durable.contains(&found), "the store came back at {found}, not at one of {durable:?}");
        assert_eq!(self.store.durable_index(), found);
        self.model = self.sealed[&found].clone();
        assert_eq!((self.store.revision(), self.store.compact_revision()), (self.model.rev, self.model.compact_rev));
        let attached: Vec<(Vec<u8>, i64)> =
            self.store.take_attachments().into_iter().map(|(k, l)| (k.to_vec(), l)).collect();
        assert_eq!(attached, self.model.attachments());
        self.published = self.model.clone();
        self.sealed.retain(|&index, _| index <= found);
        self.in_flight = None;
        self.kept.clear();
        self.swept = -1;
        check_view(&self.store.view(), &self.model, -1);
    }
}

fn pairs(model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.lease_bucket.clone().into_iter().collect()
}

/// Asks the reader everything worth asking. Below `swept` it may say that compaction overtook it, and nothing else.
fn check(reader: &impl Read, model: &Model, swept: i64) {
    assert_eq!((reader.rev(), reader.compact_rev()), (model.rev, model.compact_rev));
    let ranges: [(&[u8], &[u8]); 5] = [(&[0], &[0]), (b"a", b""), (b"a", b"b"), (b"ab", &[0]), (b"b", b"a")];
    for rev in -1..=model.rev + 1 {
        for (key, end) in ranges {
            for (limit, count_only, keys_only) in [(0, false, false), (1, false, true), (2, true, false)] {
                let options = RangeOptions { limit, rev, count_only, keys_only };
                let (found, expected) = (reader.range(key, end, options), model.range(key, end, options));
                let overtaken = match rev {
                    ..=0 => model.rev < swept && found == Err(Error::Overtaken),
                    _ => rev < swept && found == Err(Error::Compacted),
                };
                assert!(overtaken || found == expected, "{key:?}..{end:?} {options:?}: {found:?}, not {expected:?}");
            }
        }
    }
}

fn check_view(view: &View, model: &Model, swept: i64) {
    assert_eq!(view.bucket_scan(Bucket::Lease).unwrap(), pairs(model));
    for (key, value) in pairs(model) {
        assert_eq!(view.bucket_get(Bucket::Lease, &key).unwrap(), Some(value));
    }
    for rev in [0, model.compact_rev.max(1), model.rev] {
        let at = if rev == 0 { model.rev } else { rev };
        match view.hash_kv(rev) {
            Ok(found) => {
                assert_eq!(found.hash, model.hash_kv(at), "HashKV at {rev}");
                assert_eq!((found.hash_revision, found.compact_revision), (at, model.compact_rev));
            }
            Err(error) => assert!(at < swept || model.compact_rev < swept, "HashKV at {rev}: {error}"),
        }
    }
    let from = Revision { main: model.compact_rev.max(0), sub: 0 };
    let found: Vec<_> =
        view.rows(from, usize::MAX).unwrap().into_iter().map(|r| (r.revision, r.decode().unwrap())).collect();
    let expected: Vec<_> = model.rows(from).into_iter().collect();
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(r, mut kv)| {
            kv.mod_revision = r.main;
            (r, kv)
        })
        .collect();
    assert_eq!(found, expected);
    let paged = paged(view, from);
    assert_eq!(paged, expected, "the same rows come two at a time");
}

fn paged(view: &View, mut from: Revision) -> Vec<(Revision, lockstep::proto::mvccpb::KeyValue)> {
    let mut all = Vec::new();
    loop {
        let rows = view.rows(from, 2).unwrap();
        let Some(last) = rows.last() else { return all };
        from = Revision { main: last.revision.main, sub: last.revision.sub + 1 };
        all.extend(rows.iter().map(|r| (r.revision, r.decode().unwrap())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_reference_through_compactions_and_crashes(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
            for (view, model) in &world.kept {
                check(&**view, model, world.swept);
                check_view(view, model, world.swept);
            }
        }
    }
}
