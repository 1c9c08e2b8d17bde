//! A watch stream of one server, for tests: requests go out as they are, responses wait until the test takes them.
//!
//! What the test does not take is not read from the connection either, but for a handful: a test that does nothing is a
//! slow client.

use std::time::Duration;

use lockstep::proto::etcdserverpb::watch_client::WatchClient;
use lockstep::proto::etcdserverpb::watch_request::RequestUnion;
use lockstep::proto::etcdserverpb::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

pub struct Watch {
    runtime: tokio::runtime::Runtime,
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    responses: mpsc::Receiver<Result<WatchResponse, Status>>,
}

impl Watch {
    pub fn open(url: &str) -> Watch {
        Watch::open_with(url, false)
    }

    /// `wants_leader`: with etcd's metadata for that.
    pub fn open_with(url: &str, wants_leader: bool) -> Watch {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL").tcp_nodelay(true);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (incoming, responses) = mpsc::channel(1);
        runtime.spawn(async move {
            let mut client = WatchClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX);
            let mut request = Request::new(UnboundedReceiverStream::new(outgoing));
            if wants_leader {
                request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
            }
            // A real etcd says nothing at all before its first response.
            let mut stream = match client.watch(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(incoming.send(Err(status)).await),
            };
            while let Some(response) = stream.message().await.transpose() {
                let is_over = response.is_err();
                if incoming.send(response).await.is_err() || is_over {
                    return;
                }
            }
        });
        Watch { runtime, requests: Some(requests), responses }
    }

    pub fn ask(&self, request: RequestUnion) {
        let requests = self.requests.as_ref().expect("the requests have not been ended");
        requests.send(WatchRequest { request_union: Some(request) }).expect("the stream is open");
    }

    pub fn create(&self, request: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(request));
    }

    /// Says that there will be no further request.
    pub fn end_requests(&mut self) {
        self.requests = None;
    }

    /// The next response, or how the stream ended; `None` when nothing came in time, or nothing will any more.
    pub fn next(&mut self, limit: Duration) -> Option<Result<WatchResponse, Status>> {
        let next = self.responses.recv();
        self.runtime.block_on(async { tokio::time::timeout(limit, next).await.unwrap_or(None) })
    }
}
