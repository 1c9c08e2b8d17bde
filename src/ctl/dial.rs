//! Dialing one endpoint, TCP or Unix, with the texts of Go's dialer for what goes wrong.

use std::fmt::Display;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint, Uri};

use super::golang::quote;

/// Go's gRPC pings no connection more often.
const KEEPALIVE_MIN: Duration = Duration::from_secs(10);

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, not looked at yet.
    Tcp(String),
    Unix(String),
}

impl Address {
    pub fn of(endpoint: &str) -> Address {
        if let Some(path) = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")) {
            return Address::Unix(path.to_string());
        }
        match endpoint.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                Address::Tcp(rest.split('/').next().unwrap_or_default().to_string())
            }
            // What is no URL of ours is dialed as it stands, and refused there.
            _ => Address::Tcp(endpoint.to_string()),
        }
    }

    /// As the client's warnings show it: without any scheme.
    pub fn shown(&self) -> &str {
        match self {
            Address::Tcp(text) => text.split_once("://").map_or(text, |(_, rest)| rest),
            Address::Unix(path) => path,
        }
    }
}

/// The limits of a connection.
#[derive(Clone, Debug)]
pub struct Dialing {
    /// Of one attempt; none means as long as the system tries.
    pub timeout: Option<Duration>,
    /// Zero means no pings.
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What has come from the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// The begin of HTTP/2.
    Settings,
    /// The end, or something that is not HTTP/2.
    Failure,
}

/// Dials until a server answers, slower each time, and leaves the last failure in `last_error`.
///
/// A connection counts when the server has begun to speak HTTP/2, as in Go: a request that is sent before could be
/// lost without anybody knowing whether it was read.
pub async fn connect(dialing: &Dialing, address: Address, last_error: &Mutex<String>) -> Channel {
    let mut pause = Duration::from_secs(1);
    loop {
        let failed = match dial(&address, dialing.timeout).await {
            Ok(stream) => match open(dialing, &address, stream).await {
                Some(channel) => return channel,
                None => "connection closed".to_string(),
            },
            Err(why) => {
                let why = format!("transport: Error while dialing dial {why}");
                format!("connection error: desc = {}", quote(why.as_bytes()))
            }
        };
        *last_error.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        sleep(pause).await;
        pause = pause.mul_f64(1.6).min(Duration::from_secs(120));
    }
}

/// gRPC over a connection that is there; `None` when nobody at the other end speaks HTTP/2.
async fn open(dialing: &Dialing, address: &Address, stream: Stream) -> Option<Channel> {
    // The URI only feeds the request's authority.
    let uri = match address {
        Address::Tcp(text) => Uri::try_from(format!("http://{text}")).ok(),
        Address::Unix(_) => None,
    };
    let mut endpoint = Endpoint::from(uri.unwrap_or(Uri::from_static("http://localhost")));
    if !dialing.keepalive_time.is_zero() {
        endpoint = endpoint.http2_keep_alive_interval(dialing.keepalive_time.max(KEEPALIVE_MIN));
        endpoint = endpoint.keep_alive_timeout(dialing.keepalive_timeout).keep_alive_while_idle(true);
    }
    let (listener, mut heard) = watch::channel(Heard::Nothing);
    // One connection only: the client itself dials again after a failure.
    let mut only = Some(Listening { stream, head: Vec::new(), heard: listener });
    let connector = tower::service_fn(move |_: Uri| {
        let stream = only.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("connection closed"));
        std::future::ready(stream)
    });
    let channel = endpoint.connect_with_connector(connector).await.ok()?;
    let heard = *heard.wait_for(|heard| *heard != Heard::Nothing).await.ok()?;
    (heard == Heard::Settings).then_some(channel)
}

/// One connection, or what Go's dialer says.
async fn dial(address: &Address, limit: Option<Duration>) -> Result<Stream, String> {
    let limited = |text: String| move |_| format!("{text}: i/o timeout");
    let path = match address {
        Address::Tcp(text) => return dial_tcp(text, limit).await,
        Address::Unix(path) => path,
    };
    let told = format!("unix {path}");
    let connect = UnixStream::connect(path);
    let stream = timeout(limit.unwrap_or(Duration::MAX), connect).await.map_err(limited(told.clone()))?;
    stream.map(Stream::Unix).map_err(|why| format!("{told}: connect: {}", errno_text(&why)))
}

async fn dial_tcp(text: &str, limit: Option<Duration>) -> Result<Stream, String> {
    if text.is_empty() {
        return Err("tcp: missing address".into());
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("tcp: address {text}: missing port in address"));
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host,
        None if host.contains(':') => return Err(format!("tcp: address {text}: too many colons in address")),
        None => host,
    };
    let port = match port.parse::<u32>().map(u16::try_from) {
        Ok(Ok(port)) => port,
        Ok(Err(_)) => return Err(format!("tcp: address {port}: invalid port")),
        Err(_) => return Err(format!("tcp: address tcp/{port}: unknown port")),
    };
    // As Go's dialer does: no host is this one.
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let lookup = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<_> = lookup.map_err(|_| format!("tcp: lookup {host}: no such host"))?.collect();
    let mut error = format!("tcp: lookup {host}: no such host");
    // IPv4 first, so that the error names the address Go's does.
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv4());
    let mut first = true;
    for address in v4.into_iter().chain(v6) {
        let failed = match timeout(limit.unwrap_or(Duration::MAX), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(Stream::Tcp(stream));
            }
            Ok(Err(why)) => format!("tcp {address}: connect: {}", errno_text(&why)),
            Err(_) => format!("tcp {address}: i/o timeout"),
        };
        if std::mem::take(&mut first) {
            error = failed;
        }
    }
    Err(error)
}

/// "Connection refused (os error 111)" as Go says it: "connection refused".
pub fn errno_text(why: &dyn Display) -> String {
    let text = why.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A stream that tells what it hears first.
struct Listening {
    stream: Stream,
    /// The first bytes, as long as nothing is known.
    head: Vec<u8>,
    heard: watch::Sender<Heard>,
}

impl Listening {
    fn listen(&mut self, read: &[u8]) {
        if *self.heard.borrow() != Heard::Nothing {
            return;
        }
        self.head.extend(read.iter().take(4));
        // A server's first frame is SETTINGS: three bytes of length, then the type 4.
        match (read.is_empty(), self.head.get(3)) {
            (false, None) => {}
            (false, Some(4)) => drop(self.heard.send(Heard::Settings)),
            _ => drop(self.heard.send(Heard::Failure)),
        }
    }
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => pin!(stream).poll_read(cx, buf),
            Stream::Unix(stream) => pin!(stream).poll_read(cx, buf),
        };
        if polled.is_ready() {
            self.listen(&buf.filled()[before..]);
        }
        polled
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncWrite for Listening {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        each!(self, stream => pin!(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        each!(self, stream => pin!(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        each!(self, stream => pin!(stream).poll_shutdown(cx))
    }
}
