//! The threads that serve clients: one single-threaded runtime each, and a connection stays where it was put.
//!
//! A work-stealing runtime wakes a connection's task right after each of its requests ends, which writes every answer
//! with a system call of its own. In a single-threaded one the tasks that a batch of answers woke all run before the
//! connection does, so the batch leaves in one write; `docs/ARCHITECTURE.md` has the measurement. Nothing here may
//! block for long: what may take its time goes to [`apart`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use super::apart;
use super::desk::{Desk, MAX_DESKS};
use super::host::{Mailbox, RealClock};
use super::node::Node;
use super::watching::{self, Setup, Watching};

type WatchInboxes = Vec<watching::Inbox>;

/// Cheap to clone; the threads end when the last clone goes.
#[derive(Clone)]
pub struct Workers(Arc<Shared>);

struct Shared {
    handles: Vec<Handle>,
    next: AtomicUsize,
    _alive: watch::Sender<()>,
}

impl Workers {
    pub fn start(count: usize) -> io::Result<Workers> {
        let (alive, gone) = watch::channel(());
        let mut handles = Vec::with_capacity(count);
        for number in 1..=count.max(1) {
            let runtime = Builder::new_current_thread().max_blocking_threads(apart::MOST).enable_all().build()?;
            handles.push(runtime.handle().clone());
            let mut gone = gone.clone();
            std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
                // Ends with an error as soon as the sender is dropped, and only then.
                let _ = runtime.block_on(gone.changed());
                runtime.shutdown_background();
            })?;
        }
        Ok(Workers(Arc::new(Shared { handles, next: AtomicUsize::new(0), _alive: alive })))
    }

    /// Runs a task on the next thread in turn.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.handles[turn % self.0.handles.len()].spawn(task);
    }

    /// Opens a desk on every thread, and one for all others. They come by their numbers.
    pub(super) fn open_desks(&self, mailbox: &Mailbox, clock: RealClock) -> Vec<Arc<Desk>> {
        let mut desks = vec![Desk::outside(mailbox.clone(), clock)];
        for handle in self.0.handles.iter().take(MAX_DESKS - 1) {
            let (desk, inbox) = Desk::of_worker(desks.len(), mailbox.clone(), clock);
            handle.spawn(desk.clone().run(inbox));
            desks.push(desk);
        }
        desks
    }

    /// Opens a place for watch streams on every thread that has a desk, in the same order.
    pub(super) fn open_watching(&self, setup: Setup, clock: RealClock) -> (Vec<Arc<Watching>>, WatchInboxes) {
        (1..=self.0.handles.len().min(MAX_DESKS - 1)).map(|number| Watching::new(number, setup, clock)).unzip()
    }

    /// Serves them.
    pub(super) fn serve_watching(&self, node: &Arc<Node>, inboxes: WatchInboxes) {
        for ((handle, watching), inbox) in self.0.handles.iter().zip(&node.watching).zip(inboxes) {
            handle.spawn(watching.clone().run(node.clone(), inbox));
        }
    }
}
