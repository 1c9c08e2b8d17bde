//! Where requests wait for the member, one desk for each thread that serves clients.
//!
//! A request costs two changes of thread, to consensus and back. Done one at a time those are most of a request's
//! price, so a desk carries them in batches: what the tasks of one turn of the runtime hand in leaves together, when
//! the desk's own task gets its turn behind them; what the member answers at a time arrives as one batch, and is given
//! out on the thread whose tasks wait for it, without a lock that another thread wants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::host::{Mailbox, RealClock};
use crate::member::apply::{self, Reply, Response};
use crate::member::error::EtcdError;
use crate::member::raft::{Input, Proposal, ReadRequest};
use crate::mvcc::View;
use crate::ports::clock::{Clock, Instant};

/// Low bits of an id: the desk that waits.
const DESK_BITS: u32 = 6;
pub const MAX_DESKS: usize = 1 << DESK_BITS;

pub type Result<T> = std::result::Result<T, EtcdError>;

thread_local! {
    static HERE: RefCell<Option<Arc<Desk>>> = const { RefCell::new(None) };
}

/// See the head of this file.
pub struct Desk {
    number: u64,
    next: AtomicU64,
    requests: Waiting<Response>,
    reads: Waiting<Granted>,
    out: Mutex<Vec<Input>>,
    handed_in: Notify,
    mailbox: Mailbox,
    clock: RealClock,
    /// `None` at the desk of threads that serve no clients: what is for it is given out at once.
    answers: Option<mpsc::UnboundedSender<Answers>>,
}

type Waiting<T> = Mutex<HashMap<u64, Place<T>, BuildHasherDefault<IdHasher>>>;

struct Place<T> {
    sender: oneshot::Sender<Result<T>>,
    expires: Instant,
}

/// How often a desk looks for those who have waited too long. One look for all is cheaper than a timer for each.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(100);

/// What the member has for one desk.
pub enum Answers {
    Replies(Vec<Reply>),
    Reads { ids: Vec<u64>, granted: Granted },
}

/// What a linearizable read gets.
#[derive(Clone)]
pub struct Granted {
    pub view: Arc<View>,
    /// The term that this member was confirmed to lead since the read arrived.
    pub led: Option<u64>,
}

/// The receiving end, for [`Desk::run`].
pub struct Inbox(mpsc::UnboundedReceiver<Answers>);

impl Desk {
    /// The desk of all threads that have none of their own.
    pub fn outside(mailbox: Mailbox, clock: RealClock) -> Arc<Desk> {
        Arc::new(Desk::new(0, mailbox, clock, None))
    }

    /// The desk of a thread that serves clients; `number` is from 1 on.
    pub fn of_worker(number: usize, mailbox: Mailbox, clock: RealClock) -> (Arc<Desk>, Inbox) {
        assert!((1..MAX_DESKS).contains(&number), "a desk's number fits its bits");
        let (answers, inbox) = mpsc::unbounded_channel();
        (Arc::new(Desk::new(number as u64, mailbox, clock, Some(answers))), Inbox(inbox))
    }

    fn new(number: u64, mailbox: Mailbox, clock: RealClock, answers: Option<mpsc::UnboundedSender<Answers>>) -> Desk {
        Desk {
            number,
            next: AtomicU64::new(1),
            requests: Mutex::default(),
            reads: Mutex::default(),
            out: Mutex::default(),
            handed_in: Notify::new(),
            mailbox,
            clock,
            answers,
        }
    }

    /// The desk of this thread.
    pub fn here() -> Option<Arc<Desk>> {
        HERE.with_borrow(Clone::clone)
    }

