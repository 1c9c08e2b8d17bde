//! The services, called within the process: the very router that serves gRPC, with messages as bytes.
//!
//! So a request through the gateway meets the same checks, limits and counters as one from any gRPC client, and this
//! needs to know no service.

use axum::Router;
use lockstep_proto::schema::Method;
use prost::bytes::{Buf, BufMut, Bytes};
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

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

/// Calls a method; the messages of the answer come as a stream, even when there is only one.
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
