//! Progress on a terminal: that of bytes that come, and the line of `check`, drawn as the library does that etcdctl
//! takes: counters, a bar as wide as the terminal has room for (none when there is no terminal), percents, the time
//! that is left.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::golang::{format_duration, human_bytes};
use super::{emit, say_error_bytes};

/// How often the line is drawn again.
pub const REFRESH: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Bar {
    total: u64,
    current: AtomicU64,
    start: Instant,
    /// What was drawn last, and when that was new.
    changed: Mutex<(u64, Instant)>,
}

impl Bar {
    pub fn new(total: u64) -> Bar {
        let now = Instant::now();
        Bar { total, current: AtomicU64::new(0), start: now, changed: Mutex::new((0, now)) }
    }

    pub fn add_one(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    pub fn draw(&self) {
        let current = self.current.load(Ordering::Relaxed);
        let mut changed = self.changed.lock();
        let now = Instant::now();
        if changed.0 != current {
            *changed = (current, now);
        }
        let mut left = String::new();
        if current > 0 {
            let each_ns = changed.1.duration_since(self.start).as_nanos() / u128::from(current);
            let left_ns = u128::from(self.total.saturating_sub(current)) * each_ns;
            let left_s = left_ns.saturating_sub(now.duration_since(changed.1).as_nanos()) / 1_000_000_000;
            if left_s > 0 {
                left = format!(" {}", minutes(left_s as u64));
            }
        }
        self.print(current, &left);
    }

    /// The last line, with the time it all took.
    pub fn finish(&self) {
        let took = format_duration(self.start.elapsed().as_secs() as i64 * 1_000_000_000);
        self.print(self.current.load(Ordering::Relaxed), &format!(" {took}"));
        emit(b"\n");
    }

    fn print(&self, current: u64, time: &str) {
        let counters = format!(" {current} / {} ", self.total);
        let percent = format!(" {:6.2}%", current as f64 * 100.0 / self.total as f64);
        let width = terminal_columns();
        let bar = bar(width.saturating_sub(counters.len() + percent.len() + time.len() + 2), current, self.total);
        let line = format!("{counters}{bar}{percent}{time}");
        emit(format!("\r{line:width$}").as_bytes());
    }
}

/// The progress of bytes that come, on standard error, when that is a terminal.
#[derive(Debug)]
pub struct Flow {
    total_bytes: u64,
    started: Instant,
    drawn: Option<Instant>,
}

impl Flow {
    pub fn new(total_bytes: u64) -> Flow {
        Flow { total_bytes, started: Instant::now(), drawn: None }
    }

    /// So much of it is there.
    pub fn at(&mut self, bytes: u64) {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REFRESH) || bytes >= self.total_bytes;
        if !is_due || !std::io::stderr().is_terminal() {
            return;
        }
        self.drawn = Some(Instant::now());
        let (done, total) = (human_bytes(bytes), human_bytes(self.total_bytes));
        let rate = human_bytes((bytes as f64 / self.started.elapsed().as_secs_f64().max(0.001)) as u64);
        let percent = (bytes * 100).checked_div(self.total_bytes).unwrap_or(100).min(100);
        let full = "=".repeat(percent as usize * DOWNLOAD_COLUMNS / 100);
        let line = format!("\r[{full:DOWNLOAD_COLUMNS$}] {percent:3}% {done} / {total}, {rate}/s ");
        say_error_bytes(line.as_bytes());
    }

    pub fn finish(self) {
        if self.drawn.is_some() {
            say_error_bytes(b"\n");
        }
    }
}

const DOWNLOAD_COLUMNS: usize = 40;

fn bar(room: usize, current: u64, total: u64) -> String {
    if room == 0 {
        return String::new();
    }
    let full = ((current as f64 / total as f64 * room as f64).ceil() as usize).min(room);
    let done = match full {
        0 => String::new(),
        _ if full == room => "o".repeat(full),
        _ => "o".repeat(full - 1) + "m",
    };
    format!("B{done}{}!", " ".repeat(room - full))
}

fn minutes(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let hours = if hours > 0 { format!("{hours}h") } else { String::new() };
    format!("{hours}{minutes:02}m{seconds:02}s")
}

/// None without a terminal.
fn terminal_columns() -> usize {
    if !std::io::stdout().is_terminal() {
        return 0;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call fills in `size`, which lives as long as it takes.
    let rc = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    if rc == 0 { usize::from(size.ws_col) } else { 0 }
}
