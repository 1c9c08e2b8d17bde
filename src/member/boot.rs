//! From a disk to a running member: the same steps in production and in the simulator.
//!
//! The order matters. The boot epoch is durable before the first message can leave, so a stamp is never used twice; the
//! store decides where applying goes on, and the write-ahead log must reach at least that far: one that ends before is
//! not a torn tail, it is a lost or foreign log, and the member refuses to start.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_proto::raftpb;
use prost::Message;

use super::apply::Applier;
use super::membership::{ChangeContext, Member, Membership};
use super::raft::{Consensus, Recovered};
use super::snapshot;
use crate::mvcc::{self, Backend, Store};
use crate::ports::dice::Dice;
use crate::ports::disk::Disk;
use crate::wal::{self, SnapshotMark, Wal};

/// Where things lie below the disk's root.
pub const SNAP_DIR: &str = "member/snap";
pub const STORE_PATH: &str = "member/snap/db";
pub const WAL_DIR: &str = "member/wal";
/// What `member` is called while a restore builds it.
pub const RESTORING_DIR: &str = "member.restoring";

/// How to boot. Ids and members count only until the member is founded ([`Error::Unfounded`] asks for them); later the
/// disk knows better.
#[derive(Clone, Debug)]
pub struct Config {
    pub member_id: u64,
    pub cluster_id: u64,
    /// The members that found the cluster, this one among them. None of a member that joins.
    pub founders: Vec<Member>,
    /// Whether this member was added to a cluster that is there: it begins with an empty log, and waits to be sent one.
    pub joins: bool,
    /// Go on as the only member of the cluster, whoever else belongs to it.
    pub force_new_cluster: bool,
    pub wal_dir: String,
    pub wal: wal::Options,
    pub store: mvcc::Options,
    pub raft: RaftConfig,
}

/// The part of consensus's configuration that is not found out at boot.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    pub check_quorum: bool,
    pub log_cache_bytes: u64,
    pub log_slack_entries: u64,
    pub log_catch_up_entries: u64,
    pub dice: Arc<dyn Dice>,
}

/// A member, ready to be driven.
pub struct Booted {
    pub member_id: u64,
    pub cluster_id: u64,
    pub epoch: u64,
    /// Whether this boot founded the member, rather than finding it on disk.
    pub is_new: bool,
    /// What was cut off a torn tail of the log.
    pub repaired: Option<String>,
    pub consensus: Consensus,
    pub applier: Applier,
    pub wal: Wal,
    pub backend: Backend,
}

/// Why a member does not start. Each names the thing and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Wal(#[from] wal::Error),
    #[error(transparent)]
    Store(#[from] mvcc::OpenError),
    #[error("reading the store: {0}")]
    Read(#[from] mvcc::read::Error),
    #[error("preparing the data directory: {0}")]
    Io(#[from] std::io::Error),
    #[error(
        "{STORE_PATH} exists, but there is no write-ahead log in {0}: the log was lost or --wal-dir points \
         elsewhere; bring it back, or restore the member from a backup"
    )]
    LogMissing(String),
    #[error(
        "the write-ahead log ends at entry {last}, but the store holds what entry {applied} did: the log was \
         truncated or belongs to another member; restore the member from a backup, or remove it from the cluster \
         and add it again"
    )]
    LogTooShort { last: u64, applied: u64 },
    #[error(
        "the write-ahead log begins after entry {before}, but the store {STORE_PATH} holds only what entry {applied} \
         did: it was lost, is an old copy, or its last commits are damaged (nothing was changed); restore the \
         member from a backup, or remove it from the cluster and add it again"
    )]
    LogTooLate { before: u64, applied: u64 },
    #[error(
        "member {0:x} has been removed from the cluster: it cannot start again; remove its data directory, and add it \
         to the cluster anew if it shall come back"
    )]
    Removed(u64),
    #[error(
        "--force-new-cluster: by what its log says, member {0:x} is no member of the cluster; take another member's \
         directory, or restore from a snapshot"
    )]
    NotOfTheCluster(u64),
    #[error("a member cannot be founded without its cluster's members: say who they are")]
    Unfounded,
    #[error(
        "the write-ahead log was created for member {member:x} of cluster {cluster:x}, which the flags do not name, \
         and holds nothing: start with the flags of the first time, or from an empty data directory"
    )]
    OtherFounders { member: u64, cluster: u64 },
    #[error(
        "the data directory has {RESTORING_DIR}: restoring a snapshot into it was cut short; empty the directory and \
         restore again"
    )]
    Restoring,
    #[error("{0}")]
    Raft(String),
}

