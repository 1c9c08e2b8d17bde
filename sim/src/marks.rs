//! The names of all `sometimes!` marks in product and simulator, and which of them a swarm must reach.
//!
//! A mark in [`REQUIRED`] that a thousand seeds do not hit in at least five means that the world has become too tame:
//! `coverage` fails. [`OTHERS`] are counted and shown, and may stay at zero: they want a workload, a size or a
//! coincidence that the swarm does not bring for certain. A tidy test keeps these lists and the source equal.

/// What is counted in a swarm's report beside the faults: what operators do, and what comes of it.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("compaction", "compaction finished"),
    ("snapshot installed", "received snapshot installed"),
    ("defragmentation", "store defragmented"),
    ("quota exceeded", "request exceeded the quota"),
    ("refused for space", "request refused for want of space"),
    ("alarm disarmed", "alarm disarmed"),
    ("member added", "member added"),
    ("learner promoted", "learner promoted"),
    ("member removed", "member removed"),
    ("leader removed", "leader removed"),
    ("learner updated", "learner got other URLs"),
    ("change refused", "change of the membership refused"),
];

/// Marks that a swarm must hit.
pub const REQUIRED: &[&str] = &[
    // Elections.
    "election won",
    "rejection came after its position was acknowledged",
    "vote granted",
    "vote refused",
    "pre-vote refused",
    "leader learnt that it was deposed",
    "leader stepped down and knew no successor",
    // The log, in memory.
    "append refused because of a gap or a conflict",
    "follower truncated a conflicting suffix",
    "leader's append left before its own fsync",
    "three writes of a member were in flight at once",
    "entry evicted from memory",
    "lagging follower's entries fetched from the log",
    "log released that nobody needs",
    // Snapshots.
    "snapshot sent to a member that was too far behind",
    "snapshot accepted from the leader",
    "received snapshot installed",
    "snapshot did not arrive",
    // Space.
    "compaction finished",
    "commit beside a defragmentation",
    "store defragmented",
    "request exceeded the quota",
    "request refused for want of space",
    "alarm disarmed",
    // Proposals.
    "several proposals went into one message",
    "proposal forwarded to the leader",
    "proposal dropped as a repeat",
    "proposal dropped that was for another leader",
    "proposal waited for a leader",
    "proposal expired before there was a leader",
    // Reads.
    "read did not join the round under way",
    "read waited for apply",
    "read index dropped as a repeat",
    "read index retried after leader change",
    "read index retried after a time-out",
    "read index came after its round was given up",
    "read expired before it had its index",
    "stamp taken although a newer one came before",
    "stamps of a member begin anew with its next life",
    // The write-ahead log.
    "several appends shared one fsync",
    "process ended between append and fsync",
    "torn tail repaired",
    "torn mark wiped",
    "tail without a mark made durable again",
    "conflicting suffix overwritten in the log",
    "recovery dropped a conflicting suffix",
    "log went on in a new segment",
    "segment made long for a batch",
    "segment recycled",
    "released segment kept as a spare",
    "released segment removed",
    "spare segment found at boot",
    "fsync of the log failed",
    "log met a full disk",
    // Boot.
    "boot found entries that the store had not yet",
    "commit raised at boot to what the store had applied",
    "process ended by its own decision",
    // The store.
    "request refused when it was applied",
    "commit skipped because one was under way",
    "commit of the store failed",
    "process ended before the store's commit",
    "value read from memory while the store was committing",
    "row compacted before it was ever stored",
    "compaction ordered while another was under way",
    "compaction refused because of a later one",
    "view overtaken by a compaction",
    // Watches and leases.
    "keep-alive not answered in time",
    "lease expired",
    "lease expired under a later leader",
    "lock changed hands",
    "question about a lease passed on to the leader",
    "time to live told after time had passed under former leaders",
    "watcher resumed at another member",
    "watcher resumed behind a compaction",
    "progress waited for watchers that were behind",
    "several watchers caught up together",
    "watcher canceled because compaction overtook it",
    "watcher fell behind because its stream was full",
    "progress waited for what was published already",
    "expired leases revoked",
    "lease checkpointed",
    "renewal waited for its lease's checkpoint to be set back",
    "renewal came after its lease had expired",
    "leader's leases lost their clock",
    // The membership.
    "kept snapshot did not name its receiver",
    "change of the membership refused",
    "change of the membership waited for its turn",
    "leader removed",
    "learner got other URLs",
    "learner promoted",
    "member added",
    "member removed",
];

/// Marks that may stay at zero.
pub const OTHERS: &[&str] = &[
    // Snapshots.
    "boot put a received snapshot in place",
    "boot removed a snapshot that was on its way",
    "conf change of before the snapshot left out",
    "received snapshot could not be taken",
    "snapshot came that was of no use",
    // Leases.
    "round before a revocation asked for again",
    "round before a revocation confirmed too late",
    "checkpoint of a former lease set back",
    "proposal dropped that was bound to another term",
    "rot refused in front of a mark",
    // A coincidence of few milliseconds.
    "answer to a read of a former life dropped",
    "fetched entries were gone when the log came to read them",
    "founding finished by a later boot",
    "half-made segment removed at boot",
    "half-made store made anew",
    "process ended while a read waited for apply",
    "proposal refused by raft waited for its next chance",
    "read waited because of too many rounds under way",
    "segment released while it was read",
    "stamp refused that is of a former life",
    "view kept the older transaction of the store",
    // Depend on what the clients do.
    "fragments dropped because their stream had ended",
    "keep-alive was with a leader that was deposed",
    "publish left out because a watching thread was behind",
    "batch committed because of its size",
    "cluster forced down to one member",
    "message of a removed member refused",
    "compaction resumed after a restart",
    "compaction waited for the next view",
    "compaction went on in another step",
    "physical compaction answered after its deletions",
    "read below the compaction refused",
    "one revision was more than a piece of catching up",
    "stream filled up while catching up",
    // Damage in a certain place.
    "damaged store refused",
    "rot noticed while the store was at work",
    "rot refused in a finished segment",
    // A cluster of one.
    "new leader's messages waited for its term's fsync",
    // What no correct peer sends.
    "message refused that no correct peer sends",
    // Space.
    "half-made copy of the store removed",
    "commit not repeated in the copy of the store",
    "defragmentation given up",
    "defragmentation asked for while one was under way",
    "defragmentation waited for a commit",
];
