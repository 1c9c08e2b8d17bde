//! `etcdserverpb.Cluster`: who the members are.

use std::sync::Arc;

use lockstep_proto::etcdserverpb::{self as pb, cluster_server};
use tonic::{Request, Response, Status};

use super::{status, status_not_yet};
use crate::server::node::{Consistency, Node};

pub struct Cluster {
    pub node: Arc<Node>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        Err(status_not_yet("MemberAdd"))
    }

    async fn member_remove(&self, _: Request<pb::MemberRemoveRequest>) -> Answer<pb::MemberRemoveResponse> {
        Err(status_not_yet("MemberRemove"))
    }

    async fn member_update(&self, _: Request<pb::MemberUpdateRequest>) -> Answer<pb::MemberUpdateResponse> {
        Err(status_not_yet("MemberUpdate"))
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Answer<pb::MemberListResponse> {
        self.node.admit(&request)?;
        if request.into_inner().linearizable {
            self.node.view(Consistency::Linearizable).await.map_err(status)?;
        }
        let members = self.node.membership().members().map(|m| m.to_pb()).collect();
        Ok(Response::new(pb::MemberListResponse { header: self.node.header(0), members }))
    }

    async fn member_promote(&self, _: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        Err(status_not_yet("MemberPromote"))
    }
}
