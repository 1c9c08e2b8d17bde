//! Members compare the hashes of their history: before one serves (`--initial-corrupt-check`), and as the leader every
//! so often (`--corrupt-check-time`). Whoever differs gets a `CORRUPT` alarm, and the cluster refuses what would change
//! or show its data.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::etcdserverpb::AlarmType;
use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use tracing::{info, warn};

use super::apart::apart;
use super::node::{Consistency, Node};
use super::peer::{self, HashError, PeerHash};
use super::space::alarm_request;
use crate::member::error::EtcdError;
use crate::member::membership::Membership;
use crate::mvcc::read::{Error as StoreError, Read};
use crate::mvcc::{HashKv, View, read_newest};

/// What a peer said, or why it did not.
struct Asked {
    id: u64,
    urls: Vec<String>,
    answer: Result<PeerHash, HashError>,
}

impl Node {
    /// The hash of the history up to a revision, 0 for all, and the revision that the store has.
    pub(super) async fn hash_kv(self: &Arc<Node>, revision: i64) -> Result<(HashKv, i64), StoreError> {
        let node = self.clone();
        apart(move || read_newest(|| node.local_view(), |view: &Arc<View>| Ok((view.hash_kv(revision)?, view.rev()))))
            .await
            .unwrap_or_else(|e| Err(StoreError::Storage(e.to_string())))
    }
}

/// Before a member serves anybody: the error says with whom it does not agree. Only the same compaction is comparable.
pub async fn check_initially(
    view: Arc<View>,
    membership: &Membership,
    member_id: u64,
    limit: Duration,
) -> Result<(), String> {
    let local = format!("{member_id:x}");
    info!("local-member-id" = %local, timeout = ?limit, "starting initial corruption check");
    let revision = view.rev();
    let hashed = apart(move || view.hash_kv(0)).await.map_err(|e| e.to_string())?;
    let hash = hashed.map_err(|e| format!("{local} failed to fetch hash ({e}); see to this member's disk"))?;
    let mut differ = Vec::new();
    for Asked { id, urls, answer } in ask_peers(membership, member_id, revision, limit).await {
        let peer = format!("{id:x}");
        match answer {
            Ok(theirs) if theirs.hash != hash.hash => {
                let is_comparable = theirs.compact_revision == hash.compact_revision;
                warn!(
                    "local-member-id" = %local,
                    "local-member-revision" = revision,
                    "local-member-compact-revision" = hash.compact_revision,
                    "local-member-hash" = hash.hash,
                    "remote-peer-id" = %peer,
                    "remote-peer-endpoints" = ?urls,
                    "remote-peer-revision" = theirs.revision,
                    "remote-peer-compact-revision" = theirs.compact_revision,
                    "remote-peer-hash" = theirs.hash,
                    "{}",
                    match is_comparable {
                        true => "found different hash values from remote peer",
                        false => "found different compact revision values from remote peer",
                    }
                );
                if is_comparable {
                    differ.push(peer);
                }
            }
            Ok(_) => {}
            Err(error) => {
                let what = match error {
                    HashError::FutureRev => "cannot fetch hash from slow remote peer",
                    HashError::Compacted => "cannot fetch hash from remote peer; local member is behind",
                    HashError::Failed(_) => "cannot fetch hash from remote peer",
                };
                warn!("local-member-id" = %local, "remote-peer-id" = %peer, error = %error, "{what}");
            }
        }
    }
    if !differ.is_empty() {
        return Err(format!(
            "{local} found data inconsistency with peers ({}): ask all members for their hashes (`lockstepctl \
             endpoint hashkv --cluster`); remove the one that differs from the others from the cluster, and add it \
             again with an empty data directory",
            differ.join(", ")
        ));
    }
    info!("local-member-id" = %local, "initial corruption checking passed; no corruption");
    Ok(())
}

