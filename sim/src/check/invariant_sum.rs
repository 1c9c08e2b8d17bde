//! The bank's sum: whoever looks at all accounts at once finds the money of all accounts, at every moment.
//!
//! Holds [`crate::workload::bank`]'s rule against every range over a bank, linearizable or not, and against the stores
//! that members boot from and end with. It is the cheapest sign of a txn that was torn apart: no search, no budget.
//!
//! A scenario may well write accounts by other means than balanced transfers; from then on there is no rule to hold.

use std::collections::BTreeMap;

use lockstep::mvcc::View;
use lockstep::mvcc::read::{RangeOptions, Read};

use super::{Checker, Objection, Seen, object_naming};
use crate::history::{Operation, Outcome};
use crate::workload::bank;

type Accounts = BTreeMap<String, Option<String>>;

#[derive(Debug, Default)]
pub struct InvariantSum {
    /// Somebody put money in or took it out, or something that is no money.
    broken_by_order: bool,
}

impl Checker for InvariantSum {
    fn name(&self) -> &'static str {
        "invariant-sum"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Asked { operation, .. } => {
                self.broken_by_order |= !keeps_the_sum(operation);
                Ok(())
            }
            Seen::Answered {
                number,
                client,
                member,
                operation: Operation::Range { key, end, .. },
                outcome: Outcome::Read { revision, found, .. },
            } => match bank_of(key) {
                Some(bank) if bank::statement(bank) == (key.clone(), end.clone()) => {
                    let accounts = found.iter().cloned().collect();
                    let whose = format!("client {client} at member {member:x}, revision {revision}");
                    let judged = self.judge("a statement does not add up", &accounts, &whose);
                    judged.or_else(|objection| object_naming(objection.place, objection.story, &[*number]))
                }
                _ => Ok(()),
            },
            Seen::Booted { member, view, .. } => self.store("a store boots with a torn txn", *member, view),
            Seen::AtRest { status, view } => self.store("a store ends with a torn txn", status.id, view),
            _ => Ok(()),
        }
    }
}

impl InvariantSum {
    /// All banks of a store, one by one.
    fn store(&self, place: &'static str, member: u64, view: &View) -> Result<(), Objection> {
        let end = format!("{}~", bank::PREFIX);
        let found = match view.range(bank::PREFIX.as_bytes(), end.as_bytes(), RangeOptions::default()) {
            Ok(found) => found,
            // Whether a store can be read is somebody else's business.
            Err(_) => return Ok(()),
        };
        let mut banks: BTreeMap<u64, Accounts> = BTreeMap::new();
        for kv in &found.kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let value = String::from_utf8_lossy(&kv.value).into_owned();
            if let Some(bank) = bank_of(&key) {
                banks.entry(bank).or_default().insert(key, Some(value));
            }
        }
        let whose = format!("the store of member {member:x}, revision {}", found.rev);
        banks.values().try_for_each(|accounts| self.judge(place, accounts, &whose))
    }

    fn judge(&self, place: &'static str, accounts: &Accounts, whose: &str) -> Result<(), Objection> {
        if self.broken_by_order {
            return Ok(());
        }
        let missing = bank::ACCOUNTS.saturating_sub(accounts.len() as u64) * bank::INITIAL;
        let sum = accounts.values().try_fold(missing, |sum, value| sum.checked_add(bank::balance(value)?));
        let right = bank::ACCOUNTS * bank::INITIAL;
        if sum == Some(right) {
            return Ok(());
        }
        let shown: Vec<String> =
            accounts.iter().map(|(key, value)| format!("{key}={}", value.as_deref().unwrap_or("-"))).collect();
        let sum = sum.map_or("no sum".to_owned(), |sum| sum.to_string());
        let story = format!("{whose}: the accounts have {sum} in place of {right}: {}", shown.join(" "));
        Err(Objection::new(place, story))
    }
}

/// Whether all banks have the same sum after this as before it.
fn keeps_the_sum(operation: &Operation) -> bool {
    let of_a_bank = |key: &str| key.starts_with(bank::PREFIX);
    let Operation::Transfer { from, to } = operation else {
        return !operation.writes().iter().any(|(key, _)| of_a_bank(key));
    };
    if !from.iter().any(|(key, _)| of_a_bank(key)) {
        return true;
    }
    // Of one bank, existing accounts only, and all the money is still there.
    let bank = from.first().and_then(|(key, _)| bank_of(key));
    let accounts = |bank| from.iter().all(|(key, _)| (0..bank::ACCOUNTS).any(|n| bank::account(bank, n) == *key));
    let sum = |mut values: Box<dyn Iterator<Item = Option<u64>> + '_>| {
        values.try_fold(0u64, |sum, balance| sum.checked_add(balance?))
    };
    let before = sum(Box::new(from.iter().map(|(_, value)| bank::balance(value))));
    let after = sum(Box::new(to.iter().map(|(_, value)| bank::balance(&Some(value.clone())))));
    bank.is_some_and(accounts) && before.is_some() && before == after
}

/// The number in `bank7.3`, or in `bank7.`.
fn bank_of(key: &str) -> Option<u64> {
    key.strip_prefix(bank::PREFIX)?.split_once('.')?.0.parse().ok()
}
