//! What clients ask for and what comes of it: the words shared by workloads, checkers, scenarios and pictures.
//!
//! The text forms are the lines of scenario files:
//!
//! ```text
//! put k 7                        get k                     range a f
//! delete k                       get k serializable        range a f serializable
//! cas k 7 8                      transfer a 60 50 and b - 10
//! cas k - 8                      compact 17
//! ```
//!
//! Those of watches, leases, locks and elections are in [`crate::asks`].
//!
//! Keys and values have no blanks; `-` stands for "no such key". Every value that a workload writes is written once in
//! a run, so a read tells whose write it saw. What an operation is to a member is in [`crate::requests`].

use std::collections::BTreeSet;
use std::fmt;

use crate::asks::{LeaseAsk, LockAsk, Told, WatchAsk};
use crate::fault::Words;

/// "No such key", in text forms. No value may look like it.
const ABSENT: &str = "-";
/// No key or value of a scenario is longer: what is beyond is a file that is no scenario.
const LONGEST_WORD: usize = 65_536;
/// etcd's default bound for the operations of a txn.
const MOST_TXN_KEYS: usize = 128;

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Put {
        key: String,
        value: String,
    },
    /// With prev_kv, so that the answer says what was deleted.
    Delete {
        key: String,
    },
    Get {
        key: String,
        serializable: bool,
    },
    /// All keys from `key` up to, not including, `end`.
    Range {
        key: String,
        end: String,
        serializable: bool,
    },
    /// A txn: if `key` holds `old` (`None`: does not exist) then put `new`, else get it.
    Cas {
        key: String,
        old: Option<String>,
        new: String,
    },
    /// A txn over several keys: if all hold what `from` says then put what `to` says, else get all of them. `from` and
    /// `to` name the same keys in the same order.
    Transfer {
        from: Vec<(String, Option<String>)>,
        to: Vec<(String, String)>,
    },
    Compact {
        revision: i64,
    },
    Watch(WatchAsk),
    Lease(LeaseAsk),
    Lock(LockAsk),
}

/// What became of it, as the client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write was done, at this revision. `found` is for `Delete` its key with what was there, and for a `Cas` or
    /// `Transfer` that did not succeed what was found instead, in the order of its keys; else it is empty.
    Done { revision: i64, succeeded: bool, found: Vec<(String, Option<String>)> },
    /// A read, as of this revision: for `Get` one pair, for `Range` those that exist, in order of key. `versions` are
    /// the keys' `version` fields, in the same order, 0 for none.
    Read { revision: i64, found: Vec<(String, Option<String>)>, versions: Vec<i64> },
    /// Of a watch, a lease or a lock, as of this revision; 0 for none.
    Told { revision: i64, told: Told },
    /// It was not done, and never will be: the member said so before it proposed anything, or as the log's answer.
    Refused { error: String },
    /// No answer, or one that leaves it open: it may have been done, may yet be, or never.
    Unknown { why: String },
}

impl Operation {
    /// A get or a range: answered from a view, never proposed.
    pub fn is_read(&self) -> bool {
        matches!(self, Operation::Get { .. } | Operation::Range { .. })
    }

    /// Of watches, leases, locks or elections: checkers of keys have nothing to say about it.
    pub fn is_aside(&self) -> bool {
        matches!(self, Operation::Watch(_) | Operation::Lease(_) | Operation::Lock(_))
    }

    /// A read that any member answers from what it has, however old.
    pub fn is_serializable(&self) -> bool {
        matches!(self, Operation::Get { serializable: true, .. } | Operation::Range { serializable: true, .. })
    }

    /// Whether a member that answers it can reach a majority. A compaction may rightly be refused; of what lies aside
    /// much is answered by the client's own member, or not at all.
    pub fn shows_progress(&self) -> bool {
        !self.is_serializable() && !self.is_aside() && !matches!(self, Operation::Compact { .. })
    }

    /// The keys and the values that it would write there, if it succeeds; `None` deletes.
    pub fn writes(&self) -> Vec<(&str, Option<&str>)> {
        match self {
            Operation::Put { key, value } => vec![(key, Some(value))],
            Operation::Cas { key, new, .. } => vec![(key, Some(new))],
            Operation::Transfer { to, .. } => to.iter().map(|(key, new)| (key.as_str(), Some(new.as_str()))).collect(),
            Operation::Delete { key } => vec![(key, None)],
            Operation::Get { .. } | Operation::Range { .. } | Operation::Compact { .. } => Vec::new(),
            Operation::Watch(_) | Operation::Lease(_) | Operation::Lock(_) => Vec::new(),
        }
    }

