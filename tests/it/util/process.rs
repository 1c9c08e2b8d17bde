//! Real server processes for tests: clusters of etcd or `lockstepd` on free ports, in a folder that goes with them.
//!
//! `Cluster::start(kind, n)` returns when every member is healthy; dropping it kills what still runs. Ports are
//! reserved with locked files outside the range the kernel hands out, so tests, and test runs, that share a machine do
//! not clash, and a member gets its own ports back when it is restarted.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::client::Client;
use super::oracle::Etcd;

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd(Etcd),
    Lockstepd,
}

impl Kind {
    /// The program, or `None` with a line that says so when it is an oracle that is not installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Kind::Etcd(release) => release.program("etcd"),
            Kind::Lockstepd => Some(PathBuf::from(env!("CARGO_BIN_EXE_lockstepd"))),
        }
    }
}

/// A cluster of one kind of server; killed when dropped.
pub struct Cluster {
    pub kind: Kind,
    pub members: Vec<Member>,
    dir: tempfile::TempDir,
}

/// One member and, while it runs, its process.
pub struct Member {
    pub name: String,
    pub data_dir: PathBuf,
    /// Standard output and error of every start, one after the other.
    pub log_file: PathBuf,
    client: Port,
    peer: Port,
    program: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `n` members and waits until all are healthy. `None` when the program is an oracle that is missing.
    pub fn start(kind: Kind, n: usize) -> Option<Cluster> {
        Cluster::start_with(kind, n, &[])
    }

    /// The same, with more flags for every member; they come last, and so win over those set here.
    pub fn start_with(kind: Kind, n: usize, flags: &[&str]) -> Option<Cluster> {
        let mut cluster = Cluster::prepare(kind, n, flags)?;
        for i in 0..n {
            cluster.members[i].spawn();
        }
        for member in &mut cluster.members {
            member.wait_ready();
        }
        Some(cluster)
    }

    /// Everything but the processes: for tests that start members by hand.
    pub fn prepare(kind: Kind, n: usize, flags: &[&str]) -> Option<Cluster> {
        let program = kind.program()?;
        let dir = tempfile::Builder::new().prefix("lockstep-it-").tempdir().expect("a temporary folder");
        let ports: Vec<(Port, Port)> = (0..n).map(|_| (Port::reserve(), Port::reserve())).collect();
        let initial: Vec<String> =
            ports.iter().enumerate().map(|(i, (_, peer))| format!("m{i}={}", peer.url())).collect();
        let token = dir.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        // A lone member has nobody to wait for; three on a busy machine must not lose their leader to a hiccup.
        let (heartbeat, election) = if n == 1 { ("20", "200") } else { ("100", "1000") };
        let members = ports.into_iter().enumerate().map(|(i, (client, peer))| {
            let name = format!("m{i}");
            let data_dir = dir.path().join(format!("{name}.etcd"));
            let mut args = founder_flags(&name, &data_dir, &client, &peer, &initial);
            args.push(format!("--initial-cluster-token={token}"));
            args.push(format!("--heartbeat-interval={heartbeat}"));
            args.push(format!("--election-timeout={election}"));
            args.extend(flags.iter().map(|f| f.to_string()));
            let log_file = dir.path().join(format!("{name}.log"));
            Member { name, data_dir, log_file, client, peer, program: program.clone(), args, child: None }
        });
        let members = members.collect();
        Some(Cluster { kind, members, dir })
    }

    /// A member that is to join these members of the cluster: not added, and not started. Returns its place.
    pub fn newcomer(&mut self, of: &[usize], flags: &[&str]) -> usize {
        let i = self.members.len();
        let (client, peer) = (Port::reserve(), Port::reserve());
        let name = format!("m{i}");
        let data_dir = self.dir.path().join(format!("{name}.etcd"));
        let member = |m: &Member| format!("{}={}", m.name, m.peer_url());
        let mut initial: Vec<String> = of.iter().map(|i| member(&self.members[*i])).collect();
        initial.push(format!("{name}={}", peer.url()));
        let mut args = founder_flags(&name, &data_dir, &client, &peer, &initial);
        args.push("--initial-cluster-state=existing".to_owned());
        args.extend(flags.iter().map(|f| f.to_string()));
        let log_file = self.dir.path().join(format!("{name}.log"));
        let program = self.members[0].program.clone();
        self.members.push(Member { name, data_dir, log_file, client, peer, program, args, child: None });
        i
    }

