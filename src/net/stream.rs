//! A connection's stream: it reports traffic to its slot, and ends so that what was answered reaches the peer.
//!
//! A socket that is closed while bytes of its peer are unread is reset by the kernel, and the reset destroys what the
//! peer has received and not read yet (RFC 9112, 9.6). [`linger`] therefore closes the writing side first, then reads
//! and discards what still comes.
//!
//! *Invariants.* Lingering is bounded in time and in bytes. A connection that lingers is the first to be evicted.

use super::connection_limiter::Slot;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

#[derive(Debug)]
pub struct TrackedStream<I> {
    stream: I,
    slot: Slot,
}

impl<I> TrackedStream<I> {
    pub fn new(stream: I, slot: Slot) -> Self {
        Self { stream, slot }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for TrackedStream<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, to))?;
        if to.filled().len() > before {
            self.slot.bytes_received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I> TrackedStream<I> {
    fn sent<T>(&self, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_pending() {
            self.slot.write_pends();
        } else {
            self.slot.wrote();
        }
        sent
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for TrackedStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.sent(sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.sent(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.sent(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Most bytes that are discarded: the largest body that any configuration accepts.
pub const LINGER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A peer that sends nothing for this long has sent everything, or waits for the connection to close.
pub const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// What is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Closes the writing side, then discards what comes until the peer closes, too, or a bound is reached.
pub async fn linger<I: AsyncRead + AsyncWrite + Unpin>(stream: &mut I, timeout: Duration) {
    let silence = LINGER_SILENCE.min(timeout);
    let _ = tokio::time::timeout(timeout, async {
        // a peer that reads nothing of what is still to be flushed is given up
        let Ok(Ok(())) = tokio::time::timeout(silence, stream.shutdown()).await else { return };
        let (mut chunk, mut left) = (vec![0; CHUNK_BYTES], LINGER_BYTES_MAX);
        while let Ok(Ok(n @ 1..)) = tokio::time::timeout(silence, stream.read(&mut chunk)).await {
            left = left.saturating_sub(n);
            if left == 0 {
                return;
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn lingering_shows_the_end_at_once_and_reads_the_rest() {
        let (mut ours, mut theirs) = duplex(64);
        let sending = tokio::spawn(async move {
            let end = theirs.read(&mut [0; 1]).await.unwrap();
            theirs.write_all(&[b'x'; 100_000]).await.unwrap();
            end
        });
        linger(&mut ours, Duration::from_secs(60)).await;
        assert_eq!(sending.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn lingering_ends_for_silence_bytes_and_time() {
        let (mut silent, _peer) = duplex(64);
        linger(&mut silent, Duration::from_millis(20)).await;
        for bytes in [1, 1 << 20] {
            let (mut ours, mut theirs) = duplex(1 << 20);
            let endless = tokio::spawn(async move {
                let piece = vec![b'x'; bytes];
                while theirs.write_all(&piece).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            });
            let timeout = Duration::from_millis(if bytes == 1 { 50 } else { 60_000 });
            let ended = tokio::time::timeout(Duration::from_secs(30), linger(&mut ours, timeout)).await;
            assert!(ended.is_ok(), "{bytes}");
            drop(ours);
            endless.await.unwrap();
        }
    }
}
