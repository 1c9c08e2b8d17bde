//! A real etcd (3.5.1, and 3.4.23) as the peer: our transport poses as the second of two members, answers its votes and
//! appends by hand, and then takes over the leadership and writes into its log. What etcd accepts from us is etcd's
//! protocol.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep::proto::etcdserverpb::InternalRaftRequest;
use lockstep::proto::raftpb::{Entry, Message, MessageType};
use lockstep::server::peer::{
    Config, Handler, Listener, Pieces, Taking, Transport, get_cluster_from_peers, get_version,
};
use prost::Message as _;
use sha1::{Digest, Sha1};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::peer::{raw, request};
use crate::util::oracle::Etcd;

const TOKEN: &str = "etcd-cluster";
const PATIENCE: Duration = Duration::from_secs(30);

struct Inbox(UnboundedSender<Message>);

impl Handler for Inbox {
    fn message(&self, message: Message) {
        let _ = self.0.send(message);
    }
    fn unreachable(&self, _: u64) {}
    fn snapshot_status(&self, _: u64, _: bool) {}
    fn open_snapshot(&self, _: u64) -> Option<Pieces> {
        None
    }
    fn snapshot(&self, _: Message, _: Pieces) -> Taking<'_> {
        Box::pin(std::future::ready(Err("none is taken here".into())))
    }
    fn members_json(&self) -> Vec<u8> {
        b"[]".to_vec()
    }
    fn version_json(&self) -> Vec<u8> {
        br#"{"etcdserver":"3.7.1","etcdcluster":"not_decided"}"#.to_vec()
    }
    fn is_removed(&self, _: u64) -> bool {
        false
    }
}

/// Ends the program whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address nobody listens on, for as long as nobody else takes it.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").to_string()
}

