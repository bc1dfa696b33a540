//! A connection that counts what is written to it, so that a failed request knows whether a byte of it left.
//!
//! Requests of a connection follow each other, so what was written since the last answer belongs to the request at hand.
//! Bytes count when TLS or the kernel has taken them: they may not have left the machine, but nobody can call them back.
//!
//! *Invariant.* Where [`Traffic::wrote`] is false, nothing of the request was written; never the other way round.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// What went over one connection.
#[derive(Debug, Default)]
pub struct Traffic {
    written: AtomicU64,
    /// How much had been written when the last answer came.
    answered: AtomicU64,
    refusal: OnceLock<String>,
}

impl Traffic {
    /// What was written so far belongs to requests that have their answers.
    pub fn answered(&self) {
        self.answered.store(self.written.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Whether something was written since the last answer.
    pub fn wrote(&self) -> bool {
        self.written.load(Ordering::SeqCst) > self.answered.load(Ordering::SeqCst)
    }

    /// How the peer ended the TLS handshake, if it did so because of who we are.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
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

    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    fn count(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = poll {
            self.traffic.written.fetch_add(n as u64, Ordering::SeqCst);
        }
        poll
    }
}

impl<T: Read + Unpin> Read for Wire<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &poll
            && self.traffic.answered.load(Ordering::SeqCst) == 0
            && refuses_client(error)
        {
            let _first = self.traffic.refusal.set(error.to_string());
        }
        poll
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

/// Whether the peer ended the TLS handshake because of who we are. In TLS 1.3 the client hears of it only after it has
/// begun to write, and the server has not looked at what was written.
pub fn refuses_client(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    // TLS may lie in one IO error inside another
    let Some(inner) = error.get_ref() else { return false };
    if let Some(inner) = inner.downcast_ref::<io::Error>() {
        return refuses_client(inner);
    }
    matches!(
        inner.downcast_ref(),
        Some(rustls::Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
        ))
    )
}
