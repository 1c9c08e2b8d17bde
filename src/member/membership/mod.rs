//! Who belongs to the cluster, as every member's store records it.
//!
//! Keys and JSON are etcd's: the bucket `members` maps a hex id to a member, `members_removed` remembers those that
//! left, and `cluster` holds the cluster version. Changes come only from applied entries.

pub mod ids;

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::{etcdserverpb as pb, raftpb};
use serde::{Deserialize, Serialize};

use crate::interop::etcd::CLUSTER_VERSION;
use crate::member::error::EtcdError;
use crate::mvcc::read::Error;
use crate::mvcc::{Bucket, Store};

/// One member, in etcd's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub client_urls: Vec<String>,
}

/// What a conf change carries, in etcd's JSON: a member, whether it is a learner to be promoted, and a field of our
/// own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeContext {
    #[serde(flatten)]
    pub member: Member,
    #[serde(rename = "isPromote", skip_serializing_if = "std::ops::Not::not")]
    pub is_promote: bool,
    /// The most learners there may be once this one is added. It travels with the change: members whose flags differ
    /// must not decide differently.
    #[serde(rename = "maxLearners", skip_serializing_if = "Option::is_none")]
    pub max_learners: Option<u64>,
}

/// What an etcd, which does not say, allows.
pub const DEFAULT_MAX_LEARNERS: u64 = 1;

impl ChangeContext {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers")
    }
}

impl Member {
    /// It has made its name known: it ran at least once.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers")
    }

    pub fn to_pb(&self) -> pb::Member {
        pb::Member {
            id: self.id,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.is_learner,
        }
    }
}

/// The cluster as of the applied index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    /// `None` until the leader has decided it.
    version: Option<String>,
}

impl Membership {
    /// Reads what the store holds.
    pub fn load(store: &Store) -> Result<Membership, Error> {
        let mut membership = Membership::default();
        for (key, value) in store.bucket_scan(Bucket::Members)? {
            let member: Member = serde_json::from_slice(&value)
                .map_err(|e| Error::Storage(format!("member {} is not JSON: {e}", String::from_utf8_lossy(&key))))?;
            membership.members.insert(member.id, member);
        }
        for (key, _) in store.bucket_scan(Bucket::MembersRemoved)? {
            let id = std::str::from_utf8(&key).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
            membership.removed.extend(id);
        }
        if let Some(version) = store.bucket_get(Bucket::Cluster, CLUSTER_VERSION.as_bytes())? {
            membership.version = Some(String::from_utf8_lossy(&version).into_owned());
        }
        Ok(membership)
    }

    /// Ascending by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What raft counts with.
    pub fn conf_state(&self) -> raftpb::ConfState {
        let ids = |learner| self.members.values().filter(move |m| m.is_learner == learner).map(|m| m.id).collect();
        raftpb::ConfState { voters: ids(false), learners: ids(true), ..Default::default() }
    }

    /// Whether as many voters as a majority needs have started, were this one to join them as another.
    /// The way out of a cluster of one whose only member has just started is always open.
    pub fn is_ready_to_add_voter(&self) -> bool {
        let (started, all) = self.count_voters(|_| true);
        (started, all) == (1, 1) || started > all.div_ceil(2)
    }

    /// The same without this member.
    pub fn is_ready_to_remove_voter(&self, id: u64) -> bool {
        let (started, all) = self.count_voters(|m| m.id != id);
        started > all / 2
    }

