//! Changing who belongs to the cluster, and who leads it: what is checked before consensus is asked.
//!
//! The checks are etcd's, and so are their order and their words. They look at this member's own connections and may be
//! wrong a moment later; what must hold for every member alike is checked where the change is applied (`membership`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::raftpb::{ConfChange, ConfChangeType};
use tracing::{info, warn};

use super::metrics::METRICS;
use super::node::Node;
use super::peer::{self, PromoteAnswer};
use crate::member::error::EtcdError;
use crate::member::membership::{ChangeContext, Member};
use crate::member::raft::Input;

/// Members that are to count must have been connected for so long.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// Between two attempts to ask the leader.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks for learners that may be promoted.
const PROMOTE_INTERVAL: Duration = Duration::from_secs(1);

type Members = Result<Vec<Member>, EtcdError>;

/// See the head of this file.
pub struct Reconfigure {
    pub node: Arc<Node>,
    pub transport: peer::Transport,
    /// `--strict-reconfig-check`.
    pub strict: bool,
    pub max_learners: u64,
}

impl Reconfigure {
    pub async fn add(&self, member: Member) -> Members {
        if self.strict {
            let membership = self.node.membership();
            if !member.is_learner && !membership.is_ready_to_add_voter() {
                let why = "rejecting member add request; not enough healthy members";
                return Err(self.refuse(why, &member, EtcdError::MemberNotEnoughStarted));
            }
            if self.connected_voters() < membership.voters().count() {
                let why = "rejecting member add request; local member has not been connected to all peers, \
                           reconfigure breaks active quorum";
                return Err(self.refuse(why, &member, EtcdError::Unhealthy));
            }
        }
        let kind = match member.is_learner {
            true => ConfChangeType::ConfChangeAddLearnerNode,
            false => ConfChangeType::ConfChangeAddNode,
        };
        let id = member.id;
        let max_learners = member.is_learner.then_some(self.max_learners);
        self.change(kind, id, Some(ChangeContext { member, is_promote: false, max_learners })).await
    }

    pub async fn remove(&self, id: u64) -> Members {
        self.may_remove(id)?;
        self.change(ConfChangeType::ConfChangeRemoveNode, id, None).await
    }

    pub async fn update(&self, id: u64, peer_urls: Vec<String>) -> Members {
        let member = Member { id, peer_urls, ..Member::default() };
        let context = ChangeContext { member, is_promote: false, max_learners: None };
        self.change(ConfChangeType::ConfChangeUpdateNode, id, Some(context)).await
    }

