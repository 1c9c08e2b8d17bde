//! Members that talk rafthttp to each other over loopback: every message arrives, failures are reported, and nobody who
//! sends nonsense takes the rest down.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep::proto::raftpb::{Entry, Message, MessageType};
use lockstep::server::peer::{
    Config, Handler, Listener, PeerUrl, Pieces, RemoteMember, Taking, Transport, get_cluster_from_peers, get_version,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{sleep, timeout};

const CLUSTER: u64 = 0xc1c1;
const PATIENCE: Duration = Duration::from_secs(20);

/// A member that writes down what it is told.
#[derive(Default)]
struct Recorder {
    messages: Mutex<Vec<Message>>,
    unreachable: AtomicUsize,
    /// How the snapshots that were sent have ended.
    snapshots: Mutex<Vec<bool>>,
    /// Pieces of the snapshot that can be sent; `None` breaks it off.
    body: Mutex<Vec<Option<Bytes>>>,
    /// What came, whole.
    bodies: Mutex<Vec<(Message, Vec<u8>)>>,
    removed: Mutex<BTreeSet<u64>>,
    told_removed: AtomicBool,
}

impl Handler for Recorder {
    fn message(&self, message: Message) {
        self.messages.lock().push(message);
    }
    fn unreachable(&self, _: u64) {
        self.unreachable.fetch_add(1, Ordering::SeqCst);
    }
    fn snapshot_status(&self, _: u64, ok: bool) {
        self.snapshots.lock().push(ok);
    }
    fn open_snapshot(&self, _: u64) -> Option<Pieces> {
        let body = self.body.lock().clone();
        let (pieces, taken) = tokio::sync::mpsc::channel(1);
        let broken = || std::io::Error::other("the disk");
        tokio::spawn(async move {
            for piece in body {
                let _ = pieces.send(piece.ok_or_else(broken)).await;
            }
        });
        Some(taken)
    }
    fn snapshot(&self, message: Message, mut body: Pieces) -> Taking<'_> {
        Box::pin(async move {
            let mut whole = Vec::new();
            while let Some(piece) = body.recv().await {
                whole.extend_from_slice(&piece.map_err(|e| e.to_string())?);
            }
            self.bodies.lock().push((message, whole));
            Ok(())
        })
    }
    fn members_json(&self) -> Vec<u8> {
        br#"[{"id":18446744073709551615,"peerURLs":["http://a:1"],"name":"m1","clientURLs":null}]"#.to_vec()
    }
    fn version_json(&self) -> Vec<u8> {
        br#"{"etcdserver":"3.7.1","etcdcluster":"not_decided"}"#.to_vec()
    }
    fn is_removed(&self, peer: u64) -> bool {
        self.removed.lock().contains(&peer)
    }
    fn removed_from_cluster(&self, _: u64) {
        self.told_removed.store(true, Ordering::SeqCst);
    }
}

struct Node {
    id: u64,
    url: String,
    transport: Transport,
    recorder: Arc<Recorder>,
}

impl Node {
    async fn start(id: u64) -> Node {
        Node::start_at(id, "127.0.0.1:0").await
    }

    async fn start_at(id: u64, address: &str) -> Node {
        let listener = TcpListener::bind(address).await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        Node::serve(id, CLUSTER, url, Listener::Tcp(listener))
    }

    fn serve(id: u64, cluster_id: u64, url: String, listener: Listener) -> Node {
        let recorder = Arc::new(Recorder::default());
        let config = Config {
            member_id: id,
            cluster_id,
            server_version: "3.7.1".into(),
            min_cluster_version: "3.0.0".into(),
            peer_urls: vec![url.clone()],
            max_message_bytes: 1 << 20,
            max_connections: 100,
        };
        let transport = Transport::new(config, recorder.clone());
        let serving = transport.clone();
        tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        Node { id, url, transport, recorder }
    }

    fn knows(&self, other: &Node) {
        self.transport.add_peer(other.id, vec![other.url.clone()]);
    }

    fn received(&self) -> Vec<Message> {
        self.recorder.messages.lock().clone()
    }

