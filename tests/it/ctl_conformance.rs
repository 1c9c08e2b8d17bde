//! Conformance of the command line: the same conversations through two pairs of client and server print the same,
//! byte for byte, and exit the same. What may differ (ports, times, sizes, addresses in log lines) is masked, no more.

#[path = "ctl_conformance/on_purpose.rs"]
mod on_purpose;
#[path = "ctl_conformance/sessions.rs"]
mod sessions;
#[path = "ctl_conformance/waiting.rs"]
mod waiting;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use lockstep::ctl;
use lockstep::ctl::flags::Flag;
use sessions::{SESSIONS, Session};
use waiting::WAITING;

use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, Port, http_get};
use crate::util::start::wait;

/// A client and the server it talks to.
#[derive(Clone, Debug)]
struct Pair {
    client: PathBuf,
    server: PathBuf,
}

/// How much is masked: with two servers of the same release, terms and versions have to agree too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Servers {
    Same,
    Different,
}

#[test]
fn lockstepctl_prints_what_etcdctl_prints() {
    let (Some(etcd), Some(etcdctl)) = (Etcd::V35.program("etcd"), Etcd::V35.program("etcdctl")) else { return };
    let links = tempfile::tempdir().unwrap();
    let ours = Pair { client: our_etcdctl(links.path()), server: etcd.clone() };
    let theirs = Pair { client: etcdctl, server: etcd };
    let transcripts = compare(&theirs, &ours, Servers::Same);
    every_flag_was_there(&transcripts);
}

/// Real etcdctls against our server and against etcd.
#[test]
fn etcdctl_prints_the_same_against_lockstepd() {
    let lockstepd = Path::new(env!("CARGO_BIN_EXE_lockstepd"));
    let Some(etcd) = Etcd::V35.program("etcd") else { return };
    for release in [Etcd::V34, Etcd::V35] {
        let Some(client) = release.program("etcdctl") else { continue };
        let theirs = Pair { client: client.clone(), server: etcd.clone() };
        let ours = Pair { client, server: lockstepd.to_path_buf() };
        compare(&theirs, &ours, Servers::Different);
    }
}

/// A reader that goes away early is no error worth a word, let alone a panic.
#[test]
fn lockstepctl_survives_a_closed_pipe() {
    let links = tempfile::tempdir().unwrap();
    for args in [&["help"][..], &["version"], &["bogus"]] {
        let mut command = client(&our_etcdctl(links.path()));
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.code().is_some_and(|code| code < 2), "{args:?}: {:?}", output.status);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{args:?}");
    }
}

