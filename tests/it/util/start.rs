//! Starting `lockstepd` or a real etcd with given words, and hearing what it says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The server under test.
pub fn lockstepd() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_lockstepd"))
}

/// A command in `dir` whose environment is `env` and nothing else.
pub fn command(program: &Path, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env_clear().envs(env.iter().copied().collect::<BTreeMap<_, _>>());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a process that ended by itself left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs to the end; a process that goes on for ten seconds is ended, with no code.
pub fn run_to_end(mut command: Command) -> Ended {
    let mut child = command.spawn().expect("program starts");
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        text
    });
    let read_err = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        text
    });
    let status = wait(&mut child, Duration::from_secs(10));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ended { code: status.and_then(|s| s.code()), stdout: read.join().unwrap(), stderr: read_err.join().unwrap() }
}

/// Waits for the end of a process, for so long.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running server; ended when dropped.
pub struct Running {
    pub child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    pub seen: Vec<String>,
}

/// Starts a server and listens to its log.
pub fn start(mut command: Command) -> Running {
    let mut child = command.spawn().expect("program starts");
    let (send, lines) = std::sync::mpsc::channel();
    let err = child.stderr.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(err).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    Running { child, lines, seen: Vec::new() }
}

impl Running {
    /// The next log line with this message, as JSON.
    pub fn line(&mut self, msg: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line {msg:?}; the log so far:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if let Ok(value) = serde_json::from_str::<Value>(&line)
                && value["msg"] == msg
            {
                return value;
            }
        }
    }

    /// Where clients are served.
    pub fn client_address(&mut self) -> String {
        let line = self.line("serving client traffic insecurely; this is strongly discouraged!");
        line["address"].as_str().expect("an address").to_string()
    }

    /// SIGTERM, then the exit code; `None` when it did not end in time.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        wait(&mut self.child, limit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
