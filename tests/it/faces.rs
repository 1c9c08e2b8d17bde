//! The smaller faces of the client port beside those of a real etcd: the log's level, the CPU profile, the health
//! service.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::health::health_client::HealthClient;
use lockstep_proto::health::{HealthCheckRequest, HealthCheckResponse};
use prost::Message;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::gateway::{Pair, ask};
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

const LOG: &str = "/config/local/log";

#[test]
fn the_log_level_changes_as_in_3_4() {
    let Some(mut pair) = Pair::start_beside(Etcd::V34, &[]) else { return };
    for (method, path) in
        [("GET", LOG), ("POST", LOG), ("DELETE", LOG), ("OPTIONS", LOG), ("PUT", "/config/local/log/")]
    {
        pair.ask(method, path, "", br#"{"Level":"DEBUG"}"#);
    }
    #[rustfmt::skip]
    let bodies = [
        r#"{"Level":"DEBUG"}"#, r#"{"Level":"debug"}"#, r#"{"level":"WARNING"}"#, r#"{"LEVEL":"Error"}"#,
        r#"{"Level":"CRITICAL"}"#, r#"{"Level":"TRACE"}"#, r#"{"Level":"NOTICE"}"#, r#"{"Level":"INFO"}"#,
        r#"{"Level":"C"}"#, r#"{"Level":"0"}"#, r#"{"Level":"5"}"#, r#"{"Level":"6"}"#, r#"{"Level":"i"}"#,
        r#"{"Level":"WARN"}"#, r#"{"Level":"PANIC"}"#, r#"{"Level":" INFO"}"#, r#"{"Level":"<a&b>\"x\""}"#,
        r#"{"Level":""}"#, r#"{"Level":null}"#, r#"{"Level":5}"#, r#"{"Level":["INFO"]}"#,
        r#"{"Level":"XX","Level":"I"}"#,
        r#"{"Other":"INFO"}"#, "{}", "null", "[]", "\"INFO\"", "5", "", " ", "{", "x", r#"{"Level":"INFO"} trailing"#,
    ];
    for body in bodies {
        pair.ask("PUT", LOG, "", body.as_bytes());
    }
    pair.agree();
}

/// A request whose head is refused leaves a line at the level "warn"; a change itself one at "info".
#[test]
fn the_log_speaks_at_its_level() {
    let cluster =
        Cluster::start_with(Kind::Lockstepd, 1, &["--host-whitelist=localhost,127.0.0.1"]).expect("lockstepd is built");
    let member = &cluster.members[0];
    let url = member.client_url();
    let set = |level: &str| {
        let answer = ask(&url, "PUT", LOG, "", format!("{{\"Level\":\"{level}\"}}").as_bytes());
        assert_eq!(answer.status, 204, "{level}: {}", answer.body);
    };
    // How many lines of this level a rejected request and a lost connection leave.
    let lines = |level: &str| member.log().matches(&format!("\"level\":\"{level}\"")).count();
    let warn = || {
        let before = lines("warn");
        assert_eq!(ask(&url, "GET", "/health", "Host: bad.example\r\n", b"").status, 421);
        lines("warn") - before
    };
    assert_eq!((warn(), lines("debug")), (1, 0));
    set("ERROR");
    assert_eq!(warn(), 0, "the log is told to keep silent");
    let said = member.log().matches("changed the log level").count();
    assert_eq!(said, 1, "the change that silences it is its last line");
    set("WARNING");
    assert_eq!(warn(), 1);
    set("DEBUG");
    assert_eq!(warn(), 1);
    assert!(ask(&url, "GET", "/health", "", b"").status == 200);
    assert!(lines("debug") > 0, "{}", member.log());
    set("INFO");
    let debug = lines("debug");
    assert_eq!(ask(&url, "GET", "/health", "", b"").status, 200);
    assert_eq!(lines("debug"), debug);
}

/// Status, head and body of a GET, as bytes.
fn get(url: &str, path: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("the request is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer is read");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("the answer has a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("the answer has a status");
    (status, head, answer.split_off(end + 4))
}

/// pprof's `profile.proto`, as far as this test looks.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<Pair64>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Pair64>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Pair64 {
    #[prost(int64, tag = "1")]
    first: i64,
    #[prost(int64, tag = "2")]
    second: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[test]
fn a_cpu_profile_shows_what_runs() {
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &["--enable-pprof"]).expect("lockstepd is built");
    let url = cluster.members[0].client_url();
    let is_over = AtomicBool::new(false);
    let (profile, refused, puts) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let client = cluster.client(0);
            let mut puts = 0;
            while !is_over.load(Ordering::Relaxed) {
                let request = lockstep_proto::etcdserverpb::PutRequest { key: "key".into(), ..Default::default() };
                client.put(request).expect("a put beside a profile");
                puts += 1;
            }
            puts
        });
        let profile = scope.spawn(|| get(&url, "/debug/pprof/profile?seconds=3"));
        std::thread::sleep(Duration::from_millis(1000));
        let refused = get(&url, "/debug/pprof/profile?seconds=1");
        let profile = profile.join().expect("the profile is read");
        is_over.store(true, Ordering::Relaxed);
        (profile, refused, load.join().expect("the load ran"))
    });
    assert!(puts > 0);
    let text = "Could not enable CPU profiling: cpu profiling already in use\n";
    assert_eq!((refused.0, refused.2.as_slice()), (500, text.as_bytes()));
    let (status, head, body) = profile;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert!(head.contains("content-type: application/octet-stream"), "{head}");
    assert!(body.starts_with(&[0x1f, 0x8b]), "it is gzip");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut bytes).expect("it is whole");
    let profile = Profile::decode(bytes.as_slice()).expect("it is a profile");
    let text = |at: i64| profile.strings[at as usize].as_str();
    let kinds: Vec<_> = profile.sample_type.iter().map(|kind| (text(kind.first), text(kind.second))).collect();
    assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(profile.strings[0], "");
    let samples: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    let nanos: i64 = profile.sample.iter().map(|sample| sample.value[1]).sum();
    assert!(samples > 10, "{samples} samples of a server under load");
    assert_eq!(nanos, samples * profile.period);
    assert!((2_900_000_000..30_000_000_000).contains(&profile.duration_nanos), "{}", profile.duration_nanos);
    let deep = profile.sample.iter().filter(|sample| sample.location.len() > 3).count();
    assert!(deep * 2 > profile.sample.len(), "stacks are unwound: {deep} of {}", profile.sample.len());
    let names: Vec<&str> = profile.function.iter().map(|function| text(function.second)).collect();
    assert!(names.iter().any(|name| name.contains("lockstep::")), "{names:?}");
    assert!(!names.is_empty() && profile.strings.iter().any(|name| name == "consensus" || name == "apply"));
    // Bounds, the others, and the next one.
    for (path, status, text) in [
        ("/debug/pprof/profile?seconds=3601", 400, "profile duration exceeds 3600 seconds\n"),
        ("/debug/pprof/", 200, "cmdline\nprofile?seconds=30\n"),
        ("/debug/pprof/nothing", 404, "Unknown profile\n"),
        (
            "/debug/pprof/heap",
            501,
            "heap: not available: this server is not a Go program; there is /debug/pprof/profile\n",
        ),
    ] {
        let answer = get(&url, path);
        assert_eq!((answer.0, String::from_utf8_lossy(&answer.2).as_ref()), (status, text), "{path}");
    }
    // A client that does not wait for its profile leaves room for the next one.
    let mut gone = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
    write!(gone, "GET /debug/pprof/profile?seconds=600 HTTP/1.0\r\nHost: x\r\n\r\n").expect("the request is sent");
    std::thread::sleep(Duration::from_millis(100));
    drop(gone);
    let deadline = Instant::now() + Duration::from_secs(10);
    while get(&url, "/debug/pprof/profile?seconds=1").0 != 200 {
        assert!(Instant::now() < deadline, "the profile of a client that went away goes on");
    }
}

