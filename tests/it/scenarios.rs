//! Scenario files: what is printed is read back, what is wrong is told by its line, and what is not needed is shrunk
//! away; and the work that clients do, which writes every value once.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_sim::asks::{LeaseAsk, LockAsk, Told};
use lockstep_sim::check::invariant_sum::InvariantSum;
use lockstep_sim::check::{Checker, Seen};
use lockstep_sim::choices::{Exception, Point, Stage};
use lockstep_sim::fault::{self, Sight, Words};
use lockstep_sim::history::{Operation, Outcome};
use lockstep_sim::knobs::{Knobs, Profile};
use lockstep_sim::random::{Purpose, Random};
use lockstep_sim::report::Verdict;
use lockstep_sim::scenario::{Event, Expect, Scenario, What};
use lockstep_sim::shrink::shrink;
use lockstep_sim::workload::{self, bank};
use lockstep_sim::world::{self, Options, Script};

fn operation(line: &str) -> Result<Operation, String> {
    let mut words = Words::new(line);
    let operation = Operation::parse(&mut words)?;
    words.end().map(|()| operation)
}

// Operations.

#[test]
fn an_operation_is_its_line() {
    for line in [
        "put k 1.1",
        "put k 60#1.1",
        "delete k",
        "get k",
        "get serializable",
        "get k serializable",
        "range a z",
        "range a z serializable",
        "cas k - 2.1",
        "cas k 1.1 2.1",
        "transfer a - 1.1",
        "transfer and - 1.1 and b 1.2 1.3 and c - 1.4",
        "compact 17",
        "compact -1",
        "watch 5 k",
        "watch 5 k to l from 17 prev no-put no-delete notify fragment slow 50ms beside 4",
        "resume 5",
        "cancel 5",
        "progress 5",
        "grant 7 4",
        "keep 7 every 500ms",
        "leave 7",
        "attach k 1.1 7",
        "left 7",
        "revoke 7",
        "enter lock/a 7",
        "enter elect/a 7 1.1",
        "await lock/a 7",
        "fenced lock/a 7 1.1",
        "proclaim elect/a 7 1.1",
        "exit lock/a 7",
        "observe elect/a",
    ] {
        let read = operation(line).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!(read.to_string(), line);
        assert_eq!(operation(&read.to_string()).as_ref(), Ok(&read));
    }
}

#[test]
fn what_is_no_operation_says_why() {
    let long = "x".repeat(65_537);
    for (line, why) in [
        ("", "what the client asks for is missing"),
        ("post k 1", "clients cannot \"post\""),
        ("put k", "a value is missing"),
        ("put k -", "cannot be written"),
        ("put k 1 2", "\"2\" is too much"),
        ("cas k 1", "a value is missing"),
        ("transfer a 1 2 and a 2 3", "a transfer names a key once"),
        ("transfer a 1 2 and", "a key is missing"),
        ("compact x", "\"x\" is not a revision"),
        ("compact 99999999999999999999", "is not a revision"),
        ("watch 0 k", "watchers have numbers from 1"),
        ("watch 5 k to k", "a range ends behind its first key"),
        ("watch 5 k from -1", "is not a number"),
        ("grant 7 0", "a lease lives from 1 to 86400 seconds"),
        ("keep 7", "\"every\" is missing"),
        ("enter room 7", "is no room"),
        (&format!("put k {long}"), "a key or value has at most 65536 bytes, this one has 65537"),
    ] {
        let error = operation(line).expect_err(line);
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    }
}

/// Each kind of operation, through a member's log and store and back to the client.
#[test]
fn operations_do_what_they_say() {
    let script = "
        get k | put k 1 | get k | get k serializable | cas k 0 2 | cas k 1 2 | cas k - 3 | cas l - 4 | range a z
        transfer k 2 5 and l 4 6 and m - 7 | transfer k 2 8 and m 7 9 and n - 1 | range k n | delete k | delete k
        put k 10 | range a z | compact 4 | compact 4 | compact 99 | get k | range x z";
    let mut text = String::from("members 1\nuntil 6s\n");
    for (nth, line) in script.split(['|', '\n']).map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        text.push_str(&format!("2.{nth:02}s client 1 at 1 {line}\n"));
    }
    let scenario = Scenario::parse(&text).expect("it is a scenario");
    let report = world::run(Script::Scenario(scenario), Options { keep_trace: true, ..Options::default() });
    assert_eq!(report.verdict, Verdict::Ok);
    let trace = report.trace.expect("it was asked for");
    let said: Vec<&str> = trace.lines().filter_map(|line| line.split_once("client 1 ").map(|(_, what)| what)).collect();
    insta::assert_snapshot!(said.join("\n"));
}