    /// Only the leader knows whether a learner has caught up: others ask it.
    pub async fn promote(&self, id: u64) -> Members {
        let deadline = Instant::now() + self.node.request_timeout;
        loop {
            match self.promote_as_leader(id).await {
                Err(EtcdError::NotLeader) => {}
                done => return done,
            }
            let leader = self.node.status().leader;
            if let Some(leader) = self.node.membership().member(leader).filter(|m| m.id != self.node.member_id) {
                let left = deadline.saturating_duration_since(Instant::now());
                match peer::promote(&leader.peer_urls, id, left).await {
                    PromoteAnswer::Members(json) => {
                        // What cannot be read is done all the same: this member will hear of it from its log.
                        let members = serde_json::from_slice(&json).ok();
                        return Ok(members.unwrap_or_else(|| self.node.membership().members().cloned().collect()));
                    }
                    PromoteAnswer::NotFound => return Err(EtcdError::MemberNotFound),
                    PromoteAnswer::NotLearner => return Err(EtcdError::MemberNotLearner),
                    PromoteAnswer::NotReady => return Err(EtcdError::LearnerNotReady),
                    PromoteAnswer::Failed(reason) => {
                        tracing::debug!(reason, "the leader did not promote the learner");
                    }
                }
            }
            if Instant::now() + ASK_PAUSE >= deadline {
                return Err(EtcdError::Timeout);
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }

    /// The same, refused where this member does not lead.
    pub async fn promote_as_leader(&self, id: u64) -> Members {
        let promoted = self.try_promote(id).await;
        match promoted {
            Ok(_) => METRICS.learner_promoted(),
            Err(EtcdError::NotLeader) => {}
            Err(error) => METRICS.learner_not_promoted(error.message()),
        }
        promoted
    }

    async fn try_promote(&self, id: u64) -> Members {
        if self.node.status().leader != self.node.member_id {
            return Err(EtcdError::NotLeader);
        }
        let membership = self.node.membership();
        // Whether it is a member and a learner is checked where the change is applied.
        if membership.member(id).is_some_and(|m| m.is_learner) {
            let (matched, last) = self.node.progress(id).unwrap_or((0, 1));
            // A tenth of the leader's log may be missing.
            if matched * 10 < last * 9 {
                return Err(EtcdError::LearnerNotReady);
            }
        }
        let member = Member { id, ..Member::default() };
        if self.strict && !membership.is_ready_to_promote() {
            let why = "rejecting member promote request; not enough healthy members";
            return Err(self.refuse(why, &member, EtcdError::MemberNotEnoughStarted));
        }
        let context = ChangeContext { member, is_promote: true, max_learners: None };
        self.change(ConfChangeType::ConfChangeAddNode, id, Some(context)).await
    }

    /// Makes another member lead, and returns when it does.
    pub async fn move_leader(&self, to: u64) -> Result<(), EtcdError> {
        let local = self.node.member_id;
        if self.node.status().leader != local {
            return Err(EtcdError::NotLeader);
        }
        if self.node.membership().member(to).is_none_or(|m| m.is_learner) {
            return Err(EtcdError::BadLeaderTransferee);
        }
        let (from, hex_to) = (format!("{local:x}"), format!("{to:x}"));
        info!("local-member-id" = %from, "transferee-member-id" = %hex_to, "leadership transfer starting");
        let started = Instant::now();
        let mut leader = self.node.watch_leader();
        if to != local {
            self.node.mailbox.consensus(Input::Transfer(to));
        }
        match tokio::time::timeout(self.node.request_timeout, leader.wait_for(|id| *id == to)).await {
            Ok(Ok(_)) => {
                let took = started.elapsed();
                info!(
                    "old-leader-member-id" = %from, "new-leader-member-id" = %hex_to, ?took,
                    "leadership transfer finished"
                );
                Ok(())
            }
            _ => Err(EtcdError::TimeoutLeaderTransfer),
        }
    }

    /// `--auto-promote-learners`: as the leader, promotes who has caught up.
    pub async fn promote_learners(&self) {
        let mut stopping = self.node.watch_stopping();
        loop {
            tokio::select! {
                _ = tokio::time::sleep(PROMOTE_INTERVAL) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            if self.node.status().leader != self.node.member_id {
                continue;
            }
            let membership = self.node.membership();
            // One that has not made itself known may never have run.
            for learner in membership.learners().filter(|m| m.is_started()) {
                let id = format!("{:x}", learner.id);
                match self.try_promote(learner.id).await {
                    Ok(_) => {
                        METRICS.learner_promoted();
                        info!("promoted-member-id" = %id, "promoted a learner that has caught up");
                    }
                    Err(error) => tracing::debug!("learner-id" = %id, %error, "the learner is not promoted yet"),
                }
            }
        }
    }

    fn may_remove(&self, id: u64) -> Result<(), EtcdError> {
        let membership = self.node.membership();
        if !self.strict || membership.member(id).is_some_and(|m| m.is_learner) {
            return Ok(());
        }
        let member = Member { id, ..Member::default() };
        if !membership.is_ready_to_remove_voter(id) {
            let why = "rejecting member remove request; not enough healthy members";
            return Err(self.refuse(why, &member, EtcdError::MemberNotEnoughStarted));
        }
        // One that is down is no part of the majority that is at work.
        if id != self.node.member_id && self.transport.active_since(id).is_none() {
            return Ok(());
        }
        let voters = membership.voters().count();
        if self.connected_voters() < 2 + voters.saturating_sub(1) / 2 {
            let why = "rejecting member remove request; local member has not been connected to all peers, \
                       reconfigure breaks active quorum";
            return Err(self.refuse(why, &member, EtcdError::Unhealthy));
        }
        Ok(())
    }

    /// How many voters this member has been connected to for a while, itself among them.
    fn connected_voters(&self) -> usize {
        let since = |id| self.transport.active_since(id).is_some_and(|since| since.elapsed() > HEALTH_INTERVAL);
        self.node.membership().voters().filter(|m| m.id == self.node.member_id || since(m.id)).count()
    }

    async fn change(&self, kind: ConfChangeType, id: u64, context: Option<ChangeContext>) -> Members {
        let change = ConfChange {
            id: None,
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: context.map(|context| context.to_json().into()),
        };
        let changed = self.node.propose_conf_change(change).await;
        if changed != Err(EtcdError::Timeout) {
            info!(
                "local-member-id" = %format_args!("{:x}", self.node.member_id),
                "raft-conf-change" = %kind.as_str_name(),
                "raft-conf-change-node-id" = %format_args!("{id:x}"),
                "applied a configuration change through raft"
            );
        }
        changed
    }

    fn refuse(&self, why: &'static str, member: &Member, error: EtcdError) -> EtcdError {
        warn!(
            "local-member-id" = %format_args!("{:x}", self.node.member_id),
            "requested-member-id" = %format_args!("{:x}", member.id),
            "requested-member-peer-urls" = ?member.peer_urls,
            error = %error,
            "{why}"
        );
        error
    }
}