/// The script for bash, in a bash: what is typed, and what there is to choose from.
#[test]
fn bash_completes_commands_and_flags() {
    let links = tempfile::tempdir().unwrap();
    let program = our_etcdctl(links.path());
    let complete = |line: &str| {
        // As bash splits: a run of its break characters is a word, and at the end of the line no empty one follows.
        let mut words: Vec<String> = Vec::new();
        for word in line.split(' ') {
            let runs = word.as_bytes().chunk_by(|a, b| b"=:@".contains(a) == b"=:@".contains(b));
            let before = words.len();
            words.extend(runs.map(|run| format!("'{}'", String::from_utf8_lossy(run))));
            if words.len() == before {
                words.push("''".to_owned());
            }
        }
        let script = format!(
            "source <(etcdctl completion bash); COMP_WORDS=({}); COMP_CWORD={}; COMP_LINE='{line}'; COMP_POINT={}; \
             _etcdctl; echo \"${{COMPREPLY[@]}}\"; complete -p etcdctl",
            words.join(" "),
            words.len() - 1,
            line.len()
        );
        let path = format!("{}:/usr/bin:/bin", links.path().display());
        let output = Command::new("bash").args(["-c", &script]).env("PATH", path).output().unwrap();
        assert!(output.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (choices, registered) = text.split_once('\n').unwrap();
        assert_eq!(registered, "complete -o default -F _etcdctl etcdctl\n");
        choices.to_string()
    };
    let cases = [
        ("etcdctl end", "endpoint"),
        ("etcdctl endpoint ", "health status hashkv"),
        ("etcdctl lease keep-alive --o", "--once"),
        ("etcdctl get --sort-by VE", "VERSION"),
        ("etcdctl -w = js", "json"),
        ("etcdctl put key ", ""),
        ("etcdctl --endpoints 127.0.0.1:2379 le", "lease"),
        ("etcdctl --endpoints=localhost le", "lease"),
        ("etcdctl --endpoints=http://a:1,http://[::1]:2  lease keep", "keep-alive"),
        ("etcdctl --endpoints= le", "lease"),
        ("etcdctl --endpoints a:1 --write-out=table endpoint he", "health"),
        ("etcdctl get --order=D", "DESCEND"),
        ("etcdctl get --order=", "ASCEND DESCEND"),
        ("etcdctl get a@b --ord", "--order"),
        ("etcdctl put a: --prev", "--prev-kv"),
        ("etcdctl member add x --le", "--learner"),
        ("etcdctl member p", "promote"),
        ("etcdctl make-mirror --no", "--no-dest-prefix"),
        ("etcdctl defrag --cl", "--cluster"),
        ("etcdctl mov", "move-leader"),
    ];
    for (line, choices) in cases {
        assert_eq!(complete(line), choices, "{line}");
    }
    for (shell, registers) in
        [("zsh", "compdef _etcdctl etcdctl"), ("fish", "complete -c etcdctl"), ("powershell", "-CommandName 'etcdctl'")]
    {
        let output = Command::new(&program).args(["completion", shell]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(registers), "{shell}");
    }
}

/// `check` measures, so what it prints is compared without the figures; afterwards the store is empty.
#[test]
fn lockstepctl_checks_as_etcdctl_does() {
    let (Some(etcd), Some(etcdctl)) = (Etcd::V35.program("etcd"), Etcd::V35.program("etcdctl")) else { return };
    let links = tempfile::tempdir().unwrap();
    let figures = |said: Said| {
        let text = String::from_utf8(said.stdout).unwrap();
        // A bar that is drawn while the verdict is printed stands before a line of it.
        let lines = text.lines().map(|line| {
            let line = line.rsplit('\r').next().unwrap();
            let verdict = ["PASS", "FAIL", "Slowest", "Stddev"].iter().filter_map(|word| line.find(word)).min();
            if verdict.is_none() && line.starts_with(' ') {
                return "bar".to_string();
            }
            let line = &line[verdict.unwrap_or(0)..];
            let plain = line.replace(|c: char| c.is_ascii_digit() || c == '.', "");
            // A busy machine is no reason to fail, and neither is memory that was given back.
            plain
                .replace("FAIL: Throughput too low:", "PASS: Throughput is")
                .replace("request took too long:", "request took")
                .replace("Stddev too high:", "Stddev is")
                .replace("used : -", "used : ")
        });
        (lines.collect::<Vec<_>>(), String::from_utf8(said.stderr).unwrap(), said.code)
    };
    let check = |program: &Path| {
        let server = Server::start(&etcd, &[]);
        let mut talk = Talk::new(program, &server);
        let mut said = Vec::new();
        let lines = [
            "check datascale --auto-compact",
            "check datascale --load x",
            "check perf --load=x",
            "put p/a 1",
            "check perf --prefix p/",
            "check datascale --prefix p/ --load small",
            "A> check perf --load s --prefix q/ --auto-compact --auto-defrag=false",
            "A? 1",
            "pause 1500",
            "A!INT",
            "A.",
            "get q/ --prefix",
            "get /etcdctl-check-datascale/ --prefix",
        ];
        for line in lines {
            said.extend(talk.step(line).map(|(line, said)| (line, figures(said))));
        }
        // The verdict hangs on the machine.
        let (_, (lines, _, code)) = &mut said[6];
        lines.retain(|line| !["FAIL", "PASS", "bar"].contains(&line.as_str()));
        lines.iter_mut().for_each(|line| *line = line.trim_start_matches("PASS: ").to_string());
        assert!(code.take().is_some_and(|code| code < 2));
        said
    };
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| check(&etcdctl));
        let ours = check(&our_etcdctl(links.path()));
        (theirs.join().unwrap(), ours)
    });
    assert_eq!(theirs, ours);
}

/// Each endpoint that was defragmented is named before the verdict.
#[test]
fn a_check_defragments_when_told_to() {
    let links = tempfile::tempdir().unwrap();
    let program = our_etcdctl(links.path());
    let server = Server::start(Path::new(env!("CARGO_BIN_EXE_lockstepd")), &[]);
    let said = speak(&program, &server, "check datascale --auto-defrag");
    let text = String::from_utf8(said.stdout).unwrap();
    let [.., defragmenting, defragmented, verdict] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(defragmenting, format!("Defragmenting {:?}", server.address));
    assert_eq!(defragmented, format!("Defragmented {:?}", server.address));
    assert!(verdict.starts_with("PASS: Approximate system memory used"), "{verdict}");
    assert_eq!(said.code, Some(0));
}

