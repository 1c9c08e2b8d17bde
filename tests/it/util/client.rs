//! A thin blocking gRPC client of one server: what a test sends is exactly what goes over the wire.
//!
//! It validates nothing, retries nothing and follows no leader, because the tests are about the server's own answers.

use http::uri::PathAndQuery;
use lockstep::proto::etcdserverpb::cluster_client::ClusterClient;
use lockstep::proto::etcdserverpb::kv_client::KvClient;
use lockstep::proto::etcdserverpb::lease_client::LeaseClient;
use lockstep::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use lockstep::proto::etcdserverpb::*;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

pub struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

macro_rules! unary {
    ($($name:ident: $client:ident($request:ty) -> $response:ty;)*) => {
        $(pub fn $name(&self, request: $request) -> Result<$response, Status> {
            let mut client = $client::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
            self.runtime.block_on(client.$name(request)).map(tonic::Response::into_inner)
        })*
    };
}

impl Client {
    /// Connects lazily: the first request does.
    pub fn connect(url: &str) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL").tcp_nodelay(true);
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Client { runtime, channel }
    }

    unary! {
        range: KvClient(RangeRequest) -> RangeResponse;
        put: KvClient(PutRequest) -> PutResponse;
        delete_range: KvClient(DeleteRangeRequest) -> DeleteRangeResponse;
        txn: KvClient(TxnRequest) -> TxnResponse;
        compact: KvClient(CompactionRequest) -> CompactionResponse;
        status: MaintenanceClient(StatusRequest) -> StatusResponse;
        hash: MaintenanceClient(HashRequest) -> HashResponse;
        hash_kv: MaintenanceClient(HashKvRequest) -> HashKvResponse;
        move_leader: MaintenanceClient(MoveLeaderRequest) -> MoveLeaderResponse;
        member_list: ClusterClient(MemberListRequest) -> MemberListResponse;
        member_add: ClusterClient(MemberAddRequest) -> MemberAddResponse;
        member_remove: ClusterClient(MemberRemoveRequest) -> MemberRemoveResponse;
        member_update: ClusterClient(MemberUpdateRequest) -> MemberUpdateResponse;
        member_promote: ClusterClient(MemberPromoteRequest) -> MemberPromoteResponse;
        lease_grant: LeaseClient(LeaseGrantRequest) -> LeaseGrantResponse;
        lease_revoke: LeaseClient(LeaseRevokeRequest) -> LeaseRevokeResponse;
        lease_time_to_live: LeaseClient(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse;
        alarm: MaintenanceClient(AlarmRequest) -> AlarmResponse;
        defragment: MaintenanceClient(DefragmentRequest) -> DefragmentResponse;
        lease_leases: LeaseClient(LeaseLeasesRequest) -> LeaseLeasesResponse;
    }

    /// Sends keep-alives for these leases down one stream, and returns what comes back.
    pub fn keep_alive(&self, ids: &[i64]) -> Result<Vec<LeaseKeepAliveResponse>, Status> {
        let requests: Vec<_> = ids.iter().map(|id| LeaseKeepAliveRequest { id: *id }).collect();
        self.runtime.block_on(async {
            let mut client = LeaseClient::new(self.channel.clone());
            let mut answers = client.lease_keep_alive(tokio_stream::iter(requests)).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.message().await? {
                all.push(answer);
            }
            Ok(all)
        })
    }

    /// All answers of a stream.
    pub fn range_stream(&self, request: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
        self.runtime.block_on(async {
            let mut client = KvClient::new(self.channel.clone());
            let mut stream = client.range_stream(request).await?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await? {
                answers.push(answer.range_response.expect("each part is a range's answer"));
            }
            Ok(answers)
        })
    }

    /// All answers of a snapshot.
    pub fn snapshot(&self) -> Result<Vec<SnapshotResponse>, Status> {
        self.runtime.block_on(async {
            let mut client = MaintenanceClient::new(self.channel.clone());
            let mut stream = client.snapshot(SnapshotRequest {}).await?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await? {
                answers.push(answer);
            }
            Ok(answers)
        })
    }

    /// Asks for a range and takes nothing of the answer yet, not even off the connection.
    pub fn range_unread(&self, request: RangeRequest) -> Unread<'_> {
        let asked = self.runtime.block_on(async {
            let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
            grpc.ready().await.expect("a connection");
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
            grpc.server_streaming(tonic::Request::new(request), path, ProstCodec::default()).await
        });
        Unread { client: self, answer: asked.expect("a range").into_inner() }
    }
}

/// An answer that its client has not begun to read.
pub struct Unread<'a> {
    client: &'a Client,
    answer: Streaming<RangeResponse>,
}

impl Unread<'_> {
    pub fn finish(mut self) -> RangeResponse {
        let message = self.client.runtime.block_on(self.answer.message());
        message.expect("the rest of the answer").expect("one message")
    }
}
