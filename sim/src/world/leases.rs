//! Leases between clients and members: who keeps one alive asks a member, again and again; a member that does not lead
//! passes the question on to the leader, over the network, as production does over the peer port.
//!
//! A question is an errand: it is tried at whoever is believed to lead, until it is answered or its client loses
//! patience. A member that answers has had a round of read index confirmed since the question came. A client whose
//! keep-alive was not answered goes to the next member.

use std::collections::BTreeMap;

use lockstep::member::lease::{Renewal, TimeToLive};

use super::{Failure, Happening, What, World};
use crate::asks::{LeaseAsk, Told};
use crate::check::Seen;
use crate::choices::Point;
use crate::history::Outcome;
use lockstep::sometimes;

/// Between two attempts to find who leads.
const PAUSE_US: u64 = 50_000;
/// A keep-alive whose member is gone is sent to another one after so long.
const TURN_US: u64 = 20_000;

#[derive(Default)]
pub(super) struct Errands {
    opened: u64,
    forwarded: u64,
    open: BTreeMap<u64, Errand>,
    /// Leases that are kept alive.
    kept: BTreeMap<i64, Kept>,
    /// (member, read there) -> the errand that it is for.
    reads: BTreeMap<(u64, u64), u64>,
}

struct Errand {
    lease: i64,
    /// Whom the client asks, and in which life.
    member: u64,
    life: u64,
    /// The operation that asks for a time to live; none for a keep-alive.
    operation: Option<(u64, u64)>,
    sent_us: u64,
    /// Counts whom it was asked of; what belongs to an earlier attempt is void.
    attempt: u64,
    /// Who is asked now, and the proof of leadership that it had.
    at: Option<u64>,
    term: Option<u64>,
}

struct Kept {
    client: u64,
    member: u64,
    every_us: u64,
    /// Counts the keep-alives, and what else changes the plan.
    turn: u64,
}

/// What happens to an errand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Try {
        attempt: u64,
    },
    /// `None`: this member does not lead.
    Answered {
        attempt: u64,
        answer: Option<Answer>,
    },
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// 0: there is no such lease.
    Renewed(i64),
    /// -1: there is no such lease.
    Left(i64),
}

impl World {
    /// What is asked for about a lease, and not through the log.
    pub(super) fn ask_lease(&mut self, client: u64, number: u64, member: u64, ask: &LeaseAsk) -> Result<(), Failure> {
        match *ask {
            LeaseAsk::Left { lease } => return self.new_errand(lease, member, Some((client, number))),
            LeaseAsk::Keep { lease, every_us } => {
                let turn = self.errands.kept.get(&lease).map_or(0, |kept| kept.turn) + 1;
                self.errands.kept.insert(lease, Kept { client, member, every_us, turn });
                self.after(1, 0, 0, What::Renew { lease, turn });
            }
            LeaseAsk::Leave { lease } => drop(self.errands.kept.remove(&lease)),
            LeaseAsk::Grant { .. } | LeaseAsk::Revoke { .. } | LeaseAsk::Attach { .. } => {
                unreachable!("{ask} goes through the log")
            }
        }
        self.told(client, Outcome::Told { revision: 0, told: Told::Sent })
    }

    /// It is time for a keep-alive, at whoever is there to take it.
    pub(super) fn renew_due(&mut self, lease: i64, turn: u64) -> Result<(), Failure> {
        if self.clients_rest() {
            return Ok(());
        }
        let Some(kept) = self.errands.kept.get(&lease).filter(|kept| kept.turn == turn) else { return Ok(()) };
        let (before, every_us) = (kept.member, kept.every_us);
        let ids = self.ids();
        let from = ids.iter().position(|id| *id == before).unwrap_or(0);
        let around = (0..ids.len()).map(|step| ids[(from + step) % ids.len()]);
        let found = around.into_iter().find(|id| self.is_up(*id) && !self.weather.is_out(*id));
        let Some(member) = found else {
            self.after(every_us, 0, 0, What::Renew { lease, turn });
            return Ok(());
        };
        if let Some(kept) = self.errands.kept.get_mut(&lease) {
            kept.member = member;
        }
        self.new_errand(lease, member, None)
    }

    fn new_errand(&mut self, lease: i64, member: u64, operation: Option<(u64, u64)>) -> Result<(), Failure> {
        self.errands.opened += 1;
        let number = self.errands.opened;
        let life = self.life(member);
        let (sent_us, attempt) = (self.now_us, 0);
        let errand = Errand { lease, member, life, operation, sent_us, attempt, at: None, term: None };
        self.errands.open.insert(number, errand);
        if operation.is_none() {
            self.trace.line(self.now_us, format_args!("keep-alive {number} of lease {lease} at {member:x}"));
            self.show_clocks()?;
            self.show(&Seen::Renews { number, lease })?;
        }
        let patience_us = self.knobs.request_timeout_ms * 1_000;
        self.after(patience_us, 0, 0, What::Errand { errand: number, step: Step::GiveUp });
        self.at_errand(number, 1, Step::Try { attempt: 0 })
    }

