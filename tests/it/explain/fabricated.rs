//! Reports that no world made, for the pictures' tests: a cluster that seems to run, and whatever must not break them.
//!
//! What is told here is plausible, not checked: an election, rounds of MsgApp, faults, and clients that ask.

use std::collections::BTreeMap;

use lockstep_sim::history::{Operation, Outcome};
use lockstep_sim::knobs::Knobs;
use lockstep_sim::report::{Report, Verdict};
use lockstep_sim::scenario::{Expect, Scenario};
use lockstep_sim::timeline::{self, Arrow, Bar, Life, RoleChange, Span, Timeline};

const S: u64 = 1_000_000;
const MS: u64 = 1_000;

/// A stale read in five members: the first leader is paused, another is elected and takes a write, and when the first
/// wakes it answers a read from what it had. A crash, a torn log and a partition happen beside it.
pub fn small() -> Report {
    let mut run = Run::new(5, 4 * S);
    for id in 1..=5 {
        run.life(id, 0, (id == 5).then_some((2_000 * MS, "crash, log torn at 1536")));
        run.role(id, 0, "StateFollower", 0, 0);
    }
    run.life(5, 2_900 * MS, None);
    run.role(5, 2_900 * MS, "StateFollower", 2, 2);
    run.election(1, 1, 200 * MS, &[2, 3, 4, 5]);
    run.rounds(1, 1, 210 * MS, 1_500 * MS, &[2, 3, 4, 5]);
    run.fault(1_500 * MS, 3_200 * MS, "pause", &[1], "pause 1 for 1700ms");
    run.fault(2_000 * MS, 2_000 * MS, "crash", &[5], "crash 5 torn for 900ms");
    run.fault(900 * MS, 1_200 * MS, "isolate", &[4], "isolate 4 for 300ms");
    run.election(2, 2, 2_600 * MS, &[3, 4]);
    run.rounds(2, 2, 2_620 * MS, 3_990 * MS, &[1, 3, 4, 5]);
    run.role(1, 3_290 * MS, "StateFollower", 2, 30);
    run.put(1, 1, 300 * MS, 310 * MS, "k", "1.1");
    run.put(2, 3, 420 * MS, 433 * MS, "m", "2.1");
    run.unanswered(2, 1, 1_480 * MS, 2_480 * MS, "m", "2.2");
    run.put(1, 2, 2_700 * MS, 2_712 * MS, "k", "1.2");
    run.get(3, 4, 2_800 * MS, 2_806 * MS, "k", "1.2");
    run.get(3, 1, 3_210 * MS, 3_214 * MS, "k", "1.1");
    run.refused(4, 4, 1_000 * MS, 1_120 * MS);
    run.timeline.core_us = Some(3_300 * MS);
    let story = "client 3 read k=1.1 from member 1 at 3.210000, after client 1's put of k=1.2 had been done at \
                 2.712000: operation 6 does not see operation 4, and no order of the operations on k explains both.";
    run.finish("stale read", story, &[4, 6])
}

