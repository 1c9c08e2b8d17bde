//! Rude clients on the client port: others are served meanwhile, memory stays bounded, and the server lives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use lockstep::proto::etcdserverpb::PutRequest;
use lockstep::proto::schema::{METHODS, Method};
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::util::client::Client;
use crate::util::http2::*;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, Port, founder_flags, http_get};
use crate::util::start::{command, lockstepd, run_to_end, start};

/// Far above what any of these attacks may cost, far below what they send or hold open.
const MORE_MEMORY_BYTES: usize = 192 << 20;

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes a time-out");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a socket takes a time-out");
    stream
}

/// What a client keeps open or sends; connections that it returns stay open while others are served.
type Attack = fn(&str) -> Vec<TcpStream>;

fn slow_heads(url: &str) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = connect(url);
        stream.write_all(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nX-Slow: ").expect("a part of a head");
        stream
    };
    (0..300).map(open).collect()
}

fn slow_bodies(url: &str) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = connect(url);
        let head = "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\n{\"key\":\"";
        stream.write_all(head.as_bytes()).expect("a part of a body");
        stream
    };
    (0..300).map(open).collect()
}

fn large_bodies(url: &str) -> Vec<TcpStream> {
    let text = "x".repeat(1 << 20);
    let open = |_| {
        let mut stream = connect(url);
        let _ =
            write!(stream, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n{{\"key\":\"{text}");
        stream
    };
    (0..40).map(open).collect()
}

fn silent(url: &str) -> Vec<TcpStream> {
    (0..300).map(|_| connect(url)).collect()
}

fn half_prefaces(url: &str) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = connect(url);
        stream.write_all(&PREFACE[..20]).expect("a part of a preface");
        stream
    };
    (0..300).map(open).collect()
}

fn http2(url: &str, frames: impl Fn(u32) -> Vec<u8>, count: u32) -> Vec<TcpStream> {
    let mut stream = connect(url);
    let mut sent = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    for number in 0..count {
        sent.extend(frames(number));
        if sent.len() > 1 << 16 {
            // The server may have had enough.
            if stream.write_all(&sent).is_err() {
                return Vec::new();
            }
            sent.clear();
        }
    }
    let _ = stream.write_all(&sent);
    vec![stream]
}

/// A literal `:method: POST`, `:scheme: http`, and a path, by index of the static table.
const REQUEST: &[u8] = b"\x83\x86\x44\x0b/v3/kv/put1\x41\x01x";

fn rapid_reset(url: &str) -> Vec<TcpStream> {
    let reset = |number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_HEADERS, stream, REQUEST), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    http2(url, reset, 50_000)
}

fn pings(url: &str) -> Vec<TcpStream> {
    http2(url, |_| frame(PING, 0, 0, b"lockstep"), 200_000)
}

fn settings(url: &str) -> Vec<TcpStream> {
    http2(url, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]), 200_000)
}

fn oversized_frames(url: &str) -> Vec<TcpStream> {
    http2(url, |_| frame(DATA, 0, 1, &vec![0; 1 << 20]), 8)
}

fn malformed_frames(url: &str) -> Vec<TcpStream> {
    (0..=255).flat_map(|kind| http2(url, |number| frame(kind, 0xff, number, b"\xff\xff\xff\xff\xff"), 3)).collect()
}

fn endless_headers(url: &str) -> Vec<TcpStream> {
    let mut stream = connect(url);
    let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n");
    let line = format!("X-A: {}\r\n", "a".repeat(8_000));
    for _ in 0..2_000 {
        if stream.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    http2(url, |number| frame(if number == 0 { HEADERS } else { CONTINUATION }, 0, 1, &vec![0x82; 16_000]), 2_000)
}

fn nested_json(url: &str) -> Vec<TcpStream> {
    for text in ["[", "{\"success\":[{\"request_txn\":", "{\"a\":", "[[],"] {
        let body = text.repeat(2_000_000 / text.len());
        let mut stream = connect(url);
        let head = "POST /v3/kv/txn HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length";
        let _ = write!(stream, "{head}: {}\r\n\r\n{body}", body.len());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{text}");
    }
    Vec::new()
}

/// A call whose message begins and never ends: `sent` bytes of one that says it has 1.5 MB.
fn unfinished(sent: usize) -> http::Request<tonic::body::Body> {
    let begun = [&[0][..], &1_500_000u32.to_be_bytes(), &vec![0x0a; sent]].concat();
    let begun = tokio_stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(begun)))]);
    let body = tonic::body::Body::new(StreamBody::new(begun.chain(tokio_stream::pending())));
    let mut request = http::Request::post("http://localhost/etcdserverpb.KV/Put").body(body).expect("a request");
    request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    request
}

