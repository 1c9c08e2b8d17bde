//! Where a peer's connection comes from: an address, a listener, and the two places where TLS will come in.
//!
//! Nothing else under `peer/` may open a socket. [`connect`] and [`Listener::accept`] hand out a [`Conn`]; whoever
//! holds one can not tell TCP from a unix socket, and will not be able to tell plain from TLS.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Sleep, sleep, timeout};

/// A peer that does not take bytes for so long is cut off, as etcd's listener does.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dial may take: a second and etcd's default election time-out.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// One peer URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrl {
    text: String,
    address: Address,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    /// host:port
    Tcp(String),
    /// host:port; understood, but not reachable before TLS exists
    Tls(String),
    /// a socket file; etcd's `unix://127.0.0.1:2380` is a file of the name `127.0.0.1:2380` in the working directory
    Unix(String),
}

/// A peer URL that nothing can be reached by.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {url:?} as a peer URL: {reason}; give http://host:port or unix://path")]
pub struct UrlError {
    url: String,
    reason: &'static str,
}

impl FromStr for PeerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<PeerUrl, UrlError> {
        let refuse = |reason| UrlError { url: text.to_owned(), reason };
        let (scheme, rest) = text.split_once(':').ok_or_else(|| refuse("there is no scheme"))?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let address = match scheme {
            "http" | "https" => {
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let (name, port) = host.rsplit_once(':').ok_or_else(|| refuse("there is no port"))?;
                port.parse::<u16>().map_err(|_| refuse("the port is not a number up to 65535"))?;
                if name.is_empty() || host.contains('@') || host.contains(|c: char| c.is_whitespace() || c.is_control())
                {
                    return Err(refuse("there is no host"));
                }
                if scheme == "http" { Address::Tcp(host.to_owned()) } else { Address::Tls(host.to_owned()) }
            }
            "unix" if rest.is_empty() => return Err(refuse("there is no path")),
            "unix" => Address::Unix(rest.to_owned()),
            "unixs" => return Err(refuse("TLS between members is not supported yet")),
            _ => return Err(refuse("the scheme is unknown")),
        };
        Ok(PeerUrl { text: text.to_owned(), address })
    }
}

impl PeerUrl {
    /// What the `Host` header says.
    pub(super) fn host(&self) -> &str {
        match &self.address {
            Address::Tcp(host) | Address::Tls(host) => host,
            Address::Unix(_) => "localhost",
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.address, Address::Tls(_))
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Dials a peer. The seam for TLS on the way out.
pub(super) async fn connect(url: &PeerUrl) -> io::Result<Conn> {
    let dial = async {
        match &url.address {
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
            Address::Tls(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "TLS between members is not supported yet"))
            }
        }
    };
    match timeout(DIAL_TIMEOUT, dial).await {
        Ok(socket) => socket.map(Conn::new).map_err(|e| io::Error::new(e.kind(), format!("dial {url}: {e}"))),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("dial {url}: no answer within {DIAL_TIMEOUT:?}")))
        }
    }
}

/// Where peers come in.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The next connection and who it is, for the log. The seam for TLS on the way in.
    pub(super) async fn accept(&self) -> io::Result<(Conn, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Conn::new(Socket::Tcp(stream)), address.to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Conn::new(Socket::Unix(stream)), "unix".to_owned()))
            }
        }
    }
}

/// A connection whose writes time out: a peer that no longer reads must not hold a stream forever.
#[derive(Debug)]
pub(super) struct Conn {
    socket: Socket,
    stuck: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Conn {
    fn new(socket: Socket) -> Conn {
        Conn { socket, stuck: None }
    }

    /// Runs the clock while a write is pending.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the peer has taken no bytes for {WRITE_TIMEOUT:?}"),
        )))
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        };
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        };
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
