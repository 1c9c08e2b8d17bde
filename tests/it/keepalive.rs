//! Pings on the client port, and streams that want a leader: beside a real etcd 3.5.1, frame by frame.
//!
//! Who pings too often is sent away as by etcd, who pings as often as he may is left alone, and who does not answer the
//! server's pings is dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::lease_client::LeaseClient;
use lockstep::proto::etcdserverpb::watch_client::WatchClient;
use lockstep::proto::etcdserverpb::watch_request::RequestUnion;
use lockstep::proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, WatchCreateRequest, WatchRequest};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

use crate::util::http2::*;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

/// A connection that says only what it is told to.
struct Bare(TcpStream);

impl Bare {
    fn connect(url: &str) -> Bare {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket");
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        stream.write_all(&hello).expect("a preface");
        let mut bare = Bare(stream);
        while bare.next(Duration::from_secs(5)).expect("an open connection").expect("settings").0 != SETTINGS {}
        bare.0.write_all(&frame(SETTINGS, ACK, 0, &[])).expect("an open connection");
        bare
    }

    /// A watch stream on which nothing is asked for.
    fn open_stream(&mut self) {
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (":path", "/etcdserverpb.Watch/Watch"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.extend([0, name.len() as u8]);
            block.extend(name.as_bytes());
            block.push(value.len() as u8);
            block.extend(value.as_bytes());
        }
        self.0.write_all(&frame(HEADERS, END_HEADERS, 1, &block)).expect("an open connection");
        // What is sent at the opening forgives strikes; it is not to come later.
        while self.next(Duration::from_millis(300)).expect("an open connection").is_some() {}
    }

