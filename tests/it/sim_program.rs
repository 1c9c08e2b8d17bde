//! The program `lockstep-sim`: what it prints, what it writes, with which code it ends, and what it will not take.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lockstep_sim::program::main_with;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Words and a part of the one line of complaint. `$DIR` is a folder of the test's own.
#[rustfmt::skip]
const REFUSALS: &[(&str, &str)] = &[
    ("", "a command is missing: run, swarm, check, replay, shrink, explain, mutants, coverage, bench or help"),
    ("frobnicate", "unrecognized subcommand 'frobnicate'"),
    ("run", "the following required arguments were not provided: --seed <NUMBER>"),
    ("run --seed", "a value is required for '--seed <NUMBER>'"),
    ("run --seed x", "invalid value 'x' for '--seed <NUMBER>'"),
    ("run --seed -1", "unexpected argument '-1' found"),
    ("run --seed 7 --frob", "unexpected argument '--frob' found"),
    ("run --seed 7 8", "unexpected argument '8' found"),
    ("run --seed 7 --members 0", "0 is not in 1..=9"),
    ("run --seed 7 --members 10", "10 is not in 1..=9"),
    ("run --seed 7 --until 60", "a time is like 60s or 90.5s"),
    ("run --seed 7 --until 6s", "a run has 30s at least (10s with faults, 10s for a core alone, 10s for all to rest)"),
    ("run --seed 7 --until 99999999999999999s", "a time is like"),
    ("run --seed 7 --profile wild", "there are swarm, calm and lite"),
    ("run --seed 7 --without frost", "the kinds of fault are "),
    ("run --seed 7 --mutation frog", "the deliberate bugs are ack-before-fsync, "),
    ("run --seed 7 --until 30s --trace $DIR/none/a", "cannot write the trace to $DIR/none/a: "),
    ("swarm", "required arguments were not provided: --seeds <A..B>"),
    ("swarm --seeds 5..1", "the range ends before it begins: 1..5 would do"),
    ("swarm --seeds x", "\"x\" is not a seed: a range is like 1..500"),
    ("swarm --seeds 1..", "\"\" is not a seed"),
    ("swarm --seeds 1..2..3", "\"2..3\" is not a seed"),
    ("swarm --seeds 1..2 --jobs 0", "invalid value '0' for '--jobs <COUNT>'"),
    ("swarm --seeds 1..2 --jobs 100000", "from 1 to 256 worlds run side by side"),
    ("swarm --seeds 1..2 --budget soon", "a time is like 60s or 5m"),
    ("swarm --seeds 1..2 --save $DIR/bad.scenario", "cannot make the folder $DIR/bad.scenario: "),
    ("check --seeds 1..2 --other $DIR/none", "there is no program $DIR/none"),
    ("replay", "required arguments were not provided: <FILE>"),
    ("replay $DIR/none.scenario", "cannot read the scenario $DIR/none.scenario: "),
    ("replay $DIR/bad.scenario", "$DIR/bad.scenario: line 4: "),
    ("replay $DIR/binary.scenario", "cannot read the scenario $DIR/binary.scenario: "),
    ("shrink $DIR/calm.scenario", "required arguments were not provided: --output <FILE>"),
    ("shrink $DIR/bad.scenario -o $DIR/small", "$DIR/bad.scenario: line 4: "),
    ("shrink $DIR/calm.scenario -o $DIR/small", "$DIR/calm.scenario does not fail, so there is nothing to shrink"),
    ("shrink $DIR/calm.scenario -o $DIR/none/small", "cannot write the scenario to $DIR/none/small: "),
    ("shrink $DIR/calm.scenario -o $DIR", "cannot write the scenario to $DIR: "),
    ("explain $DIR/calm.scenario", "what is it to be: --html FILE, --svg FILE or --text?"),
    ("mutants --id frog", "the deliberate bugs are ack-before-fsync, "),
    ("coverage --seeds 3..2", "the range ends before it begins"),
    ("bench --seeds 0..x", "\"x\" is not a seed"),
];