    /// Plans a step at the member that the client asks.
    fn at_errand(&mut self, number: u64, wait_us: u64, step: Step) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.get(&number) else { return Ok(()) };
        let (member, life) = (errand.member, errand.life);
        self.after(wait_us, member, life, What::Errand { errand: number, step });
        Ok(())
    }

    pub(super) fn errand_step(&mut self, number: u64, step: Step) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.get_mut(&number) else { return Ok(()) };
        match step {
            Step::GiveUp => self.give_up(number),
            Step::Try { attempt } if attempt == errand.attempt => self.try_errand(number),
            Step::Answered { attempt, answer } if attempt == errand.attempt => match answer {
                Some(answer) => self.errand_answered(number, answer),
                None => self.try_again(number),
            },
            Step::Try { .. } | Step::Answered { .. } => Ok(()),
        }
    }

    fn try_again(&mut self, number: u64) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.get_mut(&number) else { return Ok(()) };
        errand.attempt += 1;
        (errand.at, errand.term) = (None, None);
        let attempt = errand.attempt;
        self.at_errand(number, PAUSE_US, Step::Try { attempt })
    }

    fn try_errand(&mut self, number: u64) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.get(&number) else { return Ok(()) };
        let member = errand.member;
        let leader = self.machines[&member].member.status().map_or(0, |status| status.leader);
        if leader == member {
            return self.ask_leader(number, member);
        }
        if leader == 0 || self.network.is_cut(member, leader) || !self.is_up(leader) {
            return self.try_again(number);
        }
        sometimes!("question about a lease passed on to the leader");
        if let Some(errand) = self.errands.open.get_mut(&number) {
            errand.at = Some(leader);
        }
        if let Some(way_us) = self.way_us(member, leader) {
            let life = self.life(leader);
            self.after(way_us, leader, life, What::Asked { errand: number });
        }
        Ok(())
    }

    /// How long a question or an answer takes; `None` when it is lost and nobody notices.
    fn way_us(&mut self, from: u64, to: u64) -> Option<u64> {
        self.errands.forwarded += 1;
        let point = Point::Forward { number: self.errands.forwarded };
        let (permille, most_us) = (self.knobs.late_permille, self.knobs.late_most_us);
        let late_us =
            self.choices.choose(point, |random| if random.permille(permille) { random.below(most_us) } else { 0 });
        self.network.is_open(from, to).then_some(self.knobs.delay_us + late_us)
    }

    /// The question is with a member that is believed to lead: its leadership is to be confirmed.
    pub(super) fn ask_leader(&mut self, number: u64, leader: u64) -> Result<(), Failure> {
        let timeout_ms = self.knobs.request_timeout_ms;
        let Some(errand) = self.errands.open.get_mut(&number) else { return Ok(()) };
        errand.at = Some(leader);
        let now_us = self.now_us;
        let machine = self.machine(leader);
        let mut expires = machine.clock.now(now_us);
        expires.0 += timeout_ms;
        if let Some(read) = machine.member.read(expires) {
            self.errands.reads.insert((leader, read), number);
        }
        self.wake(leader);
        Ok(())
    }

    /// A round is confirmed; whether it was for an errand.
    pub(super) fn confirmed_for(&mut self, member: u64, read: u64, led: Option<u64>) -> Result<bool, Failure> {
        let Some(number) = self.errands.reads.remove(&(member, read)) else { return Ok(false) };
        if let Some(errand) = self.errands.open.get_mut(&number).filter(|errand| errand.at == Some(member)) {
            errand.term = led;
            match led {
                Some(term) => self.ask_keeper(number, member, term)?,
                None => self.answer(number, member, None)?,
            }
        }
        Ok(true)
    }

    /// A keeper has heard something: those whom it told to ask later do.
    pub(super) fn lease_news(&mut self, member: u64) -> Result<(), Failure> {
        let here = self.errands.open.iter().filter(|(_, errand)| errand.at == Some(member));
        let waiting: Vec<(u64, u64)> = here.filter_map(|(number, errand)| Some((*number, errand.term?))).collect();
        for (number, term) in waiting {
            self.ask_keeper(number, member, term)?;
        }
        Ok(())
    }

    fn ask_keeper(&mut self, number: u64, member: u64, term: u64) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.get(&number) else { return Ok(()) };
        let (lease, is_renewal) = (errand.lease, errand.operation.is_none());
        let now_us = self.now_us;
        let machine = self.machine(member);
        machine.member.set_clock(machine.clock.now(now_us));
        let answer = if is_renewal {
            match machine.member.renew(lease, term) {
                Some(Renewal::Renewed { ttl_s }) => Some(Answer::Renewed(ttl_s)),
                Some(Renewal::NotFound) => Some(Answer::Renewed(0)),
                Some(Renewal::Later) => {
                    self.wake(member);
                    return Ok(());
                }
                Some(Renewal::NotLeader) | None => {
                    sometimes!("keep-alive was with a leader that was deposed");
                    None
                }
            }
        } else {
            match machine.member.time_to_live(lease, term) {
                Some(TimeToLive::Left { ttl_s, .. }) => Some(Answer::Left(ttl_s)),
                Some(TimeToLive::NotFound) => Some(Answer::Left(-1)),
                Some(TimeToLive::NotLeader) | None => None,
            }
        };
        self.answer(number, member, answer)
    }

    fn answer(&mut self, number: u64, member: u64, answer: Option<Answer>) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.get_mut(&number) else { return Ok(()) };
        errand.term = None;
        let (asker, attempt) = (errand.member, errand.attempt);
        let way_us = if asker == member { Some(1) } else { self.way_us(member, asker) };
        match way_us {
            Some(way_us) => self.at_errand(number, way_us, Step::Answered { attempt, answer }),
            None => Ok(()),
        }
    }

    fn errand_answered(&mut self, number: u64, answer: Answer) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.remove(&number) else { return Ok(()) };
        let lease = errand.lease;
        match (answer, errand.operation) {
            (Answer::Left(ttl_s), Some((client, operation))) => {
                if self.waits_for(client, operation) {
                    self.told(client, Outcome::Told { revision: 0, told: Told::Left { ttl_s } })?;
                }
            }
            (Answer::Renewed(ttl_s), None) => {
                self.trace.line(self.now_us, format_args!("keep-alive {number} of lease {lease}: {ttl_s} s"));
                self.show(&Seen::Renewed { number, lease, ttl_s })?;
                if ttl_s > 0 {
                    self.counted.acknowledged += 1;
                    self.next_turn(lease, errand.sent_us, None);
                } else if let Some(kept) = self.errands.kept.remove(&lease) {
                    self.lease_lost(kept.client, lease);
                }
            }
            _ => unreachable!("a question has its own answer"),
        }
        Ok(())
    }

    fn give_up(&mut self, number: u64) -> Result<(), Failure> {
        let Some(errand) = self.errands.open.remove(&number) else { return Ok(()) };
        if errand.operation.is_none() {
            sometimes!("keep-alive not answered in time");
            self.next_turn(errand.lease, self.now_us, Some(errand.member));
        }
        Ok(())
    }

    /// Plans the next keep-alive; after one that failed, at another member.
    fn next_turn(&mut self, lease: i64, sent_us: u64, failed: Option<u64>) {
        let other = failed.map(|member| self.next_voter(member));
        let Some(kept) = self.errands.kept.get_mut(&lease) else { return };
        kept.turn += 1;
        let due_us = match other {
            Some(other) => {
                kept.member = other;
                self.now_us + TURN_US
            }
            None => (sent_us + kept.every_us).max(self.now_us + 1),
        };
        let turn = kept.turn;
        self.after(due_us - self.now_us, 0, 0, What::Renew { lease, turn });
    }

    /// A member's process has ended: what was asked of it is asked elsewhere.
    pub(super) fn errands_lose(&mut self, member: u64) {
        self.errands.reads.retain(|(at, _), _| *at != member);
        let asked = self.errands.open.iter().filter(|(_, errand)| errand.member == member);
        for number in asked.map(|(number, _)| *number).collect::<Vec<_>>() {
            let Some(errand) = self.errands.open.remove(&number) else { continue };
            if errand.operation.is_none() {
                self.next_turn(errand.lease, self.now_us, Some(member));
            }
        }
        let passed_on = self.errands.open.iter().filter(|(_, errand)| errand.at == Some(member));
        for number in passed_on.map(|(number, _)| *number).collect::<Vec<_>>() {
            let again = self.try_again(number);
            self.note(again);
        }
    }

    /// All clocks, for whoever wants to know how much time passed on one.
    pub(super) fn show_clocks(&mut self) -> Result<(), Failure> {
        let now_us = self.now_us;
        let clocks: Vec<_> = self.machines.iter().map(|(id, machine)| (*id, machine.clock.now(now_us))).collect();
        self.show(&Seen::Clocks(&clocks))
    }

    pub(super) fn step_of_member(&mut self, id: u64, what: What) -> Result<(), Failure> {
        match what {
            What::Asked { errand } => self.ask_leader(errand, id),
            What::Errand { errand, step } => self.errand_step(errand, step),
            _ => unreachable!("no step of an errand"),
        }
    }

    /// An event of a member's life, planned from outside.
    pub(super) fn at_life(&mut self, at_us: u64, member: u64, life: u64, what: What) {
        self.at(at_us, super::Class::World, Happening { member, life, what });
    }
}
