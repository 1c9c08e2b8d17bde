//! Simulated worlds, from seeds. Each is a cluster of its own kind under its own weather; `knobs` says which.
//!
//! A failure prints the seed, every knob and the end of the trace. `WORLD_SEED=17` runs one seed and writes its whole
//! trace to a file, `WORLD_SEEDS=1000` runs so many beginning at `WORLD_FROM`.

use lockstep_sim::knobs::Knobs;
use lockstep_sim::world::{Counts, Report, run};

fn check(seed: u64) -> Counts {
    let report = run(&Knobs::draw(seed), false);
    passed(&report);
    report.counts
}

fn passed(report: &Report) {
    if let Some(failure) = &report.failure {
        panic!("seed {} fails: {failure}\n{}\n{:?}", report.seed, report.knobs, report.counts);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// In four parts, so that they run side by side.
fn seeds(part: u64) {
    let from = number("WORLD_FROM").unwrap_or(1);
    let count = number("WORLD_SEEDS").unwrap_or(24);
    for seed in (from..from + count).filter(|seed| seed % 4 == part) {
        let counts = check(seed);
        if std::env::var_os("WORLD_SEEDS").is_some() {
            println!("seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn seeds_0() {
    seeds(0);
}

#[test]
fn seeds_1() {
    seeds(1);
}

#[test]
fn seeds_2() {
    seeds(2);
}

#[test]
fn seeds_3() {
    seeds(3);
}

#[test]
fn the_same_seed_is_the_same_world() {
    let knobs = Knobs {
        busy_ms: 6_000,
        calm_ms: 10_000,
        request_timeout_ms: 500,
        fault_every_ms: 300,
        members: 3,
        ..Knobs::draw(7)
    };
    let (first, second) = (run(&knobs, false), run(&knobs, false));
    passed(&first);
    assert_eq!(first.hash, second.hash);
    assert_eq!(first.counts, second.counts);
    let other = run(&Knobs { seed: 8, ..knobs }, false);
    assert_ne!(first.hash, other.hash);
}

/// For whoever looks into one seed.
#[test]
fn one_seed() {
    let Some(seed) = number("WORLD_SEED") else { return };
    let report = run(&Knobs::draw(seed), true);
    let path = std::env::temp_dir().join(format!("world-{seed}.trace"));
    std::fs::write(&path, report.trace.as_deref().unwrap_or_default()).expect("the trace can be written");
    println!("seed {seed}: {} simulated ms, {:?}, trace in {}", report.simulated_ms, report.counts, path.display());
    passed(&report);
}
