//! Clients: closed loops that ask members, wait, lose patience, and try again where that is safe.
//!
//! As real clients see it: a request that a member refused was not done, and may be asked again of another; one whose
//! answer did not come in time, or whose member died, may have been done, may yet be, or never, and is not repeated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep::member::apply::Response;
use lockstep::member::error::EtcdError;
use lockstep::mvcc::View;
use lockstep::mvcc::read::Error;

use super::{Class, Failure, Phase, What, World};
use crate::asks::Told;
use crate::asks::lock::Entries;
use crate::check::Seen;
use crate::history::{Operation, Outcome};
use crate::knobs::Knobs;
use crate::random::{Purpose, Random};
use crate::workload::{self, Work};
use crate::{notation, scenario, timeline};

/// After everything has healed clients go on for one part of so many; what remains is for coming to rest.
const REST_PARTS: u64 = 3;
/// How often, in a thousand, and how long at most a reader dawdles between getting its view and reading.
const DAWDLE_PERMILLE: u64 = 50;
const DAWDLE_MOST_US: u64 = 200_000;
const RETRY_US: u64 = 50_000;

pub(super) struct Clients {
    /// What each client waits for; clients count from 1.
    pending: BTreeMap<u64, Pending>,
    /// Of a record, what a client has still to ask because it was busy when its time came.
    backlog: BTreeMap<u64, VecDeque<(u64, Operation)>>,
    /// A refused request that its client asks again, and how often it still may.
    again: BTreeMap<u64, (Operation, usize, u64)>,
    /// (member, id at the member) -> the client.
    waiting: BTreeMap<(u64, u64), u64>,
    operations: u64,
    /// Since when keys in rooms have been there, as their clients know.
    entries: Entries,
    /// Values written so far, of each client.
    values: BTreeMap<u64, u64>,
    works: Vec<(&'static str, u64, Box<dyn Work>)>,
    random: Option<Random>,
}

struct Pending {
    number: u64,
    member: u64,
    operation: Operation,
    /// Which work asked for it, and how often it may be asked again.
    work: Option<usize>,
    retries: u64,
    span: usize,
}

impl Clients {
    pub fn new(knobs: &Knobs, seed: Option<u64>) -> Clients {
        let kinds = workload::KINDS.iter().filter(|kind| knobs.work.contains(kind.name));
        Clients {
            pending: BTreeMap::new(),
            backlog: BTreeMap::new(),
            again: BTreeMap::new(),
            waiting: BTreeMap::new(),
            operations: 0,
            entries: Entries::new(),
            values: BTreeMap::new(),
            works: kinds.map(|kind| (kind.name, kind.weight, (kind.make)(knobs.clients))).collect(),
            random: seed.map(|seed| Random::new(seed, Purpose::Workload)),
        }
    }
}

impl World {
    /// A client that is free asks again after a while, unless a record says what it does.
    pub(super) fn think(&mut self, client: u64) {
        if let Some((member, operation)) = self.clients.backlog.get_mut(&client).and_then(VecDeque::pop_front) {
            self.script(self.now_us + 1, What::Play { client, member, operation });
            return;
        }
        let Some(random) = &mut self.clients.random else { return };
        let mut pause_us = random.between(1, self.knobs.think_most_ms * 1_000);
        if self.clients.again.contains_key(&client) {
            pause_us = RETRY_US;
        }
        self.script(self.now_us + pause_us, What::Ask { client });
    }