/// A watch goes on at another member where it was cut off, and misses nothing; a lease is kept alive all the while.
#[test]
fn lockstepctl_goes_on_at_another_member() {
    let Some(mut cluster) = Cluster::start(Kind::Etcd(Etcd::V35), 3) else { return };
    let links = tempfile::tempdir().unwrap();
    let program = our_etcdctl(links.path());
    let urls: Vec<String> = cluster.members.iter().map(|member| member.client_url()).collect();
    let start = |endpoints: &str, words: &[&str]| {
        let mut command = client(&program);
        command.arg(format!("--endpoints={endpoints}")).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let run = |words: &[&str]| {
        let output = start(&urls[1], words).wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let granted = run(&["lease", "grant", "4"]);
    let lease = granted.split(' ').nth(1).unwrap().to_string();
    run(&["put", "stays", "here", "--lease", &lease]);
    let both = format!("{},{}", urls[0], urls[1]);
    let mut watching = Ending(start(&both, &["watch", "k", "--prefix", "--rev", "1"]));
    let _keeping = Ending(start(&both, &["lease", "keep-alive", &lease]));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let reader = gather(watching.0.stdout.take().unwrap(), seen.clone());
    let lines = || seen.lock().unwrap().iter().filter(|&&byte| byte == b'\n').count();
    let wait_lines = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while lines() < count && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    };
    let mut expected = String::new();
    for round in 0..3 {
        // Whoever serves them is restarted, one after the other.
        for at in 0..2 {
            let value = format!("{round}.{at}");
            let via = &urls[2];
            let put = |value: &str| {
                let output = start(via, &["put", "k/x", value]).wait_with_output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            };
            put(&value);
            expected.push_str(&format!("PUT\nk/x\n{value}\n"));
            wait_lines(expected.lines().count());
            cluster.members[at].kill();
            sleep(Duration::from_millis(300));
            let value = format!("{value}.down");
            // A leader may have to be found first.
            let deadline = Instant::now() + Duration::from_secs(20);
            while !start(via, &["put", "other", "x"]).wait_with_output().unwrap().status.success() {
                assert!(Instant::now() < deadline, "no leader");
            }
            put(&value);
            expected.push_str(&format!("PUT\nk/x\n{value}\n"));
            wait_lines(expected.lines().count());
            cluster.members[at].restart();
        }
    }
    assert_eq!(String::from_utf8(seen.lock().unwrap().clone()).unwrap(), expected);
    assert_eq!(run(&["get", "stays"]), "stays\nhere\n");
    drop(watching);
    reader.join().unwrap();
}

/// Endpoints where somebody listens who is no etcd: each ends within the timeout, and the other endpoint answers.
#[test]
fn lockstepctl_fails_over_from_strangers() {
    let Some(etcd) = Etcd::V35.program("etcd") else { return };
    let links = tempfile::tempdir().unwrap();
    let program = our_etcdctl(links.path());
    let server = Server::start(&etcd, &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap(), rude.local_addr().unwrap()];
    std::thread::spawn(move || {
        for stream in rude.incoming().flatten() {
            let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let closed = "latest balancer error: last connection error: connection closed";
    for (stranger, told) in addresses.iter().zip(["desc = context deadline exceeded", closed]) {
        for command in ["put a b", "get a", "txn < \"\\n\\n\\n\"", "endpoint status"] {
            let start = Instant::now();
            let line = format!("!--endpoints={stranger} --command-timeout=300ms {command}");
            let said = speak(&program, &server, &line);
            let stderr = String::from_utf8_lossy(&said.stderr);
            assert_eq!(said.code, Some(1), "{line}: {stderr}");
            assert!(stderr.contains(told) && stderr.lines().count() == 2, "{line}: {stderr}");
            assert!(start.elapsed() < Duration::from_secs(5), "{line}: {:?}", start.elapsed());
        }
        for command in ["put a b", "get a", "txn < \"\\n\\n\\n\"", "member list"] {
            let line = format!("--endpoints={stranger},@E {command}");
            let said = speak(&program, &server, &line);
            let stderr = String::from_utf8_lossy(&said.stderr);
            assert!(said.code == Some(0) && stderr.is_empty(), "{line}: {stderr}");
        }
    }
}

/// How often a session is held before a difference in it counts.
const ATTEMPTS: usize = 3;

/// Runs every session through both pairs, a fresh server for each; returns what the left pair said.
fn compare(left: &Pair, right: &Pair, servers: Servers) -> Vec<(String, Said)> {
    let start = Instant::now();
    let sessions: Vec<&Session> =
        // What takes the longest begins first.
        (WAITING.iter().chain(SESSIONS))
            .filter(|session| servers == Servers::Same || !session.name.ends_with("of etcd 3.5"))
            .collect();
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new((Vec::new(), String::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(session) = sessions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let both = || {
                        std::thread::scope(|both| {
                            let theirs = both.spawn(|| hold(session, left, servers));
                            (hold(session, right, servers), theirs.join().unwrap())
                        })
                    };
                    // What hangs on a second's end or a time-out may come out either way; a true difference stays.
                    let mut held = both();
                    for _ in 1..ATTEMPTS {
                        if held.0 != held.1 {
                            held = both();
                        }
                    }
                    let (ours, theirs) = held;
                    let mut outcome = outcome.lock().unwrap();
                    for ((line, expected), (_, got)) in theirs.iter().zip(&ours) {
                        if expected != got {
                            let name = session.name;
                            writeln!(outcome.1, "[{name}] {line}\n  expected {expected}\n  got      {got}").unwrap();
                        }
                    }
                    assert_eq!(theirs.len(), ours.len());
                    outcome.0.extend(theirs);
                }
            });
        }
    });
    let (transcripts, differences) = outcome.into_inner().unwrap();
    let failed = transcripts.iter().filter(|(_, said)| said.code != Some(0)).count();
    println!(
        "{} commands in {} sessions, {failed} of them refused, in {:?}: {} and {}",
        transcripts.len(),
        sessions.len(),
        start.elapsed(),
        left.client.display(),
        right.client.display(),
    );
    assert!(differences.is_empty(), "{differences}");
    transcripts
}

