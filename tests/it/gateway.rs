//! The JSON gateway beside that of a real etcd: the same requests to both, and the same status, headers and bodies.
//!
//! Ids, terms and sizes are a server's own and masked; everything else is compared byte for byte, errors first of all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, http_get};

/// An answer, as far as the two servers must agree on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<String>,
    pub body: String,
}

/// What differs by its nature: the numbers under these names.
const OWN: [&str; 7] = ["cluster_id", "member_id", "raft_term", "hash", "ID", "leader", "compact_revision"];
const HEADERS: [&str; 8] = [
    "content-type",
    "x-content-type-options",
    "grpc-metadata-content-type",
    "location",
    "allow",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
];

pub fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket takes a time-out");
    stream
}

pub fn ask(url: &str, method: &str, path: &str, more: &str, body: &[u8]) -> Answer {
    let mut stream = connect(url);
    let host = if more.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
    let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {}\r\n", body.len());
    // In one piece: etcd may close on a body that comes after its answer.
    stream.write_all(&[head.as_bytes(), more.as_bytes(), b"\r\n", body].concat()).expect("the request is sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the answer is read");
    let text = String::from_utf8(bytes).expect("the answer is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("the answer has a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("the answer has a status");
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let lines = lines.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut headers: Vec<String> = lines
        .clone()
        .filter(|(name, _)| HEADERS.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    headers.sort();
    let chunked = lines.into_iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    Answer { status, headers, body: masked(&if chunked { unchunk(body) } else { body.to_owned() }) }
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

fn masked(body: &str) -> String {
    let mut out = body.to_owned();
    while let Some(at) = out.find("127.0.0.1:") {
        let end = at + "127.0.0.1:".len();
        let digits = out[end..].bytes().take_while(u8::is_ascii_digit).count();
        out.replace_range(at..end + digits, "ADDRESS");
    }
    for name in OWN {
        for open in [format!("\"{name}\":\""), format!("\"{name}\":")] {
            let mut from = 0;
            while let Some(at) = out[from..].find(&open) {
                let start = from + at + open.len();
                let digits = out[start..].bytes().take_while(u8::is_ascii_digit).count();
                if digits > 0 {
                    out.replace_range(start..start + digits, "#");
                }
                from = start;
            }
        }
    }
    out
}

/// Two servers, and where they did not agree.
pub struct Pair {
    pub etcd: Cluster,
    pub ours: Cluster,
    differences: Vec<String>,
}

impl Pair {
    pub fn start(flags: &[&str]) -> Option<Pair> {
        Pair::start_beside(Etcd::V35, flags)
    }

    pub fn start_beside(release: Etcd, flags: &[&str]) -> Option<Pair> {
        let [etcd, ours] = [Kind::Etcd(release), Kind::Lockstepd].map(|kind| {
            let mut cluster = Cluster::prepare(kind, 1, flags)?;
            cluster.members[0].spawn();
            Some(cluster)
        });
        let pair = Pair { etcd: etcd?, ours: ours.expect("lockstepd is built"), differences: Vec::new() };
        for cluster in [&pair.etcd, &pair.ours] {
            let deadline = Instant::now() + Duration::from_secs(60);
            // One that takes us for an intruder is up as well.
            let is_up = || matches!(http_get(&cluster.members[0].client_url(), "/health"), Some((200 | 421, _)));
            while !is_up() {
                assert!(Instant::now() < deadline, "{:?} with {flags:?}:\n{}", cluster.kind, cluster.members[0].log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Some(pair)
    }

    /// Asks both, and returns etcd's answer.
    pub fn ask(&mut self, method: &str, path: &str, more: &str, body: &[u8]) -> Answer {
        let [theirs, ours] = [&self.etcd, &self.ours].map(|c| {
            let mut answer = ask(&c.members[0].client_url(), method, path, more, body);
            // What is left of a lease is a matter of when one asks.
            answer.body = answer.body.replace("\"TTL\":\"99\"", "\"TTL\":\"100\"");
            answer
        });
        if ours != theirs {
            let body = String::from_utf8_lossy(&body[..body.len().min(200)]);
            self.differences.push(format!("{method} {path} {more:?} {body}\n etcd: {theirs:?}\n ours: {ours:?}"));
        }
        theirs
    }

    pub fn agree(&self) {
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n\n"));
    }
}

/// Path below `/v3/`, body. One after the other, on both.
const GOOD: &[(&str, &str)] = &[
    ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
    ("kv/put", r#"{"key":"Zm9v","value":"YmF6","prevKv":true}"#),
    ("kv/put", r#"{"key":"Zm9vMQ==","value":"","unknown":{"a":[1,2,{"b":null}]}}"#),
    ("kv/put", r#"{"key":"Zm9v\nMg==","value":[1,2,255]}"#),
    ("kv/put", r#"{"key":[],"key":"Zm9vMw==","lease":"0"}"#),
    ("kv/put", "  \n{\"key\" : \"Zm9vNA==\" , \"value\":null }  trailing"),
    ("kv/put", r#"{"key":"Zm9v","ignore_value":true}"#),
    ("kv/range", r#"{"key":"Zm9v"}"#),
    ("kv/range", r#"{"\u006bey":"Zm9\u0076"}"#),
    ("kv/range", r#"{"key":"Zm9v","range_end":"Zm9w"}"#),
    ("kv/range", r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":"2"}"#),
    ("kv/range", r#"{"key":"Zm9v","range_end":"Zm9w","rangeEnd":"Zm9vMQ==","limit":2}"#),
    ("kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sort_target":"MOD","keys_only":true}"#),
    ("kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":2,"sort_target":"3","count_only":false}"#),
    ("kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":1,"sort_target":3,"serializable":true}"#),
    ("kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#),
    ("kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
    ("kv/range", r#"{"key":"Zm9v","revision":"1000"}"#),
    (
        "kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"GREATER","version":"0"}],
        "success":[{"request_put":{"key":"dHhu","value":"MQ=="}},{"requestRange":{"key":"Zm9v"}}],
        "failure":[{"request_delete_range":{"key":"Zm9v"}}]}"#,
    ),
    (
        "kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":2,"create_revision":"0"}],
        "failure":[{"request_delete_range":{"key":"Zm9v","prev_kv":true}},
        {"request_txn":{"success":[{"request_put":{"key":"Yg=="}}]}}]}"#,
    ),
    ("kv/txn", r#"{"compare":[{"key":"Zm9v","target":"VERSION","version":0}]}"#),
    ("kv/txn", r#"{"success":[null]}"#),
    ("kv/txn", r#"{"success":[{"request_range":{"key":"YQ=="},"request_put":{"key":"YQ=="}}]}"#),
    ("kv/txn", "{}"),
    ("kv/txn", ""),
    ("kv/deleterange", r#"{"key":"Zm9vMQ==","prev_kv":true}"#),
    ("kv/deleterange", r#"{"key":"bm90aGluZw=="}"#),
    ("kv/compaction", r#"{"revision":"3","physical":true}"#),
    ("kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
    ("kv/compaction", r#"{"revision":"2"}"#),
    ("kv/compaction", r#"{"revision":"100000"}"#),
    ("cluster/member/list", "null"),
    ("maintenance/alarm", r#"{"action":"GET"}"#),
];

/// Bodies that `kv/range` refuses, or reads in a way of its own.
const BAD: &[&str] = &[
    "",
    " ",
    "null",
    "{}",
    "{",
    "}",
    "[",
    "[]",
    "\"x\"",
    "7",
    "-",
    "01",
    "1.",
    "1.x",
    "1e",
    "1e+",
    "-x",
    "true",
    "tru",
    "trux",
    "falsy",
    "nul",
    "nulx",
    "x",
    "'",
    "\u{e9}",
    "\u{7f}",
    "\u{1}",
    "{\"key\"",
    "{\"key\"}",
    "{\"key\":}",
    "{\"key\":\"Zm9v\"",
    "{\"key\":\"Zm9v\",}",
    "{\"key\":\"Zm9v\" \"x\"}",
    "{key:1}",
    "{,}",
    "[1 2]",
    "{\"key\":\"\u{1}\"}",
    "{\"key\":\"\\x\"}",
    "{\"key\":\"\\u12g4\"}",
    "{\"key\":\"\\ud800\"}",
    r#"{"key":5}"#,
    r#"{"key":{}}"#,
    r#"{"key":true}"#,
    r#"{"key":[1,"a"]}"#,
    r#"{"key":[256]}"#,
    r#"{"key":[-1]}"#,
    r#"{"key":"Z"}"#,
    r#"{"key":"Zm"}"#,
    r#"{"key":"Zm9"}"#,
    r#"{"key":"Zm9v!"}"#,
    r#"{"key":"Zm8"}"#,
    r#"{"key":"Zm8=x"}"#,
    r#"{"key":"Zg=="}"#,
    r#"{"key":"Zg=x"}"#,
    r#"{"key":"Zg="}"#,
    r#"{"key":"Zg==Zg=="}"#,
    r#"{"key":"Zg=\n="}"#,
    r#"{"key":"Zh=="}"#,
    r#"{"key":"_-8="}"#,
    r#"{"key":"====" }"#,
    r#"{"key":"Zm9v","limit":1.5}"#,
    r#"{"key":"Zm9v","limit":"1.5"}"#,
    r#"{"key":"Zm9v","limit":"1e1"}"#,
    r#"{"key":"Zm9v","limit":""}"#,
    r#"{"key":"Zm9v","limit":"x"}"#,
    r#"{"key":"Zm9v","limit":" 1 "}"#,
    r#"{"key":"Zm9v","limit":"1 2"}"#,
    r#"{"key":"Zm9v","limit":"null"}"#,
    r#"{"key":"Zm9v","limit":"true"}"#,
    r#"{"key":"Zm9v","limit":"[1]"}"#,
    r#"{"key":"Zm9v","limit":"{}"}"#,
    r#"{"key":"Zm9v","limit":"\"1\""}"#,
    r#"{"key":"Zm9v","limit":-0}"#,
    r#"{"key":"Zm9v","limit":9223372036854775808}"#,
    r#"{"key":"Zm9v","limit":[]}"#,
    r#"{"key":"Zm9v","limit":{}}"#,
    r#"{"key":"Zm9v","limit":true}"#,
    r#"{"key":"Zm9v","serializable":1}"#,
    r#"{"key":"Zm9v","serializable":"true"}"#,
    r#"{"key":"Zm9v","serializable":null}"#,
    r#"{"key":"Zm9v","sort_order":"UP"}"#,
    r#"{"key":"Zm9v","sort_order":"descend"}"#,
    r#"{"key":"Zm9v","sort_order":""}"#,
    r#"{"key":"Zm9v","sort_order":1.5}"#,
    r#"{"key":"Zm9v","sort_order":true}"#,
    r#"{"key":"Zm9v","sort_order":99999999999}"#,
    r#"{"key":"Zm9v","sort_order":[]}"#,
    r#"{"key":"Zm9v"} {"#,
    r#"{"Key":"Zm9v"}"#,
    r#"{"key":"Zm9v","key":5}"#,
    r#"{"key":5,"key":"Zm9v"}"#,
];

/// Path below `/v3/`, and bodies that it refuses.
const BAD_ELSEWHERE: &[(&str, &str)] = &[
    ("kv/txn", r#"{"compare":{}}"#),
    ("kv/txn", r#"{"compare":"x"}"#),
    ("kv/txn", r#"{"compare":[1]}"#),
    ("kv/txn", r#"{"compare":[[]]}"#),
    ("kv/txn", r#"{"compare":5,"success":6}"#),
    ("kv/txn", r#"{"success":5,"compare":"6"}"#),
    ("kv/txn", r#"{"compare":[{"target":"LEASES"}]}"#),
    ("kv/txn", r#"{"success":[{"request_put":[]}]}"#),
    ("kv/txn", r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#),
    ("kv/put", r#"{"key":"Zm9v","lease":"-"}"#),
    ("kv/put", r#"{"value":"Zm9v"}"#),
    ("kv/put", r#"{"key":"Zm9v","value":"Zm9v","ignore_value":true}"#),
    ("kv/compaction", r#"{"physical":"yes"}"#),
    ("cluster/member/add", r#"{"peerURLs":["x",5]}"#),
    ("cluster/member/add", r#"{"peerURLs":"x"}"#),
    ("cluster/member/remove", r#"{"ID":"-1"}"#),
    ("cluster/member/remove", r#"{"ID":-1}"#),
    ("watch", r#"{"create_request":{"key":5}}"#),
    ("watch", r#"{"create_request":{"filters":"NOPUT"}}"#),
    ("watch", "{"),
    ("watch", "[]"),
    ("lease/keepalive", "x"),
];

#[test]
fn gateway_answers_as_etcd_does() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    for (path, body) in GOOD {
        let answer = pair.ask("POST", &format!("/v3/{path}"), "", body.as_bytes());
        assert!(!answer.body.is_empty(), "{path} {body}");
    }
    for body in BAD {
        pair.ask("POST", "/v3/kv/range", "", body.as_bytes());
    }
    for body in [&b"{\"key\":\"Zm9v\xff\"}"[..], b"{\"\xff\":1,\"key\":\"Zm9v\"}", b"\xff", b"\xe9\x00"] {
        pair.ask("POST", "/v3/kv/range", "", body);
    }
    for (path, body) in BAD_ELSEWHERE {
        pair.ask("POST", &format!("/v3/{path}"), "", body.as_bytes());
    }
    // As deep as Go reads, and one deeper.
    for depth in [10_000, 10_001] {
        let value = format!("{{\"key\":\"Zm9v\",\"x\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        pair.ask("POST", "/v3/kv/range", "", value.as_bytes());
    }
    pair.agree();
}

/// Path below `/v3/`, body: leases, locks and elections, one after the other. Lease 7 is `7` in a lock's key.
const LEASES: &[(&str, &str)] = &[
    ("lease/grant", r#"{"TTL":"100","ID":"7"}"#),
    ("lease/grant", r#"{"TTL":100,"ID":8}"#),
    ("lease/grant", r#"{"TTL":"100","ID":"7"}"#),
    ("lease/grant", r#"{"TTL":"1"}"#),
    ("lease/grant", r#"{"TTL":"0","ID":"9"}"#),
    ("lease/grant", r#"{"TTL":"-5","ID":"9"}"#),
    ("lease/grant", r#"{"TTL":"9000000000","ID":"10"}"#),
    ("lease/grant", r#"{"TTL":"9000000001","ID":"11"}"#),
    ("lease/grant", r#"{"TTL":"9223372036854775807","ID":"11"}"#),
    ("lease/grant", r#"{"TTL":"100","ID":"-12"}"#),
    ("lease/grant", r#"{"ttl":"100"}"#),
    ("lease/grant", r#"{"TTL":"x"}"#),
    ("lease/grant", r#"{"TTL":{}}"#),
    ("lease/grant", ""),
    ("kv/put", r#"{"key":"Zm9v","value":"YmFy","lease":"7"}"#),
    ("kv/put", r#"{"key":"Zm9v","value":"YmFy","lease":"77"}"#),
    ("lease/timetolive", r#"{"ID":"7"}"#),
    ("lease/timetolive", r#"{"ID":"7","keys":true}"#),
    ("kv/lease/timetolive", r#"{"ID":"7","keys":true}"#),
    ("lease/timetolive", r#"{"ID":"77"}"#),
    ("lease/timetolive", r#"{}"#),
    ("lease/timetolive", r#"{"ID":[]}"#),
    ("lease/keepalive", r#"{"ID":"7"}"#),
    ("lease/keepalive", r#"{"ID":"7"}{"ID":"8"} {"ID":"77"}"#),
    ("lease/keepalive", r#"{"ID":"77"}"#),
    ("lease/keepalive", r#"{}"#),
    ("lease/keepalive", r#"{"ID":"y"}"#),
    ("lease/keepalive", ""),
    ("lease/revoke", r#"{"ID":"7"}"#),
    ("lease/revoke", r#"{"ID":"7"}"#),
    ("kv/lease/revoke", r#"{"ID":"8"}"#),
    ("kv/lease/revoke", r#"{"ID":true}"#),
    ("lease/revoke", "{}"),
    ("kv/range", r#"{"key":"Zm9v"}"#),
    ("lease/grant", r#"{"TTL":"100","ID":"7"}"#),
    ("lease/grant", r#"{"TTL":"100","ID":"8"}"#),
    ("lock/lock", r#"{"name":"bG9jaw==","lease":"7"}"#),
    ("lock/lock", r#"{"name":"bG9jaw==","lease":"7"}"#),
    ("lock/lock", r#"{"name":"bG9jaw==","lease":"77"}"#),
    ("lock/lock", r#"{"name":5,"lease":"7"}"#),
    ("lock/lock", r#"{"name":"bG9jaw==","lease":{}}"#),
    ("lock/unlock", r#"{"key":"bG9jay83"}"#),
    ("lock/unlock", r#"{"key":"bG9jay83"}"#),
    ("lock/unlock", "{}"),
    ("lock/unlock", r#"{"key":"%"}"#),
    ("lock/nothing", "{}"),
    ("election/leader", r#"{"name":"ZWxlY3Q="}"#),
    ("election/campaign", r#"{"name":"ZWxlY3Q=","lease":"8","value":"b25l"}"#),
    ("election/campaign", r#"{"name":"ZWxlY3Q=","lease":"8","value":"dHdv"}"#),
    ("election/campaign", r#"{"name":"ZWxlY3Q=","lease":"77","value":"b25l"}"#),
    ("election/campaign", r#"{"name":"ZWxlY3Q=","lease":"8","value":7}"#),
    ("election/leader", r#"{"name":"ZWxlY3Q="}"#),
    ("election/leader", "{}"),
    ("election/leader", r#"{"name":{}}"#),
    (
        "election/proclaim",
        r#"{"leader":{"name":"ZWxlY3Q=","key":"ZWxlY3QvOA==","rev":"1","lease":"8"},"value":"eA=="}"#,
    ),
    ("election/proclaim", "{}"),
    ("election/proclaim", r#"{"value":"eA=="}"#),
    ("election/proclaim", r#"{"leader":[],"value":"eA=="}"#),
    ("election/resign", r#"{"leader":{"name":"ZWxlY3Q=","key":"ZWxlY3QvOA==","rev":"1","lease":"8"}}"#),
    ("election/leader", r#"{"name":"ZWxlY3Q="}"#),
    ("election/resign", "{}"),
    ("election/resign", r#"{"leader":"x"}"#),
    ("election/resign", r#"{"leader":{"name":"ZWxlY3Q=","key":"bm90aGluZw==","rev":"1","lease":"8"}}"#),
];

#[test]
fn leases_locks_and_elections_as_etcd() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    for (path, body) in LEASES {
        pair.ask("POST", &format!("/v3/{path}"), "", body.as_bytes());
        pair.ask("GET", &format!("/v3/{path}"), "", b"");
    }
    // A leader that knows its key's revision may say something else, be seen to, and go.
    let campaign = r#"{"name":"dHdv","lease":"8","value":"b25l"}"#;
    let answer = pair.ask("POST", "/v3/election/campaign", "", campaign.as_bytes());
    let revision: String =
        answer.body.split("\"rev\":\"").nth(1).unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    let leader = format!(r#""leader":{{"name":"dHdv","key":"dHdvLzg=","rev":"{revision}","lease":"8"}}"#);
    for value in ["eA==", "eQ=="] {
        let proclaim = format!(r#"{{{leader},"value":"{value}"}}"#);
        let answer = pair.ask("POST", "/v3/election/proclaim", "", proclaim.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
        pair.ask("POST", "/v3/election/leader", "", br#"{"name":"dHdv"}"#);
        let body = r#"{"name":"dHdv"}"#;
        let [theirs, ours] = [&pair.etcd, &pair.ours]
            .map(|c| lines_of_stream(&c.members[0].client_url(), "/v3/election/observe", body, 1));
        assert_eq!(ours, theirs, "observe (left: lockstepd, right: etcd)");
    }
    pair.ask("POST", "/v3/election/observe", "", br#"{"name":5}"#);
    pair.ask("POST", "/v3/election/resign", "", format!("{{{leader}}}").as_bytes());
    pair.ask("POST", "/v3/election/leader", "", br#"{"name":"dHdv"}"#);
    pair.agree();
}

#[test]
fn paths_methods_and_headers_as_etcd() {
    let Some(mut pair) = Pair::start(&["--cors=http://a.example:8080,http://b.example:1"]) else { return };
    #[rustfmt::skip]
    let cases = [
        ("GET", "/v3/kv/range", ""), ("PUT", "/v3/kv/range", ""),
        ("POST", "/v3/nothing", ""), ("GET", "/v3/nothing", ""), ("POST", "/v3/kv/range/", ""),
        ("POST", "/v3/kv/range:x", ""), ("GET", "/v3", ""), ("POST", "/v3", ""), ("GET", "/v3/", ""),
        ("GET", "/v3//kv/range", ""), ("POST", "/v3/./kv/range", ""), ("POST", "/v3/kv/x/../range?a=b", ""),
        ("POST", "/v3beta/kv/range", ""), ("POST", "/v3beta/nothing", ""), ("POST", "/v3alpha/kv/range", ""),
        ("POST", "/v3/kv/range?key=Zm9v", ""), ("OPTIONS", "/v3/kv/range", ""), ("OPTIONS", "/anything", ""),
        ("POST", "/v3/kv/range", "Origin: http://a.example:8080\r\n"),
        ("POST", "/v3/kv/range", "Origin: http://b.example\r\n"),
        ("POST", "/v3/kv/range", "Origin: http://b.example:1\r\n"),
        ("OPTIONS", "/v3/kv/range", "Origin: http://a.example:8080\r\n"),
        ("POST", "/v3/kv/range", "Content-Type: application/x-www-form-urlencoded\r\n"),
        ("POST", "/v3/kv/range", "Content-Type: nonsense\r\nAccept: text/plain\r\n"),
        ("POST", "/v3/kv/range", "Grpc-Timeout: 5x\r\n"), ("POST", "/v3/kv/range", "Grpc-Timeout: 5S\r\n"),
        ("POST", "/v3/kv/range", "Grpc-Metadata-hasleader: true\r\n"),
        ("POST", "/", ""), ("GET", "/nothing", ""),
    ];
    for (method, path, more) in cases {
        pair.ask(method, path, more, br#"{"key":"Zm9v"}"#);
    }
    pair.agree();
}

/// Answers that are printed while they are read.
#[test]
fn long_answers_as_etcd() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    // 280,000 bytes each, of different texts and lengths.
    for (key, value) in [("Zm9v", "YmFyL"), ("Zm9vMQ==", "enl4W"), ("Zm9vMg==", "Zm9vY")] {
        let body = format!(r#"{{"key":"{key}","value":"{}"}}"#, value.repeat(56_000));
        pair.ask("POST", "/v3/kv/put", "", body.as_bytes());
    }
    let all = r#""key":"Zm9v","range_end":"Zm9w""#;
    let range = format!(r#"{{"request_range":{{{all}}}}}"#);
    let put = r#"{"request_put":{"key":"Zm9v","value":"YQ==","prev_kv":true}}"#;
    let nested = format!(r#"{{"request_txn":{{"success":[{range},{put}]}}}}"#);
    let delete = format!(r#"{{"request_delete_range":{{{all},"prev_kv":true}}}}"#);
    for (path, body) in [
        ("range", r#"{"key":"Zm9v"}"#.to_owned()),
        ("range", format!("{{{all}}}")),
        ("range", format!(r#"{{{all},"limit":"2"}}"#)),
        ("range", format!(r#"{{{all},"sort_order":"DESCEND","sort_target":"VALUE"}}"#)),
        ("txn", format!(r#"{{"success":[{range},{range}]}}"#)),
        ("txn", format!(r#"{{"success":[{range},{nested},{put}],"failure":[{put}]}}"#)),
        ("txn", format!(r#"{{"compare":[{{{all},"target":"VALUE","value":"YQ=="}}],"failure":[{range},{nested}]}}"#)),
        ("txn", format!(r#"{{"success":[{delete},{range}]}}"#)),
        ("deleterange", format!(r#"{{{all},"prev_kv":true}}"#)),
    ] {
        pair.ask("POST", &format!("/v3/kv/{path}"), "", body.as_bytes());
    }
    pair.agree();
}

/// Heads of requests as Go judges them.
#[test]
fn heads_are_accepted_and_refused_as_by_etcd() {
    let Some(pair) = Pair::start(&[]) else { return };
    let many = (0..900).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let many = format!("GET /health HTTP/1.1\r\nHost: x\r\n{many}");
    #[rustfmt::skip]
    let cases = [
        (many.as_str(), 200, ""),
        ("GET /health HTTP/1.1\r\n", 400, "400 Bad Request: missing required Host header"),
        ("GET http://x/health HTTP/1.1\r\n", 400, "400 Bad Request: missing required Host header"),
        ("OPTIONS /health HTTP/1.1\r\n", 400, "400 Bad Request: missing required Host header"),
        ("POST /v3/kv/range HTTP/1.1\r\nContent-Length: 0\r\n", 400, "400 Bad Request: missing required Host header"),
        ("GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400, "400 Bad Request: too many Host headers"),
        ("GET /nothing HTTP/1.0\r\nHost: x\r\nhost: y\r\n", 400, "400 Bad Request: too many Host headers"),
        ("GET /health HTTP/1.1\r\nHost: a b\r\n", 400, "400 Bad Request: malformed Host header"),
        ("GET /health HTTP/1.1\r\nHost:\r\n", 200, ""),
        ("GET /health HTTP/1.0\r\n", 200, ""),
        ("CONNECT x:1 HTTP/1.1\r\n", 404, "404 page not found\n"),
    ];
    for (head, status, body) in cases {
        for cluster in [&pair.etcd, &pair.ours] {
            let mut stream = connect(&cluster.members[0].client_url());
            write!(stream, "{head}Connection: close\r\n\r\n").expect("the request is sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("the answer is read");
            let (first, got) = (answer.split(' ').nth(1), answer.split("\r\n\r\n").nth(1));
            let is_body = got.is_some_and(|got| body.is_empty() || got == body);
            assert!(first == Some(&status.to_string()) && is_body, "{:?} {head}: {answer}", cluster.kind);
        }
    }
}

/// Nobody serves `Auth` yet; the gateway says it with gRPC's words.
#[test]
fn services_that_are_not_there_are_named() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("our own program");
    for path in ["auth/status", "auth/enable", "auth/user/list", "auth/role/grant"] {
        let answer = ask(&cluster.members[0].client_url(), "POST", &format!("/v3/{path}"), "", b"{}");
        let text = "unknown service etcdserverpb.Auth";
        let body = format!("{{\"error\":\"{text}\",\"code\":12,\"message\":\"{text}\"}}");
        assert_eq!((answer.status, answer.body), (501, body), "{path}");
    }
}

#[test]
fn hosts_and_origins_as_etcd() {
    #[rustfmt::skip]
    let hosts = [
        "localhost", "localhost:99", "good.example", "good.example:1", "bad.example", "bad.example:2379", "[::1]:5",
        "[::1]", "::1", "LOCALHOST", "Good.Example", "127.0.0.1", "127.0.0.1:x", "0.0.0.0", "", "*", "good.example.",
        "good.example:1:2", "10.0.0.1:2379",
    ];
    #[rustfmt::skip]
    let origins = [
        "", "*", "http://a.example:8080", "http://a.example", "HTTP://A.EXAMPLE:8080", "https://a.example:8080",
        "http://b.example:1", "http://b.example:1/", "https://c.example:1", "null", "nonsense",
    ];
    // What the two flags may be.
    let flags: [&[&str]; 7] = [
        &[],
        &["--host-whitelist="],
        &["--host-whitelist=*", "--cors=*"],
        &["--host-whitelist=127.0.0.1,localhost,::1,good.example", "--cors=http://a.example:8080,http://b.example:1"],
        &["--host-whitelist=good.example,*", "--cors=HTTP://A.example:8080,https://c.example:1"],
        &["--host-whitelist=127.0.0.1,localhost,good.example:1,[::1]", "--cors=http://b.example:1"],
        &["--host-whitelist=localhost,127.0.0.1, good.example,", "--cors=http://a.example:8080"],
    ];
    for flags in flags {
        let Some(mut pair) = Pair::start(flags) else { return };
        for host in hosts {
            let more = format!("Host: {host}\r\n");
            for (method, path) in [("POST", "/v3/kv/range"), ("OPTIONS", "/v3/kv/range"), ("GET", "/health")] {
                let answer = pair.ask(method, path, &more, br#"{"key":"Zm9v"}"#);
                let is_bad = host.starts_with("bad") && flags.first().is_some_and(|f| f.contains("127.0.0.1"));
                assert!(!is_bad || answer.status == 421, "{flags:?}: {host} on etcd: {}", answer.status);
            }
        }
        // No host at all; the name says so to `ask`.
        pair.ask("GET", "/health", "X-No-Host: 1\r\n", b"");
        for origin in origins {
            for method in ["POST", "OPTIONS"] {
                pair.ask(method, "/v3/kv/range", &format!("Origin: {origin}\r\n"), br#"{"key":"Zm9v"}"#);
            }
        }
        assert!(pair.differences.is_empty(), "{flags:?}\n{}", pair.differences.join("\n\n"));
    }
}

#[test]
fn gateway_can_be_switched_off() {
    let Some(mut pair) = Pair::start(&["--enable-grpc-gateway=false"]) else { return };
    for path in ["/v3/kv/range", "/v3beta/kv/range", "/v3/"] {
        let answer = pair.ask("POST", path, "", b"{}");
        assert_eq!(answer.status, 404);
    }
    pair.agree();
}

/// The first `count` lines of a stream that goes on, and the head's status.
fn lines_of_stream(url: &str, path: &str, body: &str, count: usize) -> (u16, Vec<String>) {
    let mut stream = connect(url);
    write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    let mut status = 0;
    let mut line = String::new();
    while lines.len() < count && reader.read_line(&mut line).expect("the stream goes on") > 0 {
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if line.starts_with('{') {
            lines.push(masked(line.trim_end()));
        }
        line.clear();
    }
    (status, lines)
}

#[test]
fn streams_answer_line_by_line() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    for value in ["MQ==", "Mg=="] {
        pair.ask("POST", "/v3/kv/put", "", format!(r#"{{"key":"Zm9v","value":"{value}"}}"#).as_bytes());
    }
    pair.agree();
    let cases = [
        (r#"{"create_request":{"key":"Zm9v","start_revision":2}}"#, 2),
        (r#"{"create_request":{"key":"Zm9v"}} {"createRequest":{"key":"Zm9w","watch_id":"7"}}"#, 2),
        (r#"{"create_request":{"key":"Zm9v","start_revision":"2","filters":["NOPUT"],"prev_kv":true}}"#, 1),
        (r#"{"create_request":{"key":"Zm9v"}}{"cancel_request":{}}"#, 2),
    ];
    for (body, count) in cases {
        let [theirs, ours] =
            [&pair.etcd, &pair.ours].map(|c| lines_of_stream(&c.members[0].client_url(), "/v3/watch", body, count));
        assert_eq!(ours, theirs, "{body} (left: lockstepd, right: etcd)");
    }
}

#[test]
fn bodies_have_a_limit_and_others_are_served() {
    let ours = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is built");
    let url = ours.members[0].client_url();
    // A body without end: refused once it is larger than any request may be.
    let mut stream = connect(&url);
    write!(stream, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    write!(stream, "f\r\n{{\"key\":\"Zm9v\",\"\r\n").unwrap();
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(piece.as_bytes()).is_ok() {
        sent += piece.len();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(sent < 32 << 20, "{sent} bytes were taken: {answer}");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 429"), "{answer}");
    let large = format!("{{\"key\":\"Zm9v\",\"value\":\"{}\"}}", "AAAA".repeat(1 << 19));
    let refused = ask(&url, "POST", "/v3/kv/put", "", large.as_bytes());
    assert_eq!((refused.status, refused.body.contains("too large")), (400, true), "{}", refused.body);
    assert_eq!(ask(&url, "POST", "/v3/kv/put", "", br#"{"key":"Zm9v"}"#).status, 200);
}
