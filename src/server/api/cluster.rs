//! `etcdserverpb.Cluster`: who the members are, and how that changes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_proto::etcdserverpb::{self as pb, cluster_server};
use tonic::{Request, Response, Status};

use super::status;
use crate::member::error::EtcdError;
use crate::member::membership::{Member, ids};
use crate::server::config::Url;
use crate::server::node::{Consistency, Node};
use crate::server::reconfigure::Reconfigure;

pub struct Cluster {
    pub node: Arc<Node>,
    pub reconfigure: Arc<Reconfigure>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        self.node.admit(&request)?;
        let request = request.into_inner();
        let peer_urls = urls(&request.peer_ur_ls)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Who is removed and added again within a second is another member all the same.
        let known = self.node.membership();
        let mut ids = (now.as_secs()..).map(|seconds| ids::added_member_id(&peer_urls, seconds));
        let id = ids.find(|id| !known.is_removed(*id)).unwrap_or_default();
        let member = Member { id, peer_urls, is_learner: request.is_learner, ..Member::default() };
        let added = member.to_pb();
        let members = self.reconfigure.add(member).await.map_err(status)?;
        Ok(Response::new(pb::MemberAddResponse {
            header: self.node.header(0),
            member: Some(added),
            members: to_pb(&members),
        }))
    }

    async fn member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Answer<pb::MemberRemoveResponse> {
        self.node.admit(&request)?;
        let members = self.reconfigure.remove(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.node.header(0), members: to_pb(&members) }))
    }

    async fn member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Answer<pb::MemberUpdateResponse> {
        self.node.admit(&request)?;
        let request = request.into_inner();
        // Etcd takes any text here, and every member then stops of one that is no URL.
        let peer_urls = urls(&request.peer_ur_ls)?;
        let members = self.reconfigure.update(request.id, peer_urls).await.map_err(status)?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.node.header(0), members: to_pb(&members) }))
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Answer<pb::MemberListResponse> {
        self.node.admit(&request)?;
        if request.into_inner().linearizable {
            self.node.view(Consistency::Linearizable).await.map_err(status)?;
        }
        let members = self.node.membership().members().map(|m| m.to_pb()).collect();
        Ok(Response::new(pb::MemberListResponse { header: self.node.header(0), members }))
    }

    async fn member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        self.node.admit(&request)?;
        let members = self.reconfigure.promote(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.node.header(0), members: to_pb(&members) }))
    }
}

/// As etcd takes them: at least one, in order.
fn urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let parsed: Result<Vec<Url>, String> = texts.iter().map(|text| Url::parse(text)).collect();
    let mut urls = parsed.map_err(|_| status(EtcdError::MemberBadUrls))?;
    if urls.is_empty() {
        return Err(status(EtcdError::MemberBadUrls));
    }
    urls.sort();
    Ok(urls.iter().map(Url::to_string).collect())
}

fn to_pb(members: &[Member]) -> Vec<pb::Member> {
    members.iter().map(Member::to_pb).collect()
}
