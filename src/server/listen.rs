//! Sockets: binding them in Go's words, and serving gRPC (HTTP/2) and HTTP/1 on one port until told to stop.
//!
//! Nothing here knows what is served. A connection costs one task; the accept loop outlives every error of `accept`, a
//! peer that opens a connection and says nothing is dropped, and a stop is bounded whatever the peers do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, Sleep};
use tower::util::MapRequest;

use super::api::Unfinished;
use super::authority::Rewriter;
use super::buffered::Buffered;
use super::config::{Config, Url};
use super::log::errno_text;
use super::peer;
use super::pings::Pings;
use super::workers::Workers;

/// Connections that may wait for `accept`; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// A new connection must show which HTTP it speaks within this time.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// HTTP/1: the time for a request's head, and the time an idle connection is kept.
const HEADER_LIMIT: Duration = Duration::from_secs(60);
/// HTTP/1; hyper's own limit is 100, Go's is one of bytes only.
const MAX_HEADERS: usize = 1_000;
/// Room for tokens and tracing headers, far below what could hurt.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// One stream may have this much in flight, so that one large put needs no round trip for window updates ...
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// ... and one connection this much, whatever its number of streams.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// What a stream's client has not taken yet waits here; more of it waits where it is counted (`api/long`, watches).
const STREAM_UNSENT_BYTES: usize = 64 * 1024;
/// What gRPC's Go servers do unless they are told otherwise, and the least they do.
const GRPC_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);
const GRPC_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const GRPC_PING_MIN_TIME: Duration = Duration::from_secs(5 * 60);
const MIN_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client that pinged too often has to read why it must go.
const FAREWELL: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is said that there are too many connections.
const FULL_WARNING_EVERY: Duration = Duration::from_secs(60);
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `--socket-reuse-port`; `--socket-reuse-address` is always on, as Go has it for every listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    pub reuse_port: bool,
}

/// How connections are served and how a stop ends.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// On all listeners that are served together.
    pub max_connections: usize,
    pub max_concurrent_streams: u32,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// What a client has to leave between two pings.
    pub ping_min_time: Duration,
    /// How long requests in flight may take after a stop.
    pub drain: Duration,
}

impl From<&Config> for SocketOptions {
    fn from(config: &Config) -> SocketOptions {
        SocketOptions { reuse_port: config.socket_reuse_port }
    }
}

