//! The KV semantics where the differential harness cannot go: what stops or confuses a real etcd, what only the newest
//! release does, and that what is refused changes nothing.

use bytes::Bytes;
use lockstep::member::apply::kv::KvError;
use lockstep::member::check;
use lockstep::member::error::{Code, EtcdError};
use lockstep::mvcc::read::Read;
use lockstep::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep::proto::etcdserverpb::request_op::Request as Op;
use lockstep::proto::etcdserverpb::response_op::Response as OpResponse;
use lockstep::proto::etcdserverpb::*;
use prost::Message;

use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};
use crate::util::target::{InProcess, MAX_TXN_OPS, Request, Response, everything};

const DEEPEST: usize = check::MAX_TXN_DEPTH;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

fn op_put(key: &str, value: &str) -> Op {
    Op::RequestPut(put(key, value))
}

fn op_keep_value(key: &str) -> Op {
    Op::RequestPut(PutRequest { ignore_value: true, ..put(key, "") })
}

fn op_keep_lease(key: &str) -> Op {
    Op::RequestPut(PutRequest { ignore_lease: true, ..put(key, "new") })
}

fn op_leased(key: &str, lease: i64) -> Op {
    Op::RequestPut(PutRequest { lease, ..put(key, "") })
}

fn op_delete(key: &str, end: &str) -> Op {
    Op::RequestDeleteRange(DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false })
}

fn op_range(key: &str, revision: i64) -> Op {
    Op::RequestRange(RangeRequest { key: bytes(key), revision, ..Default::default() })
}

fn ops(ops: Vec<Op>) -> Vec<RequestOp> {
    ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect()
}

fn txn(success: Vec<Op>) -> TxnRequest {
    TxnRequest { success: ops(success), ..Default::default() }
}

fn op_either(success: Vec<Op>, failure: Vec<Op>) -> Op {
    Op::RequestTxn(TxnRequest { success: ops(success), failure: ops(failure), ..Default::default() })
}

fn op_txn(success: Vec<Op>) -> Op {
    op_either(success, vec![])
}

/// A store with `a`=1 (lease 7) and `b`=2, `c` deleted, revision 5, compacted at 3.
fn store() -> InProcess {
    let mut target = InProcess::default();
    target.model.leases.insert(7, 60);
    let a = PutRequest { lease: 7, ..put("a", "1") };
    for request in [
        Request::Put(a),
        Request::Put(put("b", "2")),
        Request::Put(put("c", "3")),
        Request::DeleteRange(DeleteRangeRequest { key: bytes("c"), ..Default::default() }),
        Request::Compact(CompactionRequest { revision: 3, physical: true }),
    ] {
        target.answer(&request).expect("the store is made");
    }
    assert_eq!(target.model.rev(), 5);
    target
}

fn answer_txn(target: &mut InProcess, success: Vec<Op>) -> Result<TxnResponse, KvError> {
    match target.answer(&Request::Txn(txn(success)))? {
        Response::Txn(response) => Ok(response),
        other => panic!("a txn is answered with {other:?}"),
    }
}

#[test]
fn a_refused_txn_changes_nothing() {
    use EtcdError::*;
    let cases: Vec<(&str, Vec<Op>, EtcdError)> = vec![
        ("unknown lease", vec![op_put("x", ""), op_leased("y", 8)], LeaseNotFound),
        ("unknown lease, nested", vec![op_put("x", ""), op_txn(vec![op_leased("y", 8)])], LeaseNotFound),
        ("compacted", vec![op_put("x", ""), op_range("a", 2)], Compacted),
        ("compacted, nested", vec![op_put("x", ""), op_txn(vec![op_txn(vec![op_range("a", 2)])])], Compacted),
        ("below zero counts as compacted here", vec![op_put("x", ""), op_range("a", -1)], Compacted),
        ("future", vec![op_put("x", ""), op_range("a", 6)], FutureRev),
        ("the txn's own revision is future", vec![op_put("x", ""), op_txn(vec![op_range("x", 6)])], FutureRev),
        ("no value to keep", vec![op_put("x", ""), op_keep_value("c")], KeyNotFound),
        ("no lease to keep", vec![op_put("x", ""), op_keep_lease("c")], KeyNotFound),
        ("the first of two errors", vec![op_range("a", 6), op_leased("y", 8)], FutureRev),
        (
            "the lease before the key",
            vec![Op::RequestPut(PutRequest { lease: 8, ignore_value: true, ..put("c", "") })],
            LeaseNotFound,
        ),
        // A real etcd accepts these three, and then stops.
        ("value deleted before", vec![op_put("x", ""), op_delete("a", "\0"), op_keep_value("b")], KeyNotFound),
        ("lease deleted before", vec![op_delete("a", "\0"), op_keep_lease("a")], KeyNotFound),
        (
            "deleted before, in another level",
            vec![op_txn(vec![op_delete("\0", "\0")]), op_txn(vec![op_txn(vec![op_keep_value("b")])])],
            KeyNotFound,
        ),
    ];
    for (what, success, error) in cases {
        let mut target = store();
        let before = (everything(&target.model), target.model.hash_kv(0));
        let answer = answer_txn(&mut target, success);
        assert_eq!(answer, Err(KvError::Refused(error)), "{what}");
        assert_eq!((everything(&target.model), target.model.hash_kv(0)), before, "{what}");
    }
}

