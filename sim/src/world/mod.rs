//! The world: members, network, disks, clients and faults in one event loop, from one seed or from a record.
//!
//! One queue of events ordered by `(virtual time, class, sequence)`, one thread. Each member's stages (consensus, log,
//! apply, backend) are events of their own, so they interleave as threads would; an fsync takes its time, and a crash
//! may come before its end, or inside of any disk operation. Reads are carried out on their view in a later event.
//!
//! ```text
//! 0 ── safety ───────────── core ─────────── rest ──────── end
//!      clients and faults   some members     everyone is
//!                           stay out, the    well; then all
//!                           others must      must be alike
//!                           get on alone
//! ```
//!
//! What is drawn, is drawn in [`Choices`], by the fault kinds and by the workloads, and recorded as the lines of a
//! [`Scenario`]; what is played from a scenario draws nothing. Everything that happens is shown to all checkers.

mod clients;
mod cluster;
mod leases;
mod machines;
mod room;
mod watches;
mod weather;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use lockstep::marks;
use lockstep::member::watch::Response;
use lockstep::mutation::{self, Mutation};
use lockstep::mvcc::View;
use lockstep_proto::raftpb::Message;

use crate::check::{self, Checker, Seen};
use crate::choices::{Choices, ElectionDice, Point, Stage};
use crate::disk::Loss;
use crate::fault::Fault;
use crate::history::Operation;
use crate::knobs::Knobs;
use crate::meter::{self, Part};
use crate::network::Network;
use crate::report::{Report, Verdict};
use crate::scenario::{self, Expect, Scenario};
use crate::timeline::{self, Timeline};
use crate::trace::Trace;
use clients::Clients;
use cluster::Cluster;
use leases::Errands;
pub use machines::{Machine, PowerCut};
use watches::Watches;
use weather::Weather;

/// What a run goes by.
pub enum Script {
    Seed { seed: u64, knobs: Knobs },
    Scenario(Scenario),
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The report holds the whole trace.
    pub keep_trace: bool,
    /// The report holds the data of a picture.
    pub keep_timeline: bool,
    /// Kinds of fault that chance does not draw.
    pub without: BTreeSet<String>,
    /// A deliberate bug to switch on; a scenario's own comes first.
    pub mutation: Option<Mutation>,
}

/// Runs the world to its end, or to what breaks.
pub fn run(script: Script, options: Options) -> Report {
    let mut world = World::new(script, options);
    while world.next_time_us().is_some() {
        world.step();
    }
    world.finish()
}

/// See the head of this file.
pub struct World {
    knobs: Knobs,
    seed: Option<u64>,
    options: Options,
    mutation: Option<Mutation>,
    expect: Expect,
    head: Vec<String>,
    now_us: u64,
    end_us: u64,
    sequence: u64,
    events: BTreeMap<(u64, Class, u64), Happening>,
    choices: Choices,
    dice: ElectionDice,
    machines: BTreeMap<u64, Machine>,
    cluster: Cluster,
    network: Network,
    clients: Clients,
    watches: Watches,
    errands: Errands,
    /// The newest revision that any member has shown.
    made: i64,
    weather: Weather,
    phase: Phase,
    checkers: Vec<Box<dyn Checker>>,
    verdict: Option<Verdict>,
    counted: Counted,
    record: Vec<scenario::Event>,
    trace: Trace,
    timeline: Option<Timeline>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Safety,
    Core,
    Rest,
}

#[derive(Default)]
struct Counted {
    events: u64,
    messages: u64,
    faults: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    work: BTreeMap<String, u64>,
    acknowledged: u64,
    notes: Vec<String>,
}

/// Of two events at one time, what the script says comes first: so a record replays in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Script,
    World,
}

/// An event, and whose it is.
struct Happening {
    member: u64,
    /// The member's life; 0 for any.
    life: u64,
    what: What,
}

