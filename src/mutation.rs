//! The zoo: deliberate bugs of the product, one of which can be switched on for the thread that runs a simulation.
//!
//! A checker that has never objected proves nothing. Each mutation is a bug that someone has shipped, or that a careful
//! reader fears, put where the right code stands: `if mutation!(AckBeforeFsync) { .. }`. It is killed when the checkers
//! that it names object within its seeds, while the clean build passes the same seeds; and when the faults that trigger
//! it are switched off it survives, which shows that those faults are what finds it.
//!
//! Without the feature `simulation` `mutation!(..)` is always false, and no bug is in the program.

#[cfg(feature = "simulation")]
use std::cell::Cell;

/// Whether this deliberate bug is switched on for this thread.
#[cfg(feature = "simulation")]
#[macro_export]
macro_rules! mutation {
    ($name:ident) => {
        $crate::mutation::Mutation::$name.is_on()
    };
}

#[cfg(not(feature = "simulation"))]
#[macro_export]
macro_rules! mutation {
    ($name:ident) => {
        $crate::mutation::never()
    };
}

/// What `mutation!(..)` is in a build without any.
#[cfg(not(feature = "simulation"))]
pub const fn never() -> bool {
    false
}

/// Whether mutations are in this build at all.
pub const COMPILED_IN: bool = cfg!(feature = "simulation");

/// What there is to say about a mutation, beside its doc.
struct Row {
    name: &'static str,
    about: &'static str,
    source: &'static str,
    checkers: &'static [&'static str],
    trigger: &'static [&'static str],
    members: u64,
    knobs: &'static [(&'static str, u64)],
    faults: &'static [&'static str],
}

const MEMBERS: u64 = 5;

/// What was acknowledged is gone, or two logs are not one.
const LOST: &[&str] = &[
    "election-safety",
    "state-machine-safety",
    "leader-completeness",
    "log-matching",
    "durability",
    "linearizability",
    "stale-reads",
    "invariant-sum",
    "applied-hash",
    "hash-kv",
    "revisions",
    "process",
    "panic",
];

/// A term has two leaders, and what comes of it.
const TWO_LEADERS: &[&str] = &[
    "election-safety",
    "state-machine-safety",
    "leader-completeness",
    "log-matching",
    "durability",
    "linearizability",
    "applied-hash",
    "hash-kv",
    "panic",
];

/// Members that applied the same are not the same.
const DIVERGED: &[&str] = &[
    "applied-hash",
    "hash-kv",
    "durability",
    "linearizability",
    "stale-reads",
    "invariant-sum",
    "revisions",
    "process",
    "panic",
];

/// A member serves what its store never held.
const CORRUPTED: &[&str] =
    &["applied-hash", "hash-kv", "durability", "linearizability", "stale-reads", "invariant-sum", "revisions"];

const STALE: &[&str] = &["linearizability", "stale-reads"];

/// What a client was told, or a member has acknowledged, is gone: seen by clients, or when it comes back.
const FORGOTTEN: &[&str] =
    &["durability", "linearizability", "stale-reads", "invariant-sum", "revisions", "process", "panic"];

/// The machine loses its power, and with it something that was not synced.
const POWER: &[&str] = &[
    "crash",
    "crash-all",
    "crash-torn",
    "crash-prefix",
    "crash-in-operation",
    "crash-in-commit",
    "crash-after-defragment",
    "crash-before-dir-sync",
];

/// A process ends, and starts again later: without what was not written yet, and where the power fails without what
/// was not synced.
const RESTARTS: &[&str] = &joined::<{ POWER.len() + 8 }>(
    POWER,
    &["kill", "restart", "full", "fsync-error", "read-error", "rot-wal", "rot-store", "out"],
);

/// A member is away, or is not heard, for so long that another may lead.
const ABSENCES: &[&str] = &joined::<{ RESTARTS.len() + 16 }>(
    RESTARTS,
    &[
        "pause",
        "slow-start",
        "slow-disk",
        "clock-offset",
        "clock-drift",
        "clock-jump",
        "loss",
        "latency",
        "reorder",
        "one-way",
        "isolate",
        "split",
        "bridge",
        "ring",
        "clog",
        "half-open",
    ],
);

/// The membership changes.
const CHANGES: &[&str] = &["add", "learner", "promote", "remove", "update", "replace"];