#[test]
fn profiles_have_to_be_asked_for() {
    for (flag, status) in [("--log-level=info", 404), ("--log-level=debug", 200), ("--enable-pprof", 200)] {
        let Some(mut pair) = Pair::start(&[flag]) else { return };
        for path in ["/debug/pprof/cmdline", "/debug/pprof", "/debug/pprof/nothing"] {
            let [theirs, ours] =
                [&pair.etcd, &pair.ours].map(|c| ask(&c.members[0].client_url(), "GET", path, "", b"").status);
            assert_eq!(ours, theirs, "{flag} {path}");
            assert!(path != "/debug/pprof/cmdline" || ours == status, "{flag} {path}: {ours}");
        }
        pair.ask("GET", "/debug/pprof/nothing", "", b"");
        pair.agree();
    }
}

type Said = Result<i32, (Code, String)>;

/// The answer to a check, and the first of a watch.
fn health(url: &str, service: &str, wants_leader: bool) -> [Said; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel =
            Endpoint::from_shared(url.to_owned()).expect("a URL").connect().await.expect("the server accepts");
        let mut client = HealthClient::new(channel);
        let request = || {
            let mut request = Request::new(HealthCheckRequest { service: service.to_owned() });
            if wants_leader {
                request.metadata_mut().insert("hasleader", "true".parse().expect("plain text"));
            }
            request.set_timeout(Duration::from_secs(10));
            request
        };
        let said = |response: HealthCheckResponse| response.status;
        let failed = |status: tonic::Status| (status.code(), status.message().to_owned());
        let check = client.check(request()).await.map(|r| said(r.into_inner())).map_err(failed);
        let watch = async {
            let mut stream = client.watch(request()).await.map_err(failed)?.into_inner();
            let first = stream.message().await.map_err(failed)?.map(said).expect("a first answer");
            // And it stays so.
            let second = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
            assert!(second.is_err(), "{second:?}");
            Ok(first)
        };
        [check, watch.await]
    })
}

#[test]
fn the_health_service_answers_as_etcds() {
    let Some(etcd) = Cluster::start(Kind::Etcd(Etcd::V35), 3) else { return };
    let ours = Cluster::start(Kind::Lockstepd, 3).expect("lockstepd is built");
    let mut clusters = [etcd, ours];
    let services = ["", "etcdserverpb.KV", "grpc.health.v1.Health", "nothing"];
    for has_quorum in [true, false] {
        if !has_quorum {
            for cluster in &mut clusters {
                cluster.members[1].kill();
                cluster.members[2].kill();
                let url = cluster.members[0].client_url();
                let deadline = Instant::now() + Duration::from_secs(20);
                while health(&url, "", true)[0].is_ok() {
                    assert!(Instant::now() < deadline, "{:?}: a leader without a quorum", cluster.kind);
                }
            }
        }
        for service in services {
            for wants_leader in [false, true] {
                let [theirs, ours] =
                    [0, 1].map(|at| health(&clusters[at].members[0].client_url(), service, wants_leader));
                assert_eq!(ours, theirs, "{service:?}, quorum {has_quorum}, wants a leader {wants_leader}");
            }
        }
    }
}