    /// A free client draws what it does next.
    pub(super) fn ask(&mut self, client: u64) -> Result<(), Failure> {
        if self.clients_rest() {
            return Ok(());
        }
        let among: Vec<u64> = self.voters().into_iter().filter(|id| !self.weather.is_out(*id)).collect();
        let among = if among.is_empty() { self.ids() } else { among };
        let Some(random) = &mut self.clients.random else { return Ok(()) };
        let member = *random.pick(&among);
        let (operation, work, retries) = match self.clients.again.remove(&client) {
            Some((operation, work, retries)) => (operation, work, retries - 1),
            None => {
                let sum = self.clients.works.iter().map(|(_, weight, _)| weight).sum();
                let mut ticket = random.below(sum);
                let chosen = self.clients.works.iter().position(|(_, weight, _)| {
                    let found = ticket < *weight;
                    ticket = ticket.saturating_sub(*weight);
                    found
                });
                let work = chosen.expect("the ticket is below the sum");
                let values = self.clients.values.entry(client).or_default();
                let mut fresh = || {
                    *values += 1;
                    format!("{client}.{values}")
                };
                let (name, _, drawing) = &mut self.clients.works[work];
                let operation = drawing.next(client, random, &mut fresh);
                *self.counted.work.entry((*name).to_owned()).or_default() += 1;
                (operation, work, self.knobs.retries)
            }
        };
        let what = scenario::What::Client { client, member, operation: operation.clone() };
        self.record.push(scenario::Event { at_us: self.now_us, what });
        self.request(client, member, operation, Some(work), retries)
    }

    /// How long clients wait for an answer: in the liveness phase no longer than leaves time to ask again, for what was
    /// asked of a leader that is cut off just then is lost.
    fn patience_ms(&self) -> u64 {
        let wanted = self.knobs.request_timeout_ms;
        if self.phase == Phase::Core { wanted.min(self.knobs.core_ms / 4) } else { wanted }
    }

    /// Everything has healed a while ago: clients ask for nothing any more, so that members come to rest.
    pub(super) fn clients_rest(&self) -> bool {
        let rest_us = self.knobs.rest_ms * 1_000;
        self.now_us > self.end_us - rest_us + rest_us / REST_PARTS
    }

    /// The end is near: keepers, which might note for ever what is left of leases, stop as well.
    pub(super) fn keepers_rest(&self) -> bool {
        self.now_us > self.end_us - self.knobs.rest_ms * 1_000 / (2 * REST_PARTS)
    }

    /// A line of a record says what a client does now; if it is busy, then as soon as it is free.
    pub(super) fn play(&mut self, client: u64, member: u64, operation: Operation) -> Result<(), Failure> {
        if self.clients.pending.contains_key(&client) {
            self.clients.backlog.entry(client).or_default().push_back((member, operation));
            return Ok(());
        }
        let what = scenario::What::Client { client, member, operation: operation.clone() };
        self.record.push(scenario::Event { at_us: self.now_us, what });
        self.request(client, member, operation, None, 0)
    }

    fn request(
        &mut self,
        client: u64,
        member: u64,
        operation: Operation,
        work: Option<usize>,
        retries: u64,
    ) -> Result<(), Failure> {
        self.clients.operations += 1;
        let number = self.clients.operations;
        let text = format_args!("client {client} asks {member:x} #{number}: {operation}");
        let line = self.trace.line(self.now_us, text);
        let span = self.draw_request(number, client, member, &operation, line);
        if let Operation::Lease(_) = operation {
            self.show_clocks()?;
        }
        self.show(&Seen::Asked { number, client, member, operation: &operation })?;
        self.clients
            .pending
            .insert(client, Pending { number, member, operation: operation.clone(), work, retries, span });
        if !self.machines.contains_key(&member) || !self.is_up(member) {
            return self.told(client, Outcome::Refused { error: "connection refused".into() });
        }
        let timeout_ms = self.patience_ms();
        self.after(timeout_ms * 1_000, 0, 0, What::TimeOut { client, number });
        let request = match &operation {
            Operation::Watch(ask) => return self.ask_watch(client, member, ask),
            Operation::Lease(ask) if ask.request().is_none() => return self.ask_lease(client, number, member, ask),
            Operation::Lock(ask) if !ask.is_read() => match ask.request(&self.clients.entries) {
                Ok(request) => Some(request),
                Err(why) => return self.told(client, Outcome::Refused { error: why.to_owned() }),
            },
            _ => operation.request(),
        };
        let now_us = self.now_us;
        let machine = self.machine(member);
        let mut expires = machine.clock.now(now_us);
        expires.0 += timeout_ms;
        let asked = match (request, operation.is_serializable()) {
            (Some(request), _) => machine.member.propose(request, expires),
            (None, false) => machine.member.read(expires),
            (None, true) => {
                let view = machine.member.view().expect("it runs");
                self.look_later(client, view);
                return Ok(());
            }
        };
        self.clients.waiting.insert((member, asked.expect("it runs")), client);
        self.wake(member);
        Ok(())
    }

