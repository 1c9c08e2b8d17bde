//! What becomes a store of ours: databases that are sound, and such whose pages are in order and whose rows lie. The
//! latter get no name.

use std::sync::Arc;

use bytes::Bytes;
use lockstep::interop::bbolt::PAGE_BYTES;
use lockstep::interop::etcd::key_of;
use lockstep::interop::restore::NewCluster;
use lockstep::interop::store::{Everything, Keep, load};
use lockstep::mvcc::read::{Read, Revision};
use lockstep::mvcc::{self, Backend, Bucket, Store};
use lockstep::ports::disk::Disk;
use lockstep::proto::leasepb::Lease;
use lockstep::proto::mvccpb::KeyValue;
use lockstep::server::disk::RealDisk;
use prost::Message;

use super::{Buckets, Row, write};

const PATH: &str = "store";

fn kv(key: &str, created: i64, at: i64, version: i64) -> KeyValue {
    let (key, value) = (key.to_owned().into(), "v".into());
    KeyValue { key, create_revision: created, mod_revision: at, version, value, lease: 0 }
}

fn row(main: i64, kv: &KeyValue) -> Row {
    (key_of(Revision { main, sub: 0 }, false), kv.encode_to_vec().into())
}

fn lease(id: i64, ttl: i64, remaining_ttl: i64) -> Row {
    (Bytes::copy_from_slice(&id.to_be_bytes()), Lease { id, ttl, remaining_ttl }.encode_to_vec().into())
}

