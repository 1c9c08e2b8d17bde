//! Whatever answers KV requests, behind one trait: a server process, or our own code on the reference model.

use lockstep::member::apply::kv::{self, KvError};
use lockstep::member::apply::{range, txn};
use lockstep::member::check;
use lockstep::member::error::EtcdError;
use lockstep::mvcc::read::{self, Read, Write};
use lockstep::proto::etcdserverpb::response_op::Response as OpResponse;
use lockstep::proto::etcdserverpb::*;

use super::client::Client;
use super::model::Model;
use super::oracle::Etcd;
use super::process::{Cluster, Kind};

/// etcd's default for `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;
/// Leases of the tests live longer than the tests.
pub const LEASE_TTL_S: i64 = 36_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    HashKv(HashKvRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases(LeaseLeasesRequest),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    HashKv(HashKvResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
}

/// A gRPC error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub message: String,
}

pub type Reply = Result<Response, Refusal>;

/// The releases whose answers may differ in listed ways. Our own code answers as the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    V34,
    V35,
    V37,
}

pub trait Target {
    fn name(&self) -> String;
    fn release(&self) -> Release;
    fn call(&mut self, request: &Request) -> Reply;
    /// Grants a lease that outlives the test; false when leases are not implemented.
    fn grant_lease(&mut self, id: i64) -> bool;
    fn member_count(&mut self) -> usize;
}

impl Response {
    /// The header, which every response has.
    pub fn header(&self) -> ResponseHeader {
        let header = match self {
            Response::Range(r) => r.header,
            Response::Put(r) => r.header,
            Response::DeleteRange(r) => r.header,
            Response::Txn(r) => r.header,
            Response::Compact(r) => r.header,
            Response::HashKv(r) => r.header,
            Response::Grant(r) => r.header,
            Response::Revoke(r) => r.header,
            Response::TimeToLive(r) => r.header,
            Response::Leases(r) => r.header,
        };
        header.expect("every response has a header")
    }

    /// Blanks what differs between two clusters that agree: ids and terms, in nested headers too; of a lease the time
    /// that passed since its grant, and an order that etcd takes from a hash map.
    fn masked(mut self) -> Response {
        match &mut self {
            Response::Range(r) => mask(&mut r.header),
            Response::Put(r) => mask(&mut r.header),
            Response::DeleteRange(r) => mask(&mut r.header),
            Response::Txn(r) => mask_txn(r),
            Response::Compact(r) => mask(&mut r.header),
            Response::HashKv(r) => mask(&mut r.header),
            Response::Grant(r) => mask(&mut r.header),
            Response::Revoke(r) => mask(&mut r.header),
            Response::TimeToLive(r) => {
                mask(&mut r.header);
                r.keys.sort();
                let passed = r.granted_ttl - r.ttl;
                if r.ttl > 0 && (0..LEASE_TTL_S / 2).contains(&passed) {
                    r.ttl = r.granted_ttl;
                }
            }
            Response::Leases(r) => {
                mask(&mut r.header);
                r.leases.sort_by_key(|lease| lease.id);
            }
        }
        self
    }
}

/// A header of the outermost level must have been filled in by a server; inside a txn only the revision is.
fn mask(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        *header = ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

fn mask_txn(r: &mut TxnResponse) {
    mask(&mut r.header);
    for op in &mut r.responses {
        match &mut op.response {
            Some(OpResponse::ResponseRange(r)) => assert_unfilled(&r.header),
            Some(OpResponse::ResponsePut(r)) => assert_unfilled(&r.header),
            Some(OpResponse::ResponseDeleteRange(r)) => assert_unfilled(&r.header),
            Some(OpResponse::ResponseTxn(r)) => {
                assert_unfilled(&r.header);
                mask_txn(r);
            }
            None => {}
        }
    }
}

fn assert_unfilled(header: &Option<ResponseHeader>) {
    let header = header.expect("nested responses have headers too");
    assert_eq!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0), "a nested header carries no ids");
}

/// A single-member cluster of server processes.
pub struct Process {
    pub cluster: Cluster,
    client: Client,
}

impl Process {
    /// `None` when it is an oracle that is missing.
    pub fn start(kind: Kind) -> Option<Process> {
        let cluster = Cluster::start(kind, 1)?;
        let client = cluster.client(0);
        Some(Process { cluster, client })
    }
}

impl Target for Process {
    fn name(&self) -> String {
        format!("{:?}", self.cluster.kind)
    }

    fn release(&self) -> Release {
        match self.cluster.kind {
            Kind::Etcd(Etcd::V34) => Release::V34,
            Kind::Etcd(Etcd::V35) => Release::V35,
            Kind::Lockstepd => Release::V37,
        }
    }

    fn call(&mut self, request: &Request) -> Reply {
        let reply = match request.clone() {
            Request::Range(r) => self.client.range(r).map(Response::Range),
            Request::Put(r) => self.client.put(r).map(Response::Put),
            Request::DeleteRange(r) => self.client.delete_range(r).map(Response::DeleteRange),
            Request::Txn(r) => self.client.txn(r).map(Response::Txn),
            Request::Compact(r) => self.client.compact(r).map(Response::Compact),
            Request::HashKv(r) => self.client.hash_kv(r).map(Response::HashKv),
            Request::Grant(r) => self.client.lease_grant(r).map(Response::Grant),
            Request::Revoke(r) => self.client.lease_revoke(r).map(Response::Revoke),
            Request::TimeToLive(r) => self.client.lease_time_to_live(r).map(Response::TimeToLive),
            Request::Leases(r) => self.client.lease_leases(r).map(Response::Leases),
        };
        match reply {
            Ok(response) => {
                let header = response.header();
                assert!(
                    header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0,
                    "{} left the header empty: {header:?}",
                    self.name()
                );
                Ok(response.masked())
            }
            Err(status) => Err(Refusal { code: status.code() as i32, message: status.message().to_owned() }),
        }
    }

