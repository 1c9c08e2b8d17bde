//! What the answers look like: five formats, one file each, the same byte for byte as etcdctl 3.5.1's.
//!
//! A printer turns an answer into text and refuses a format that the command does not have; it asks nobody anything.

mod fields;
mod json;
mod protobuf;
mod simple;
mod table;

use lockstep_proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberAddResponse, MemberListResponse,
    MemberPromoteResponse, MemberRemoveResponse, MemberUpdateResponse, MoveLeaderResponse, PutResponse, RangeResponse,
    StatusResponse, TxnResponse,
};

use super::golang::human_bytes;
use super::watch::Watched;
use super::{Failure, code, emit, emit_live, say_error_bytes};
use crate::interop::status::Status;
use crate::mvcc::HashKv;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

/// How one endpoint does.
#[derive(Debug)]
pub struct Health {
    pub endpoint: String,
    pub healthy: bool,
    /// A duration as Go prints it; empty when the endpoint was not asked.
    pub took: String,
    /// Empty when healthy.
    pub error: String,
}

/// The output format of a command line.
#[derive(Clone, Debug, Default)]
pub struct Printer {
    pub format: Format,
    /// Keys and values (simple) or member ids (json) in hexadecimal.
    pub hex: bool,
    /// Simple format: leave out the keys.
    pub value_only: bool,
    /// The command goes on printing for as long as somebody reads.
    pub live: bool,
}

impl Printer {
    pub fn choose(&mut self, name: &str, hex: bool) -> Result<(), Failure> {
        self.hex = hex;
        self.format = match name {
            "simple" => Format::Simple,
            "fields" => Format::Fields,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "table" => Format::Table,
            _ => return Err(Failure::new(code::BAD_FEATURE, "unsupported output format")),
        };
        Ok(())
    }