const CALM: &str = "# Nothing happens.\nmembers 3\nuntil 3s\n";

#[test]
fn what_is_wrong_is_told_in_one_line() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("calm.scenario"), CALM).expect("written");
    std::fs::write(at("bad.scenario"), format!("{CALM}1s frost 2\n")).expect("written");
    std::fs::write(at("binary.scenario"), b"\xff\xfe\x00").expect("written");
    let dir = folder.path().to_str().expect("a plain path");
    for (words, complaint) in REFUSALS {
        let done = program(&words.replace("$DIR", dir));
        let complaint = complaint.replace("$DIR", dir);
        assert_eq!(done.code, 2, "{words}: {done:?}");
        assert!(done.err.contains(&complaint), "{words}: {complaint:?} is not in {done:?}");
        assert_eq!(done.err.lines().count(), 1, "{words}: {done:?}");
        assert!(done.err.starts_with("lockstep-sim: "), "{words}: {done:?}");
    }
}

#[test]
fn help_is_a_result() {
    let help = program("help");
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for command in ["run", "swarm", "check", "replay", "shrink", "explain", "mutants", "coverage", "bench", "help"] {
        assert!(help.out.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {}", help.out);
    }
    let run = program("run --help");
    for option in ["--seed", "--members", "--until", "--profile", "--trace", "--json", "--without", "--mutation"] {
        assert!(run.out.contains(option), "{option}: {}", run.out);
    }
    assert_eq!(program("help run").out, run.out);
    let version = program("--version");
    assert_eq!((version.code, version.out), (0, format!("lockstep-sim {}\n", lockstep::VERSION)));
}

#[test]
fn a_run_is_its_trace() {
    let folder = folder();
    let trace = folder.path().join("7.trace");
    let words = "run --seed 7 --members 3 --until 30s --profile lite";
    let text = program(&format!("{words} --trace {}", trace.display()));
    assert_eq!(text.code, 0, "{text:?}");
    let hash = sha256(&trace);
    assert!(text.out.contains(&format!("trace       {hash} ")), "{hash}: {}", text.out);
    for part in ["knob members 3\n", "faults      ", "operations  ", "verdict     ok\n"] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }
    let again = text.out.lines().find_map(|line| line.strip_prefix("again       lockstep-sim ")).expect("the line");
    assert_eq!(again, words);

    let json = program(&format!("{again} --json"));
    let row = row(json.out.trim_end());
    assert_eq!((json.code, json.out.lines().count()), (0, 1));
    assert_eq!(row["seed"], 7);
    assert_eq!(row["trace_hash"], hash.as_str(), "the line that does it again does something else");
    assert_eq!(row["verdict"], "ok");
    assert_eq!(row["checker"], Value::Null);
    assert_eq!(row["repro"], format!("lockstep-sim {words}"));
    assert!(row["ops"].as_u64() > Some(0), "{row}");
    assert!(row["faults"].is_object(), "{row}");

    let other = program("run --seed 8 --members 3 --until 30s --profile lite --json");
    assert_ne!(self::row(other.out.trim_end())["trace_hash"], hash.as_str());
}

#[test]
fn a_swarm_answers_for_every_seed_in_order() {
    let words = "swarm --seeds 3..8 --members 3 --until 30s --profile lite --jobs 2";
    let json = program(&format!("{words} --json"));
    assert_eq!(json.code, 0, "{json:?}");
    let seeds: Vec<u64> = json.out.lines().map(|line| row(line)["seed"].as_u64().expect("a seed")).collect();
    assert_eq!(seeds, [3, 4, 5, 6, 7, 8]);
    let alone = program("run --seed 5 --members 3 --until 30s --profile lite --json");
    assert_eq!(json.out.lines().nth(2), Some(alone.out.trim_end()));

    // The last seed that there is.
    let last = u64::MAX;
    let json = program(&format!("swarm --seeds {}..{last} --members 1 --until 30s --profile calm --json", last - 1));
    let seeds: Vec<u64> = json.out.lines().map(|line| row(line)["seed"].as_u64().expect("a seed")).collect();
    assert_eq!((json.code, seeds), (0, vec![last - 1, last]));

    let text = program(words);
    assert_eq!((text.code, text.err.as_str()), (0, ""));
    for part in ["seeds       6: 6 passed, 0 failed, 0 unknown\n", " acknowledged in the median run\n", "crash "] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }

    let brief = program("swarm --seeds 1..1000000 --members 3 --until 30s --profile calm --budget 1s");
    assert_eq!(brief.code, 0, "{brief:?}");
    assert!(brief.out.contains(" of 1000000 seeds were run, then the time was up\n"), "{brief:?}");
}

