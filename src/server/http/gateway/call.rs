//! The services, called within the process: the very router that serves gRPC, with messages as bytes.
//!
//! So a request through the gateway meets the same checks, limits and counters as one from any gRPC client, and this
//! needs to know no service.

use axum::Router;
use axum::body::Body;
use axum::http::{self, HeaderValue, header};
use http_body_util::BodyExt;
use lockstep_proto::schema::Method;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, Streaming};
use tower::ServiceExt;

/// In front of a message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// Reads and writes nothing: a message is its bytes.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// An answer of one message, which has not been read yet but for its length.
pub struct Unread {
    body: Body,
    read: BytesMut,
    pub length: u64,
}

/// Calls a method that is no stream.
pub async fn call_once(
    services: Router,
    method: &'static Method,
    metadata: MetadataMap,
    message: Bytes,
) -> Result<Unread, Status> {
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).map_err(|_| Status::resource_exhausted("the request is too large"))?);
    framed.put(message);
    let mut request = http::Request::new(Body::from(framed.freeze()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(method.path);
    *request.headers_mut() = metadata.into_headers();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    let Ok(response) = services.oneshot(request).await;
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let mut unread = Unread { body: response.into_body(), read: BytesMut::new(), length: 0 };
    while unread.read.len() < HEAD_BYTES {
        let more = unread.frame().await?.ok_or_else(|| Status::internal("an answer without a message"))?;
        unread.read.extend_from_slice(&more);
    }
    // Whether it is compressed: our own services never do.
    unread.read.advance(1);
    unread.length = unread.read.get_u32().into();
    Ok(unread)
}

impl Unread {
    /// The next bytes of the message.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.read.is_empty() {
            return Ok(Some(self.read.split().freeze()));
        }
        self.frame().await
    }

    /// All of the message.
    pub async fn whole(mut self) -> Result<Bytes, Status> {
        let mut message = BytesMut::new();
        while let Some(more) = self.next().await? {
            message.extend_from_slice(&more);
        }
        Ok(message.freeze())
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| Status::unknown(e.to_string()))?;
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
                        return Err(status);
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Calls a method; the messages of the answer come as a stream.
pub async fn call(
    services: Router,
    method: &'static Method,
    metadata: MetadataMap,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = Grpc::new(services).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    // A router is always ready, and says so without an error.
    client.ready().await.map_err(|e| Status::internal(format!("{e:?}")))?;
    let request = Request::from_parts(metadata, Default::default(), messages);
    Ok(client.streaming(request, PathAndQuery::from_static(method.path), Raw).await?.into_inner())
}
