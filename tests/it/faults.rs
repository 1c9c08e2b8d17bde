//! Faults of network, process and clock: each is its line, and does what its model says.
//!
//! The lines are drawn from seeds, printed and read again. The network and the clock are tried alone, message by
//! message and reading by reading; then each kind strikes a world that a scenario describes to the last detail, and its
//! trace has to show what came of it.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::raftpb::{Message, MessageType};
use lockstep_sim::choices::{Choices, Exception, Point};
use lockstep_sim::clock::Clock;
use lockstep_sim::disk::MemDisk;
use lockstep_sim::fault::links::Links;
use lockstep_sim::fault::{self, Fault, KINDS, Kind, Sight, Words, parse_time_us};
use lockstep_sim::history::Operation;
use lockstep_sim::knobs::Knobs;
use lockstep_sim::network::{Act, Arrival, Fate, Network, Rule, Window};
use lockstep_sim::random::{Purpose, Random};
use lockstep_sim::report::{Report, Verdict};
use lockstep_sim::scenario::{Event, Scenario, What};
use lockstep_sim::world::{Options, Script, run};

// Lines.

fn parse(line: &str) -> Result<Box<dyn Fault>, String> {
    let mut words = Words::new(line);
    let name = words.word("a fault")?;
    (fault::kind(name).ok_or_else(|| format!("there is no fault {name:?}"))?.parse)(&mut words)
}

fn draws(kind: &Kind, members: u64, knobs: &Knobs) -> Vec<Box<dyn Fault>> {
    let draw = |seed| {
        let mut random = Random::new(seed, Purpose::Process);
        let members: Vec<u64> = (1..=members).collect();
        let up = members.iter().copied().filter(|_| random.permille(800)).collect();
        let leaders = members.iter().copied().filter(|_| random.permille(300)).collect();
        let disks = members.iter().map(|id| (*id, MemDisk::new())).collect();
        let (voters, spares) = (members.clone(), vec![members.len() as u64 + 1]);
        let (learners, lost) = (members.iter().copied().filter(|_| random.permille(200)).collect(), Vec::new());
        (kind.draw)(&mut random, &Sight { knobs, members, up, voters, learners, lost, spares, leaders, disks })
    };
    (0..100).filter_map(draw).collect()
}

