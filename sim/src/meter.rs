//! Which part of a world its thread is in, for whoever wants to know where the time goes.
//!
//! A world may not look at a clock, so it cannot measure itself. It only says where it is; another thread, outside,
//! looks at that now and then, and the shares of what it sees are the shares of the time. Nobody looks during other
//! commands than `bench`, and then saying costs a test of a flag.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    Loop,
    Consensus,
    Log,
    Apply,
    Store,
    Network,
    Clients,
    Watch,
    Faults,
    Checkers,
    Trace,
}

impl Part {
    pub const ALL: [Part; 11] = [
        Part::Loop,
        Part::Consensus,
        Part::Log,
        Part::Apply,
        Part::Store,
        Part::Network,
        Part::Clients,
        Part::Watch,
        Part::Faults,
        Part::Checkers,
        Part::Trace,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Part::Loop => "the loop itself",
            Part::Consensus => "members: consensus",
            Part::Log => "members: write-ahead log",
            Part::Apply => "members: apply",
            Part::Store => "members: store (redb)",
            Part::Network => "network",
            Part::Clients => "clients",
            Part::Watch => "watches and leases",
            Part::Faults => "faults, boots",
            Part::Checkers => "checkers",
            Part::Trace => "trace",
        }
    }
}

/// Of the one thread that is watched.
static BOARD: AtomicU8 = AtomicU8::new(Part::Loop as u8);

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Until the guard is dropped, this thread is in that part; then where it was before.
#[must_use]
pub struct Inside(Option<u8>);

#[inline]
pub fn inside(part: Part) -> Inside {
    Inside(IS_WATCHED.get().then(|| BOARD.swap(part as u8, Ordering::Relaxed)))
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            BOARD.store(before, Ordering::Relaxed);
        }
    }
}

/// This thread is the watched one from now on. There is one at a time.
pub fn watch_this_thread() {
    IS_WATCHED.set(true);
}

/// Where the watched thread is now.
pub fn look() -> Part {
    Part::ALL[usize::from(BOARD.load(Ordering::Relaxed))]
}
