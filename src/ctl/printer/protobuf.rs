//! `--write-out=protobuf`: the answer's message as it was on the wire, without a line end. Of what etcdctl keeps in a
//! type of its own (leases), it has the header only, or nothing.

use lockstep_proto::etcdserverpb::{LeaseRevokeResponse, ResponseHeader, WatchResponse};
use prost::Message;

use crate::ctl::watch::Watched;
use crate::ctl::{Failure, code};

pub fn message(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

pub fn header(header: &Option<ResponseHeader>) -> Vec<u8> {
    header.unwrap_or_default().encode_to_vec()
}

pub fn watch(watched: &Watched) -> Vec<u8> {
    let response = WatchResponse {
        header: Some(watched.header),
        canceled: watched.canceled,
        compact_revision: watched.compact_revision,
        events: watched.events.clone(),
        ..Default::default()
    };
    response.encode_to_vec()
}

/// How Go shows the struct that it cannot encode.
pub fn refused_revoke(response: &LeaseRevokeResponse) -> Failure {
    let header = response.header.unwrap_or_default();
    let fields = [
        ("cluster_id", header.cluster_id),
        ("member_id", header.member_id),
        ("revision", header.revision as u64),
        ("raft_term", header.raft_term),
    ];
    let fields = fields.iter().filter(|(_, value)| *value != 0).map(|(name, value)| format!("{name}:{value} "));
    let shown: String = fields.collect();
    let text = format!("marshal unsupported for type clientv3.LeaseRevokeResponse ({{{shown} {{}} [] 0}})");
    Failure::new(code::BAD_FEATURE, text)
}
