//! A bank: transfers over two or three accounts in one txn, and statements of all of them in one range.
//!
//! Good at finding: txns that are torn apart (by a crash inside a commit, by a view published half way, by a replay
//! from the wrong index) and reads that mix two revisions: the sum over all accounts never changes, whatever happens
//! ([`crate::check::invariant_sum`] holds it against every statement).
//!
//! A balance is written `<balance>#<unique>`; an account that does not exist yet has [`INITIAL`]. When too many
//! transfers are left open, the bank is closed and the next one opens: its accounts are other keys.

use std::collections::BTreeMap;

use super::{Kind, MOST_OPEN, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "bank", make: |_| Box::new(Bank::new()), weight: 6 };

pub const ACCOUNTS: u64 = 5;
/// What an account has that nobody has written yet.
pub const INITIAL: u64 = 100;
/// Every key that begins so is an account, and nothing but transfers may write it.
pub const PREFIX: &str = "bank";

const MOST_MOVED: u64 = 30;

/// The key of an account.
pub fn account(bank: u64, number: u64) -> String {
    format!("{PREFIX}{bank}.{number}")
}

/// The range over all accounts of a bank.
pub fn statement(bank: u64) -> (String, String) {
    (format!("{PREFIX}{bank}."), format!("{PREFIX}{bank}/"))
}

/// The balance that a value says; `None` for a value that is no balance.
pub fn balance(value: &Option<String>) -> Option<u64> {
    match value {
        None => Some(INITIAL),
        Some(value) => value.split_once('#')?.0.parse().ok(),
    }
}

#[derive(Debug)]
struct Bank {
    number: u64,
    open: u64,
    /// What anybody last knew of an account, and the revision at which it was so.
    known: BTreeMap<String, (i64, Option<String>)>,
}

impl Bank {
    fn new() -> Bank {
        Bank { number: 1, open: 0, known: BTreeMap::new() }
    }

    fn note(&mut self, key: &str, revision: i64, value: Option<&str>) {
        let known = self.known.entry(key.to_owned()).or_default();
        if revision >= known.0 {
            *known = (revision, value.map(str::to_owned));
        }
    }

    fn transfer(&self, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Option<Operation> {
        let mut accounts: Vec<u64> = (0..ACCOUNTS).collect();
        let count = if random.permille(150) { 3 } else { 2 };
        let mut from = Vec::new();
        let mut balances = Vec::new();
        for _ in 0..count {
            let key = account(self.number, accounts.swap_remove(random.below(accounts.len() as u64) as usize));
            let value = self.known.get(&key).and_then(|(_, value)| value.clone());
            balances.push(balance(&value)?);
            from.push((key, value));
        }
        let moved = random.between(0, balances[0].min(MOST_MOVED));
        balances[0] -= moved;
        let last = balances.len() - 1;
        let share = moved / last as u64;
        for balance in &mut balances[1..] {
            *balance += share;
        }
        balances[last] += moved - share * last as u64;
        let to = from.iter().zip(balances).map(|((key, _), balance)| (key.clone(), format!("{balance}#{}", fresh())));
        Some(Operation::Transfer { to: to.collect(), from })
    }
}

impl Work for Bank {
    fn next(&mut self, _client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let (key, end) = statement(self.number);
        let look = |serializable| Operation::Range { key, end, serializable };
        match random.below(100) {
            0..60 => self.transfer(random, fresh).unwrap_or_else(|| look(false)),
            60..90 => look(false),
            _ => look(true),
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        match outcome {
            Outcome::Done { revision, succeeded: true, .. } => {
                for (key, value) in operation.writes() {
                    self.note(key, *revision, value);
                }
            }
            Outcome::Done { revision, found, .. } | Outcome::Read { revision, found, .. } => {
                for (key, value) in found {
                    self.note(key, *revision, value.as_deref());
                }
            }
            Outcome::Unknown { .. } if !operation.is_read() => {
                self.open += 1;
                if self.open == 2 * MOST_OPEN {
                    (self.number, self.open) = (self.number + 1, 0);
                    self.known.clear();
                }
            }
            Outcome::Told { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. } => {}
        }
    }
}