    fn grant_lease(&mut self, id: i64) -> bool {
        match self.client.lease_grant(LeaseGrantRequest { id, ttl: LEASE_TTL_S }) {
            Ok(_) => true,
            Err(status) if status.code() == tonic::Code::Unimplemented => false,
            Err(status) => panic!("{} grants no lease: {status}", self.name()),
        }
    }

    fn member_count(&mut self) -> usize {
        self.client.member_list(MemberListRequest { linearizable: true }).expect("members are listed").members.len()
    }
}

/// The product's checks and KV semantics on the reference model, in this process.
#[derive(Default)]
pub struct InProcess {
    pub model: Model,
}

impl InProcess {
    /// What a member does with a request, without the log in between.
    pub fn answer(&mut self, request: &Request) -> Result<Response, KvError> {
        let leases = self.model.leases.clone();
        let lease_exists = |id| leases.contains_key(&id);
        match request {
            Request::Range(r) => {
                check::range(r)?;
                Ok(Response::Range(range::range(&self.model, r)?))
            }
            Request::Put(r) => {
                check::put(r)?;
                let mut w = self.model.begin();
                let response = kv::put(&mut w, r, &lease_exists)?;
                w.end();
                Ok(Response::Put(response))
            }
            Request::DeleteRange(r) => {
                check::delete_range(r)?;
                let mut w = self.model.begin();
                let response = kv::delete_range(&mut w, r)?;
                w.end();
                Ok(Response::DeleteRange(response))
            }
            Request::Txn(r) => {
                check::txn(r, MAX_TXN_OPS)?;
                if txn::is_readonly(r) {
                    return Ok(Response::Txn(txn::txn_readonly(&self.model, r)?));
                }
                let mut w = self.model.begin();
                let response = txn::txn(&mut w, r, &lease_exists)?;
                w.end();
                Ok(Response::Txn(response))
            }
            Request::Compact(r) => {
                self.model.compact(r.revision)?;
                Ok(Response::Compact(CompactionResponse { header: header(self.model.rev()) }))
            }
            Request::HashKv(r) => {
                let (hash, hash_revision) = self.model.hash_kv(r.revision)?;
                let compact_revision = self.model.compact_rev();
                let header = header(self.model.rev());
                Ok(Response::HashKv(HashKvResponse { header, hash, compact_revision, hash_revision }))
            }
            Request::Grant(r) => {
                let ttl = self.model.grant(r.id, r.ttl)?;
                let header = header(self.model.rev());
                Ok(Response::Grant(LeaseGrantResponse { header, id: r.id, ttl, error: String::new() }))
            }
            Request::Revoke(r) => {
                let keys = self.model.leased_keys(r.id).ok_or(EtcdError::LeaseNotFound)?;
                let mut w = self.model.begin();
                for key in keys {
                    w.delete_range(&key, b"");
                }
                w.end();
                self.model.leases.remove(&r.id);
                Ok(Response::Revoke(LeaseRevokeResponse { header: header(self.model.rev()) }))
            }
            Request::TimeToLive(r) => {
                let (id, header) = (r.id, header(self.model.rev()));
                let Some(ttl) = self.model.leases.get(&id).copied() else {
                    let ttl = -1;
                    return Ok(Response::TimeToLive(LeaseTimeToLiveResponse { header, id, ttl, ..Default::default() }));
                };
                let keys = self.model.leased_keys(id).filter(|_| r.keys).unwrap_or_default();
                let keys = keys.iter().map(|key| key.to_vec()).collect();
                Ok(Response::TimeToLive(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl: ttl, keys }))
            }
            Request::Leases(_) => {
                let leases = self.model.leases.keys().map(|id| LeaseStatus { id: *id }).collect();
                Ok(Response::Leases(LeaseLeasesResponse { header: header(self.model.rev()), leases }))
            }
        }
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

impl Target for InProcess {
    fn name(&self) -> String {
        "our code on the model".to_owned()
    }

    fn release(&self) -> Release {
        Release::V37
    }

    fn call(&mut self, request: &Request) -> Reply {
        match self.answer(request) {
            Ok(response) => Ok(response.masked()),
            Err(KvError::Refused(e)) => Err(Refusal { code: e.code().number(), message: e.message().to_owned() }),
            Err(KvError::Overtaken) => panic!("nothing compacts the model while it is read"),
            Err(KvError::Storage(why)) => panic!("the model has no disk that could fail: {why}"),
        }
    }

    fn grant_lease(&mut self, id: i64) -> bool {
        self.model.grant(id, LEASE_TTL_S).is_ok()
    }

    fn member_count(&mut self) -> usize {
        1
    }
}

/// The refusal as a reply.
pub fn refused(error: EtcdError) -> Reply {
    Err(Refusal { code: error.code().number(), message: error.message().to_owned() })
}

/// For tests that read the model through the seam.
pub fn everything(reader: &impl Read) -> read::RangeResult {
    reader.range(b"\0", b"\0", Default::default()).expect("the newest revision can be read")
}