/// Watches, leases, locks and elections: what is asked for, and what comes of it on streams.
#[test]
fn what_lies_aside_does_what_it_says() {
    let script = "
        watch 1 k | watch 2 k to m prev notify beside 1 | put k 1 | put l 1 | watch 3 k from 2 no-delete fragment
        progress 1 | cancel 2 | cancel 2 | watch 1 k | watch 4 k from 99 | delete k | resume 1 | put k 2
        compact 4 | watch 5 k from 2 | grant 7 3 | left 7 | keep 7 every 500ms | attach held0 5 7 | left 7
        grant 8 2 | enter lock/a 7 | enter lock/a 8 | await lock/a 7 | await lock/a 8 | fenced lock/a 7 6
        exit lock/a 7 | await lock/a 8 | fenced lock/a 7 7 | fenced lock/a 9 7 | enter elect/b 7 p | observe elect/b
        proclaim elect/b 7 q | observe elect/b | watch 6 elect/b/7 | revoke 7 | left 7 | observe elect/b | left 8";
    let mut text = String::from("members 1\nuntil 12s\nknob request_timeout_ms 500\n");
    for (nth, line) in script.split(['|', '\n']).map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        text.push_str(&format!("2.{nth:02}s client 1 at 1 {line}\n"));
    }
    text.push_str("7s client 1 at 1 left 8\n7.1s client 1 at 1 await lock/a 8\n");
    let scenario = Scenario::parse(&text).expect("it is a scenario");
    let report = world::run(Script::Scenario(scenario), Options { keep_trace: true, ..Options::default() });
    assert_eq!(report.verdict, Verdict::Ok);
    let trace = report.trace.expect("it was asked for");
    let said: Vec<&str> = trace.lines().filter_map(|line| line.split_once("client 1 ").map(|(_, what)| what)).collect();
    insta::assert_snapshot!(said.join("\n"));
}

// Scenarios.

#[test]
fn a_scenario_is_its_text() {
    let text = "\
# Every kind of line.
#
#   indented
members 5
until 20s
mutation ack-before-fsync
expect fail durability: acknowledged write lost
trace 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
knob clients 6
knob delay_us 2000
faults crash isolate
work bank registers

0.000001s client 6 at 2 put k 60#1.1
1.25s     client 1 at 5 transfer a - 1 and b 2 3
1.25s     crash 2 for 500ms
12s       split 1,2|3,4,5 for 2s

message 1->2 #9 lost
message 1->2 #17 late 3ms
fsync 2 #4 late 20ms
";
    let scenario = Scenario::parse(text).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(scenario.head, ["Every kind of line.", "", "  indented"]);
    assert_eq!(scenario.expect, Expect::Fail("durability: acknowledged write lost".into()));
    assert_eq!(scenario.knobs.delay_us, 2_000);
    assert_eq!(scenario.until_ms(), 20_000);
    let printed = scenario.to_string();
    let again = Scenario::parse(&printed).unwrap_or_else(|why| panic!("{why}\n{printed}"));
    assert_eq!(again.to_string(), printed);
    assert_eq!(sorted(&printed), sorted(text), "nothing is lost, nothing is added");
}

fn sorted(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = text.lines().map(words).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}

#[test]
fn order_blanks_and_comments_mean_nothing() {
    let tidy = "members 3\nuntil 6s\n\n1s        client 1 at 2 put k 1\n2s        kill 2 for 1s\n";
    let loose =
        "\n\tmembers  3 # three\n# a comment\nuntil 6s\n 2s kill 2  for 1000ms #\r\n1000ms client 1 at 2 put k 1";
    assert_eq!(Scenario::parse(loose).expect("it is a scenario").to_string(), tidy);
}