/// Boots the member that lies on `disk`, or founds it.
/// `wal_disk` is the same disk unless the log lies elsewhere.
pub fn boot(disk: Arc<dyn Disk>, wal_disk: Arc<dyn Disk>, config: &Config) -> Result<Booted, Error> {
    if disk.exists(RESTORING_DIR)? {
        return Err(Error::Restoring);
    }
    disk.create_dir_all(SNAP_DIR)?;
    let is_new = !Wal::exists(&*wal_disk, &config.wal_dir)?;
    finish_install(&*disk, &wal_disk, config, is_new)?;
    let (store, mut backend) = Store::open(disk, STORE_PATH, config.store)?;
    let applied = store.durable_index();
    if is_new {
        if applied > 0 {
            return Err(Error::LogMissing(config.wal_dir.clone()));
        }
        wal_disk.create_dir_all(&config.wal_dir)?;
        let metadata = wal::Metadata { member_id: config.member_id, cluster_id: config.cluster_id };
        drop(Wal::create(wal_disk.clone(), &config.wal_dir, metadata, config.wal)?);
    }
    let (mut wal, mut log) = Wal::open(wal_disk, &config.wal_dir, config.wal, applied + 1)?;
    if wal.last_index() == 0 && applied == 0 {
        // A first boot, or one that crashed before it got here.
        sometimes!(!is_new, "founding finished by a later boot");
        if config.founders.is_empty() && !config.joins {
            return Err(Error::Unfounded);
        }
        let wal::Metadata { member_id, cluster_id } = log.metadata;
        let is_named = match config.joins {
            true => member_id == config.member_id,
            false => config.founders.iter().any(|m| m.id == member_id),
        };
        if cluster_id != config.cluster_id || !is_named {
            return Err(Error::OtherFounders { member: member_id, cluster: cluster_id });
        }
        if !config.joins {
            found(&mut wal, &config.founders)?;
            log.hard_state = founding_state(&config.founders);
            log.entries = founding_entries(&config.founders);
            log.term_runs = vec![(1, 1)];
        }
    }
    let epoch = if mutation!(EpochReused) { log.epoch.max(1) } else { log.epoch + 1 };
    wal.append_epoch(epoch)?;
    wal.sync()?;

    let last = wal.last_index();
    sometimes!(last > applied && epoch > 1, "boot found entries that the store had not yet");
    let (first, mark) = (wal.first_index(), log.snapshot);
    let oldest = reaches(first, last, mark, applied)?;
    backend.keep()?;
    let term = match oldest {
        0 => 0,
        _ if oldest == mark.index => mark.term,
        _ => wal.term(oldest)?,
    };
    let truncated = (oldest, term);
    let applier = Applier::new(store)?;
    let membership = applier.membership();
    if membership.is_removed(log.metadata.member_id) {
        return Err(Error::Removed(log.metadata.member_id));
    }
    if config.force_new_cluster {
        force(&mut wal, &mut log, membership)?;
    }
    let recovered = Recovered {
        hard_state: log.hard_state,
        conf_state: if applied == 0 { Default::default() } else { membership.conf_state() },
        applied,
        truncated,
        term_runs: log.term_runs,
        last_index: wal.last_index(),
        entries: log.entries,
        removed: membership.removed().collect(),
    };
    let member_id = log.metadata.member_id;
    let raft = super::raft::Config {
        id: member_id,
        election_ticks: config.raft.election_ticks,
        heartbeat_ticks: config.raft.heartbeat_ticks,
        pre_vote: config.raft.pre_vote,
        check_quorum: config.raft.check_quorum,
        log_cache_bytes: config.raft.log_cache_bytes,
        log_slack_entries: config.raft.log_slack_entries,
        log_catch_up_entries: config.raft.log_catch_up_entries,
        epoch,
        dice: config.raft.dice.clone(),
    };
    let consensus = Consensus::new(raft, recovered).map_err(Error::Raft)?;
    Ok(Booted {
        member_id,
        cluster_id: log.metadata.cluster_id,
        epoch,
        is_new,
        repaired: log.repaired,
        consensus,
        applier,
        wal,
        backend,
    })
}

/// Whether a log with these entries, behind a snapshot's mark or without one, and a store with what was applied make a
/// member. Returns the oldest entry that consensus can answer for: it stands for all before it, whose terms are not
/// known.
pub fn reaches(first: u64, last: u64, mark: SnapshotMark, applied: u64) -> Result<u64, Error> {
    if last < applied {
        return Err(Error::LogTooShort { last, applied });
    }
    let oldest = match first {
        _ if first == mark.index + 1 => mark.index,
        first => first,
    };
    match oldest > applied {
        true => Err(Error::LogTooLate { before: first - 1, applied }),
        false => Ok(oldest),
    }
}

/// Where a cluster of so many founders begins that was restored: index and term of what its members' stores hold.
///
/// It is beyond the founding, which every founder writes that begins with nothing. What was restored is in nobody's
/// log, so a log that begins with the founding must not pass for one that has it: its member is sent a snapshot.
pub fn restored_at(founders: usize) -> SnapshotMark {
    SnapshotMark { index: founders as u64 + 1, term: 1 }
}

