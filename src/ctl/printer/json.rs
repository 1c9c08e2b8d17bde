//! `--write-out=json`: one line, as Go encodes etcd's structs: the field order of the struct, nothing that is zero,
//! bytes in base64. Fields that are newer than 3.5.1 are left out.

use lockstep_proto::etcdserverpb::response_op::Response;
use lockstep_proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, Member, MemberListResponse, PutResponse,
    RangeResponse, ResponseHeader, ResponseOp, StatusResponse, TxnResponse,
};
use lockstep_proto::mvccpb::{Event, KeyValue};

use super::Health;
use crate::ctl::golang::{base64, json_string};
use crate::ctl::watch::Watched;
use crate::interop::status::Status;
use crate::mvcc::HashKv;

/// A document as the line that is printed.
pub fn line(document: String) -> Vec<u8> {
    (document + "\n").into_bytes()
}

/// An object that is being written; what is zero or empty is left out.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object("{".to_string())
    }

    /// A field that is there whatever its value.
    fn field(mut self, name: &str, value: String) -> Object {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{value}"));
        self
    }

    fn number<N: Default + PartialEq + std::fmt::Display>(self, name: &str, value: N) -> Object {
        if value == N::default() { self } else { self.field(name, value.to_string()) }
    }

    fn truth(self, name: &str, value: bool) -> Object {
        if value { self.field(name, "true".into()) } else { self }
    }

    fn text(self, name: &str, value: &str) -> Object {
        if value.is_empty() { self } else { self.field(name, json_string(value.as_bytes())) }
    }

    fn bytes(self, name: &str, value: &[u8]) -> Object {
        if value.is_empty() { self } else { self.field(name, format!("\"{}\"", base64(value))) }
    }

    fn list(self, name: &str, items: Vec<String>) -> Object {
        if items.is_empty() { self } else { self.field(name, array(items)) }
    }

    fn header(self, header: &Option<ResponseHeader>) -> Object {
        let Some(header) = header else { return self };
        self.field("header", Object::new().header_fields(&Some(*header)).end())
    }

    /// The header's fields among this object's own: an embedded struct.
    fn header_fields(self, header: &Option<ResponseHeader>) -> Object {
        let header = header.unwrap_or_default();
        self.number("cluster_id", header.cluster_id)
            .number("member_id", header.member_id)
            .number("revision", header.revision)
            .number("raft_term", header.raft_term)
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

pub fn range(response: &RangeResponse) -> String {
    let object = Object::new().header(&response.header).list("kvs", pairs(&response.kvs));
    object.truth("more", response.more).number("count", response.count).end()
}

pub fn put(response: &PutResponse) -> String {
    let object = Object::new().header(&response.header);
    match &response.prev_kv {
        Some(kv) => object.field("prev_kv", pair(kv)).end(),
        None => object.end(),
    }
}

pub fn delete_range(response: &DeleteRangeResponse) -> String {
    let object = Object::new().header(&response.header).number("deleted", response.deleted);
    object.list("prev_kvs", pairs(&response.prev_kvs)).end()
}

pub fn txn(response: &TxnResponse) -> String {
    let answer = |answer: &ResponseOp| {
        let response = match &answer.response {
            Some(Response::ResponseRange(response)) => Object::new().field("response_range", range(response)).end(),
            Some(Response::ResponsePut(response)) => Object::new().field("response_put", put(response)).end(),
            Some(Response::ResponseDeleteRange(response)) => {
                Object::new().field("response_delete_range", delete_range(response)).end()
            }
            Some(Response::ResponseTxn(response)) => Object::new().field("response_txn", txn(response)).end(),
            None => "null".to_string(),
        };
        Object::new().field("Response", response).end()
    };
    let object = Object::new().header(&response.header).truth("succeeded", response.succeeded);
    object.list("responses", response.responses.iter().map(answer).collect()).end()
}

/// A refusal that never was an answer has `null` events.
pub fn watch(watched: &Watched) -> String {
    let event = |event: &Event| {
        let object = Object::new().number("type", event.r#type);
        let object = event.kv.iter().fold(object, |object, kv| object.field("kv", pair(kv)));
        event.prev_kv.iter().fold(object, |object, kv| object.field("prev_kv", pair(kv))).end()
    };
    let is_answer = watched.header != ResponseHeader::default();
    let events = if is_answer { array(watched.events.iter().map(event).collect()) } else { "null".to_string() };
    Object::new()
        .field("Header", Object::new().header_fields(&Some(watched.header)).end())
        .field("Events", events)
        .field("CompactRevision", watched.compact_revision.to_string())
        .field("Canceled", watched.canceled.to_string())
        .field("Created", "false".to_string())
        .end()
}

pub fn lease_grant(response: &LeaseGrantResponse) -> String {
    let object = Object::new().header_fields(&response.header).field("ID", response.id.to_string());
    object.field("TTL", response.ttl.to_string()).field("Error", json_string(response.error.as_bytes())).end()
}

pub fn lease_revoke(response: &LeaseRevokeResponse) -> String {
    header(&response.header)
}

pub fn lease_keep_alive(response: &LeaseKeepAliveResponse) -> String {
    let object = Object::new().header_fields(&response.header).field("ID", response.id.to_string());
    object.field("TTL", response.ttl.to_string()).end()
}

pub fn lease_time_to_live(response: &LeaseTimeToLiveResponse) -> String {
    let keys = response.keys.iter().map(|key| format!("\"{}\"", base64(key))).collect();
    let keys = if response.keys.is_empty() { "null".to_string() } else { array(keys) };
    Object::new()
        .header_fields(&response.header)
        .field("id", response.id.to_string())
        .field("ttl", response.ttl.to_string())
        .field("granted-ttl", response.granted_ttl.to_string())
        .field("keys", keys)
        .end()
}

pub fn leases(response: &LeaseLeasesResponse) -> String {
    let ids = response.leases.iter().map(|lease| Object::new().field("id", lease.id.to_string()).end());
    Object::new().header_fields(&response.header).field("leases", array(ids.collect())).end()
}

pub fn member_list(response: &MemberListResponse) -> String {
    membership(&response.header, &None, &response.members)
}

/// The members, after the one that is new.
pub fn membership(header: &Option<ResponseHeader>, added: &Option<Member>, members: &[Member]) -> String {
    let object = Object::new().header(header);
    let object = added.iter().fold(object, |object, added| object.field("member", member(added)));
    object.list("members", members.iter().map(member).collect()).end()
}

fn member(member: &Member) -> String {
    Object::new()
        .number("ID", member.id)
        .text("name", &member.name)
        .list("peerURLs", strings(&member.peer_ur_ls))
        .list("clientURLs", strings(&member.client_ur_ls))
        .truth("isLearner", member.is_learner)
        .end()
}

/// An answer that is nothing but its header.
pub fn header(header: &Option<ResponseHeader>) -> String {
    Object::new().header(header).end()
}

pub fn alarm(response: &AlarmResponse) -> String {
    let alarms = response.alarms.iter();
    let alarms =
        alarms.map(|alarm| Object::new().number("memberID", alarm.member_id).number("alarm", alarm.alarm).end());
    Object::new().header(&response.header).list("alarms", alarms.collect()).end()
}

/// With `--hex`: ids in hexadecimal, and the odd `clientURLS`, `null` for no URL, and a name that nothing escapes.
pub fn member_list_hex(response: &MemberListResponse) -> String {
    let header = response.header.unwrap_or_default();
    let header = Object::new()
        .field("cluster_id", format!("\"{:x}\"", header.cluster_id))
        .field("member_id", format!("\"{:x}\"", header.member_id))
        .field("raft_term", format!("{:x}", header.raft_term));
    let urls = |urls: &[String]| if urls.is_empty() { "null".to_string() } else { array(strings(urls)) };
    let members = response.members.iter().map(|member| {
        Object::new()
            .field("ID", format!("\"{:x}\"", member.id))
            .field("name", format!("\"{}\"", member.name))
            .field("peerURLs", urls(&member.peer_ur_ls))
            .field("clientURLS", urls(&member.client_ur_ls))
            .end()
    });
    Object::new().field("header", header.end()).list("members", members.collect()).end()
}

pub fn health(list: &[Health]) -> String {
    let item = |health: &Health| {
        Object::new()
            .field("endpoint", json_string(health.endpoint.as_bytes()))
            .field("health", health.healthy.to_string())
            .field("took", json_string(health.took.as_bytes()))
            .text("error", &health.error)
            .end()
    };
    array(list.iter().map(item).collect())
}

pub fn status(list: &[(String, StatusResponse)]) -> String {
    let item = |(endpoint, status): &(String, StatusResponse)| {
        let object = Object::new()
            .header(&status.header)
            .text("version", &status.version)
            .number("dbSize", status.db_size)
            .number("leader", status.leader)
            .number("raftIndex", status.raft_index)
            .number("raftTerm", status.raft_term)
            .number("raftAppliedIndex", status.raft_applied_index)
            .list("errors", strings(&status.errors))
            .number("dbSizeInUse", status.db_size_in_use)
            .truth("isLearner", status.is_learner);
        Object::new().field("Endpoint", json_string(endpoint.as_bytes())).field("Status", object.end()).end()
    };
    array(list.iter().map(item).collect())
}

pub fn hashkv(list: &[(String, HashKvResponse)]) -> String {
    let item = |(endpoint, answer): &(String, HashKvResponse)| {
        let object = Object::new()
            .header(&answer.header)
            .number("hash", answer.hash)
            .number("compact_revision", answer.compact_revision);
        Object::new().field("Endpoint", json_string(endpoint.as_bytes())).field("HashKV", object.end()).end()
    };
    array(list.iter().map(item).collect())
}

/// Zeros are there, too.
pub fn snapshot_status(status: &Status) -> String {
    Object::new()
        .field("hash", status.hash.to_string())
        .field("revision", status.revision.to_string())
        .field("totalKey", status.total_keys.to_string())
        .field("totalSize", status.total_bytes.to_string())
        .end()
}

pub fn hash_kv_of_file(hash: &HashKv) -> String {
    Object::new()
        .field("hash", hash.hash.to_string())
        .field("hashRevision", hash.hash_revision.to_string())
        .field("compactRevision", hash.compact_revision.to_string())
        .end()
}

fn pairs(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(pair).collect()
}

fn pair(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

fn strings(items: &[String]) -> Vec<String> {
    items.iter().map(|item| json_string(item.as_bytes())).collect()
}

fn array(items: Vec<String>) -> String {
    format!("[{}]", items.join(","))
}