#[test]
fn what_is_wrong_is_told_by_its_line() {
    let hex = "0".repeat(63);
    let huge = "9".repeat(1 << 20);
    let in_head = [
        ("members 10", "10 is not from 1 to 9"),
        ("members 0", "0 is not from 1 to 9"),
        ("members three", "\"three\" is not a number"),
        ("members 3 4", "\"4\" is too much"),
        ("until 0s", "until is at least 1ms"),
        ("until 1us", "in whole milliseconds"),
        ("until 18446744073709551615s", "until"),
        ("until 1000000s", "at most 86400s"),
        ("mutation none-such", "there is no mutation \"none-such\"; there are: ack-before-fsync"),
        ("expect maybe", "expect pass or fail"),
        ("expect fail", "say how it fails"),
        ("trace abc", "is not a trace hash"),
        (&format!("trace {hex}G"), "is not a trace hash"),
        ("knob delay 3", "there is no knob \"delay\""),
        ("knob members 3", "the members are said by"),
        ("knob clients 0", "clients is from 1 to 1000"),
        ("knob delay_us 18446744073709551615", "delay_us is from 0 to"),
        ("knob delay_us 18446744073709551616", "is not a number"),
        ("knob late_permille 1001", "from 0 to 1000, not 1001"),
        ("knob segment_bytes 0", "from 1 to"),
        ("faults flood", "\"flood\" is not known here"),
        ("work sleep", "\"sleep\" is not known here"),
        ("fnord", "\"fnord\" is no time, no choice and no word of the head"),
        ("1s client 1 at 1 put k 1", "say `members 3` and `until 20s`"),
    ];
    for (line, why) in in_head {
        wrong(&format!("# head\n\n{line}\n"), 3, why);
    }
    let below = [
        ("members 3", "\"members\" belongs above the first event"),
        ("1x client 1 at 2 get k", "\"1x\" is not a time"),
        (&huge, "is not a time"),
        ("99999999s client 1 at 2 get k", "is too late"),
        ("1s", "a fault is missing"),
        ("1s client 5 at 2 get k", "say `knob clients 5`"),
        ("1s client 0 at 2 get k", "client 0 is not one of 1 to 4"),
        ("1s client 1 at 4 get k", "4 is not from 1 to 3"),
        ("1s client 1 on 3 get k", "\"at\" expected, \"on\" found"),
        ("1s client 1 at 3 get k k", "\"k\" is too much"),
        ("1s flood 3", "neither a client nor a fault; the faults are: loss duplicate"),
        ("1s isolate 4 for 1s", "4 is not from 1 to 3"),
        ("1s isolate 1 for 999999s", "nothing takes more than 86400s"),
        ("1s isolate 1 for 1s more", "\"more\" is too much"),
        ("message 1->4 #1 lost", "4 is not from 1 to 3"),
        ("message 1->2 #1 late 999999s", "is too much"),
        ("message 1->2 #7 lost", "this choice was made before, in line 5"),
        ("election 1 #1 waits 99999999999", "is too much"),
    ];
    for (line, why) in below {
        wrong(&format!("members 3\nuntil 6s\n\n1s client 1 at 1 get k\nmessage 1->2 #7 lost\n{line}\n"), 6, why);
    }
    wrong("", 1, "say `members 3` and `until 20s`");
    wrong("members 3\nmembers 3\n", 2, "members was said before, in line 1");
    wrong("members 3\nuntil 6s\nknob delay_us 1\nknob delay_us 2\n", 4, "knob delay_us was said before, in line 3");
}

fn wrong(text: &str, line: usize, why: &str) {
    let error = Scenario::parse(text).expect_err(why);
    assert!(
        error.starts_with(&format!("line {line}: ")) && error.contains(why),
        "{error:?} is not line {line}: {why:?}"
    );
    assert!(error.len() < 5_000, "an error may not be longer than a page");
}

