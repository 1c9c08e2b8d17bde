//! Health, version and the client port itself: what a prober, a load balancer and a rude peer get.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep::server::http::{self, AlarmType, Answer, Health};
use lockstep::server::listen::{self, Listener, ServeOptions, SocketOptions};
use lockstep::server::workers::Workers;
use tokio::sync::watch;

use crate::util::oracle::Etcd;
use crate::util::start::{command, lockstepd, start};

/// A member that says what the test wants.
#[derive(Clone, Default)]
struct Fake {
    leader: bool,
    alarms: Vec<AlarmType>,
    learner: bool,
    version: Option<&'static str>,
    /// Error of a serializable and of a linearizable read; `"hang"` never answers.
    local: Option<&'static str>,
    quorum: Option<&'static str>,
}

fn answer(error: Option<&'static str>) -> Answer<'static> {
    Box::pin(async move {
        match error {
            None => Ok(()),
            Some("hang") => std::future::pending().await,
            Some(error) => Err(error.to_string()),
        }
    })
}

impl Health for Fake {
    fn full_disk(&self) -> Option<String> {
        None
    }

    fn has_leader(&self) -> bool {
        self.leader
    }
    fn alarms(&self) -> Vec<(u64, AlarmType)> {
        self.alarms.iter().map(|kind| (1, *kind)).collect()
    }
    fn is_learner(&self) -> bool {
        self.learner
    }
    fn cluster_version(&self) -> Option<String> {
        self.version.map(str::to_string)
    }
    fn storage_version(&self) -> Option<String> {
        self.version.map(str::to_string)
    }
    fn serializable_read(&self) -> Answer<'_> {
        answer(self.local)
    }
    fn linearizable_read(&self) -> Answer<'_> {
        answer(self.quorum)
    }
}

/// The pages of one member, served until dropped.
struct Served {
    address: String,
    stop: watch::Sender<bool>,
    runtime: tokio::runtime::Runtime,
    done: tokio::task::JoinHandle<()>,
}

fn options() -> ServeOptions {
    ServeOptions {
        max_connections: 100,
        max_concurrent_streams: u32::MAX,
        keepalive_interval: Duration::from_secs(7_200),
        ping_min_time: Duration::from_secs(5),
        keepalive_timeout: Duration::from_secs(20),
        drain: Duration::from_millis(300),
    }
}

fn serve(member: Fake) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = watch::channel(false);
    let _inside = runtime.enter();
    let url = lockstep::server::config::Url::parse("http://127.0.0.1:0").unwrap();
    let listener = Listener::bind(&url, SocketOptions::default()).unwrap();
    let address = listener.address().to_string();
    let app = http::router(Arc::new(member), Duration::from_millis(200)).fallback(http::fallback);
    let done = runtime.spawn(listen::serve(vec![listener], app, options(), Workers::start(1).unwrap(), stopped));
    drop(_inside);
    Served { address, stop, runtime, done }
}

/// Status, headers in lower case, body.
fn request(stream: &mut (impl Read + Write), method: &str, path: &str, more: &str) -> (u16, String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
    (status, head.to_ascii_lowercase(), body.to_string())
}

fn get(address: &str, method: &str, path: &str) -> (u16, String, String) {
    request(&mut TcpStream::connect(address).unwrap(), method, path, "")
}

/// Path, status, body.
type Page<'a> = (&'a str, u16, &'a str);

