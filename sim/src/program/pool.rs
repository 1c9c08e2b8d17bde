//! Many seeds, side by side: worker threads take the next seed, the calling thread takes what they found.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::Trouble;
use super::options::Seeds;

/// What the calling thread is told.
pub(crate) enum Heard<T> {
    Done(u64, T),
    /// Nothing new for a while.
    Waiting,
}

/// Works for every seed, in any order, and begins none after the deadline or when `take` breaks. Returns how many were
/// worked for.
pub(crate) fn each<T: Send>(
    seeds: Seeds,
    jobs: usize,
    deadline: Option<Instant>,
    work: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(Heard<T>) -> Result<ControlFlow<()>, Trouble>,
) -> Result<u64, Trouble> {
    let begun = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let is_over = || enough.load(Ordering::Relaxed) || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let jobs = (jobs as u64).min(seeds.count()) as usize;
    let (sender, receiver) = mpsc::channel();
    let mut done = 0;
    let mut outcome = Ok(());
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, begun, is_over, work) = (sender.clone(), &begun, &is_over, &work);
            scope.spawn(move || {
                while !is_over() {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds.count() {
                        break;
                    }
                    let seed = seeds.first + number;
                    if sender.send((seed, work(seed))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        loop {
            let heard = match receiver.recv_timeout(Duration::from_millis(200)) {
                Ok((seed, found)) => {
                    done += 1;
                    Heard::Done(seed, found)
                }
                Err(RecvTimeoutError::Timeout) => Heard::Waiting,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match take(heard) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(trouble) => {
                    outcome = Err(trouble);
                    break;
                }
            }
        }
        // Workers finish the seed they are at.
        enough.store(true, Ordering::Relaxed);
    });
    outcome.map(|()| done)
}

/// Puts what comes in any order into the order of the seeds.
pub(crate) struct InOrder<T> {
    /// `None`: behind the last seed that there is.
    next: Option<u64>,
    early: BTreeMap<u64, T>,
}

impl<T> InOrder<T> {
    pub fn new(seeds: Seeds) -> InOrder<T> {
        InOrder { next: Some(seeds.first), early: BTreeMap::new() }
    }

    /// Those whose turn it is now.
    pub fn put(&mut self, seed: u64, found: T) -> Vec<(u64, T)> {
        self.early.insert(seed, found);
        let mut ready = Vec::new();
        while let Some(next) = self.next
            && let Some(found) = self.early.remove(&next)
        {
            ready.push((next, found));
            self.next = next.checked_add(1);
        }
        ready
    }

    /// Those behind a gap that nothing fills any more.
    pub fn rest(self) -> impl Iterator<Item = (u64, T)> {
        self.early.into_iter()
    }
}
