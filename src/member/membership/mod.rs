//! Who belongs to the cluster, as every member's store records it.
//!
//! Keys and JSON are etcd's: the bucket `members` maps a hex id to a member, `members_removed` remembers those that
//! left, and `cluster` holds the cluster version. Changes come only from applied entries.

pub mod ids;

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::{etcdserverpb as pb, raftpb};
use serde::{Deserialize, Serialize};

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

impl Member {
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
        if let Some(version) = store.bucket_get(Bucket::Cluster, CLUSTER_VERSION_KEY)? {
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

    /// Applies a conf change entry; `false` when it is refused, which changes nothing.
    pub fn apply_conf_change(&mut self, store: &mut Store, change: &raftpb::ConfChange) -> bool {
        use raftpb::ConfChangeType as T;
        let id = change.node_id();
        if id == 0 || self.removed.contains(&id) || !self.keeps_a_voter(change) {
            sometimes!("change of the membership refused");
            return false;
        }
        match change.r#type() {
            T::ConfChangeAddNode | T::ConfChangeAddLearnerNode => {
                let Ok(mut member) = serde_json::from_slice::<Member>(change.context()) else { return false };
                if member.id != id || self.members.contains_key(&id) {
                    return false;
                }
                member.is_learner = change.r#type() == T::ConfChangeAddLearnerNode;
                self.save(store, member);
            }
            T::ConfChangeRemoveNode => {
                if self.members.remove(&id).is_none() {
                    return false;
                }
                self.removed.insert(id);
                store.bucket_delete(Bucket::Members, hex(id).as_bytes());
                store.bucket_put(Bucket::MembersRemoved, hex(id).as_bytes(), b"removed");
            }
            T::ConfChangeUpdateNode => {
                let Ok(update) = serde_json::from_slice::<Member>(change.context()) else { return false };
                let Some(member) = self.members.get(&id) else { return false };
                self.save(store, Member { peer_urls: update.peer_urls, ..member.clone() });
            }
        }
        true
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
        store.bucket_put(Bucket::Cluster, CLUSTER_VERSION_KEY, version.as_bytes());
        self.version = Some(version.to_owned());
    }

    fn save(&mut self, store: &mut Store, member: Member) {
        store.bucket_put(Bucket::Members, hex(member.id).as_bytes(), &member.to_json());
        self.members.insert(member.id, member);
    }
}

const CLUSTER_VERSION_KEY: &[u8] = b"clusterVersion";

fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// Go writes a nil slice as `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}