    /// The client URLs of all members, as `--endpoints` takes them.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(Member::client_url).collect::<Vec<_>>().join(",")
    }

    /// A client of member `i`.
    pub fn client(&self, i: usize) -> Client {
        Client::connect(&self.members[i].client_url())
    }

    /// The cluster's own folder, for whatever else a test wants to keep.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Member {
    pub fn client_url(&self) -> String {
        self.client.url()
    }

    pub fn peer_url(&self) -> String {
        self.peer.url()
    }

    /// The process id of the running member.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the running member holds of the machine's memory.
    pub fn resident_bytes(&self) -> usize {
        let pid = self.pid().expect("it runs");
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("the process is there");
        let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("its second number");
        pages * 4096
    }

    /// The flags it is started with; a test may change them before a restart.
    pub fn args_mut(&mut self) -> &mut Vec<String> {
        &mut self.args
    }

    /// From the next start on it is a server of this kind on this directory, with the flags and ports that it has.
    pub fn become_one_of(&mut self, kind: Kind, data_dir: &Path) {
        self.program = kind.program().expect("a program");
        self.data_dir = data_dir.to_owned();
        let flag = self.args.iter_mut().find(|arg| arg.starts_with("--data-dir=")).expect("it has one");
        *flag = format!("--data-dir={}", data_dir.display());
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        log_to(&mut command, &self.log_file);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("starting {}: {e}", self.program.display()));
        self.child = Some(child);
    }

    /// Waits until the member says that it is healthy; a member that ends instead is a failure with its log.
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while http_get(&self.client_url(), "/health").is_none_or(|(status, _)| status != 200) {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("a child can be asked")) {
                panic!("{} ended with {status} before it was ready:\n{}", self.name, self.log_tail());
            }
            assert!(Instant::now() < deadline, "{} is not ready after 60 s:\n{}", self.name, self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9, at once; does nothing to a member that does not run.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.child.take().expect("a running member").wait().expect("a child can be waited for")
    }

    /// Waits until the process has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running member");
        match super::start::wait(&mut child, Duration::from_secs(30)) {
            Some(status) => status,
            None => {
                self.child = Some(child);
                panic!("{} has not ended:\n{}", self.name, self.log_tail());
            }
        }
    }

    /// Sends a signal (SIGSTOP and SIGCONT pause a member).
    pub fn signal(&self, signal: i32) {
        let pid = self.pid().expect("a running member");
        // SAFETY: kill(2) touches no memory of ours, and the child has not been waited for, so the id is still its own.
        let rc = unsafe { libc::kill(pid as libc::pid_t, signal) };
        assert_eq!(rc, 0, "signal {signal} to {}: {}", self.name, std::io::Error::last_os_error());
    }

    /// Starts a member that was killed or stopped again, on the same folder and ports, and waits until it is healthy.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.wait_ready();
    }

    /// Everything the member has logged so far.
    pub fn log(&self) -> String {
        read_log(&self.log_file)
    }

    fn log_tail(&self) -> String {
        tail(&self.log(), 20)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child.is_some() {
            eprintln!("the end of {}'s log:\n{}", self.name, self.log_tail());
        }
        self.kill();
    }
}

/// What a founder of the cluster `initial` (`name=url`, one each) is started with.
pub fn founder_flags(name: &str, data_dir: &Path, client: &Port, peer: &Port, initial: &[String]) -> Vec<String> {
    let set = [
        ("--name", name),
        ("--data-dir", data_dir.to_str().expect("temporary folders have plain names")),
        ("--listen-client-urls", &client.url()),
        ("--advertise-client-urls", &client.url()),
        ("--listen-peer-urls", &peer.url()),
        ("--initial-advertise-peer-urls", &peer.url()),
        ("--initial-cluster", &initial.join(",")),
        ("--initial-cluster-state", "new"),
    ];
    set.iter().map(|(flag, value)| format!("{flag}={value}")).collect()
}

/// Sends all that a program prints to the end of a file, over all its starts.
pub fn log_to(command: &mut Command, file: &Path) {
    let log = OpenOptions::new().create(true).append(true).open(file).expect("the log file opens");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log file's second handle")).stderr(log);
}

pub fn read_log(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}

/// The last `count` lines.
pub fn tail(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A plain HTTP GET: the status and the body. `None` when nobody answers.
pub fn http_get(url: &str, path: &str) -> Option<(u16, String)> {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A TCP port of 127.0.0.1 that is ours until dropped.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Finds a free one. Its lock file keeps other test processes off it while nobody listens on it.
    pub fn reserve() -> Port {
        const FIRST: u16 = 12_000;
        const COUNT: u16 = 18_000;
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = std::env::temp_dir().join("lockstep-ports");
        std::fs::create_dir_all(&dir).expect("the folder of port locks");
        let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let offset = (u32::from(start) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
            let number = FIRST + offset as u16;
            let path = dir.join(number.to_string());
            let lock = match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
                Ok(lock) => lock,
                Err(e) if e.kind() == ErrorKind::PermissionDenied => continue,
                Err(e) => panic!("opening the port lock {}: {e}", path.display()),
            };
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} on");
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}
