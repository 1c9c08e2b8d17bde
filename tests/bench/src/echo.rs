//! A server that answers every request with the same few bytes: the ceiling of this machine at this minute.
//!
//! Its line stands beside the servers' lines, so that a reader can tell a slow server from a busy machine.

use crate::args::Args;
use crate::client;
use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use lockstep_proto::etcdserverpb::{PutResponse, ResponseHeader};
use tokio::net::{TcpListener, TcpStream};

pub fn main(mut args: Args) -> Result<bool, String> {
    let listen = args.value("--listen", "127.0.0.1:0".to_string())?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
    runtime.block_on(serve(&listen)).map_err(|why| format!("echo on {listen}: {why}"))
}

async fn serve(listen: &str) -> std::io::Result<bool> {
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    let header = ResponseHeader { cluster_id: 1 << 63, member_id: 1 << 63, revision: 1 << 20, raft_term: 2 };
    let answer = client::frame(&PutResponse { header: Some(header), prev_kv: None }).freeze();
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(connection(socket, answer.clone()));
    }
}

async fn connection(socket: TcpStream, answer: Bytes) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24).max_concurrent_streams(10_000);
    let mut connection = builder.handshake(socket).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(reply(request, respond, answer.clone()));
    }
    Ok(())
}

async fn reply(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    answer: Bytes,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        body.flow_control().release_capacity(chunk?.len())?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream: SendStream<Bytes> = respond.send_response(head, false)?;
    stream.send_data(answer, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
