//! What must hold in every world, one file each. A checker watches and never touches.
//!
//! The world shows everything that happens to all checkers, in the order in which it happens ([`Seen`]). A checker that
//! objects ends the run; its name and the place of its objection are the failure's signature, by which failures are
//! grouped and shrunk.
//!
//! ```text
//! election safety, votes, hard states        election_safety.rs      Raft 5.2, 5.4.1
//! log matching, logs after a crash           log_matching.rs         Raft 5.3
//! leader completeness                        leader_completeness.rs  Raft 5.4.3, figure 8
//! state machine safety, durable majorities   state_machine_safety.rs Raft 5.4.3, thesis 10.2.1
//! a proposal takes effect once               at_most_once.rs         thesis 6.3
//! revisions                                  revisions.rs            etcd #17780
//! the same state at the same index           applied_hash.rs         etcd #13766
//! the same hash at rest                      hash_kv.rs              etcd's corruption check
//! the bank's sum                             invariant_sum.rs        txns torn apart
//! nothing acknowledged is lost               durability.rs           etcd #14370
//! reads are not stale, or made up            stale_reads.rs          etcd #20418, thesis 6.4
//! one order of all operations                linearizability/        Herlihy and Wing; Wing and Gong; Lowe
//! watches: the nine guarantees               watches.rs              etcd's robustness tests
//! leases live and end when they should       leases.rs               etcd #15247, #9888
//! locks and elections                        locks.rs                Jepsen etcd 3.4.3
//! all know of the same alarms                alarm_agreement.rs      our own; etcd's alarms are replicated
//! nothing is written without space           space.rs                etcd's NOSPACE alarm
//! the membership                             membership.rs           Ongaro 2015, etcd #21694
//! progress                                   progress.rs             Cloudflare 2020
//! ```
//!
//! What they share: [`mirror`] (what a log must hold), [`alarms`] (what apply refuses), [`writes`] (what an operation
//! changes), [`digest`], [`voters`].

use std::fmt;
use std::sync::Arc;

use lockstep::member::membership::Membership;
use lockstep::member::raft::{Persist, Status};
use lockstep::mvcc::View;
use lockstep::ports::clock::Instant;
use lockstep_proto::etcdserverpb::AlarmMember;
use lockstep_proto::mvccpb::{Event, KeyValue};
use lockstep_proto::raftpb::{Entry, HardState};

use crate::asks::WatchSpec;
use crate::history::{Operation, Outcome};
use crate::knobs::Knobs;

pub mod alarm_agreement;
pub mod alarms;
pub mod applied_hash;
pub mod at_most_once;
pub mod digest;
pub mod durability;
pub mod election_safety;
pub mod hash_kv;
pub mod invariant_sum;
pub mod leader_completeness;
pub mod leases;
pub mod linearizability;
pub mod locks;
pub mod log_matching;
pub mod membership;
pub mod mirror;
pub mod progress;
pub mod revisions;
pub mod space;
pub mod stale_reads;
pub mod state_machine_safety;
pub mod voters;
pub mod watches;
pub mod writes;