    /// The next frame: kind, flags, payload. `None` when none comes in time; an error when the connection has ended.
    fn next(&mut self, limit: Duration) -> Result<Option<(u8, u8, Vec<u8>)>, ErrorKind> {
        self.0.set_read_timeout(Some(limit)).expect("a socket");
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
            Err(e) => return Err(e.kind()),
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).map_err(|e| e.kind())?;
        Ok(Some((head[3], head[4], payload)))
    }

    /// Pings, and what comes of it.
    fn ping(&mut self) -> Pinged {
        if self.0.write_all(&frame(PING, 0, 0, b"lockstep")).is_err() {
            return Pinged::Closed;
        }
        loop {
            match self.next(Duration::from_secs(5)) {
                Ok(Some((PING, ACK, _))) => return Pinged::Answered,
                Ok(Some((GOAWAY, _, payload))) => return Pinged::SentAway(payload),
                Ok(Some(_)) => {}
                Ok(None) => return Pinged::Ignored,
                Err(_) => return Pinged::Closed,
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Pinged {
    Answered,
    SentAway(Vec<u8>),
    Ignored,
    Closed,
}

/// Pings until it is sent away, at most `count` times; how many pings were answered, and the farewell.
fn pings(url: &str, with_stream: bool, pause_ms: u64, count: usize) -> (usize, Option<Vec<u8>>) {
    let mut bare = Bare::connect(url);
    if with_stream {
        bare.open_stream();
    }
    for answered in 0..count {
        match bare.ping() {
            Pinged::Answered => std::thread::sleep(Duration::from_millis(pause_ms)),
            Pinged::SentAway(why) => {
                // And then it is over.
                while let Ok(Some(_)) = bare.next(Duration::from_secs(3)) {}
                assert!(bare.next(Duration::from_secs(3)).is_err(), "the connection stays open");
                return (answered, Some(why));
            }
            other => panic!("after {answered} pings: {other:?}"),
        }
    }
    (count, None)
}

#[test]
fn too_many_pings_as_etcd() {
    let flags = ["--grpc-keepalive-min-time=200ms"];
    let servers = [Kind::Lockstepd, Kind::Etcd(Etcd::V35)].map(|kind| Cluster::start_with(kind, 1, &flags));
    let [Some(ours), Some(theirs)] = servers else { return };
    // Stream, pause in ms, pings, whether it is sent away.
    for (with_stream, pause_ms, count, is_too_much) in [
        (false, 10, 10, true),
        (false, 300, 10, true),
        (true, 10, 10, true),
        (true, 300, 8, false),
        (true, 0, 3, false),
    ] {
        let [a, b] = [&ours, &theirs].map(|c| pings(&c.members[0].client_url(), with_stream, pause_ms, count));
        // Whether the last ping is answered before the farewell is a race in etcd.
        assert!(a.0.abs_diff(b.0) <= 1 && a.1 == b.1, "{with_stream} {pause_ms}: ours {a:?}, etcd's {b:?}");
        assert_eq!(a.1.is_some(), is_too_much, "{with_stream} {pause_ms}: {a:?}");
        if let Some(why) = a.1 {
            assert_eq!(&why[4..], b"\0\0\0\x0btoo_many_pings");
        }
    }
}

#[test]
fn silent_clients_are_pinged_and_dropped_as_by_etcd() {
    let flags = ["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"];
    let servers = [Kind::Lockstepd, Kind::Etcd(Etcd::V35)].map(|kind| Cluster::start_with(kind, 1, &flags));
    let [Some(ours), Some(theirs)] = servers else { return };
    for cluster in [&ours, &theirs] {
        let mut bare = Bare::connect(&cluster.members[0].client_url());
        let began = Instant::now();
        let mut pinged = None;
        let ended = loop {
            match bare.next(Duration::from_secs(10)) {
                Ok(Some((PING, 0, _))) => pinged = pinged.or(Some(began.elapsed())),
                Ok(Some(_)) => {}
                Ok(None) => panic!("{:?}: a silent client stays", cluster.kind),
                Err(_) => break began.elapsed(),
            }
        };
        let pinged = pinged.expect("a ping came first");
        println!("{:?}: pinged after {pinged:?}, dropped after {ended:?}", cluster.kind);
        assert!(pinged > Duration::from_millis(800) && pinged < Duration::from_secs(4), "{pinged:?}");
        assert!(ended > Duration::from_millis(1_600) && ended < Duration::from_secs(8), "{ended:?}");
    }
}

fn wanting_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("plain text"));
    request
}

/// How a watch stream and a stream of keep-alives end when the other members are gone.
async fn ends(cluster: &mut Cluster, wants_leader: bool) -> [Option<Status>; 2] {
    let url = cluster.members[0].client_url();
    let channel = tonic::transport::Endpoint::from_shared(url).expect("a URL").connect().await.expect("a connection");
    let mut leases = LeaseClient::new(channel.clone());
    let lease = leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.expect("a lease").into_inner();
    let plain_or = |wanted| if wants_leader { wanted } else { Request::new(()) };
    let metadata = plain_or(wanting_leader(())).into_parts().0;
    let keep = tokio_stream::iter([LeaseKeepAliveRequest { id: lease.id }]).chain(tokio_stream::pending());
    let keep = Request::from_parts(metadata.clone(), Default::default(), keep);
    let mut kept = leases.lease_keep_alive(keep).await.expect("a stream").into_inner();
    kept.message().await.expect("no error").expect("an answer");
    let create = WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let watch = tokio_stream::iter([create]).chain(tokio_stream::pending());
    let watch = Request::from_parts(metadata, Default::default(), watch);
    let mut watched = WatchClient::new(channel).watch(watch).await.expect("a stream").into_inner();
    watched.message().await.expect("no error").expect("an answer");
    cluster.members[1].kill();
    cluster.members[2].kill();
    // A leader notices within an election, and three more without one are too long.
    let limit = Duration::from_secs(if wants_leader { 30 } else { 8 });
    let kept = tokio::time::timeout(limit, kept.message()).await;
    let watched = tokio::time::timeout(limit, watched.message()).await;
    let status = |ended: Result<Status, _>| ended.ok();
    [kept.map(|end| end.expect_err("an error")), watched.map(|end| end.expect_err("an error"))].map(status)
}

#[test]
fn streams_that_want_a_leader_end_without_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V35)] {
        for wants_leader in [true, false] {
            let Some(mut cluster) = Cluster::start(kind, 3) else { return };
            let ended = runtime.block_on(ends(&mut cluster, wants_leader));
            let ended = ended.map(|end| end.map(|status| (status.code(), status.message().to_owned())));
            println!("{kind:?}, wants a leader: {wants_leader}: {ended:?}");
            let expected = wants_leader.then(|| (Code::Unavailable, "etcdserver: no leader".to_owned()));
            assert_eq!(ended, [expected.clone(), expected], "{kind:?}");
        }
    }
}