/// Every flag of the commands has to be in a session twice: once it works, once it is refused.
fn every_flag_was_there(transcripts: &[(String, Said)]) {
    use ctl::commands::{compaction, del, elect, endpoint, get, lease, lock, make_mirror, member, put, txn, watch};
    let commands: &[(&str, &[Flag])] = &[
        ("", ctl::GLOBAL),
        ("get", get::FLAGS),
        ("put", put::FLAGS),
        ("del", del::FLAGS),
        ("txn", txn::FLAGS),
        ("compaction", compaction::FLAGS),
        ("endpoint", endpoint::SHARED),
        ("hashkv", endpoint::HASHKV_FLAGS),
        ("timetolive", lease::TIMETOLIVE_FLAGS),
        ("keep-alive", lease::KEEP_ALIVE_FLAGS),
        ("watch", watch::FLAGS),
        ("lock", lock::FLAGS),
        ("elect", elect::FLAGS),
        ("add", member::ADD_FLAGS),
        ("update", member::UPDATE_FLAGS),
        ("defrag", endpoint::SHARED),
        // The others are newer, or about certificates and users.
        ("make-mirror", &make_mirror::FLAGS[..3]),
    ];
    // These are in `on_purpose`.
    let newer = ["min-create-rev", "max-create-rev", "min-mod-rev", "max-mod-rev", "range"];
    let refused_yet = ["cert", "key", "cacert"];
    for (command, flags) in commands {
        for flag in flags.iter().filter(|flag| !newer.contains(&flag.name)) {
            let used = |line: &str| {
                let long = format!("--{}", flag.name);
                let short = flag.short.map(|short| format!("-{short}"));
                let words: Vec<&str> = line.split(' ').collect();
                (command.is_empty() || words.contains(command))
                    && words.iter().any(|word| {
                        word.split('=').next() == Some(&long)
                            || short.as_ref().is_some_and(|short| word.starts_with(short))
                    })
            };
            let count = |good: bool| {
                // No code: it went on until a signal.
                transcripts.iter().filter(|(line, said)| used(line) && said.code.unwrap_or(0).eq(&0) == good).count()
            };
            assert!(count(false) > 0, "no session has a bad --{} of {command:?}", flag.name);
            assert!(
                count(true) > 0 || refused_yet.contains(&flag.name),
                "no session has a good --{} of {command:?}",
                flag.name
            );
        }
    }
}