    /// A member answers a write.
    pub(super) fn reply(
        &mut self,
        member: u64,
        request: u64,
        result: &Result<Response, EtcdError>,
    ) -> Result<(), Failure> {
        let Some(client) = self.clients.waiting.remove(&(member, request)) else { return Ok(()) };
        let Some(pending) = self.clients.pending.get(&client) else { return Ok(()) };
        let outcome = pending.operation.outcome(result);
        self.trace.line(self.now_us, format_args!("{member:x} replies {}", notation::reply(result)));
        self.told(client, outcome)
    }

    /// A member has a view for a linearizable read.
    pub(super) fn view_for(&mut self, member: u64, read: u64, view: Arc<View>) {
        if let Some(client) = self.clients.waiting.remove(&(member, read)) {
            self.look_later(client, view);
        }
    }

    fn look_later(&mut self, client: u64, view: Arc<View>) {
        let Some(number) = self.clients.pending.get(&client).map(|pending| pending.number) else { return };
        let late_us = self.choices.choose(crate::choices::Point::Look { number }, |random| {
            if random.permille(DAWDLE_PERMILLE) { random.below(DAWDLE_MOST_US) } else { 0 }
        });
        self.after(1 + late_us, 0, 0, What::Look { client, number, view });
    }

    /// A client reads what its view shows; compaction may have overtaken it, then it takes a fresh one.
    pub(super) fn look(&mut self, client: u64, number: u64, view: &View) -> Result<(), Failure> {
        let Some(pending) = self.clients.pending.get(&client).filter(|pending| pending.number == number) else {
            return Ok(());
        };
        let member = pending.member;
        let read = match &pending.operation {
            Operation::Lock(ask) => ask.read(view, &self.clients.entries),
            operation => operation.read(view),
        };
        match read {
            Ok(outcome) => self.told(client, outcome),
            Err(Error::Overtaken) => match self.machine(member).member.view() {
                // No second choice at the same point: a record could not tell the two apart.
                Some(view) => {
                    self.after(1, 0, 0, What::Look { client, number, view });
                    Ok(())
                }
                None => Ok(()),
            },
            // A member that cannot read its own store ends; what reaches the client is a lost connection.
            Err(error) if self.machine(member).damaged > 0 => {
                self.told(client, Outcome::Unknown { why: format!("reading failed: {error}") })
            }
            Err(error) => {
                let story = format!("client {client} at member {member}: {error}");
                Err(Failure { checker: "process", place: "a read fails", story })
            }
        }
    }

    pub(super) fn time_out(&mut self, client: u64, number: u64) -> Result<(), Failure> {
        if self.clients.pending.get(&client).is_some_and(|pending| pending.number == number) {
            return self.told(client, Outcome::Unknown { why: "timed out".into() });
        }
        Ok(())
    }

    /// A member's process has ended, and its connections with it.
    pub(super) fn members_clients_lose(&mut self, member: u64) {
        self.clients.waiting.retain(|(at, _), _| *at != member);
        let here = self.clients.pending.iter().filter(|(_, pending)| pending.member == member);
        for client in here.map(|(client, _)| *client).collect::<Vec<_>>() {
            let told = self.told(client, Outcome::Unknown { why: "connection lost".into() });
            self.note(told);
        }
    }