enum What {
    // Of a member's life.
    Tick,
    Arrive(Box<Message>, u64),
    /// The transport hears how the snapshot that it sent has ended.
    SnapshotSent {
        to: u64,
        ok: bool,
    },
    Stage(Stage),
    Fsync,
    StoreCommitDue,
    /// A tenth of a second for watch machine and keeper.
    Beat,
    WatchTaken {
        stream: u64,
        charge: usize,
    },
    /// A question about a lease arrives here.
    Asked {
        errand: u64,
    },
    /// It has heard a while ago that it was removed.
    Leave,
    /// A pause is over.
    Resume,
    /// A cut of the power that was to come inside of a disk operation comes now, if none has met it.
    Fuse,
    // Of a member, dead or alive.
    Start,
    // Of clients.
    Ask {
        client: u64,
    },
    Play {
        client: u64,
        member: u64,
        operation: Operation,
    },
    TimeOut {
        client: u64,
        number: u64,
    },
    Look {
        client: u64,
        number: u64,
        view: Arc<View>,
    },
    /// A response arrives on a watch stream.
    Hear {
        stream: u64,
        response: Response,
    },
    /// It is time to renew a lease.
    Renew {
        lease: i64,
        turn: u64,
    },
    /// An errand is to be tried again, or answered, or given up.
    Errand {
        errand: u64,
        step: leases::Step,
    },
    // Of the world.
    MakeRoom,
    DrawFault,
    Strike(Rc<dyn Fault>),
    FaultOver(u64),
    CoreBegins,
    DrawOut,
    CoreStands,
    RestBegins,
}

impl What {
    /// Where its time goes, as far as nothing below says it better.
    fn part(&self) -> Part {
        match self {
            What::Tick | What::Stage(Stage::Consensus) => Part::Consensus,
            What::Stage(Stage::Log) | What::Fsync => Part::Log,
            What::Stage(Stage::Apply) => Part::Apply,
            What::Stage(Stage::Backend | Stage::Compaction) | What::StoreCommitDue => Part::Store,
            What::Stage(Stage::Watch | Stage::Lease) | What::Beat | What::WatchTaken { .. } => Part::Watch,
            What::Hear { .. } | What::Renew { .. } | What::Errand { .. } | What::Asked { .. } => Part::Watch,
            What::Arrive(..) | What::SnapshotSent { .. } => Part::Network,
            What::Ask { .. } | What::Play { .. } | What::TimeOut { .. } | What::Look { .. } => Part::Clients,
            _ => Part::Faults,
        }
    }
}

impl World {
    pub fn new(script: Script, options: Options) -> World {
        let (seed, knobs, scenario) = match script {
            Script::Seed { seed, knobs } => (Some(seed), knobs, None),
            Script::Scenario(scenario) => (None, scenario.knobs.clone(), Some(scenario)),
        };
        let choices = || match (&scenario, seed) {
            (Some(scenario), _) => Choices::record(&scenario.exceptions),
            (None, seed) => Choices::chance(seed.unwrap_or(0)),
        };
        let (choices, dice) = (choices(), ElectionDice::new(choices()));
        let machine = |id| (id, Machine::new(id, &knobs, &dice));
        let machines = (1..=knobs.machines()).map(machine).collect();
        let (mutation, expect, head, lines) = match scenario {
            Some(s) => (s.mutation.or(options.mutation), s.expect, s.head, s.events),
            None => (options.mutation, Expect::Pass, Vec::new(), Vec::new()),
        };
        // Both are of this thread, and so is the run.
        marks::take();
        mutation::set(mutation);
        let mut checkers = check::all(&knobs);
        if let Some(mutation) = mutation {
            // A deliberate bug is for the checkers that its row names: others, which object earlier to the same bug,
            // would keep them from ever being put to the test.
            checkers.retain(|checker| mutation.checkers().contains(&checker.name()));
        }
        let mut world = World {
            seed,
            mutation,
            expect,
            head,
            now_us: 0,
            end_us: (knobs.safety_ms + knobs.core_ms + knobs.rest_ms) * 1_000,
            sequence: 0,
            events: BTreeMap::new(),
            choices,
            dice,
            machines,
            cluster: Cluster::new(knobs.members),
            network: Network::new(),
            clients: Clients::new(&knobs, seed),
            watches: Watches::default(),
            errands: Errands::default(),
            made: 1,
            weather: Weather::new(seed),
            phase: Phase::Safety,
            checkers,
            verdict: None,
            counted: Counted::default(),
            record: Vec::new(),
            trace: Trace::default(),
            timeline: options.keep_timeline.then(|| Timeline { members: knobs.members, ..Timeline::default() }),
            options,
            knobs,
        };
        world.begin(lines);
        world
    }