/// One session through one pair: every line with what came back, masked.
fn hold(session: &Session, pair: &Pair, servers: Servers) -> Vec<(String, Said)> {
    let server = Server::start(&pair.server, session.flags);
    let mut talk = Talk::new(&pair.client, &server);
    let lines = session.lines.lines().filter(|line| !line.is_empty());
    let said = lines.filter_map(|line| talk.step(line)).collect::<Vec<_>>();
    said.into_iter().map(|(line, said)| (line, said.mask(&server, servers))).collect()
}

/// A session that is under way.
struct Talk<'a> {
    program: &'a Path,
    server: &'a Server,
    /// The last one that was granted, in hexadecimal.
    lease: String,
    /// The last member that was added, in hexadecimal.
    member: String,
    running: BTreeMap<String, Running>,
}

/// A command that goes on while others run.
struct Running {
    line: String,
    child: Ending,
    stdout: Arc<Mutex<Vec<u8>>>,
    readers: [JoinHandle<Vec<u8>>; 2],
}

impl<'a> Talk<'a> {
    fn new(program: &'a Path, server: &'a Server) -> Talk<'a> {
        Talk { program, server, lease: String::new(), member: String::new(), running: BTreeMap::new() }
    }

    /// What a line of a session does; a command that has ended comes back with what it said.
    fn step(&mut self, line: &str) -> Option<(String, Said)> {
        if let Some(ms) = line.strip_prefix("pause ") {
            sleep(Duration::from_millis(ms.parse().unwrap()));
            return None;
        }
        let name_ends = line.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(line.len());
        let (name, rest) = line.split_at(name_ends);
        if !name.is_empty() && rest.starts_with(['>', '<', '?', '!', '.']) {
            return self.background(name, rest);
        }
        let command = self.fill(line);
        let said = speak(self.program, self.server, &command);
        self.note(&said.stdout);
        Some((line.to_string(), said))
    }

    fn background(&mut self, name: &str, rest: &str) -> Option<(String, Said)> {
        if let Some(line) = rest.strip_prefix("> ") {
            let (mut command, _) = prepare(self.program, self.server, &self.fill(line));
            let mut child = command.spawn().unwrap();
            let stdout = Arc::new(Mutex::new(Vec::new()));
            let err = child.stderr.take().unwrap();
            let readers = [gather(child.stdout.take().unwrap(), stdout.clone()), gather(err, Arc::default())];
            let child = Ending(child);
            self.running.insert(name.into(), Running { line: line.into(), child, stdout, readers });
            return None;
        }
        let running = self.running.get_mut(name).unwrap_or_else(|| panic!("{name} does not run"));
        if let Some(text) = rest.strip_prefix("< ") {
            let text = split(text).concat();
            running.child.0.stdin.as_mut().unwrap().write_all(&text).unwrap();
        } else if let Some(lines) = rest.strip_prefix("? ") {
            let lines: usize = lines.parse().unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let count = |text: &[u8]| text.iter().filter(|byte| b"\n\r".contains(byte)).count();
            while count(&running.stdout.lock().unwrap()) < lines && Instant::now() < deadline {
                sleep(Duration::from_millis(5));
            }
        } else if let Some(signal) = rest.strip_prefix('!') {
            let signal = if signal == "INT" { libc::SIGINT } else { libc::SIGTERM };
            // SAFETY: kill(2) touches no memory of ours; the child has not been waited for, so the id is still its own.
            assert_eq!(unsafe { libc::kill(running.child.0.id() as libc::pid_t, signal) }, 0);
        } else {
            let said = self.running.remove(name).unwrap().end();
            return Some(said);
        }
        None
    }

    fn fill(&self, line: &str) -> String {
        line.replace("@L", &self.lease).replace("@M", &self.member)
    }

    fn note(&mut self, stdout: &[u8]) {
        let text = String::from_utf8_lossy(stdout);
        if let Some((id, _)) = text.strip_prefix("Member ").and_then(|rest| rest.split_once(" added to")) {
            self.member = id.trim().to_string();
        }
        if let Some((id, _)) = text.strip_prefix("lease ").and_then(|rest| rest.split_once(" granted")) {
            self.lease = id.to_string();
        }
    }
}

impl Running {
    /// Waits for it; one that does not end is killed, which its exit code tells.
    fn end(mut self) -> (String, Said) {
        let ended = wait(&mut self.child.0, Duration::from_secs(20));
        if ended.is_none() {
            let _ = self.child.0.kill();
        }
        let code = self.child.0.wait().unwrap().code();
        let [stdout, stderr] = self.readers.map(|reader| reader.join().unwrap());
        (self.line, Said { stdout, stderr, code: if ended.is_none() { Some(-1) } else { code } })
    }
}