/// A crash may have come between the log's word that a snapshot is here, and the store of it taking its place. Whatever
/// else was on its way is of no use any more.
fn finish_install(disk: &dyn Disk, wal_disk: &Arc<dyn Disk>, config: &Config, is_new: bool) -> Result<(), Error> {
    let names = disk.list(SNAP_DIR)?;
    let unfinished: Vec<&String> = names.iter().filter(|name| snapshot::is_unfinished(name)).collect();
    if unfinished.is_empty() {
        return Ok(());
    }
    let mark = match is_new {
        true => 0,
        false => Wal::open(wal_disk.clone(), &config.wal_dir, config.wal, u64::MAX)?.1.snapshot.index,
    };
    for name in unfinished {
        let path = format!("{SNAP_DIR}/{name}");
        if path == snapshot::path(mark) {
            sometimes!("boot put a received snapshot in place");
            snapshot::put_in_place(disk, mark)?;
        } else {
            sometimes!("boot removed a snapshot that was on its way");
            disk.remove(&path)?;
        }
    }
    Ok(())
}

/// The log of a new cluster begins with the founders' conf changes, committed in term 1, the same on every founder.
fn found(wal: &mut Wal, founders: &[Member]) -> Result<(), wal::Error> {
    wal.append(Some(&founding_state(founders)), &founding_entries(founders))?;
    wal.sync()
}

/// Ends the log with the removal of everybody else, committed as if they had agreed.
///
/// Nothing is cut off before: an entry that was not committed may as well have been, and one that is only not known to
/// be here may have been acknowledged.
fn force(wal: &mut Wal, log: &mut wal::Recovered, membership: &Membership) -> Result<(), Error> {
    use raftpb::ConfChangeType as T;
    let own = log.metadata.member_id;
    // Whether each is a learner, at the end of the log.
    let mut members: BTreeMap<u64, bool> = membership.members().map(|m| (m.id, m.is_learner)).collect();
    for entry in log.entries.iter().filter(|e| e.r#type() == raftpb::EntryType::EntryConfChange) {
        let Ok(change) = raftpb::ConfChange::decode(entry.data.as_deref().unwrap_or_default()) else { continue };
        match change.r#type() {
            T::ConfChangeAddNode => drop(members.insert(change.node_id(), false)),
            T::ConfChangeAddLearnerNode => drop(members.entry(change.node_id()).or_insert(true)),
            T::ConfChangeRemoveNode => drop(members.remove(&change.node_id())),
            T::ConfChangeUpdateNode => {}
        }
    }
    let is_learner = members.remove(&own).ok_or(Error::NotOfTheCluster(own))?;
    let mut changes = Vec::new();
    if is_learner {
        let member = Member { id: own, ..Member::default() };
        let context = ChangeContext { member, is_promote: true, max_learners: None };
        changes.push((T::ConfChangeAddNode, own, Some(context.to_json())));
    }
    changes.extend(members.keys().map(|id| (T::ConfChangeRemoveNode, *id, None)));
    if changes.is_empty() {
        return Ok(());
    }
    sometimes!("cluster forced down to one member");
    let (first, term) = (wal.last_index() + 1, log.hard_state.term());
    let entries: Vec<raftpb::Entry> = changes
        .into_iter()
        .zip(first..)
        .map(|((kind, id, context), index)| change_entry(kind, id, context, term, index))
        .collect();
    log.hard_state.commit = entries.last().map(raftpb::Entry::index);
    wal.append(Some(&log.hard_state), &entries)?;
    wal.sync()?;
    if log.term_runs.last().is_none_or(|run| run.1 != term) {
        log.term_runs.push((first, term));
    }
    log.entries.extend(entries);
    Ok(())
}

fn change_entry(
    kind: raftpb::ConfChangeType,
    id: u64,
    context: Option<Vec<u8>>,
    term: u64,
    index: u64,
) -> raftpb::Entry {
    let change = raftpb::ConfChange {
        id: None,
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: context.map(Bytes::from),
    };
    raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange as i32),
        term: Some(term),
        index: Some(index),
        data: Some(change.encode_to_vec().into()),
    }
}

fn founding_state(founders: &[Member]) -> raftpb::HardState {
    raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(founders.len() as u64) }
}

fn founding_entries(founders: &[Member]) -> Vec<raftpb::Entry> {
    let mut sorted: Vec<&Member> = founders.iter().collect();
    sorted.sort_by_key(|m| m.id);
    sorted
        .into_iter()
        .zip(1..)
        .map(|(member, index)| {
            let kind = raftpb::ConfChangeType::ConfChangeAddNode;
            change_entry(kind, member.id, Some(member.to_json()), 1, index)
        })
        .collect()
}
