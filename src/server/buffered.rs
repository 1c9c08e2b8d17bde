//! A connection whose writes leave together.
//!
//! h2 writes a frame of more than a few hundred bytes with a system call of its own, and flushes when it has no more
//! frames to write. Behind this buffer the answers of one turn leave in one call. Nothing may be left in it without a
//! flush: every protocol that is served here flushes when it has written what it has.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than this goes out without waiting for a flush, and is not kept allocated.
const LIMIT_BYTES: usize = 64 << 10;

pub struct Buffered<S> {
    inner: S,
    pending: BytesMut,
}

impl<S: AsyncWrite + Unpin> Buffered<S> {
    pub fn new(inner: S) -> Buffered<S> {
        Buffered { inner, pending: BytesMut::new() }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether `len` more bytes may be taken; makes room where there is none.
    fn room(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<()>> {
        if self.pending.len() + len > LIMIT_BYTES {
            ready!(self.drain(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.room(cx, data.len()))?;
        if data.len() > LIMIT_BYTES {
            return Pin::new(&mut this.inner).poll_write(cx, data);
        }
        this.pending.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    /// h2 flushes after each payload that it does not copy into its own buffer. It copies more of them (up to 1 KiB
    /// instead of 256 B) where writes are not vectored, and those answers leave together.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, into)
    }
}