/// A process that does not outlive its test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads to the end; what there is so far is in `shared`.
fn gather(mut from: impl Read + Send + 'static, shared: Arc<Mutex<Vec<u8>>>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            shared.lock().unwrap().extend_from_slice(&piece[..count]);
        }
        shared.lock().unwrap().clone()
    })
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    code: Option<i32>,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [out, err] = [&self.stdout, &self.stderr].map(|bytes| bytes.escape_ascii().to_string());
        write!(f, "{:?} stdout \"{out}\" stderr \"{err}\"", self.code)
    }
}

/// Runs one line of a session.
fn speak(program: &Path, server: &Server, line: &str) -> Said {
    let (mut command, stdin) = prepare(program, server, line);
    let mut child = command.spawn().unwrap();
    // A command that refuses its arguments does not read this: a broken pipe is fine.
    let _ = child.stdin.take().unwrap().write_all(&stdin);
    let output = child.wait_with_output().unwrap();
    Said { stdout: output.stdout, stderr: output.stderr, code: output.status.code() }
}

/// The command of a line, and what is written to it.
fn prepare(program: &Path, server: &Server, line: &str) -> (Command, Vec<u8>) {
    let (line, automatic) = match line.strip_prefix('!') {
        Some(line) => (line, false),
        None => (line, !line.contains("@E") && !line.contains("@X")),
    };
    let mut words = split(line);
    let stdin = words.iter().position(|word| word == b"<").map(|at| words.drain(at..at + 2).nth(1).unwrap());
    let mut command = client(program);
    let fill = |word: &[u8]| -> OsString {
        match String::from_utf8(word.to_vec()) {
            Ok(text) => text.replace("@E", &server.address).replace("@X", &server.nobody).into(),
            Err(bytes) => OsString::from_vec(bytes.into_bytes()),
        }
    };
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next_if(|word| word.contains(&b'=') && word[0].is_ascii_alphabetic()) {
        let at = word.iter().position(|&b| b == b'=').unwrap();
        command.env(OsStr::from_bytes(&word[..at]), fill(&word[at + 1..]));
    }
    if automatic {
        command.arg(format!("--endpoints={}", server.address));
    }
    command.args(words.map(|word| fill(&word)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let stdin = stdin.unwrap_or_default();
    (command, if stdin == b"@BIG" { vec![b'x'; 3 << 20] } else { stdin })
}

/// The words of a line, as `sessions` describes them.
fn split(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(&first) = chars.peek() {
        if first == ' ' {
            chars.next();
            continue;
        }
        if first == '#' {
            break;
        }
        let mut word = Vec::new();
        while let Some(c) = chars.next_if(|&c| c != ' ') {
            match c {
                '\'' => word.extend(chars.by_ref().take_while(|&c| c != '\'').collect::<String>().bytes()),
                '"' => loop {
                    match chars.next().expect("a quote is closed") {
                        '"' => break,
                        '\\' => match chars.next().expect("an escape has a letter") {
                            'n' => word.push(b'\n'),
                            't' => word.push(b'\t'),
                            'r' => word.push(b'\r'),
                            'a' => word.push(7),
                            'v' => word.push(11),
                            'x' => {
                                let digits: String = chars.by_ref().take(2).collect();
                                word.push(u8::from_str_radix(&digits, 16).unwrap());
                            }
                            'u' => {
                                let digits: String = chars.by_ref().take(4).collect();
                                let c = char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap();
                                word.extend(c.to_string().bytes());
                            }
                            other => word.push(other as u8),
                        },
                        other => word.extend(other.to_string().bytes()),
                    }
                },
                other => word.extend(other.to_string().bytes()),
            }
        }
        words.push(word);
    }
    words
}

impl Said {
    /// Replaces what no two runs share.
    fn mask(mut self, server: &Server, servers: Servers) -> Said {
        if let Some(rest) = without_term(&self.stdout).filter(|_| servers == Servers::Different) {
            self.stdout = rest;
        }
        for text in [&mut self.stdout, &mut self.stderr] {
            // As long as what they replace: lengths in binary answers and widths of tables stay right.
            *text = replace(text, &server.address, "127.0.0.1:@E@E@");
            *text = replace(text, &server.nobody, "127.0.0.1:@X@X@");
            let Ok(plain) = String::from_utf8(text.clone()) else { continue };
            let mut usage = false;
            let mut table = Vec::new();
            let mut masked = String::new();
            for line in plain.split_inclusive('\n') {
                usage =
                    (usage || line.starts_with("NAME:") || line.starts_with("Usage:")) && !line.starts_with("Error:");
                if usage {
                    if !masked.ends_with("<usage>\n") {
                        masked.push_str("<usage>\n");
                    }
                } else if !OURS.iter().any(|ours| line.starts_with(ours)) {
                    masked.push_str(&mask_line(line, &mut table, servers));
                }
            }
            *text = masked.into_bytes();
        }
        self
    }
}

/// Lines that one of the two prints and the other does not: of Go's gRPC, and the end of a mirror of ours.
const OURS: &[&str] = &["INFO: ", "WARNING: ", "mirrored up to revision "];

fn replace(text: &[u8], what: &str, with: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(what.as_bytes()) {
            out.extend_from_slice(with.as_bytes());
            rest = after;
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

fn mask_line(line: &str, table: &mut Vec<usize>, servers: Servers) -> String {
    if line.starts_with("{\"level\":") {
        return mask_log(line);
    }
    // 3.4's log: `2026-11-22 08:31:59.291938 W | pkg/flags: …`.
    if line.get(10..11) == Some(" ") && line.get(26..29).is_some_and(|level| level == " W " || level == " C ") {
        return format!("<time>{}", &line[26..]);
    }
    let different = servers == Servers::Different;
    if line.starts_with('|') || line.starts_with('+') {
        // The first rule of a table comes before its head: its width says nothing that the others do not.
        let sign = if line.starts_with('|') { '|' } else { '+' };
        let cells: Vec<&str> = line.trim_end().split(sign).collect();
        let vary: &[&str] = if different {
            &["ID", "TOOK", "DB SIZE", "RAFT INDEX", "RAFT APPLIED INDEX", "RAFT TERM", "VERSION"]
        } else {
            &["ID", "TOOK", "DB SIZE", "RAFT INDEX", "RAFT APPLIED INDEX"]
        };
        if table.is_empty() && sign == '+' {
            return "<rule>\n".into();
        }
        let named = |(at, cell): (usize, &&str)| vary.contains(&cell.trim()).then_some(at);
        if table.is_empty() {
            *table = cells.iter().enumerate().filter_map(named).chain([usize::MAX]).collect();
        }
        let cell = |(at, cell): (usize, &&str)| if table.contains(&at) { "*".to_string() } else { cell.to_string() };
        return cells.iter().enumerate().map(cell).collect::<Vec<_>>().join(&sign.to_string()) + "\n";
    }
    let mut line = line.to_string();
    let fields: Vec<&str> = line.trim_end_matches('\n').split(", ").collect();
    if fields.len() == 10 && fields[0].contains("@E") {
        let vary: &[usize] = if different { &[2, 3, 6, 7, 8] } else { &[3, 7, 8] };
        let fields = fields.iter().enumerate().map(|(at, field)| if vary.contains(&at) { "*" } else { field });
        line = fields.collect::<Vec<_>>().join(", ") + "\n";
    }
    line = mask_ids(&line);
    let until_end = ["took = ", "\"Took\" : ", "\"DBSize\" : ", "\"RaftIndex\" : ", "\"RaftAppliedIndex\" : "];
    let until_comma = ["\"took\":\"", "\"dbSize\":", "\"dbSizeInUse\":", "\"raftIndex\":", "\"raftAppliedIndex\":"];
    // What is left of a lease; the other formats show the exact figures there are.
    if line.starts_with("\"TTL\" : ") && !line.ends_with("-1\n") {
        line = "\"TTL\" : *\n".into();
    }
    let versions = ["etcdctl version: ", "API version: "];
    let others_end: &[&str] = if different { &["\"RaftTerm\" : ", "\"Version\" : \""] } else { &[] };
    let others_comma: &[&str] = if different { &["\"raft_term\":", "\"raftTerm\":", "\"version\":\""] } else { &[] };
    for marker in until_end.iter().chain(&versions).chain(others_end) {
        if let Some(at) = line.find(marker) {
            line = format!("{}*\n", &line[..at + marker.len()]);
        }
    }
    for marker in until_comma.iter().chain(others_comma) {
        let mut from = 0;
        while let Some(at) = line[from..].find(marker).map(|at| from + at + marker.len()) {
            let end = at + line[at..].find([',', '}', '"']).unwrap();
            line.replace_range(at..end, "*");
            from = at;
        }
    }
    line
}

/// Leases have other ids in every run, and so have the keys of locks and elections. What is left of a TTL varies, too.
fn mask_ids(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '=').unwrap_or(rest.len());
        let (word, after) = if run == 0 { rest.split_at(first.len_utf8()) } else { rest.split_at(run) };
        let is_hex = (12..17).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit());
        let is_decimal = (15..21).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit());
        let is_key = word.len() >= 20 && out.ends_with("key\":\"");
        let is_ttl = ["remaining(", "\"ttl\":"].iter().any(|marker| out.ends_with(marker)) && word != "1";
        out.push_str(if is_hex || is_decimal || is_key || is_ttl { "*" } else { word });
        rest = after;
    }
    out
}

