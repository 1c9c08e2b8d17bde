//! Single gRPC calls with their answers decoded: is a server up, who leads. Not for load; `wire` is.

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Version};
use prost::Message;
use std::borrow::Cow;
use std::time::Duration;
use tokio::net::TcpStream;

/// What a failed request says; static where it can be, so that a storm of errors stays cheap.
pub type Failure = Cow<'static, str>;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// The bytes of a gRPC frame before its message: not compressed, then the length.
pub const FRAME_HEAD: usize = 5;

/// A connection; the connection's own task is spawned onto the current runtime and ends with it.
async fn connect(endpoint: &str) -> Result<SendRequest<Bytes>, String> {
    let open = async {
        let socket = TcpStream::connect(endpoint).await.map_err(|why| why.to_string())?;
        socket.set_nodelay(true).map_err(|why| why.to_string())?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24).enable_push(false);
        builder.initial_max_send_streams(1000);
        let (send, connection) = builder.handshake(socket).await.map_err(|why| why.to_string())?;
        tokio::spawn(connection);
        Ok(send)
    };
    let opened = tokio::time::timeout(Duration::from_secs(5), open).await.unwrap_or(Err("timed out".into()));
    opened.map_err(|why: String| format!("connect to {endpoint}: {why}"))
}

fn head(endpoint: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{endpoint}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("an endpoint is HOST:PORT")
}

/// A message as a gRPC frame.
pub fn frame(message: &impl Message) -> BytesMut {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(FRAME_HEAD + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    message.encode(&mut out).expect("the buffer is long enough");
    out
}

/// One request on a connection of its own, with its answer decoded.
pub async fn unary<T: Message + Default>(endpoint: &str, path: &str, request: &impl Message) -> Result<T, String> {
    let mut send = connect(endpoint).await?;
    let (head, mut answer) = (head(endpoint, path), BytesMut::new());
    let exchange = exchange(&mut send, &head, frame(request).freeze(), |chunk| answer.extend_from_slice(&chunk));
    match tokio::time::timeout(Duration::from_secs(5), exchange).await {
        Ok(done) => done.map_err(|why| format!("{path} at {endpoint}: {why}"))?,
        Err(_) => return Err(format!("{path} at {endpoint}: no answer in 5 s")),
    }
    let message = answer.get(FRAME_HEAD..).ok_or_else(|| format!("{path} at {endpoint}: no message in the answer"))?;
    T::decode(message).map_err(|why| format!("{path} at {endpoint}: {why}"))
}

/// Calls and streams on one connection. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    endpoint: String,
    send: SendRequest<Bytes>,
}

impl Calls {
    pub async fn open(endpoint: &str) -> Result<Calls, String> {
        Ok(Calls { endpoint: endpoint.to_owned(), send: connect(endpoint).await? })
    }

    pub async fn unary<T: Message + Default>(&self, path: &str, request: &impl Message) -> Result<T, String> {
        let (head, mut answer) = (head(&self.endpoint, path), BytesMut::new());
        let body = frame(request).freeze();
        let mut send = self.send.clone();
        let done = exchange(&mut send, &head, body, |chunk| answer.extend_from_slice(&chunk)).await;
        done.map_err(|why| format!("{path}: {why}"))?;
        let message = answer.get(FRAME_HEAD..).ok_or_else(|| format!("{path}: no message in the answer"))?;
        T::decode(message).map_err(|why| format!("{path}: {why}"))
    }

    pub async fn stream(&self, path: &str) -> Result<Stream, String> {
        let mut send = self.send.clone();
        let head = head(&self.endpoint, path);
        std::future::poll_fn(|context| send.poll_ready(context)).await.map_err(|why| broken(why).into_owned())?;
        let (response, requests) = send.send_request(head, false).map_err(|why| broken(why).into_owned())?;
        Ok(Stream { requests, response: Some(response), answers: None, buffer: BytesMut::new() })
    }
}

/// A stream of messages both ways.
pub struct Stream {
    requests: h2::SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    answers: Option<RecvStream>,
    buffer: BytesMut,
}

impl Stream {
    pub fn send(&mut self, frames: Bytes, last: bool) -> Result<(), String> {
        self.requests.send_data(frames, last).map_err(|why| broken(why).into_owned())
    }

    /// The next message; `None` when the stream has ended well.
    pub async fn message(&mut self) -> Result<Option<Bytes>, String> {
        if let Some(response) = self.response.take() {
            let (parts, body) = response.await.map_err(|why| broken(why).into_owned())?.into_parts();
            if parts.headers.contains_key("grpc-status") {
                status(&parts.headers)?;
            }
            self.answers = Some(body);
        }
        let answers = self.answers.as_mut().expect("it was put there");
        loop {
            if let Some(head) = self.buffer.first_chunk::<FRAME_HEAD>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.buffer.len() >= FRAME_HEAD + length {
                    let mut frame = self.buffer.split_to(FRAME_HEAD + length).freeze();
                    return Ok(Some(frame.split_off(FRAME_HEAD)));
                }
            }
            match answers.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(|why| broken(why).into_owned())?;
                    let _ = answers.flow_control().release_capacity(chunk.len());
                    self.buffer.extend_from_slice(&chunk);
                }
                None => {
                    if let Some(trailers) = answers.trailers().await.map_err(|why| broken(why).into_owned())? {
                        status(&trailers)?;
                    }
                    return Ok(None);
                }
            }
        }
    }
}

async fn exchange(
    send: &mut SendRequest<Bytes>,
    head: &Request<()>,
    body: Bytes,
    mut take: impl FnMut(Bytes),
) -> Result<(), Failure> {
    std::future::poll_fn(|context| send.poll_ready(context)).await.map_err(broken)?;
    let (response, mut stream) = send.send_request(head.clone(), false).map_err(broken)?;
    stream.send_data(body, true).map_err(broken)?;
    let (parts, mut body) = response.await.map_err(broken)?.into_parts();
    if parts.headers.contains_key("grpc-status") {
        return status(&parts.headers);
    }
    if !parts.status.is_success() {
        return Err(format!("HTTP {}", parts.status).into());
    }
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(broken)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        take(chunk);
    }
    ended(body).await
}

async fn ended(mut body: RecvStream) -> Result<(), Failure> {
    match body.trailers().await.map_err(broken)? {
        Some(trailers) => status(&trailers),
        None => Err("the answer has no trailers".into()),
    }
}

fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(code) => Err(format!("code {code}: {}", text("grpc-message").unwrap_or_default()).into()),
        None => Err("the answer has no grpc-status".into()),
    }
}

fn broken(why: h2::Error) -> Failure {
    if why.is_io() {
        return "connection lost".into();
    }
    why.to_string().into()
}
