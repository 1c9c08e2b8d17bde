//! Dialing one endpoint, TCP or Unix, with the texts of Go's dialer for what goes wrong.

use std::fmt::Display;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint, Uri};

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
            Some((_, rest)) => Address::Tcp(rest.split('/').next().unwrap_or_default().to_string()),
            None => Address::Tcp(endpoint.to_string()),
        }
    }

    /// As the client's warnings show it.
    pub fn shown(&self) -> &str {
        match self {
            Address::Tcp(text) | Address::Unix(text) => text,
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

/// Dials until it succeeds, slower each time, and leaves the last failure in `last_error`.
pub async fn connect(dialing: &Dialing, address: Address, last_error: &Mutex<String>) -> Channel {
    let mut pause = Duration::from_secs(1);
    loop {
        match dial(&address, dialing.timeout).await {
            Ok(stream) => return open(dialing, &address, stream).await,
            Err(why) => {
                let text = format!("transport: Error while dialing dial {why}");
                *last_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
            }
        }
        sleep(pause).await;
        pause = pause.mul_f64(1.6).min(Duration::from_secs(120));
    }
}

/// gRPC over a connection that is there. When it breaks, the channel dials again by itself.
async fn open(dialing: &Dialing, address: &Address, stream: Stream) -> Channel {
    // The URI only feeds the request's authority.
    let uri = match address {
        Address::Tcp(text) => Uri::try_from(format!("http://{text}")).ok(),
        Address::Unix(_) => None,
    };
    let first = Arc::new(Mutex::new(Some(stream)));
    let (address, dial_timeout) = (address.clone(), dialing.timeout);
    let mut endpoint = Endpoint::from(uri.unwrap_or(Uri::from_static("http://localhost")));
    if !dialing.keepalive_time.is_zero() {
        endpoint = endpoint.http2_keep_alive_interval(dialing.keepalive_time.max(KEEPALIVE_MIN));
        endpoint = endpoint.keep_alive_timeout(dialing.keepalive_timeout).keep_alive_while_idle(true);
    }
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (first, address) = (first.clone(), address.clone());
        async move {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = match ready {
                Some(stream) => stream,
                None => dial(&address, dial_timeout).await.map_err(std::io::Error::other)?,
            };
            Ok::<_, std::io::Error>(match stream {
                Stream::Tcp(stream) => TokioIo::new(Either::Tcp(stream)),
                Stream::Unix(stream) => TokioIo::new(Either::Unix(stream)),
            })
        }
    }))
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
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.ends_with(':') || host.starts_with('['))
    else {
        return Err(format!("tcp: address {text}: missing port in address"));
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let Ok(port) = port.parse::<u16>() else {
        return Err(format!("tcp: address {text}: invalid port"));
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
fn errno_text(why: &dyn Display) -> String {
    let text = why.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A stream of either kind.
enum Either {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Either::Tcp($stream) => $call,
            Either::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Either {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        each!(self, stream => pin!(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Either {
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
