//! Which keys must be judged together. Linearizability is local: a history is linearizable if what happened to each
//! group of keys is, as long as no operation spans two groups. Real time needs no care here, and revisions, which all
//! keys share, come in as bounds on each group ([`super::model`]).

use std::collections::BTreeMap;

use crate::history::Operation;

/// The connected groups of keys, each sorted, in order of their first key. A transfer joins its keys; a range joins
/// those in its interval that the history knows: of the others nothing is ever said but that they do not exist.
pub fn groups<'a>(operations: impl Iterator<Item = &'a Operation> + Clone) -> Vec<Vec<&'a str>> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in operations.clone() {
        for key in named(operation) {
            numbers.insert(key, 0);
        }
    }
    for (nth, number) in numbers.values_mut().enumerate() {
        *number = nth;
    }
    let mut parents: Vec<usize> = (0..numbers.len()).collect();
    for operation in operations {
        let joined: Vec<usize> = match operation {
            Operation::Range { key, end, .. } if key < end => {
                numbers.range(key.as_str()..end.as_str()).map(|(_, number)| *number).collect()
            }
            _ => named(operation).iter().map(|key| numbers[key]).collect(),
        };
        for pair in joined.windows(2) {
            let (a, b) = (root(&mut parents, pair[0]), root(&mut parents, pair[1]));
            // The smaller number is the root, so that the order of groups is that of their first keys.
            parents[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (key, number) in numbers {
        groups.entry(root(&mut parents, number)).or_default().push(key);
    }
    groups.into_values().collect()
}

fn named(operation: &Operation) -> Vec<&str> {
    match operation {
        Operation::Put { key, .. }
        | Operation::Delete { key }
        | Operation::Get { key, .. }
        | Operation::Cas { key, .. } => vec![key],
        Operation::Transfer { from, to } => {
            from.iter().map(|(k, _)| k.as_str()).chain(to.iter().map(|(k, _)| k.as_str())).collect()
        }
        Operation::Range { .. } | Operation::Compact { .. } => vec![],
        Operation::Watch(_) | Operation::Lease(_) | Operation::Lock(_) => vec![],
    }
}

fn root(parents: &mut [usize], mut of: usize) -> usize {
    while parents[of] != of {
        parents[of] = parents[parents[of]];
        of = parents[of];
    }
    of
}
