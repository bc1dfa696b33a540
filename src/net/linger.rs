//! The end of a connection whose peer may still send: what was answered must reach it.
//!
//! A socket that is closed while bytes of its peer lie unread is reset by the kernel, and the reset destroys what the peer
//! has received and not read yet (RFC 9112, 9.6). So the writing side is closed first, and what still comes is read and
//! discarded.
//!
//! *Invariants.* Bounded in time and in bytes. A connection that lingers is the first to give way to a newcomer.

use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes that are discarded: the largest body that any configuration accepts.
pub const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Who sends nothing for so long has sent all, or waits for nothing but our end.
pub const SILENCE: Duration = Duration::from_secs(2);
/// What is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Closes the writing side, then discards what comes until the peer closes, too, or a bound is reached.
pub async fn linger<I: AsyncRead + AsyncWrite + Unpin>(stream: &mut I, timeout: Duration) {
    let silence = SILENCE.min(timeout);
    let _ = tokio::time::timeout(timeout, async {
        // a peer that reads nothing of what is still to be flushed is given up
        let Ok(Ok(())) = tokio::time::timeout(silence, stream.shutdown()).await else { return };
        let (mut chunk, mut left) = (vec![0; CHUNK_BYTES], BYTES_MAX);
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