#[test]
fn any_scenario_survives_being_printed() {
    for seed in 0..200 {
        let scenario = drawn(seed);
        let text = scenario.to_string();
        let read = Scenario::parse(&text).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{text}"));
        assert_eq!(read.to_string(), text, "seed {seed}");
        assert_eq!(read.knobs, scenario.knobs, "seed {seed}");
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let text = drawn(3).to_string();
    let mut random = Random::new(1, Purpose::Workload);
    let lines: Vec<&str> = text.lines().collect();
    for _ in 0..2_000 {
        let mut line = (*random.pick(&lines)).to_owned().into_bytes();
        for _ in 0..random.between(1, 3) {
            let at = random.below(line.len() as u64 + 1) as usize;
            let byte = *random.pick(b"0 9-#.>|,as\xc3\xff9999");
            line.splice(at..(at + random.below(3) as usize).min(line.len()), [byte, byte]);
        }
        let text = format!("members 9\nuntil 9s\nknob clients 9\n{}\n", String::from_utf8_lossy(&line));
        if let Ok(scenario) = Scenario::parse(&text) {
            let printed = scenario.to_string();
            let again = Scenario::parse(&printed).unwrap_or_else(|why| panic!("{why}\n{text}\n{printed}"));
            assert_eq!(again.to_string(), printed);
        }
    }
}

/// Knobs, faults and operations as chance draws them, and choices of every kind.
fn drawn(seed: u64) -> Scenario {
    let mut random = Random::new(seed, Purpose::Process);
    let r = &mut random;
    let members = r.between(3, 9);
    let until_ms = r.between(6, 60_000);
    let knobs = Knobs::draw(seed, members, until_ms, *r.pick(&[Profile::Swarm, Profile::Calm, Profile::Lite]));
    let mut scenario = Scenario::new(knobs.clone());
    let ids: Vec<u64> = (1..=members).collect();
    let sight = Sight {
        knobs: &knobs,
        members: ids.clone(),
        up: ids.clone(),
        voters: ids.clone(),
        learners: Vec::new(),
        lost: Vec::new(),
        spares: (members + 1..=knobs.machines()).collect(),
        leaders: vec![1],
        disks: BTreeMap::new(),
    };
    let mut works: Vec<_> = workload::KINDS.iter().map(|kind| (kind.make)(knobs.clients)).collect();
    let mut values = 0;
    for _ in 0..r.below(60) {
        let what = if r.permille(300) {
            let Some(fault) = (r.pick(fault::KINDS).draw)(r, &sight) else { continue };
            What::Fault(fault.into())
        } else {
            let client = r.between(1, knobs.clients);
            let nth = r.below(works.len() as u64) as usize;
            let mut fresh = || {
                values += 1;
                format!("{client}.{values}")
            };
            let operation = works[nth].next(client, r, &mut fresh);
            What::Client { client, member: r.between(1, members), operation }
        };
        scenario.events.push(Event { at_us: r.below(until_ms * 1_000), what });
    }
    let mut points = BTreeMap::new();
    for _ in 0..r.below(40) {
        let (member, number) = (r.between(1, members), r.between(1, 1 << 40));
        let (from, to, stage) = (member, r.between(1, members), *r.pick(&Stage::ALL));
        let point = match r.below(13) {
            0 => Point::Message { from, to, number },
            1 => Point::Twice { from, to, number },
            2 => Point::Lost { from, to, number },
            3 => Point::Fsync { member, number },
            4 => Point::Stage { member, stage, number },
            5 => Point::Leave { member, number },
            6 => Point::Look { number },
            7 => Point::FirstTick { member, life: number },
            8 => Point::Election { member, number },
            9 => Point::LeaveWatch { member, number },
            10 => Point::Hear { stream: number, number },
            11 => Point::Forward { number },
            _ => Point::Kept { member, crash: number, nth: r.below(100) },
        };
        let value = if matches!(point, Point::Lost { .. }) { 1 } else { r.between(1, 1 << 20) };
        points.insert(point, value);
    }
    scenario.exceptions = points.into_iter().map(|(point, value)| Exception { point, value }).collect();
    scenario
}

// The files that are shipped.

#[test]
fn shipped_scenarios_are_read_and_explained() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sim/scenarios");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the folder of scenarios") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let scenario = Scenario::parse(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(name.ends_with(".scenario"), "{name} is no scenario");
        assert!(scenario.head.len() >= 3, "{name} does not say what it shows and where it was seen");
        let printed = scenario.to_string();
        assert_eq!(Scenario::parse(&printed).expect(&name).to_string(), printed, "{name}");
        // Comments between the lines are for whoever reads the file; all else is said again.
        let lines = text.lines().enumerate().filter(|(at, line)| *at < scenario.head.len() || !line.starts_with('#'));
        let said: String = lines.map(|(_, line)| format!("{line}\n")).collect();
        assert_eq!(sorted(&printed), sorted(&said), "{name} is not as it would be printed");
        names.insert(name.trim_end_matches(".scenario").to_owned());
    }
    for name in [
        "cloudflare-2020",
        "crash-between-append-and-fsync",
        "crash-in-redb-commit",
        "etcd-20418",
        "figure-8",
        "paused-leader",
        "replaced-members",
        "rolling-restarts",
        "torn-wal-tail",
    ] {
        assert!(names.contains(name), "{name} is not there: {names:?}");
    }
}