/// A member begins with what is on its disk, or with a snapshot.
const BEGINNINGS: &[&str] = &joined::<{ ABSENCES.len() + CHANGES.len() }>(ABSENCES, CHANGES);

/// Another member leads, for whatever reason.
const REIGNS: &[&str] = &joined::<{ BEGINNINGS.len() + 1 }>(BEGINNINGS, &["move-leader"]);

/// One list behind the other; a wrong length does not compile.
const fn joined<const N: usize>(first: &[&'static str], second: &[&'static str]) -> [&'static str; N] {
    assert!(N == first.len() + second.len());
    let mut all = [""; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal {
        about: $about:expr,
        source: $source:expr,
        checkers: $checkers:expr,
        trigger: $trigger:expr,
        $(members: $members:expr,)?
        knobs: $knobs:expr,
        $(faults: [$($fault:literal),*],)?
    })+) => {
        /// One deliberate bug. The doc of each says how it shows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutation {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Mutation {
            /// All of them, in the order of the kill table.
            pub const ALL: &[Mutation] = &[$(Mutation::$variant,)+];

            fn row(self) -> &'static Row {
                match self {
                    $(Mutation::$variant => &Row {
                        name: $name,
                        about: $about,
                        source: $source,
                        checkers: $checkers,
                        trigger: $trigger,
                        members: [$($members,)? MEMBERS][0],
                        knobs: &$knobs,
                        faults: &[$($($fault),*)?],
                    },)+
                }
            }
        }
    };
}