    /// What was never answered is open to the end.
    pub(super) fn open_to_the_end(&mut self) -> Result<(), Failure> {
        for client in self.clients.pending.keys().copied().collect::<Vec<_>>() {
            self.told(client, Outcome::Unknown { why: "the run ends".into() })?;
        }
        Ok(())
    }

    /// Whether this operation is still the one that the client waits for.
    pub(super) fn waits_for(&self, client: u64, number: u64) -> bool {
        self.clients.pending.get(&client).is_some_and(|pending| pending.number == number)
    }

    /// A watcher has no stream any more, or none that goes on.
    pub(super) fn watcher_broke(&mut self, client: u64, watcher: u64) {
        self.clients.works.iter_mut().for_each(|(_, _, work)| work.broke(client, watcher));
    }

    /// A lease that a client keeps alive is gone.
    pub(super) fn lease_lost(&mut self, client: u64, lease: i64) {
        self.clients.works.iter_mut().for_each(|(_, _, work)| work.lost(client, lease));
    }

    pub(super) fn told(&mut self, client: u64, outcome: Outcome) -> Result<(), Failure> {
        let Some(pending) = self.clients.pending.remove(&client) else { return Ok(()) };
        let Pending { number, member, operation, work, retries, span } = pending;
        self.clients.waiting.retain(|_, waiting| *waiting != client);
        self.trace.line(self.now_us, format_args!("client {client} is told #{number}: {outcome}"));
        let is_acknowledged = match &outcome {
            Outcome::Done { .. } | Outcome::Read { .. } => true,
            Outcome::Told { told, .. } => *told != Told::Sent,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => false,
        };
        self.counted.acknowledged += u64::from(is_acknowledged);
        if let (Operation::Lock(ask), Outcome::Told { told: Told::Entered { create_revision }, .. }) =
            (&operation, &outcome)
            && let Some(key) = ask.key()
        {
            self.clients.entries.insert(key, *create_revision);
        }
        if let Some(span) = self.timeline.as_mut().and_then(|timeline| timeline.operations.get_mut(span)) {
            span.to_us = (!matches!(outcome, Outcome::Unknown { .. })).then_some(self.now_us);
            span.outcome = Some(outcome.clone());
            span.told_us = Some(self.now_us);
        }
        if let Some(work) = work {
            let is_refused = matches!(outcome, Outcome::Refused { .. });
            if is_refused && retries > 0 {
                self.clients.again.insert(client, (operation.clone(), work, retries));
            } else {
                self.clients.works[work].2.learn(client, &operation, &outcome);
            }
        }
        let shown = self.show(&Seen::Answered { number, client, member, operation: &operation, outcome: &outcome });
        self.think(client);
        shown
    }

    /// Clients that a stalled core is measured by: of a seed all, since all ask its members; of a record those that
    /// have something to ask of it that tells whether it gets on, and time for the answer.
    pub(super) fn client_ids(&self) -> Vec<u64> {
        if self.seed.is_some() {
            return (1..=self.knobs.clients).collect();
        }
        let soon_us = self.now_us + self.knobs.core_ms * 1_000 / 2;
        let soon = self.events.range(..(soon_us, Class::Script, 0));
        let asking = soon.filter_map(|(_, happening)| match &happening.what {
            What::Play { client, member, operation } if !self.weather.is_out(*member) && operation.shows_progress() => {
                Some(*client)
            }
            _ => None,
        });
        asking.collect::<BTreeSet<u64>>().into_iter().collect()
    }

    fn draw_request(&mut self, number: u64, client: u64, member: u64, operation: &Operation, line: u64) -> usize {
        let Some(timeline) = &mut self.timeline else { return usize::MAX };
        timeline.operations.push(timeline::Span {
            number,
            client,
            member,
            from_us: self.now_us,
            to_us: None,
            operation: operation.clone(),
            outcome: None,
            told_us: None,
            line,
        });
        timeline.operations.len() - 1
    }
}