fn database(changes: &[(&str, Row)]) -> Bytes {
    let place = |main| key_of(Revision { main, sub: 0 }, false);
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut buckets: Buckets = vec![
        ("alarm".into(), vec![]),
        ("cluster".into(), vec![(text("clusterVersion"), text("3.5.0"))]),
        ("key".into(), vec![row(5, &kv("a", 2, 5, 3)), row(6, &kv("b", 6, 6, 1))]),
        ("lease".into(), vec![lease(7, 60, 0)]),
        ("members".into(), vec![(text("8e9e05c52164694d"), text(r#"{"id":10276657743932975437,"peerURLs":[]}"#))]),
        ("meta".into(), vec![(text("consistent_index"), Bytes::copy_from_slice(&9u64.to_be_bytes()))]),
    ];
    for (bucket, (key, value)) in changes {
        let (_, rows) = buckets.iter_mut().find(|(name, _)| name == bucket).expect("a bucket");
        rows.retain(|(there, _)| there != key);
        rows.push((key.clone(), value.clone()));
        rows.sort();
    }
    let (_, meta) = buckets.last_mut().expect("meta");
    meta.push((text("finishedCompactRev"), place(4)));
    meta.sort();
    write(&buckets, PAGE_BYTES).into()
}

/// The store, and what it lives on.
fn loaded(file: &Bytes, keep: &mut impl Keep) -> Result<(Store, (Backend, tempfile::TempDir)), String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()).expect("a folder"));
    if let Err(error) = load(&disk, PATH, file.clone(), file.len() as u64, keep) {
        assert_eq!(disk.list("").unwrap_or_default(), Vec::<String>::new(), "{error}");
        return Err(error.to_string());
    }
    let (store, backend) = Store::open(disk, PATH, mvcc::Options::default()).map_err(|error| error.to_string())?;
    Ok((store, (backend, dir)))
}

fn new_cluster(bump_revision: i64) -> NewCluster {
    let members = [10, 11].map(|id| (id, Bytes::from(format!("{{\"id\":{id},\"name\":\"m{id}\"}}"))));
    NewCluster::new(bump_revision, (3, 1), members.to_vec())
}

#[test]
fn a_peer_keeps_everything_and_a_new_cluster_the_data() {
    let file = database(&[]);
    let (store, _dir) = loaded(&file, &mut Everything).expect("a store");
    let size = |store: &Store, bucket| store.bucket_scan(bucket).expect("a bucket").len();
    assert_eq!((store.revision(), store.compact_revision(), store.consistent_index()), (6, 4, 9));
    assert_eq!((size(&store, Bucket::Members), size(&store, Bucket::Cluster), size(&store, Bucket::Lease)), (1, 1, 1));
    let hash = store.view().hash_kv(0).expect("a hash").hash;

    for (bump, revision, compacted) in [(0, 6, 4), (100, 106, 106)] {
        let (store, _dir) = loaded(&file, &mut new_cluster(bump)).expect("a store");
        let found = (store.revision(), store.compact_revision(), store.consistent_index());
        assert_eq!(found, (revision, compacted, 3), "moved by {bump}");
        let sizes = [Bucket::Members, Bucket::Cluster, Bucket::Lease].map(|bucket| size(&store, bucket));
        assert_eq!(sizes, [2, 0, 1]);
        assert!(bump > 0 || store.view().hash_kv(0).expect("a hash").hash == hash);
        assert_eq!(store.view().range(b"a", b"c", Default::default()).expect("keys").count, 2);
    }
}

/// etcd 3.6 leaves a row without a key where its restore moved the revision to.
#[test]
fn a_restore_of_3_6_that_was_saved_again() {
    let marker = (key_of(Revision { main: 1_000, sub: 0 }, false), Bytes::new());
    let scheduled = (Bytes::from_static(b"scheduledCompactRev"), marker.0.clone());
    let (store, _dir) = loaded(&database(&[("key", marker), ("meta", scheduled)]), &mut Everything).expect("a store");
    assert_eq!((store.revision(), store.compact_revision()), (1_000, 1_000));
}

#[test]
fn rows_that_lie_are_refused() {
    let huge = (1 << 60) + 1;
    let number = |text: &'static str, bytes: &'static [u8]| (Bytes::from(text), Bytes::from_static(bytes));
    let cases: &[(&str, Row, &str)] = &[
        ("key", row(6, &kv("b", 6, 7, 1)), "its value is one of revision 7"),
        ("key", row(6, &kv("b", 0, 6, 1)), "version 1 of a key created at revision 0"),
        ("key", row(6, &kv("b", 7, 6, 1)), "version 1 of a key created at revision 7"),
        ("key", row(6, &kv("b", 6, 6, i64::MAX)), "version 9223372036854775807 of a key"),
        ("key", row(6, &kv("", 6, 6, 1)), "its value is one of revision 6"),
        ("key", row(huge, &kv("b", 6, huge, 1)), "there is no revision 1152921504606846977"),
        ("key", (key_of(Revision { main: 6, sub: 0 }, false), Bytes::from_static(b"\xff\xff")), "is no KeyValue"),
        ("key", (key_of(Revision { main: 6, sub: 0 }, true), Bytes::from_static(b"\x0a\x01b")), "is there twice"),
        ("lease", lease(7, 0, 0), "it has 0 s left of 0 s"),
        ("lease", lease(7, i64::MAX, 0), "it has 0 s left of 9223372036854775807 s"),
        ("lease", lease(7, 60, 61), "it has 61 s left of 60 s"),
        ("lease", (lease(7, 60, 0).0, lease(8, 60, 0).1), "it is lease 8"),
        ("lease", (Bytes::from_static(b"x"), lease(7, 60, 0).1), "1 bytes are no number"),
        ("members", number("nobody", b"{}"), "it is no member's id"),
        ("alarm", number("\u{ff}", b""), "it is no alarm"),
        ("meta", number("consistent_index", b"9"), "1 bytes are no number"),
        ("meta", number("scheduledCompactRev", b"9"), "it is no revision"),
    ];
    for (bucket, changed, expected) in cases {
        let file = database(&[(*bucket, changed.clone())]);
        for error in [loaded(&file, &mut Everything).err(), loaded(&file, &mut new_cluster(0)).err()] {
            let error = error.unwrap_or_else(|| panic!("{expected}: it was taken"));
            assert!(error.contains(expected) && error.contains(&format!("bucket {bucket}")), "{expected}: {error}");
        }
    }
}
