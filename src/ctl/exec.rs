//! Commands that a command runs (`watch … -- command`, `lock name command`), with Go's texts for how they end, and the
//! signals that a command which waits is ended by.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::dial::errno_text;
use super::golang::quote;
use super::{Failure, code};

/// A command that did not end well.
#[derive(Debug)]
pub struct Ended {
    pub text: String,
    /// What a shell would see of it; `None` if it never ran.
    pub code: Option<u8>,
}

/// Which side wins when a variable is set already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variables {
    Replace,
    Keep,
}

/// Runs a command to its end, without standard input. Everything else of this program goes on meanwhile.
pub async fn run(words: &[Vec<u8>], variables: Vec<(&'static str, String)>, how: Variables) -> Result<(), Ended> {
    let (name, args) = words.split_first().expect("there is a command");
    let mut command = Command::new(OsStr::from_bytes(name));
    command.args(args.iter().map(|arg| OsStr::from_bytes(arg))).stdin(Stdio::null());
    for (variable, value) in variables {
        if how == Variables::Replace || std::env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    let ran = tokio::task::spawn_blocking(move || command.status()).await;
    match ran.unwrap_or_else(|why| Err(std::io::Error::other(why))) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(Ended { text: status_text(status), code: Some(status.code().map_or(255, |code| code as u8)) })
        }
        Err(_) if !name.contains(&b'/') => {
            Err(Ended { text: format!("exec: {}: executable file not found in $PATH", quote(name)), code: None })
        }
        Err(why) => {
            let name = String::from_utf8_lossy(name);
            Err(Ended { text: format!("fork/exec {name}: {}", errno_text(&why)), code: None })
        }
    }
}

fn status_text(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else { return format!("exit status {}", status.code().unwrap_or_default()) };
    let name = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        _ => "",
    };
    let dumped = if status.core_dumped() { " (core dumped)" } else { "" };
    if name.is_empty() { format!("signal: signal {signal}{dumped}") } else { format!("signal: {name}{dumped}") }
}

/// SIGINT and SIGTERM, from now on: the command ends by itself.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Result<Signals, Failure> {
        let on = |kind| signal(kind).map_err(|why| Failure::new(code::ERROR, why.to_string()));
        Ok(Signals { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
