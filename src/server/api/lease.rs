//! `etcdserverpb.Lease`: grants and revocations through the log, the rest at whoever leads.
//!
//! A member that does not lead asks the leader over the peer port, as etcd's do, and asks again until the request's
//! time is over: leaders change. A keep-alive's header is made before the lease is renewed, so that no client sees a
//! renewal at a revision at which the lease was gone.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use lockstep_proto::etcdserverpb::{self as pb, InternalRaftRequest, lease_server};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::kv::unexpected;
use super::status;
use crate::member::apply::Response as Applied;
use crate::member::error::EtcdError;
use crate::server::apart::apart;
use crate::server::leases::Unable;
use crate::server::node::Node;
use crate::server::peer::{LeaseClient, LeaseError};

pub struct Lease {
    pub node: Arc<Node>,
    pub leader: LeaseClient,
}

/// Keep-alives of one stream that are renewed together, if so many have come.
const BATCH: usize = 256;
/// Of those, questions to the leader at a time.
const FORWARDED: usize = 16;
/// Between two attempts to find who leads.
const PAUSE: Duration = Duration::from_millis(50);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl lease_server::Lease for Lease {
    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Answer<pb::LeaseGrantResponse> {
        self.node.admit(&request)?;
        let mut grant = request.into_inner();
        while grant.id == 0 {
            grant.id = (self.node.next_id() & i64::MAX as u64) as i64;
        }
        // Here, where one member decides for all, and not where the entry is applied.
        grant.ttl = grant.ttl.max(self.node.leases.min_ttl_s);
        let request = InternalRaftRequest { lease_grant: Some(grant), ..Default::default() };
        self.node.check_room(&request).await.map_err(status)?;
        match self.node.propose(request).await.map_err(status)? {
            Applied::LeaseGrant(mut response) => {
                self.node.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(other)),
        }
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Answer<pb::LeaseRevokeResponse> {
        self.node.admit(&request)?;
        let lease_revoke = Some(request.into_inner());
        let request = InternalRaftRequest { lease_revoke, ..Default::default() };
        match self.node.propose(request).await.map_err(status)? {
            Applied::LeaseRevoke(mut response) => {
                self.node.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(other)),
        }
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        self.node.admit(&request)?;
        let node = self.node.clone();
        let leaderless: Option<Leaderless> =
            super::wants_leader(request.metadata()).then(|| Box::pin(async move { node.leaderless().await }) as _);
        let renewer = Renewer {
            leaderless,
            at: Finder { node: self.node.clone(), leader: self.leader.clone() },
            requests: request.into_inner(),
            answers: VecDeque::new(),
            end: None,
        };
        Ok(Response::new(Box::pin(stream::unfold(renewer, Renewer::next))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        self.node.admit(&request)?;
        let request = request.into_inner();
        let finder = Finder { node: self.node.clone(), leader: self.leader.clone() };
        let found = finder.time_to_live(request).await.map_err(status)?;
        let mut response =
            found.unwrap_or(pb::LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() });
        // The leader's is about the leader.
        response.header = None;
        self.node.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Answer<pb::LeaseLeasesResponse> {
        self.node.admit(&request)?;
        let node = self.node.clone();
        // A million of them take their time.
        let ids = apart(move || node.leases.list()).await;
        let ids = ids.map_err(|e| Status::internal(format!("the list was lost: {e}")))?;
        let mut response = pb::LeaseLeasesResponse::default();
        self.node.fill(&mut response.header);
        response.leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(response))
    }
}

/// Ends when there is no leader for too long.
type Leaderless = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One stream of keep-alives.
struct Renewer {
    /// For a client that wants a leader.
    leaderless: Option<Leaderless>,
    at: Finder,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    answers: VecDeque<pb::LeaseKeepAliveResponse>,
    /// How the stream ends, once the answers are taken.
    end: Option<Result<(), Status>>,
}

impl Renewer {
    /// The next answer; called only when the client has taken the last one.
    async fn next(mut self) -> Option<(Result<pb::LeaseKeepAliveResponse, Status>, Renewer)> {
        let Some(mut leaderless) = self.leaderless.take() else {
            return self.answer().await.map(|answer| (answer, self));
        };
        let answer = tokio::select! {
            biased;
            answer = self.answer() => Some(answer),
            () = &mut leaderless => None,
        };
        match answer {
            Some(answer) => {
                self.leaderless = Some(leaderless);
                answer.map(|answer| (answer, self))
            }
            None => {
                self.answers.clear();
                self.end = Some(Ok(()));
                Some((Err(status(EtcdError::NoLeader)), self))
            }
        }
    }

    async fn answer(&mut self) -> Option<Result<pb::LeaseKeepAliveResponse, Status>> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(Ok(answer));
            }
            if let Some(end) = self.end.take() {
                self.end = Some(Ok(()));
                return end.err().map(Err);
            }
            let ids = self.requested().await;
            if let Err(refusal) = self.renew(ids).await {
                self.end = Some(Err(status(refusal)));
            }
        }
    }

    /// What the client has asked for so far, once there is anything.
    async fn requested(&mut self) -> Vec<i64> {
        let mut ids = Vec::new();
        let mut next = self.requests.next().await;
        loop {
            match next {
                Some(Ok(request)) => ids.push(request.id),
                other => {
                    self.end = Some(other.map_or(Ok(()), |refusal| refusal.map(drop).map_err(super::as_grpc_go)));
                    return ids;
                }
            }
            if ids.len() == BATCH {
                return ids;
            }
            let Some(more) = self.requests.next().now_or_never() else { return ids };
            next = more;
        }
    }

    async fn renew(&mut self, ids: Vec<i64>) -> Result<(), EtcdError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut header = None;
        self.at.node.fill(&mut header);
        let ttls = self.at.renew(ids.clone()).await?;
        let answers = ids.iter().zip(ttls).map(|(&id, ttl)| pb::LeaseKeepAliveResponse { header, id, ttl });
        self.answers.extend(answers);
        Ok(())
    }
}

