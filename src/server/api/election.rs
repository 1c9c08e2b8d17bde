//! `v3electionpb.Election`: an office by name, held by the oldest key below it, whose value is what its holder says.

use bytes::Bytes;
use futures_util::StreamExt;
use lockstep_proto::etcdserverpb::request_op::Request as Op;
use lockstep_proto::etcdserverpb::{PutRequest, ResponseHeader, TxnRequest};
use lockstep_proto::mvccpb::event::EventType;
use lockstep_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse, election_server,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::queue::{
    Answers, Queues, created_at, first_created, first_pair, leave, op, prefix_end, prefix_of, revision_of, without_code,
};
use super::status;
use crate::member::error::EtcdError;

/// Answers that an observer may be behind before the watch waits for it.
const OBSERVER_ANSWERS: usize = 16;

pub struct Election {
    pub queues: Queues,
}

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.queues.node.admit(&request)?;
        self.stand(request.into_inner()).await.map(Response::new).map_err(without_code)
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        self.queues.node.admit(&request)?;
        let request = request.into_inner();
        let leader = request.leader.ok_or_else(missing_leader)?;
        let said = self.say(leader.key.into(), leader.rev, leader.lease, request.value.into()).await;
        Ok(Response::new(ProclaimResponse { header: said.map_err(without_code)? }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.queues.node.admit(&request)?;
        let prefix = prefix_of(&request.into_inner().name);
        let response = self.queues.get(first_created(&prefix)).await.map_err(without_code)?;
        match response.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(LeaderResponse { header: response.header, kv: Some(kv) })),
            None => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = Answers<LeaderResponse>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.queues.node.admit(&request)?;
        let prefix = prefix_of(&request.into_inner().name);
        let (answers, receiver) = mpsc::channel(OBSERVER_ANSWERS);
        let queues = self.queues.clone();
        tokio::spawn(async move {
            tokio::select! {
                Err(why) = observe(&queues, prefix, &answers) => drop(answers.send(Err(without_code(why))).await),
                () = answers.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        self.queues.node.admit(&request)?;
        let leader = request.into_inner().leader.ok_or_else(missing_leader)?;
        let left = leave(&self.queues, leader.key.into(), leader.rev).await.map_err(without_code)?;
        Ok(Response::new(ResignResponse { header: left.header }))
    }
}

impl Election {
    async fn stand(&self, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let lease = self.queues.lease(request.lease).await?;
        let value = Bytes::from(request.value);
        let (mut place, response) = self.queues.enter(&request.name, lease, value.clone(), None).await?;
        let own = first_pair(response.responses.first()).filter(|_| !response.succeeded);
        if own.is_some_and(|kv| kv.value != value)
            && let Err(why) = self.say(place.key.clone(), place.revision, lease, value).await
        {
            place.leave().await;
            return Err(why);
        }
        place.wait().await?;
        place.keep();
        let leader = LeaderKey { name: request.name, key: place.key.to_vec(), rev: place.revision, lease };
        Ok(CampaignResponse { header: place.header, leader: Some(leader) })
    }

    /// Lets the leader say something else.
    async fn say(&self, key: Bytes, rev: i64, lease: i64, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let compare = vec![created_at(&key, rev)];
        let success = vec![op(Op::RequestPut(PutRequest { key, value, lease, ..Default::default() }))];
        let response = self.queues.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
        if response.succeeded { Ok(response.header) } else { Err(Status::unknown("election: not leader")) }
    }
}

/// Sends every leader and all that each of them says.
async fn observe(
    queues: &Queues,
    prefix: Bytes,
    answers: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<(), Status> {
    let stopped = || status(EtcdError::Stopped);
    loop {
        let response = queues.get(first_created(&prefix)).await?;
        let (header, leader) = match response.kvs.into_iter().next() {
            Some(kv) => (response.header, kv),
            None => {
                let from = revision_of(&response.header);
                let watched = queues.watch(prefix.clone(), prefix_end(&prefix), from)?;
                let mut watched = std::pin::pin!(watched);
                loop {
                    let response = watched.next().await.transpose()?.ok_or_else(stopped)?;
                    if response.canceled {
                        return Err(status(EtcdError::Compacted));
                    }
                    let put = response.events.into_iter().find(|event| event.r#type() == EventType::Put);
                    if let Some(kv) = put.and_then(|event| event.kv) {
                        let header =
                            response.header.map(|header| ResponseHeader { revision: kv.mod_revision, ..header });
                        break (header, kv);
                    }
                }
            }
        };
        let watched = queues.watch(leader.key.clone(), Bytes::new(), revision_of(&header) + 1)?;
        let mut watched = std::pin::pin!(watched);
        if answers.send(Ok(LeaderResponse { header, kv: Some(leader) })).await.is_err() {
            return Ok(());
        }
        'leading: loop {
            let response = watched.next().await.transpose()?.ok_or_else(stopped)?;
            if response.canceled {
                return Err(status(EtcdError::Compacted));
            }
            for event in response.events {
                if event.r#type() == EventType::Delete {
                    break 'leading;
                }
                let answer = LeaderResponse { header: response.header, kv: event.kv };
                if answers.send(Ok(answer)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn missing_leader() -> Status {
    Status::unknown("\"leader\" field must be provided")
}
