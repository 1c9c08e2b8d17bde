//! The threads that serve clients: one single-threaded runtime each, and a connection stays where it was put.
//!
//! A work-stealing runtime wakes a connection's task right after each of its requests ends, which writes every answer with a
//! system call of its own. In a single-threaded one the tasks that a batch of answers woke all run before the connection
//! does, so the batch leaves in one write; `docs/ARCHITECTURE.md` has the measurement. Nothing here may block for long:
//! what may take its time goes to [`tokio::task::spawn_blocking`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use super::desk::{Desk, MAX_DESKS};
use super::host::{Mailbox, RealClock};

/// Cheap to clone; the threads end when the last clone goes.
#[derive(Clone)]
pub struct Workers(Arc<Shared>);

struct Shared {
    handles: Vec<Handle>,
    desks: Vec<Arc<Desk>>,
    next: AtomicUsize,
    _alive: watch::Sender<()>,
}

impl Workers {
    pub fn start(count: usize, mailbox: &Mailbox, clock: RealClock) -> io::Result<Workers> {
        let (alive, gone) = watch::channel(());
        let mut handles = Vec::with_capacity(count);
        let mut desks = vec![Desk::outside(mailbox.clone(), clock)];
        for number in 1..=count.clamp(1, MAX_DESKS - 1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let (desk, inbox) = Desk::of_worker(number, mailbox.clone(), clock);
            desks.push(desk.clone());
            let mut gone = gone.clone();
            std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
                runtime.spawn(desk.run(inbox));
                // Ends with an error as soon as the sender is dropped, and only then.
                let _ = runtime.block_on(gone.changed());
                runtime.shutdown_background();
            })?;
        }
        Ok(Workers(Arc::new(Shared { handles, desks, next: AtomicUsize::new(0), _alive: alive })))
    }

    /// By number; the first is that of all other threads.
    pub fn desks(&self) -> Vec<Arc<Desk>> {
        self.0.desks.clone()
    }

    /// Runs a task on the next thread in turn.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.handles[turn % self.0.handles.len()].spawn(task);
    }
}