    /// When the next event happens; `None`: the run is over.
    pub fn next_time_us(&self) -> Option<u64> {
        if self.has_failed() {
            return None;
        }
        self.events.first_key_value().map(|((time_us, ..), _)| *time_us).filter(|time_us| *time_us <= self.end_us)
    }

    /// The next event happens. A panic of the product is a finding like any other.
    pub fn step(&mut self) {
        let Some(((time_us, ..), happening)) = self.events.pop_first() else { return };
        self.now_us = time_us;
        self.counted.events += 1;
        self.guarded(|world| world.happen(happening));
    }

    /// The last look at everything.
    pub fn finish(mut self) -> Report {
        if !self.has_failed() {
            self.now_us = self.end_us;
            self.guarded(World::look_at_the_end);
        }
        mutation::set(None);
        let verdict = self.verdict.take().unwrap_or(Verdict::Ok);
        if let Some(signature) = verdict.signature() {
            self.expect = Expect::Fail(signature);
        }
        let exceptions = self.choices.exceptions().into_iter();
        let exceptions =
            exceptions.filter(|e| !matches!(e.point, Point::Election { .. })).chain(self.dice.exceptions());
        let trace_hash = self.trace.hash();
        let timeline = self.timeline.take().map(|timeline| self.complete(timeline, &verdict));
        Report {
            seed: self.seed,
            knobs: self.knobs.clone(),
            trace_hash: trace_hash.clone(),
            trace_lines: self.trace.lines(),
            simulated_us: self.now_us,
            events: self.counted.events,
            messages: self.counted.messages,
            faults: self.counted.faults,
            refused: self.counted.refused,
            work: self.counted.work,
            acknowledged: self.counted.acknowledged,
            notes: self.counted.notes,
            marks: marks::take(),
            trace_tail: self.trace.tail(),
            scenario: Scenario {
                head: self.head,
                knobs: self.knobs,
                mutation: self.mutation,
                expect: self.expect,
                events: self.record,
                exceptions: exceptions.collect(),
                trace: Some(trace_hash),
            },
            trace: self.options.keep_trace.then(|| self.trace.into_text()),
            timeline,
            verdict,
        }
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Fail { .. }))
    }

    // For faults.

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    pub fn ids(&self) -> Vec<u64> {
        self.machines.keys().copied().collect()
    }

    pub fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    pub fn machine(&mut self, id: u64) -> &mut Machine {
        self.machines.get_mut(&id).expect("a member of this world")
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.machines.get(&id).is_some_and(|machine| machine.member.is_up())
    }

    /// A line of the trace.
    pub fn say(&mut self, what: &str) {
        self.trace.line(self.now_us, format_args!("{what}"));
    }

    // The loop.

    fn begin(&mut self, lines: Vec<scenario::Event>) {
        for id in 1..=self.knobs.members {
            self.after(0, id, 0, What::Start);
        }
        let core_us = self.knobs.safety_ms * 1_000;
        let rest_us = core_us + self.knobs.core_ms * 1_000;
        self.after(core_us, 0, 0, What::CoreBegins);
        self.after(core_us + 2, 0, 0, What::CoreStands);
        self.after(rest_us, 0, 0, What::RestBegins);
        self.operator_begins();
        if self.seed.is_some() {
            for client in 1..=self.knobs.clients {
                self.think(client);
            }
            self.next_fault();
            self.script(core_us + 1, What::DrawOut);
        }
        for line in lines {
            let what = match line.what {
                scenario::What::Client { client, member, operation } => What::Play { client, member, operation },
                scenario::What::Fault(fault) => What::Strike(fault),
            };
            self.script(line.at_us, what);
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Failure> {
        let Happening { member, life, what } = happening;
        let _inside = meter::inside(what.part());
        if member != 0 {
            return self.happen_to(member, life, what);
        }
        match what {
            What::Ask { client } => self.ask(client),
            What::Play { client, member, operation } => self.play(client, member, operation),
            What::TimeOut { client, number } => self.time_out(client, number),
            What::Look { client, number, view } => self.look(client, number, &view),
            What::Hear { stream, response } => self.hear(stream, response),
            What::Renew { lease, turn } => self.renew_due(lease, turn),
            What::Errand { errand, step } => self.errand_step(errand, step),
            What::MakeRoom => self.make_room(),
            What::DrawFault => self.draw_fault(),
            What::Strike(fault) => self.strike(fault),
            What::FaultOver(number) => self.fault_over(number),
            What::CoreBegins => self.core_begins(),
            What::DrawOut => self.draw_out(),
            What::CoreStands => self.core_stands(),
            What::RestBegins => self.rest_begins(),
            _ => unreachable!("an event of a member without one"),
        }
    }

    fn guarded(&mut self, what: impl FnOnce(&mut World) -> Result<(), Failure>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| what(self))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
            Err(Failure { checker: "panic", place: "the product panics", story: text })
        });
        self.note(outcome);
    }

    /// The first failure is the run's.
    fn note(&mut self, outcome: Result<(), Failure>) {
        if let Err(Failure { checker, place, story }) = outcome
            && !self.has_failed()
        {
            self.trace.line(self.now_us, format_args!("FAILURE {checker}: {place}"));
            self.verdict = Some(Verdict::Fail { checker, place, story });
        }
    }

    /// Shows all checkers what happened.
    fn show(&mut self, seen: &Seen) -> Result<(), Failure> {
        show(&mut self.checkers, &mut self.verdict, self.now_us, seen)
    }

    fn look_at_the_end(&mut self) -> Result<(), Failure> {
        let members = self.members();
        let end = self.machines.values().filter(|m| members.contains(&m.member.id()));
        let end: Vec<_> = end.map(|m| (m.member.id(), m.member.status(), m.member.view())).collect();
        for (id, status, view) in end {
            let (Some(status), Some(view)) = (status, view) else {
                let story = format!("member {id} is down at the end: {}", self.machines[&id].ended_by);
                return Err(Failure { checker: "process", place: "a member does not come back", story });
            };
            self.show(&Seen::AtRest { status: &status, view: &view })?;
        }
        self.open_to_the_end()?;
        self.show(&Seen::Over)
    }

    fn complete(&self, mut timeline: Timeline, verdict: &Verdict) -> Timeline {
        timeline.end_us = self.now_us;
        timeline.lines = self.trace.text().lines().map(str::to_owned).collect();
        self.bars_to_the_end(&mut timeline);
        if let Verdict::Fail { checker, place, story } = verdict {
            // A checker that can name operations ends its story with them.
            let named = story.rsplit_once("operations:").map_or("", |(_, list)| list);
            timeline.verdict = Some(timeline::Verdict {
                checker: (*checker).to_owned(),
                place: (*place).to_owned(),
                story: story.clone(),
                operations: named.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect(),
            });
        }
        timeline
    }

    // Time.

    fn after(&mut self, wait_us: u64, member: u64, life: u64, what: What) {
        self.at(self.now_us + wait_us, Class::World, Happening { member, life, what });
    }

    /// At this time, before everything else that happens then.
    fn script(&mut self, at_us: u64, what: What) {
        self.at(at_us, Class::Script, Happening { member: 0, life: 0, what });
    }

    fn at(&mut self, at_us: u64, class: Class, happening: Happening) {
        self.sequence += 1;
        self.events.insert((at_us, class, self.sequence), happening);
    }
}

/// What ends a run. The first two are its signature.
struct Failure {
    checker: &'static str,
    place: &'static str,
    story: String,
}

fn show(
    checkers: &mut [Box<dyn Checker>],
    verdict: &mut Option<Verdict>,
    now_us: u64,
    seen: &Seen,
) -> Result<(), Failure> {
    let _inside = meter::inside(Part::Checkers);
    for checker in checkers {
        match checker.see(now_us, seen) {
            Ok(()) => {}
            Err(objection) if objection.undecided => {
                verdict.get_or_insert(Verdict::Unknown { checker: checker.name(), story: objection.story });
            }
            Err(objection) => {
                let (checker, place) = (checker.name(), objection.place);
                return Err(Failure { checker, place, story: objection.story });
            }
        }
    }
    Ok(())
}

/// How much of what was not synced survives, in the words of the trace.
fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::Everything => "everything unsynced is lost",
        Loss::Nothing => "nothing is lost",
        Loss::Prefix => "the first unsynced changes survive",
        Loss::Sectors => "some unsynced sectors survive",
    }
}
