//! Weather: faults come and go, and the run's three phases.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{Failure, Phase, What, World};
use crate::check::Seen;
use crate::fault::budget::{Budget, Standing};
use crate::fault::out::Out;
use crate::fault::{self, Fault, Sight};
use crate::knobs::Knobs;
use crate::random::{Purpose, Random};
use crate::{scenario, timeline};

/// How often a kind of fault that cannot strike now is drawn again.
const ATTEMPTS: usize = 4;

pub(super) struct Weather {
    random: Option<Random>,
    budget: Budget,
    struck: u64,
    lasting: BTreeMap<u64, Lasting>,
    /// Members that are to stay out of the liveness phase; the true ones are to be dead.
    out: BTreeMap<u64, bool>,
    /// Where in the picture a message's arrow is, by link and number.
    pub(super) arrows: BTreeMap<(u64, u64, u64), usize>,
}

struct Lasting {
    fault: Rc<dyn Fault>,
    bar: usize,
    is_drawn: bool,
}

impl Weather {
    pub fn new(seed: Option<u64>) -> Weather {
        Weather {
            random: seed.map(|seed| Random::new(seed, Purpose::Process)),
            budget: Budget::default(),
            struck: 0,
            lasting: BTreeMap::new(),
            out: BTreeMap::new(),
            arrows: BTreeMap::new(),
        }
    }

    /// Whether this member takes no part in the liveness phase.
    pub fn is_out(&self, id: u64) -> bool {
        self.out.contains_key(&id)
    }

    fn is_dead(&self, id: u64) -> bool {
        self.out.get(&id).copied().unwrap_or(false)
    }
}

impl World {
    // For `out`.

    pub fn put_out(&mut self, id: u64, dead: bool) {
        self.weather.out.insert(id, dead);
        if dead && self.is_up(id) {
            self.machine(id).member.kill();
            self.ended(id, "stays out");
        }
    }

    pub fn put_in(&mut self, id: u64) {
        self.weather.out.remove(&id);
    }

    pub(super) fn must_stay_down(&self, id: u64) -> bool {
        self.weather.is_dead(id)
    }

    // Faults.

    pub(super) fn next_fault(&mut self) {
        let every_us = self.knobs.fault_every_ms * 1_000;
        if let Some(random) = &mut self.weather.random
            && every_us > 0
        {
            let wait_us = random.between(1, 2 * every_us);
            self.script(self.now_us + wait_us, What::DrawFault);
        }
    }

    pub(super) fn draw_fault(&mut self) -> Result<(), Failure> {
        if self.phase != Phase::Safety {
            return Ok(());
        }
        self.next_fault();
        let kinds: Vec<_> = fault::KINDS
            .iter()
            .filter(|kind| self.knobs.faults.contains(kind.name) && !self.options.without.contains(kind.name))
            .collect();
        let knobs = self.knobs.clone();
        let sight = self.sight(&knobs);
        let Some(random) = self.weather.random.as_mut().filter(|_| !kinds.is_empty()) else { return Ok(()) };
        let drawn = (0..ATTEMPTS).find_map(|_| (random.pick(&kinds).draw)(random, &sight));
        let Some(fault) = drawn else { return Ok(()) };
        let standing = self.standing();
        if let Err(why) = self.weather.budget.admit(&*fault, standing) {
            // Not in the trace: a record of this run has no such line, and must have the same trace.
            *self.counted.refused.entry(fault.kind()).or_default() += 1;
            self.counted.notes.push(format!("{}: the budget refuses {fault}: {why}", fault::print_time(self.now_us)));
            return Ok(());
        }
        self.strike_now(fault.into(), true)
    }

    /// A line of a record says that a fault strikes.
    pub(super) fn strike(&mut self, fault: Rc<dyn Fault>) -> Result<(), Failure> {
        self.strike_now(fault, false)
    }

    fn strike_now(&mut self, fault: Rc<dyn Fault>, is_drawn: bool) -> Result<(), Failure> {
        let line = self.trace.line(self.now_us, format_args!("fault {fault}"));
        self.record.push(scenario::Event { at_us: self.now_us, what: scenario::What::Fault(fault.clone()) });
        if let Err(why) = fault.strike(self) {
            self.say(&format!("it has no effect: {why}"));
            if is_drawn {
                self.weather.budget.over(&*fault);
            }
            return Ok(());
        }
        *self.counted.faults.entry(fault.kind()).or_default() += 1;
        let bar = self.draw_bar(&*fault, line);
        let Some(lasts_us) = fault.lasts_us() else {
            if is_drawn {
                self.weather.budget.over(&*fault);
            }
            return Ok(());
        };
        self.weather.struck += 1;
        let number = self.weather.struck;
        if let Some(over_us) = self.now_us.checked_add(lasts_us) {
            self.after(over_us - self.now_us, 0, 0, What::FaultOver(number));
        }
        self.weather.lasting.insert(number, Lasting { fault, bar, is_drawn });
        self.wake_all();
        Ok(())
    }

