//! etcd's gRPC services, one file each. A service checks a request, asks the [`Node`], and fills the header; it decides
//! nothing else.

mod budget;
mod cluster;
mod counted;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod long;
mod maintenance;
mod queue;
mod range_stream;
mod snapshot;
pub mod watch;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use lockstep_proto::etcdserverpb::{
    self as pb, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer,
};
use lockstep_proto::health::health_server::HealthServer;
use lockstep_proto::v3electionpb::election_server::ElectionServer;
use lockstep_proto::v3lockpb::lock_server::LockServer;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

pub use self::budget::Unfinished;
use super::node::Node;
use super::peer::LeaseClient;
use super::reconfigure::Reconfigure;
use crate::member::error::EtcdError;
use crate::mvcc::read::Error as StoreError;

/// What gRPC adds to a request of the permitted size.
pub(super) const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

/// The largest message that the services take.
pub fn max_message_bytes(node: &Node) -> usize {
    node.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES)
}

/// The refusal of whoever asks for more than there is room for.
pub fn too_many_requests() -> Status {
    status(EtcdError::TooManyRequests)
}

/// All services, for the client listeners.
pub fn router(node: Arc<Node>, reconfigure: Arc<Reconfigure>, max_txn_ops: usize) -> Router {
    let max_request = max_message_bytes(&node);
    macro_rules! serve {
        ($server:ident, $service:expr) => {
            $server::from_arc($service)
                .max_decoding_message_size(max_request)
                .max_encoding_message_size(i32::MAX as usize)
        };
    }
    let budget = budget::Budget::new(node.request_timeout);
    let kv = Arc::new(kv::Kv { node: node.clone(), max_txn_ops, budget });
    let lease = Arc::new(lease::Lease { node: node.clone(), leader: LeaseClient::default() });
    let queues = queue::Queues { node: node.clone(), kv: kv.clone(), lease: lease.clone() };
    tonic::service::Routes::new(serve!(KvServer, kv))
        .add_service(serve!(LeaseServer, lease))
        .add_service(serve!(LockServer, Arc::new(lock::Lock { queues: queues.clone() })))
        .add_service(serve!(ElectionServer, Arc::new(election::Election { queues })))
        .add_service(serve!(
            ClusterServer,
            Arc::new(cluster::Cluster { node: node.clone(), reconfigure: reconfigure.clone() })
        ))
        .add_service(serve!(MaintenanceServer, Arc::new(maintenance::Maintenance::new(node.clone(), reconfigure))))
        .add_service(serve!(HealthServer, Arc::new(health::Health { node: node.clone() })))
        .add_service(watch::WatchServer { node, max_request })
        .prepare()
        .into_axum_router()
        .layer(axum::middleware::map_response(finish))
        .layer(axum::middleware::from_fn(counted::count))
}

/// What tonic cannot do by itself.
async fn finish(response: Response) -> Response {
    size_refusals_as_grpc_go(long::in_its_place(response))
}

fn size_refusals_as_grpc_go(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if headers.get("grpc-status").is_some_and(|code| code == "11")
        && let Some(status) = Status::from_header_map(headers)
    {
        // It cannot fail on what came out of headers.
        let _ = as_grpc_go(status).add_header(headers);
    }
    response
}

/// tonic refuses a message that is too large as `OutOfRange`, in words of its own; clients of etcd know Go's. Streams
/// pass what they end with through this.
fn as_grpc_go(status: Status) -> Status {
    let refused = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")
        .and_then(|rest| rest.split_once(" bytes, the limit is: "));
    let Some((found, limit)) = refused.filter(|_| status.code() == Code::OutOfRange) else { return status };
    let limit = limit.trim_end_matches(" bytes");
    Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|v| v == "true")
}

fn status_not_yet(what: &str) -> Status {
    Status::unimplemented(format!("lockstep: {what} is not supported yet"))
}

pub(super) fn status(error: EtcdError) -> Status {
    Status::new(Code::from_i32(error.code().number()), error.message())
}

fn store_status(error: StoreError) -> Status {
    match error {
        StoreError::Compacted => status(EtcdError::Compacted),
        StoreError::FutureRev => status(EtcdError::FutureRev),
        // The read must be made again, and a client that retries does just that.
        StoreError::Overtaken => status(EtcdError::TimeoutWaitAppliedIndex),
        StoreError::Storage(_) => Status::data_loss(error.to_string()),
    }
}

impl Node {
    fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.status().term,
        })
    }

    fn fill(&self, header: &mut Option<pb::ResponseHeader>) {
        let mut revision = header.as_ref().map_or(0, |h| h.revision);
        if revision == 0 {
            revision = crate::mvcc::read::Read::rev(&*self.local_view());
        }
        *header = self.header(revision);
    }

    /// A learner serves little, and a client may ask to be refused at once where there is no leader.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.is_learner() {
            return Err(status(EtcdError::NotSupportedForLearner));
        }
        self.admit_at_learner(request)
    }

    /// The same of what a learner serves, too.
    fn admit_at_learner<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if wants_leader(request.metadata()) && self.status().leader == 0 {
            return Err(status(EtcdError::NoLeader));
        }
        Ok(())
    }
}
