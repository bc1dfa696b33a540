//! A connection that counts the bytes written and read, so that a failed request knows whether a byte of it was sent and
//! whether a byte was received. It also passes on the head of each answer in a form that the parser accepts ([`head`]).
//!
//! Requests on a connection are sequential, so the bytes written since the last answer belong to the current request.
//! Bytes count as written when TLS or the kernel has accepted them: they may not have left the machine, but cannot be
//! withdrawn.
//!
//! *Invariants.* If [`ByteCounts::wrote`] is false, nothing of the request was written. Bytes that arrive without a
//! request in flight are passed on unchanged. A head is buffered until it is complete, up to [`HEAD_BYTES_MAX`].
//!
//! *Failure.* A write that fails in the middle of a request is not reported immediately: the peer may have answered
//! before it closed, and its answer is read first. [`ByteCounts::write_failed`] then says that the peer did not read the
//! whole request.

use super::head::{self, Head, Status};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

/// A longer head is invalid.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
const SCRATCH_BYTES: usize = 16 * 1024;

thread_local! {
    /// Buffer for bytes that were read and not yet passed on.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// The bytes of one connection.
#[derive(Debug, Default)]
pub struct ByteCounts {
    /// Requests that were handed over.
    requests: AtomicU64,
    written: AtomicU64,
    /// Bytes written when the last answer arrived.
    answered: AtomicU64,
    /// Bytes read since the last request was handed over.
    read: AtomicU64,
    lenient: AtomicBool,
    write_failed: AtomicBool,
    refusal: OnceLock<String>,
}

impl ByteCounts {
    /// A request is handed over.
    pub fn begin(&self) {
        self.answered();
        self.read.store(0, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// All bytes written so far belong to answered requests.
    pub fn answered(&self) {
        self.answered.store(self.written.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Whether a byte was written since the last answer.
    pub fn wrote(&self) -> bool {
        self.written.load(Ordering::SeqCst) > self.answered.load(Ordering::SeqCst)
    }

    /// Whether a byte arrived since the request was handed over.
    pub fn received(&self) -> bool {
        self.read.load(Ordering::SeqCst) > 0
    }

    /// Requests that were handed over.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Whether a head was rewritten: the connection must not be reused.
    pub fn is_lenient(&self) -> bool {
        self.lenient.load(Ordering::SeqCst)
    }

    /// Whether the peer closed before it had read the whole request.
    pub fn write_failed(&self) -> bool {
        self.write_failed.load(Ordering::SeqCst)
    }

    /// The TLS alert with which the peer refused the client certificate.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }
}

pub struct CountedStream<T> {
    stream: T,
    traffic: Arc<ByteCounts>,
    /// The beginning of an incomplete head.
    head: Vec<u8>,
    /// Bytes to pass on next, from this position on.
    passed: Vec<u8>,
    place: usize,
    /// The last request whose answer's head was passed on.
    headed: u64,
}

impl<T> CountedStream<T> {
    pub fn new(stream: T) -> Self {
        Self { stream, traffic: Arc::default(), head: Vec::new(), passed: Vec::new(), place: 0, headed: 0 }
    }

    pub fn traffic(&self) -> Arc<ByteCounts> {
        self.traffic.clone()
    }

    fn expects_head(&self) -> bool {
        self.headed < self.traffic.requests() && self.traffic.wrote()
    }

    /// Counts written bytes. After an error in the middle of a request the rest of it is discarded.
    fn count(&self, poll: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match &poll {
            Poll::Ready(Ok(n)) => _ = self.traffic.written.fetch_add(*n as u64, Ordering::SeqCst),
            Poll::Ready(Err(_)) if self.traffic.wrote() => {
                self.traffic.write_failed.store(true, Ordering::SeqCst);
                return Poll::Ready(Ok(offered));
            }
            _ => {}
        }
        poll
    }

    /// Extracts the heads from the received bytes, and passes them on with the bytes after the last of them.
    fn pass_heads(&mut self, mut looked_at: usize) {
        while let Some(length) = head::length(&self.head, looked_at) {
            looked_at = 0;
            let status = match head::read(&self.head[..length]) {
                // the bytes after it follow
                Head::AsItIs(Status::Final) => return self.pass_all(),
                Head::AsItIs(status) => {
                    self.passed.extend_from_slice(&self.head[..length]);
                    status
                }
                Head::Rewritten(status, rewritten) => {
                    self.traffic.lenient.store(true, Ordering::SeqCst);
                    self.passed.extend_from_slice(&rewritten);
                    status
                }
            };
            self.head.drain(..length);
            if status == Status::Final {
                return self.pass_all();
            }
        }
        if self.head.len() >= HEAD_BYTES_MAX || head::is_hopeless(&self.head) {
            self.pass_all();
        }
    }

    /// Passes on the rest of this answer without parsing.
    fn pass_all(&mut self) {
        self.headed = self.traffic.requests();
        self.passed.append(&mut self.head);
    }

    /// Passes on as many bytes as fit.
    fn pass(&mut self, buf: &mut ReadBufCursor<'_>) {
        let end = self.passed.len().min(self.place + buf.remaining());
        buf.put_slice(&self.passed[self.place..end]);
        self.place = end;
        if end == self.passed.len() {
            self.place = 0;
            self.passed.clear();
            self.passed.shrink_to(SCRATCH_BYTES);
        }
    }
}

impl<T: Read + Unpin> CountedStream<T> {
    /// Reads once, up to `max` bytes, and passes them to `then`; zero bytes mean the end.
    fn read<U>(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        then: impl FnOnce(&mut Self, &[u8]) -> U,
    ) -> Poll<io::Result<U>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let max = max.min(scratch.len());
            let mut into = ReadBuf::new(&mut scratch[..max]);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into.unfilled()));
            if let Err(error) = &read
                && self.traffic.answered.load(Ordering::SeqCst) == 0
                && refuses_client(error)
            {
                let _first = self.traffic.refusal.set(error.to_string());
            }
            read?;
            self.traffic.read.fetch_add(into.filled().len() as u64, Ordering::SeqCst);
            Poll::Ready(Ok(then(self, into.filled())))
        })
    }
}

impl<T: Read + Unpin> Read for CountedStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                this.pass(&mut buf);
                return Poll::Ready(Ok(()));
            }
            if !this.expects_head() {
                return this.read(cx, buf.remaining(), |_, bytes| buf.put_slice(bytes));
            }
            let came = ready!(this.read(cx, SCRATCH_BYTES, |this, bytes| {
                let looked_at = this.head.len();
                this.head.extend_from_slice(bytes);
                if bytes.is_empty() {
                    this.pass_all()
                } else {
                    this.pass_heads(looked_at)
                }
                bytes.len()
            }))?;
            if came == 0 && this.passed.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Write + Unpin> Write for CountedStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.traffic.write_failed() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(poll, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bytes.iter().map(|part| part.len()).sum();
        if self.traffic.write_failed() {
            return Poll::Ready(Ok(offered));
        }
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(poll, offered)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(_)) if self.traffic.wrote() => {
                self.traffic.write_failed.store(true, Ordering::SeqCst);
                Poll::Ready(Ok(()))
            }
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether the peer ended the TLS handshake because of the client certificate. In TLS 1.3 the client learns this only
/// after it has begun to write, and the server has not processed what was written.
pub fn refuses_client(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    // a TLS error may be nested in an I/O error within another
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
