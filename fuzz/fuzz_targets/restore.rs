//! Whatever rows a sound database has, a restore refuses it and leaves no file, or makes a store that a member runs on:
//! it opens, can be hashed, written to and compacted.
//!
//! The bytes are rows: a bucket, the lengths of key and value, and both. Where they say so, the key of a row is made
//! the key of a revision and its value a `KeyValue`, which chance alone would hardly make.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lockstep::interop::bbolt::{Layout, PAGE_BYTES, Writer};
use lockstep::interop::etcd::key_of;
use lockstep::interop::restore::NewCluster;
use lockstep::interop::store::{Everything, load};
use lockstep::member::apply::{Applier, Effect, Input};
use lockstep::mvcc::read::{Read, Revision};
use lockstep::mvcc::{Bucket, Options, Store};
use lockstep::ports::disk::Disk;
use lockstep_proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, PutRequest};
use lockstep_proto::leasepb::Lease;
use lockstep_proto::mvccpb::KeyValue;
use lockstep_proto::raftpb::Entry;
use lockstep_sim::disk::MemDisk;
use prost::Message;

const PATH: &str = "store";

fuzz_target!(|input: &[u8]| {
    let Some((&how, input)) = input.split_first() else { return };
    let Some(file) = database(input) else { return };
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let bump = i64::from(how >> 1);
    let loaded = match how & 1 {
        0 => load(&disk, PATH, file.clone(), file.len() as u64, &mut Everything),
        _ => load(&disk, PATH, file.clone(), file.len() as u64, &mut NewCluster::new(bump)),
    };
    if loaded.is_err() {
        assert!(disk.list("").expect("the root").is_empty(), "nothing is left of what was refused");
        return;
    }
    let (store, _backend) = Store::open(disk, PATH, Options::default()).expect("what was taken opens");
    let view = store.view();
    view.hash_kv(0).expect("a hash");
    view.hash().expect("a hash");
    view.range(b"\0", b"\0", Default::default()).expect("all keys");
    if how & 1 == 1 {
        go_on(store);
    }
});

/// A put and a compaction, as the first entries of a log.
fn go_on(store: Store) {
    let before = store.revision();
    let mut applier = Applier::new(store).expect("a member runs on it");
    applier.start();
    let put = PutRequest { key: "key".into(), value: "value".into(), ..Default::default() };
    let put = InternalRaftRequest { put: Some(put), ..Default::default() };
    let compaction = CompactionRequest { revision: before + 1, physical: true };
    let compaction = InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
    for (index, request) in (1..).zip([put, compaction]) {
        let data = Some(request.encode_to_vec().into());
        let entry = Entry { r#type: Some(0), term: Some(1), index: Some(index), data };
        let effects = applier.step([Input::Entries(vec![entry])]);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(_))));
    }
    for _ in 0..100 {
        let effects = applier.step([Input::CompactStep]);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stop(_))));
    }
}

fn database(mut input: &[u8]) -> Option<Bytes> {
    let mut buckets: BTreeMap<&str, BTreeMap<Bytes, Bytes>> = BTreeMap::new();
    for name in Bucket::ALL.map(Bucket::name).into_iter().chain(["key"]) {
        buckets.insert(name, BTreeMap::new());
    }
    while let [kind, key_len, value_len, rest @ ..] = input {
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let (value, rest) = rest.split_at_checked(usize::from(*value_len))?;
        input = rest;
        let (name, key, value) = match kind % 16 {
            0..=5 => {
                let (key, value) = row(kind >> 4, key, value);
                ("key", key, value)
            }
            6 | 7 => {
                let [id, ttl, remaining_ttl] = numbers(value);
                let key = Bytes::copy_from_slice(&id.to_be_bytes());
                ("lease", key, Lease { id, ttl, remaining_ttl }.encode_to_vec().into())
            }
            8 => {
                let names = ["consistent_index", "term", "scheduledCompactRev", "finishedCompactRev"];
                let [number, main, sub] = numbers(value);
                let name = names[usize::from(kind >> 4) % 4];
                let value = match name.ends_with("Rev") {
                    true => key_of(Revision { main, sub }, false),
                    false => Bytes::copy_from_slice(&number.to_be_bytes()),
                };
                ("meta", Bytes::from(name), value)
            }
            bucket => {
                let name = if bucket == 9 { "key" } else { Bucket::ALL[usize::from(kind >> 4) % 9].name() };
                (name, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
        };
        if !key.is_empty() {
            buckets.get_mut(name)?.insert(key, value);
        }
    }
    let mut layout = Layout::new(PAGE_BYTES);
    for (name, rows) in &buckets {
        layout.bucket(name).ok()?;
        for (key, value) in rows {
            layout.row(key.len(), value.len()).ok()?;
        }
    }
    let mut writer = Writer::new(layout.finish().ok()?, Vec::new()).expect("a vector takes all");
    for (name, rows) in buckets {
        writer.bucket(name).expect("buckets in order");
        for (key, value) in rows {
            writer.row(key, value).expect("rows in order");
        }
    }
    Some(writer.finish().expect("what was planned").into())
}

fn row(how: u8, key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let [main, sub, create_revision] = numbers(value);
    let [version, lease, _] = numbers(value.get(3..).unwrap_or_default());
    let is_deletion = how & 1 == 1;
    let key = Bytes::copy_from_slice(key);
    let mod_revision = if how & 2 == 0 { main } else { sub };
    let kv = match is_deletion {
        true => KeyValue { key, ..Default::default() },
        false => KeyValue { key, create_revision, mod_revision, version, lease, value: "v".into() },
    };
    (key_of(Revision { main, sub }, is_deletion), kv.encode_to_vec().into())
}

/// Small ones mostly, and sometimes one that is not.
fn numbers(bytes: &[u8]) -> [i64; 3] {
    std::array::from_fn(|at| match bytes.get(at).copied().unwrap_or(1) {
        255 => i64::MAX,
        254 => -1,
        253 => 1 << 60,
        252 => 1 << 32,
        small => i64::from(small),
    })
}
