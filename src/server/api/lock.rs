//! `v3lockpb.Lock`: a lock by name, held by the oldest key below it. A lock that was asked for with no lease gets one
//! of 60 s, which nobody keeps alive.

use bytes::Bytes;
use lockstep_proto::etcdserverpb::{RangeRequest, ResponseHeader};
use lockstep_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server};
use tonic::{Request, Response, Status};

use super::queue::{Place, Queues, first_created, first_pair, prefix_of, without_code};

pub struct Lock {
    pub queues: Queues,
}

#[tonic::async_trait]
impl lock_server::Lock for Lock {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.queues.node.admit(&request)?;
        self.acquire(request.into_inner()).await.map(Response::new).map_err(without_code)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.queues.node.admit(&request)?;
        let deleted = self.queues.delete(request.into_inner().key.into()).await.map_err(without_code)?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}

impl Lock {
    async fn acquire(&self, request: LockRequest) -> Result<LockResponse, Status> {
        let lease = self.queues.lease(request.lease).await?;
        let owner = first_created(&prefix_of(&request.name));
        let (mut place, response) = self.queues.enter(&request.name, lease, Bytes::new(), Some(owner)).await?;
        let oldest = first_pair(response.responses.get(1));
        if oldest.is_none_or(|kv| kv.create_revision == place.revision) {
            return Ok(LockResponse { header: place.header, key: place.key.to_vec() });
        }
        match self.turn(&mut place).await {
            Ok(header) => {
                place.keep();
                Ok(LockResponse { header, key: place.key.to_vec() })
            }
            Err(why) => {
                place.leave().await;
                Err(why)
            }
        }
    }

    /// Waits for the place's turn; returns the header that says that it still is one.
    async fn turn(&self, place: &mut Place) -> Result<Option<ResponseHeader>, Status> {
        place.wait().await?;
        // The lease may have gone in the meantime, and the key with it.
        let own = self.queues.get(RangeRequest { key: place.key.clone(), ..Default::default() }).await?;
        if own.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        Ok(own.header)
    }
}
