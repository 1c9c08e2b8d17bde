//! What clients do, one file a kind of work. A kind draws the next operation of a client and learns from its outcome;
//! it judges nothing: that is for the checkers.
//!
//! Every value written in a run is written once (`<client>.<count>`), so that a read tells whose write it saw.

use std::fmt;

use crate::history::{Operation, Outcome};
use crate::random::Random;

/// One kind of work: all clients share it, so it knows what any of them last learned.
pub trait Work: fmt::Debug {
    /// The next operation of this client. `fresh` makes a value that nobody wrote before.
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation;

    /// What became of an operation that this work asked for.
    fn learn(&mut self, _client: u64, _operation: &Operation, _outcome: &Outcome) {}
}

pub struct Kind {
    pub name: &'static str,
    pub make: fn(clients: u64) -> Box<dyn Work>,
    /// How often it is chosen among those that the run has switched on.
    pub weight: u64,
}

/// All kinds of work.
pub const KINDS: &[Kind] = &[registers::KIND];

pub mod registers;