fn start_etcd(program: &Path, dir: &Path, client: &str, peer: &str, initial_cluster: &str) -> Running {
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    let child = Command::new(program)
        .args(["--name", "real", "--heartbeat-interval", "50", "--election-timeout", "500"])
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", initial_cluster, "--initial-cluster-token", TOKEN])
        .args(["--pre-vote", "--logger", "zap", "--data-dir"])
        .arg(dir.join("data"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("etcd starts");
    Running(child)
}

fn read_log(dir: &Path) -> String {
    let mut text = String::new();
    let _ = std::fs::File::open(dir.join("log")).and_then(|mut file| file.read_to_string(&mut text));
    text
}

fn first_eight(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(Sha1::digest(bytes)[..8].try_into().expect("eight bytes"))
}

/// The member's side of raft, by hand: enough to be voted with, appended to, and to lead for a moment.
struct Poser {
    us: u64,
    etcd: u64,
    transport: Transport,
    inbox: UnboundedReceiver<Message>,
    log: Vec<Entry>,
    seen: Vec<MessageType>,
}

impl Poser {
    fn reply(&self, kind: MessageType, term: u64) -> Message {
        Message {
            r#type: Some(kind as i32),
            to: Some(self.etcd),
            from: Some(self.us),
            term: Some(term),
            ..Message::default()
        }
    }

    /// Follows etcd until `done`.
    async fn follow(&mut self, what: &str, mut done: impl FnMut(&Message, &[Entry]) -> bool) -> Message {
        let started = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let message = match timeout(left, self.inbox.recv()).await {
                Ok(Some(message)) => message,
                _ => panic!("waited too long for {what}; seen {:?}", self.seen),
            };
            assert_eq!((message.to(), message.from()), (self.us, self.etcd));
            use MessageType::*;
            self.seen.push(message.r#type());
            let answer = match message.r#type() {
                MsgPreVote => Some(self.reply(MsgPreVoteResp, message.term())),
                MsgVote => Some(self.reply(MsgVoteResp, message.term())),
                MsgHeartbeat => {
                    let answer = self.reply(MsgHeartbeatResp, message.term());
                    Some(Message { context: message.context.clone(), ..answer })
                }
                MsgApp => {
                    self.log.truncate(message.index() as usize);
                    self.log.extend(message.entries.iter().cloned());
                    let last = self.log.last().map_or(0, |e| e.index());
                    Some(Message { index: Some(last), ..self.reply(MsgAppResp, message.term()) })
                }
                _ => None,
            };
            self.transport.send(answer.into_iter().collect());
            if done(&message, &self.log) {
                return message;
            }
        }
    }

    /// Leads: sends an append again and again until etcd says that it has all of it.
    async fn append(&mut self, term: u64, previous: &Entry, entries: Vec<Entry>, commit: u64) {
        let last = entries.last().map_or(previous.index(), |e| e.index());
        let append = Message {
            log_term: Some(previous.term()),
            index: Some(previous.index()),
            entries,
            commit: Some(commit),
            ..self.reply(MessageType::MsgApp, term)
        };
        self.transport.send(vec![append]);
        let answer = self.follow("an answer to our append", |m, _| m.r#type() == MessageType::MsgAppResp).await;
        assert!(!answer.reject(), "{answer:?}");
        assert_eq!((answer.index(), answer.term()), (last, term));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_etcd_3_5_takes_us_for_a_member() {
    check(Etcd::V35, "3.5.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_etcd_3_4_takes_us_for_a_member() {
    check(Etcd::V34, "3.4.23").await;
}

async fn check(release: Etcd, version: &str) {
    let (Some(etcd), Some(etcdctl)) = (release.program("etcd"), release.program("etcdctl")) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let our_url = format!("http://{}", listener.local_addr().expect("address"));
    let (client, peer) = (format!("http://{}", free_address()), format!("http://{}", free_address()));
    let etcd_id = first_eight(format!("{peer}{TOKEN}").as_bytes());
    let our_id = first_eight(format!("{our_url}{TOKEN}").as_bytes());
    let mut ids = [etcd_id, our_id];
    ids.sort_unstable();
    let cluster_id = first_eight(&ids.map(u64::to_be_bytes).concat());

    let (sender, inbox) = unbounded_channel();
    let config = Config {
        member_id: our_id,
        cluster_id,
        server_version: "3.7.1".into(),
        min_cluster_version: "3.0.0".into(),
        peer_urls: vec![our_url.clone()],
        max_message_bytes: 64 << 20,
        max_connections: 100,
    };
    let transport = Transport::new(config, Arc::new(Inbox(sender)));
    transport.add_peer(etcd_id, vec![peer.clone()]);
    let serving = transport.clone();
    tokio::spawn(async move { serving.serve(Listener::Tcp(listener), std::future::pending()).await });
    let running = start_etcd(&etcd, dir.path(), &client, &peer, &format!("real={peer},ours={our_url}"));

    // A static bootstrap begins with an entry for each member; every member has made them for itself.
    let bootstrap = |index| Entry { term: Some(1), index: Some(index), ..Entry::default() };
    let (log, seen) = (vec![bootstrap(1), bootstrap(2)], Vec::new());
    let mut poser = Poser { us: our_id, etcd: etcd_id, transport: transport.clone(), inbox, log, seen };
    // It campaigns, we vote for it, it appends and publishes itself.
    poser.follow("a heartbeat of a leader", |m, _| m.r#type() == MessageType::MsgHeartbeat).await;
    assert!(poser.seen.contains(&MessageType::MsgPreVote) && poser.seen.contains(&MessageType::MsgVote));
    assert!(transport.active_since(etcd_id).is_some());

    // A put through the real client is committed by our acknowledgement, and comes down the msgappv2 stream.
    let mut puts = Vec::new();
    for n in 0..20 {
        let mut put = Command::new(&etcdctl);
        put.env("ETCDCTL_API", "3").args(["--endpoints", &client, "put", "key", &format!("value-{n}")]);
        let put = tokio::task::spawn_blocking(move || put.output().expect("etcdctl runs"));
        let value = format!("value-{n}");
        poser.follow("the put's entry", |_, log| log.iter().rev().take(3).any(|e| put_value(e) == value)).await;
        puts.push(put);
    }
    let mut done = 0;
    for mut put in puts {
        let output = loop {
            tokio::select! {
                output = &mut put => break output.expect("etcdctl ran"),
                _ = poser.follow("heartbeats", |_, _| true) => {}
            }
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        done += 1;
    }
    assert_eq!(done, 20);
    assert!(poser.log.iter().enumerate().all(|(i, e)| e.index() == i as u64 + 1), "the log has no gaps");

    // Its streams, both ways, by its own log; and ours, by ours.
    let log = read_log(dir.path());
    for stream in ["stream-writer-type\":\"stream Message", "stream-writer-type\":\"stream MsgApp v2"]
        .into_iter()
        .chain(["stream-reader-type\":\"stream Message", "stream-reader-type\":\"stream MsgApp v2"])
    {
        let line = |l: &str| l.contains("established TCP streaming connection with remote peer") && l.contains(stream);
        assert!(log.lines().any(line), "no {stream} in\n{log}");
    }

    // What bootstrap and the version monitor ask of it.
    let cluster = get_cluster_from_peers(std::slice::from_ref(&peer), PATIENCE).await.expect("its members");
    assert_eq!(cluster.cluster_id, cluster_id);
    let real = cluster.members.iter().find(|m| m.id == etcd_id).expect("etcd itself");
    assert_eq!((real.name.as_str(), &real.peer_urls, &real.client_urls), ("real", &vec![peer.clone()], &vec![client]));
    assert_eq!(get_version(std::slice::from_ref(&peer), PATIENCE).await.expect("its version").server, version);

    // Now we lead: it grants the vote of a transfer, and takes appends of both forms of msgappv2.
    let last = poser.log.last().cloned().expect("entries");
    let term = last.term() + 1;
    let campaign = Message {
        index: last.index.map(|i| i + 10),
        log_term: last.term,
        context: Some(Bytes::from_static(b"CampaignTransfer")),
        ..poser.reply(MessageType::MsgVote, term)
    };
    transport.send(vec![campaign]);
    let vote = poser.follow("its vote", |m, _| m.r#type() == MessageType::MsgVoteResp).await;
    assert!(!vote.reject() && vote.term() == term, "{vote:?}");
    let entry = |index: u64| Entry { r#type: Some(0), term: Some(term), index: Some(index), data: None };
    let (first, next) = (entry(last.index() + 1), entry(last.index() + 2));
    poser.append(term, &last, vec![first.clone()], last.index()).await;
    poser.append(term, &first, vec![next.clone(), entry(next.index() + 1)], first.index()).await;
    poser.append(term, &entry(next.index() + 1), vec![], next.index() + 1).await;
    transport.send(vec![Message {
        commit: Some(next.index() + 1),
        context: Some(Bytes::from_static(b"read")),
        ..poser.reply(MessageType::MsgHeartbeat, term)
    }]);
    let beat = poser.follow("its heartbeat", |m, _| m.r#type() == MessageType::MsgHeartbeatResp).await;
    assert_eq!(beat.context(), b"read");

    // The same refusals, word for word, from it and from us.
    check_same_answers(&peer, etcd_id, &our_url, our_id, cluster_id).await;
    transport.stop();
    drop(running);
}

fn put_value(entry: &Entry) -> String {
    let request = InternalRaftRequest::decode(entry.data()).unwrap_or_default();
    request.put.map(|put| String::from_utf8_lossy(&put.value).into_owned()).unwrap_or_default()
}

/// Sends the same requests to etcd and to us and compares status, body and the headers that peers look at.
async fn check_same_answers(etcd_url: &str, etcd_id: u64, our_url: &str, our_id: u64, cluster_id: u64) {
    let stream = |from: &str| format!("GET /raft/stream/message/{from}");
    type Case = (String, Vec<(&'static str, &'static str)>, &'static [u8]);
    let cases: Vec<Case> = vec![
        ("POST /raft".into(), vec![("X-Server-Version", "2.3.0")], b"x"),
        ("POST /raft".into(), vec![("X-Server-Version", "")], b"x"),
        ("POST /raft".into(), vec![("X-Min-Cluster-Version", "9.0.0")], b"x"),
        ("POST /raft".into(), vec![("X-Etcd-Cluster-ID", "1")], b"x"),
        ("POST /raft".into(), vec![("X-Etcd-Cluster-ID", "")], b"x"),
        ("POST /raft".into(), vec![], b"garbage"),
        ("GET /raft".into(), vec![], b""),
        ("POST /raft/snapshot".into(), vec![("X-Etcd-Cluster-ID", "1")], b"x"),
        ("GET /raft/snapshot".into(), vec![], b""),
        (stream("1"), vec![("X-Server-Version", "2.0.0")], b""),
        (stream("1"), vec![("X-Etcd-Cluster-ID", "1")], b""),
        (stream("1"), vec![], b""),
        (stream("1"), vec![("X-Raft-To", "5")], b""),
        (stream("zz"), vec![], b""),
        (stream("1/2"), vec![], b""),
        ("GET /raft/stream/other/1".into(), vec![], b""),
        ("POST /raft/stream/message/1".into(), vec![], b""),
        ("GET /raft/other".into(), vec![], b""),
        ("GET /nothing".into(), vec![], b""),
        ("POST /members".into(), vec![], b""),
        ("GET /members/1".into(), vec![], b""),
        ("POST /version".into(), vec![], b""),
    ];
    for (line, but, body) in cases {
        let mut answers = Vec::new();
        for (url, id) in [(etcd_url, etcd_id), (our_url, our_id)] {
            let request = request(&line, &format!("{cluster_id:x}"), &format!("{id:x}"), &but, body);
            answers.push(comparable(&raw(url.trim_start_matches("http://"), &request).await));
        }
        assert_eq!(answers[0], answers[1], "{line} {but:?}: etcd's answer, then ours");
    }
}

fn comparable(answer: &str) -> Vec<String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
    lines.retain(|line| !line.starts_with("date:") && !line.starts_with("x-server-version:"));
    lines.sort();
    lines.push(body.to_owned());
    lines
}