// The shrinker.

/// Shrinks with a made-up failure; returns the text of what is left, without the head of the file.
fn shrunk(text: &str, fails: &dyn Fn(&Scenario) -> bool) -> String {
    let scenario = Scenario::parse(text).unwrap_or_else(|why| panic!("{why}"));
    let mut said = 0;
    let mut try_run = |candidate: &Scenario| {
        let printed = candidate.to_string();
        Scenario::parse(&printed).unwrap_or_else(|why| panic!("a candidate is no scenario: {why}\n{printed}"));
        fails(candidate).then(|| "law: broken".to_owned())
    };
    let small = shrink(&scenario, "law: broken", &mut try_run, &mut |_| said += 1);
    assert!(said > 0, "progress is told");
    assert!(fails(&small), "what is left fails");
    small.to_string()
}

fn has(scenario: &Scenario, line: &str) -> bool {
    scenario.events.iter().any(|event| event.what.to_string().contains(line))
}

fn much() -> String {
    let mut text = String::from(
        "members 5\nuntil 60s\ntrace 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
         knob clients 8\nknob delay_us 50\nknob fsync_us 8000\nfaults crash isolate\nwork bank\n",
    );
    for nth in 1u64..400 {
        let (client, member) = (nth % 8 + 1, nth % 5 + 1);
        text.push_str(&format!(
            "{}.{:03}s client {client} at {member} put key{} {client}.{nth}\n",
            nth / 10,
            nth,
            nth % 9
        ));
        if nth % 10 == 0 {
            text.push_str(&format!("{}.5{nth:03}s crash {member} for 1234ms\n", nth / 10));
        }
        if nth % 7 == 0 {
            text.push_str(&format!("{}.6{nth:03}s isolate {member} for {nth}ms\n", nth / 10));
        }
    }
    for nth in 1..600 {
        text.push_str(&format!("message {}->{} #{nth} late {nth}us\n", nth % 5 + 1, (nth + 1) % 5 + 1));
        text.push_str(&format!("log {} #{nth} late {nth}us\n", nth % 5 + 1));
    }
    text
}

#[test]
fn a_shrunk_scenario_holds_what_the_failure_needs_and_nothing_else() {
    let needs_one_put = |scenario: &Scenario| has(scenario, "put");
    let crash_and_choice = |scenario: &Scenario| {
        let choice = Point::Message { from: 3, to: 4, number: 17 };
        let number = scenario.exceptions.iter().any(|e| e.point == choice);
        has(scenario, "crash 1") && has(scenario, "at 2 put") && number && scenario.knobs.members >= 4
    };
    let order = |scenario: &Scenario| {
        let is = |event: &Event, line: &str| event.what.to_string().contains(line);
        let first = |line: &str| scenario.events.iter().position(|event| is(event, line));
        let last = |line: &str| scenario.events.iter().rposition(|event| is(event, line));
        first("crash").is_some_and(|at| Some(at) < last("isolate"))
            && first("isolate").is_some_and(|at| Some(at) < last("put key4"))
    };
    let late = |scenario: &Scenario| {
        scenario.events.iter().any(|event| event.at_us >= 7_123_456 && event.what.to_string().contains("crash"))
    };
    let knob = |scenario: &Scenario| scenario.knobs.fsync_us == 8_000 && has(scenario, "isolate");
    for (name, fails) in [
        ("one put", &needs_one_put as &dyn Fn(&Scenario) -> bool),
        ("a crash, a put and a choice", &crash_and_choice),
        ("three in order", &order),
        ("not before a time", &late),
        ("a knob", &knob),
    ] {
        insta::assert_snapshot!(name.replace([' ', ','], "_"), shrunk(&much(), fails));
    }
}

