//! The store against a reference that remembers everything: ranges at every revision, compaction, crashes, views that
//! must not change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep::mvcc::read::{Error, RangeOptions, Read, Revision, Write};
use lockstep::mvcc::{Backend, Batch, Bucket, CompactProgress, OpenError, Options, Row, Store, View, read_newest};
use lockstep::ports::disk::Disk;
use proptest::prelude::*;

use crate::util::mvcc_model::{Model, Step};
use crate::util::small_disk::SmallDisk;

const PATH: &str = "member/snap/db";

fn open(disk: &Arc<SmallDisk>) -> (Store, Backend) {
    Store::open(disk.clone() as Arc<dyn Disk>, PATH, Options { cache_bytes: 1 << 20, ..Options::default() })
        .expect("the store opens")
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
    let mut expected = model.rows(from);
    expected.iter_mut().for_each(|(r, kv)| kv.mod_revision = r.main);
    // What the compaction passes may still be there.
    let stays = |row: &Row| row.revision.main > model.compact_rev || expected.iter().any(|(r, _)| *r == row.revision);
    let decode = |row: Row| (row.revision, row.decode().unwrap());
    let found: Vec<_> = view.rows(from, usize::MAX).unwrap().into_iter().filter(stays).map(decode).collect();
    assert_eq!(found, expected);
    let found: Vec<_> = paged(view, from).into_iter().filter(stays).map(decode).collect();
    assert_eq!(found, expected, "the same rows come two at a time");
}