#[test]
fn what_a_txn_keeps_is_what_its_own_operations_left() {
    let cases: Vec<(&str, Vec<Op>, &str)> = vec![
        ("nothing deleted", vec![op_keep_value("b")], "2"),
        ("something else deleted", vec![op_delete("c", "\0"), op_keep_value("b")], "2"),
        ("deleted up to it", vec![op_delete("a", "b"), op_keep_value("b")], "2"),
        ("deleted after it", vec![op_keep_value("b"), op_delete("c", "\0")], "2"),
    ];
    for (what, success, value) in cases {
        let mut target = store();
        answer_txn(&mut target, success).unwrap_or_else(|e| panic!("{what}: {e}"));
        let kvs = everything(&target.model).kvs;
        let b = kvs.iter().find(|kv| kv.key == "b").unwrap_or_else(|| panic!("{what}: b is gone"));
        assert_eq!((b.value.as_ref(), b.version, b.mod_revision), (value.as_bytes(), 2, 6), "{what}");
    }
}

#[test]
fn headers_inside_a_txn_carry_revisions_only() {
    let mut target = store();
    let rev = |revision| Some(ResponseHeader { revision, ..Default::default() });
    let success = vec![op_range("a", 0), op_delete("z", ""), op_put("x", "1"), op_range("x", 0), op_txn(vec![])];
    let response = answer_txn(&mut target, success).expect("a good txn");
    assert_eq!(response.header, rev(6));
    let headers = response.responses.iter().map(|op| match op.response.as_ref().expect("an answer") {
        OpResponse::ResponseRange(r) => r.header,
        OpResponse::ResponsePut(r) => r.header,
        OpResponse::ResponseDeleteRange(r) => r.header,
        OpResponse::ResponseTxn(r) => r.header,
    });
    assert_eq!(headers.collect::<Vec<_>>(), [rev(5), rev(5), rev(6), rev(6), rev(0)]);
}

#[test]
fn nested_compares_look_at_the_state_before_the_txn() {
    let mut target = store();
    let version = |key: &str, version| Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: bytes(key),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    };
    let inner = TxnRequest { compare: vec![version("x", 0)], ..Default::default() };
    let response = answer_txn(&mut target, vec![op_put("x", "1"), Op::RequestTxn(inner)]).expect("a good txn");
    let Some(OpResponse::ResponseTxn(inner)) = &response.responses[1].response else { panic!("{response:?}") };
    assert!(inner.succeeded, "x had no version before the txn");
}

#[test]
fn keys_only_leaves_the_lease_out_unless_values_are_sorted_by() {
    for (sort_target, lease) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 7)] {
        let request = RangeRequest { key: bytes("a"), keys_only: true, sort_target, ..Default::default() };
        let Ok(Response::Range(found)) = store().answer(&Request::Range(request)) else { panic!("a good range") };
        assert_eq!((found.kvs[0].value.len(), found.kvs[0].lease), (0, lease), "sort target {sort_target}");
    }
}

#[test]
fn sorting_keeps_key_order_among_equals_and_comes_after_a_pushed_down_limit() {
    let mut target = InProcess::default();
    for (key, times) in [("a", 3), ("b", 1), ("c", 2), ("d", 1)] {
        for _ in 0..times {
            target.answer(&Request::Put(put(key, "v"))).expect("a good put");
        }
    }
    // (order, target, limit) -> keys, more
    let cases = [
        (0, 1, 0, "bdca", false),
        (1, 1, 0, "bdca", false),
        (2, 1, 0, "acbd", false),
        (2, 4, 0, "abcd", false),
        (2, 0, 3, "dcb", true),
        (1, 1, 2, "bd", true),
        // No order: the limit is the store's, and the sort only of what it found, one key more than the limit.
        (0, 1, 2, "bc", true),
        (0, 1, 1, "b", true),
        (0, 0, 2, "ab", true),
    ];
    for (sort_order, sort_target, limit, keys, more) in cases {
        let all = RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() };
        let request = RangeRequest { sort_order, sort_target, limit, ..all };
        let Ok(Response::Range(found)) = target.answer(&Request::Range(request)) else { panic!("a good range") };
        let found_keys: String = found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        let case = (sort_order, sort_target, limit);
        assert_eq!((found_keys.as_str(), found.more, found.count), (keys, more, 4), "{case:?}");
    }
}

