//! What clients ask for and what comes of it: the words shared by workloads, checkers, scenarios and pictures.
//!
//! The text forms are the lines of scenario files: `put k 7`, `get k serializable`, `cas k 7 8`. Keys and values have no
//! blanks; `-` stands for "no such key". Every value that a workload writes is written once in a run, so a read tells
//! whose write it saw.

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Put { key: String, value: String },
    /// With prev_kv, so that the answer says what was deleted.
    Delete { key: String },
    Get { key: String, serializable: bool },
    /// All keys from `key` up to, not including, `end`.
    Range { key: String, end: String, serializable: bool },
    /// A txn: if `key` holds `old` (`None`: does not exist) then put `new`, else get it.
    Cas { key: String, old: Option<String>, new: String },
    /// A txn over several keys: if all hold what `from` says then put what `to` says, else get all of them. `from` and
    /// `to` name the same keys in the same order.
    Transfer { from: Vec<(String, Option<String>)>, to: Vec<(String, String)> },
    Compact { revision: i64 },
}

/// What became of it, as the client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write was done, at this revision. For `Delete` what was there; for `Cas` and `Transfer` whether it succeeded, and
    /// if not, what was found instead, in the order of its keys.
    Done { revision: i64, succeeded: bool, found: Vec<(String, Option<String>)> },
    /// A read, as of this revision: for `Get` one pair, for `Range` those that exist, in order of key. `versions` are
    /// the keys' `version` fields, in the same order, 0 for none.
    Read { revision: i64, found: Vec<(String, Option<String>)>, versions: Vec<i64> },
    /// It was not done, and never will be: the member said so before it proposed anything.
    Refused { error: String },
    /// No answer, or one that leaves it open: it may have been done, may yet be, or never.
    Unknown { why: String },
}
