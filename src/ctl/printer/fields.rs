//! `--write-out=fields`: a line for each field, `"Name" : value`.

use std::fmt::Write;

use lockstep_proto::etcdserverpb::response_op::Response;
use lockstep_proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse, PutResponse, RangeResponse,
    ResponseHeader, StatusResponse, TxnResponse,
};
use lockstep_proto::mvccpb::KeyValue;

use super::Health;
use super::simple::alarm_name;
use crate::ctl::golang::quote;
use crate::ctl::watch::Watched;
use crate::interop::status::Status;
use crate::mvcc::HashKv;

/// Lines that are being written.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "\"{name}\" : {value}").expect("a string takes everything");
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.line(name, quote(value));
    }

    fn header(&mut self, header: &Option<ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.line("ClusterID", header.cluster_id);
        self.line("MemberID", header.member_id);
        self.line("Revision", header.revision);
        self.line("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, kv: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.line(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.line(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.line(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.line(&format!("{prefix}Lease"), kv.lease);
    }
}

pub fn range(response: &RangeResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    response.kvs.iter().for_each(|kv| out.pair("", kv));
    out.line("More", response.more);
    out.line("Count", response.count);
    out.0
}

pub fn put(response: &PutResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    response.prev_kv.iter().for_each(|kv| out.pair("Prev", kv));
    out.0
}

pub fn delete_range(response: &DeleteRangeResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    out.line("Deleted", response.deleted);
    response.prev_kvs.iter().for_each(|kv| out.pair("Prev", kv));
    out.0
}

pub fn txn(response: &TxnResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    out.line("Succeeded", response.succeeded);
    for answer in &response.responses {
        out.0.push_str(&match &answer.response {
            Some(Response::ResponseRange(response)) => range(response),
            Some(Response::ResponsePut(response)) => put(response),
            Some(Response::ResponseDeleteRange(response)) => delete_range(response),
            Some(Response::ResponseTxn(response)) => txn(response),
            None => "\"Unknown\" : \"\"\n".to_string(),
        });
    }
    out.0
}

pub fn watch(watched: &Watched) -> String {
    let mut out = Fields::default();
    out.header(&Some(watched.header));
    for event in &watched.events {
        out.line("Type", event.r#type().as_str_name());
        event.prev_kv.iter().for_each(|kv| out.pair("Prev", kv));
        event.kv.iter().for_each(|kv| out.pair("", kv));
    }
    out.0
}

pub fn lease_grant(response: &LeaseGrantResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    out.line("ID", response.id);
    out.line("TTL", response.ttl);
    out.0
}

pub fn lease_revoke(response: &LeaseRevokeResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    out.0
}

pub fn lease_keep_alive(response: &LeaseKeepAliveResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    out.line("ID", response.id);
    out.line("TTL", response.ttl);
    out.0
}

pub fn lease_time_to_live(response: &LeaseTimeToLiveResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    out.line("ID", response.id);
    out.line("TTL", response.ttl);
    out.line("GrantedTTL", response.granted_ttl);
    response.keys.iter().for_each(|key| out.quoted("Key", key));
    out.0
}

pub fn leases(response: &LeaseLeasesResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    response.leases.iter().for_each(|lease| out.line("ID", lease.id));
    out.0
}

pub fn member_list(response: &MemberListResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    for member in &response.members {
        out.line("ID", member.id);
        out.quoted("Name", member.name.as_bytes());
        member.peer_ur_ls.iter().for_each(|url| out.quoted("PeerURL", url.as_bytes()));
        member.client_ur_ls.iter().for_each(|url| out.quoted("ClientURL", url.as_bytes()));
        out.line("IsLearner", member.is_learner);
        out.0.push('\n');
    }
    out.0
}

pub fn alarm(response: &AlarmResponse) -> String {
    let mut out = Fields::default();
    out.header(&response.header);
    for alarm in &response.alarms {
        out.line("MemberID", alarm.member_id);
        out.line("AlarmType", alarm_name(alarm.alarm));
        out.0.push('\n');
    }
    out.0
}

pub fn health(list: &[Health]) -> String {
    let mut out = Fields::default();
    for health in list {
        out.quoted("Endpoint", health.endpoint.as_bytes());
        out.line("Health", health.healthy);
        out.line("Took", &health.took);
        out.line("Error", &health.error);
        out.0.push('\n');
    }
    out.0
}

pub fn status(list: &[(String, StatusResponse)]) -> String {
    let mut out = Fields::default();
    for (endpoint, status) in list {
        out.header(&status.header);
        out.quoted("Version", status.version.as_bytes());
        out.line("DBSize", status.db_size);
        out.line("Leader", status.leader);
        out.line("IsLearner", status.is_learner);
        out.line("RaftIndex", status.raft_index);
        out.line("RaftTerm", status.raft_term);
        out.line("RaftAppliedIndex", status.raft_applied_index);
        out.line("Errors", format!("[{}]", status.errors.join(" ")));
        out.quoted("Endpoint", endpoint.as_bytes());
        out.0.push('\n');
    }
    out.0
}

pub fn hashkv(list: &[(String, HashKvResponse)]) -> String {
    let mut out = Fields::default();
    for (endpoint, answer) in list {
        out.header(&answer.header);
        out.quoted("Endpoint", endpoint.as_bytes());
        out.line("Hash", answer.hash);
        out.0.push('\n');
    }
    out.0
}

pub fn snapshot_status(status: &Status) -> String {
    let mut out = Fields::default();
    out.line("Hash", status.hash);
    out.line("Revision", status.revision);
    out.line("Keys", status.total_keys);
    out.line("Size", status.total_bytes);
    out.0
}

pub fn hash_kv_of_file(hash: &HashKv) -> String {
    let mut out = Fields::default();
    out.line("Hash", hash.hash);
    out.line("Hash revision", hash.hash_revision);
    out.line("Compact revision", hash.compact_revision);
    out.0
}