#[test]
fn a_drawn_fault_is_its_line() {
    for kind in KINDS {
        let mut lines = BTreeSet::new();
        for members in 1..=7 {
            let knobs = Knobs { spares: 1, ..Knobs::plain(members, 60_000) };
            for drawn in draws(kind, members, &knobs) {
                let line = drawn.to_string();
                let read = parse(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
                assert_eq!(read.to_string(), line);
                assert_eq!((drawn.kind(), read.kind()), (kind.name, kind.name), "{line}");
                assert_eq!((drawn.members(), drawn.lasts_us()), (read.members(), read.lasts_us()), "{line}");
                let is_known = |id: &u64| (1..=knobs.machines()).contains(id);
                assert!(drawn.members().iter().all(is_known), "{line} in {members} members");
                let lasts_us = drawn.lasts_us().unwrap_or(0);
                assert!(lasts_us <= knobs.fault_most_ms * 1_000, "{line} lasts too long");
                lines.insert(line);
            }
        }
        match kind.name {
            "drop" | "hold" | "out" => assert!(lines.is_empty(), "{}: {lines:#?}", kind.name),
            // There is nothing on these disks to damage.
            "rot-wal" | "rot-store" | "read-error" => {}
            // Whom it hits is all there is to say.
            "defragment" | "move-leader" => assert_eq!(lines.len(), 7, "{}: {lines:#?}", kind.name),
            _ => assert!(lines.len() > 20, "{}: {lines:#?}", kind.name),
        }
    }
}

#[test]
fn lines_are_read() {
    let cases = [
        "loss 1->2 200 permille for 2s",
        "loss *->* 1000 permille for 2s",
        "duplicate 3->* 5 permille by 2s for 5s",
        "reorder 1,2->3,4 by 50ms for 1500us",
        "latency *->3 by 20ms for 3s",
        "one-way 1->2 for 2s",
        "isolate 3 for 2s",
        "split 1,2|3,4,5 for 2s",
        "bridge 1,2|3|4,5 for 2s",
        "ring 1,3,5,2,4 for 2s",
        "clog 2->1 for 2s",
        "half-open 1->2,3 for 90s",
        "drop 1->* MsgApp for 3s",
        "drop 1->2 * for 3s",
        "hold 3->1 MsgHeartbeatResp for 5s",
        "repeat 2->1 MsgReadIndex after 2s for 1s",
        "restart 3 for 200ms",
        "pause 3 for 2s",
        "slow-start 3 by 2s for 10s",
        "defragment 3",
        "add 6 by 2",
        "learner 6 by 2",
        "promote 6 by 1",
        "remove 3 by 2",
        "update 3 to 2391 by 2",
        "replace 3 with 6 by 2",
        "move-leader 4",
        "clock-offset 3 ahead 500ms for 2s",
        "clock-offset 3 behind 500ms for 2s",
        "clock-drift 3 fast 200 permille for 5s",
        "clock-drift 3 slow 200 permille for 5s",
        "clock-jump 3 ahead 5s",
    ];
    for line in cases {
        assert_eq!(parse(line).map(|fault| fault.to_string()), Ok(line.to_owned()));
    }
    let short = parse("hold 3->1 MsgHeartbeatResponse for 1.5s").map(|fault| fault.to_string());
    assert_eq!(short, Ok("hold 3->1 MsgHeartbeatResp for 1500ms".to_owned()));
}

#[test]
fn what_is_no_line_is_named() {
    // A line, and what its error says.
    let cases = [
        ("losss 1->2", "there is no fault \"losss\""),
        ("loss 1-2 200 permille for 2s", "\"1-2\" is not links like 1->2, 3->* or 1,2->3"),
        ("loss 1->0 200 permille for 2s", "\"1->0\" is not links like 1->2, 3->* or 1,2->3"),
        ("loss 1-> 200 permille for 2s", "\"1->\" is not links like 1->2, 3->* or 1,2->3"),
        ("loss", "links like 1->2, 3->* or 1,2->3 is missing"),
        ("loss 1->2 some permille for 2s", "how many permille: \"some\" is not a number"),
        ("loss 1->2 1001 permille for 2s", "\"1001\" permille is not between 1 and 1000"),
        ("loss 1->2 20 percent for 2s", "\"permille\" expected, \"percent\" found"),
        ("loss 1->2 20 permille for ages", "for: \"ages\" is not a time like 1.5s, 20ms or 300us"),
        ("loss 1->2 20 permille for 2s now", "\"now\" is too much"),
        ("latency 1->2 by 0ms for 2s", "by: \"0s\" is no time at all"),
        ("latency 1->2 by 99999999999s for 2s", "is more than a day"),
        ("reorder 1->2 for 2s", "\"by\" expected, \"for\" found"),
        ("split 1,2 for 2s", "\"1,2\" is not two groups like 1,2|3,4,5"),
        ("split 1|2|3 for 2s", "\"1|2|3\" is not two groups like 1,2|3,4,5"),
        ("split 1,2|2,3 for 2s", "\"1,2|2,3\" names a member twice"),
        ("bridge 1|2 for 2s", "\"1|2\" is not three groups like 1,2|3|4,5"),
        ("ring 1,x for 2s", "\"1,x\" is not a ring like 1,2,3,4"),
        ("isolate one for 2s", "a member: \"one\" is not a number"),
        ("hold 1->2 MsgPing for 2s", "\"MsgPing\" is not a kind of message like MsgApp or MsgHeartbeatResp"),
        ("hold 1->2 MsgApponse for 2s", "\"MsgApponse\" is not a kind of message"),
        ("repeat 1->2 MsgApp for 2s", "\"after\" expected, \"for\" found"),
        ("restart 3", "\"for\" is missing"),
        ("pause 3 for 2s please", "\"please\" is too much"),
        ("slow-start 3 by 2s", "\"for\" is missing"),
        ("clock-offset 3 beside 2s for 2s", "\"behind\" expected, \"beside\" found"),
        ("clock-drift 3 quick 2 permille for 2s", "\"slow\" expected, \"quick\" found"),
        ("clock-jump 3 back 2s", "\"ahead\" expected, \"back\" found"),
    ];
    for (line, expected) in cases {
        let error = parse(line).map(|fault| fault.to_string()).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

// The network.

struct Wire {
    network: Network,
    choices: Choices,
    knobs: Knobs,
}

const WAY_US: u64 = 1_000;

impl Wire {
    fn new(choices: Choices) -> Wire {
        Wire { network: Network::new(), choices, knobs: Knobs { delay_us: WAY_US, ..Knobs::plain(3, 60_000) } }
    }

    fn quiet() -> Wire {
        Wire::new(Choices::record(&[]))
    }

    fn send(&mut self, from: u64, to: u64) -> Fate {
        self.fate(&message(from, to, MessageType::MsgApp, 0))
    }

    fn fate(&mut self, message: &Message) -> Fate {
        self.network.fate(&mut self.choices, &self.knobs, message)
    }

    /// Terms and ways of what is released.
    fn released(&mut self) -> Vec<(u64, Vec<Arrival>)> {
        self.network.take_released().into_iter().map(|r| (r.message.term(), r.arrivals)).collect()
    }
}

fn message(from: u64, to: u64, kind: MessageType, term: u64) -> Message {
    Message { from: Some(from), to: Some(to), r#type: Some(kind.into()), term: Some(term), ..Message::default() }
}

fn arrives(after_us: u64) -> Fate {
    Fate::Arrives(vec![at(after_us, false)])
}

fn at(after_us: u64, outlives: bool) -> Arrival {
    Arrival { after_us, outlives }
}

#[test]
fn cuts_are_counted() {
    let mut wire = Wire::quiet();
    wire.network.cut(1, 2);
    wire.network.cut(1, 2);
    assert_eq!((wire.send(1, 2), wire.send(2, 1)), (Fate::Lost { told: true }, arrives(WAY_US)));
    wire.network.uncut(1, 2);
    assert!(wire.network.is_cut(1, 2) && !wire.network.is_cut(2, 1));
    assert_eq!(wire.send(1, 2), Fate::Lost { told: true });
    wire.network.uncut(1, 2);
    assert_eq!((wire.network.is_cut(1, 2), wire.send(1, 2)), (false, arrives(WAY_US)));
    assert_eq!((wire.network.number((1, 2)), wire.network.number((2, 1)), wire.network.number((1, 3))), (3, 1, 0));
}

#[test]
fn half_open_is_silent_even_when_cut() {
    let mut wire = Wire::quiet();
    wire.network.half_open(1, 2);
    wire.network.half_open(1, 2);
    wire.network.cut(1, 2);
    assert_eq!((wire.send(1, 2), wire.send(2, 1)), (Fate::Lost { told: false }, arrives(WAY_US)));
    assert!(!wire.network.half_closed(1, 2), "another is at work");
    assert_eq!(wire.send(1, 2), Fate::Lost { told: false });
    assert!(wire.network.half_closed(1, 2));
    assert_eq!(wire.send(1, 2), Fate::Lost { told: true });
}

#[test]
fn a_clog_brings_everything_in_order() {
    let mut wire = Wire::quiet();
    wire.network.clog(1, 2);
    wire.network.clog(3, 2);
    wire.network.clog(1, 2);
    for (term, from) in [(1, 1), (2, 3), (3, 1), (4, 3), (5, 1)] {
        assert_eq!(wire.fate(&message(from, 2, MessageType::MsgApp, term)), Fate::Held);
    }
    assert_eq!(wire.send(2, 1), arrives(WAY_US));
    assert_eq!(wire.released(), []);
    let way = || vec![at(WAY_US, true)];
    wire.network.unclog(3, 2);
    assert_eq!(wire.released(), [(2, way()), (4, way())]);
    wire.network.unclog(1, 2);
    assert_eq!((wire.released(), wire.send(1, 2)), (Vec::new(), Fate::Held), "the other clog is still there");
    wire.network.unclog(1, 2);
    assert_eq!(wire.released(), [(1, way()), (3, way()), (5, way()), (0, way())]);
    assert_eq!((wire.released(), wire.send(1, 2)), (Vec::new(), arrives(WAY_US)));
}

#[test]
fn latencies_add_up() {
    let mut wire = Wire::quiet();
    wire.network.add_latency(1, 2, 300);
    wire.network.add_latency(1, 2, 20);
    assert_eq!((wire.send(1, 2), wire.send(2, 1)), (arrives(WAY_US + 320), arrives(WAY_US)));
    wire.network.sub_latency(1, 2, 300);
    assert_eq!(wire.send(1, 2), arrives(WAY_US + 20));
    wire.network.sub_latency(1, 2, 20);
    assert_eq!(wire.send(1, 2), arrives(WAY_US));
}

#[test]
fn rules_know_links_and_kinds() {
    use MessageType::{MsgApp, MsgHeartbeatResp, MsgReadIndex};
    let mut wire = Wire::quiet();
    let rule = |from: u64, kind, act| Rule { links: Links::between(&[from], &[1, 2]), kind, act };
    let (drops, holds) = (rule(3, Some(MsgApp), Act::Drop), rule(3, Some(MsgHeartbeatResp), Act::Hold));
    let repeats = rule(2, Some(MsgReadIndex), Act::Repeat { after_us: 50_000 });
    let everything = rule(1, None, Act::Drop);
    for rule in [&drops, &holds, &holds, &repeats, &everything] {
        wire.network.add_rule(rule.clone());
    }
    let twice = Fate::Arrives(vec![at(WAY_US, false), at(WAY_US + 50_000, true)]);
    // from, to, kind, fate
    let cases = [
        (3, 1, MsgApp, Fate::Lost { told: false }),
        (3, 2, MsgApp, Fate::Lost { told: false }),
        (2, 1, MsgApp, arrives(WAY_US)),
        (3, 1, MsgHeartbeatResp, Fate::Held),
        (2, 1, MsgHeartbeatResp, arrives(WAY_US)),
        (2, 1, MsgReadIndex, twice),
        (2, 3, MsgReadIndex, arrives(WAY_US)),
        (3, 1, MsgReadIndex, arrives(WAY_US)),
        (1, 2, MsgApp, Fate::Lost { told: false }),
        (1, 2, MsgReadIndex, Fate::Lost { told: false }),
        (1, 3, MsgReadIndex, arrives(WAY_US)),
    ];
    for (from, to, kind, expected) in cases {
        assert_eq!(wire.fate(&message(from, to, kind, 7)), expected, "{from}->{to} {kind:?}");
    }
    wire.network.remove_rule(&holds);
    assert_eq!(wire.released(), [], "the same rule twice ends twice");
    wire.network.clog(3, 1);
    wire.network.remove_rule(&holds);
    assert_eq!(wire.released(), [], "a clog came meanwhile");
    wire.network.unclog(3, 1);
    assert_eq!(wire.released(), [(7, vec![at(WAY_US, true)])]);
    wire.network.remove_rule(&drops);
    assert_eq!(wire.send(3, 1), arrives(WAY_US));
}

#[test]
fn windows_take_their_share_and_a_record_repeats_it() {
    let (loss, twice) = (Window::Loss { permille: 200 }, Window::Duplicate { permille: 100, most_us: 70_000 });
    let late = Window::Reorder { most_us: 5_000 };
    let fates = |choices: Choices, windows: &[Window]| {
        let mut wire = Wire::new(choices);
        wire.knobs.late_permille = 50;
        wire.knobs.late_most_us = 900_000;
        let mut fates = Vec::new();
        for number in 0..3_000 {
            for window in windows {
                match number {
                    1_000 => wire.network.open(1, 2, *window),
                    2_000 => wire.network.close(1, 2, *window),
                    _ => {}
                }
            }
            fates.push((wire.send(1, 2), wire.send(2, 1)));
        }
        (fates, wire.choices.exceptions())
    };
    let (fates_drawn, exceptions) = fates(Choices::chance(5), &[loss, twice, late]);
    let mut counts: BTreeMap<_, [usize; 3]> = BTreeMap::new();
    for (number, (there, back)) in fates_drawn.iter().enumerate() {
        for (way, fate) in [("there", there), ("back", back)] {
            let name = match fate {
                Fate::Lost { told: false } => "lost",
                Fate::Arrives(arrivals) if arrivals.len() == 2 => "twice",
                Fate::Arrives(arrivals) if arrivals == &[at(WAY_US, false)] => "in time",
                Fate::Arrives(arrivals) if arrivals[0].outlives && arrivals[0].after_us > WAY_US => "late",
                other => panic!("{other:?}"),
            };
            counts.entry((way, name)).or_default()[number / 1_000] += 1;
        }
    }
    // Of a thousand before, while and after the windows are open.
    let expected = [
        (("there", "lost"), [0..1, 150..250, 0..1]),
        (("there", "twice"), [0..1, 50..120, 0..1]),
        (("there", "late"), [30..80, 650..800, 30..80]),
        (("back", "lost"), [0..1, 0..1, 0..1]),
        (("back", "late"), [30..80, 30..80, 30..80]),
    ];
    for (key, ranges) in expected {
        let counted = counts.get(&key).copied().unwrap_or_default();
        assert!(ranges.iter().zip(&counted).all(|(range, count)| range.contains(count)), "{key:?}: {counted:?}");
    }

    let (again, same) = fates(Choices::record(&exceptions), &[loss, twice, late]);
    assert!(again == fates_drawn && same.len() == exceptions.len());
    let (without_windows, _) = fates(Choices::record(&exceptions), &[]);
    assert!(without_windows == fates_drawn, "a record needs no window");
    let last = exceptions.iter().rposition(|e| matches!(e.point, Point::Lost { .. })).expect("one was lost");
    let fewer: Vec<Exception> = exceptions.iter().enumerate().filter(|(n, _)| *n != last).map(|(_, e)| *e).collect();
    let (one_more, _) = fates(Choices::record(&fewer), &[]);
    assert_eq!(one_more.iter().zip(&fates_drawn).filter(|(one, other)| one != other).count(), 1);
}

#[test]
fn a_recorded_choice_reaches_what_is_held() {
    let point = |number| Point::Message { from: 1, to: 2, number };
    let exceptions = [
        Exception { point: point(1), value: 400 },
        Exception { point: Point::Twice { from: 1, to: 2, number: 1 }, value: 30 },
        Exception { point: Point::Lost { from: 1, to: 2, number: 2 }, value: 1 },
    ];
    let mut wire = Wire::new(Choices::record(&exceptions));
    wire.network.clog(1, 2);
    assert_eq!((wire.send(1, 2), wire.send(1, 2)), (Fate::Held, Fate::Lost { told: false }));
    wire.network.unclog(1, 2);
    let released = wire.network.take_released();
    assert_eq!(released.iter().map(|r| r.number).collect::<Vec<_>>(), [1]);
    assert_eq!(released[0].arrivals, [at(WAY_US + 400, true), at(WAY_US + 430, true)]);
}

// The clock.

#[test]
fn a_clock_bends_and_never_goes_back() {
    const S: u64 = 1_000_000;
    type Bend = fn(&mut Clock, u64);
    // What is done to it at which second, and what it then shows at each second from 0 to 8, in milliseconds.
    type Case<'a> = (&'a str, &'a [(u64, Bend)], [u64; 9]);
    let cases: &[Case] = &[
        ("right", &[], [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000]),
        (
            "ahead from 2 to 5",
            &[(2, |c, t| c.shift(t, 2_000_000)), (5, |c, t| c.shift(t, -2_000_000))],
            [0, 1_000, 4_000, 5_000, 6_000, 7_000, 7_000, 7_000, 8_000],
        ),
        (
            "behind from 1 to 6",
            &[(1, |c, t| c.shift(t, -3_000_000)), (6, |c, t| c.shift(t, 3_000_000))],
            [0, 1_000, 1_000, 1_000, 1_000, 2_000, 6_000, 7_000, 8_000],
        ),
        (
            "fast from 1 to 3, and slow from 5",
            &[(1, |c, t| c.drift(t, 500)), (3, |c, t| c.drift(t, -500)), (5, |c, t| c.drift(t, -500))],
            [0, 1_000, 2_500, 4_000, 5_000, 6_000, 6_500, 7_000, 7_500],
        ),
        (
            "two drifts add up and end apart",
            &[(0, |c, t| c.drift(t, 500)), (2, |c, t| c.drift(t, 500)), (4, |c, t| c.drift(t, -500))],
            [0, 1_500, 3_000, 5_000, 7_000, 8_500, 10_000, 11_500, 13_000],
        ),
        (
            "a jump stays",
            &[(2, |c, t| c.jump(t, 5_000_000)), (4, |c, t| c.drift(t, -500)), (6, |c, t| c.shift(t, -1_000_000))],
            [0, 1_000, 7_000, 8_000, 9_000, 9_500, 10_000, 10_000, 10_000],
        ),
    ];
    for (name, bends, expected) in cases {
        let mut clock = Clock::new();
        let zero = clock.now(0);
        let mut shown = Vec::new();
        let mut last = zero;
        for tenth in 0..=80 {
            let now_us = tenth * S / 10;
            for (_, bend) in bends.iter().filter(|(second, _)| second * S == now_us) {
                bend(&mut clock, now_us);
            }
            let now = clock.now(now_us);
            assert!(now >= last, "{name} goes back at {now_us} us");
            last = now;
            if tenth % 10 == 0 {
                shown.push(now.saturating_since(zero));
            }
        }
        assert_eq!(shown, expected, "{name}");
    }
}

#[test]
fn ticks_follow_the_pace() {
    let mut clock = Clock::new();
    let mut paces = Vec::new();
    for drift in [0, 1_000, -1_500, -450, -500, 5_000, 20_000] {
        clock.drift(0, drift);
        paces.push((clock.pace_permille(), clock.tick_us(100_000)));
    }
    let fast = [(1_000, 100_000), (2_000, 50_000)];
    let slow = [(500, 200_000), (100, 1_000_000), (100, 1_000_000)];
    assert_eq!(paces, [&fast[..], &slow, &[(4_550, 21_978), (10_000, 10_000)]].concat());
}

// Worlds.

/// What a trace says, by time.
struct Told {
    lines: Vec<(u64, String)>,
    report: Report,
}

impl Told {
    fn of(script: Script) -> Told {
        let report = run(script, Options { keep_trace: true, ..Options::default() });
        let trace = report.trace.as_deref().expect("it was to be kept");
        let line = |line: &str| {
            let (s, what) = line.trim_start().split_once(' ').expect("a time and what happened");
            (parse_time_us(&format!("{s}s")).expect("a time"), what.to_owned())
        };
        let lines = trace.lines().map(line).collect();
        assert_eq!(report.verdict, Verdict::Ok, "{}", report.trace_tail);
        Told { lines, report }
    }

    /// When something was said.
    fn times(&self, what: &str) -> Vec<u64> {
        self.lines.iter().filter(|(_, line)| line.contains(what)).map(|(time_us, _)| *time_us).collect()
    }

    fn first(&self, what: &str) -> u64 {
        *self.times(what).first().unwrap_or_else(|| panic!("nobody says {what:?}"))
    }

    /// How often within these times.
    fn count(&self, what: &str, from: &str, to: &str) -> usize {
        let within = time(from)..time(to);
        self.times(what).iter().filter(|time_us| within.contains(time_us)).count()
    }

    /// The links on which something of this kind happened within these times.
    fn links(&self, from: &str, to: &str, happened: impl Fn(&str) -> bool) -> BTreeSet<(u64, u64)> {
        let within = time(from)..time(to);
        let lines = self.lines.iter().filter(|(time_us, line)| within.contains(time_us) && happened(line));
        lines.filter_map(|(_, line)| link(line)).map(|(link, _)| link).collect()
    }

    /// How long each message took that arrived, by link in the order of arrival.
    fn ways(&self) -> BTreeMap<(u64, u64), Vec<(u64, u64)>> {
        let (mut sent, mut ways) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        for (time_us, line) in &self.lines {
            let Some((link, number)) = link(line) else { continue };
            if line.contains(" arrives") {
                ways.entry(link).or_default().push((number, time_us - sent[&(link, number)]));
            } else {
                sent.entry((link, number)).or_insert(*time_us);
            }
        }
        ways
    }
}

fn time(word: &str) -> u64 {
    parse_time_us(word).expect("a time")
}

/// `1->2 … #17 …`
fn link(line: &str) -> Option<((u64, u64), u64)> {
    let (from, to) = line.split(' ').next()?.split_once("->")?;
    let number = line.split(' ').find_map(|word| word.strip_prefix('#')?.trim_end_matches(',').parse().ok())?;
    Some(((from.parse().ok()?, to.parse().ok()?), number))
}

/// A world of five members, in which at these times these faults strike and these keys are put.
fn played(lines: &[(&str, &str)], puts: &[(&str, u64, &str)]) -> Told {
    let fault = |(at, line): &(&str, &str)| Event { at_us: time(at), what: What::Fault(parse(line).unwrap().into()) };
    let put = |(at, member, key): &(&str, u64, &str)| Event {
        at_us: time(at),
        what: What::Client {
            client: 1,
            member: *member,
            operation: Operation::Put { key: (*key).to_owned(), value: "1.1".into() },
        },
    };
    let mut events: Vec<Event> = lines.iter().map(fault).chain(puts.iter().map(put)).collect();
    events.sort_by_key(|event| event.at_us);
    Told::of(Script::Scenario(Scenario { events, ..Scenario::new(Knobs::plain(5, 18_000)) }))
}

/// A world in which chance draws nothing but faults of this kind.
fn drawn(kind: &str) -> Told {
    let seed = 3;
    let knobs = Knobs { fault_every_ms: 800, faults: [kind.to_owned()].into(), ..Knobs::plain(5, 18_000) };
    let told = Told::of(Script::Seed { seed, knobs });
    assert!(told.report.faults.get(kind).is_some_and(|count| *count > 2), "{:?}", told.report.faults);
    told
}

#[test]
fn fine_weather_loses_nothing() {
    let told = played(&[], &[]);
    assert!(told.ways().values().flatten().all(|(_, way_us)| *way_us == WAY_US));
    for none in ["(lost)", "(twice)", "(held)", "on its way", "stops", "fault"] {
        assert!(told.times(none).is_empty(), "{none}");
    }
}

#[test]
fn chance_loses_repeats_and_reorders() {
    // The liveness phase begins at 12s, and may leave members out.
    assert!(drawn("loss").count("(lost)", "0s", "12s") > 10);

    let told = drawn("duplicate");
    let copies = |numbers: &[(u64, u64)]| numbers.len() - numbers.iter().map(|(n, _)| n).collect::<BTreeSet<_>>().len();
    assert!(told.times("(twice)").len() > 10);
    assert!(told.ways().values().map(|numbers| copies(numbers)).sum::<usize>() > 10);

    let overtakes = |numbers: &[(u64, u64)]| numbers.windows(2).filter(|pair| pair[0].0 > pair[1].0).count();
    let told = drawn("reorder");
    assert!(told.ways().values().map(|numbers| overtakes(numbers)).sum::<usize>() > 10);
    assert_eq!(told.count("(lost)", "0s", "12s"), 0);
}

#[test]
fn a_slow_link_is_slow_and_keeps_its_order() {
    let told = played(&[("4s", "latency 1->2 by 20ms for 2s"), ("5s", "latency 1->* by 3ms for 500ms")], &[]);
    let ways = told.ways();
    let times = |link| ways[&link].iter().map(|(_, way_us)| *way_us).collect::<BTreeSet<_>>();
    assert_eq!(times((1, 2)), [1_000, 21_000, 24_000].into());
    assert_eq!(times((1, 3)), [1_000, 4_000].into());
    assert_eq!(times((2, 1)), [1_000].into());
}

#[test]
fn partitions_have_their_shapes() {
    // Line, and whether this link is cut by it.
    type IsCut = fn(u64, u64) -> bool;
    let cases: &[(&str, IsCut)] = &[
        ("one-way 1->* for 3s", |from, _| from == 1),
        ("one-way *->1 for 3s", |_, to| to == 1),
        ("isolate 1 for 3s", |from, to| from == 1 || to == 1),
        ("split 1,4|2,3,5 for 3s", |from, to| [1, 4].contains(&from) != [1, 4].contains(&to)),
        ("bridge 1,2|3|4,5 for 3s", |from, to| {
            from.abs_diff(3) + to.abs_diff(3) == from.abs_diff(to) && from != 3 && to != 3
        }),
        ("ring 1,2,3,4,5 for 3s", |from, to| ![1, 4].contains(&from.abs_diff(to))),
    ];
    for (line, is_cut) in cases {
        let told = played(&[("4s", line)], &[("4.1s", 1, "a"), ("4.1s", 4, "b")]);
        assert_eq!(told.report.faults.values().sum::<u64>(), 1, "{line}");
        let lost = told.links("4s", "7s", |line| line.contains("(lost)"));
        let arrived = told.links("4.002s", "7s", |line| line.contains(" arrives"));
        assert!(!lost.is_empty() && lost.iter().all(|(from, to)| is_cut(*from, *to)), "{line}: {lost:?} lost");
        assert!(!arrived.iter().any(|(from, to)| is_cut(*from, *to)), "{line}: {arrived:?} arrived");
        assert_eq!(told.count("(lost)", "7.001s", "18s"), 0, "{line} has ended");
    }
}

#[test]
fn what_overlaps_ends_one_by_one() {
    let told =
        played(&[("4s", "isolate 2 for 3s"), ("5s", "split 1,2|3,4,5 for 1s"), ("5s", "one-way 1->2 for 4s")], &[]);
    let lost = |from, to| told.links(from, to, |line| line.contains("(lost)"));
    assert!(lost("6.1s", "7s").iter().all(|(from, to)| [*from, *to].contains(&2)), "{:?}", lost("6.1s", "7s"));
    assert_eq!(lost("7.1s", "9s"), [(1, 2)].into());
    assert_eq!(lost("9.1s", "18s"), [].into());
}

#[test]
fn what_is_held_reaches_the_next_life() {
    let told = played(&[("4s", "clog 1->3 for 2s"), ("5s", "restart 3 for 100ms")], &[]);
    let held = told.lines.iter().filter(|(_, line)| line.contains("(held)")).filter_map(|(time_us, line)| {
        let (link, number) = link(line)?;
        assert_eq!(link, (1, 3));
        Some((number, *time_us))
    });
    let held: BTreeMap<u64, u64> = held.collect();
    let ways = &told.ways()[&(1, 3)];
    let arrived: Vec<u64> = ways.iter().map(|(number, _)| *number).filter(|number| held.contains_key(number)).collect();
    assert!(arrived.len() > 15 && arrived.is_sorted(), "{arrived:?}");
    assert_eq!(arrived.len(), held.len(), "those that were sent to the former life, too");
    assert!(held.values().any(|sent_us| *sent_us < time("5s")));
    for (number, way_us) in ways.iter().filter(|(number, _)| held.contains_key(number)) {
        assert!(
            held[number] + way_us >= time("6s") && held[number] + way_us < time("6.1s"),
            "#{number} after {way_us}"
        );
    }
}

#[test]
fn a_half_open_connection_is_noticed_at_its_end() {
    let told = played(&[("4s", "half-open 1->3 for 2s")], &[("4.5s", 1, "k")]);
    assert_eq!(told.links("4s", "18s", |line| line.contains("(lost)")), [(1, 3)].into());
    assert_eq!(told.count("(lost)", "6.001s", "18s"), 0);
    // The leader goes on sending as if nothing were lost, and probes again when it is told.
    assert!(told.links("4.5s", "6s", |line| line.contains("MsgApp ") && line.contains("(lost)")).contains(&(1, 3)));
    assert!(told.links("6s", "6.3s", |line| line.contains("MsgApp ")).contains(&(1, 3)));
}

#[test]
fn rules_hit_their_kind() {
    let beats = "MsgHeartbeatResp ";
    let lines = [
        ("4s", "hold 3->1 MsgHeartbeatResp for 1s"),
        ("6s", "drop 3->1 MsgHeartbeatResp for 1s"),
        ("8s", "repeat 3->* MsgHeartbeatResp after 2s for 1s"),
    ];
    let told = played(&lines, &[("4.5s", 3, "a"), ("6.5s", 3, "b"), ("8.5s", 3, "c")]);
    for (note, from, to) in [("(held)", "4s", "5s"), ("(lost)", "6s", "7s"), ("(twice)", "8s", "9s")] {
        assert!(told.count(beats, from, to) > 5);
        assert_eq!(told.links(from, to, |line| line.contains(note)), [(3, 1)].into(), "{note}");
        assert!(told.lines.iter().all(|(_, line)| !line.contains(note) || line.contains(beats)), "only {beats}");
        assert_eq!(told.times(note).len(), told.count(note, from, to), "{note} at its time only");
    }
    let ways = &told.ways()[&(3, 1)];
    assert_eq!(ways.iter().filter(|(_, way_us)| *way_us == WAY_US + 2_000_000).count(), told.times("(twice)").len());
}

#[test]
fn processes_stop_stand_still_and_start_late() {
    let told = played(&[("4s", "restart 3 for 200ms"), ("6s", "pause 2 for 2s"), ("6s", "pause 2 for 500ms")], &[]);
    assert_eq!(told.first("3 starts, life 2"), time("4.2s"));
    let of_2 = |from, to| told.links(from, to, |line| line.starts_with("2->")).len();
    assert_eq!((of_2("5s", "6s") > 0, of_2("6s", "8s"), of_2("8s", "9s") > 0), (true, 0, true));

    let lines = [
        ("4s", "slow-start 3 by 1s for 4s"),
        ("5s", "slow-start 3 by 500ms for 1s"),
        ("5.5s", "restart 3 for 100ms"),
        ("7.5s", "restart 3 for 100ms"),
        ("9s", "restart 3 for 100ms"),
    ];
    let told = played(&lines, &[]);
    let starts: Vec<u64> = [2, 3, 4].map(|life| told.first(&format!("3 starts, life {life}"))).into();
    assert_eq!(starts, [time("7.1s"), time("8.6s"), time("9.1s")]);
}

#[test]
fn a_restart_needs_a_process_that_runs() {
    let lines =
        [("4s", "restart 3 for 2s"), ("5s", "restart 3 for 1s"), ("5s", "pause 3 for 1s"), ("5s", "pause 9 for 1s")];
    let told = played(&[&lines[..], &[("7s", "pause 2 for 1s"), ("7.5s", "restart 2 for 1s")]].concat(), &[]);
    let why = ["member 3 is down", "there is no member 9", "member 2 is paused"];
    assert_eq!(why.map(|why| told.times(why).len()), [2, 1, 1]);
    let faults: Vec<u64> = ["restart", "pause"].iter().map(|kind| told.report.faults[kind]).collect();
    assert_eq!(faults, [1, 1]);
}

#[test]
fn a_fast_leader_beats_faster() {
    let beats = |lines: &[(&str, &str)]| played(lines, &[]).count("1->2 MsgHeartbeat ", "4s", "6s");
    let (right, fast) = (beats(&[]), beats(&[("4s", "clock-drift 1 fast 1000 permille for 2s")]));
    let slow = beats(&[("4s", "clock-drift 1 slow 500 permille for 2s")]);
    assert!(
        (18..=22).contains(&right) && (36..=44).contains(&fast) && (9..=11).contains(&slow),
        "{slow} {right} {fast}"
    );
}

#[test]
fn requests_expire_by_their_members_clock() {
    // Member 3 hears nobody, and keeps a client's request until a leader is there or the time is over. Is it done?
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);
    let cases: &[Case] = &[
        ("7s", &[], true),
        ("7s", &[("7.5s", "clock-jump 3 ahead 10s")], false),
        ("7s", &[("7.5s", "clock-jump 2 ahead 10s")], true),
        ("7s", &[("7.5s", "clock-offset 3 ahead 10s for 300ms")], false),
        ("7s", &[("6s", "clock-drift 3 fast 1000 permille for 3s")], false),
        ("5.5s", &[], false),
        ("5.5s", &[("5.6s", "clock-offset 3 behind 5s for 3s")], true),
        ("5.5s", &[("5.6s", "clock-drift 3 slow 500 permille for 3s")], true),
    ];
    for (asked, lines, is_done) in cases {
        let told = played(&[&[("3s", "isolate 3 for 5.4s")], *lines].concat(), &[(asked, 3, "k")]);
        let committed = told.lines.iter().any(|(_, line)| line.contains("Commit [") && line.contains("put k=1.1"));
        assert_eq!(committed, *is_done, "asked at {asked}, {lines:?}");
    }
}