/// 300 streams of one connection, 300 kB each.
#[test]
fn messages_that_are_not_finished_have_a_budget() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is built");
    let url = cluster.members[0].client_url();
    let before = cluster.members[0].resident_bytes();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let endpoint = tonic::transport::Endpoint::from_shared(url.clone()).expect("a URL");
    let channel = runtime.block_on(endpoint.connect()).expect("a connection");
    let refused = Arc::new(AtomicUsize::new(0));
    for _ in 0..300 {
        let (mut channel, refused) = (channel.clone(), refused.clone());
        runtime.spawn(async move {
            std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await.expect("a connection");
            let answer = tower::Service::call(&mut channel, unfinished(300_000)).await.expect("an answer");
            let status = Status::from_header_map(answer.headers()).expect("a refusal");
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "etcdserver: too many requests"));
            refused.fetch_add(1, Ordering::Relaxed);
        });
    }
    // 64 MiB are 223 of them; the others are refused, each alone.
    let deadline = Instant::now() + Duration::from_secs(30);
    while refused.load(Ordering::Relaxed) < 70 {
        assert!(Instant::now() < deadline, "{} refused", refused.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(20));
    }
    let grown = cluster.members[0].resident_bytes().saturating_sub(before);
    println!("{} refused, resident memory grew by {} KiB", refused.load(Ordering::Relaxed), grown >> 10);
    assert!(grown < MORE_MEMORY_BYTES, "{grown} bytes more");
    assert!(refused.load(Ordering::Relaxed) < 90, "those within the budget go on");
    let value = vec![1; 1 << 20];
    let put = PutRequest { key: "k".into(), value: value.into(), ..Default::default() };
    cluster.client(0).put(put.clone()).expect("another connection is served");
    // Whoever goes gives back what he held, and the connection is as good as ever.
    drop(runtime);
    cluster.client(0).put(put).expect("a put");
}

#[test]
fn rude_clients_leave_others_served() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is built");
    let url = cluster.members[0].client_url();
    let attacks: &[(&str, Attack)] = &[
        ("slow heads", slow_heads),
        ("slow bodies", slow_bodies),
        ("large bodies", large_bodies),
        ("silence", silent),
        ("half a preface", half_prefaces),
        ("rapid reset", rapid_reset),
        ("pings", pings),
        ("settings", settings),
        ("oversized frames", oversized_frames),
        ("malformed frames", malformed_frames),
        ("endless headers", endless_headers),
        ("nested JSON", nested_json),
    ];
    let before = cluster.members[0].resident_bytes();
    for (name, attack) in attacks {
        let held = attack(&url);
        let began = Instant::now();
        let (status, _) = http_get(&url, "/health").unwrap_or_else(|| panic!("{name}: nobody answers"));
        let took = began.elapsed();
        let grown = cluster.members[0].resident_bytes().saturating_sub(before);
        println!("{name}: another client was served in {took:?}, resident memory grew by {} KiB", grown >> 10);
        assert_eq!(status, 200, "{name}");
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
        assert!(grown < MORE_MEMORY_BYTES, "{name}: {grown} bytes more");
        drop(held);
    }
    let log = cluster.members[0].log();
    assert!(!log.contains("panicked"), "{log}");
}

/// A member may open so many files, and is flooded with more connections: its log finds files all the same, and clients
/// are served again as soon as there is room.
#[test]
fn connections_leave_the_log_its_files() {
    const FILES: u64 = 220;
    let dir = tempfile::tempdir().expect("a folder");
    let (client, peer) = (Port::reserve(), Port::reserve());
    let flags = founder_flags("m0", &dir.path().join("m0"), &client, &peer, &[format!("m0={}", peer.url())]);
    let too_few = under_limit(100, &flags, dir.path());
    let said = run_to_end(too_few).stderr;
    assert!(said.contains("file descriptor limit[100] of etcd process is too low"), "{said}");

    let mut server = start(under_limit(FILES, &flags, dir.path()));
    let address = server.client_address();
    let other = Client::connect(&client.url());
    let value = bytes::Bytes::from(vec![7; 1 << 20]);
    let put = PutRequest { key: "k".into(), value, ..Default::default() };
    other.put(put.clone()).expect("a put");
    let flood: Vec<TcpStream> = (0..2 * FILES).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    server.line("as many connections are open as the limit of open files allows; new ones wait");
    // More than a segment of the log.
    for _ in 0..70 {
        other.put(put.clone()).expect("a put beside the flood");
    }
    assert!(server.child.try_wait().expect("a child").is_none(), "the member stopped");
    drop(flood);
    Client::connect(&client.url()).put(put).expect("a put after the flood");
}