    pub fn range(&self, response: &RangeResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::range(self, response),
            Format::Fields => fields::range(response).into(),
            Format::Json => json::line(json::range(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn put(&self, response: &PutResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::put(self, response),
            Format::Fields => fields::put(response).into(),
            Format::Json => json::line(json::put(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn delete_range(&self, response: &DeleteRangeResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::delete_range(self, response),
            Format::Fields => fields::delete_range(response).into(),
            Format::Json => json::line(json::delete_range(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn txn(&self, response: &TxnResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::txn(self, response),
            Format::Fields => fields::txn(response).into(),
            Format::Json => json::line(json::txn(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn watch(&self, watched: &Watched) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::watch(self, watched),
            Format::Fields => fields::watch(watched).into(),
            Format::Json => json::line(json::watch(watched)),
            Format::Protobuf => protobuf::watch(watched),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn lease_grant(&self, response: &LeaseGrantResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::lease_grant(response),
            Format::Fields => fields::lease_grant(response).into(),
            Format::Json => json::line(json::lease_grant(response)),
            Format::Protobuf => protobuf::header(&response.header),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn lease_revoke(&self, id: i64, response: &LeaseRevokeResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::lease_revoke(id),
            Format::Fields => fields::lease_revoke(response).into(),
            Format::Json => json::line(json::lease_revoke(response)),
            Format::Protobuf => return Err(protobuf::refused_revoke(response)),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn lease_keep_alive(&self, response: &LeaseKeepAliveResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::lease_keep_alive(response),
            Format::Fields => fields::lease_keep_alive(response).into(),
            Format::Json => json::line(json::lease_keep_alive(response)),
            Format::Protobuf => protobuf::header(&response.header),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn lease_time_to_live(&self, response: &LeaseTimeToLiveResponse, keys: bool) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::lease_time_to_live(response, keys),
            Format::Fields => fields::lease_time_to_live(response).into(),
            Format::Json => json::line(json::lease_time_to_live(response)),
            Format::Protobuf => protobuf::header(&response.header),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn leases(&self, response: &LeaseLeasesResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::leases(response),
            Format::Fields => fields::leases(response).into(),
            Format::Json => json::line(json::leases(response)),
            Format::Protobuf => protobuf::header(&response.header),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn member_list(&self, response: &MemberListResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::rows(&member_rows(response)),
            Format::Fields => fields::member_list(response).into(),
            Format::Json if self.hex => json::line(json::member_list_hex(response)),
            Format::Json => json::line(json::member_list(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => table::draw(&MEMBER_HEAD, &member_rows(response)).into(),
        })
    }

    pub fn member_add(&self, response: &MemberAddResponse) -> Result<(), Failure> {
        let id = response.member.as_ref().map(|member| member.id).unwrap_or_default();
        let json =
            |response: &MemberAddResponse| json::membership(&response.header, &response.member, &response.members);
        self.change(response, || simple::member(id, "added to", &response.header), json)
    }

    pub fn member_remove(&self, id: u64, response: &MemberRemoveResponse) -> Result<(), Failure> {
        let json = |response: &MemberRemoveResponse| json::membership(&response.header, &None, &response.members);
        self.change(response, || simple::member(id, "removed from", &response.header), json)
    }

    pub fn member_update(&self, id: u64, response: &MemberUpdateResponse) -> Result<(), Failure> {
        let json = |response: &MemberUpdateResponse| json::membership(&response.header, &None, &response.members);
        self.change(response, || simple::member(id, "updated in", &response.header), json)
    }

    pub fn member_promote(&self, id: u64, response: &MemberPromoteResponse) -> Result<(), Failure> {
        let json = |response: &MemberPromoteResponse| json::membership(&response.header, &None, &response.members);
        self.change(response, || simple::member(id, "promoted in", &response.header), json)
    }

    pub fn move_leader(&self, leader: u64, target: u64, response: &MoveLeaderResponse) -> Result<(), Failure> {
        let moved = || format!("Leadership transferred from {leader:x} to {target:x}\n");
        self.change(response, moved, |response| json::header(&response.header))
    }

    pub fn alarm(&self, response: &AlarmResponse) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::alarms(response),
            Format::Fields => fields::alarm(response).into(),
            Format::Json => json::line(json::alarm(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => return unsupported("table"),
        })
    }

    pub fn endpoint_health(&self, list: &[Health]) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => {
                let (well, ill) = simple::health(list);
                say_error_bytes(&ill);
                well
            }
            Format::Fields => fields::health(list).into(),
            Format::Json => json::line(json::health(list)),
            Format::Protobuf => return unsupported("protobuf"),
            Format::Table => table::draw(&["endpoint", "health", "took", "error"], &health_rows(list)).into(),
        })
    }

    pub fn endpoint_status(&self, list: &[(String, StatusResponse)]) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::rows(&status_rows(list)),
            Format::Fields => fields::status(list).into(),
            Format::Json => json::line(json::status(list)),
            Format::Protobuf => return unsupported("protobuf"),
            Format::Table => table::draw(&STATUS_HEAD, &status_rows(list)).into(),
        })
    }

    pub fn endpoint_hashkv(&self, list: &[(String, HashKvResponse)]) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::rows(&hashkv_rows(list)),
            Format::Fields => fields::hashkv(list).into(),
            Format::Json => json::line(json::hashkv(list)),
            Format::Protobuf => return unsupported("protobuf"),
            Format::Table => table::draw(&["endpoint", "hash"], &hashkv_rows(list)).into(),
        })
    }

    pub fn snapshot_status(&self, status: &Status) -> Result<(), Failure> {
        let row = vec![
            format!("{:x}", status.hash),
            status.revision.to_string(),
            status.total_keys.to_string(),
            human_bytes(status.total_bytes),
        ];
        self.show(match self.format {
            Format::Simple => simple::rows(&vec![row]),
            Format::Fields => fields::snapshot_status(status).into(),
            Format::Json => json::line(json::snapshot_status(status)),
            Format::Protobuf => return unsupported("protobuf"),
            Format::Table => table::draw(&["hash", "revision", "total keys", "total size"], &[row]).into(),
        })
    }

    /// `hashkv` of a file.
    pub fn hash_kv_of_file(&self, hash: &HashKv) -> Result<(), Failure> {
        let row = [hash.hash.to_string(), hash.hash_revision.to_string(), hash.compact_revision.to_string()];
        self.show(match self.format {
            Format::Simple => simple::rows(&vec![row.to_vec()]),
            Format::Fields => fields::hash_kv_of_file(hash).into(),
            Format::Json => json::line(json::hash_kv_of_file(hash)),
            Format::Protobuf => return unsupported("protobuf"),
            Format::Table => table::draw(&["hash", "hash revision", "compact revision"], &[row.to_vec()]).into(),
        })
    }

    /// Rows that are not of etcd's; `json` is what they say.
    pub fn backups(&self, head: &[&str], rows: Rows, json: &serde_json::Value) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => simple::rows(&rows),
            Format::Fields => return unsupported("fields"),
            Format::Json => json::line(json.to_string()),
            Format::Protobuf => return unsupported("protobuf"),
            Format::Table => table::draw(head, &rows).into(),
        })
    }

    /// What has changed the cluster: a sentence, or the message.
    fn change<M: prost::Message>(
        &self,
        response: &M,
        sentence: impl Fn() -> String,
        json: impl Fn(&M) -> String,
    ) -> Result<(), Failure> {
        self.show(match self.format {
            Format::Simple => sentence().into(),
            Format::Fields => return unsupported("fields"),
            Format::Json => json::line(json(response)),
            Format::Protobuf => protobuf::message(response),
            Format::Table => return unsupported("table"),
        })
    }

    fn show(&self, text: Vec<u8>) -> Result<(), Failure> {
        if self.live {
            emit_live(&text)
        } else {
            emit(&text)
        }
        Ok(())
    }
}

fn unsupported(format: &str) -> Result<(), Failure> {
    Err(Failure::new(code::BAD_FEATURE, format!("{format} not supported as output format")))
}

const MEMBER_HEAD: [&str; 6] = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
const STATUS_HEAD: [&str; 10] = [
    "endpoint",
    "ID",
    "version",
    "db size",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
];

type Rows = Vec<Vec<String>>;

fn member_rows(response: &MemberListResponse) -> Rows {
    let row = |member: &lockstep_proto::etcdserverpb::Member| {
        vec![
            format!("{:x}", member.id),
            if member.name.is_empty() { "unstarted" } else { "started" }.to_string(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    response.members.iter().map(row).collect()
}

fn health_rows(list: &[Health]) -> Rows {
    let row = |health: &Health| {
        vec![health.endpoint.clone(), health.healthy.to_string(), health.took.clone(), health.error.clone()]
    };
    list.iter().map(row).collect()
}

fn status_rows(list: &[(String, StatusResponse)]) -> Rows {
    let row = |(endpoint, status): &(String, StatusResponse)| {
        let member_id = status.header.unwrap_or_default().member_id;
        vec![
            endpoint.clone(),
            format!("{member_id:x}"),
            status.version.clone(),
            human_bytes(status.db_size as u64),
            (status.leader == member_id).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
        ]
    };
    list.iter().map(row).collect()
}

fn hashkv_rows(list: &[(String, HashKvResponse)]) -> Rows {
    list.iter().map(|(endpoint, answer)| vec![endpoint.clone(), answer.hash.to_string()]).collect()
}
