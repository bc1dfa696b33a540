//! A connection that counts what is written to it, so that a failed request knows whether a byte of it left.
//!
//! Requests of a connection follow each other, so what was written since the last answer belongs to the request at hand.
//! Bytes count when TLS or the kernel has taken them: they may not have left the machine, but nobody can call them back.
//!
//! *Invariant.* Where [`Traffic::wrote`] is false, nothing of the request was written; never the other way round.

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// What went over one connection.
#[derive(Debug, Default)]
pub struct Traffic {
    written: AtomicU64,
    /// How much had been written when the last answer came.
    answered: AtomicU64,
}

impl Traffic {
    /// Of the connection that a request was given; none where it was not given one.
    pub fn of(captured: &CaptureConnection) -> Option<Arc<Self>> {
        let mut extras = http::Extensions::new();
        captured.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }

    /// What was written so far belongs to a request that has its answer.
    pub fn answered(&self) {
        self.answered.store(self.written.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Whether something was written since the last answer.
    pub fn wrote(&self) -> bool {
        self.written.load(Ordering::SeqCst) > self.answered.load(Ordering::SeqCst)
    }

    /// Whether no answer has come over it yet.
    pub fn is_fresh(&self) -> bool {
        self.answered.load(Ordering::SeqCst) == 0
    }
}

pub struct Wire<T> {
    stream: T,
    traffic: Arc<Traffic>,
}

impl<T> Wire<T> {
    pub fn new(stream: T) -> Self {
        Self { stream, traffic: Arc::default() }
    }

    fn count(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = poll {
            self.traffic.written.fetch_add(n as u64, Ordering::SeqCst);
        }
        poll
    }
}

impl<T: Connection> Connection for Wire<T> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.traffic.clone())
    }
}

impl<T: Read + Unpin> Read for Wire<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