mutations! {
    // What is durable before it is promised.

    /// A follower acknowledges entries, and a leader counts itself, while the fsync is still under way. A crash in that
    /// time takes back an acknowledged entry: an acknowledged write is lost when enough members lose it. A member that
    /// finds out from its leader what it has forgotten stops. (State machine safety, which looks at what was synced at
    /// each commit, would object to the first entry, without any fault; so it is not asked.)
    AckBeforeFsync "ack-before-fsync" {
        about: "entries are acknowledged before the log's fsync is done",
        source: "canon 4: etcd #14370; Jepsen with LazyFS",
        checkers: FORGOTTEN,
        trigger: RESTARTS,
        knobs: [("fsync_us", 8_000), ("slow_fsync_permille", 100), ("slow_fsync_most_us", 50_000),
            ("fault_every_ms", 500)],
    }

    /// One fsync that ends is taken for the end of all writes before it, those appended since it began included (what
    /// raft-rs's `advance_append` does). Shows like the one above, in a narrower window.
    FsyncCoversLaterWrites "fsync-covers-later-writes" {
        about: "the end of an fsync acknowledges what was appended after its beginning",
        source: "raft-rs: RawNode::advance_append marks every outstanding ready persisted",
        checkers: FORGOTTEN,
        trigger: RESTARTS,
        knobs: [("fsync_us", 8_000), ("slow_fsync_permille", 100), ("slow_fsync_most_us", 50_000),
            ("fault_every_ms", 500)],
    }

    /// A hard state alone is not synced (etcd's rule of `MustSync` forgotten), and the vote leaves at once. A member
    /// that crashes before the next entry votes again in the same term: two leaders of one term. No kind of fault
    /// triggers it: election safety counts durable votes only, and objects to the first leader already.
    VoteNotDurable "vote-not-durable" {
        about: "a vote is sent before it is durable",
        source: "canon 3: Raft 5.2 and figure 2; etcd's raft.MustSync",
        checkers: TWO_LEADERS,
        trigger: &[],
        knobs: [("late_permille", 200), ("late_most_us", 500_000), ("fault_every_ms", 500)],
    }

    /// The vote is in the log, and is not read back at boot. As above: two votes in a term, two leaders.
    VoteForgotten "vote-forgotten" {
        about: "the vote is not restored when a member starts",
        source: "canon 3: Raft figure 2, votedFor is persistent state",
        checkers: TWO_LEADERS,
        trigger: RESTARTS,
        knobs: [("late_permille", 200), ("late_most_us", 500_000), ("fault_every_ms", 500)],
    }

    /// A failed fsync counts as done, and the log goes on. The kernel has dropped the pages: after a crash acknowledged
    /// entries are missing, in the middle even, where the log then looks rotten.
    FsyncErrorIgnored "fsync-error-ignored" {
        about: "an fsync error of the log is ignored",
        source: "canon 30: fsyncgate, PostgreSQL 2018; etcd #2819",
        checkers: LOST,
        trigger: &["fsync-error"],
        knobs: [],
    }

    /// A write that finds the disk full counts as done. The entry was never written: it is missing after a restart, or
    /// when a lagging follower asks for it, and what follows it looks rotten.
    DiskFullIgnored "disk-full-ignored" {
        about: "a full disk is ignored by the log",
        source: "canon 30: etcd #2819",
        checkers: LOST,
        trigger: &["full"],
        knobs: [("segment_bytes", 4_096)],
    }

    /// A new segment's name is not made durable before records go into it. After a crash the segment is gone, with all
    /// that was acknowledged in it; the note at the end of the one before gives it away, and the member does not start.
    SegmentNameNotSynced "segment-name-not-synced" {
        about: "the log goes on in a segment whose name is not durable",
        source: "ALICE, OSDI '14: directory entries want their own fsync",
        checkers: &["process", "log-matching", "durability", "linearizability"],
        trigger: POWER,
        knobs: [("segment_bytes", 4_096)],
    }

    // What the log makes of damage.

    /// What a crash tore off is taken for rot: a member never starts again after a power cut.
    TornTailRefused "torn-tail-refused" {
        about: "a torn tail of the log is refused as damage",
        source: "canon 29: etcd #5230, #14098",
        checkers: &["process"],
        trigger: POWER,
        knobs: [("fsync_us", 8_000), ("slow_fsync_permille", 100), ("slow_fsync_most_us", 50_000), ("clients", 8),
            ("think_most_ms", 20), ("fault_every_ms", 500)],
        faults: ["crash-torn", "crash-prefix"],
    }

    /// The marks of what was synced are not heeded: a rotten record, and all that was acknowledged behind it, is cut
    /// off like a torn tail.
    RotCutOff "rot-cut-off" {
        about: "rot in the middle of the log is cut off as a torn tail",
        source: "canon 29: Protocol-Aware Recovery, FAST '18, section 3.4; etcd #2736",
        checkers: LOST,
        trigger: &["rot-wal"],
        knobs: [("store_commit_ms", 5_000), ("fault_every_ms", 500)],
        faults: ["restart", "kill"],
    }

    /// Check values are not looked at: a record with a flipped bit, or half of one, is taken as it is.
    RottedRecordAccepted "rotted-record-accepted" {
        about: "the check values of the log's records are not verified",
        source: "canon 31: Jepsen etcd, bitflip-wal",
        checkers: LOST,
        trigger: &["rot-wal", "crash", "crash-all", "crash-torn", "crash-prefix", "crash-in-operation",
            "crash-in-commit", "crash-before-dir-sync", "fsync-error"],
        knobs: [],
    }

    /// The store's pages are verified neither when it is opened nor when they are read: a flipped bit in a value is
    /// served, on one member only.
    RottedPageAccepted "rotted-page-accepted" {
        about: "the check values of the store's pages are not verified",
        source: "canon 31: TigerBeetle; Jepsen etcd, bitflip-snap",
        checkers: CORRUPTED,
        trigger: &["rot-store"],
        knobs: [("store_cache_bytes", 4_096), ("fault_every_ms", 500)],
        faults: ["restart", "kill"],
    }

    // What a restart finds.

    /// The consistent index is committed by itself, before the changes that it stands for. A crash between the two
    /// makes the member skip entries for ever.
    ConsistentIndexApart "consistent-index-apart" {
        about: "the consistent index is not in the transaction of its changes",
        source: "canon 5: etcd #13766, postmortem of v3.5",
        checkers: DIVERGED,
        trigger: &["crash-in-commit", "crash-in-operation", "full", "fsync-error", "read-error"],
        knobs: [("store_commit_ms", 100)],
    }

    /// The copy that a defragmentation makes keeps the consistent index that it began with. A crash before the next
    /// commit makes the member apply what the copy already holds.
    DefragmentedIndexStale "defragmented-index-stale" {
        about: "commits beside a defragmentation do not move the consistent index of its copy",
        source: "canon 6: etcd #14685",
        checkers: DIVERGED,
        trigger: &["crash-after-defragment"],
        knobs: [("store_commit_ms", 100), ("quota_bytes", 0)],
    }

    /// A deletion at the revision of the compaction is taken away, too, and the revision read from the rows that are
    /// left: where that deletion was the newest, the member stands at a lower revision after its restart.
    RevisionOfRowsAlone "revision-of-rows-alone" {
        about: "a compaction takes the newest deletion, and the revision is read from the rows alone at boot",
        source: "canon 7: etcd #17780",
        checkers: DIVERGED,
        trigger: RESTARTS,
        knobs: [("quota_bytes", 20_000), ("store_commit_ms", 100), ("fault_every_ms", 500)],
    }

    /// A member goes on writing while an alarm says that there is no space.
    AlarmIgnored "alarm-ignored" {
        about: "requests that need space are carried out in spite of the alarm",
        source: "our own; etcd's capped applier",
        checkers: &["space"],
        trigger: &[],
        knobs: [("quota_bytes", 20_000)],
    }

    /// A member that starts, or installs a snapshot, knows of no alarm, and writes what the others refuse.
    AlarmForgotten "alarm-forgotten" {
        about: "the alarms that are raised are not loaded from the store",
        source: "our own; etcd's alarms are restored with the store for this",
        checkers: &["alarm-agreement", "space", "applied-hash"],
        trigger: BEGINNINGS,
        knobs: [("quota_bytes", 20_000)],
    }

    /// The consistent index is read one too low at boot, and the last entry is applied a second time.
    AppliedAgainAfterRestart "applied-again-after-restart" {
        about: "the entry at the consistent index is applied again after a restart",
        source: "our own; the mirror image of etcd #13766",
        checkers: DIVERGED,
        trigger: BEGINNINGS,
        knobs: [],
    }

    /// The commit index is taken from the log alone, which need not sync it: raft-rs finds that more was applied than
    /// committed, and gives up.
    CommitNotRaised "commit-not-raised" {
        about: "the commit index is not raised at boot to what the store has applied",
        source: "raft-rs: Raft::new refuses applied > commit",
        checkers: &["panic", "process", "election-safety"],
        trigger: RESTARTS,
        knobs: [("store_commit_ms", 100)],
    }

    /// The boot epoch does not grow. Ids of requests come again, so that an entry of the former life answers a request
    /// of the next; and the leader drops new requests as repeats.
    EpochReused "epoch-reused" {
        about: "the boot epoch is the same in every life",
        source: "our own; etcd's request ids have a boot time in them for this (pkg/idutil)",
        checkers: &["linearizability", "stale-reads", "revisions", "at-most-once", "durability", "progress"],
        trigger: RESTARTS,
        knobs: [],
    }

    /// The log is released up to what was applied, though the store holds less of it durably: after a crash the entries
    /// between are nowhere, and the member does not start.
    LogReleasedTooFar "log-released-too-far" {
        about: "the log is released beyond what the store holds durably",
        source: "our own; etcd #14685 is a cousin",
        checkers: &["process", "durability"],
        trigger: RESTARTS,
        knobs: [("log_slack_entries", 0), ("segment_bytes", 4_096), ("store_commit_ms", 5_000)],
    }

    /// A received snapshot's store takes its place before the log says durably that it goes on behind it: after a crash
    /// in between the log ends before what the store holds.
    InstalledBeforeLog "installed-before-log" {
        about: "a received snapshot is installed before the log says so durably",
        source: "canon 28: etcd's failpoints between the WAL's snapshot record and the snapshot file; etcd #18055",
        checkers: &["process", "durability", "progress"],
        trigger: ABSENCES,
        knobs: [("log_slack_entries", 0), ("log_catch_up_entries", 0), ("store_commit_ms", 100), ("fsync_us", 8_000),
            ("slow_fsync_permille", 100), ("slow_fsync_most_us", 50_000), ("fault_every_ms", 500)],
    }

    /// An entry whose index the log has already is taken for the same entry, whatever its term, and not written. It is
    /// right in memory; after a restart the old suffix is back.
    ConflictingSuffixKept "conflicting-suffix-kept" {
        about: "the log keeps a conflicting suffix on disk",
        source: "Raft 5.3: delete the existing entry and all that follow it",
        checkers: LOST,
        trigger: ABSENCES,
        knobs: [("fault_every_ms", 500), ("store_commit_ms", 5_000)],
    }

    // What is committed.

    /// A leader commits entries of former terms by counting copies, before one of its own term: another leader may
    /// still overwrite them (figure 8). Its messages carry one entry each, or its own entry never comes later than the
    /// old ones.
    CommitOfOldTerm "commit-of-old-term" {
        about: "entries of former terms are committed by counting copies",
        source: "canon 2: Raft 5.4.2 and figure 8",
        checkers: LOST,
        trigger: REIGNS,
        knobs: [("late_permille", 200), ("late_most_us", 500_000), ("fault_every_ms", 500)],
    }

    /// One copy less than a majority is enough: a majority of the others never saw what was acknowledged. No kind of
    /// fault triggers it: state machine safety counts the copies at the commit.
    CommitWithoutMajority "commit-without-majority" {
        about: "entries are committed with one copy less than a majority",
        source: "Raft 5.3; an off-by-one in counting",
        checkers: LOST,
        trigger: &[],
        knobs: [],
    }

    /// raft-rs joins new entries to an empty append that waits at another position, and the receiver's check is off
    /// too: the follower acknowledges an entry that it does not have. No kind of fault triggers it: a follower that is
    /// slow to answer while the leader sends on is enough.
    BatchAppend "batch-append" {
        about: "raft-rs's batch_append is on, and appends are not checked",
        source: "our own find in raft-rs 0.7",
        checkers: LOST,
        trigger: &[],
        knobs: [],
    }

    /// A change of the membership is taken before the leader has committed an entry of its own term, or while another
    /// is under way: two majorities that do not meet. No kind of fault triggers it but the changes themselves.
    ConfChangeUnguarded "conf-change-unguarded" {
        about: "changes of the membership overlap",
        source: "canon 1: raft-dev, July 2015; raft-rs's pending_conf_index",
        checkers: &["membership"],
        trigger: CHANGES,
        knobs: [("spares", 4), ("fault_every_ms", 500)],
        faults: ["add", "learner", "promote", "remove", "update", "replace", "move-leader"],
    }

    /// A member that was removed is heard, and may be elected: by members that have applied its removal, which it has
    /// written and does not know to be committed.
    RemovedMemberHeard "removed-member-heard" {
        about: "messages of a removed member count",
        source: "canon 14: thesis 4.2.3",
        checkers: &["membership"],
        trigger: CHANGES,
        knobs: [("spares", 4), ("fault_every_ms", 500), ("clients", 2), ("think_most_ms", 2_000)],
        faults: ["add", "remove", "one-way", "crash", "crash-all", "pause"],
    }

    /// A leader that has applied its own removal goes at once. Whoever has written that and was not told that it is
    /// committed counts with a member that is gone, and where it has no majority without it, waits for ever.
    LeaderLeavesAtOnce "leader-leaves-at-once" {
        about: "a removed leader does not wait until another may lead",
        source: "canon 15: etcd #12359; thesis 4.2.2",
        checkers: &["progress"],
        trigger: CHANGES,
        members: 2,
        knobs: [("spares", 4), ("fault_every_ms", 500), ("late_permille", 200), ("late_most_us", 500_000)],
        faults: ["add", "remove", "update"],
    }

    /// Who believes to be a learner does not vote, though it may have been promoted since, and a majority be impossible
    /// without it.
    LearnerRefusesToVote "learner-refuses-to-vote" {
        about: "a learner that was promoted and does not know it yet votes for nobody",
        source: "canon 16: etcd's campaign_learner_must_vote",
        checkers: &["progress"],
        trigger: CHANGES,
        members: 3,
        knobs: [("spares", 4), ("fault_every_ms", 500)],
        faults: ["learner", "promote", "isolate", "pause", "crash", "slow-start"],
    }

    /// The snapshot that is kept for one member is sent to another that was added since: who is not named in it refuses
    /// it, for ever. Where a majority is impossible without that one, nothing gets done any more.
    SnapshotWithoutReceiver "snapshot-without-receiver" {
        about: "a member that was added is sent a snapshot of before",
        source: "our own find; raft-rs's restore refuses a snapshot that does not name its receiver",
        checkers: &["progress"],
        trigger: CHANGES,
        members: 2,
        knobs: [("spares", 4), ("fault_every_ms", 500), ("late_permille", 200), ("late_most_us", 500_000),
            ("log_slack_entries", 0), ("log_catch_up_entries", 0), ("log_cache_bytes", 1)],
        faults: ["add", "remove", "update"],
    }

    /// A learner whose URLs are updated counts as a voter in the membership, and as a learner in raft.
    UpdateForgetsLearner "update-forgets-learner" {
        about: "an update of a member forgets that it is a learner",
        source: "canon 17: etcd #21694",
        checkers: &["membership"],
        trigger: &["update"],
        knobs: [("spares", 4), ("fault_every_ms", 500)],
        faults: ["add", "learner", "promote", "remove", "update", "replace", "move-leader"],
    }

    // Who leads.

    /// Neither pre-vote nor check-quorum: a member that hears nobody and is heard raises the term over and over, and
    /// deposes every leader. No kind of fault triggers it: the liveness phase itself cuts members off.
    NoPreVote "no-pre-vote" {
        about: "there is neither pre-vote nor check-quorum",
        source: "canon 12: Cloudflare 2020-11-02; thesis 9.6",
        checkers: &["progress"],
        trigger: &[],
        knobs: [],
    }

    /// Check-quorum is off: a leader that is heard and hears nobody keeps its followers quiet, and commits nothing. No
    /// kind of fault triggers it: the liveness phase itself cuts members off.
    NoCheckQuorum "no-check-quorum" {
        about: "a leader without a quorum stays leader",
        source: "canon 13: thesis 6.2",
        checkers: &["progress"],
        trigger: &[],
        knobs: [],
    }

    // Reads.

    /// A new leader answers read index before it has committed in its term: its commit index may be older than what its
    /// predecessor acknowledged. No kind of fault is needed: the liveness phase takes leaders away, too.
    ReadIndexBeforeOwnCommit "read-index-before-own-commit" {
        about: "a new leader serves reads before it has committed in its term",
        source: "canon 9: etcd #7331; thesis 6.4",
        checkers: STALE,
        trigger: &[],
        knobs: [("delay_us", 20_000), ("fsync_us", 8_000), ("clients", 8), ("think_most_ms", 50),
            ("request_timeout_ms", 5_000), ("fault_every_ms", 500)],
        faults: ["isolate", "crash"],
    }

    /// Stock raft-rs 0.7: a `MsgReadIndex` that arrives twice opens its round again, and late acknowledgements of the
    /// first copy complete it, and every round before it, at a leader that is deposed.
    StockReadIndex "stock-read-index" {
        about: "a repeated read index opens its round again",
        source: "canon 10: etcd #20418, etcd-io/raft #397; unfixed in raft-rs 0.7",
        checkers: STALE,
        trigger: &["duplicate", "repeat"],
        knobs: [("clients", 6), ("think_most_ms", 50), ("request_timeout_ms", 1_000), ("late_permille", 0),
            ("slow_fsync_permille", 0), ("late_stage_permille", 0), ("fault_every_ms", 1_000), ("fault_most_ms", 3_000),
            ("safety_ms", 40_000)],
        faults: ["duplicate", "repeat", "isolate"],
    }

    /// Reads rest on the leader's lease instead of a round: a leader that was paused, cut off, or whose clock is slow
    /// serves what its successor has overwritten.
    LeaseReads "lease-reads" {
        about: "reads are served by lease, without a round",
        source: "canon 11: thesis 6.4.1; etcd's ReadOnlyLeaseBased",
        checkers: STALE,
        trigger: ABSENCES,
        knobs: [("clients", 8), ("think_most_ms", 50), ("fault_every_ms", 500)],
        faults: ["isolate", "pause"],
    }

    /// A read joins a round that was issued before it arrived, whose index may miss what was acknowledged in between.
    /// Needs no fault: a write and a read that overlap are enough.
    ReadJoinsRound "read-joins-round" {
        about: "a read joins a round already under way",
        source: "our own; thesis 6.4 step 2",
        checkers: STALE,
        trigger: &[],
        knobs: [],
    }

    /// A read is carried out as soon as it has its index, on a view that has not applied so far yet. Needs no fault:
    /// apply is always a little late.
    ReadBeforeApply "read-before-apply" {
        about: "a read does not wait for apply",
        source: "our own; thesis 6.4 step 4",
        checkers: STALE,
        trigger: &[],
        knobs: [],
    }

    /// The answer to a round of the member's former life is taken for one of this life, whose sequences are the same.
    FormerLifeAnswers "former-life-answers" {
        about: "answers to reads of a former life are accepted",
        source: "our own; etcd's read contexts are request ids for this",
        checkers: STALE,
        trigger: RESTARTS,
        knobs: [("delay_us", 5_000), ("clients", 8), ("think_most_ms", 50), ("late_permille", 0),
            ("fault_every_ms", 300),
            ("fault_most_ms", 1_500), ("safety_ms", 40_000)],
        faults: ["repeat", "restart", "kill"],
    }

    /// A round of read index that raft dropped in silence is never issued again: its reads wait for ever.
    ReadNeverRetried "read-never-retried" {
        about: "a lost round of read index is not issued again",
        source: "etcd #9566: read index is dropped in silence while the leader changes",
        checkers: &["progress"],
        trigger: ABSENCES,
        knobs: [("clients", 8), ("think_most_ms", 20), ("delay_us", 5_000), ("request_timeout_ms", 500),
            ("fault_every_ms", 500)],
        faults: ["isolate", "one-way"],
    }

    // What clients are told, and what is applied.

    /// A put is answered when it is proposed, as if nothing could happen to it. The revision in the answer is a guess,
    /// and the write is nowhere yet: it shows without any fault.
    ReplyBeforeCommit "reply-before-commit" {
        about: "a client is answered when its put is proposed",
        source: "our own",
        checkers: &["revisions", "linearizability", "stale-reads", "durability"],
        trigger: &[],
        knobs: [],
    }

    /// A forwarded proposal that arrives twice is put into the log twice.
    ProposalTwice "proposal-twice" {
        about: "a repeated proposal is taken again",
        source: "our own; a MsgProp carries nothing to know it by",
        checkers: &["at-most-once", "linearizability", "stale-reads", "invariant-sum", "revisions"],
        trigger: &["duplicate", "repeat"],
        knobs: [],
    }

    /// Whether a compaction is refused depends on how far the member is with the one before: members compact
    /// differently, and say so in their hashes. Needs no fault: members are never equally fast.
    CompactionByMember "compaction-by-member" {
        about: "a compaction is refused by how busy the member is",
        source: "canon 25: etcd #18667, replicas that apply the same entry differently",
        checkers: DIVERGED,
        trigger: &[],
        knobs: [],
    }

    // Watches.

    /// A manual request for progress is answered although watchers of the stream are still catching up, and those who
    /// catch up are told of progress as if they were up to date: a client resumes behind events it never got. Needs no
    /// fault: watchers from the past, and slow readers, are enough.
    ProgressAhead "progress-ahead" {
        about: "progress is told to watchers that are still behind",
        source: "canon 21: etcd #15220",
        checkers: &["watches"],
        trigger: &[],
        knobs: [],
    }

    /// A piece of catching up gives everybody whose place lies in it all of it, from its beginning: who was further on
    /// hears of old revisions again. Needs no fault, but watchers that are behind by different amounts.
    WatchGoesBack "watch-goes-back" {
        about: "a watcher that catches up beside another begins where that one does",
        source: "canon 22: etcd #15271",
        checkers: &["watches"],
        trigger: &[],
        knobs: [],
    }

    /// What finds a stream full is dropped, and the watcher stays among those who are up to date. Needs no fault: a
    /// slow reader is enough.
    SlowStreamLosesEvents "slow-stream-loses-events" {
        about: "events for a stream that is full are dropped",
        source: "canon 23: etcd #17529",
        checkers: &["watches"],
        trigger: &[],
        knobs: [("watch_stream_bytes", 256)],
    }

    /// A watcher that compaction has overtaken is not canceled: it goes on with what is left of the history. Needs no
    /// fault, but somebody who compacts.
    CompactionLosesEvents "compaction-loses-events" {
        about: "a watcher goes on over a compaction, without what that took",
        source: "canon 24: etcd #18089, #19179",
        checkers: &["watches"],
        trigger: &[],
        knobs: [("watch_stream_bytes", 256), ("watch_catch_up_rows", 1)],
    }

    /// A watcher from a revision that is still to come begins with the next one. Needs no fault.
    FutureWatchBeginsNow "future-watch-begins-now" {
        about: "a watch from a future revision is told of earlier ones",
        source: "canon 26: etcd #20221",
        checkers: &["watches"],
        trigger: &[],
        knobs: [],
    }

    /// The last change of a txn with several is published twice. Needs no fault.
    TxnEventTwice "txn-event-twice" {
        about: "a txn's last change is published twice",
        source: "canon 27: etcd #17247",
        checkers: &["watches"],
        trigger: &[],
        knobs: [],
    }

    // Leases and locks.

    /// A leader revokes what its clock says has expired without asking whether it still leads, and the revocation is
    /// bound to no term: after a stall a deposed leader has it forwarded to its successor, at which clients have
    /// renewed.
    RevokedAfterStall "revoked-after-stall" {
        about: "a deposed leader revokes leases after a stall",
        source: "canon 18: etcd #15247, #12528",
        checkers: &["leases"],
        trigger: ABSENCES,
        knobs: [("fault_every_ms", 1_000), ("fault_most_ms", 6_000), ("clients", 8), ("think_most_ms", 50)],
        faults: ["pause"],
    }

    /// What is left of a lease is noted by checkpoints, and no new leader looks at them. With leaders that change often
    /// enough nothing ever expires. The liveness phase alone changes leaders too, so no kind of fault is needed.
    CheckpointLost "checkpoint-lost" {
        about: "a new leader gives every lease its whole time",
        source: "canon 19: etcd #9888",
        checkers: &["leases"],
        trigger: &[],
        knobs: [("lease_checkpoint_ms", 300), ("fault_every_ms", 4_000), ("fault_most_ms", 3_000)],
        faults: ["isolate", "crash"],
    }

    /// A client that waited for a lock sees that nobody is before it, and does not look whether its own key is still
    /// there: its lease has ended meanwhile. A bug of clients, and of etcd's lock service once. Needs no fault: some
    /// clients stop keeping their lease alive.
    LockNotRechecked "lock-not-rechecked" {
        about: "who waited for a lock takes it without looking at its own key",
        source: "canon 20: Jepsen etcd 3.4.3; etcd #11456",
        checkers: &["locks"],
        trigger: &[],
        knobs: [],
    }

    /// What is written under a lock is not bound to the key by which it is held: a client whose lease has ended while
    /// it looked elsewhere writes after its successor. Needs no fault: some clients stop keeping their lease alive.
    LockNotFenced "lock-not-fenced" {
        about: "writes under a lock are not fenced",
        source: "canon 20: Jepsen etcd 3.4.3",
        checkers: &["locks"],
        trigger: &[],
        knobs: [],
    }
}

