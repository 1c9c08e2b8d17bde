//! A run as a text: one event a line, written by people, by the recorder and by the shrinker.
//!
//! ```text
//! # What this shows, and where it was seen.
//! members 3
//! until 20s
//! mutation ack-before-fsync          the deliberate bug it needs, if any
//! expect fail durability: acknowledged write lost
//! knob delay_us 1000                 where it differs from Knobs::plain
//!
//! 1.2s    client 1 at 2 put k 1.1    time, client, member, operation (crate::history)
//! 1.25s   crash 2 everything for 500ms     time, fault (crate::fault)
//! message 1->2 #17 lost              a choice that is not the constant (crate::choices)
//! ```
//!
//! Replaying draws nothing: what no line says is the knob's constant.

use lockstep::mutation::Mutation;

use crate::choices::Exception;
use crate::fault::Fault;
use crate::history::Operation;
use crate::knobs::Knobs;

#[derive(Debug)]
pub struct Scenario {
    /// The comment lines before the first other line, without `# `.
    pub head: Vec<String>,
    pub knobs: Knobs,
    pub mutation: Option<Mutation>,
    pub expect: Expect,
    pub events: Vec<Event>,
    pub exceptions: Vec<Exception>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    Pass,
    /// With this signature (`checker: place`).
    Fail(String),
}

#[derive(Debug)]
pub struct Event {
    pub at_us: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Client { client: u64, member: u64, operation: Operation },
    Fault(std::rc::Rc<dyn Fault>),
}