/// A log line without its time, its caller's stack and the address of an object.
fn mask_log(line: &str) -> String {
    let Ok(mut log) = serde_json::from_str::<BTreeMap<String, serde_json::Value>>(line) else { return line.into() };
    let iso = log.get("ts").is_some_and(|ts| ts.as_str().is_some_and(|ts| ts.len() == 24 && ts.ends_with('Z')));
    let epoch = log.get("ts").is_some_and(|ts| ts.as_f64().is_some_and(|ts| ts > 1.7e9));
    log.insert(
        "ts".into(),
        if iso {
            "iso"
        } else if epoch {
            "epoch"
        } else {
            "bad"
        }
        .into(),
    );
    log.remove("stacktrace");
    if let Some(target) = log.get("target").and_then(|target| target.as_str()) {
        let target = target.strip_prefix("etcd-endpoints://0xc").and_then(|rest| rest.split_once('/'));
        let target = target.map_or("bad", |(_, endpoint)| endpoint).to_string();
        log.insert("target".into(), target.into());
    }
    serde_json::to_string(&log).unwrap() + "\n"
}

/// A protobuf answer without its header's raft term; `None` when it is none.
fn without_term(bytes: &[u8]) -> Option<Vec<u8>> {
    let [10, length, rest @ ..] = bytes else { return None };
    let header = rest.get(..usize::from(*length))?;
    let term = header.iter().rposition(|&b| b == 0x20)?;
    Some([&header[..term], &rest[usize::from(*length)..]].concat())
}