#[test]
fn a_failure_that_needs_everything_is_left_alone() {
    let text =
        "members 2\nuntil 3s\n\n1s        crash 1 for 10ms\n2s        client 1 at 2 put a 1\n\nmessage 1->2 #1 lost\n";
    let all = shrunk(text, &|scenario| scenario.to_string().ends_with(text.split_once("\n\n").expect("it has").1));
    assert_eq!(all, text.replace("until 3s\n", "until 3s\nexpect fail law: broken\n"));
}

#[test]
fn shrinking_ends_when_the_budget_does() {
    let scenario = Scenario::parse(&much()).expect("it is a scenario");
    for budget in [0, 1, 2, 10, 50] {
        let mut runs = 0;
        let mut try_run = |candidate: &Scenario| {
            runs += 1;
            (runs <= budget && has(candidate, "put")).then(|| "law: broken".to_owned())
        };
        let small = shrink(&scenario, "law: broken", &mut try_run, &mut |_| {});
        assert!(has(&small, "put"));
        assert!(runs < 20_000, "{runs} runs after a budget of {budget}");
        assert_eq!(budget == 0, small.to_string() == scenario.to_string(), "budget {budget}");
    }
}

// Work.

/// What begins lines of watches and leases.
const ASIDE: &[&str] = &["watch", "grant"];

#[test]
fn work_writes_every_value_once() {
    for kind in workload::KINDS {
        for seed in 0..5 {
            let mut random = Random::new(seed, Purpose::Workload);
            let mut work = (kind.make)(5);
            let mut values = BTreeSet::new();
            let mut kinds = BTreeSet::new();
            let mut count = 0;
            for revision in 1..2_000 {
                let client = random.between(1, 5);
                let mut fresh = || {
                    count += 1;
                    format!("{client}.{count}")
                };
                let asked = work.next(client, &mut random, &mut fresh);
                let line = asked.to_string();
                assert_eq!(operation(&line).as_ref(), Ok(&asked), "{line}");
                kinds.insert(line.split(' ').next().expect("a word").to_owned());
                for (_, value) in asked.writes() {
                    assert!(value.is_none_or(|value| values.insert(value.to_owned())), "{}: {line} again", kind.name);
                }
                if let Operation::Compact { revision } = asked {
                    assert!(revision > 0, "{}: {line}", kind.name);
                }
                work.learn(client, &asked, &some_outcome(&asked, revision, &mut random));
            }
            // Some write keys that are not compared by their values.
            let least = if kinds.iter().any(|kind| ASIDE.contains(&&**kind)) { 0 } else { 300 };
            assert!(kinds.len() > 1 && values.len() >= least, "{}: {kinds:?}, {} values", kind.name, values.len());
        }
    }
    let distinct: BTreeSet<&str> = workload::KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(distinct.len(), workload::KINDS.len());
}

fn some_told(operation: &Operation, random: &mut Random) -> Told {
    match operation {
        Operation::Lease(LeaseAsk::Grant { ttl_s, .. }) => Told::Granted { ttl_s: *ttl_s },
        Operation::Lease(LeaseAsk::Left { .. }) => Told::Left { ttl_s: random.below(3) as i64 - 1 },
        Operation::Lock(LockAsk::Enter { .. }) => Told::Entered { create_revision: 2 },
        Operation::Lock(LockAsk::Await { .. }) if random.permille(500) => Told::Waits,
        Operation::Lock(LockAsk::Await { .. }) => Told::Owns,
        Operation::Lock(_) => Told::Stamped(random.permille(800)),
        _ => Told::Sent,
    }
}

fn some_outcome(operation: &Operation, revision: i64, random: &mut Random) -> Outcome {
    let found: Vec<_> = operation.writes().into_iter().map(|(key, _)| (key.to_owned(), None)).collect();
    match random.below(10) {
        0 => Outcome::Refused { error: "etcdserver: too many requests".into() },
        1 | 2 => Outcome::Unknown { why: "timed out".into() },
        _ if operation.is_aside() => Outcome::Told { revision, told: some_told(operation, random) },
        _ if operation.is_read() => Outcome::Read { revision, found, versions: Vec::new() },
        3 => Outcome::Done { revision, succeeded: false, found },
        _ => Outcome::Done { revision, succeeded: true, found: Vec::new() },
    }
}

