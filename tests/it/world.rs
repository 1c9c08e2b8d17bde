//! Simulated worlds under plain `cargo test`, outside of madsim: some seeds, their records, and the shipped scenarios.
//!
//! `make chaos` runs many seeds, and `lockstep-sim` says everything about one; here it is shown that the world is what
//! it says: a seed is a world, a record of it draws nothing and is the same world, every scenario goes as its head
//! tells.

use std::fs;
use std::path::Path;

use lockstep_sim::host;
use lockstep_sim::knobs::{Knobs, Profile};
use lockstep_sim::report::{Report, Verdict};
use lockstep_sim::scenario::{Expect, Scenario};
use lockstep_sim::world::{Options, Script, run};

const UNTIL_MS: u64 = 30_000;

fn of_seed(seed: u64, members: u64, profile: Profile) -> Report {
    run(Script::Seed { seed, knobs: Knobs::draw(seed, members, UNTIL_MS, profile) }, Options::default())
}

fn passed(report: &Report) {
    if report.verdict != Verdict::Ok {
        panic!(
            "seed {:?}: {:?}\n{}\nthe end of the trace:\n{}",
            report.seed, report.verdict, report.knobs, report.trace_tail
        );
    }
}

#[test]
fn seeds_pass_in_clusters_of_every_size() {
    for (seed, members) in [(1, 5), (2, 3), (3, 1), (4, 5)] {
        host::fresh(|| {
            let report = of_seed(seed, members, Profile::Swarm);
            passed(&report);
            assert!(report.acknowledged > 100, "seed {seed}: only {} operations", report.acknowledged);
            assert!(!report.faults.is_empty(), "seed {seed}: no fault struck");
        });
    }
}

#[test]
fn a_calm_world_has_no_faults() {
    host::fresh(|| {
        let report = of_seed(5, 3, Profile::Calm);
        passed(&report);
        assert_eq!(report.faults.values().sum::<u64>(), 0, "{:?}", report.faults);
    });
}

#[test]
fn a_seed_is_a_world_and_so_is_its_record() {
    for seed in [7, 8] {
        host::fresh(|| {
            let first = of_seed(seed, 5, Profile::Swarm);
            passed(&first);
            let again = of_seed(seed, 5, Profile::Swarm);
            assert_eq!(first.trace_hash, again.trace_hash, "seed {seed} is two worlds");
            assert_eq!((first.events, &first.faults), (again.events, &again.faults));
            // Through its text: nothing else may carry what was drawn.
            let record = Scenario::parse(&first.scenario.to_string()).expect("a record can be read");
            let played = run(Script::Scenario(record), Options::default());
            passed(&played);
            assert_eq!(first.trace_hash, played.trace_hash, "the record of seed {seed} is another world");
        });
    }
}

#[test]
fn scenarios_go_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/scenarios");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).expect("the scenarios are there") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a scenario can be read");
        seen += 1;
        host::fresh(|| {
            let scenario = Scenario::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            // A deliberate bug is in the simulator's own build; there `make test` plays these.
            if scenario.mutation.is_some() {
                return;
            }
            let expect = scenario.expect.clone();
            let report = run(Script::Scenario(scenario), Options::default());
            let came = report.verdict.signature().map_or(Expect::Pass, Expect::Fail);
            assert_eq!(came, expect, "{}: {:?}", path.display(), report.verdict);
        });
    }
    assert!(seen >= 8, "{seen} scenarios");
}
