//! etcd's `.snap` files: at which entry raft's log was cut, and what the v2 store said of the members then.
//!
//! ```text
//! uint32 1 crc     CRC-32C of the data
//! bytes  2 data    a marshalled raftpb.Snapshot; its data is the v2 store as JSON
//! ```
//!
//! Up to 3.5 that store is where etcd itself reads the members from; from 3.6 on it is written for older releases. One
//! that a later release leaves empty has none.

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_proto::raftpb;
use prost::Message;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::etcd::Member;

/// Beyond it a file is not read; the v2 store of a cluster that does not use the v2 API takes a few KiB.
pub const MAX_BYTES: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("what it says of the members cannot be read: {0}")]
    Members(String),
}

/// What one says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftSnapshot {
    pub index: u64,
    pub term: u64,
    pub conf_state: raftpb::ConfState,
    pub v2: Option<V2Store>,
}

/// What of the v2 store matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V2Store {
    pub members: Vec<Member>,
    pub removed: Vec<u64>,
    pub cluster_version: Option<String>,
    /// Whether clients of the v2 API have keys in it, or its authentication has.
    pub has_keys: bool,
}

impl RaftSnapshot {
    pub fn read(file: &[u8]) -> Result<RaftSnapshot, Error> {
        let damaged = |what: String| Error::Damaged(what);
        let outer = Outer::decode(file).map_err(|e| damaged(e.to_string()))?;
        let data = outer.data.unwrap_or_default();
        if data.is_empty() || crc32c::crc32c(&data) != outer.crc {
            return Err(damaged("its check value is wrong".to_owned()));
        }
        let snapshot = raftpb::Snapshot::decode(data).map_err(|e| damaged(e.to_string()))?;
        let metadata = snapshot.metadata.unwrap_or_default();
        let v2 = match snapshot.data.unwrap_or_default() {
            data if data.is_empty() => None,
            data => Some(v2_store(&data).map_err(Error::Members)?),
        };
        let (index, term) = (metadata.index(), metadata.term());
        Ok(RaftSnapshot { index, term, conf_state: metadata.conf_state.unwrap_or_default(), v2 })
    }
}

#[derive(Clone, PartialEq, Message)]
struct Outer {
    #[prost(uint32, tag = "1")]
    crc: u32,
    #[prost(bytes = "bytes", optional, tag = "2")]
    data: Option<Bytes>,
}

#[derive(Deserialize)]
struct Store {
    #[serde(rename = "Root")]
    root: Node<Node<Node<Node<Node<IgnoredAny>>>>>,
}

/// A node whose children are `T`s: the depth that matters, and no more of it, is read.
#[derive(Deserialize)]
struct Node<T> {
    #[serde(rename = "Value", default)]
    value: Option<String>,
    #[serde(rename = "Children", default = "none")]
    children: Option<BTreeMap<String, T>>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T> Node<T> {
    fn child(&self, name: &str) -> Option<&T> {
        self.children.as_ref()?.get(name)
    }

    fn list(&self) -> impl Iterator<Item = (&String, &T)> {
        self.children.iter().flatten()
    }
}

fn v2_store(data: &[u8]) -> Result<V2Store, String> {
    let store: Store = serde_json::from_slice(data).map_err(|e| format!("the v2 store is no JSON: {e}"))?;
    // Beside the cluster's own namespace there are the clients' keys, and users and roles.
    let has_keys = store.root.list().any(|(name, node)| name != "0" && node.list().next().is_some());
    let mut found = V2Store { has_keys, ..V2Store::default() };
    let Some(cluster) = store.root.child("0") else { return Err("the v2 store has no cluster in it".to_owned()) };
    found.cluster_version = cluster.child("version").and_then(|node| node.value.clone());
    let id = |name: &str| u64::from_str_radix(name, 16).map_err(|_| format!("{name:?} is no member's id"));
    if let Some(removed) = cluster.child("removed_members") {
        for (name, _) in removed.list() {
            found.removed.push(id(name)?);
        }
    }
    if let Some(members) = cluster.child("members") {
        for (name, node) in members.list() {
            let id = id(name)?;
            let mut json = Map::new();
            json.insert("id".to_owned(), id.into());
            for part in ["raftAttributes", "attributes"] {
                let Some(text) = node.child(part).and_then(|node| node.value.as_deref()) else { continue };
                let part: Value = serde_json::from_str(text).map_err(|e| format!("member {name}: {e}"))?;
                let Value::Object(part) = part else { return Err(format!("member {name} is no object")) };
                json.extend(part);
            }
            let json = Bytes::from(Value::Object(json).to_string());
            found.members.push(Member { id, json });
        }
    }
    Ok(found)
}
