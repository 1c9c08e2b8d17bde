//! The store against a reference that remembers everything: ranges at every revision, compaction, crashes, views that must not change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep::mvcc::read::{Error, RangeOptions, Read, Revision, Write};
use lockstep::mvcc::{Backend, Bucket, CompactProgress, Options, Store, View, read_newest};
use lockstep::ports::disk::Disk;
use lockstep::proto::mvccpb::KeyValue;
use proptest::prelude::*;

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
