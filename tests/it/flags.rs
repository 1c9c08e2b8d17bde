//! Flags, variables and URLs: the same words to `lockstepd` and to a real etcd 3.5.1 end in the same code and
//! complaint.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use lockstep::member::membership::ids::{cluster_id, member_id};
use lockstep::server::config::{self, Config, Note, Stop};
use lockstep::server::log::{LogFormat, LogLevel, LogOutput};
use serde_json::Value;

use crate::util::oracle::Etcd;
use crate::util::start::{command, lockstepd, run_to_end, start};

/// Ports nobody else has, for starts that come as far as binding.
const FREE: &str = "--listen-client-urls=http://127.0.0.1:0 --listen-peer-urls=http://127.0.0.1:0 \
                    --advertise-client-urls=http://127.0.0.1:1";

/// Who has to say so.
#[derive(PartialEq)]
enum By {
    /// Both, in the same words.
    Both,
    /// Ours only: etcd 3.5.1 has no such flag, can do it, or panics.
    Ours,
}
use By::{Both, Ours};

/// Words (`$FREE` stands for [`FREE`], `''` for an empty word), variables, exit code, complaint.
type Refusal = (By, &'static str, &'static [(&'static str, &'static str)], i32, &'static str);

#[rustfmt::skip]
const REFUSALS: &[Refusal] = &[
    // Go's flag syntax.
    (Both, "-foo", &[], 2, "flag provided but not defined: -foo"),
    (Both, "--foo=x", &[], 2, "flag provided but not defined: -foo"),
    (Both, "--foo --help", &[], 2, "flag provided but not defined: -foo"),
    (Both, "---foo", &[], 2, "bad flag syntax: ---foo"),
    (Both, "--=x", &[], 2, "bad flag syntax: --=x"),
    (Both, "--name", &[], 2, "flag needs an argument: -name"),
    (Both, "--version=false --name", &[], 2, "flag needs an argument: -name"),
    (Both, "--heartbeat-interval x", &[], 2, "invalid value \"x\" for flag -heartbeat-interval: parse error"),
    (Both, "--heartbeat-interval=-5", &[], 2, "invalid value \"-5\" for flag -heartbeat-interval: parse error"),
    (Both, "--cors=", &[], 2, "invalid value \"\" for flag -cors: URL scheme must be http, https, unix, or unixs: "),
    (Both, "--heartbeat-interval ''", &[], 2, "invalid value \"\" for flag -heartbeat-interval: parse error"),
    (Both, "--heartbeat-interval 09", &[], 2, "invalid value \"09\" for flag -heartbeat-interval: parse error"),
    (Both, "--heartbeat-interval 1__0", &[], 2, "invalid value \"1__0\" for flag -heartbeat-interval: parse error"),
    (Both, "--heartbeat-interval 99999999999999999999", &[], 2, "invalid value \"99999999999999999999\" for flag -heartbeat-interval: value out of range"),
    (Both, "--pre-vote=maybe", &[], 2, "invalid boolean value \"maybe\" for -pre-vote: parse error"),
    (Both, "--version=x", &[], 2, "invalid boolean value \"x\" for -version: parse error"),
    (Both, "--pre-vote false", &[], 1, "'false' is not a valid flag"),
    (Both, "positional", &[], 1, "'positional' is not a valid flag"),
    (Both, "-- x", &[], 1, "'x' is not a valid flag"),
    (Both, "-", &[], 1, "'-' is not a valid flag"),
    (Both, "--version extra", &[], 1, "'extra' is not a valid flag"),
    (Both, "--peer-heartbeat-interval 3", &[], 1, "'3' is not a valid flag"),
    (Both, "--grpc-keepalive-interval 5", &[], 2, "invalid value \"5\" for flag -grpc-keepalive-interval: parse error"),
    (Both, "--grpc-keepalive-interval 5q", &[], 2, "invalid value \"5q\" for flag -grpc-keepalive-interval: parse error"),
    (Both, "--quota-backend-bytes 1.5", &[], 2, "invalid value \"1.5\" for flag -quota-backend-bytes: parse error"),
    (Both, "--initial-cluster-state bad", &[], 2, "invalid value \"bad\" for flag -initial-cluster-state: invalid value"),
    (Both, "--proxy x", &[], 2, "invalid value \"x\" for flag -proxy: invalid value"),
    (Both, "--snapshot-count x", &[], 2, "invalid value \"x\" for flag -snapshot-count: parse error"),
    (Both, "--max-txn-ops=-1", &[], 2, "invalid value \"-1\" for flag -max-txn-ops: parse error"),
    // URLs.
    (Both, "--listen-client-urls foo", &[], 2, "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo"),
    (Both, "--listen-client-urls ftp://127.0.0.1:1", &[], 2, "invalid value \"ftp://127.0.0.1:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"),
    (Both, "--listen-client-urls localhost:2379", &[], 2, "invalid value \"localhost:2379\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: localhost:2379"),
    (Both, "--listen-client-urls 127.0.0.1:2379", &[], 2, "invalid value \"127.0.0.1:2379\" for flag -listen-client-urls: parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon"),
    (Both, "--listen-client-urls http://127.0.0.1:1/path", &[], 2, "invalid value \"http://127.0.0.1:1/path\" for flag -listen-client-urls: URL must not contain a path: http://127.0.0.1:1/path"),
    (Both, "--listen-client-urls http://127.0.0.1:1/", &[], 2, "invalid value \"http://127.0.0.1:1/\" for flag -listen-client-urls: URL must not contain a path: http://127.0.0.1:1/"),
    (Both, "--listen-client-urls http://127.0.0.1", &[], 2, "invalid value \"http://127.0.0.1\" for flag -listen-client-urls: URL address does not have the form \"host:port\": http://127.0.0.1"),
    (Both, "--listen-client-urls http://::1:1", &[], 2, "invalid value \"http://::1:1\" for flag -listen-client-urls: URL address does not have the form \"host:port\": http://::1:1"),
    (Both, "--listen-client-urls http:127.0.0.1:1", &[], 2, "invalid value \"http:127.0.0.1:1\" for flag -listen-client-urls: URL address does not have the form \"host:port\": http:127.0.0.1:1"),
    (Both, "--listen-client-urls http://127.0.0.1:x", &[], 2, "invalid value \"http://127.0.0.1:x\" for flag -listen-client-urls: parse \"http://127.0.0.1:x\": invalid port \":x\" after host"),
    (Both, "--listen-client-urls http://127.0.0.1:%zz", &[], 2, "invalid value \"http://127.0.0.1:%zz\" for flag -listen-client-urls: parse \"http://127.0.0.1:%zz\": invalid port \":%zz\" after host"),
    (Both, "--listen-client-urls http://%zz:1", &[], 2, "invalid value \"http://%zz:1\" for flag -listen-client-urls: parse \"http://%zz:1\": invalid URL escape \"%zz\""),
    (Both, "--listen-client-urls http://a|b:1", &[], 2, "invalid value \"http://a|b:1\" for flag -listen-client-urls: parse \"http://a|b:1\": invalid character \"|\" in host name"),
    (Both, "--listen-client-urls http://[::1:1", &[], 2, "invalid value \"http://[::1:1\" for flag -listen-client-urls: parse \"http://[::1:1\": missing ']' in host"),
    (Both, "--listen-client-urls ://", &[], 2, "invalid value \"://\" for flag -listen-client-urls: parse \"://\": missing protocol scheme"),
    (Both, "--listen-client-urls http://127.0.0.1:1,", &[], 2, "invalid value \"http://127.0.0.1:1,\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: "),
    (Both, "--advertise-client-urls http://foo:1/x", &[], 2, "invalid value \"http://foo:1/x\" for flag -advertise-client-urls: URL must not contain a path: http://foo:1/x"),
    (Both, "--listen-client-urls http://example.com:1 --advertise-client-urls http://h:1", &[], 1, "expected IP in URL for binding (http://example.com:1)"),
    (Both, "--listen-client-urls http://:1 --advertise-client-urls http://h:1", &[], 1, "expected IP in URL for binding (http://:1)"),
    (Both, "--listen-peer-urls http://example.com:1", &[], 1, "expected IP in URL for binding (http://example.com:1)"),
    (Both, "--listen-metrics-urls http://example.com:2", &[], 1, "expected IP in URL for binding (http://example.com:2)"),
    (Both, "--listen-client-urls http://127.0.0.1:0", &[], 1, "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
    (Both, "--listen-client-urls ''", &[], 1, "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
    (Both, "--initial-advertise-peer-urls http://:1", &[], 1, "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))"),
    (Both, "--advertise-client-urls http://:1", &[], 1, "--advertise-client-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))"),
    (Both, "--listen-client-urls http://127.0.0.1:99999 --advertise-client-urls http://h:1 --listen-peer-urls http://127.0.0.1:0", &[], 1, "listen tcp: address 99999: invalid port"),
    (Both, "--listen-client-urls https://127.0.0.1:0 --advertise-client-urls http://h:1 --listen-peer-urls http://127.0.0.1:0", &[], 1, "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:0 with HTTPS scheme"),
    (Both, "--listen-client-urls http://198.51.100.7:1 --advertise-client-urls http://h:1 --listen-peer-urls http://127.0.0.1:0", &[], 1, "listen tcp 198.51.100.7:1: bind: cannot assign requested address"),
    // Times.
    (Both, "--heartbeat-interval 0", &[], 1, "--heartbeat-interval must be >0 (set to 0ms)"),
    (Both, "--election-timeout 0", &[], 1, "--election-timeout must be >0 (set to 0ms)"),
    (Both, "--election-timeout 499", &[], 1, "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
    (Both, "--election-timeout 50001", &[], 1, "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
    (Both, "--auto-compaction-mode x", &[], 1, "unknown auto-compaction-mode \"x\""),
    (Both, "$FREE --auto-compaction-mode= --auto-compaction-retention 1h", &[], 1, "unsupported compaction mode "),
    (Both, "$FREE --auto-compaction-mode= --auto-compaction-retention=-1h", &[], 1, "unsupported compaction mode "),
    // Logging.
    (Both, "--logger capnslog", &[], 1, "--logger=capnslog is removed in v3.5"),
    (Both, "--logger bad", &[], 1, "unknown logger option \"bad\""),
    (Both, "--log-outputs default,stderr", &[], 1, "multi logoutput for \"default\" is not supported yet"),
    (Both, "--log-outputs ''", &[], 1, "couldn't open sink \"\": open : no such file or directory"),
    (Both, "--log-outputs /nonexistent/x", &[], 1, "couldn't open sink \"/nonexistent/x\": open /nonexistent/x: no such file or directory"),
    (Ours, "--log-level bad", &[], 1, "unrecognized level: \"bad\""),
    (Ours, "--log-format bad", &[], 1, "unknown log format: bad, supported values json, console"),
    // Variables.
    (Both, "--name a", &[("ETCD_NAME", "a")], 1, "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)) ETCD_NAME"),
    (Both, "-name=a", &[("ETCD_NAME", "")], 1, "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)) ETCD_NAME"),
    (Both, "", &[("ETCD_HEARTBEAT_INTERVAL", "x")], 1, "invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error"),
    (Both, "", &[("ETCD_PRE_VOTE", "maybe")], 1, "invalid value \"maybe\" for ETCD_PRE_VOTE: parse error"),
    (Both, "", &[("ETCD_INITIAL_CLUSTER_STATE", "bad")], 1, "invalid value \"bad\" for ETCD_INITIAL_CLUSTER_STATE: invalid value"),
    (Both, "", &[("ETCD_PRE_VOTE", "x"), ("ETCD_ELECTION_TIMEOUT", "x")], 1, "invalid value \"x\" for ETCD_PRE_VOTE: parse error"),
    (Both, "--name a", &[("ETCD_FOO", "a"), ("ETCD_LISTEN_CLIENT_URLS", "foo")], 1, "invalid value \"foo\" for ETCD_LISTEN_CLIENT_URLS: URL scheme must be http, https, unix, or unixs: foo"),
    // The initial cluster.
    (Both, "$FREE --name x --initial-cluster y=http://127.0.0.1:1", &[], 1, "couldn't find local name \"x\" in the initial cluster configuration"),
    (Both, "$FREE --initial-cluster ''", &[], 1, "couldn't find local name \"default\" in the initial cluster configuration"),
    (Both, "$FREE --initial-cluster =http://127.0.0.1:1", &[], 1, "couldn't find local name \"default\" in the initial cluster configuration"),
    (Both, "$FREE --initial-cluster foo", &[], 1, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "),
    (Both, "$FREE --initial-cluster default=", &[], 1, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "),
    (Both, "$FREE --initial-cluster default=http://127.0.0.1", &[], 1, "error setting up initial cluster: URL address does not have the form \"host:port\": http://127.0.0.1"),
    (Both, "$FREE --initial-cluster default=http://127.0.0.1:1", &[], 1, "--initial-cluster has default=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://localhost:2380 (\"http://localhost:2380\"(resolved from \"http://localhost:2380\") != \"http://127.0.0.1:1\"(resolved from \"http://127.0.0.1:1\"))"),
    (Both, "$FREE --initial-advertise-peer-urls http://127.0.0.1:2", &[], 1, "--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://127.0.0.1:2 (\"http://127.0.0.1:2\"(resolved from \"http://127.0.0.1:2\") != \"http://localhost:2380\"(resolved from \"http://localhost:2380\"))"),
    (Both, "$FREE --initial-advertise-peer-urls http://127.0.0.1:1 --initial-cluster default=http://127.0.0.1:1,default=http://127.0.0.1:2", &[], 1, "--initial-cluster has default=http://127.0.0.1:2 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1 (len([\"http://127.0.0.1:1\"]) != len([\"http://127.0.0.1:1\" \"http://127.0.0.1:2\"]))"),
    (Both, "$FREE --initial-advertise-peer-urls http://127.0.0.1:1,http://127.0.0.1:3 --initial-cluster default=http://127.0.0.1:1", &[], 1, "--initial-advertise-peer-urls has http://127.0.0.1:3 but missing from --initial-cluster=default=http://127.0.0.1:1,default=http://127.0.0.1:3"),
    (Both, "$FREE --initial-advertise-peer-urls http://127.0.0.1:1 --initial-cluster default=http://127.0.0.1:1,b=http://127.0.0.1:1", &[], 1, "initial cluster b=http://127.0.0.1:1,default=http://127.0.0.1:1 has duplicate url"),
    // What is not there yet.
    (Both, "$FREE --initial-cluster-state existing --name x --initial-cluster y=http://127.0.0.1:1", &[], 1, "couldn't find local name \"x\" in the initial cluster configuration"),
    (Ours, "--cert-file x", &[], 1, "\"--cert-file\" is not supported yet: it was given on the command line; leave it at its default (unset)"),
    (Ours, "", &[("ETCD_DISCOVERY", "x")], 1, "\"--discovery\" is not supported yet: it was given as ETCD_DISCOVERY; leave it at its default (unset)"),
    (Ours, "--strict-reconfig-check=maybe", &[], 2, "invalid boolean value \"maybe\" for -strict-reconfig-check: parse error"),
    (Both, "--auto-compaction-retention x", &[], 1, "error parsing CompactionRetention: time: invalid duration \"x\""),
    (Ours, "--config-file x --name", &[], 2, "flag needs an argument: -name"),
    (Ours, "--config-file x", &[], 1, "\"--config-file\" is not supported yet: use flags or ETCD_* variables"),
    (Ours, "", &[("ETCD_CONFIG_FILE", "x"), ("ETCD_PRE_VOTE", "maybe")], 1, "\"--config-file\" is not supported yet: use flags or ETCD_* variables"),
    (Ours, "gateway start", &[], 1, "\"gateway\" is not supported yet"),
    (Ours, "grpc-proxy start", &[], 1, "\"grpc-proxy\" is not supported yet"),
    (Ours, "--debug", &[], 1, "\"--debug\" was removed from etcd, use --log-level=debug"),
];

#[test]
fn refusals_are_etcds() {
    let etcd = Etcd::V35.program("etcd");
    let mut wrong = Vec::new();
    for (by, words, env, code, says) in REFUSALS {
        let expected = (Some(*code), says.to_string());
        let ours = complaint(&lockstepd(), words, env);
        if ours != expected {
            wrong.push(format!("{words} {env:?}\n  ours {ours:?}\n  want {expected:?}"));
        }
        if let (Both, Some(etcd)) = (by, &etcd) {
            let theirs = complaint(etcd, words, env);
            if theirs != expected {
                wrong.push(format!("{words} {env:?}\n  etcd {theirs:?}\n  want {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), REFUSALS.len(), wrong.join("\n"));
}

/// Directories are taken from where the server is started, be they bare names or not.
#[test]
fn directories_beside_the_caller() {
    for (data, log) in [("data", "log"), ("./data", "./log"), ("a/data", "a/b/log")] {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("$FREE --data-dir {data} --wal-dir {log}");
        let words = words(&text);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for _ in ["new", "restarted"] {
            let mut running = start(command(&lockstepd(), dir.path(), &words, &[]));
            running.client_address();
            assert!(running.terminate(Duration::from_secs(2)).is_some());
        }
        let segments = std::fs::read_dir(dir.path().join(log)).unwrap();
        assert!(segments.flatten().any(|e| e.path().extension().is_some_and(|x| x == "seg")), "{text}");
        assert!(!dir.path().join(data).join("member/wal").exists(), "{text}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let words = format!(
        "--listen-client-urls http://{address} --advertise-client-urls http://h:1 --listen-peer-urls http://127.0.0.1:0"
    );
    let expected = (Some(1), format!("listen tcp {address}: bind: address already in use"));
    assert_eq!(complaint(&lockstepd(), &words, &[]), expected);
    if let Some(etcd) = Etcd::V35.program("etcd") {
        assert_eq!(complaint(&etcd, &words, &[]), expected);
    }
}

#[test]
fn help_and_version() {
    let dir = tempfile::tempdir().unwrap();
    for words in [&["--version"][..], &["-version=true"], &["--name", "a", "--version"]] {
        let ended = run_to_end(command(&lockstepd(), dir.path(), words, &[("ETCD_NAME", "b")]));
        let first: Vec<&str> = ended.stdout.lines().map(|l| l.split(':').next().unwrap()).collect();
        assert_eq!(first, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "lockstepd Version"]);
        assert!(ended.stdout.starts_with("etcd Version: 3.7.1\n"), "{}", ended.stdout);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    }
    for words in [&["--help"][..], &["-h"], &["-h=1"], &["--help=false", "x"], &["--name", "a", "--help", "--foo"]] {
        let ended = run_to_end(command(&lockstepd(), dir.path(), words, &[]));
        assert_eq!(ended.code, Some(0));
        assert!(ended.stderr.starts_with("Usage:\n\n  lockstepd [flags]\n"), "{}", ended.stderr);
        assert!(ended.stdout.contains("  --snapshot-count '10000'\n"), "{}", ended.stdout);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "help and version leave nothing behind");
}

/// Every flag that a real etcd prints in its help is known here.
#[test]
fn every_flag_of_etcds_help_is_known() {
    let mut unknown = Vec::new();
    for (etcd, gone) in [(Etcd::V34, &["--debug"][..]), (Etcd::V35, &[])] {
        let Some(program) = etcd.program("etcd") else { continue };
        let dir = tempfile::tempdir().unwrap();
        let help = run_to_end(command(&program, dir.path(), &["--help"], &[])).stdout;
        let flags: Vec<&str> =
            help.lines().filter_map(|l| l.strip_prefix("  --")).filter_map(|l| l.split(' ').next()).collect();
        assert!(flags.len() > 70, "{help}");
        for flag in flags {
            let Err(failed) = config::load(&words(&format!("--{flag}=\u{1}")), &[]) else { continue };
            if let Stop::Usage(text) = &failed.stop
                && text.contains("not defined")
                && !gone.contains(&flag)
            {
                unknown.push(flag.to_string());
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn values() {
    let check = |words_: &str, env: &[(&str, &str)], expect: &dyn Fn(&Config) -> bool| {
        let config = load(words_, env).0;
        assert!(expect(&config), "{words_} {env:?}: {config:#?}");
    };
    check("", &[], &|c| c.name == "default" && c.data_dir.as_os_str() == "default.etcd" && c.wal_dir.is_none());
    check("", &[], &|c| (c.heartbeat_ms, c.election_ms, c.snapshot_count) == (100, 1000, 10_000));
    check("", &[], &|c| (c.max_request_bytes, c.max_txn_ops) == (1_572_864, 128) && c.pre_vote && !c.unsafe_no_fsync);
    check("", &[], &|c| (c.grpc_keepalive_interval_ms, c.grpc_keepalive_timeout_ms) == (7_200_000, 20_000));
    check("", &[], &|c| c.max_concurrent_streams == u32::MAX && c.initial_cluster_token == "etcd-cluster");
    check("", &[], &|c| texts(&c.listen_client_urls) == ["http://localhost:2379"]);
    check("-name x", &[], &|c| c.name == "x" && c.data_dir.as_os_str() == "x.etcd");
    check("-name x", &[], &|c| c.initial_cluster == "x=http://localhost:2380");
    check("--name=x=y --name z", &[], &|c| c.name == "z");
    check("--name=x=y", &[], &|c| c.name == "x=y");
    check("", &[("ETCD_NAME", "e"), ("ETCD_DATA_DIR", "d"), ("ETCD_PRE_VOTE", "f")], &|c| {
        c.name == "e" && c.data_dir.as_os_str() == "d" && !c.pre_vote
    });
    check("--data-dir d --wal-dir w", &[], &|c| {
        c.wal_path().as_os_str() == "w" && c.db_path().as_os_str() == "d/member/snap/db"
    });
    check("--data-dir d", &[], &|c| c.wal_path().as_os_str() == "d/member/wal");
    check("--heartbeat-interval 0x10", &[], &|c| c.heartbeat_ms == 16);
    check("--heartbeat-interval 1_00", &[], &|c| c.heartbeat_ms == 100);
    check("--heartbeat-interval 0144", &[], &|c| c.heartbeat_ms == 100);
    check("--pre-vote=T --pre-vote=0 --unsafe-no-fsync", &[], &|c| !c.pre_vote && c.unsafe_no_fsync);
    check("--grpc-keepalive-interval 1.5h30m2ms", &[], &|c| c.grpc_keepalive_interval_ms == 7_200_002);
    check("--grpc-keepalive-interval=-1s", &[], &|c| c.grpc_keepalive_interval_ms == 0);
    check("--advertise-client-urls https://a:1,http://z:1,http://b:1,http://z:1", &[], &|c| {
        texts(&c.advertise_client_urls) == ["http://b:1", "http://z:1", "https://a:1"]
    });
    check("--advertise-client-urls HTTP://Host:80", &[], &|c| texts(&c.advertise_client_urls) == ["http://Host:80"]);
    check("--advertise-client-urls unix:///run/x.sock", &[], &|c| {
        c.advertise_client_urls[0].socket_path() == "/run/x.sock"
    });
    check("--listen-client-urls unix://localhost:1 --advertise-client-urls unix://localhost:1", &[], &|c| {
        c.listen_client_urls[0].socket_path() == "localhost:1"
    });
    check("--advertise-client-urls ''", &[], &|c| texts(&c.advertise_client_urls) == ["http://localhost:2379"]);
    check("--listen-peer-urls http://[::1]:0", &[], &|c| c.listen_peer_urls[0].host_port() == ("::1", "0"));
    check("--log-level WARN --log-format console --log-outputs stdout,stderr,f,f", &[], &|c| {
        c.log.level == LogLevel::Warn
            && c.log.format == LogFormat::Console
            && c.log.outputs == [LogOutput::File("f".to_string()), LogOutput::Stderr, LogOutput::Stdout]
    });
    check("--auto-compaction-mode= --auto-compaction-retention 5", &[], &|c| c.auto_compaction.is_none());
    // Inert at their defaults, however they are written, and harmless anyway.
    check("--enable-v2=false --quota-backend-bytes 2147483648 --auto-compaction-retention 0h --cors=*", &[], &|_| true);
    check("--corrupt-check-time=0 --max-wals 7 --snapshot=x --vv --discovery-fallback proxy", &[], &|_| true);
}

#[test]
fn what_is_noticed() {
    let check = |words_: &str, env: &[(&str, &str)], expected: &[Note]| {
        let notes = load(words_, env).1;
        assert_eq!(notes, expected, "{words_} {env:?}");
    };
    let default_dir = || Note::DataDirDefault("default.etcd".to_string());
    let unknown = |text: &str| Note::UnrecognizedEnv(text.to_string());
    check("--data-dir d --max-request-bytes 10485760", &[], &[]);
    check("--data-dir d --max-request-bytes 10485761", &[], &[Note::LargeRequests(10_485_761)]);
    check("", &[], &[default_dir()]);
    check(
        "",
        &[("ETCD_FOO", "a=b"), ("ETCDCTL_API", "3"), ("ETCD_", "x"), ("HOME", "/")],
        &[unknown("ETCD_FOO=a=b"), unknown("ETCD_=x"), default_dir()],
    );
    check(
        "",
        &[("ETCD_HEARTBEAT_INTERVAL", ""), ("ETCD_VERSION", "1")],
        &[
            Note::SpecialEnv { key: "ETCD_VERSION".to_string(), value: "1".to_string() },
            unknown("ETCD_HEARTBEAT_INTERVAL="),
            default_dir(),
        ],
    );
    check(
        "--data-dir d --max-wals 7 --force",
        &[],
        &[Note::Ignored("force".to_string()), Note::NoEffect("max-wals".to_string())],
    );
    check(
        "",
        &[("ETCD_DATA_DIR", "d"), ("ETCD_DISCOVERY_PASSWORD", "secret")],
        &[
            Note::UsedEnv { name: "ETCD_DATA_DIR".to_string(), value: "d".to_string() },
            Note::UsedEnv { name: "ETCD_DISCOVERY_PASSWORD".to_string(), value: "***".to_string() },
            Note::NoEffect("discovery-password".to_string()),
        ],
    );
}

/// Ids that real clusters have.
#[test]
fn ids_are_etcds() {
    let first = member_id(&["https://192.168.116.15:2380".to_string()], "etcd-cluster");
    let second = member_id(&["https://192.168.116.16:2380".to_string()], "etcd-cluster");
    assert_eq!((first, second), (0xb577_9181_c59c_3700, 0x38e6_77eb_51b6_e690));
    assert_eq!(cluster_id(&[first, second]), 0x9082_02c1_add7_82e4);
    assert_eq!(cluster_id(&[second, first]), 0x9082_02c1_add7_82e4);

    let alone = load("", &[]).0.bootstrap().unwrap();
    assert_eq!((alone.local_id, alone.cluster_id), (0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32));

    let words = "--name b --initial-advertise-peer-urls https://192.168.116.16:2380 \
                 --initial-cluster a=https://192.168.116.15:2380,b=https://192.168.116.16:2380";
    let two = load(words, &[]).0.bootstrap().unwrap();
    assert_eq!((two.local_id, two.cluster_id), (second, 0x9082_02c1_add7_82e4));
    assert_eq!(two.members.iter().map(|m| (m.id, m.name.as_str())).collect::<Vec<_>>(), [(second, "b"), (first, "a")]);
}

/// The ids of members with several URLs, other tokens and odd spellings, against what a real etcd logs for itself.
#[test]
fn ids_agree_with_a_running_etcd() {
    let Some(etcd) = Etcd::V35.program("etcd") else { return };
    for words in [
        "--name x --initial-cluster-token other",
        "--initial-advertise-peer-urls http://127.0.0.2:2,HTTP://127.0.0.1:80 \
         --initial-cluster default=http://127.0.0.2:2,default=http://127.0.0.1:80",
        "--name n --initial-advertise-peer-urls https://[::1]:1 --initial-cluster m=unix://h:1,n=https://[::1]:1",
    ] {
        let words = format!("{FREE} {words}");
        let ours = load(&words, &[]).0.bootstrap().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let split = self::words(&words);
        let split: Vec<&str> = split.iter().map(String::as_str).collect();
        let line = start(command(&etcd, dir.path(), &split, &[])).line("starting local member");
        let expected = (format!("{:x}", ours.local_id), format!("{:x}", ours.cluster_id));
        let theirs = (line["local-member-id"].as_str().unwrap(), line["cluster-id"].as_str().unwrap());
        assert_eq!((expected.0.as_str(), expected.1.as_str()), theirs, "{words}");
    }
}

/// Default advertised URLs follow the host's address when a member listens on `0.0.0.0`, as in a real etcd.
#[test]
fn the_hosts_own_address() {
    let Some(etcd) = Etcd::V35.program("etcd") else { return };
    let words = "--name x --listen-peer-urls http://0.0.0.0:0 --listen-client-urls http://0.0.0.0:0 \
                 --advertise-client-urls http://localhost:2379";
    let (ours, _) = load(words, &[]);
    let dir = tempfile::tempdir().unwrap();
    let split = self::words(words);
    let split: Vec<&str> = split.iter().map(String::as_str).collect();
    let line = start(command(&etcd, dir.path(), &split, &[])).line("starting an etcd server");
    let theirs = (&line["initial-advertise-peer-urls"], &line["advertise-client-urls"], &line["initial-cluster"]);
    let peers = serde_json::json!(texts(&ours.initial_advertise_peer_urls));
    let clients = serde_json::json!(texts(&ours.advertise_client_urls));
    assert_eq!((&peers, &clients, &Value::from(ours.initial_cluster)), theirs);
}

/// A start with variables alone serves, logs zap's JSON, and stops on SIGTERM.
#[test]
fn a_start_by_variables_alone() {
    let dir = tempfile::tempdir().unwrap();
    let env = [
        ("ETCD_NAME", "by-env"),
        ("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:0,http://localhost:0"),
        ("ETCD_ADVERTISE_CLIENT_URLS", "http://127.0.0.1:1"),
        ("ETCD_LISTEN_PEER_URLS", "http://127.0.0.1:0"),
        ("ETCD_LOG_OUTPUTS", "stderr,log.txt"),
    ];
    let mut running = start(command(&lockstepd(), dir.path(), &[], &env));
    let line = running.line("Running: ");
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["level", "ts", "caller", "msg", "args"]);
    assert!(line["args"].is_array(), "{line}");
    let ts = line["ts"].as_str().unwrap();
    assert!(ts.len() == 24 && ts.starts_with("20") && ts.ends_with('Z'), "{ts}");
    let used = running.line("recognized and used environment variable");
    assert_eq!(used["variable-name"], "ETCD_ADVERTISE_CLIENT_URLS");
    assert_ne!(running.client_address(), running.client_address(), "two listeners, two ports");
    let status = running.terminate(Duration::from_secs(2)).expect("stops in time");
    assert_eq!(status.signal(), Some(15), "it dies of the signal, as etcd does");
    let file = std::fs::read_to_string(dir.path().join("log.txt")).unwrap();
    assert!(file.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{file}");
    assert!(file.contains("received signal; shutting down"), "{file}");
}

#[test]
fn console_lines_and_levels() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let url = format!("http://{address}");
    let listen = ["--listen-client-urls", &url, "--advertise-client-urls", "http://h:1"];
    for (level, lines) in [("info", None), ("warn", Some(2)), ("fatal", Some(1))] {
        let mut words = vec!["--log-format=console", "--listen-peer-urls=http://127.0.0.1:0", "--log-level", level];
        words.extend(listen);
        let ended = run_to_end(command(&lockstepd(), dir.path(), &words, &[]));
        let last: Vec<&str> = ended.stderr.lines().last().unwrap().split('\t').collect();
        assert_eq!((last[1], last[3]), ("fatal", "failed to start etcd"), "{}", ended.stderr);
        assert_eq!(last[4], format!("{{\"error\": \"listen tcp {address}: bind: address already in use\"}}"));
        assert!(lines.is_none_or(|n| ended.stderr.lines().count() == n), "{level}: {}", ended.stderr);
    }
}

/// Outside text never panics the readers.
#[test]
fn hostile_words() {
    let long = "9".repeat(100_000);
    let nasty = [
        "",
        "\0",
        "%",
        "%4",
        "[",
        "]",
        "[]",
        "[]:",
        "http://",
        "http://[",
        "http://@:",
        "unix:",
        "unix://%zz/%",
        "http://\u{e9}:1",
        "http://a:1#%",
        "=",
        ",",
        ",,,",
        "a=,b",
        "\u{1F600}",
        "-9223372036854775809",
        "0x",
        "0_",
        "1h1",
        ".",
        ".s",
        "1.2.3s",
        "9999999999999999999999999999h",
        "é",
        "0.000000000000000000000000000001s",
        &long,
    ];
    for def in config::defs::by_name() {
        for value in nasty {
            let word = format!("--{}={value}", def.name);
            if let Ok(loaded) = config::load(&[word], &[])
                && def.name == "initial-cluster"
            {
                let _ = loaded.config.bootstrap();
            }
            let _ = config::load(&[], &[(config::flags::env_name(def.name), value.to_string())]);
        }
    }
}

/// Exit code, and what the program complained about: the first line that is no log line, or the last error logged.
fn complaint(program: &std::path::Path, words_: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let words = words(words_);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = run_to_end(command(program, dir.path(), &words, env));
    let mut text = String::new();
    for line in ended.stderr.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            text = line.to_string();
            break;
        };
        match (&line["error"], &line["environment-variable"], line["level"] == "fatal") {
            (Value::String(error), _, _) => text = error.clone(),
            (_, Value::String(variable), true) => text = format!("{} {variable}", line["msg"].as_str().unwrap()),
            _ => {}
        }
    }
    (ended.code, text)
}

fn load(words_: &str, env: &[(&str, &str)]) -> (Config, Vec<Note>) {
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    match config::load(&words(words_), &env) {
        Ok(loaded) => (loaded.config, loaded.notes),
        Err(failed) => panic!("{words_} {env:?}: {failed:?}"),
    }
}

fn words(text: &str) -> Vec<String> {
    let text = text.replace("$FREE", FREE);
    text.split_whitespace().map(|word| if word == "''" { String::new() } else { word.to_string() }).collect()
}

fn texts(urls: &[config::Url]) -> Vec<&str> {
    urls.iter().map(config::Url::as_str).collect()
}
