//! Work that may take its time, apart from the threads that serve clients.
//!
//! A few threads do it, in the order it was asked for ([`MOST`] for each thread that serves clients): however much is
//! asked for at once, no more of it holds memory and cores at a time. What nobody waits for any more is not begun.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinHandle};

/// Threads that work at a time, for each runtime.
pub const MOST: usize = 4;

/// Begun, or waiting for its turn; given up when this is dropped.
#[derive(Debug)]
pub struct Apart<T>(JoinHandle<T>);

pub fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Apart<T> {
    Apart(tokio::task::spawn_blocking(work))
}

impl<T> Future for Apart<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Apart<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