/// As large as a picture has to bear: so long, and about so many messages.
pub fn big(end_us: u64, messages: usize) -> Report {
    let mut run = Run::new(5, end_us);
    let reign_us = end_us / 8;
    let rounds_us = (end_us / (messages as u64 / 8)).max(1);
    for id in 1..=5 {
        run.life(id, 0, (id == 3).then_some((end_us / 3, "crash")));
    }
    run.life(3, end_us / 3 + S, None);
    for nth in 0..8 {
        let (leader, term, from_us) = (nth % 5 + 1, nth + 1, nth * reign_us + 100 * MS);
        let others: Vec<u64> = (1..=5).filter(|id| *id != leader).collect();
        run.election(leader, term, from_us, &others);
        let mut at_us = from_us + 20 * MS;
        while at_us < (nth + 1) * reign_us && run.timeline.messages.len() < messages {
            run.round(leader, term, at_us, &others);
            at_us += rounds_us;
        }
        run.fault(from_us + 2 * S, from_us + 3 * S, "split", &[1, 2, 3, 4, 5], "split 1,2 3,4,5 for 1s");
        run.fault(from_us + 2_500 * MS, from_us + 4 * S, "pause", &[term % 5 + 1], "pause for 1500ms");
        run.fault(from_us + 5 * S, from_us + 5 * S, "crash", &[3], "crash 3 everything for 1s");
    }
    let mut at_us = 300 * MS;
    while at_us + 50 * MS < end_us {
        for client in 1..=5 {
            let (value, member) = (format!("{client}.{at_us}"), (client + at_us / MS) % 5 + 1);
            match run.random(10) {
                0 => run.unanswered(client, member, at_us, at_us + 90 * MS, "c", &value),
                1 => run.refused(client, member, at_us, at_us + 3 * MS),
                2..=5 => run.put(client, member, at_us, at_us + 12 * MS, "k", &value),
                _ => run.get(client, member, at_us, at_us + 8 * MS, "k", "7"),
            }
        }
        at_us += 110 * MS;
    }
    run.timeline.core_us = Some(end_us / 6 * 5);
    run.timeline.rest_us = Some(end_us / 12 * 11);
    let named = run.timeline.operations.len() as u64 - 40;
    run.finish("acknowledged write lost", "member 2 answered, and its log does not hold it.", &[named, named + 7])
}

/// Words that would break out of a string, a script, an element, an attribute or a terminal.
pub const HOSTILE: &[&str] = &[
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "\"'`\\",
    "<img onerror=alert(1)>",
    "&lt;b&gt;&#x27;",
    "\u{2028}\u{2029}\u{1b}[2J\u{0}\r\n",
    "日本語🦀",
];

/// Everything that a run may say freely is hostile.
pub fn hostile() -> Report {
    let mut run = Run::new(2, S);
    run.life(1, 0, None);
    for (nth, word) in (1..).zip(HOSTILE) {
        let at_us = nth * 50 * MS;
        run.life(2, at_us, Some((at_us + 10 * MS, word)));
        run.put(1, 1, at_us, at_us + MS, word, word);
        run.get(2, 2, at_us, at_us + MS, word, word);
        run.unanswered(3, 1, at_us, at_us + MS, word, word);
        run.fault(at_us, at_us + MS, "loss", &[1, 2], word);
        run.message(1, 2, at_us, Some(at_us + MS), "MsgApp", word);
    }
    let story = HOSTILE.concat();
    let mut report = run.finish("stale read", &story, &[2]);
    report.scenario.head = HOSTILE.iter().map(|word| (*word).to_owned()).collect();
    report
}

/// A timeline in the making; lines of the trace are numbered at its end, by time.
struct Run {
    timeline: Timeline,
    commit: u64,
    seed: u64,
}

