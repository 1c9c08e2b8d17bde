//! Members of a program that takes etcd's flags, as processes that can be killed, traced and started again on the same
//! directory and ports. Whatever happens to the test, the server and what traces it die with it.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::util::process::{Port, founder_flags, log_to, read_log, tail};
use crate::util::start::wait;

pub struct Member {
    pub program: PathBuf,
    flags: Vec<String>,
    pub dir: PathBuf,
    pub endpoint: String,
    log: PathBuf,
    _ports: (Port, Port),
    child: Option<Child>,
}

/// `count` members of one cluster under `dir`, not started yet.
pub fn members(program: &Path, count: usize, dir: &Path) -> Vec<Member> {
    let ports: Vec<_> = (0..count).map(|_| (Port::reserve(), Port::reserve())).collect();
    let cluster: Vec<_> = ports.iter().enumerate().map(|(m, (_, peer))| format!("m{m}={}", peer.url())).collect();
    let member = |(m, ports): (usize, (Port, Port))| {
        let data = dir.join(format!("m{m}.etcd"));
        Member {
            program: program.to_path_buf(),
            flags: founder_flags(&format!("m{m}"), &data, &ports.0, &ports.1, &cluster),
            dir: data,
            endpoint: ports.0.url(),
            log: dir.join(format!("m{m}.log")),
            _ports: ports,
            child: None,
        }
    };
    ports.into_iter().enumerate().map(member).collect()
}

impl Member {
    pub fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    /// Starts the server, behind the words of `prefix` (a tracer, a shell) if there are any.
    pub fn start(&mut self, prefix: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.endpoint);
        let mut command = match prefix {
            [] => Command::new(&self.program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        command.args(&self.flags);
        log_to(&mut command, &self.log);
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
        let status = wait(self.child.as_mut().expect("the server was started"), within)?;
        self.child = None;
        Some(status)
    }

    /// All that the server has printed, over all its starts.
    pub fn log(&self) -> String {
        read_log(&self.log)
    }

    /// The last lines, for a failed assertion.
    pub fn log_end(&self) -> String {
        let end = tail(&self.log(), 12);
        end.lines().map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
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
