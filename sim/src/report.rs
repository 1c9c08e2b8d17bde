//! What a run came to.

use std::collections::BTreeMap;

use crate::knobs::Knobs;
use crate::scenario::Scenario;
use crate::timeline::Timeline;

#[derive(Clone, Debug)]
pub struct Report {
    /// `None` for a run that was played from a scenario.
    pub seed: Option<u64>,
    pub knobs: Knobs,
    /// SHA-256 of the trace's text.
    pub trace_hash: String,
    pub trace_lines: u64,
    pub simulated_us: u64,
    pub events: u64,
    pub messages: u64,
    /// Faults that struck, by kind, and those that the budget refused.
    pub faults: BTreeMap<&'static str, u64>,
    pub refused: BTreeMap<&'static str, u64>,
    /// Operations asked for, by kind of work; and those that were acknowledged (writes done, reads answered).
    pub work: BTreeMap<String, u64>,
    pub acknowledged: u64,
    /// What the budget refused, when and why.
    pub notes: Vec<String>,
    /// `sometimes!` marks that this run hit, and how often.
    pub marks: BTreeMap<&'static str, u64>,
    pub verdict: Verdict,
    /// The end of the trace, for the report of a failure.
    pub trace_tail: String,
    /// The whole trace and the picture's data, when asked for.
    pub trace: Option<String>,
    pub timeline: Option<Timeline>,
    /// The run as a record that replays without drawing anything.
    pub scenario: Scenario,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    /// `checker` and `place` are the failure's signature.
    Fail {
        checker: &'static str,
        place: &'static str,
        story: String,
    },
    /// A checker ran out of budget.
    Unknown {
        checker: &'static str,
        story: String,
    },
}

impl Verdict {
    /// `ok`, `fail` or `unknown`.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Fail { .. } => "fail",
            Verdict::Unknown { .. } => "unknown",
        }
    }

    /// What must be the same in two failures for them to be one: `linearizability: stale read`.
    pub fn signature(&self) -> Option<String> {
        match self {
            Verdict::Fail { checker, place, .. } => Some(format!("{checker}: {place}")),
            _ => None,
        }
    }
}