#[test]
fn the_bank_keeps_its_sum_and_the_checker_sees_it_broken() {
    let mut accounts: BTreeMap<String, String> = BTreeMap::new();
    let mut random = Random::new(1, Purpose::Workload);
    let mut work = (workload::kind("bank").expect("it is a kind").make)(3);
    let mut checker = InvariantSum::default();
    let mut count = 0;
    for revision in 1..500 {
        let mut fresh = || {
            count += 1;
            format!("1.{count}")
        };
        let asked = work.next(1, &mut random, &mut fresh);
        checker.see(0, &Seen::Asked { number: 1, client: 1, member: 1, operation: &asked }).expect("it keeps the sum");
        let outcome = match &asked {
            Operation::Transfer { from, to } => {
                let holds = from.iter().all(|(key, old)| accounts.get(key) == old.as_ref());
                let found = from.iter().map(|(key, _)| (key.clone(), accounts.get(key).cloned())).collect();
                if holds {
                    accounts.extend(to.iter().cloned());
                }
                Outcome::Done { revision, succeeded: holds, found: if holds { Vec::new() } else { found } }
            }
            _ => Outcome::Read {
                revision,
                found: accounts.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect(),
                versions: Vec::new(),
            },
        };
        let seen = Seen::Answered { number: 1, client: 1, member: 1, operation: &asked, outcome: &outcome };
        checker.see(0, &seen).expect("the sum is kept");
        work.learn(1, &asked, &outcome);
    }
    assert_eq!(accounts.len() as u64, bank::ACCOUNTS, "every account has been moved");

    let (key, end) = bank::statement(1);
    let statement = Operation::Range { key, end, serializable: true };
    let torn = |accounts: &BTreeMap<String, String>| {
        let found = accounts.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        Outcome::Read { revision: 9, found, versions: Vec::new() }
    };
    let first = accounts.first_entry().map(|entry| entry.key().clone()).expect("there are accounts");
    let mut look = |accounts: &BTreeMap<String, String>| {
        let outcome = torn(accounts);
        let seen = Seen::Answered { number: 7, client: 1, member: 1, operation: &statement, outcome: &outcome };
        checker.see(0, &seen)
    };
    look(&accounts).expect("nothing is wrong yet");
    for broken in ["1000#9.9", "nothing", "18446744073709551615#1"] {
        let mut accounts = accounts.clone();
        accounts.insert(first.clone(), broken.into());
        let objection = look(&accounts).expect_err(broken);
        assert_eq!(objection.place, "a statement does not add up");
        assert!(objection.story.ends_with("operations: 7"), "{}", objection.story);
    }
    // Who is told to break the rule is not to blame.
    let robbery = operation("transfer bank1.0 - 7#1").expect("it is one");
    checker.see(0, &Seen::Asked { number: 8, client: 1, member: 1, operation: &robbery }).expect("it only asks");
    let outcome = torn(&BTreeMap::new());
    let seen = Seen::Answered { number: 9, client: 1, member: 1, operation: &statement, outcome: &outcome };
    checker.see(0, &seen).expect("it does not judge any more");
}

#[test]
fn the_manual_has_every_fault_checker_knob_and_work() {
    let manual = include_str!("../../docs/SIMULATION.md");
    let faults = manual.split("\n## Faults\n").nth(1).expect("a section").split("\n## ").next().expect("its text");
    let lines: Vec<String> = faults
        .lines()
        .filter_map(|row| Some(row.strip_prefix("| `")?.split('`').next()?.replace("\\|", "|")))
        .collect();
    for line in &lines {
        if let Err(error) = lockstep_sim::scenario::parse_fault(line, 7) {
            panic!("{line}: {error}");
        }
    }
    for kind in lockstep_sim::fault::KINDS {
        assert!(lines.iter().any(|line| line.split(' ').next() == Some(kind.name)), "no row shows {}", kind.name);
    }
    let knobs = lockstep_sim::knobs::Knobs::plain(3, 20_000);
    let checkers = lockstep_sim::check::all(&knobs);
    let names = checkers.iter().map(|checker| checker.name()).chain(knobs.work.iter().map(String::as_str));
    for name in names.chain(knobs.numbers().into_iter().map(|(name, _)| name)).filter(|name| *name != "members") {
        assert!(manual.contains(&format!("`{name}`")), "the manual does not name {name}");
    }
}
