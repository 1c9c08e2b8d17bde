//! Many big reads at a time, of every kind: the server's memory stays bounded, each is answered or refused in clear
//! words, and small requests are quick meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep::proto::etcdserverpb::request_op::Request;
use lockstep::proto::etcdserverpb::*;
use tonic::{Code, Status};

use crate::util::client::Client;
use crate::util::process::{Cluster, Kind};

const MEGABYTE: usize = 1 << 20;
/// The store: as many values of a megabyte.
const KEYS: usize = 64;
/// Requests at a time: 64 MiB each, twice that while they are made.
const AT_A_TIME: usize = 16;
/// 256 MiB for answers that are held whole, what each connection has on its way, and what a store of 64 MiB costs by
/// itself. All at a time would be 2 GiB.
const MORE_BYTES: usize = 512 * MEGABYTE;

fn key(nth: usize) -> Vec<u8> {
    format!("k{nth:04}").into_bytes()
}

fn all() -> RangeRequest {
    RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn range_of(op: &ResponseOp) -> &RangeResponse {
    match &op.response {
        Some(response_op::Response::ResponseRange(range)) => range,
        other => panic!("no range: {other:?}"),
    }
}

/// How many keys a read of this kind brings.
type Ask = fn(&Client) -> Result<usize, Status>;

const KINDS: &[(&str, Ask)] = &[
    ("a range with a limit", |client| {
        client.range(RangeRequest { limit: 500, ..all() }).map(|answer| answer.kvs.len())
    }),
    ("a txn that reads", |client| {
        let request = TxnRequest { success: vec![op(Request::RequestRange(all()))], ..Default::default() };
        client.txn(request).map(|answer| range_of(&answer.responses[0]).kvs.len())
    }),
    ("a txn that writes and reads", |client| {
        let put = PutRequest { key: "other".into(), value: "x".into(), ..Default::default() };
        let success = vec![op(Request::RequestPut(put)), op(Request::RequestRange(all()))];
        let answer = client.txn(TxnRequest { success, ..Default::default() });
        answer.map(|answer| range_of(&answer.responses[1]).kvs.len())
    }),
    ("a txn that compares", |client| {
        let compare = Compare {
            result: CompareResult::NotEqual.into(),
            target: CompareTarget::Value.into(),
            key: "k".into(),
            range_end: "l".into(),
            target_union: Some(TargetUnion::Value("no such value".into())),
        };
        let success = vec![op(Request::RequestRange(RangeRequest { count_only: true, ..all() }))];
        let answer = client.txn(TxnRequest { compare: vec![compare], success, ..Default::default() });
        answer.map(|answer| range_of(&answer.responses[0]).count as usize)
    }),
    ("a range sorted by value", |client| {
        let sorted = RangeRequest { sort_target: range_request::SortTarget::Value.into(), limit: 1, ..all() };
        client.range(sorted).map(|answer| answer.count as usize)
    }),
];

/// Runs `attack`, and meanwhile puts and gets: the server hardly grows, and each of these requests is quick.
fn costs_little(name: &str, cluster: &Cluster, before: usize, attack: impl FnOnce()) {
    let client = cluster.client(0);
    let done = AtomicBool::new(false);
    let (grown, longest) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut most, mut longest) = (before, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                let put = PutRequest { key: "small".into(), value: "x".into(), ..Default::default() };
                client.put(put).expect("a put");
                client.range(RangeRequest { key: "small".into(), ..Default::default() }).expect("a get");
                longest = longest.max(began.elapsed());
                most = most.max(cluster.members[0].resident_bytes());
                thread::sleep(Duration::from_millis(5));
            }
            (most.saturating_sub(before), longest)
        });
        attack();
        done.store(true, Ordering::Relaxed);
        watching.join().expect("small requests are served")
    });
    println!("{name}: {AT_A_TIME} at a time cost {} MiB, small requests took {longest:?}", grown / MEGABYTE);
    assert!(grown < MORE_BYTES, "{name}: {} MiB", grown / MEGABYTE);
    assert!(longest < Duration::from_secs(5), "{name}: {longest:?}");
}

/// A server with the keys, and what it holds.
fn filled() -> (Cluster, usize) {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is built");
    let client = cluster.client(0);
    for nth in 0..KEYS {
        let put = PutRequest { key: key(nth).into(), value: vec![nth as u8; MEGABYTE].into(), ..Default::default() };
        client.put(put).expect("a put");
    }
    let before = cluster.members[0].resident_bytes();
    (cluster, before)
}

#[test]
fn big_reads_share_a_budget() {
    let (cluster, before) = filled();
    let url = cluster.members[0].client_url();
    for (name, ask) in KINDS {
        costs_little(name, &cluster, before, || {
            thread::scope(|scope| {
                for _ in 0..AT_A_TIME {
                    scope.spawn(|| match ask(&Client::connect(&url)) {
                        Ok(keys) => assert_eq!(keys, KEYS, "{name}"),
                        Err(refusal) => {
                            let refused = (refusal.code(), refusal.message());
                            assert_eq!(refused, (Code::ResourceExhausted, "etcdserver: too many requests"), "{name}");
                        }
                    });
                }
            });
        });
    }
}

/// `{"key":"k","range_end":"l"}`, alone and in a txn.
const GATEWAY: &[(&str, &str)] = &[
    ("range", r#"{"key":"aw==","range_end":"bA=="}"#),
    ("txn", r#"{"success":[{"request_range":{"key":"aw==","range_end":"bA=="}}]}"#),
];

fn post(url: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket takes a time-out");
    let head = format!("POST /v3/kv/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}", body.len());
    write!(stream, "{head}\r\n\r\n{body}").expect("the request is sent");
    stream
}

#[test]
fn gateway_answers_that_nobody_reads_cost_little() {
    let (cluster, before) = filled();
    let url = cluster.members[0].client_url();
    for (path, body) in GATEWAY {
        costs_little(path, &cluster, before, || {
            let unread: Vec<TcpStream> = (0..AT_A_TIME).map(|_| post(&url, path, body)).collect();
            // Longer than anybody waits for a part of the budget.
            thread::sleep(Duration::from_secs(7));
            let (mut answered, mut refused) = (0, 0);
            for mut stream in unread {
                let mut head = [0; 12];
                stream.read_exact(&mut head).expect("a status");
                match &head[9..] {
                    b"200" => answered += 1,
                    b"429" => refused += 1,
                    other => panic!("{path}: {}", String::from_utf8_lossy(other)),
                }
            }
            println!("{path}: {answered} answered, {refused} refused");
            assert!(answered > 0, "{path}: none was answered");
        });
        // Who hung up has given back what was his.
        let mut answer = Vec::new();
        post(&url, path, body).read_to_end(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() > KEYS * MEGABYTE * 4 / 3, "{path}");
    }
}

/// What cannot be a message is refused before anything is done.
#[test]
fn an_answer_too_long_for_a_message_is_refused() {
    let (cluster, _) = filled();
    let client = cluster.client(0);
    let put = PutRequest { key: "other".into(), value: "x".into(), ..Default::default() };
    let mut success = vec![op(Request::RequestRange(all())); 40];
    success.push(op(Request::RequestPut(put)));
    let refusal = client.txn(TxnRequest { success, ..Default::default() }).expect_err("2.5 GiB");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.message().starts_with("trying to send message larger than max ("), "{refusal}");
    let other = client.range(RangeRequest { key: "other".into(), ..Default::default() }).expect("a get");
    assert_eq!(other.count, 0);
}
