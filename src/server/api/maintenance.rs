//! `etcdserverpb.Maintenance`: a member's own state, and hashes to compare members by.

use std::sync::Arc;
use std::time::Instant;

use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{self as pb, InternalRaftRequest, maintenance_server};
use tonic::{Request, Response, Status};

use super::kv::unexpected;
use super::snapshot::{SnapshotStream, Snapshots};
use super::{status, status_not_yet, store_status};
use crate::member::apply::Response as Applied;
use crate::member::error::EtcdError;
use crate::mvcc::read::{Error as StoreError, Read};
use crate::mvcc::{View, read_newest};
use crate::server::apart::apart;
use crate::server::metrics::METRICS;
use crate::server::node::{Consistency, Node};
use crate::server::reconfigure::Reconfigure;
use crate::server::space::quota_as_told;
use crate::{CLUSTER_VERSION, ETCD_VERSION};

pub struct Maintenance {
    node: Arc<Node>,
    reconfigure: Arc<Reconfigure>,
    snapshots: Snapshots,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    /// A list waits for a quorum, as etcd's way through the log does: `endpoint health` asks for one.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        self.node.admit(&request)?;
        let request = request.into_inner();
        if request.action != AlarmAction::Get as i32 {
            let request = InternalRaftRequest { alarm: Some(request), ..Default::default() };
            return match self.node.propose(request).await.map_err(status)? {
                Applied::Alarm(mut response) => {
                    self.node.fill(&mut response.header);
                    Ok(Response::new(response))
                }
                other => Err(unexpected(other)),
            };
        }
        let view = self.node.view(Consistency::Linearizable).await.map_err(status)?;
        let raised = self.node.raised_alarms();
        let wanted = |kind| request.alarm == pb::AlarmType::None as i32 || request.alarm == kind;
        let alarms = raised.iter().filter(|a| wanted(a.alarm)).cloned().collect();
        Ok(Response::new(pb::AlarmResponse { header: self.node.header(view.rev()), alarms }))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        self.node.admit_at_learner(&request)?;
        let view = self.node.local_view();
        let status = self.node.status();
        let is_learner = self.node.is_learner();
        let mut errors = if status.leader == 0 { vec![EtcdError::NoLeader.message().to_owned()] } else { Vec::new() };
        let raised = self.node.raised_alarms();
        // Go's text of the message, its last blank included.
        errors.extend(raised.iter().map(|a| format!("memberID:{} alarm:{} ", a.member_id, a.alarm().as_str_name())));
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
            db_size_quota: quota_as_told(self.node.quota),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        self.node.defragment().await.map_err(Status::unknown)?;
        Ok(Response::new(pb::DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        self.node.admit(&request)?;
        let started = Instant::now();
        let (revision, hash) = self.read_apart(|view| Ok((view.rev(), view.hash()?))).await?;
        METRICS.hash_seconds.observe(started.elapsed().as_secs_f64());
        Ok(Response::new(pb::HashResponse { header: self.node.header(revision), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        self.node.admit(&request)?;
        let at = request.into_inner().revision;
        let started = Instant::now();
        let (revision, hash) = self.read_apart(move |view| Ok((view.rev(), view.hash_kv(at)?))).await?;
        METRICS.hash_kv_seconds.observe(started.elapsed().as_secs_f64());
        Ok(Response::new(pb::HashKvResponse {
            header: self.node.header(revision),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = SnapshotStream;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        self.node.admit(&request)?;
        Ok(Response::new(self.snapshots.send(&self.node)?))
    }

    async fn move_leader(&self, request: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        self.node.admit(&request)?;
        self.reconfigure.move_leader(request.into_inner().target_id).await.map_err(status)?;
        // Without a header, as in etcd.
        Ok(Response::new(pb::MoveLeaderResponse::default()))
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        Err(status_not_yet("Downgrade"))
    }
}

impl Maintenance {
    pub fn new(node: Arc<Node>, reconfigure: Arc<Reconfigure>) -> Maintenance {
        Maintenance { node, reconfigure, snapshots: Snapshots::default() }
    }

    /// Reads the newest view off the thread that serves the connection: a hash takes its time.
    async fn read_apart<T: Send + 'static>(
        &self,
        read: impl Fn(&View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let node = self.node.clone();
        let reading = apart(move || read_newest(|| node.local_view(), |view| read(view)));
        reading.await.map_err(|e| Status::internal(format!("the read was lost: {e}")))?.map_err(store_status)
    }
}
