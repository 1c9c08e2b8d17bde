//! What an entry of etcd's log means here. Up to 3.5, members publish their names and the cluster's version as requests
//! of the v2 API: those become what later releases write. What only the v2 API or authentication understands is told
//! apart, and nothing here decides what becomes of it.
//!
//! An entry is translated by itself, so every member that takes the same one over makes the same of it.

use lockstep_proto::etcdserverpb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, InternalRaftRequest,
};
use lockstep_proto::raftpb::{ConfChange, Entry, EntryType};
use prost::Message;
use serde::Deserialize;

/// What there is to an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// A new leader's first, or a request that changes nothing.
    Nothing,
    Request(Box<InternalRaftRequest>),
    /// Of users, roles, or whether they count.
    Auth,
    /// A write to a key of the v2 API.
    V2 {
        method: String,
        path: String,
    },
    ConfChange(ConfChange),
}

impl Meaning {
    /// `Err` says what is wrong with the entry.
    pub fn of(entry: &Entry) -> Result<Meaning, String> {
        let data = entry.data.as_deref().unwrap_or_default();
        match entry.r#type() {
            EntryType::EntryNormal if data.is_empty() => Ok(Meaning::Nothing),
            EntryType::EntryNormal => request(data),
            EntryType::EntryConfChange => {
                let change = ConfChange::decode(data).map_err(|e| format!("it is no change of the membership: {e}"))?;
                Ok(Meaning::ConfChange(change))
            }
            EntryType::EntryConfChangeV2 => Err("it is a joint change of the membership, which no etcd makes".into()),
        }
    }

    /// Whether it is about who belongs to the cluster, under which names, and of which version that is.
    pub fn is_of_the_membership(&self) -> bool {
        match self {
            Meaning::ConfChange(_) => true,
            Meaning::Request(r) => r.cluster_version_set.is_some() || r.cluster_member_attr_set.is_some(),
            _ => false,
        }
    }

    /// The entry's data in this program's log.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Meaning::Request(request) => request.encode_to_vec(),
            Meaning::ConfChange(change) => change.encode_to_vec(),
            Meaning::Nothing | Meaning::Auth | Meaning::V2 { .. } => Vec::new(),
        }
    }
}

/// A request of the v2 API, as far as anybody asks.
#[derive(Clone, PartialEq, Message)]
struct V2Request {
    #[prost(uint64, optional, tag = "1")]
    id: Option<u64>,
    #[prost(string, optional, tag = "2")]
    method: Option<String>,
    #[prost(string, optional, tag = "3")]
    path: Option<String>,
    #[prost(string, optional, tag = "4")]
    val: Option<String>,
    /// Not for its value: what is no such request has something else under its number.
    #[prost(bool, optional, tag = "10")]
    wait: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    prev_exist: Option<bool>,
}

/// The field that later releases have reserved.
#[derive(Clone, PartialEq, Message)]
struct MayHoldV2 {
    #[prost(message, optional, tag = "2")]
    v2: Option<V2Request>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct AttributesJson {
    name: String,
    #[serde(rename = "clientURLs")]
    client_urls: Option<Vec<String>>,
}

fn request(data: &[u8]) -> Result<Meaning, String> {
    // In etcd's order: what cannot be read as a request of this API is one of the former.
    if let (Ok(outer), Ok(request)) = (MayHoldV2::decode(data), InternalRaftRequest::decode(data)) {
        return match outer.v2 {
            Some(v2) => meaning_of_v2(v2),
            None if changes_auth(&request) => Ok(Meaning::Auth),
            None => Ok(Meaning::Request(Box::new(request))),
        };
    }
    match V2Request::decode(data) {
        Ok(v2) => meaning_of_v2(v2),
        Err(error) => Err(format!("it is no request: {error}")),
    }
}

fn meaning_of_v2(v2: V2Request) -> Result<Meaning, String> {
    let (method, path, val) = (v2.method.unwrap_or_default(), v2.path.unwrap_or_default(), v2.val.unwrap_or_default());
    match method.as_str() {
        "SYNC" | "QGET" => return Ok(Meaning::Nothing),
        "PUT" if path == "/0/version" => {
            let cluster_version_set = Some(ClusterVersionSetRequest { ver: val });
            return Ok(Meaning::Request(Box::new(InternalRaftRequest { cluster_version_set, ..Default::default() })));
        }
        "PUT" => {
            let member = path.strip_prefix("/0/members/").and_then(|rest| rest.strip_suffix("/attributes"));
            if let Some(id) = member.and_then(|id| u64::from_str_radix(id, 16).ok()) {
                let json: AttributesJson =
                    serde_json::from_str(&val).map_err(|e| format!("a member's attributes are no JSON: {e}"))?;
                let member_attributes =
                    Some(Attributes { name: json.name, client_urls: json.client_urls.unwrap_or_default() });
                let set = ClusterMemberAttrSetRequest { member_id: id, member_attributes };
                let cluster_member_attr_set = Some(set);
                let request = InternalRaftRequest { cluster_member_attr_set, ..Default::default() };
                return Ok(Meaning::Request(Box::new(request)));
            }
        }
        _ => {}
    }
    Ok(Meaning::V2 { method, path })
}

/// Logging in, and reading, change nothing where authentication is off.
fn changes_auth(r: &InternalRaftRequest) -> bool {
    r.auth_enable.is_some()
        || r.auth_disable.is_some()
        || r.auth_user_add.is_some()
        || r.auth_user_delete.is_some()
        || r.auth_user_change_password.is_some()
        || r.auth_user_grant_role.is_some()
        || r.auth_user_revoke_role.is_some()
        || r.auth_role_add.is_some()
        || r.auth_role_delete.is_some()
        || r.auth_role_grant_permission.is_some()
        || r.auth_role_revoke_permission.is_some()
}