#[test]
fn pages() {
    let well = Fake { leader: true, version: Some("3.7.0"), ..Fake::default() };
    let alone = Fake { quorum: Some("etcdserver: no leader"), ..Fake::default() };
    let full = Fake { alarms: vec![AlarmType::Nospace], ..well.clone() };
    let rotten = Fake { alarms: vec![AlarmType::Nospace, AlarmType::Corrupt], ..well.clone() };
    let stuck = Fake { quorum: Some("hang"), learner: true, ..well.clone() };
    let all_ok = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n";
    let timed_out = "etcdserver: request timed out";
    let cases: &[(&Fake, &[Page])] = &[
        (
            &well,
            &[
                ("/health", 200, r#"{"health":"true","reason":""}"#),
                ("/health?serializable=true&exclude=NOSPACE", 200, r#"{"health":"true","reason":""}"#),
                ("/livez", 200, "ok\n"),
                ("/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
                ("/livez/serializable_read", 200, "ok\n"),
                ("/livez/linearizable_read", 404, "404 page not found\n"),
                ("/readyz", 200, "ok\n"),
                ("/readyz?verbose=", 200, &format!("{all_ok}ok\n")),
                (
                    "/readyz?verbose&exclude=linearizable_read&exclude=non_learner&exclude=nothing&exclude=",
                    200,
                    "[+]data_corruption ok\n[+]serializable_read ok\nok\n",
                ),
                ("/readyz/non_learner?verbose", 200, "[+]non_learner ok\nok\n"),
                ("/version", 200, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#),
                ("/", 404, "404 page not found\n"),
                ("/nothing", 404, "404 page not found\n"),
            ],
        ),
        (
            &alone,
            &[
                ("/health", 503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"),
                ("/health?serializable=true", 200, r#"{"health":"true","reason":""}"#),
                (
                    "/health?serializable=false&serializable=true",
                    503,
                    "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n",
                ),
                ("/livez", 200, "ok\n"),
                (
                    "/readyz",
                    503,
                    "[+]data_corruption ok\n[+]serializable_read ok\n\
                [-]linearizable_read failed: etcdserver: no leader\n[+]non_learner ok\n\n",
                ),
                ("/readyz?exclude=linearizable_read", 200, "ok\n"),
                (
                    "/readyz/linearizable_read?exclude=linearizable_read",
                    503,
                    "[-]linearizable_read failed: etcdserver: no leader\n\n",
                ),
                ("/version", 200, r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#),
            ],
        ),
        (
            &full,
            &[
                ("/health", 503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"),
                ("/health?exclude=NOSPACE", 200, r#"{"health":"true","reason":""}"#),
                ("/health?exclude=%4EOSPACE", 200, r#"{"health":"true","reason":""}"#),
                ("/health?exclude=nospace", 503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"),
                ("/readyz", 200, "ok\n"),
            ],
        ),
        (
            &rotten,
            &[
                ("/health?exclude=NOSPACE", 503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n"),
                ("/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"),
            ],
        ),
        (
            &stuck,
            &[
                ("/health", 503, &format!("{{\"health\":\"false\",\"reason\":\"RANGE ERROR:{timed_out}\"}}\n")),
                ("/readyz/linearizable_read", 503, &format!("[-]linearizable_read failed: {timed_out}\n\n")),
                ("/readyz/non_learner", 503, "[-]non_learner failed: not supported for learner\n\n"),
            ],
        ),
    ];
    for (member, requests) in cases {
        let served = serve((*member).clone());
        for (path, status, body) in *requests {
            let got = get(&served.address, "GET", path);
            assert_eq!((got.0, got.2.as_str()), (*status, *body), "{path}");
            if *status == 503 {
                assert!(got.1.contains("x-content-type-options: nosniff"), "{path}: {}", got.1);
            }
        }
    }
}

/// What both servers answer alike, a real etcd 3.5.1 says.
#[test]
fn pages_are_etcds() {
    let Some(etcd) = Etcd::V35.program("etcd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let words = [
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:1",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
    ];
    let mut real = start(command(&etcd, dir.path(), &words, &[]));
    let theirs = real.client_address();
    let ours = serve(Fake { leader: true, version: Some("3.7.0"), ..Fake::default() });
    for (method, path) in [
        ("GET", "/health"),
        ("POST", "/health"),
        ("HEAD", "/health"),
        ("PUT", "/health?serializable=true"),
        ("POST", "/version"),
        ("DELETE", "/version"),
        ("GET", "/nothing"),
        ("POST", "/nothing"),
    ] {
        let headers = |head: &str| -> Vec<String> {
            let kept = ["content-type:", "allow:", "x-content-type-options:"];
            let mut lines: Vec<String> =
                head.lines().filter(|l| kept.iter().any(|k| l.starts_with(k))).map(str::to_string).collect();
            lines.sort();
            lines
        };
        let (a, b) = (get(&theirs, method, path), get(&ours.address, method, path));
        assert_eq!((a.0, headers(&a.1), a.2), (b.0, headers(&b.1), b.2), "{method} {path}");
    }
}

/// gRPC and HTTP/1 share the port: a call of an unknown service gets gRPC's answer.
#[test]
fn grpc_on_the_same_port() {
    let served = serve(Fake::default());
    let status = served.runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", served.address)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut client = lockstep::proto::etcdserverpb::kv_client::KvClient::new(channel);
        client.range(lockstep::proto::etcdserverpb::RangeRequest::default()).await.unwrap_err()
    });
    assert_eq!((status.code(), status.message()), (tonic::Code::Unimplemented, "unknown service etcdserverpb.KV"));
    assert_eq!(get(&served.address, "GET", "/livez").0, 200);
}

#[test]
fn a_stop_is_bounded_and_kind() {
    let mut served = serve(Fake { local: Some("hang"), ..Fake::default() });
    let mut idle = TcpStream::connect(&served.address).unwrap();
    let mut busy = TcpStream::connect(&served.address).unwrap();
    write!(busy, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    served.stop.send(true).unwrap();
    served.runtime.block_on(&mut served.done).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(TcpStream::connect(&served.address).is_err(), "nobody listens any more");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "a request in flight was answered: {answer:?}");
    let mut nothing = Vec::new();
    assert_eq!(idle.read_to_end(&mut nothing).unwrap_or(0), 0);
}

#[test]
fn a_socket_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client:1");
    let listen = format!("--listen-client-urls=unix://{}", path.display());
    let words = [&listen, "--advertise-client-urls=http://h:1", "--listen-peer-urls=unix://peer:0"];
    for left_behind in [false, true] {
        let mut running = start(command(&lockstepd(), dir.path(), &words, &[]));
        assert_eq!(running.client_address(), path.to_str().unwrap());
        let got = request(&mut UnixStream::connect(&path).unwrap(), "GET", "/version", "");
        assert_eq!(got.0, 200, "{got:?}");
        assert!(got.2.contains(r#""etcdserver":"3.7.1""#), "{got:?}");
        // A second server neither takes the file over nor removes it.
        let second = crate::util::start::run_to_end(command(&lockstepd(), dir.path(), &words, &[]));
        assert!(second.stderr.contains("bind: address already in use"), "{}", second.stderr);
        assert!(UnixStream::connect(&path).is_ok());
        if left_behind {
            drop(running);
            assert!(path.exists(), "a killed server leaves its file, and the next start replaces it");
        } else {
            assert_eq!(running.terminate(Duration::from_secs(2)).unwrap().signal(), Some(15));
            assert!(!path.exists(), "a stopped server tidies up");
        }
    }
    let mut again = start(command(&lockstepd(), dir.path(), &words, &[]));
    again.client_address();
    drop(again);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let refused = crate::util::start::run_to_end(command(&lockstepd(), dir.path(), &words, &[]));
    assert!(refused.stderr.contains("a file that is no socket is in the way"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