    /// The same with a learner more, which counts as started.
    pub fn is_ready_to_promote(&self) -> bool {
        let (started, all) = self.count_voters(|_| true);
        started + 1 > all.div_ceil(2)
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| !m.is_learner)
    }

    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| m.is_learner)
    }

    /// Those that left, ascending.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    fn count_voters(&self, counts: impl Fn(&Member) -> bool) -> (usize, usize) {
        let voters = || self.voters().filter(|m| counts(m));
        (voters().filter(|m| m.is_started()).count(), voters().count())
    }

    /// Applies a conf change entry; one that is refused changes nothing. The checks and their order are etcd's.
    pub fn apply_conf_change(&mut self, store: &mut Store, change: &raftpb::ConfChange) -> Result<(), EtcdError> {
        let done = self.change(store, change);
        sometimes!(done.is_err(), "change of the membership refused");
        done
    }

    fn change(&mut self, store: &mut Store, change: &raftpb::ConfChange) -> Result<(), EtcdError> {
        use raftpb::ConfChangeType as T;
        let id = change.node_id();
        if id == 0 || self.removed.contains(&id) {
            return Err(EtcdError::MemberNotFound);
        }
        match change.r#type() {
            kind @ (T::ConfChangeAddNode | T::ConfChangeAddLearnerNode) => {
                let ChangeContext { mut member, is_promote, max_learners } = context(change)?;
                if is_promote {
                    return self.promote(store, id);
                }
                if self.members.contains_key(&id) {
                    return Err(EtcdError::MemberExists);
                }
                self.check_urls(id, &member.peer_urls)?;
                member.is_learner = kind == T::ConfChangeAddLearnerNode;
                let most = max_learners.unwrap_or(DEFAULT_MAX_LEARNERS);
                if member.is_learner && self.learners().count() as u64 >= most {
                    return Err(EtcdError::TooManyLearners);
                }
                if !self.keeps_a_voter(change) {
                    return Err(EtcdError::MemberNotEnoughStarted);
                }
                sometimes!(!member.is_started(), "member added");
                self.save(store, member);
            }
            T::ConfChangeRemoveNode => {
                if !self.members.contains_key(&id) {
                    return Err(EtcdError::MemberNotFound);
                }
                if !self.keeps_a_voter(change) {
                    return Err(EtcdError::MemberNotEnoughStarted);
                }
                self.members.remove(&id);
                self.removed.insert(id);
                store.bucket_delete(Bucket::Members, hex(id).as_bytes());
                store.bucket_put(Bucket::MembersRemoved, hex(id).as_bytes(), b"removed");
                sometimes!("member removed");
            }
            T::ConfChangeUpdateNode => {
                let Some(member) = self.members.get(&id).cloned() else { return Err(EtcdError::MemberNotFound) };
                let update = context(change)?.member;
                self.check_urls(id, &update.peer_urls)?;
                // What an update says of being a learner counts for nothing: raft was not told.
                let is_learner = if mutation!(UpdateForgetsLearner) { update.is_learner } else { member.is_learner };
                sometimes!(member.is_learner, "learner got other URLs");
                self.save(store, Member { peer_urls: update.peer_urls, is_learner, ..member });
            }
        }
        Ok(())
    }

    fn promote(&mut self, store: &mut Store, id: u64) -> Result<(), EtcdError> {
        let member = self.members.get(&id).ok_or(EtcdError::MemberNotFound)?;
        if !member.is_learner {
            return Err(EtcdError::MemberNotLearner);
        }
        sometimes!("learner promoted");
        self.save(store, Member { is_learner: false, ..member.clone() });
        Ok(())
    }

    /// No two members share a URL.
    fn check_urls(&self, id: u64, urls: &[String]) -> Result<(), EtcdError> {
        let mut others = self.members.values().filter(|m| m.id != id).flat_map(|m| &m.peer_urls);
        if others.any(|url| urls.contains(url)) { Err(EtcdError::PeerUrlExists) } else { Ok(()) }
    }

    /// Raft cannot count without a voter: a change that leaves none would stop every member that applies it.
    fn keeps_a_voter(&self, change: &raftpb::ConfChange) -> bool {
        use raftpb::ConfChangeType as T;
        let is_removal = change.r#type() == T::ConfChangeRemoveNode;
        change.r#type() == T::ConfChangeAddNode
            || self.members.values().any(|m| !(m.is_learner || is_removal && m.id == change.node_id()))
    }

    /// A member made its name and client URLs known.
    pub fn set_attributes(&mut self, store: &mut Store, id: u64, attributes: &pb::Attributes) {
        if let Some(member) = self.members.get(&id) {
            let name = attributes.name.clone();
            self.save(store, Member { name, client_urls: attributes.client_urls.clone(), ..member.clone() });
        }
    }

    pub fn set_version(&mut self, store: &mut Store, version: &str) {
        store.bucket_put(Bucket::Cluster, CLUSTER_VERSION.as_bytes(), version.as_bytes());
        self.version = Some(version.to_owned());
    }

    fn save(&mut self, store: &mut Store, member: Member) {
        store.bucket_put(Bucket::Members, hex(member.id).as_bytes(), &member.to_json());
        self.members.insert(member.id, member);
    }
}

/// What the change says of its member. Etcd stops where this is not JSON; a log that a peer may write must not do that.
fn context(change: &raftpb::ConfChange) -> Result<ChangeContext, EtcdError> {
    let context: Option<ChangeContext> = serde_json::from_slice(change.context()).ok();
    context.filter(|context| context.member.id == change.node_id()).ok_or(EtcdError::MemberBadUrls)
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// Go writes a nil slice as `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}
