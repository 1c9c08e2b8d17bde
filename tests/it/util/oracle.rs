//! The real etcds: where they are, and what happens when they are not.
//!
//! A missing oracle skips a test on a developer's machine and fails it with `CI=true`; `.ci/oracles` installs them all.

use std::path::PathBuf;

/// A real etcd release on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etcd {
    V34,
    V35,
}

impl Etcd {
    /// The release's program (`etcd`, `etcdctl` or `etcdutl`), or `None` with a line that says so.
    pub fn program(self, name: &str) -> Option<PathBuf> {
        let path = match self {
            Etcd::V34 => PathBuf::from("/usr/bin").join(name),
            Etcd::V35 => oracles().join("3.5.1").join(name),
        };
        if path.is_file() {
            return Some(path);
        }
        missing(&format!("{self:?}'s {name}"));
        None
    }
}

fn oracles() -> PathBuf {
    match std::env::var_os("LOCKSTEP_ORACLES") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/lockstep-oracles"),
    }
}

/// Says that an oracle is missing; with `CI=true` that is a failure.
pub fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "{what} is missing: run .ci/oracles");
    eprintln!("skipped: {what} is missing (run .ci/oracles)");
}