#[test]
fn a_record_replays_without_its_seed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (record, trace) = (at("run.scenario"), at("run.trace"));
    let run = program(&format!(
        "run --seed 11 --members 3 --until 30s --record {} --trace {}",
        record.display(),
        trace.display()
    ));
    assert_eq!(run.code, 0, "{run:?}");
    let text = std::fs::read_to_string(&record).expect("the record");
    let unnamed: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert!(!unnamed.contains("seed"), "{unnamed}");
    std::fs::write(&record, &unnamed).expect("written");
    let replay = program(&format!("replay {} --trace {}", record.display(), at("again.trace").display()));
    assert_eq!(replay.code, 0, "{replay:?}");
    assert!(replay.out.contains("recorded    the same trace\n"), "{}", replay.out);
    assert_eq!(sha256(&trace), sha256(&at("again.trace")));

    // Another code, or what looks like it: one line of the old trace is not what happens now.
    let old = std::fs::read_to_string(&trace).expect("the trace");
    let mut lines: Vec<&str> = old.lines().collect();
    lines[40] = "   0.000000 something else";
    std::fs::write(&trace, lines.join("\n") + "\n").expect("written");
    let hash = sha256(&trace);
    let changed = unnamed.lines().map(|line| match line.strip_prefix("trace ") {
        Some(_) => format!("trace {hash}\n"),
        None => format!("{line}\n"),
    });
    std::fs::write(&record, changed.collect::<String>()).expect("written");
    let replay = program(&format!("replay {}", record.display()));
    assert_eq!(replay.code, 0, "{replay:?}");
    assert!(replay.out.contains("recorded    another trace: they part at line 41\n"), "{}", replay.out);
    assert!(replay.out.contains("  recorded     0.000000 something else\n"), "{}", replay.out);

    let json = program(&format!("replay {} --json", record.display()));
    assert_eq!(row(json.out.trim_end())["seed"], Value::Null);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let check = program("check --seeds 1..3 --members 3 --until 30s");
    assert_eq!(check.code, 0, "{check:?}");
    assert_eq!(check.out, "seeds 1..3: the same traces (twice here)\n");
}

/// What a file asks for in the liveness phase, and that nothing is expected of it which cannot be.
#[test]
fn a_core_is_measured_by_what_it_can_do() {
    const SPLIT: &str = "split 1|2,3 for 2s";
    let folder = folder();
    let file = folder.path().join("core.scenario");
    for (members, faults, asked, code) in [
        (3, vec!["out 2 dead"], "put k 1", 0),
        (3, vec![SPLIT], "put k 1", 1),
        (3, vec![SPLIT], "get k", 1),
        (3, vec![SPLIT], "get k serializable", 0),
        (3, vec![], "get k serializable", 0),
        (3, vec![], "compact 7", 0),
        // Raft promises nothing to half of a cluster.
        (3, vec!["out 2 dead", "out 3 cut"], "put k 1", 0),
        (2, vec!["out 2 deaf"], "put k 1", 0),
    ] {
        let mut lines: String = faults.iter().map(|fault| format!("8.000001s {fault}\n")).collect();
        lines += &format!("8.5s client 1 at 1 {asked}\n");
        std::fs::write(&file, format!("members {members}\nuntil 12s\n{lines}")).expect("written");
        let done = program(&format!("replay {}", file.display()));
        assert_eq!(done.code, code, "{lines}{}", done.out);
        assert!(code == 0 || done.out.contains("fail: progress: no progress"), "{lines}{}", done.out);
    }
}