/// As the leader, every so often. Runs until the member stops.
pub async fn check_every(node: Arc<Node>, interval: Duration) {
    let local = format!("{:x}", node.member_id);
    info!("local-member-id" = %local, interval = ?interval, "enabled corruption checking");
    let mut stopping = node.watch_stopping();
    loop {
        tokio::select! {
            _ = tokio::time::sleep(interval) => {}
            _ = stopping.changed() => return,
        }
        if node.status().leader == node.member_id
            && let Err(error) = check(&node).await
        {
            warn!(error = %error, "failed to check hash KV");
        }
    }
}

async fn check(node: &Arc<Node>) -> Result<(), String> {
    let (before, revision) = node.hash_kv(0).await.map_err(|e| e.to_string())?;
    let limit = node.request_timeout;
    let asked = ask_peers(&node.membership(), node.member_id, before.hash_revision, limit).await;
    node.view(Consistency::Linearizable).await.map_err(|e| e.to_string())?;
    let (after, newest) = node.hash_kv(0).await.map_err(|e| e.to_string())?;

    let mut corrupt = None;
    let unchanged = newest == revision && after.compact_revision == before.compact_revision;
    if unchanged && after.hash != before.hash {
        warn!(
            "revision-1" = revision,
            "compact-revision-1" = before.compact_revision,
            "hash-1" = before.hash,
            "revision-2" = newest,
            "compact-revision-2" = after.compact_revision,
            "hash-2" = after.hash,
            "found hash mismatch"
        );
        corrupt = Some(node.member_id);
    }
    let mut checked = 0;
    for Asked { id, answer, .. } in asked {
        let Ok(theirs) = answer else { continue };
        checked += 1;
        let peer = format!("{id:x}");
        let mut differs = false;
        if theirs.revision > newest {
            warn!(
                "leader-revision" = newest,
                "follower-revision" = theirs.revision,
                "follower-peer-id" = %peer,
                "revision from follower must be less than or equal to leader's"
            );
            differs = true;
        }
        if theirs.compact_revision > after.compact_revision {
            warn!(
                "leader-compact-revision" = after.compact_revision,
                "follower-compact-revision" = theirs.compact_revision,
                "follower-peer-id" = %peer,
                "compact revision from follower must be less than or equal to leader's"
            );
            differs = true;
        }
        if theirs.compact_revision == before.compact_revision && theirs.hash != before.hash {
            warn!(
                "leader-compact-revision" = before.compact_revision,
                "leader-hash" = before.hash,
                "follower-compact-revision" = theirs.compact_revision,
                "follower-hash" = theirs.hash,
                "follower-peer-id" = %peer,
                "same compact revision then hashes must match"
            );
            differs = true;
        }
        if differs {
            corrupt = corrupt.or(Some(id));
        }
    }
    info!("number-of-peers-checked" = checked, "finished peer corruption check");
    if let Some(id) = corrupt {
        let raised = node.propose(alarm_request(AlarmAction::Activate, id, AlarmType::Corrupt)).await;
        raised.map_err(|e| format!("raising the alarm for {id:x}: {e}"))?;
    }
    Ok(())
}

async fn ask_peers(membership: &Membership, member_id: u64, revision: i64, limit: Duration) -> Vec<Asked> {
    let peers = membership.members().filter(|m| m.id != member_id && !m.peer_urls.is_empty());
    let asking = peers.map(|member| async move {
        let answer = peer::get_hash_kv(&member.peer_urls, revision, limit).await;
        Asked { id: member.id, urls: member.peer_urls.clone(), answer }
    });
    futures_util::future::join_all(asking).await
}

/// How a peer's question is answered: `Err` is the text of a refusal.
pub(super) async fn answer(node: &Arc<Node>, revision: i64) -> Result<PeerHash, String> {
    match node.hash_kv(revision).await {
        Ok((hash, newest)) => Ok(PeerHash {
            cluster_id: node.cluster_id,
            member_id: node.member_id,
            revision: newest,
            raft_term: node.status().term,
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }),
        Err(error) => {
            warn!("requested-revision" = revision, error = %error, "failed to get hashKV");
            Err(match error {
                StoreError::Compacted => EtcdError::Compacted.message().replace("etcdserver: ", ""),
                StoreError::FutureRev => EtcdError::FutureRev.message().replace("etcdserver: ", ""),
                other => other.to_string(),
            })
        }
    }
}
