//! The trace is the truth: every event a line, and the SHA-256 of all lines is the run's identity.
//!
//! Two runs with one hash did the same; a hash that differs between two machines or two builds is a bug of the
//! simulator.

use std::collections::VecDeque;
use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Lines kept for the report of a failure.
const TAIL: usize = 120;

#[derive(Debug, Default)]
pub struct Trace {
    hasher: Sha256,
    lines: u64,
    tail: VecDeque<String>,
    /// All of it, when somebody wants to read it.
    whole: Option<String>,
}

impl Trace {
    pub fn new(keep_whole: bool) -> Trace {
        Trace { whole: keep_whole.then(String::new), ..Trace::default() }
    }

    pub fn line(&mut self, now_us: u64, what: &str) {
        let line = format!("{:>4}.{:06} {what}\n", now_us / 1_000_000, now_us % 1_000_000);
        self.hasher.update(line.as_bytes());
        self.lines += 1;
        if let Some(whole) = &mut self.whole {
            whole.push_str(&line);
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect()
    }

    pub fn whole(&self) -> Option<&str> {
        self.whole.as_deref()
    }

    pub fn hash(&self) -> String {
        self.hasher.clone().finalize().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes everything");
            hex
        })
    }
}