    pub(super) fn fault_over(&mut self, number: u64) -> Result<(), Failure> {
        let Some(Lasting { fault, bar, is_drawn }) = self.weather.lasting.remove(&number) else { return Ok(()) };
        self.say(&format!("over: {fault}"));
        fault.end(self);
        if is_drawn {
            self.weather.budget.over(&*fault);
        }
        if let Some(bar) = self.timeline.as_mut().and_then(|timeline| timeline.faults.get_mut(bar)) {
            bar.to_us = self.now_us;
        }
        self.operator_looks();
        self.wake_all();
        Ok(())
    }

    fn all_over(&mut self) -> Result<(), Failure> {
        for number in self.weather.lasting.keys().copied().collect::<Vec<_>>() {
            self.fault_over(number)?;
        }
        for id in self.ids() {
            let now_us = self.now_us;
            let machine = self.machine(id);
            machine.paused_until_us = machine.paused_until_us.min(now_us);
            machine.crash_in_commit = None;
            machine.crash_after_defragment = None;
            self.resume(id);
            self.put_out_fuse(id);
            self.start_soon(id);
        }
        self.operator_looks();
        Ok(())
    }

    // Phases.

    pub(super) fn core_begins(&mut self) -> Result<(), Failure> {
        self.say("the safety phase is over");
        self.all_over()?;
        self.lift_quotas();
        self.phase = Phase::Core;
        if let Some(timeline) = &mut self.timeline {
            timeline.core_us = Some(self.now_us);
        }
        Ok(())
    }

    pub(super) fn draw_out(&mut self) -> Result<(), Failure> {
        let knobs = self.knobs.clone();
        let sight = self.sight(&knobs);
        let Some(random) = &mut self.weather.random else { return Ok(()) };
        if self.knobs.fault_every_ms == 0 || self.options.without.contains(fault::out::KIND.name) {
            return Ok(());
        }
        let outs = Out::draw(random, &sight);
        let (standing, mut away) = (self.standing(), BTreeSet::new());
        for out in outs {
            away.extend(out.members());
            if standing.bears(&away) {
                self.strike_now(Rc::new(out), true)?;
            } else {
                away.retain(|id| !out.members().contains(id));
            }
        }
        Ok(())
    }

    pub(super) fn core_stands(&mut self) -> Result<(), Failure> {
        let members: Vec<u64> = self.members().into_iter().filter(|id| !self.weather.is_out(*id)).collect();
        // A file may leave fewer than chance would.
        if !self.has_quorum_of(&members) {
            self.say("too few are left for a majority");
            return Ok(());
        }
        let clients = self.client_ids();
        self.say(&format!("members {} must get on alone", fault::print_members(&members)));
        self.show_clocks()?;
        self.show(&Seen::Core { members: &members, clients: &clients })
    }

    pub(super) fn rest_begins(&mut self) -> Result<(), Failure> {
        self.say("everyone is well");
        self.phase = Phase::Rest;
        self.readers_hurry();
        self.retire_removed();
        self.all_over()?;
        if let Some(timeline) = &mut self.timeline {
            timeline.rest_us = Some(self.now_us);
        }
        self.show_clocks()?;
        self.show(&Seen::Healed)
    }

    fn sight<'a>(&self, knobs: &'a Knobs) -> Sight<'a> {
        let members: Vec<u64> = self.ids().into_iter().filter(|id| self.takes_part(*id)).collect();
        let up = members.iter().copied().filter(|id| self.is_up(*id)).collect();
        let disks = self.machines.iter().map(|(id, machine)| (*id, machine.member.disk().clone())).collect();
        let Standing { voters, learners, lost, .. } = self.standing();
        let voters: Vec<u64> = voters.last().into_iter().flatten().copied().collect();
        let lost = voters.iter().copied().filter(|id| lost.contains(id)).collect();
        let spares = self.spares();
        let learners = learners.into_iter().collect();
        Sight { knobs, members, up, voters, learners, lost, spares, leaders: self.leaders(), disks }
    }

    fn wake_all(&mut self) {
        for id in self.ids() {
            self.wake(id);
        }
    }

    // The picture.

    fn draw_bar(&mut self, fault: &dyn Fault, line: u64) -> usize {
        let now_us = self.now_us;
        let Some(timeline) = &mut self.timeline else { return usize::MAX };
        timeline.faults.push(timeline::Bar {
            from_us: now_us,
            to_us: now_us,
            members: fault.members(),
            kind: fault.kind(),
            text: fault.to_string(),
            line,
        });
        timeline.faults.len() - 1
    }

    pub(super) fn bars_to_the_end(&self, timeline: &mut timeline::Timeline) {
        for lasting in self.weather.lasting.values() {
            if let Some(bar) = timeline.faults.get_mut(lasting.bar) {
                bar.to_us = self.now_us;
            }
        }
    }
}