    /// Makes this the desk of the calling thread, and serves it for ever.
    pub async fn run(self: Arc<Desk>, mut inbox: Inbox) {
        HERE.set(Some(self.clone()));
        let mut expiry = tokio::time::interval(EXPIRY_INTERVAL);
        expiry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = self.handed_in.notified() => {
                    let inputs = std::mem::take(&mut *self.out.lock());
                    self.mailbox.inputs(inputs);
                }
                answers = inbox.0.recv() => match answers {
                    Some(answers) => self.give_out(answers),
                    None => return,
                },
                _ = expiry.tick() => self.expire(),
            }
        }
    }

    /// An id for a request. `life` is where those of this life of this member begin.
    pub fn next_id(&self, life: u64) -> u64 {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        (life.wrapping_add(count) << DESK_BITS) | self.number
    }

    pub fn number(&self) -> usize {
        self.number as usize
    }

    /// The number of the desk that this id belongs to.
    pub fn of_id(id: u64) -> usize {
        (id & (MAX_DESKS as u64 - 1)) as usize
    }

    /// Hands a proposal in and waits for what applying it gives, until then.
    pub async fn propose(&self, id: u64, proposal: Proposal, until: Instant) -> Result<Response> {
        let wait = Wait::new(&self.requests, id, until);
        self.hand_in(Input::Propose(proposal));
        self.wait(wait).await
    }

    /// The same with a change of the membership.
    pub async fn propose_conf_change(&self, id: u64, change: Proposal) -> Result<Response> {
        let wait = Wait::new(&self.requests, id, change.expires);
        self.hand_in(Input::ProposeConfChange(change));
        self.wait(wait).await
    }

    /// Asks the apply machine, and waits for its answer until `expires`.
    pub async fn ask(&self, id: u64, input: apply::Input, expires: Instant) -> Result<Response> {
        let wait = Wait::new(&self.requests, id, expires);
        self.mailbox.apply(input);
        self.wait(wait).await
    }

    /// Waits for a view that this read may use, until it expires.
    pub async fn read(&self, read: ReadRequest) -> Result<Granted> {
        let wait = Wait::new(&self.reads, read.id, read.expires);
        self.hand_in(Input::Read(read));
        self.wait(wait).await
    }

    /// From the member's threads.
    pub fn answer(&self, answers: Answers) {
        match &self.answers {
            Some(worker) => drop(worker.send(answers)),
            None => self.give_out(answers),
        }
    }

    /// Lets everybody who waits go, without an answer.
    pub fn dismiss(&self) {
        self.requests.lock().clear();
        self.reads.lock().clear();
    }

    async fn wait<T>(&self, wait: Wait<'_, T>) -> Result<T> {
        if self.answers.is_some() {
            return wait.answer().await;
        }
        // Nobody looks after this desk.
        let limit = Duration::from_millis(wait.expires.saturating_since(self.clock.now()));
        tokio::time::timeout(limit, wait.answer()).await.unwrap_or(Err(EtcdError::Timeout))
    }

    fn expire(&self) {
        let now = self.clock.now();
        expire(&mut self.requests.lock(), now);
        expire(&mut self.reads.lock(), now);
    }

    fn hand_in(&self, input: Input) {
        if self.answers.is_none() {
            self.mailbox.consensus(input);
            return;
        }
        let mut out = self.out.lock();
        out.push(input);
        if out.len() == 1 {
            self.handed_in.notify_one();
        }
    }

    fn give_out(&self, answers: Answers) {
        // A receiver that is gone has timed out or hung up.
        match answers {
            Answers::Replies(replies) => {
                let mut waiting = self.requests.lock();
                for reply in replies {
                    if let Some(place) = waiting.remove(&reply.id) {
                        let _ = place.sender.send(reply.result);
                    }
                }
            }
            Answers::Reads { ids, granted } => {
                let mut waiting = self.reads.lock();
                for id in ids {
                    if let Some(place) = waiting.remove(&id) {
                        let _ = place.sender.send(Ok(granted.clone()));
                    }
                }
            }
        }
    }
}

fn expire<T>(waiting: &mut HashMap<u64, Place<T>, BuildHasherDefault<IdHasher>>, now: Instant) {
    for (_, place) in waiting.extract_if(|_, place| place.expires <= now) {
        let _ = place.sender.send(Err(EtcdError::Timeout));
    }
}

/// Somebody who waits at a desk. The place is given up when this is dropped.
struct Wait<'a, T> {
    waiting: &'a Waiting<T>,
    id: u64,
    expires: Instant,
    receiver: oneshot::Receiver<Result<T>>,
    answered: bool,
}

impl<'a, T> Wait<'a, T> {
    fn new(waiting: &'a Waiting<T>, id: u64, expires: Instant) -> Wait<'a, T> {
        let (sender, receiver) = oneshot::channel();
        waiting.lock().insert(id, Place { sender, expires });
        Wait { waiting, id, expires, receiver, answered: false }
    }

    /// The answer, or `Stopped` when the member goes without giving one.
    async fn answer(mut self) -> Result<T> {
        let answer = (&mut self.receiver).await;
        self.answered = true;
        answer.unwrap_or(Err(EtcdError::Stopped))
    }
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        if !self.answered {
            self.waiting.lock().remove(&self.id);
        }
    }
}

/// Splits what the member answers by the desk that waits for it.
pub struct Sorted<T>(BTreeMap<usize, Vec<T>>);

impl<T> Default for Sorted<T> {
    fn default() -> Sorted<T> {
        Sorted(BTreeMap::new())
    }
}

impl<T> Sorted<T> {
    pub fn push(&mut self, desk: usize, item: T) {
        self.0.entry(desk).or_default().push(item);
    }

    pub fn drain(&mut self) -> impl Iterator<Item = (usize, Vec<T>)> + use<T> {
        std::mem::take(&mut self.0).into_iter()
    }
}

/// Ids are counted up: they need no mixing but that of their low bits.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are u64");
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
