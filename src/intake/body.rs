//! Reading a request's body within its bounds of size, time and memory.

use super::memory::{Charge, NoRoom};
use crate::net::received::Received;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// How often it is looked whether a body comes fast enough.
const LOOK: Duration = Duration::from_secs(1);

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    TooLarge,
    TooSlow,
    /// There is no memory for it, or it gave way to another.
    NoRoom,
    /// The sender broke off, or its framing was wrong.
    Broken,
}

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For all of it.
    pub timeout: Duration,
    /// From here on it must have come, on average, at `bytes_per_second_min`; zero: at any rate.
    pub grace: Duration,
    pub bytes_per_second_min: usize,
}

/// A body, and the memory that is charged for it as long as it lives.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    charge: Charge,
}

impl Held {
    /// Charges what the request takes beside its body.
    pub fn charge(&self, bytes: usize) -> Result<(), NoRoom> {
        self.charge.add(bytes)
    }

    /// Its sender has shown who it is.
    pub fn verify(&mut self) -> Result<(), NoRoom> {
        self.charge.verify()
    }
}

pub async fn read(mut body: Received, max: usize, pace: Pace, charge: Charge) -> Result<Held, ReadError> {
    if body.size_hint().lower() > max as u64 {
        return Err(ReadError::TooLarge);
    }
    let read = timeout(pace.timeout, at_pace(&mut body, max, pace, &charge)).await;
    match read.unwrap_or(Err(ReadError::TooSlow)) {
        Ok(bytes) => Ok(Held { bytes, charge }),
        Err(unread) => {
            if unread != ReadError::TooLarge {
                body.give_up();
            }
            Err(unread)
        }
    }
}

async fn at_pace(body: &mut Received, max: usize, pace: Pace, charge: &Charge) -> Result<Bytes, ReadError> {
    let mut reading = pin!(collect(body, max, charge));
    if pace.bytes_per_second_min == 0 {
        return reading.await;
    }
    if let Ok(read) = timeout(pace.grace, reading.as_mut()).await {
        return read;
    }
    let mut due = 0;
    while charge.received() >= due {
        due += pace.bytes_per_second_min;
        if let Ok(read) = timeout(LOOK, reading.as_mut()).await {
            return read;
        }
    }
    Err(ReadError::TooSlow)
}

async fn collect(body: &mut Received, max: usize, charge: &Charge) -> Result<Bytes, ReadError> {
    let expected = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    let room_max = expected.map_or(max, |bytes| bytes.min(max));
    let mut read = 0;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = charge.evicted() => return Err(ReadError::NoRoom),
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        read += data.len();
        if read > max {
            return Err(ReadError::TooLarge);
        }
        if read == data.len() && body.is_end_stream() {
            // in one piece, which need not be copied
            charge.whole(data.len())?;
            charge.finish()?;
            return Ok(data);
        }
        charge.append(&data, room_max)?;
    }
    Ok(charge.finish()?.into())
}

impl From<NoRoom> for ReadError {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}
