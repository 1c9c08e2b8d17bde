//! The trace is the truth: every event a line, and the SHA-256 of the text is the run's identity.
//!
//! Two runs with one hash did the same; a hash that differs between two machines or two builds is a bug of the
//! simulator, or of a member that looks at something that it should not see.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use crate::meter::{self, Part};

/// Lines shown with a failure.
const TAIL: usize = 120;

#[derive(Debug, Default)]
pub struct Trace {
    text: String,
    lines: u64,
}

impl Trace {
    /// Appends `   1.250000 what`; returns the line's number, counted from 1.
    pub fn line(&mut self, now_us: u64, what: fmt::Arguments<'_>) -> u64 {
        let _inside = meter::inside(Part::Trace);
        let (s, us) = (now_us / 1_000_000, now_us % 1_000_000);
        writeln!(self.text, "{s:>4}.{us:06} {what}").expect("a string takes everything");
        self.lines += 1;
        self.lines
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }

    pub fn tail(&self) -> String {
        let from = self.text.trim_end().rmatch_indices('\n').nth(TAIL - 1).map_or(0, |(position, _)| position + 1);
        self.text[from..].to_owned()
    }

    pub fn hash(&self) -> String {
        let _inside = meter::inside(Part::Trace);
        Sha256::digest(self.text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes everything");
            hex
        })
    }
}