#[test]
fn requests_are_refused_by_their_shape() {
    use EtcdError::*;
    let key = || RangeRequest { key: bytes("k"), ..Default::default() };
    for (request, error) in [
        (RangeRequest::default(), Some(EmptyKey)),
        (RangeRequest { sort_order: 3, ..key() }, Some(InvalidSortOption)),
        (RangeRequest { sort_target: 5, ..key() }, Some(InvalidSortOption)),
        (RangeRequest { sort_target: -1, ..key() }, Some(InvalidSortOption)),
        (RangeRequest { sort_target: 4, sort_order: 2, ..key() }, None),
    ] {
        assert_eq!(check::range(&request).err(), error, "{request:?}");
    }
    for (request, error) in [
        (RangeRequest { sort_target: 1, ..key() }, None),
        (RangeRequest { sort_order: 1, ..key() }, None),
        (RangeRequest { sort_order: 2, ..key() }, Some(RangeStreamSort)),
        (RangeRequest { max_mod_revision: 1, ..key() }, Some(RangeStreamFilter)),
    ] {
        assert_eq!(check::range_stream(&request).err(), error, "{request:?}");
    }
    for (request, error) in [
        (put("", ""), Some(EmptyKey)),
        (PutRequest { ignore_value: true, ..put("k", "v") }, Some(ValueProvided)),
        (PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") }, Some(LeaseProvided)),
        (PutRequest { ignore_lease: true, ignore_value: true, ..put("k", "") }, None),
    ] {
        assert_eq!(check::put(&request).err(), error, "{request:?}");
    }
    assert_eq!(check::delete_range(&DeleteRangeRequest::default()), Err(EmptyKey));
    assert_eq!(check::proposal_size(10, 10), Ok(()));
    assert_eq!(check::proposal_size(11, 10), Err(RequestTooLarge));
}

#[test]
fn a_txn_may_write_a_key_once_on_each_way_through_it() {
    let dup = Some(EtcdError::DuplicateKey);
    let cases: Vec<(&str, Vec<Op>, Option<EtcdError>)> = vec![
        ("put twice", vec![op_put("k", ""), op_put("k", "")], dup),
        ("put and delete", vec![op_put("k", ""), op_delete("k", "")], dup),
        ("delete, then put", vec![op_delete("j", "l"), op_put("k", "")], dup),
        ("the end is exclusive", vec![op_delete("j", "k"), op_put("k", "")], None),
        ("the begin is not", vec![op_delete("k", "l"), op_put("k", "")], dup),
        ("one key is not its prefix", vec![op_delete("k", ""), op_put("k0", "")], None),
        ("deletes may overlap", vec![op_delete("a", "z"), op_delete("k", "")], None),
        ("all from a key on overlaps nothing", vec![op_delete("a", "\0"), op_put("k", "")], None),
        ("a reversed range holds nothing", vec![op_delete("z", "a"), op_put("k", "")], None),
        ("a reversed range hides no other", vec![op_delete("m", "\0"), op_delete("a", "l"), op_put("k", "")], dup),
        ("joined ranges", vec![op_delete("a", "c"), op_delete("e", "g"), op_delete("b", "f"), op_put("d", "")], dup),
        ("between ranges", vec![op_delete("a", "c"), op_delete("e", "g"), op_put("d", "")], None),
        ("both ways", vec![op_either(vec![op_put("k", "")], vec![op_put("k", "")])], None),
        ("both ways and here", vec![op_either(vec![], vec![op_put("k", "")]), op_put("k", "")], dup),
        ("two nested txns", vec![op_txn(vec![op_put("k", "")]), op_txn(vec![op_put("k", "")])], dup),
        ("nested put, then nested delete", vec![op_txn(vec![op_put("k", "")]), op_txn(vec![op_delete("k", "")])], None),
        ("nested delete, then nested put", vec![op_txn(vec![op_delete("k", "")]), op_txn(vec![op_put("k", "")])], dup),
        ("delete one way, put the other", vec![op_either(vec![op_delete("k", "")], vec![op_put("k", "")])], None),
        ("nested delete, and put here", vec![op_txn(vec![op_txn(vec![op_delete("k", "")])]), op_put("k", "")], dup),
        ("nested in the failure", vec![op_either(vec![], vec![op_put("k", ""), op_put("k", "")])], dup),
    ];
    for (what, list, error) in cases {
        assert_eq!(check::txn(&txn(list.clone()), MAX_TXN_OPS).err(), error, "{what}, in success");
        let failure = TxnRequest { failure: ops(list), ..Default::default() };
        assert_eq!(check::txn(&failure, MAX_TXN_OPS).err(), error, "{what}, in failure");
    }
}

#[test]
fn a_txn_has_a_budget_of_operations_and_a_depth() {
    let many = |n: usize| vec![op_range("k", 0); n];
    let with = |n: usize, inner: Op| many(n - 1).into_iter().chain([inner]).collect::<Vec<_>>();
    let too_many = Some(EtcdError::TooManyOps);
    let compares = |n: usize| TxnRequest {
        compare: vec![Compare { key: bytes("k"), ..Default::default() }; n],
        ..Default::default()
    };
    for (what, request, error) in [
        ("at the limit", txn(many(128)), None),
        ("beyond", txn(many(129)), too_many),
        ("compares at the limit", compares(128), None),
        ("compares beyond", compares(129), too_many),
        ("what the outer level leaves", txn(with(100, op_txn(many(28)))), None),
        ("more than it leaves", txn(with(100, op_txn(many(29)))), too_many),
        ("an empty txn needs nothing", txn(with(128, op_txn(vec![]))), None),
        ("the failure counts too", txn(with(100, op_either(vec![], many(29)))), too_many),
        ("no operation", TxnRequest { success: vec![RequestOp::default()], ..Default::default() }, {
            Some(EtcdError::KeyNotFound)
        }),
        ("no key to compare", TxnRequest { compare: vec![Compare::default()], ..Default::default() }, {
            Some(EtcdError::EmptyKey)
        }),
        ("deepest", deep(DEEPEST), None),
        ("too deep", deep(DEEPEST + 1), too_many),
    ] {
        assert_eq!(check::txn(&request, MAX_TXN_OPS).err(), error, "{what}");
    }
    // What was accepted is decodable as an entry of the log, where it is wrapped once more.
    let entry = InternalRaftRequest { txn: Some(deep(DEEPEST)), ..Default::default() };
    let decoded = InternalRaftRequest::decode(entry.encode_to_vec().as_slice()).expect("an accepted entry decodes");
    assert_eq!(decoded, entry);
}

fn deep(depth: usize) -> TxnRequest {
    (1..depth).fold(txn(vec![op_range("k", 0)]), |inner, _| txn(vec![Op::RequestTxn(inner)]))
}

/// Every operation a key of its own, overlapping deletes, all levels: the check must stay fast on what is hostile.
#[test]
fn a_hostile_txn_is_checked_in_no_time() {
    let budget = 100_000;
    let key = |i: usize| format!("{i:08}");
    let mut list: Vec<Op> = (0..20_000).map(|i| op_put(&key(2 * i), "")).collect();
    list.extend((0..20_000).map(|i| op_delete(&key(2 * i + 1), "")));
    list.extend((0..20_000).map(|i| op_delete(&key(50_000 + i), &key(90_000))));
    let start = std::time::Instant::now();
    assert_eq!(check::txn(&txn(list), budget), Ok(()));
    assert!(start.elapsed().as_secs() < 5, "checking took {:?}", start.elapsed());
}

#[test]
fn errors_are_found_by_their_texts() {
    for error in EtcdError::ALL {
        let found = EtcdError::from_message(error.message()).expect("it is in the table");
        assert_eq!((found.message(), found.code()), (error.message(), error.code()));
        assert_eq!(error.to_string(), error.message());
    }
    // As a real etcd answers, whose table says otherwise.
    assert_eq!(EtcdError::MemberNotEnoughStarted.code(), Code::Unknown);
    assert_eq!((EtcdError::Compacted.code().number(), EtcdError::LeaseNotFound.code().number()), (11, 5));
    assert_eq!(EtcdError::from_message("etcdserver: no such thing"), None);
}

/// What is too large is refused as etcd refuses it, by the server's own limit and by gRPC's.
#[test]
fn requests_that_are_too_large() {
    let answers = [Kind::Etcd(Etcd::V35), Kind::Lockstepd].map(|kind| {
        let cluster = Cluster::start(kind, 1)?;
        let refusal = |bytes: usize| {
            let status = cluster.client(0).put(put("k", &"x".repeat(bytes))).expect_err("it is too large");
            (status.code(), status.message().to_owned())
        };
        Some([refusal(1_600_000), refusal(3_000_000)])
    });
    if let [Some(etcd), Some(ours)] = answers {
        assert_eq!(ours, etcd);
        assert!(ours[1].1.contains("larger than max"), "{ours:?}");
    }
}