impl Mutation {
    /// As on the command line and in scenarios: `ack-before-fsync`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    pub fn parse(name: &str) -> Option<Mutation> {
        Mutation::ALL.iter().copied().find(|mutation| mutation.name() == name)
    }

    /// What is wrong, in one line.
    pub fn about(self) -> &'static str {
        self.row().about
    }

    /// Where it was seen: an issue, a paper, a number of the bug canon.
    pub fn source(self) -> &'static str {
        self.row().source
    }

    /// The checkers whose objection counts as a kill.
    pub fn checkers(self) -> &'static [&'static str] {
        self.row().checkers
    }

    /// The kinds of fault without all of which it survives; empty when it needs none, and the doc says why.
    pub fn trigger(self) -> &'static [&'static str] {
        self.row().trigger
    }

    /// Whether it is the one that is switched on for this thread.
    #[cfg(feature = "simulation")]
    pub fn is_on(self) -> bool {
        ON.get() == Some(self)
    }

    /// Never, in this build.
    #[cfg(not(feature = "simulation"))]
    pub const fn is_on(self) -> bool {
        false
    }

    /// The size of the cluster that shows it.
    pub fn members(self) -> u64 {
        self.row().members
    }

    /// Knobs that help it to show, to be set over the drawn ones.
    pub fn knobs(self) -> &'static [(&'static str, u64)] {
        self.row().knobs
    }

    /// The kinds of fault of its worlds, where those that a seed draws would hardly ever meet; empty for the drawn
    /// ones.
    pub fn faults(self) -> &'static [&'static str] {
        self.row().faults
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Switches one mutation on for this thread, or all off. Panics where they are not [`COMPILED_IN`]: a run that cannot
/// have the bug it is asked for must not pass for one that survived it.
pub fn set(mutation: Option<Mutation>) {
    assert!(COMPILED_IN || mutation.is_none(), "mutations are not in this build: build it with --features simulation");
    #[cfg(feature = "simulation")]
    ON.set(mutation);
}
