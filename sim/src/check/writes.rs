//! What an answer says about keys: the words shared by the checkers that look at what clients know.

use crate::history::{Operation, Outcome};

/// The revision of a write that was done, if it changed anything.
pub fn changed_at(operation: &Operation, outcome: &Outcome) -> Option<i64> {
    let Outcome::Done { revision, succeeded, found } = outcome else { return None };
    let changed = match operation {
        Operation::Put { .. } => true,
        Operation::Delete { .. } => found.iter().any(|(_, value)| value.is_some()),
        Operation::Cas { .. } | Operation::Transfer { .. } => *succeeded,
        Operation::Get { .. } | Operation::Range { .. } | Operation::Compact { .. } => false,
        Operation::Watch(_) | Operation::Lease(_) | Operation::Lock(_) => false,
    };
    changed.then_some(*revision)
}

/// The revision that an answer speaks of.
pub fn revision(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Done { revision, .. } | Outcome::Read { revision, .. } => Some(*revision),
        Outcome::Told { revision, .. } => (*revision > 0).then_some(*revision),
        Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}

/// What the answer says that keys held, and as of which revision: what a read found, what a txn compared with or found
/// instead, what a delete removed.
pub fn observed(operation: &Operation, outcome: &Outcome) -> (i64, Vec<(String, Option<String>)>) {
    let own = |key: &String, value: &Option<String>| vec![(key.clone(), value.clone())];
    match (operation, outcome) {
        (_, Outcome::Read { revision, found, .. }) => (*revision, found.clone()),
        (Operation::Delete { .. }, Outcome::Done { revision, found, .. }) => {
            (revision - i64::from(changed_at(operation, outcome).is_some()), found.clone())
        }
        (_, Outcome::Done { revision, succeeded: false, found }) => (*revision, found.clone()),
        (Operation::Cas { key, old, .. }, Outcome::Done { revision, .. }) => (revision - 1, own(key, old)),
        (Operation::Transfer { from, .. }, Outcome::Done { revision, .. }) => (revision - 1, from.clone()),
        _ => (0, Vec::new()),
    }
}
