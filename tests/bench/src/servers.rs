//! Clusters of a program that takes etcd's flags: started in a fresh directory, watched, measured, stopped.
//!
//! A server never outlives this program (the kernel kills it with us), and a server that does not come up is an
//! error with the end of its log, never a hang.

use crate::client;
use crate::usage;
use lockstep_proto::etcdserverpb::{RangeRequest, RangeResponse};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ten million revisions take some time to read.
const UP_WITHIN: Duration = Duration::from_secs(300);
const STOP_WITHIN: Duration = Duration::from_secs(20);

pub struct Cluster {
    members: Vec<Member>,
    dir: PathBuf,
}

struct Member {
    command: Command,
    child: Child,
    client: String,
    log: PathBuf,
}

impl Cluster {
    /// Starts `count` members of `program` under `dir` (emptied first), each fsync made `fsync_ms` slower, and waits
    /// until every member answers a linearizable read.
    pub fn start(program: &Path, count: usize, fsync_ms: u64, dir: &Path) -> Result<Cluster, String> {
        Cluster::start_with(program, count, fsync_ms, dir, &[])
    }

    /// The same, with more flags.
    pub fn start_with(
        program: &Path,
        count: usize,
        fsync_ms: u64,
        dir: &Path,
        flags: &[&str],
    ) -> Result<Cluster, String> {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).map_err(|why| format!("create {}: {why}", dir.display()))?;
        let ports = free_ports(2 * count).map_err(|why| format!("find free ports: {why}"))?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<_> = (0..count).map(|m| format!("m{m}={}", url(ports[2 * m + 1]))).collect();
        let mut cluster = Cluster { members: Vec::new(), dir: dir.to_path_buf() };
        for number in 0..count {
            let (client, peer) = (url(ports[2 * number]), url(ports[2 * number + 1]));
            let log = dir.join(format!("m{number}.log"));
            let mut command = with_fsync(program, fsync_ms);
            command
                .args(["--name", &format!("m{number}"), "--data-dir"])
                .arg(dir.join(format!("m{number}.etcd")))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
                .args(flags);
            let child = spawn(&mut command, &log)?;
            let client = format!("127.0.0.1:{}", ports[2 * number]);
            cluster.members.push(Member { command, child, client, log });
        }
        cluster.wait_up()?;
        Ok(cluster)
    }

    /// Stops every member and starts it again on what it has; how long it took until all answer, from the start on.
    pub fn restart(&mut self) -> Result<Duration, String> {
        self.stop();
        let start = Instant::now();
        for member in &mut self.members {
            member.child = spawn(&mut member.command, &member.log)?;
        }
        self.wait_up()?;
        Ok(start.elapsed())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    /// Where the members have their data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// CPU seconds that all members have used; strace's own are not in it.
    pub fn cpu_seconds(&self) -> f64 {
        self.members.iter().filter_map(|member| usage::cpu_seconds(member.child.id())).sum()
    }

    /// Resident memory of all members, now and at its highest, in MiB.
    pub fn memory_mib(&self) -> (f64, f64) {
        let memory = self.members.iter().filter_map(|member| usage::memory_mib(member.child.id()));
        memory.fold((0.0, 0.0), |sum, (now, high)| (sum.0 + now, sum.1 + high))
    }

    /// Fails when a member has stopped, with the end of its log.
    pub fn check(&mut self) -> Result<(), String> {
        for member in &mut self.members {
            if let Ok(Some(status)) = member.child.try_wait() {
                return Err(format!("the member at {} stopped ({status}): {}", member.client, log_end(&member.log)));
            }
        }
        Ok(())
    }

    fn wait_up(&mut self) -> Result<(), String> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
        let deadline = Instant::now() + UP_WITHIN;
        for endpoint in self.endpoints() {
            loop {
                self.check()?;
                let range = RangeRequest { key: "up".into(), ..Default::default() };
                let answer = runtime.block_on(client::unary::<RangeResponse>(&endpoint, client::RANGE, &range));
                match answer {
                    Ok(_) => break,
                    Err(why) if Instant::now() > deadline => {
                        return Err(format!("not up in {} s: {why}", UP_WITHIN.as_secs()));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        for member in &self.members {
            // SAFETY: a signal to a child that has not been waited for.
            unsafe { libc::kill(member.child.id() as libc::pid_t, libc::SIGTERM) };
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for member in &mut self.members {
            while matches!(member.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The echo server of this program, as a process of its own.
pub struct Echo {
    child: Child,
    pub endpoint: String,
}

impl Echo {
    pub fn start() -> Result<Echo, String> {
        use std::io::BufRead;
        let program = std::env::current_exe().map_err(|why| format!("find this program: {why}"))?;
        let mut command = Command::new(program);
        command.arg("echo").stdout(Stdio::piped());
        die_with_us(&mut command);
        let mut child = command.spawn().map_err(|why| format!("start the echo server: {why}"))?;
        let mut endpoint = String::new();
        let out = child.stdout.take().expect("stdout is a pipe");
        io::BufReader::new(out).read_line(&mut endpoint).map_err(|why| format!("the echo server's address: {why}"))?;
        Ok(Echo { child, endpoint: endpoint.trim().to_string() })
    }

    pub fn cpu_seconds(&self) -> f64 {
        usage::cpu_seconds(self.child.id()).unwrap_or(0.0)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, with strace beside it when fsync is to be slower. With `-D` the server is our child and strace is not.
///
/// `--seccomp-bpf` alone is not fair: strace stops a thread at *every* system call until it first sees that thread make
/// a traced one. A server with a thread for its log never shows the others; one whose threads take turns soon shows
/// all. Every thread of either server calls `sigaltstack` once when it starts, so that is traced too, and costs nothing
/// later.
fn with_fsync(program: &Path, fsync_ms: u64) -> Command {
    if fsync_ms == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null"]);
    command.args(["-e", "trace=fdatasync,fsync,sigaltstack", "-e"]);
    command.arg(format!("inject=fdatasync,fsync:delay_exit={}", fsync_ms * 1000)).arg(program);
    command
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child, String> {
    let what = format!("start {}", command.get_program().display());
    let out = File::create(log).map_err(|why| format!("create {}: {why}", log.display()))?;
    let err = out.try_clone().map_err(|why| format!("{what}: {why}"))?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    die_with_us(command);
    command.spawn().map_err(|why| format!("{what}: {why}"))
}

fn die_with_us(command: &mut Command) {
    // SAFETY: prctl is safe between fork and exec. Only the main thread starts servers, so its end is ours.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Ports that were free a moment ago; all are held until all are known, so that they differ.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn log_end(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().map(|line| line.chars().take(400).collect::<String>()).collect::<Vec<_>>().join(" | ")
}
