//! A bar on a terminal's stderr, and nothing anywhere else.

use std::io::Write;
use std::time::{Duration, Instant};

const BAR_COLUMNS: u64 = 30;
const REDRAW: Duration = Duration::from_millis(100);

pub(crate) struct Progress {
    /// `None`: nobody looks.
    begun: Option<Instant>,
    total: u64,
    drawn: Option<Instant>,
}

impl Progress {
    pub fn new(terminal: bool, total: u64) -> Progress {
        Progress { begun: terminal.then(Instant::now), total, drawn: None }
    }

    /// So many are done.
    pub fn show(&mut self, err: &mut dyn Write, done: u64, note: &str) {
        let Some(begun) = self.begun else { return };
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let filled = (done * BAR_COLUMNS).checked_div(self.total).unwrap_or(0).min(BAR_COLUMNS) as usize;
        let bar = "#".repeat(filled) + &"-".repeat(BAR_COLUMNS as usize - filled);
        let elapsed_s = begun.elapsed().as_secs_f64();
        let left = match done {
            0 => String::new(),
            _ => format!(", {:.0} s left", elapsed_s / done as f64 * self.total.saturating_sub(done) as f64),
        };
        // Nobody can be told that stderr cannot be written to.
        let _ = write!(err, "\r\x1b[K[{bar}] {done}/{}{left}{note}", self.total);
        let _ = err.flush();
    }

    /// Takes the bar away, so that something else can be printed.
    pub fn clear(&mut self, err: &mut dyn Write) {
        if self.drawn.take().is_some() {
            let _ = write!(err, "\r\x1b[K");
            let _ = err.flush();
        }
    }
}