    fn count(&self) -> usize {
        self.recorder.messages.lock().len()
    }

    fn unreachable(&self) -> usize {
        self.recorder.unreachable.load(Ordering::SeqCst)
    }

    /// Sends probes until one arrives: from here on there is a way through.
    async fn reaches(&self, other: &Node) {
        let probe = message(MessageType::MsgHeartbeat, self.id, other.id);
        let before = other.count();
        until("a first message", || {
            self.transport.send(vec![probe.clone()]);
            other.count() > before
        })
        .await;
        // Both streams have to be up, or later messages could take different roads.
        until("an active peer", || self.transport.active_since(other.id).is_some()).await;
        sleep(Duration::from_millis(300)).await;
        other.recorder.messages.lock().clear();
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    a.knows(&b);
    b.knows(&a);
    a.reaches(&b).await;
    b.reaches(&a).await;
    (a, b)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn message(kind: MessageType, from: u64, to: u64) -> Message {
    Message { r#type: Some(kind as i32), from: Some(from), to: Some(to), term: Some(3), ..Message::default() }
}

fn append(from: u64, to: u64, index: u64, count: u64) -> Message {
    let entry =
        |i| Entry { r#type: Some(0), term: Some(3), index: Some(index + i), data: Some(Bytes::from_static(b"v")) };
    Message {
        log_term: Some(3),
        index: Some(index),
        commit: Some(index),
        entries: (1..=count).map(entry).collect(),
        ..message(MessageType::MsgApp, from, to)
    }
}

/// One of each kind that members send each other, with what is peculiar to it.
fn every_kind(from: u64, to: u64) -> Vec<Message> {
    use MessageType::*;
    let mut messages: Vec<_> = [MsgAppResp, MsgVote, MsgVoteResp, MsgHeartbeat, MsgHeartbeatResp, MsgTransferLeader]
        .into_iter()
        .chain([MsgTimeoutNow, MsgReadIndex, MsgReadIndexResp, MsgPreVote, MsgPreVoteResp])
        .map(|kind| message(kind, from, to))
        .collect();
    messages[0] = Message { reject: Some(true), reject_hint: Some(7), log_term: Some(2), ..messages[0].clone() };
    messages[1] = Message { context: Some(Bytes::from_static(b"CampaignTransfer")), ..messages[1].clone() };
    let proposal = Entry { data: Some(Bytes::from(vec![7; 100_000])), ..Entry::default() };
    messages.push(Message { term: None, entries: vec![proposal], ..message(MsgProp, from, to) });
    messages.extend([append(from, to, 10, 3), append(from, to, 13, 2), append(from, to, 15, 0)]);
    messages
}

fn sorted(mut messages: Vec<Message>) -> Vec<Vec<u8>> {
    messages.sort_by_key(|m| (m.r#type(), m.index()));
    messages.iter().map(|m| m.encode_to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_message_arrives_over_streams() {
    let nodes = [Node::start(1).await, Node::start(2).await, Node::start(3).await];
    for node in &nodes {
        nodes.iter().filter(|other| other.id != node.id).for_each(|other| node.knows(other));
    }
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        nodes[from].reaches(&nodes[to]).await;
    }
    for node in &nodes {
        let all = nodes.iter().filter(|to| to.id != node.id).flat_map(|to| every_kind(node.id, to.id)).collect();
        node.transport.send(all);
    }
    for to in &nodes {
        let expected: Vec<_> =
            nodes.iter().filter(|from| from.id != to.id).flat_map(|from| every_kind(from.id, to.id)).collect();
        until("all kinds", || to.count() >= expected.len()).await;
        let key = |m: &Message| m.from();
        let (mut got, mut expected) = (to.received(), expected);
        got.sort_by_key(key);
        expected.sort_by_key(key);
        for from in nodes.iter().map(|n| n.id) {
            let of = |all: &[Message]| sorted(all.iter().filter(|m| m.from() == from).cloned().collect());
            assert_eq!(of(&got), of(&expected), "{from} to {}", to.id);
        }
        assert_eq!(to.unreachable(), 0);
        assert_eq!(to.transport.active_peers(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_message_arrives_by_post() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    a.transport.add_remote(b.id, vec![b.url.clone()]);
    // b learns of a from the headers, as a member does that is behind.
    a.transport.send(every_kind(a.id, b.id));
    until("all kinds", || b.count() >= every_kind(1, 2).len()).await;
    assert_eq!(sorted(b.received()), sorted(every_kind(a.id, b.id)));
    b.transport.send(vec![message(MessageType::MsgAppResp, b.id, a.id)]);
    until("the answer", || a.count() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_on_a_stream_keep_their_order() {
    let (a, b) = pair().await;
    let numbers = 0..50_000u64;
    for chunk in numbers.clone().collect::<Vec<_>>().chunks(100) {
        let messages =
            chunk.iter().map(|n| Message { commit: Some(*n), ..message(MessageType::MsgHeartbeat, a.id, b.id) });
        a.transport.send(messages.collect());
        until("room", || chunk[0] < b.count() as u64 + 2000).await;
    }
    until("all", || b.count() == numbers.end as usize).await;
    assert!(b.received().iter().map(|m| m.commit()).eq(numbers));
    assert_eq!(a.unreachable(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dies_is_reported_and_found_again() {
    let (a, b) = pair().await;
    b.transport.stop();
    until("an inactive peer", || a.transport.active_since(b.id).is_none()).await;
    until("an unreachable report", || {
        a.transport.send(vec![message(MessageType::MsgHeartbeat, a.id, b.id)]);
        a.unreachable() > 0
    })
    .await;
    let address = b.url.trim_start_matches("http://").to_owned();
    drop(b);
    let b = Node::start_at(2, &address).await;
    b.knows(&a);
    a.reaches(&b).await;
    b.reaches(&a).await;
    a.transport.send(every_kind(a.id, b.id));
    until("all kinds", || b.count() >= every_kind(1, 2).len()).await;
    assert_eq!(sorted(b.received()), sorted(every_kind(a.id, b.id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_followed_and_one_that_is_removed_is_forgotten() {
    let (a, b) = pair().await;
    let moved = Node::start(2).await;
    moved.knows(&a);
    a.transport.update_peer(2, vec!["not a url".into(), "https://127.0.0.1:1".into(), moved.url.clone()]);
    b.transport.stop();
    a.reaches(&moved).await;

    a.transport.remove_peer(2);
    a.recorder.removed.lock().insert(2);
    assert_eq!(a.transport.active_since(2), None);
    moved.recorder.messages.lock().clear();
    a.transport.send(vec![message(MessageType::MsgHeartbeat, 1, 2)]);
    until("the other side to be told", || {
        moved.transport.send(vec![message(MessageType::MsgHeartbeat, 2, 1)]);
        moved.recorder.told_removed.load(Ordering::SeqCst)
    })
    .await;
    assert_eq!((moved.count(), a.unreachable()), (0, a.unreachable()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_transport_drops_everything() {
    let (a, b) = pair().await;
    b.transport.pause();
    a.transport.send(vec![message(MessageType::MsgVote, a.id, b.id)]);
    b.transport.send(vec![message(MessageType::MsgVote, b.id, a.id)]);
    sleep(Duration::from_millis(200)).await;
    assert_eq!((a.count(), b.count()), (0, 0));
    b.transport.resume();
    a.reaches(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_go_over_whole_or_not_at_all() {
    let (a, b) = pair().await;
    let piece = |byte: u8, len: usize| Some(Bytes::from(vec![byte; len]));
    let bodies = [vec![], vec![piece(1, 10)], vec![piece(1, 3 << 20), piece(2, 1), piece(3, 2 << 20)]];
    let snapshot = Message { context: Some("x".into()), ..message(MessageType::MsgSnap, a.id, b.id) };
    for (nth, body) in bodies.into_iter().enumerate() {
        *a.recorder.body.lock() = body.clone();
        a.transport.send(vec![snapshot.clone()]);
        until("the end of a snapshot", || a.recorder.snapshots.lock().len() > nth).await;
        assert!(a.recorder.snapshots.lock()[nth]);
        let (message, came) = b.recorder.bodies.lock()[nth].clone();
        assert_eq!(message, snapshot);
        assert!(came == body.into_iter().flatten().flatten().collect::<Vec<u8>>());
    }
    a.recorder.snapshots.lock().clear();
    b.recorder.bodies.lock().clear();

    // It breaks off; the other end is not there for it.
    *a.recorder.body.lock() = vec![piece(1, 1 << 20), None];
    a.transport.send(vec![snapshot.clone()]);
    until("the end of a broken snapshot", || a.recorder.snapshots.lock().len() == 1).await;
    b.transport.pause();
    a.transport.send(vec![snapshot.clone()]);
    until("the end of a refused snapshot", || a.recorder.snapshots.lock().len() == 2).await;
    b.transport.stop();
    a.transport.send(vec![snapshot]);
    until("the end of a snapshot to nobody", || a.recorder.snapshots.lock().len() == 3).await;
    assert_eq!(*a.recorder.snapshots.lock(), [false; 3]);
    assert!(b.recorder.bodies.lock().is_empty());
    assert!(a.unreachable() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_over_unix_sockets() {
    let dir = tempfile::tempdir().expect("a folder");
    let node = |id: u64| {
        let path = dir.path().join(format!("127.0.0.1:{id}"));
        let listener = UnixListener::bind(&path).expect("bind");
        Node::serve(id, CLUSTER, format!("unix://{}", path.display()), Listener::Unix(listener))
    };
    let (a, b) = (node(1), node(2));
    a.knows(&b);
    b.knows(&a);
    a.reaches(&b).await;
    b.reaches(&a).await;
    let version = get_version(std::slice::from_ref(&a.url), PATIENCE).await.expect("a version");
    assert_eq!(version.cluster, "not_decided");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_versions_are_asked_for() {
    let node = Node::start(1).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address");
    let urls = ["https://127.0.0.1:1".to_owned(), format!("http://{nobody}"), node.url.clone()];
    let cluster = get_cluster_from_peers(&urls, PATIENCE).await.expect("a cluster");
    let member = RemoteMember {
        id: u64::MAX,
        peer_urls: vec!["http://a:1".into()],
        name: "m1".into(),
        ..RemoteMember::default()
    };
    assert_eq!((cluster.cluster_id, cluster.members), (CLUSTER, vec![member]));
    assert_eq!(get_version(&urls, PATIENCE).await.expect("a version").server, "3.7.1");
    let error = get_version(&urls[..2], PATIENCE).await.expect_err("nobody is there").to_string();
    assert!(error.contains("could not retrieve the version from the given URLs"), "{error}");
    // A listener that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", silent.local_addr().expect("address"));
    let error = get_version(&[url], Duration::from_millis(200)).await.expect_err("silence").to_string();
    assert!(error.contains("timed out waiting for the answer"), "{error}");
}

#[test]
fn peer_urls_are_taken_as_etcd_takes_them() {
    let cases = [
        ("http://127.0.0.1:2380", ""),
        ("http://[::1]:2380", ""),
        ("http://host:2380/", ""),
        ("https://host:2380", ""),
        ("unix://127.0.0.1:2380", ""),
        ("unix:///tmp/peer.sock", ""),
        ("unix:127.0.0.1:2380", ""),
        ("http://host", "there is no port"),
        ("http://:2380", "there is no host"),
        ("http://u@h:1", "there is no host"),
        ("http://host:99999", "the port is not a number"),
        ("unix://", "there is no path"),
        ("ftp://host:1", "the scheme is unknown"),
        ("host:2380", "the scheme is unknown"),
        ("", "there is no scheme"),
    ];
    for (url, expected) in cases {
        let problem = url.parse::<PeerUrl>().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(problem.contains(expected) && problem.is_empty() == expected.is_empty(), "{url}: {problem:?}");
    }
}

/// Sends raw bytes and reads until the other side closes or falls silent.
pub async fn raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(n @ 1..)) = timeout(Duration::from_millis(300), stream.read(&mut chunk)).await {
        answer.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request with the headers of a member of the cluster, less those that `but` replaces or (with an empty value)
/// leaves out.
pub fn request(line: &str, cluster: &str, to: &str, but: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers = [
        ("Host", "member"),
        ("Connection", "close"),
        ("X-Server-From", "2"),
        ("X-Server-Version", "3.5.1"),
        ("X-Min-Cluster-Version", "3.0.0"),
        ("X-Etcd-Cluster-ID", cluster),
        ("X-Raft-To", to),
    ];
    let mut text = format!("{line} HTTP/1.1\r\n");
    for (name, value) in headers {
        let value = but.iter().find(|(n, _)| *n == name).map_or(value, |(_, v)| v);
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

/// Who is answered how: (request line, headers that differ, body) and the status line and body of the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_as_etcd_answers_them() {
    let node = Node::start(1).await;
    let other = Node::start(2).await;
    node.knows(&other);
    node.recorder.removed.lock().insert(9);
    let valid = message(MessageType::MsgHeartbeat, 2, 1).encode_to_vec();
    let with = |from, to, kind| message(kind, from, to).encode_to_vec();
    let headed = |from, to, kind| {
        let message = with(from, to, kind);
        [&(message.len() as u64).to_be_bytes()[..], &message].concat()
    };
    let disordered = Message { index: Some(8), ..append(2, 1, 9, 2) }.encode_to_vec();
    let stream = "GET /raft/stream/message/2";
    const UNREADABLE: &str = "400 error unmarshalling request";
    let too_long = vec![0; (64 << 10) + 1];
    let (incompatible, mismatch) = ("412 incompatible version", "412 cluster ID mismatch");
    use MessageType::*;
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], &'a str);
    let cases: &[Case] = &[
        ("POST /raft", &[], &valid, "204 "),
        ("POST /raft", &[("X-Server-Version", "2.3.8")], &valid, incompatible),
        ("POST /raft", &[("X-Server-Version", "")], &valid, incompatible),
        ("POST /raft", &[("X-Server-Version", "three")], &valid, incompatible),
        ("POST /raft", &[("X-Server-Version", "3.0.0")], &valid, "204 "),
        ("POST /raft", &[("X-Server-Version", "9.0.0")], &valid, "204 "),
        ("POST /raft", &[("X-Min-Cluster-Version", "3.8.0")], &valid, incompatible),
        ("POST /raft", &[("X-Min-Cluster-Version", "3.7.9")], &valid, "204 "),
        ("POST /raft", &[("X-Min-Cluster-Version", "")], &valid, "204 "),
        ("POST /raft", &[("X-Etcd-Cluster-ID", "c1c2")], &valid, mismatch),
        ("POST /raft", &[("X-Etcd-Cluster-ID", "")], &valid, mismatch),
        ("POST /raft", &[], b"garbage", "400 error unmarshalling raft message"),
        ("POST /raft", &[], &with(2, 5, MsgHeartbeat), "403 cannot process message to mismatch member"),
        ("POST /raft", &[], &with(9, 1, MsgHeartbeat), "403 cannot process message from removed member"),
        ("POST /raft", &[], &with(7, 1, MsgHeartbeat), "404 error sender not found"),
        ("POST /raft", &[], &with(2, 1, MsgHup), "400 error processing raft message"),
        ("POST /raft", &[], &with(2, 1, MsgCheckQuorum), "400 error processing raft message"),
        ("POST /raft", &[], &with(2, 1, MsgSnap), "400 error processing raft message"),
        ("POST /raft", &[], &disordered, "400 error processing raft message"),
        ("GET /raft", &[], b"", "405 Method Not Allowed"),
        (stream, &[("X-Etcd-Cluster-ID", "1")], b"", mismatch),
        (stream, &[("X-Server-Version", "")], b"", incompatible),
        (stream, &[("X-Raft-To", "5")], b"", "412 to field mismatch"),
        (stream, &[("X-Raft-To", "")], b"", "412 to field mismatch"),
        ("POST /raft/stream/message/2", &[], b"", "405 Method Not Allowed"),
        ("GET /raft/stream/message/9", &[], b"", "410 removed member"),
        ("GET /raft/stream/message/7", &[], b"", "404 error sender not found"),
        ("GET /raft/stream/message/xyz", &[], b"", "404 invalid from"),
        ("GET /raft/stream/msgapp/2/3", &[], b"", "404 invalid path"),
        ("GET /raft/stream/other/2", &[], b"", "404 invalid path"),
        ("GET /raft/snapshot", &[], b"", "405 Method Not Allowed"),
        ("POST /raft/snapshot", &[], b"x", "400 error reading raft message"),
        ("POST /raft/snapshot", &[], &[0xff; 8], "400 error reading raft message"),
        ("POST /raft/snapshot", &[], b"\0\0\0\0\0\0\0\x03xyz", "400 error unmarshalling raft message"),
        ("POST /raft/snapshot", &[], &headed(2, 1, MsgHeartbeat), "400 wrong raft message type"),
        ("POST /raft/snapshot", &[], &headed(2, 5, MsgSnap), "403 cannot process message to mismatch member"),
        ("POST /raft/snapshot", &[], &headed(9, 1, MsgSnap), "403 cannot process message from removed member"),
        ("POST /raft/snapshot", &[], &headed(7, 1, MsgSnap), "404 error sender not found"),
        ("POST /raft/snapshot", &[], &headed(2, 1, MsgSnap), "204 "),
        ("POST /raft/snapshot", &[("X-Etcd-Cluster-ID", "1")], b"x", mismatch),
        ("GET /raft/other", &[], b"", "404 404 page not found"),
        ("GET /", &[], b"", "404 404 page not found"),
        ("GET /leases", &[], b"", "405 Method Not Allowed"),
        ("POST /leases", &[], b"\x08\x07", "400 not a primary lessor"),
        ("POST /leases", &[], b"\x08", UNREADABLE),
        ("POST /leases", &[], b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", UNREADABLE),
        ("POST /leases", &[], b"\x12\xff\xff\xff\xff\x0f", UNREADABLE),
        ("POST /leases", &[], &[0x0b; 1_000], UNREADABLE),
        ("POST /leases", &[], &too_long, "413 request body too large"),
        ("GET /leases/internal", &[], b"", "405 Method Not Allowed"),
        ("POST /leases/internal", &[], b"\x0a\x02\x08\x07", "500 not a primary lessor"),
        // One that names no lease.
        ("POST /leases/internal", &[], b"", UNREADABLE),
        ("POST /leases/internal", &[], b"\x0a\x05\x08", UNREADABLE),
        ("POST /leases/internal", &[], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", UNREADABLE),
        ("POST /leases/internal", &[], &[0x0b; 1_000], UNREADABLE),
        ("POST /leases/internal", &[], &too_long, "413 request body too large"),
        ("POST /members", &[], b"", "405 Method Not Allowed"),
        ("POST /version", &[], b"", "405 Method Not Allowed"),
        ("GET /version", &[], b"", r#"200 {"etcdserver":"3.7.1","etcdcluster":"not_decided"}"#),
    ];
    let address = node.url.trim_start_matches("http://");
    for (line, but, body, expected) in cases {
        let answer = raw(address, &request(line, "c1c1", "1", but, body)).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert_eq!(format!("{status} {}", text.trim_end()), *expected, "{line} {but:?}\n{answer}");
        if expected.starts_with("412") {
            assert!(answer.contains("x-etcd-cluster-id: c1c1"), "{line}\n{answer}");
        }
    }
    let probe = raw(address, &request("GET /raft/probing", "c1c1", "1", &[], b"")).await;
    assert!(probe.contains(r#"{"OK":true,"Now":"20"#), "{probe}");
    let valid = cases.iter().filter(|case| case.3 == "204 ").count();
    until("the good ones", || node.count() + node.recorder.bodies.lock().len() == valid).await;
}

/// Bytes that are no request, and requests that never end: the connection goes, the others are served on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_do_not_disturb_the_others() {
    let (a, b) = pair().await;
    let address = a.url.trim_start_matches("http://").to_owned();
    let post = |length: &str, body: &[u8]| {
        let text = String::from_utf8(request("POST /raft", "c1c1", "1", &[], b"")).expect("text");
        [text.trim_end().as_bytes(), format!("\r\n{length}\r\n\r\n").as_bytes(), body].concat()
    };
    let many = "X-A: b\r\n".repeat(1000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("binary noise", (0..=255).cycle().take(100_000).collect(), "400 "),
        ("TLS to a plain port", vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], "400 "),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), ""),
        ("too many headers", format!("GET /version HTTP/1.1\r\n{many}\r\n").into_bytes(), "431 "),
        ("an endless header", [b"GET /version HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20]].concat(), "431 "),
        ("an endless path", [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat(), "4"),
        ("half a header", b"GET /version HT".to_vec(), ""),
        ("half a body", post("Content-Length: 100", b"half"), ""),
        ("a body over the limit", post("Content-Length: 99999999999", b"x"), "400 "),
        (
            "chunks over the limit",
            post("Transfer-Encoding: chunked", &[b"200000\r\n".to_vec(), vec![0; 0x200000]].concat()),
            "400 ",
        ),
        ("a broken chunk", post("Transfer-Encoding: chunked", b"zz\r\n"), "400 "),
        (
            "an id of 1000 digits",
            request(&format!("GET /raft/stream/message/{}", "1".repeat(1000)), "c1c1", "1", &[], b""),
            "404 ",
        ),
    ];
    let mut open = Vec::new();
    for (what, bytes, expected) in &cases {
        let answer = raw(&address, bytes).await;
        let status = answer.split_once(' ').map_or("", |(_, rest)| rest);
        assert!(status.starts_with(expected), "{what}: {answer:?}");
        // One more that stays open for as long as it is let.
        let mut stuck = TcpStream::connect(&address).await.expect("connect");
        let _ = stuck.write_all(&bytes[..bytes.len().min(1000)]).await;
        open.push(stuck);
        b.transport.send(vec![message(MessageType::MsgVote, b.id, a.id)]);
    }
    until("the messages of the good peer", || a.count() == cases.len()).await;
    assert!(a.transport.active_since(b.id).is_some());
}

/// A peer that answers a dial with something else than a stream of messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_streams_are_closed_and_dialled_anew() {
    let chunk = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
        [head.as_bytes(), body, b"\r\n"].concat()
    };
    let framed = |m: &Message| {
        let bytes = m.encode_to_vec();
        chunk(&[&(bytes.len() as u64).to_be_bytes()[..], &bytes].concat())
    };
    let wrong_order = Message { index: Some(3), ..append(6, 1, 9, 2) };
    let future_term = Message { term: Some(1), ..append(6, 1, 9, 2) };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no HTTP", b"hello\r\n\r\n".to_vec()),
        ("an error", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("an endless error", [b"HTTP/1.1 412 No\r\n\r\n".to_vec(), vec![b'x'; 3 << 20]].concat()),
        ("a redirect", b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("an empty stream", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("noise", chunk(&[0xff; 100])),
        ("a huge frame", chunk(&(u64::MAX - 1).to_be_bytes())),
        ("half a frame", chunk(&[0, 0, 0, 0, 0, 0, 0, 9, 1])),
        ("a broken chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nqq\r\n".to_vec()),
        ("a message for somebody else", framed(&message(MessageType::MsgVote, 6, 5))),
        ("a message from nobody", framed(&message(MessageType::MsgVote, 77, 1))),
        ("a clock's message", framed(&message(MessageType::MsgHup, 6, 1))),
        ("a snapshot", framed(&message(MessageType::MsgSnap, 6, 1))),
        ("an unknown kind", framed(&Message { r#type: Some(99), ..message(MessageType::MsgHup, 6, 1) })),
        ("entries out of order", framed(&wrong_order)),
        ("entries of a later term", framed(&future_term)),
    ];
    let (a, b) = pair().await;
    for (what, answer) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let dials = Arc::new(AtomicUsize::new(0));
        let counter = dials.clone();
        let hostile = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
                if what == "half a frame" {
                    drop(stream);
                } else {
                    open.push(stream);
                }
            }
        });
        a.transport.add_peer(6, vec![url]);
        // Two streams: five dials mean that at least one was dialled anew.
        until(what, || dials.load(Ordering::SeqCst) >= 5).await;
        a.transport.remove_peer(6);
        hostile.abort();
    }
    assert_eq!(a.count(), 0, "{:?}", a.received());
    a.reaches(&b).await;
    b.reaches(&a).await;
}

/// A peer that opens its stream and then reads nothing: sending never waits, and what is lost is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_is_reported() {
    let node = Node::start(1).await;
    node.transport.add_peer(2, vec!["http://127.0.0.1:1".into()]);
    let mut stream = TcpStream::connect(node.url.trim_start_matches("http://")).await.expect("connect");
    stream.write_all(&request("GET /raft/stream/message/2", "c1c1", "1", &[], b"")).await.expect("write");
    let mut head = [0; 4096];
    let _ = stream.read(&mut head).await.expect("the head of the stream");
    let data = Entry { data: Some(Bytes::from(vec![1; 64 * 1024])), ..Entry::default() };
    let started = Instant::now();
    for _ in 0..3000 {
        node.transport.send(vec![Message { entries: vec![data.clone()], ..message(MessageType::MsgProp, 1, 2) }]);
    }
    assert!(started.elapsed() < PATIENCE, "sending waited");
    assert!(node.unreachable() > 0);
    assert!(node.transport.stats(2).is_some_and(|stats| stats.sent_failures > 0));
}

/// A peer that dials again before we have seen its first stream break: the newest stream is the one that counts, and a
/// quiet one carries heartbeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_replaces_the_first() {
    let node = Node::start(1).await;
    node.transport.add_peer(2, vec!["http://127.0.0.1:1".into()]);
    let open = async || {
        let mut stream = TcpStream::connect(node.url.trim_start_matches("http://")).await.expect("connect");
        stream.write_all(&request("GET /raft/stream/message/2", "c1c1", "1", &[], b"")).await.expect("write");
        let mut head = [0; 4096];
        let n = stream.read(&mut head).await.expect("the head of the stream");
        assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&head[..n]));
        stream
    };
    let (mut first, mut second) = (open().await, open().await);
    let mut rest = Vec::new();
    timeout(PATIENCE, first.read_to_end(&mut rest)).await.expect("in time").expect("the end of the first stream");
    assert_eq!(rest, b"0\r\n\r\n");
    let mut chunk = [0; 4096];
    let n = timeout(PATIENCE, second.read(&mut chunk)).await.expect("in time").expect("a heartbeat");
    // In hexadecimal the chunk's length, then etcd's frame: a length and a MsgHeartbeat from nobody to nobody.
    assert_eq!(chunk[..n], *b"E\r\n\0\0\0\0\0\0\0\x06\x08\x08\x10\0\x18\0\r\n");
    node.transport.send(vec![message(MessageType::MsgVote, 1, 2)]);
    let n = timeout(PATIENCE, second.read(&mut chunk)).await.expect("in time").expect("a message");
    assert_eq!(chunk[..n], *b"10\r\n\0\0\0\0\0\0\0\x08\x08\x05\x10\x02\x18\x01\x20\x03\r\n");
    drop(second);
    until("an inactive peer", || node.transport.active_since(2).is_none()).await;
}

/// Not a timed assertion: the figure is for the reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_of_small_messages() {
    let (a, b) = pair().await;
    let count = 200_000usize;
    let messages: Vec<_> = (0..100).map(|_| message(MessageType::MsgHeartbeatResp, a.id, b.id)).collect();
    let started = Instant::now();
    let mut sent = 0;
    while sent < count {
        if sent < b.count() + 3000 {
            a.transport.send(messages.clone());
            sent += messages.len();
        } else {
            tokio::task::yield_now().await;
        }
    }
    until("all", || b.count() == count).await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} messages/s over one stream on loopback, one runtime of two threads for both sides");
    assert_eq!(a.unreachable(), 0);
}