fn paged(view: &View, mut from: Revision) -> Vec<Row> {
    let mut all = Vec::new();
    loop {
        let rows = view.rows(from, 2).unwrap();
        let Some(last) = rows.last() else { return all };
        from = Revision { main: last.revision.main, sub: last.revision.sub + 1 };
        all.extend(rows);
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

/// Enough keys for many blocks of the index and many holds of its lock: counts stay exact while keys come, go and are
/// compacted.
#[test]
fn counts_are_exact_over_many_keys() {
    let (mut store, _backend) = open(&Arc::default());
    let mut history: Vec<BTreeMap<String, i64>> = vec![BTreeMap::new(); 2];
    let mut state = 7u64;
    let mut draw = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let name = |n: u64| format!("{n:06}");
    let mut views = Vec::new();
    for round in 0..60u64 {
        let mut now = history.last().unwrap().clone();
        let mut txn = store.write();
        let rev = txn.rev() + 1;
        for n in 0..200 {
            // In ascending order at first, all over the place later.
            let key = name(if round < 20 { round * 200 + n } else { draw(8_000) });
            txn.put(b(&key), b("v"), 0);
            now.insert(key, rev);
        }
        if round % 3 == 2 {
            let (from, len) = (draw(8_000), draw(1_500));
            let (key, end) = (name(from), name(from + len));
            let gone: Vec<String> = now.range(key.clone()..end.clone()).map(|(k, _)| k.clone()).collect();
            assert_eq!(txn.delete_range(key.as_bytes(), end.as_bytes()), gone.len() as i64);
            now.retain(|k, _| !gone.contains(k));
        }
        drop(txn);
        history.push(now);
        views.push(store.publish(round));
        if round % 10 == 9 {
            store.compact(rev - 4).unwrap();
            while store.compact_step(500) != CompactProgress::Idle {}
        }
        let first = store.compact_revision().max(1);
        for at in [first, rev - 1, rev] {
            let truth = &history[at as usize];
            for (limit, from, to) in [(0, 0, 10_000), (1, 0, 10_000), (700, 1_000, 3_000), (5, draw(8_000), 7_777)] {
                let (key, end) = (name(from), name(to));
                let options = RangeOptions { limit, rev: at, ..RangeOptions::default() };
                let found = store.view().range(key.as_bytes(), end.as_bytes(), options).unwrap();
                let expected: Vec<(&str, i64)> =
                    truth.range(key.clone()..end.clone().max(key.clone())).map(|(k, r)| (k.as_str(), *r)).collect();
                assert_eq!(found.count, expected.len() as i64, "{key}..{end} at {at}");
                let want = if limit == 0 { expected.len() } else { limit.min(expected.len()) };
                let kvs: Vec<(&str, i64)> =
                    found.kvs.iter().map(|kv| (std::str::from_utf8(&kv.key).unwrap(), kv.mod_revision)).collect();
                assert_eq!(kvs, expected[..want], "{key}..{end} at {at}");
            }
        }
    }
    // Old views still answer, or say why not.
    for (n, view) in views.iter().enumerate() {
        match view.range(b"0", b"9", RangeOptions { limit: 3, ..RangeOptions::default() }) {
            Ok(found) => assert_eq!(found.count, history[n + 2].len() as i64),
            Err(error) => assert!(error == Error::Overtaken && view.rev() < store.compact_revision()),
        }
    }
    // All gone and compacted away: the index is empty.
    store.write().delete_range(b"0", b"9");
    put(&mut store, "last", "1");
    store.publish(61);
    store.compact(store.revision()).unwrap();
    while store.compact_step(100) != CompactProgress::Idle {}
    assert_eq!(store.keys(), 1);
}

/// A view that a compaction overtook says so, and the helper finds a fresh one; before the next view is published
/// nothing is taken.
#[test]
fn an_overtaken_reader_takes_a_fresh_view() {
    let (mut store, _backend) = open(&Arc::default());
    put(&mut store, "a", "1");
    let old = store.publish(1);
    put(&mut store, "a", "2");
    store.compact(3).unwrap();
    assert_eq!(store.compact_step(10), CompactProgress::More, "the only view is older than the compaction");
    assert_eq!(show(&*old, "a", "", RangeOptions::default()), "a=1(2,2,1) of 1 @2");
    let fresh = store.publish(2);
    assert_eq!(store.compact_step(10), CompactProgress::Done(3));
    assert_eq!(store.compact_step(10), CompactProgress::Idle);

    let newest = RangeOptions::default();
    assert_eq!(old.range(b"a", b"", newest), Err(Error::Overtaken));
    assert_eq!(old.range(b"a", b"", RangeOptions { rev: 2, ..newest }), Err(Error::Compacted));
    let mut views = vec![fresh, old.clone()];
    let found = read_newest(|| views.pop().unwrap(), |view| view.range(b"a", b"", newest)).unwrap();
    assert_eq!(found.kvs[0].value, "2");
    assert_eq!(read_newest(|| old.clone(), |view| view.range(b"a", b"", newest)), Err(Error::Overtaken));
    assert_eq!(store.compact(3), Err(Error::Compacted));
    assert_eq!(store.compact(4), Err(Error::FutureRev));
}

/// A watch from the compaction revision must see the deletion there; one further down is history.
#[test]
fn a_tombstone_right_at_the_compaction_stays() {
    let (mut store, _backend) = open(&Arc::default());
    put(&mut store, "a", "1");
    put(&mut store, "b", "1");
    assert_eq!(store.write().delete_range(b"a", b""), 1);
    assert_eq!(store.write().delete_range(b"b", b""), 1);
    put(&mut store, "c", "1");
    store.publish(1);
    for (compact, keys) in [(4, 3), (5, 2), (6, 1)] {
        store.compact(compact).unwrap();
        assert_eq!(store.compact_step(100), CompactProgress::Done(compact));
        assert_eq!(store.keys(), keys, "keys remembered after compacting at {compact}");
    }
}

/// A second compaction while the first is at work waits its turn, and both end.
#[test]
fn compactions_queue_and_survive_a_restart() {
    let disk = Arc::<SmallDisk>::default();
    let (mut store, mut backend) = open(&disk);
    for n in 0..300 {
        put(&mut store, &format!("{}", n % 100), "v");
    }
    store.set_consistent_index(1, 1);
    store.publish(1);
    commit(&mut store, &mut backend);
    let full = store.view().size_in_use_bytes();
    store.compact(150).unwrap();
    assert_eq!(store.compact_step(5), CompactProgress::More);
    store.compact(250).unwrap();
    store.compact(300).unwrap();
    store.set_consistent_index(2, 1);
    commit(&mut store, &mut backend);
    backend.poison();

    let disk = Arc::new(disk.crash(|| false));
    let (mut store, mut backend) = open(&disk);
    assert_eq!((store.compact_revision(), store.revision()), (300, 301));
    assert_eq!(
        store.view().range(b"1", b"", RangeOptions { rev: 299, ..RangeOptions::default() }),
        Err(Error::Compacted)
    );
    let mut steps = Vec::new();
    loop {
        let step = store.compact_step(20);
        steps.push(step);
        if step == CompactProgress::Idle {
            break;
        }
    }
    assert_eq!(steps[steps.len() - 2], CompactProgress::Done(300));
    assert!(steps.len() > 5, "it went in steps: {steps:?}");
    commit(&mut store, &mut backend);
    store.publish(2);
    let rows = store.view().rows(Revision { main: 300, sub: 0 }, 1_000).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(store.view().rows(Revision::default(), 1_000).unwrap().len(), 101, "one row a key, and the newest");
    assert!(store.view().size_in_use_bytes() < full / 2, "the size follows the rows, not the file");
}

#[test]
fn a_cut_creation_leaves_nothing_in_the_way() {
    for changes in 0..60 {
        let disk = Arc::new(SmallDisk::default());
        disk.fail_after(Some(changes));
        let opened = Store::open(disk.clone() as Arc<dyn Disk>, PATH, Options::default());
        let failed = opened.is_err();
        if let Err(error) = &opened {
            assert!(error.to_string().contains(PATH), "{error}");
        }
        let mut flip = false;
        let crashed = disk.crash(|| {
            flip = !flip;
            flip
        });
        drop(opened);
        let (store, _backend) = open(&Arc::new(crashed));
        assert_eq!((store.revision(), store.consistent_index()), (1, 0));
        if !failed {
            return;
        }
    }
    panic!("creating a store takes more than 60 changes to the disk");
}

/// A file with one committed batch in it, closed cleanly.
fn sound_file() -> Vec<u8> {
    let disk = Arc::<SmallDisk>::default();
    let (mut store, mut backend) = open(&disk);
    for n in 0..50 {
        put(&mut store, &format!("key{n}"), &"value".repeat(20));
    }
    store.bucket_put(Bucket::Lease, b"12345678", b"lease");
    store.set_consistent_index(5, 1);
    commit(&mut store, &mut backend);
    drop((store, backend));
    disk.read(PATH)
}

fn open_bytes(bytes: &[u8]) -> Result<(Store, Backend), OpenError> {
    let disk = SmallDisk::default();
    disk.plant(PATH, bytes);
    Store::open(Arc::new(disk), PATH, Options::default())
}

#[test]
fn a_foreign_file_is_refused_by_name() {
    let sound = sound_file();
    let mut bbolt = vec![0; 16384];
    bbolt[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("nothing", Vec::new(), "is not a lockstep store (its 0 bytes"),
        ("text", b"hello".repeat(2000), "is not a lockstep store (its 10000 bytes"),
        ("zeros", vec![0; 1 << 20], "is not a lockstep store"),
        ("etcd's", bbolt, "is an etcd (bbolt) database"),
        ("a stump", sound[..2000].to_vec(), "it has only 2000 bytes"),
        ("half", sound[..sound.len() / 2].to_vec(), "damaged"),
    ];
    for (what, bytes, expected) in cases {
        let error = open_bytes(&bytes).map(|_| ()).expect_err(what).to_string();
        assert!(error.contains(PATH) && error.contains(expected), "{what}: {error}");
    }
}

/// Whatever a bit flip does, opening and reading it all never panics: it is refused, or what is read is of the right
/// shape.
#[test]
fn a_rotten_file_never_panics() {
    let sound = sound_file();
    let (store, backend) = open_bytes(&sound).expect("the sound file opens");
    drop((store, backend));
    let used: Vec<usize> = (0..sound.len()).filter(|&i| sound[i] != 0).collect();
    let (mut refused, mut served) = (0, 0);
    for n in 0..400usize {
        let mut bytes = sound.clone();
        let at = used[n * 7919 % used.len()];
        bytes[at] ^= 1 << (n % 8);
        match open_bytes(&bytes) {
            Err(error) => {
                assert!(error.to_string().contains(PATH), "{error}");
                refused += 1;
            }
            Ok((store, _backend)) => {
                let _ = store.view().range(b"\0", b"\0", RangeOptions::default());
                let _ = store.view().hash();
                served += 1;
            }
        }
    }
    assert!(refused > 0 && served > 0, "{refused} refused, {served} served");
}
