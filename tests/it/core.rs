//! Consensus, apply and boot as text scripts: commands of the simulator's lab, and what follows from them.
//!
//! A script in `tests/it/core` is blocks of commands, `----`, and the recorded outcome, up to an empty line. Each is
//! about one rule. Run with `RECORD=1` to record outcomes anew, then read the difference: a recorded outcome nobody
//! read proves nothing.

use std::fmt::Write;
use std::path::Path;

use lockstep_sim::lab::Lab;

/// Runs every script whose name begins with `prefix`.
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/core").join(name).with_extension("txt");
    let script = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let played = play(&script);
    if std::env::var_os("RECORD").is_some() {
        std::fs::write(&path, played).expect("the script can be written");
        return;
    }
    if played != script {
        let (was, is) = first_difference(&script, &played);
        panic!("{name}.txt happens differently\nrecorded: {was}\nnow:      {is}\n\nin full:\n{played}");
    }
}

/// The script with the outcomes as they are now.
fn play(script: &str) -> String {
    let mut lab = Lab::new();
    let mut out = String::new();
    let mut commands: Vec<&str> = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        if line == "----" {
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            out.push_str("----\n");
            for command in commands.drain(..) {
                let outcome = lab.run(command).unwrap_or_else(|error| format!("error: {error}\n"));
                out.push_str(&outcome);
            }
            out.push('\n');
            continue;
        }
        if !line.is_empty() && !line.starts_with('#') {
            commands.push(line);
        }
        writeln!(out, "{line}").expect("a string takes everything");
    }
    assert!(commands.is_empty(), "the script ends with commands and without ----: {commands:?}");
    let end = out.trim_end().len();
    out.truncate(end);
    out.push('\n');
    out
}

fn first_difference<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    let ends = std::iter::repeat("(the end)");
    a.lines().chain(ends.clone()).zip(b.lines().chain(ends)).find(|(a, b)| a != b).expect("they differ")
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/core");
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .expect("the folder of scripts")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
                .collect();
            found.sort();
            let mut listed: Vec<String> = vec![$(concat!(stringify!($name), ".txt").to_owned()),*];
            listed.sort();
            assert_eq!(found, listed);
        }
    };
}

scripts! {
    batch_append
    check_quorum
    commit_lazily
    compaction
    crash_all
    election
    fetch
    fetch_overwritten
    join_after_snapshot
    join_by_snapshot
    leader_disk_slow
    leader_leaves
    learner
    log_conflict
    log_missing
    log_too_short
    member_changes
    pipeline
    pre_vote
    proposal_old_life
    proposal_twice
    proposal_waits
    read_index
    read_index_duplicated
    read_index_follower
    read_index_joined
    read_index_late
    read_index_new_leader
    read_index_retry
    rejection_late
    removed_by_snapshot
    removed_member
    release
    release_boundary
    restart_follower
    restart_points
    restart_torn
    snapshot
    sole_voter
    transfer
    vote_durable
    wiped
}