/// A server of its own, on free ports, with its data in a temporary folder. Its ids are the same in every run.
struct Server {
    child: Child,
    address: String,
    /// Where nobody listens.
    nobody: String,
    _ports: [Port; 3],
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(program: &Path, extra: &[&str]) -> Server {
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            // Of five digits all: tables are as wide in every run.
            let ports: [Port; 3] = std::array::from_fn(|_| Port::reserve());
            let [address, peer, nobody] = ports.each_ref().map(Port::address);
            let urls = [
                format!("--listen-client-urls=http://{address}"),
                format!("--advertise-client-urls=http://{address}"),
                format!("--listen-peer-urls=http://{peer}"),
            ];
            let child = Command::new(program)
                .args(urls)
                .arg("--data-dir")
                .arg(dir.path().join("data"))
                .args(["--initial-advertise-peer-urls=http://10.0.0.1:2380", "--log-level=error"])
                .args(["--initial-cluster=default=http://10.0.0.1:2380", "--unsafe-no-fsync"])
                .args(["--heartbeat-interval=20", "--election-timeout=200"])
                .args(extra)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = Server { child, address, nobody, _ports: ports, _dir: dir };
            if server.is_ready() {
                return server;
            }
        }
        panic!("{} does not start", program.display());
    }

    fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            if self.version().is_some_and(|version| !version.contains("not_decided")) {
                return true;
            }
            sleep(Duration::from_millis(20));
        }
        false
    }

    /// `/version`, which says when the cluster has settled.
    fn version(&self) -> Option<String> {
        let (_, answer) = http_get(&self.address, "/version")?;
        answer.contains("etcdcluster").then_some(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our client under etcdctl's name.
fn our_etcdctl(dir: &Path) -> PathBuf {
    let link = dir.join("etcdctl");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lockstepctl"), &link).unwrap();
    }
    link
}

fn client(program: &Path) -> Command {
    let mut command = Command::new(program);
    let kept = ["HOME", "PATH"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept);
    // What a shell starts in the background ignores this, its children inherit that, and Go's programs keep to it.
    // SAFETY: signal(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::signal(libc::SIGINT, libc::SIG_DFL) {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command
}
