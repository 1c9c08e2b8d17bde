//! Ranges whose answers are long: the same bytes as ever, in bounded memory, whoever reads them or does not.

use lockstep::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep::proto::etcdserverpb::*;
use lockstep::proto::mvccpb::KeyValue;
use tonic::Code;

use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

const MEGABYTE: usize = 1 << 20;

fn put(client: &Client, key: String, value: Vec<u8>, lease: i64) -> i64 {
    let request = PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
    client.put(request).expect("a put").header.expect("a header").revision
}

/// `count` keys of `bytes` each, `k0000` and so on; every third of them written twice.
fn fill(client: &Client, count: usize, bytes: usize) {
    for nth in 0..count {
        put(client, format!("k{nth:04}"), vec![(nth % 251) as u8; bytes + nth % 7], 0);
    }
    for nth in (0..count).step_by(3) {
        put(client, format!("k{nth:04}"), vec![(nth % 249) as u8; bytes], 0);
    }
}

fn everything() -> RangeRequest {
    RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }
}

/// Requests in every shape that is answered in its own way.
fn shapes() -> Vec<RangeRequest> {
    let mut shapes = vec![
        everything(),
        RangeRequest { limit: 1_001, ..everything() },
        RangeRequest { limit: 1_500, ..everything() },
        RangeRequest { limit: -3, ..everything() },
        RangeRequest { keys_only: true, ..everything() },
        RangeRequest { count_only: true, ..everything() },
        RangeRequest { revision: 700, ..everything() },
        RangeRequest { serializable: true, ..everything() },
        RangeRequest { min_mod_revision: 900, ..everything() },
        RangeRequest { min_create_revision: 20, max_mod_revision: 1_300, limit: 1_100, ..everything() },
        RangeRequest { range_end: "k".into(), ..everything() },
        RangeRequest { key: "x".into(), range_end: "\0".into(), ..everything() },
    ];
    for target in [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value] {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let sorted = RangeRequest { sort_target: target as i32, sort_order: order as i32, ..everything() };
            shapes.push(RangeRequest { limit: 1_050, ..sorted.clone() });
            shapes.push(RangeRequest { keys_only: true, ..sorted.clone() });
            shapes.push(sorted);
        }
    }
    shapes
}

/// Where what is sorted by is equal, Go's sort leaves the order open.
fn in_key_order_where_equal(request: &RangeRequest, mut kvs: Vec<KeyValue>) -> Vec<KeyValue> {
    let same = |a: &KeyValue, b: &KeyValue| match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Version) => a.version == b.version,
        Ok(SortTarget::Value) => a.value == b.value,
        _ => false,
    };
    for run in kvs.chunk_by_mut(same) {
        run.sort_by(|a, b| a.key.cmp(&b.key));
    }
    kvs
}

#[test]
fn an_answer_is_the_same_however_it_is_sent() {
    let servers = [Cluster::start(Kind::Lockstepd, 1), Cluster::start(Kind::Etcd(Etcd::V35), 1)];
    let [Some(ours), Some(theirs)] = servers else { return };
    let (ours, theirs) = (ours.client(0), theirs.client(0));
    for client in [&ours, &theirs] {
        fill(client, 1_200, 40);
    }
    for request in shapes() {
        let answers = [&ours, &theirs].map(|client| client.range(request.clone()).expect("a range"));
        let [a, b] = answers.map(|mut answer| {
            answer.kvs = in_key_order_where_equal(&request, answer.kvs);
            let revision = answer.header.take().expect("a header").revision;
            (revision, answer)
        });
        // Which of many equal ones are cut off is open, too.
        let is_open = [SortTarget::Version, SortTarget::Value].map(|t| t as i32).contains(&request.sort_target);
        if request.limit == 0 || !is_open {
            assert!(a == b, "{request:?}: {} and {} keys", a.1.kvs.len(), b.1.kvs.len());
        }
        assert_eq!((a.1.count, a.1.more, a.1.kvs.len()), (b.1.count, b.1.more, b.1.kvs.len()), "{request:?}");
    }
}

#[test]
fn a_stream_adds_up_to_the_range() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("our own server");
    let client = cluster.client(0);
    fill(&client, 1_200, 4_000);
    for request in shapes() {
        let stream = client.range_stream(request.clone());
        let order = SortOrder::try_from(request.sort_order).expect("an order");
        let target = SortTarget::try_from(request.sort_target).expect("a target");
        let is_filtered = request.min_mod_revision + request.max_mod_revision + request.min_create_revision != 0;
        if is_filtered || order == SortOrder::Descend || (order == SortOrder::Ascend && target != SortTarget::Key) {
            assert_eq!(stream.expect_err("what cannot be streamed").code(), Code::Unimplemented, "{request:?}");
            continue;
        }
        let parts = stream.expect("a stream");
        let whole = client.range(request.clone()).expect("a range");
        let (last, others) = parts.split_last().expect("at least one part");
        assert!(others.iter().all(|part| part.header.is_none() && part.count == 0 && !part.more), "{request:?}");
        assert_eq!((last.header, last.count, last.more), (whole.header, whole.count, whole.more), "{request:?}");
        let streamed: Vec<&KeyValue> = parts.iter().flat_map(|part| &part.kvs).collect();
        assert_eq!(streamed, whole.kvs.iter().collect::<Vec<_>>(), "{request:?}");
        let sizes: Vec<usize> = parts.iter().map(|part| part.kvs.len()).collect();
        let wanted = whole.kvs.len();
        assert!(sizes[0] == wanted.min(10) && sizes.iter().max() <= Some(&640), "{request:?}: {sizes:?}");
    }
}

/// 120 MB of values: more than one answer may hold ready.
#[test]
fn who_does_not_read_holds_little() {
    const COUNT: usize = 120;
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("our own server");
    let client = cluster.client(0);
    for nth in 0..COUNT {
        put(&client, format!("k{nth:04}"), vec![nth as u8; MEGABYTE], 0);
    }
    let whole = client.range(everything()).expect("a long range");
    let is_right = |(nth, kv): (usize, &KeyValue)| kv.value.len() == MEGABYTE && kv.value[77] == nth as u8;
    assert!(whole.kvs.len() == COUNT && whole.kvs.iter().enumerate().all(is_right));
    drop(whole);

    let before = cluster.members[0].resident_bytes();
    let lazy: Vec<Client> = (0..30).map(|_| Client::connect(&cluster.members[0].client_url())).collect();
    let unread: Vec<_> = lazy.iter().map(|client| client.range_unread(everything())).collect();
    // 3.6 GB were asked for; the budget of all is 256 MiB, and each client's windows and one piece come besides.
    let grown = cluster.members[0].resident_bytes().saturating_sub(before);
    assert!(grown < 600 * MEGABYTE, "30 unread answers of 120 MB made the server grow by {} MB", grown / MEGABYTE);
    // Others are served, with long answers too, and what compaction takes meanwhile is still theirs to read.
    let revision = put(&client, "k0000".into(), b"new".to_vec(), 0);
    client.compact(CompactionRequest { revision, physical: true }).expect("a compaction");
    assert_eq!(client.range(everything()).expect("another long range").kvs.len(), COUNT);
    let first = unread.into_iter().next().expect("one of them").finish();
    assert!(first.kvs.len() == COUNT && first.kvs.iter().enumerate().all(is_right), "an old view, read late");
}