impl Run {
    fn new(members: u64, end_us: u64) -> Run {
        let timeline = Timeline { members, end_us, ..Timeline::default() };
        Run { timeline, commit: 0, seed: 1 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn life(&mut self, member: u64, from_us: u64, end: Option<(u64, &str)>) {
        let (to_us, ended_by) = (end.map(|(at_us, _)| at_us), end.map_or("", |(_, why)| why).to_owned());
        self.timeline.lives.push(Life { member, from_us, to_us, ended_by, line: 0 });
    }

    fn role(&mut self, member: u64, at_us: u64, role: &'static str, term: u64, commit: u64) {
        self.timeline.roles.push(RoleChange { at_us, member, role, term, commit, applied: commit, line: 0 });
    }

    fn message(&mut self, from: u64, to: u64, sent_us: u64, arrived_us: Option<u64>, kind: &'static str, text: &str) {
        let text = text.to_owned();
        self.timeline.messages.push(Arrow { from, to, sent_us, arrived_us, kind, text, line: 0 });
    }

    /// With etcd's words, and an arrival as chance has it.
    fn send(&mut self, from: u64, to: u64, sent_us: u64, kind: &'static str, rest: &str) -> Option<u64> {
        let is_down = |life: &Life| life.member == to && life.to_us.is_some_and(|end| end <= sent_us);
        let is_back = |life: &Life| life.member == to && life.from_us > 0 && life.from_us <= sent_us;
        let lives = &self.timeline.lives;
        let is_dead = lives.iter().any(is_down) && !lives.iter().any(is_back);
        let delay_us = 800 + self.random(2_400) + if self.random(40) == 0 { 12 * MS } else { 0 };
        let arrived_us = (!is_dead && self.random(30) != 0).then_some(sent_us + delay_us);
        self.message(from, to, sent_us, arrived_us, kind, &format!("{from}->{to} {kind} {rest}"));
        arrived_us
    }

    fn election(&mut self, leader: u64, term: u64, at_us: u64, others: &[u64]) {
        self.role(leader, at_us, "StatePreCandidate", term - 1, self.commit);
        self.role(leader, at_us + 6 * MS, "StateCandidate", term, self.commit);
        self.role(leader, at_us + 12 * MS, "StateLeader", term, self.commit);
        for (delay_us, ask, answer) in [(0, "MsgPreVote", "MsgPreVoteResp"), (6 * MS, "MsgVote", "MsgVoteResp")] {
            for to in others {
                let rest = format!("Term:{term} Log:{}/{}", term - 1, self.commit);
                if let Some(arrived_us) = self.send(leader, *to, at_us + delay_us, ask, &rest) {
                    self.send(*to, leader, arrived_us + 300, answer, &format!("Term:{term}"));
                    self.role(*to, arrived_us, "StateFollower", term, self.commit);
                }
            }
        }
    }

    /// A round of heartbeats, and every third time one of entries.
    fn round(&mut self, leader: u64, term: u64, at_us: u64, others: &[u64]) {
        let is_beat = self.random(3) != 0;
        let index = self.commit + 1;
        for to in others {
            let (kind, answer) = match is_beat {
                true => ("MsgHeartbeat", "MsgHeartbeatResp"),
                false => ("MsgApp", "MsgAppResp"),
            };
            let rest = match is_beat {
                true => format!("Term:{term} Commit:{}", self.commit),
                false => {
                    format!("Term:{term} Log:{term}/{0} Commit:{0} Entries:[{term}/{index} put k={index}]", self.commit)
                }
            };
            if let Some(arrived_us) = self.send(leader, *to, at_us, kind, &rest) {
                self.send(*to, leader, arrived_us + 700, answer, &format!("Term:{term} Index:{index}"));
                if !is_beat {
                    self.role(*to, arrived_us, "StateFollower", term, self.commit);
                }
            }
        }
        if !is_beat {
            self.commit = index;
            self.role(leader, at_us + 4 * MS, "StateLeader", term, index);
        }
    }

    fn rounds(&mut self, leader: u64, term: u64, from_us: u64, to_us: u64, others: &[u64]) {
        for at_us in (from_us..to_us).step_by(50 * MS as usize) {
            self.round(leader, term, at_us, others);
        }
    }

    fn fault(&mut self, from_us: u64, to_us: u64, kind: &'static str, members: &[u64], text: &str) {
        let (members, text) = (members.to_vec(), text.to_owned());
        self.timeline.faults.push(Bar { from_us, to_us, members, kind, text, line: 0 });
    }

    fn span(&mut self, client: u64, member: u64, from_us: u64, to_us: u64, operation: Operation, outcome: Outcome) {
        let (number, outcome) = (self.timeline.operations.len() as u64 + 1, Some(outcome));
        let (to_us, told_us) = (Some(to_us), Some(to_us));
        let span = Span { number, client, member, from_us, to_us, operation, outcome, told_us, line: 0 };
        self.timeline.operations.push(span);
    }

    fn put(&mut self, client: u64, member: u64, from_us: u64, to_us: u64, key: &str, value: &str) {
        let operation = Operation::Put { key: key.into(), value: value.into() };
        let outcome = Outcome::Done { revision: 2 + from_us as i64 / 100_000, succeeded: true, found: Vec::new() };
        self.span(client, member, from_us, to_us, operation, outcome);
    }

    fn unanswered(&mut self, client: u64, member: u64, from_us: u64, to_us: u64, key: &str, value: &str) {
        let operation = Operation::Put { key: key.into(), value: value.into() };
        self.span(client, member, from_us, to_us, operation, Outcome::Unknown { why: format!("timed out, {value}") });
    }

    fn get(&mut self, client: u64, member: u64, from_us: u64, to_us: u64, key: &str, value: &str) {
        let found = vec![(key.to_owned(), Some(value.to_owned()))];
        let outcome = Outcome::Read { revision: 2 + from_us as i64 / 100_000, found, versions: vec![1] };
        self.span(client, member, from_us, to_us, Operation::Get { key: key.into(), serializable: false }, outcome);
    }

    fn refused(&mut self, client: u64, member: u64, from_us: u64, to_us: u64) {
        let operation = Operation::Delete { key: "m".into() };
        self.span(
            client,
            member,
            from_us,
            to_us,
            operation,
            Outcome::Refused { error: "etcdserver: no leader".into() },
        );
    }

    fn finish(mut self, place: &'static str, story: &str, named: &[u64]) -> Report {
        number_lines(&mut self.timeline);
        let (checker, story) = ("linearizability", story.to_owned());
        let verdict = timeline::Verdict {
            checker: checker.into(),
            place: place.into(),
            story: story.clone(),
            operations: named.into(),
        };
        self.timeline.verdict = Some(verdict);
        let knobs = Knobs::plain(self.timeline.members, self.timeline.end_us / MS);
        let head = vec!["A run that no world made.".to_owned(), "It shows what a picture shows.".to_owned()];
        let (mutation, expect) = (None, Expect::Pass);
        Report {
            seed: None,
            knobs: knobs.clone(),
            trace_hash: "5e1f".repeat(16),
            trace_lines: self.timeline.lines.len() as u64,
            simulated_us: self.timeline.end_us,
            events: self.timeline.lines.len() as u64,
            messages: self.timeline.messages.len() as u64,
            faults: self.timeline.faults.iter().map(|fault| (fault.kind, 1)).collect(),
            refused: BTreeMap::new(),
            notes: Vec::new(),
            work: BTreeMap::from([("registers".to_owned(), self.timeline.operations.len() as u64)]),
            acknowledged: self.timeline.operations.len() as u64 / 2,
            marks: BTreeMap::new(),
            verdict: Verdict::Fail { checker, place, story },
            trace_tail: String::new(),
            trace: None,
            timeline: Some(self.timeline),
            scenario: Scenario {
                head,
                knobs,
                mutation,
                expect,
                trace: None,
                events: Vec::new(),
                exceptions: Vec::new(),
            },
        }
    }
}

/// Everything gets a line, in the order of time.
fn number_lines(timeline: &mut Timeline) {
    let mut lines: Vec<(u64, String, &mut u64)> = Vec::new();
    for life in &mut timeline.lives {
        lines.push((life.from_us, format!("{} boots", life.member), &mut life.line));
    }
    for change in &mut timeline.roles {
        let RoleChange { member, role, term, commit, .. } = &*change;
        let text = format!("{member} {role} Term:{term} Commit:{commit}");
        lines.push((change.at_us, text, &mut change.line));
    }
    for fault in &mut timeline.faults {
        lines.push((fault.from_us, format!("fault {}", fault.text), &mut fault.line));
    }
    for span in &mut timeline.operations {
        let text = format!("client {} at {} #{} {}", span.client, span.member, span.number, span.operation);
        lines.push((span.from_us, text, &mut span.line));
    }
    for arrow in &mut timeline.messages {
        lines.push((arrow.sent_us, arrow.text.clone(), &mut arrow.line));
    }
    lines.sort_by_key(|(at_us, ..)| *at_us);
    for (nth, (at_us, text, line)) in (1..).zip(lines) {
        *line = nth;
        timeline.lines.push(format!("{:>4}.{:06} {text}", at_us / S, at_us % S));
    }
}
