//! Watches as etcd's Go client keeps them: any number on one stream, created one after the other, and created again on
//! another endpoint at the next revision when the connection goes.
//!
//! The end of a watch is told once, in its last [`Watched`]; an event is told once, whatever happens to connections.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::future::OptionFuture;
use lockstep_proto::etcdserverpb::watch_client::WatchClient;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use lockstep_proto::mvccpb::Event;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::client::{Client, stream_error};

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a watch delivers.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub header: ResponseHeader,
    pub events: Vec<Event>,
    pub compact_revision: i64,
    pub canceled: bool,
    /// Why there will be no more; a refusal that came without an answer of the server's has no header.
    pub error: Option<String>,
}

impl Watched {
    pub fn is_progress_notify(&self) -> bool {
        self.events.is_empty() && !self.canceled && self.compact_revision == 0 && self.header.revision != 0
    }
}

/// All watches of a client. They end when it is dropped.
#[derive(Clone, Debug)]
pub struct Watches(UnboundedSender<Ask>);

#[derive(Debug)]
enum Ask {
    Watch(Watch),
    Progress,
}

#[derive(Debug)]
struct Watch {
    /// Its start revision is where the watch is to be resumed.
    request: WatchCreateRequest,
    out: UnboundedSender<Watched>,
}

impl Watches {
    /// Has to be called inside the runtime.
    pub fn of(client: &Client) -> Watches {
        let (sender, asks) = mpsc::unbounded_channel();
        tokio::spawn(Line::new(client.clone()).run(asks));
        Watches(sender)
    }

    pub fn watch(&self, request: WatchCreateRequest) -> UnboundedReceiver<Watched> {
        let (out, watched) = mpsc::unbounded_channel();
        let _ = self.0.send(Ask::Watch(Watch { request, out }));
        watched
    }

    /// Asks for a progress notification on every watch.
    pub fn request_progress(&self) {
        let _ = self.0.send(Ask::Progress);
    }
}

/// The one stream, and what is on it.
struct Line {
    client: Client,
    stream: Option<Stream>,
    /// In the order of their creation; the first one's request is under way.
    waiting: VecDeque<Watch>,
    live: BTreeMap<i64, Watch>,
    pause: Duration,
}

struct Stream {
    up: UnboundedSender<WatchRequest>,
    down: UnboundedReceiver<Result<WatchResponse, Status>>,
}

impl Line {
    fn new(client: Client) -> Line {
        Line { client, stream: None, waiting: VecDeque::new(), live: BTreeMap::new(), pause: PAUSE_MIN }
    }

    async fn run(mut self, mut asks: UnboundedReceiver<Ask>) {
        loop {
            let next: OptionFuture<_> = self.stream.as_mut().map(|stream| stream.down.recv()).into();
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(Ask::Watch(watch)) => {
                        self.waiting.push_back(watch);
                        if self.waiting.len() == 1 {
                            self.create_next();
                        }
                    }
                    Some(Ask::Progress) => self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})),
                    None => return,
                },
                Some(answer) = next => match answer {
                    Some(Ok(response)) => self.take(response),
                    Some(Err(status)) => self.broken(status).await,
                    None => self.broken(Status::unavailable("the stream ended")).await,
                },
            }
        }
    }

    fn take(&mut self, response: WatchResponse) {
        self.pause = PAUSE_MIN;
        let id = response.watch_id;
        let watched = Watched {
            header: response.header.unwrap_or_default(),
            events: response.events,
            compact_revision: response.compact_revision,
            canceled: response.canceled,
            error: None,
        };
        if response.created {
            let Some(mut watch) = self.waiting.pop_front() else { return };
            if id == -1 || (response.canceled && !response.cancel_reason.is_empty()) {
                let error = Some(response.cancel_reason);
                let _ = watch.out.send(Watched { canceled: true, error, ..Default::default() });
            } else {
                if watch.request.start_revision == 0 {
                    watch.request.start_revision = watched.header.revision + 1;
                }
                self.live.insert(id, watch);
            }
            self.create_next();
        } else if response.canceled {
            let Some(watch) = self.live.remove(&id) else { return };
            // Any other end of a watch is one without a word, as in Go's client.
            if response.compact_revision != 0 {
                let error = Some("etcdserver: mvcc: required revision has been compacted".into());
                let _ = watch.out.send(Watched { error, ..watched });
            }
        } else if id == -1 {
            // It says nothing about which events have been sent: a watch is not resumed after it.
            self.live.values().for_each(|watch| drop(watch.out.send(watched.clone())));
        } else {
            self.deliver(id, watched);
        }
    }

    fn deliver(&mut self, id: i64, watched: Watched) {
        let Some(watch) = self.live.get_mut(&id) else { return };
        let last = watched.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        let next = last.unwrap_or(watched.header.revision) + 1;
        watch.request.start_revision = next.max(watch.request.start_revision);
        if watch.out.send(watched).is_err() {
            self.live.remove(&id);
            self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id }));
        }
    }

    /// Begins again elsewhere, unless the server has said that it means this end.
    async fn broken(&mut self, status: Status) {
        self.stream = None;
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = std::mem::take(&mut self.live).into_values().chain(waiting).collect();
        self.waiting.retain(|watch| !watch.out.is_closed());
        let status = self.client.look_at(status);
        let passing = matches!(status.code(), Code::Unavailable | Code::Internal);
        if !passing || status.message() == "etcdserver: no leader" {
            for watch in self.waiting.drain(..) {
                let error = Some(stream_error(&status));
                let _ = watch.out.send(Watched { canceled: true, error, ..Default::default() });
            }
            return;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 5 / 4 + PAUSE_MIN).min(PAUSE_MAX);
        self.create_next();
    }

    fn create_next(&mut self) {
        if let Some(watch) = self.waiting.front() {
            let request = watch.request.clone();
            self.send(RequestUnion::CreateRequest(request));
        }
    }

    fn send(&mut self, request: RequestUnion) {
        let stream = self.stream.get_or_insert_with(|| Stream::open(self.client.clone()));
        let _ = stream.up.send(WatchRequest { request_union: Some(request) });
    }
}

impl Stream {
    /// The stream is opened and read by a task of its own: it ends when one of the two channels does.
    fn open(client: Client) -> Stream {
        let (up, requests) = mpsc::unbounded_channel();
        let (answers, down) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let channel = tokio::select! {
                channel = client.connection() => channel,
                () = answers.closed() => return,
            };
            let mut request = Request::new(UnboundedReceiverStream::new(requests));
            require_leader(&mut request);
            let mut watch = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
            let opened = tokio::select! {
                opened = watch.watch(request) => opened,
                () = answers.closed() => return,
            };
            let mut stream = match opened {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(answers.send(Err(status))),
            };
            loop {
                let answer = tokio::select! {
                    answer = stream.message() => answer,
                    () = answers.closed() => return,
                };
                let is_last = !matches!(answer, Ok(Some(_)));
                if let Some(answer) = answer.transpose() {
                    let _ = answers.send(answer);
                }
                if is_last {
                    return;
                }
            }
        });
        Stream { up, down }
    }
}

/// A member without a leader refuses at once, instead of letting the client wait.
pub fn require_leader<T>(request: &mut Request<T>) {
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
}
