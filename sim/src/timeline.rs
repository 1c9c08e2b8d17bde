//! What a picture of a run is drawn from: collected by the world when somebody wants to see, and by nobody else.
//!
//! Times are virtual microseconds. `line` is the number of the trace line that tells the same, counted from 1.

use crate::history::{Operation, Outcome};

#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub members: u64,
    pub end_us: u64,
    /// Everything the trace says: `lines[n - 1]` is line n.
    pub lines: Vec<String>,
    pub roles: Vec<RoleChange>,
    pub lives: Vec<Life>,
    pub messages: Vec<Arrow>,
    pub faults: Vec<Bar>,
    pub operations: Vec<Span>,
    /// Begin of the liveness phase and of the rest, if they were reached.
    pub core_us: Option<u64>,
    pub rest_us: Option<u64>,
    pub verdict: Option<Verdict>,
}

/// A member's role, term or commit index changed.
#[derive(Clone, Debug)]
pub struct RoleChange {
    pub at_us: u64,
    pub member: u64,
    /// `StateLeader`, …
    pub role: &'static str,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub line: u64,
}

/// From boot to end of a member's process; `to_us` is `None` when it ran to the end of the run.
#[derive(Clone, Debug)]
pub struct Life {
    pub member: u64,
    pub from_us: u64,
    pub to_us: Option<u64>,
    /// "crash", "stopped: disk full", …
    pub ended_by: String,
    pub line: u64,
}

#[derive(Clone, Debug)]
pub struct Arrow {
    pub from: u64,
    pub to: u64,
    pub sent_us: u64,
    /// `None`: lost.
    pub arrived_us: Option<u64>,
    /// `MsgApp`, …
    pub kind: &'static str,
    pub text: String,
    pub line: u64,
}

#[derive(Clone, Debug)]
pub struct Bar {
    pub from_us: u64,
    pub to_us: u64,
    pub members: Vec<u64>,
    pub kind: &'static str,
    pub text: String,
    pub line: u64,
}

#[derive(Clone, Debug)]
pub struct Span {
    pub number: u64,
    pub client: u64,
    pub member: u64,
    pub from_us: u64,
    /// `None`: open to the end.
    pub to_us: Option<u64>,
    pub operation: Operation,
    pub outcome: Option<Outcome>,
    /// When the client heard the outcome, which may be that nobody knows.
    pub told_us: Option<u64>,
    pub line: u64,
}

/// What was broken, and which operations show it: `lost` were acknowledged and are gone, `stale` saw too little.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub checker: String,
    pub place: String,
    pub story: String,
    /// Numbers of operations that the checker's story names.
    pub operations: Vec<u64>,
}
