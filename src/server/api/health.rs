//! `grpc.health.v1.Health`, as etcd registers it: the server as a whole (`""`) serves, and no other service is known.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use lockstep_proto::health::health_check_response::ServingStatus;
use lockstep_proto::health::{HealthCheckRequest, HealthCheckResponse, health_server};
use tonic::{Request, Response, Status};

use crate::server::node::Node;

pub struct Health {
    pub node: Arc<Node>,
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.node.admit(&request)?;
        if !request.into_inner().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The state now; it stays so until the connection goes.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.node.admit(&request)?;
        let is_known = request.into_inner().service.is_empty();
        let status = if is_known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let now = stream::iter([Ok(HealthCheckResponse { status: status as i32 })]);
        Ok(Response::new(Box::pin(now.chain(stream::pending()))))
    }
}
