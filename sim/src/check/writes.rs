//! What an operation of a client changes: the words shared by the checkers that look at keys.

use crate::history::{Operation, Outcome};

/// A key, and what it is put to; `None` deletes it.
pub type Write<'a> = (&'a str, Option<&'a str>);

/// What the operation changes if it is carried out, and succeeds.
pub fn meant(operation: &Operation) -> Vec<Write<'_>> {
    match operation {
        Operation::Put { key, value } => vec![(key, Some(value))],
        Operation::Delete { key } => vec![(key, None)],
        Operation::Cas { key, new, .. } => vec![(key, Some(new))],
        Operation::Transfer { to, .. } => to.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect(),
        Operation::Get { .. } | Operation::Range { .. } | Operation::Compact { .. } => Vec::new(),
    }
}

/// The revision of a write that was done, if it changed anything.
pub fn changed_at(operation: &Operation, outcome: &Outcome) -> Option<i64> {
    let Outcome::Done { revision, succeeded, found } = outcome else { return None };
    let changed = match operation {
        Operation::Put { .. } => true,
        Operation::Delete { .. } => found.iter().any(|(_, value)| value.is_some()),
        Operation::Cas { .. } | Operation::Transfer { .. } => *succeeded,
        Operation::Get { .. } | Operation::Range { .. } | Operation::Compact { .. } => false,
    };
    changed.then_some(*revision)
}

/// Whether it asks for what any member has at hand.
pub fn is_serializable(operation: &Operation) -> bool {
    match operation {
        Operation::Get { serializable, .. } | Operation::Range { serializable, .. } => *serializable,
        _ => false,
    }
}

/// The revision that an answer speaks of.
pub fn revision(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Done { revision, .. } | Outcome::Read { revision, .. } => Some(*revision),
        Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}
