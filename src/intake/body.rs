//! Reading a request's body within its bounds of size, time and memory.

use crate::http::received::Received;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    TooLarge,
    TooSlow,
    /// The bodies of all requests together would take too much memory.
    NoRoom,
    /// The sender broke off, or its framing was wrong.
    Broken,
}

/// A body, and the memory that is set aside for it as long as it lives.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// `room` counts bytes.
pub async fn read(mut body: Received, max: usize, timeout: Duration, room: &Arc<Semaphore>) -> Result<Held, Unread> {
    if body.size_hint().lower() > max as u64 {
        return Err(Unread::TooLarge);
    }
    match tokio::time::timeout(timeout, collect(&mut body, max, room)).await {
        Ok(read) => read,
        Err(_) => {
            body.give_up();
            Err(Unread::TooSlow)
        }
    }
}

async fn collect(body: &mut Received, max: usize, room: &Arc<Semaphore>) -> Result<Held, Unread> {
    let (mut first, mut all, mut held) = (None::<Bytes>, BytesMut::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        let read = first.as_ref().map_or(0, Bytes::len) + all.len() + data.len();
        if read > max {
            return Err(Unread::TooLarge);
        }
        let n = u32::try_from(data.len()).map_err(|_| Unread::TooLarge)?;
        let permit = room.clone().try_acquire_many_owned(n).map_err(|_| Unread::NoRoom)?;
        match &mut held {
            Some(held) => held.merge(permit),
            None => held = Some(permit),
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            earlier => {
                all.extend(earlier);
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(Held { bytes: first.unwrap_or_else(|| all.freeze()), _room: held })
}
