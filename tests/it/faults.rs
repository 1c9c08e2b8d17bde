//! Faults of network, process and clock: each is its line, and does what its model says.
//!
//! The lines are drawn from seeds, printed and read again. The network and the clock are tried alone, message by message
//! and reading by reading; then each kind strikes a world that a scenario describes to the last detail, and its trace
//! has to show what came of it.

use std::collections::BTreeMap;

use lockstep_proto::raftpb::{Message, MessageType};
use lockstep_sim::choices::{Choices, Exception, Point};
use lockstep_sim::clock::Clock;
use lockstep_sim::fault::links::Links;
use lockstep_sim::fault::{self, Fault, KINDS, Kind, Sight, Words};
use lockstep_sim::knobs::Knobs;
use lockstep_sim::network::{Act, Arrival, Fate, Network, Rule, Window};
use lockstep_sim::random::{Purpose, Random};

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
        (kind.draw)(&mut random, &Sight { knobs, members, up, leaders })
    };
    (0..100).filter_map(draw).collect()
}

#[test]
fn a_drawn_fault_is_its_line() {
    let knobs = Knobs::plain(5, 60_000);
    for kind in KINDS {
        let mut lines = std::collections::BTreeSet::new();
        for members in 1..=7 {
            for drawn in draws(kind, members, &knobs) {
                let line = drawn.to_string();
                let read = parse(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
                assert_eq!(read.to_string(), line);
                assert_eq!((drawn.kind(), read.kind()), (kind.name, kind.name), "{line}");
                assert_eq!((drawn.members(), drawn.lasts_us()), (read.members(), read.lasts_us()), "{line}");
                assert!(drawn.members().iter().all(|id| (1..=members).contains(id)), "{line} in {members} members");
                let lasts_us = drawn.lasts_us().unwrap_or(0);
                assert!(lasts_us <= knobs.fault_most_ms * 1_000, "{line} lasts too long");
                lines.insert(line);
            }
        }
        let is_never_drawn = ["drop", "hold", "repeat", "out"].contains(&kind.name);
        assert!(if is_never_drawn { lines.is_empty() } else { lines.len() > 50 }, "{}: {lines:#?}", kind.name);
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
    let cases: &[(&str, &[(u64, Bend)], [u64; 9])] = &[
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
    let expected =
        [(1_000, 100_000), (2_000, 50_000), (500, 200_000), (100, 1_000_000), (100, 1_000_000), (3_550, 28_169), (10_000, 10_000)];
    assert_eq!(paces, expected);
}