#[test]
fn a_picture_of_a_scenario() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("calm.scenario"), format!("{CALM}1s client 1 at 2 put k 1.1\n")).expect("written");
    let words = format!("explain {} --html {} --text", at("calm.scenario").display(), at("calm.html").display());
    let done = program(&words);
    assert_eq!(done.code, 0, "{done:?}");
    let page = std::fs::read_to_string(at("calm.html")).expect("the page");
    assert!(page.contains("<html") && page.contains("put k 1.1"), "{page:.500}");
    assert!(done.out.contains("1 leads, term 2"), "{}", done.out);
}

/// Where the deliberate bugs are in the build, one of them goes all the way: found, saved, replayed, shrunk, replayed.
#[test]
fn a_failure_is_saved_and_shrunk() {
    if !lockstep::mutation::COMPILED_IN {
        for words in ["mutants", "coverage --seeds 1..2"] {
            let done = program(words);
            assert_eq!(done.code, 2, "{done:?}");
            assert!(done.err.contains("`make sim-build` makes one that"), "{done:?}");
        }
        return;
    }
    let folder = folder();
    let dir = folder.path().display();
    let swarm = program(&format!(
        "swarm --seeds 1..3 --members 3 --until 30s --profile calm --mutation reply-before-commit --save {dir}"
    ));
    assert_eq!(swarm.code, 1, "{swarm:?}");
    let seed =
        swarm.out.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(" fails: ")).expect("a failure");
    let name = format!("{dir}/seed-{}", seed.0);
    for extension in ["html", "txt", "trace"] {
        assert!(Path::new(&format!("{name}.{extension}")).is_file(), "{name}.{extension}");
    }
    let replay = program(&format!("replay {name}.scenario"));
    assert_eq!(replay.code, 1, "{replay:?}");
    assert!(replay.out.contains(&format!("expected    to fail with {:?}: it does\n", seed.1)), "{}", replay.out);
    assert!(replay.out.contains("recorded    the same trace\n"), "{}", replay.out);
    let shrink = program(&format!("shrink {name}.scenario -o {dir}/small.scenario --budget 20s"));
    assert_eq!(shrink.code, 0, "{shrink:?}");
    let small = program(&format!("replay {dir}/small.scenario"));
    assert_eq!(small.code, 1, "{small:?}");
    assert!(small.out.contains(": it does\n") && small.out.contains("the same trace\n"), "{}", small.out);
    // It is the bug that it shows.
    let text = std::fs::read_to_string(format!("{dir}/small.scenario")).expect("the small one");
    std::fs::write(format!("{dir}/clean.scenario"), text.replace("mutation ", "# mutation ")).expect("written");
    let clean = program(&format!("replay {dir}/clean.scenario"));
    assert_eq!(clean.code, 0, "{clean:?}");
}

/// `lockstep-sim swarm | head -1` must not end in a panic.
#[test]
fn nobody_may_read_on() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let words = "swarm --seeds 1..3 --members 3 --until 30s --profile calm --json".split(' ');
    let mut err = Vec::new();
    assert_eq!(main_with(words, &mut Closed, &mut err), 1);
    assert_eq!(String::from_utf8_lossy(&err), "");
}

#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    err: String,
}

fn program(words: &str) -> Done {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = main_with(words.split_whitespace(), &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { code, out: text(out), err: text(err) }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn sha256(path: &PathBuf) -> String {
    Sha256::digest(std::fs::read(path).expect("the file")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An object with the keys that programs count on, and no others.
fn row(line: &str) -> Value {
    let row: Value = serde_json::from_str(line).expect("JSON");
    let keys: Vec<&String> = row.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["seed", "trace_hash", "faults", "ops", "verdict", "checker", "repro"]);
    row
}