fn under_limit(files: u64, flags: &[String], dir: &Path) -> Command {
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    let program = lockstepd();
    let args = [&["-c", &script, program.to_str().expect("a plain path")][..], &words].concat();
    command(Path::new("/bin/sh"), dir, &args, &[])
}

/// gRPC frames that hold no message of any kind.
fn hostile_frames() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |flag: u8, claimed: u32, message: &[u8]| [&[flag][..], &claimed.to_be_bytes(), message].concat();
    let whole = |message: &[u8]| frame(0, message.len() as u32, message);
    vec![
        ("the field 0", whole(b"\0")),
        ("half a tag", whole(b"\x80")),
        ("a number without an end", whole(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255])),
        ("a field of 4 GiB", whole(b"\x0a\xff\xff\xff\xff\x0f")),
        ("a field of all there can be", whole(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")),
        ("an unknown field, cut off", whole(b"\xfa\x7f\x64")),
        ("groups in groups", whole(&[0x0b; 100_000])),
        ("the end of a group", whole(b"\x0c")),
        ("an unknown kind of field", whole(b"\x0f")),
        ("a frame of 4 GiB", frame(0, u32::MAX, b"")),
        ("half a frame", frame(0, 9, b"\x08")),
        ("half a frame's head", b"\0\0".to_vec()),
        ("a frame that says it is compressed", frame(1, 1, b"\0")),
        ("a frame of an unknown kind", frame(7, 1, b"\0")),
    ]
}

/// The status that a call with this body ends with.
async fn call(channel: &mut Channel, method: &Method, body: Vec<u8>) -> Option<Code> {
    let request = ::http::Request::post(method.path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(bytes::Bytes::from(body))))
        .expect("a request");
    let response = channel.ready().await.ok()?.call(request).await.ok()?;
    let of = |headers: &::http::HeaderMap| headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    let head = of(response.headers());
    let end = response.into_body().collect().await.ok()?;
    head.or(end.trailers().and_then(of))
}

/// How each call with hostile frames ends: every method of every service.
fn ends(kind: Kind) -> Option<Vec<(String, Code)>> {
    let cluster = Cluster::start(kind, 1)?;
    let url = cluster.members[0].client_url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let before = cluster.members[0].resident_bytes();
    let mut ends = Vec::new();
    runtime.block_on(async {
        let mut channel = Endpoint::from_shared(url.clone()).expect("a URL").connect_lazy();
        for method in METHODS {
            for (what, frames) in hostile_frames() {
                // A stream is read on: what comes after a message that says nothing is refused, too.
                let later = method.client_streams.then(|| [&[0; 5], &frames[..]].concat());
                for (nth, body) in std::iter::once(frames).chain(later).enumerate() {
                    let called = tokio::time::timeout(Duration::from_secs(10), call(&mut channel, method, body));
                    let end = called.await.unwrap_or_else(|_| panic!("{} waits after {what}", method.path));
                    ends.push((format!("{}, message {nth}: {what}", method.path), end.expect("a status")));
                }
            }
        }
    });
    let grown = cluster.members[0].resident_bytes().saturating_sub(before);
    assert!(grown < MORE_MEMORY_BYTES, "{grown} bytes more");
    assert_eq!(http_get(&url, "/health").map(|answer| answer.0), Some(200));
    let log = cluster.members[0].log();
    assert!(!log.contains("panicked"), "{log}");
    Some(ends)
}

/// What no decoder takes is refused by every method, as etcd refuses it.
#[test]
fn hostile_messages_are_refused_by_every_method() {
    let ours = ends(Kind::Lockstepd).expect("lockstepd is built");
    for (what, code) in &ours {
        let expected = [Code::Internal, Code::Unimplemented, Code::ResourceExhausted];
        assert!(expected.contains(code), "{what}: {code:?}");
    }
    let Some(theirs) = ends(Kind::Etcd(Etcd::V35)) else { return };
    // What one of the two does not serve says nothing; and a request that ends within a frame is `Unknown` to grpc-go.
    let is_comparable = |what: &str, codes: [Code; 2]| {
        !codes.contains(&Code::Unimplemented) && (codes[1] != Code::Unknown || !what.contains("half a frame"))
    };
    let differ = |(ours, theirs): &(&(String, Code), &(String, Code))| {
        ours != theirs && is_comparable(&ours.0, [ours.1, theirs.1])
    };
    let differences: Vec<String> = ours
        .iter()
        .zip(&theirs)
        .filter(differ)
        .map(|(ours, theirs)| format!("{}: {:?}, etcd {:?}", ours.0, ours.1, theirs.1))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
