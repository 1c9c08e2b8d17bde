//! The zoo's labels: each deliberate bug names itself, its source, and checkers, faults and knobs that there are.
//!
//! What a mutant does is for `lockstep-sim mutants` to show. A label that names a checker or a fault that does not
//! exist would make it show nothing: the mutant would be alive for ever, or be killed without a trigger.

use std::collections::BTreeSet;

use lockstep::mutation::Mutation;
use lockstep_sim::knobs::Knobs;
use lockstep_sim::{check, fault, marks};

/// Judged by the world itself, or by the search that looks at a history as a whole.
const BESIDE_THE_CHECKERS: &[&str] = &["process", "panic", "linearizability"];

#[test]
fn labels_name_what_there_is() {
    let plain = Knobs::plain(5, 30_000);
    let checkers: BTreeSet<&str> = check::all(&plain).iter().map(|checker| checker.name()).collect();
    let mut names = BTreeSet::new();
    for mutation in Mutation::ALL {
        let name = mutation.name();
        assert!(names.insert(name), "two mutations are called {name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name} is not like ack-before-fsync");
        assert_eq!(Mutation::parse(name), Some(*mutation), "{name} is not found by its name");
        assert!(mutation.about().len() > 10 && mutation.source().len() > 5, "{name} says too little about itself");
        assert!(!mutation.checkers().is_empty(), "{name} can never be killed");
        for checker in mutation.checkers() {
            let is_known = checkers.contains(checker) || BESIDE_THE_CHECKERS.contains(checker);
            assert!(is_known, "{name} names the checker {checker}, which there is not");
        }
        for kind in mutation.trigger() {
            assert!(fault::kind(kind).is_some(), "{name} names the fault {kind}, which there is not");
        }
        let mut knobs = Knobs::plain(mutation.members(), 30_000);
        for (knob, value) in mutation.knobs() {
            knobs.set(knob, *value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    assert_eq!(Mutation::parse("ack-before-fsync-"), None);
    assert!(names.len() >= 20, "the zoo has only {} animals", names.len());
}

#[test]
fn marks_have_one_name_each() {
    let all: Vec<&str> = marks::REQUIRED.iter().chain(marks::OTHERS).copied().collect();
    let different: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(all.len(), different.len());
    assert!(marks::REQUIRED.len() >= 40, "only {} marks are required", marks::REQUIRED.len());
}