/// Finds who can say something about a lease: this member, if it leads, or the leader.
struct Finder {
    node: Arc<Node>,
    leader: LeaseClient,
}

/// What is asked of whoever leads.
enum Question {
    Renew(Vec<i64>),
    TimeToLive(pb::LeaseTimeToLiveRequest),
}

enum Told {
    /// The TTL of each; 0 for those that are not there.
    Renewed(Vec<i64>),
    TimeToLive(Option<pb::LeaseTimeToLiveResponse>),
}

impl Finder {
    async fn renew(&self, ids: Vec<i64>) -> Result<Vec<i64>, EtcdError> {
        match self.ask(Question::Renew(ids)).await? {
            Told::Renewed(ttls) => Ok(ttls),
            Told::TimeToLive(_) => unreachable!("a renewal was asked for"),
        }
    }

    async fn time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<Option<pb::LeaseTimeToLiveResponse>, EtcdError> {
        match self.ask(Question::TimeToLive(request)).await? {
            Told::TimeToLive(found) => Ok(found),
            Told::Renewed(_) => unreachable!("a time to live was asked for"),
        }
    }

    /// Asks whoever leads until there is an answer, or no time left.
    async fn ask(&self, question: Question) -> Result<Told, EtcdError> {
        let deadline = Instant::now() + self.node.request_timeout;
        match tokio::time::timeout_at(deadline, self.ask_until(deadline, &question)).await {
            Ok(told) => told,
            Err(_) if self.node.status().leader == 0 => Err(EtcdError::NoLeader),
            Err(_) => Err(EtcdError::Timeout),
        }
    }

    async fn ask_until(&self, deadline: Instant, question: &Question) -> Result<Told, EtcdError> {
        let mut leaders = self.node.watch_leader();
        loop {
            if self.node.is_stopping() {
                return Err(EtcdError::Stopped);
            }
            let leader = *leaders.borrow_and_update();
            if leader == self.node.member_id {
                match self.ask_here(question).await {
                    Ok(told) => return Ok(told),
                    Err(Unable::Failed(error)) => return Err(error),
                    Err(Unable::NotPrimary) => {}
                }
            } else if let Some(member) = self.node.membership().member(leader) {
                let limit = deadline.saturating_duration_since(Instant::now());
                let told = tokio::select! {
                    told = self.ask_leader(&member.peer_urls, limit, question) => told,
                    // One that is paused or cut off may never answer: whoever leads now is asked at once.
                    _ = leaders.changed() => continue,
                };
                match told {
                    Ok(told) => return Ok(told),
                    Err(error) => tracing::debug!(%error, "the leader could not be asked about a lease"),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_here(&self, question: &Question) -> Result<Told, Unable> {
        match question {
            Question::Renew(ids) => self.node.renew_leases(ids).await.map(Told::Renewed),
            Question::TimeToLive(request) => self.node.lease_time_to_live(*request).await.map(Told::TimeToLive),
        }
    }

    async fn ask_leader(&self, urls: &[String], limit: Duration, question: &Question) -> Result<Told, LeaseError> {
        match question {
            Question::Renew(ids) => {
                let mut ttls = Vec::with_capacity(ids.len());
                for some in ids.chunks(FORWARDED) {
                    let asked = some.iter().map(|id| self.leader.renew(urls, *id, limit));
                    for answer in join_all(asked).await {
                        ttls.push(or_not_found(answer)?.unwrap_or(0));
                    }
                }
                Ok(Told::Renewed(ttls))
            }
            Question::TimeToLive(request) => {
                or_not_found(self.leader.time_to_live(urls, *request, limit).await).map(Told::TimeToLive)
            }
        }
    }
}

fn or_not_found<T>(answer: Result<T, LeaseError>) -> Result<Option<T>, LeaseError> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(LeaseError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
