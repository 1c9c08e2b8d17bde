//! Members of a program that takes etcd's flags, as processes that can be killed, traced and started again on the same
//! directory and ports. Whatever happens to the test, the server and what traces it die with it.

use std::fs::OpenOptions;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub struct Member {
    pub program: PathBuf,
    flags: Vec<String>,
    pub dir: PathBuf,
    pub endpoint: String,
    log: PathBuf,
    child: Option<Child>,
}

/// `count` members of one cluster under `dir`, not started yet.
pub fn members(program: &Path, count: usize, dir: &Path) -> Vec<Member> {
    let ports = free_ports(2 * count);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let cluster: Vec<_> = (0..count).map(|m| format!("m{m}={}", url(ports[2 * m + 1]))).collect();
    let member = |m: usize| {
        let (client, peer) = (url(ports[2 * m]), url(ports[2 * m + 1]));
        let data = dir.join(format!("m{m}.etcd"));
        let flags = [
            ["--name", &format!("m{m}")],
            ["--data-dir", &data.display().to_string()],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &cluster.join(",")],
            ["--initial-cluster-state", "new"],
        ];
        Member {
            program: program.to_path_buf(),
            flags: flags.into_iter().flatten().map(String::from).collect(),
            dir: data,
            endpoint: client.clone(),
            log: dir.join(format!("m{m}.log")),
            child: None,
        }
    };
    (0..count).map(member).collect()
}

impl Member {
    /// Starts the server, behind the words of `prefix` (a tracer, a shell) if there are any.
    pub fn start(&mut self, prefix: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.endpoint);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("open the log");
        let mut command = match prefix {
            [] => Command::new(&self.program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        command.args(&self.flags).stdin(Stdio::null()).stderr(log.try_clone().expect("a second handle")).stdout(log);
        // A group of its own, so that one signal reaches the tracer too; and no longer life than ours.
        command.process_group(0);
        // SAFETY: prctl is safe between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        self.child = Some(command.spawn().unwrap_or_else(|why| panic!("start {command:?}: {why}")));
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SAFETY: the group's leader has not been waited for, so the number is still its own.
            unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
            child.wait().expect("wait for a killed server");
        }
    }

    /// How the server ended, if it does so within the time.
    pub fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        let child = self.child.as_mut().expect("the server was started");
        loop {
            if let Some(status) = child.try_wait().expect("ask for the server's end") {
                self.child = None;
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that the server has printed, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines, for a failed assertion.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that were free a moment ago; all are held until all are known, so that they differ.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("its address").port()).collect()
}

/// Whether a helper program runs here at all; says so when it does not.
pub fn works(command: &[&str]) -> bool {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    eprintln!("skipped: {command:?} does not work here");
    false
}
