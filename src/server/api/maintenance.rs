//! `etcdserverpb.Maintenance`: a member's own state, and hashes to compare members by.

use std::sync::Arc;

use lockstep_proto::etcdserverpb::{self as pb, maintenance_server};
use tonic::{Request, Response, Status};

use super::{status_not_yet, store_status};
use crate::member::error::EtcdError;
use crate::mvcc::read::Read;
use crate::server::node::Node;
use crate::{CLUSTER_VERSION, ETCD_VERSION};

pub struct Maintenance {
    pub node: Arc<Node>,
}

/// What `--quota-backend-bytes=0` means.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        Err(status_not_yet("Alarm"))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let view = self.node.local_view();
        let status = self.node.status();
        let is_learner = self.node.membership().member(self.node.member_id).is_some_and(|m| m.is_learner);
        let errors = if status.leader == 0 { vec![EtcdError::NoLeader.message().to_owned()] } else { Vec::new() };
        Ok(Response::new(pb::StatusResponse {
            header: self.node.header(view.rev()),
            version: ETCD_VERSION.to_owned(),
            db_size: view.size_bytes() as i64,
            db_size_in_use: view.size_in_use_bytes() as i64,
            leader: status.leader,
            raft_index: status.commit,
            raft_term: status.term,
            raft_applied_index: view.applied_index(),
            errors,
            is_learner,
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: DEFAULT_QUOTA_BYTES,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        Err(status_not_yet("Defragment"))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        let view = self.node.local_view();
        let hashed = view.clone();
        let hash = apart(move || hashed.hash()).await?.map_err(store_status)?;
        Ok(Response::new(pb::HashResponse { header: self.node.header(view.rev()), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        let view = self.node.local_view();
        let revision = request.into_inner().revision;
        let hashed = view.clone();
        let hash = apart(move || hashed.hash_kv(revision)).await?.map_err(store_status)?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.node.header(view.rev()),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = tokio_stream::Empty<Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        Err(status_not_yet("Snapshot"))
    }

    async fn move_leader(&self, _: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        Err(status_not_yet("MoveLeader"))
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        Err(status_not_yet("Downgrade"))
    }
}

/// Runs what takes its time off the thread that serves the connection.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(format!("the work was lost: {e}")))
}