    /// Reads what `Display` printed; leaves words behind it alone.
    pub fn parse(words: &mut Words) -> Result<Operation, String> {
        let verb = words.word("what the client asks for")?;
        if let Some(ask) = WatchAsk::parse(verb, words)? {
            return Ok(Operation::Watch(ask));
        }
        if let Some(ask) = LeaseAsk::parse(verb, words)? {
            return Ok(Operation::Lease(ask));
        }
        if let Some(ask) = LockAsk::parse(verb, words)? {
            return Ok(Operation::Lock(ask));
        }
        Ok(match verb {
            "put" => Operation::Put { key: key(words)?, value: value(words)? },
            "delete" => Operation::Delete { key: key(words)? },
            "get" => Operation::Get { key: key(words)?, serializable: words.take("serializable") },
            "range" => {
                Operation::Range { key: key(words)?, end: key(words)?, serializable: words.take("serializable") }
            }
            "cas" => Operation::Cas { key: key(words)?, old: expected(words)?, new: value(words)? },
            "transfer" => transfer(words)?,
            "compact" => {
                let word = words.word("the revision to compact at")?;
                let revision = word.parse().map_err(|_| format!("{:?} is not a revision", clip(word)))?;
                Operation::Compact { revision }
            }
            _ => {
                return Err(format!(
                    "clients cannot {:?}; they put, delete, get, range, cas, transfer, compact, watch, grant leases, \
                     enter rooms",
                    clip(verb)
                ));
            }
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = |serializable: &bool| if *serializable { " serializable" } else { "" };
        match self {
            Operation::Put { key, value } => write!(out, "put {key} {value}"),
            Operation::Delete { key } => write!(out, "delete {key}"),
            Operation::Get { key, serializable } => write!(out, "get {key}{}", how(serializable)),
            Operation::Range { key, end, serializable } => write!(out, "range {key} {end}{}", how(serializable)),
            Operation::Cas { key, old, new } => write!(out, "cas {key} {} {new}", or_absent(old)),
            Operation::Transfer { from, to } => {
                write!(out, "transfer")?;
                for (nth, ((key, old), (_, new))) in from.iter().zip(to).enumerate() {
                    let and = if nth == 0 { "" } else { " and" };
                    write!(out, "{and} {key} {} {new}", or_absent(old))?;
                }
                Ok(())
            }
            Operation::Compact { revision } => write!(out, "compact {revision}"),
            Operation::Watch(ask) => write!(out, "{ask}"),
            Operation::Lease(ask) => write!(out, "{ask}"),
            Operation::Lock(ask) => write!(out, "{ask}"),
        }
    }
}

impl fmt::Display for Outcome {
    /// For the trace: `done rev:17`, `read k=1.4 rev:17`, `failed rev:17 found k=1.4`, `unknown: timed out`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done { revision, succeeded, found } => {
                write!(out, "{} rev:{revision}", if *succeeded { "done" } else { "failed" })?;
                if !found.is_empty() {
                    write!(out, "{}", if *succeeded { " was" } else { " found" })?;
                }
                pairs(out, found)
            }
            Outcome::Read { revision, found, .. } => {
                write!(out, "read")?;
                if found.is_empty() {
                    write!(out, " nothing")?;
                }
                pairs(out, found)?;
                write!(out, " rev:{revision}")
            }
            Outcome::Told { revision: 0, told } => write!(out, "{told}"),
            Outcome::Told { revision, told } => write!(out, "{told} rev:{revision}"),
            Outcome::Refused { error } => write!(out, "refused {error}"),
            Outcome::Unknown { why } => write!(out, "unknown: {why}"),
        }
    }
}

fn pairs(out: &mut fmt::Formatter<'_>, found: &[(String, Option<String>)]) -> fmt::Result {
    found.iter().try_for_each(|(key, value)| write!(out, " {key}={}", or_absent(value)))
}

fn or_absent(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or(ABSENT)
}

fn transfer(words: &mut Words) -> Result<Operation, String> {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    loop {
        let key = key(words)?;
        if !seen.insert(key.clone()) {
            return Err(format!("a transfer names a key once, and {:?} twice is too much", clip(&key)));
        }
        if seen.len() > MOST_TXN_KEYS {
            return Err(format!("a transfer has at most {MOST_TXN_KEYS} keys"));
        }
        from.push((key.clone(), expected(words)?));
        to.push((key, value(words)?));
        if !words.take("and") {
            return Ok(Operation::Transfer { from, to });
        }
    }
}

fn key(words: &mut Words) -> Result<String, String> {
    short(words.word("a key")?)
}

fn value(words: &mut Words) -> Result<String, String> {
    match words.word("a value")? {
        ABSENT => Err(format!("{ABSENT:?} stands for \"no such key\" and cannot be written")),
        value => short(value),
    }
}

fn expected(words: &mut Words) -> Result<Option<String>, String> {
    match words.word("the value that is expected, or - for none,")? {
        ABSENT => Ok(None),
        value => short(value).map(Some),
    }
}

fn short(word: &str) -> Result<String, String> {
    if word.len() > LONGEST_WORD {
        return Err(format!("a key or value has at most {LONGEST_WORD} bytes, this one has {}", word.len()));
    }
    Ok(word.to_owned())
}

/// As much of a word as belongs into an error.
fn clip(word: &str) -> &str {
    word.char_indices().nth(60).map_or(word, |(end, _)| &word[..end])
}