/// One thing that happened.
pub enum Seen<'a> {
    /// A member's life began. `log` is what its write-ahead log holds, which goes on at `first` where that is nothing;
    /// `view` is what its store holds.
    Booted { member: u64, first: u64, log: &'a [Entry], hard_state: HardState, view: &'a View },
    /// The process is gone, by a crash of the machine, a kill or its own decision.
    Ended { member: u64 },
    /// A member's consensus took a step, after which it counts with these voters.
    Stepped { status: &'a Status, voters: &'a [u64] },
    /// Handed to the log; durable at the earliest with [`Seen::Synced`].
    Persist { member: u64, persist: &'a Persist },
    /// The log is durable up to the persist of this number.
    Synced { member: u64, number: u64 },
    /// Committed, in order, for the apply machine.
    Committed { member: u64, entries: &'a [Entry] },
    /// The view that readers of this member get from now on.
    Published { member: u64, view: &'a Arc<View> },
    /// A member says who the members are as of this index, because that may have changed or a life or store begins.
    Members { member: u64, index: u64, membership: &'a Membership },
    /// A machine is lost for good, and what was on its disk.
    Lost { member: u64 },
    /// A member says which alarms are raised as of this index, because they may have changed or a life or store begins.
    Alarms { member: u64, index: u64, raised: &'a [AlarmMember] },
    /// A revision is shown for the first time, by whichever member; these are its rows, in order. A deletion has the
    /// version 0.
    Made { revision: i64, events: &'a [KeyValue] },
    /// A client's watcher hears something from a member, or its client does something about it.
    Watch { watcher: u64, member: u64, heard: Heard<'a> },
    /// What these members' clocks show, before something is seen that wants to know.
    Clocks(&'a [(u64, Instant)]),
    /// A client sends a keep-alive of a lease. The number is the keep-alive's own.
    Renews { number: u64, lease: i64 },
    /// ... and is answered: the lease lives for so long again; 0 if it is gone.
    Renewed { number: u64, lease: i64, ttl_s: i64 },
    /// A client asked a member for this; `number` counts the operations of the run.
    Asked { number: u64, client: u64, member: u64, operation: &'a Operation },
    /// ... and was answered, or lost patience ([`Outcome::Unknown`]), or was told that it was not done.
    Answered { number: u64, client: u64, member: u64, operation: &'a Operation, outcome: &'a Outcome },
    /// The safety phase is over. These members are healthy and connected from now on, the others dead or cut off.
    Core { members: &'a [u64], clients: &'a [u64] },
    /// The liveness phase is over: everything heals, everyone runs.
    Healed,
    /// All members have come to rest, and are shown one after the other.
    AtRest { status: &'a Status, view: &'a Arc<View> },
    /// Nothing more will come.
    Over,
}

/// What a watcher hears.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// Its client asks a member for it, at first or once more; 0 is from now on.
    Asked {
        spec: &'a WatchSpec,
        from: i64,
    },
    Created {
        revision: i64,
    },
    /// Its client asks for progress, when this is the newest revision that the member has shown.
    Wants {
        newest: i64,
    },
    /// All fragments of a response together.
    Events {
        revision: i64,
        events: &'a [Event],
    },
    /// `asked`: because its client has asked for it, on this stream.
    Progress {
        revision: i64,
        asked: bool,
    },
    /// The member cannot go on: history below this revision is gone.
    Compacted {
        revision: i64,
    },
    Canceled,
    Refused {
        error: &'a str,
    },
    /// The stream has ended, by whomever.
    Broken,
}

impl fmt::Display for Heard<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heard::Asked { spec, from } => write!(out, "asked for {spec} from:{from}"),
            Heard::Created { revision } => write!(out, "created rev:{revision}"),
            Heard::Events { revision, events } => {
                write!(out, "{} events", events.len())?;
                for kv in events.iter().filter_map(|event| event.kv.as_ref()) {
                    let what = if kv.version == 0 { "gone" } else { "put" };
                    write!(out, " {}:{}:{what}", kv.mod_revision, String::from_utf8_lossy(&kv.key))?;
                }
                write!(out, " rev:{revision}")
            }
            Heard::Wants { newest } => write!(out, "wants progress from:{newest}"),
            Heard::Progress { revision, .. } => write!(out, "progress rev:{revision}"),
            Heard::Compacted { revision } => write!(out, "compacted {revision}"),
            Heard::Canceled => write!(out, "canceled"),
            Heard::Refused { error } => write!(out, "refused {error}"),
            Heard::Broken => write!(out, "broken"),
        }
    }
}

/// Watches a run.
pub trait Checker {
    /// As `--json` and the kill table print it.
    fn name(&self) -> &'static str;

    fn see(&mut self, now_us: u64, seen: &Seen) -> Result<(), Objection>;
}

/// What a checker found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// A few words that are the same whenever the same thing is broken: "stale read", "two leaders in a term".
    pub place: &'static str,
    /// The whole story, with numbers.
    pub story: String,
    /// It could not be decided within the budget: the run counts as "unknown", not as failed.
    pub undecided: bool,
}

impl Objection {
    pub fn new(place: &'static str, story: String) -> Objection {
        Objection { place, story, undecided: false }
    }
}

/// All of them, for a run with these knobs. They are asked in this order, so what names a cause comes before what names
/// its consequence.
pub fn all(knobs: &Knobs) -> Vec<Box<dyn Checker>> {
    let members = knobs.members;
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(durability::Durability::new(members)),
        Box::new(log_matching::LogMatching::new()),
        Box::new(leader_completeness::LeaderCompleteness::new()),
        Box::new(state_machine_safety::StateMachineSafety::default()),
        Box::new(membership::MembershipModel::default()),
        Box::new(at_most_once::AtMostOnce::new()),
        Box::new(revisions::Revisions::new()),
        Box::new(applied_hash::AppliedHash::new(knobs.machines())),
        Box::new(hash_kv::HashKvAtRest::new()),
        Box::new(alarm_agreement::AlarmAgreement::default()),
        Box::new(space::Space::new()),
        Box::new(stale_reads::StaleReads::new()),
        Box::new(linearizability::Linearizability::default()),
        Box::new(invariant_sum::InvariantSum::default()),
        Box::new(watches::Watches::default()),
        Box::new(leases::Leases::new(knobs)),
        Box::new(locks::Locks::default()),
        Box::new(progress::Progress::new(members, knobs.core_ms)),
    ]
}

fn object(place: &'static str, story: String) -> Result<(), Objection> {
    Err(Objection::new(place, story))
}

/// An objection that is about these operations: its story ends with their numbers, by which a picture marks them.
fn object_naming(place: &'static str, story: String, operations: &[u64]) -> Result<(), Objection> {
    let numbers: Vec<String> = operations.iter().map(u64::to_string).collect();
    object(place, format!("{story}; operations: {}", numbers.join(" ")))
}

/// Whether these are more than half of the voters.
fn is_majority(some: &[u64], voters: &[u64]) -> bool {
    2 * voters.iter().filter(|id| some.contains(id)).count() > voters.len()
}

/// Something for each member, by its id.
#[derive(Debug, Default)]
struct PerMember<T>(Vec<T>);

impl<T: Default> PerMember<T> {
    fn of(&mut self, member: u64) -> &mut T {
        let at = member as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, T::default);
        }
        &mut self.0[at]
    }

    /// Those that were ever heard of.
    fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        (0..).zip(&self.0).skip(1)
    }
}