impl ServeOptions {
    pub fn new(config: &Config, max_connections: usize) -> ServeOptions {
        let (interval, timeout) = match (config.grpc_keepalive_interval_ms, config.grpc_keepalive_timeout_ms) {
            // As in etcd: without either of them both are gRPC's own.
            (0, _) | (_, 0) => (GRPC_KEEPALIVE_INTERVAL, GRPC_KEEPALIVE_TIMEOUT),
            (interval, timeout) => (Duration::from_millis(interval), Duration::from_millis(timeout)),
        };
        let ping_min_time = match config.grpc_keepalive_min_time_ms {
            0 => GRPC_PING_MIN_TIME,
            min_time => Duration::from_millis(min_time),
        };
        ServeOptions {
            max_connections,
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: interval.max(MIN_KEEPALIVE_INTERVAL),
            keepalive_timeout: timeout,
            ping_min_time,
            drain: Duration::from_secs(1),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: String,
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes a unix listener's file when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Listener {
    /// Binds what a URL says, inside a tokio runtime. A socket file left behind by a dead process is replaced.
    pub fn bind(url: &Url, options: SocketOptions) -> Result<Listener, String> {
        if url.is_unix() { bind_unix(url) } else { bind_tcp(url, options) }
    }

    /// Binds each URL; nothing stays bound when one fails.
    pub fn bind_all(urls: &[Url], options: SocketOptions) -> Result<Vec<Listener>, String> {
        urls.iter().map(|url| Listener::bind(url, options)).collect()
    }

    /// Where it listens in truth: the port that the kernel chose for port 0, or the file.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// For the peers' transport, which serves its own protocol; the file is to be kept until that ends.
    pub fn into_peer(self) -> (peer::Listener, Option<SocketFile>) {
        let listener = match self.socket {
            Socket::Tcp(listener) => peer::Listener::Tcp(listener),
            Socket::Unix(listener) => peer::Listener::Unix(listener),
        };
        (listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it: then there is nothing left to tidy.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Serves `app` on every listener until `shutdown` turns true (or its sender is gone), then stops accepting, lets
/// requests in flight end within `options.drain`, and returns.
pub async fn serve(
    listeners: Vec<Listener>,
    app: Router,
    options: ServeOptions,
    workers: Workers,
    shutdown: watch::Receiver<bool>,
) {
    // Every task holds the sender; `recv` answers `None` when the last one is gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let slots = Arc::new(Semaphore::new(options.max_connections));
    for listener in listeners {
        let (app, slots, workers) = (app.clone(), slots.clone(), workers.clone());
        tokio::spawn(accept_loop(listener, app, options, slots, workers, shutdown.clone(), alive.clone()));
    }
    drop(alive);
    all_gone.recv().await;
}

async fn accept_loop(
    listener: Listener,
    app: Router,
    options: ServeOptions,
    slots: Arc<Semaphore>,
    workers: Workers,
    shutdown: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) {
    let builder = http_builder(options);
    let connection = || Connection {
        app: app.clone(),
        builder: builder.clone(),
        options,
        shutdown: shutdown.clone(),
        _alive: alive.clone(),
    };
    let mut stop = shutdown.clone();
    let mut pause = ACCEPT_PAUSE_MIN;
    let mut warned: Option<Instant> = None;
    loop {
        // Those that come when all slots are taken wait in the kernel's queue.
        if slots.available_permits() == 0 && warned.is_none_or(|at| at.elapsed() >= FULL_WARNING_EVERY) {
            warned = Some(Instant::now());
            tracing::warn!(
                address = listener.address(),
                connections = options.max_connections,
                "as many connections are open as the limit of open files allows; new ones wait"
            );
        }
        let slot = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            slot = slots.clone().acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                pause = ACCEPT_PAUSE_MIN;
                let connection = connection();
                workers.spawn(async move {
                    // A socket belongs to the runtime it was registered with.
                    if let Ok(stream) = stream.adopt() {
                        connection.run(stream).await;
                    }
                    drop(slot);
                });
            }
            Err(e) if is_one_connections_fault(&e) => {}
            Err(e) => {
                tracing::warn!(
                    address = listener.address(),
                    error = errno_text(&e),
                    "retry-ms" = pause.as_millis() as u64,
                    "cannot accept connections; will retry"
                );
                let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // It only fails on a connection that is gone, which the first read will find out.
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream.into_std()?))
            }
            Socket::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// A connection on its way to the worker that will serve it.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    fn adopt(self) -> io::Result<Stream> {
        Ok(match self {
            Accepted::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// Errors of `accept` that say nothing about the listener.
fn is_one_connections_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn http_builder(options: ServeOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_send_buf_size(STREAM_UNSENT_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// One accepted connection.
struct Connection {
    app: Router,
    builder: Builder<TokioExecutor>,
    options: ServeOptions,
    shutdown: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Connection {
    async fn run(mut self, stream: Stream) {
        let io = Opening::new(stream, self.options.ping_min_time);
        // Requests of one connection share what its unfinished messages may hold.
        let unfinished = Unfinished::of_connection();
        let service = MapRequest::new(self.app, move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(unfinished.clone());
            request
        });
        let service = TowerToHyperService::new(service);
        let serving = self.builder.serve_connection_with_upgrades(TokioIo::new(Buffered::new(io)), service);
        tokio::pin!(serving);
        tokio::select! {
            biased;
            // Peers that break off or talk nonsense are theirs to explain; etcd logs neither.
            _ = serving.as_mut() => return,
            _ = self.shutdown.wait_for(|stop| *stop) => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(self.options.drain, serving).await;
    }
}

fn bind_tcp(url: &Url, options: SocketOptions) -> Result<Listener, String> {
    let (host, port) = url.host_port();
    let port: u16 = match port {
        "" => 0,
        port => port.parse().map_err(|_| format!("listen tcp: address {port}: invalid port"))?,
    };
    let wanted = resolve(host, port).map_err(|e| format!("listen tcp: lookup {host}: {}", errno_text(&e)))?;
    let socket = match wanted.ip() {
        // As Go: every IPv4 address means every address, where the host has IPv6 at all.
        IpAddr::V4(ip) if ip.is_unspecified() => {
            let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            listen_tcp(both, options).or_else(|e| match e.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => listen_tcp(wanted, options),
                _ => Err(e),
            })
        }
        _ => listen_tcp(wanted, options),
    };
    let socket = socket.map_err(|e| format!("listen tcp {wanted}: bind: {}", errno_text(&e)))?;
    let address = socket.local_addr().map_or_else(|_| wanted.to_string(), |addr| addr.to_string());
    Ok(Listener { socket: Socket::Tcp(socket), address, file: None })
}

fn listen_tcp(addr: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // Go sets this on every listener, with or without etcd's flag: a restart must not wait for TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if options.reuse_port {
        socket.set_reuseport(true)?;
    }
    // Accepted sockets inherit it: a client whose host vanished is noticed some time.
    socket.set_keepalive(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// The first IPv4 address of a name, or else the first, as Go listens.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    if host.is_empty() {
        return Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    }
    let addrs: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let first = addrs.iter().find(|a| a.is_ipv4()).or(addrs.first());
    first.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))
}

fn bind_unix(url: &Url) -> Result<Listener, String> {
    let path = PathBuf::from(url.socket_path());
    let named = |what: &str| format!("listen unix {}: {what}", path.display());
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(named("bind: a file that is no socket is in the way; remove it or choose another path"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(&path).is_ok() => {
            return Err(named("bind: address already in use"));
        }
        Ok(_) => std::fs::remove_file(&path).map_err(|e| named(&format!("remove: {}", errno_text(&e))))?,
        Err(_) => {}
    }
    let socket = UnixListener::bind(&path).map_err(|e| named(&format!("bind: {}", errno_text(&e))))?;
    let address = path.display().to_string();
    Ok(Listener { socket: Socket::Unix(socket), address, file: Some(SocketFile(path)) })
}

#[derive(Debug)]
enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// A connection whose first bytes have a deadline: until they show HTTP/1 or the whole preface of HTTP/2, no other
/// timeout runs. They also say whether there are HTTP/2 authorities to mend.
struct Opening {
    stream: Stream,
    speaks: Speaks,
    ping_min_time: Duration,
}

/// What the bytes so far say.
enum Speaks {
    Nothing {
        seen: usize,
        deadline: Pin<Box<Sleep>>,
    },
    Http1,
    Http2(Box<(Rewriter, Pings)>),
    /// A client that pinged too often is told so, and what it sends is passed over.
    Farewell(Pin<Box<Sleep>>),
}

impl Opening {
    fn new(stream: Stream, ping_min_time: Duration) -> Opening {
        let deadline = Box::pin(tokio::time::sleep_until(Instant::now() + OPENING_LIMIT));
        Opening { stream, speaks: Speaks::Nothing { seen: 0, deadline }, ping_min_time }
    }

    /// The pings of the last read were too many, and h2 has answered them: says so, and closes. Of the way out nothing
    /// is waited for: a client that does not read what it is sent learns no reason.
    fn dismiss(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Speaks::Http2(speaks) = &self.speaks else { return Ok(()) };
        if !speaks.1.are_too_many() {
            return Ok(());
        }
        let goaway = speaks.1.goaway().ok_or(io::ErrorKind::ConnectionAborted)?;
        if self.stream.poll_write(cx, &goaway)?.is_pending() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let _ = self.stream.poll_shutdown(cx)?;
        self.speaks = Speaks::Farewell(Box::pin(tokio::time::sleep(FAREWELL)));
        Ok(())
    }
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Speaks {
    fn read(&mut self, mut bytes: &mut [u8], ping_min_time: Duration) {
        if let Speaks::Nothing { seen, .. } = self {
            let expected = &HTTP2_PREFACE[*seen..];
            let compared = bytes.len().min(expected.len());
            *seen += compared;
            if bytes[..compared] != expected[..compared] {
                *self = Speaks::Http1;
            } else if *seen == HTTP2_PREFACE.len() {
                *self = Speaks::Http2(Box::new((Rewriter::default(), Pings::new(ping_min_time))));
                bytes = &mut bytes[compared..];
            }
        }
        if let Speaks::Http2(speaks) = self {
            let (rewriter, pings) = &mut **speaks;
            rewriter.feed_and_tell(bytes, |head| pings.received(head));
        }
    }
}

impl AsyncRead for Opening {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.dismiss(cx)?;
        let before = buf.filled().len();
        let polled = this.stream.poll_read(cx, buf);
        match &mut this.speaks {
            Speaks::Farewell(deadline) => {
                let ended = polled.is_ready() && buf.filled().len() == before;
                if ended || deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                buf.set_filled(before);
                if polled.is_ready() {
                    // There may be more, and the next read is to find it.
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            speaks if polled.is_ready() => speaks.read(&mut buf.filled_mut()[before..], this.ping_min_time),
            Speaks::Nothing { deadline, .. } => {
                if deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            Speaks::Http1 | Speaks::Http2(_) => {}
        }
        polled
    }
}

/// Never vectored: [`Buffered`] writes into it.
impl AsyncWrite for Opening {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Speaks::Farewell(_) = this.speaks {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = this.stream.poll_write(cx, buf);
        if let (Speaks::Http2(speaks), Poll::Ready(Ok(count))) = (&mut this.speaks, &written) {
            speaks.1.sent(&buf[..*count]);
        }
        written
    }

    /// A socket keeps nothing back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.poll_shutdown(cx)
    }
}
