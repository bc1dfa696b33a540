//! Reading a request's body within its limits of size, time and memory, and unpacking it (`Content-Encoding`).
//!
//! *Invariants.* `max_body` limits what was sent and what it unpacks to. Unpacking stops with the first byte over it, is
//! charged to the memory limit before it allocates, and yields to other requests every [`TURN_BYTES`]. Only the body of
//! an authenticated request is unpacked.

use super::memory::{Charge, LimitReached};
use crate::net::request::RequestBody;
use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use std::io::Read;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// Interval of the checks of the rate.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    TooLarge,
    TooSlow,
    /// The memory limit is reached, or it was evicted.
    MemoryLimit,
    /// The sender broke off, or its framing is wrong.
    Broken,
}

/// How fast a body must arrive.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For the whole body.
    pub timeout: Duration,
    /// From then on the average rate must be at least `bytes_per_second_min`; zero: any rate.
    pub grace: Duration,
    pub bytes_per_second_min: usize,
}

/// A body and its charge to the memory limit, which ends when it is dropped.
#[derive(Debug)]
pub struct BufferedBody {
    pub bytes: Bytes,
    charge: Charge,
}

impl BufferedBody {
    /// Charges what the request takes beside its body.
    pub fn charge(&self, bytes: usize) -> Result<(), LimitReached> {
        self.charge.add(bytes)
    }

    /// Its sender has authenticated.
    pub fn verify(&mut self) -> Result<(), LimitReached> {
        self.charge.verify()
    }
}

pub async fn read(mut body: RequestBody, max: usize, pace: Pace, charge: Charge) -> Result<BufferedBody, ReadError> {
    if body.size_hint().lower() > max as u64 {
        return Err(ReadError::TooLarge);
    }
    let read = timeout(pace.timeout, at_pace(&mut body, max, pace, &charge)).await;
    match read.unwrap_or(Err(ReadError::TooSlow)) {
        Ok(bytes) => Ok(BufferedBody { bytes, charge }),
        Err(unread) => {
            if unread != ReadError::TooLarge {
                body.give_up();
            }
            Err(unread)
        }
    }
}

async fn at_pace(body: &mut RequestBody, max: usize, pace: Pace, charge: &Charge) -> Result<Bytes, ReadError> {
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
        if let Ok(read) = timeout(RATE_CHECK_INTERVAL, reading.as_mut()).await {
            return read;
        }
    }
    Err(ReadError::TooSlow)
}

async fn collect(body: &mut RequestBody, max: usize, charge: &Charge) -> Result<Bytes, ReadError> {
    let expected = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    let room_max = expected.map_or(max, |bytes| bytes.min(max));
    let mut read = 0;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = charge.evicted() => return Err(ReadError::MemoryLimit),
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

impl From<LimitReached> for ReadError {
    fn from(_: LimitReached) -> Self {
        Self::MemoryLimit
    }
}

/// Bytes that are unpacked before another request has its turn.
const TURN_BYTES: usize = 64 * 1024;
/// The first allocation for an unpacked body.
const FIRST_BYTES: usize = 4 * 1024;
/// The supported codings, for `Accept-Encoding`.
pub const CODINGS_ACCEPTED: &str = "gzip, deflate";
/// The other codings of the register (IANA, HTTP content codings).
const UNSUPPORTED: [&str; 9] =
    ["aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"];

/// A content coding that cannot be unpacked, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedCoding;

/// Why a body was not unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// It is not what its `Content-Encoding` says.
    Malformed,
    TooLarge,
    MemoryLimit,
}

/// How a body is packed, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    None,
    Gzip,
    Deflate,
    /// A word that names no coding (`utf-8`, for example): the body is taken as it is, if it is JSON.
    Unknown,
}

/// What the head says of the body's coding; empty elements and `identity` say nothing.
///
/// # Errors
/// A coding that is not supported, or more than one.
pub fn declared_coding(headers: &HeaderMap) -> Result<Coding, UnsupportedCoding> {
    let mut coding = Coding::None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let Ok(value) = value.to_str() else { return Ok(Coding::Unknown) };
        for word in value.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            let next = match word.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                word if UNSUPPORTED.contains(&word) => return Err(UnsupportedCoding),
                _ => Coding::Unknown,
            };
            if coding != Coding::None {
                return Err(UnsupportedCoding);
            }
            coding = next;
        }
    }
    Ok(coding)
}

/// Unpacks a body; `charge` is asked for memory before each allocation. A body that is not packed, regardless of its
/// head, is returned as it is: it is JSON or is refused.
pub async fn unpack(
    coding: Coding,
    packed: &Bytes,
    max: usize,
    charge: impl Fn(usize) -> Result<(), LimitReached>,
) -> Result<Bytes, UnpackError> {
    match coding {
        Coding::None | Coding::Unknown => Ok(packed.clone()),
        _ if begins_as_json(packed) => Ok(packed.clone()),
        Coding::Gzip => read_all(MultiGzDecoder::new(&packed[..]), max, charge).await,
        Coding::Deflate if is_zlib(packed) => read_all(ZlibDecoder::new(&packed[..]), max, charge).await,
        Coding::Deflate => read_all(DeflateDecoder::new(&packed[..]), max, charge).await,
    }
}

/// As [`unpack`], synchronously and without a charge: for requests in the store.
pub fn unpack_stored(coding: Coding, packed: &Bytes, max: usize) -> Option<Bytes> {
    fn read(from: impl Read, max: usize) -> Option<Bytes> {
        let mut bytes = Vec::new();
        let read = from.take(max as u64 + 1).read_to_end(&mut bytes);
        (read.is_ok() && bytes.len() <= max).then(|| bytes.into())
    }
    match coding {
        Coding::None | Coding::Unknown => Some(packed.clone()),
        _ if begins_as_json(packed) => Some(packed.clone()),
        Coding::Gzip => read(MultiGzDecoder::new(&packed[..]), max),
        Coding::Deflate if is_zlib(packed) => read(ZlibDecoder::new(&packed[..]), max),
        Coding::Deflate => read(DeflateDecoder::new(&packed[..]), max),
    }
}

/// Whether a body is blank or begins as JSON objects and arrays do: neither a gzip nor a zlib stream does. A bare deflate
/// stream can, where its first byte is also that of a block with fixed codes, so the whole must read as JSON.
fn begins_as_json(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii();
    match text.first() {
        None => true,
        Some(b'{' | b'[') => serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok(),
        Some(_) => false,
    }
}

/// The header of RFC 1950, section 2.2; "deflate" means this (RFC 9110, section 8.4.1.2), and some send the bare stream.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [cmf, flags, ..] if cmf & 0x0F == 8 && (u16::from(*cmf) << 8 | u16::from(*flags)) % 31 == 0)
}

async fn read_all(
    mut from: impl Read,
    max: usize,
    charge: impl Fn(usize) -> Result<(), LimitReached>,
) -> Result<Bytes, UnpackError> {
    let mut bytes = Vec::new();
    loop {
        if bytes.len() == bytes.capacity() {
            // as much again, and one byte more than it may have, to see whether there is more
            let more = bytes.len().max(FIRST_BYTES).min(max + 1 - bytes.len());
            charge(more).map_err(|_| UnpackError::MemoryLimit)?;
            bytes.reserve_exact(more);
        }
        let turn = (bytes.capacity() - bytes.len()).min(TURN_BYTES);
        let read = from.by_ref().take(turn as u64).read_to_end(&mut bytes).map_err(|_| UnpackError::Malformed)?;
        if bytes.len() > max {
            return Err(UnpackError::TooLarge);
        }
        if read < turn {
            return Ok(bytes.into());
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use std::cell::Cell;
    use std::io::Write;

    const ROOM: usize = 10 << 20;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut to = GzEncoder::new(Vec::new(), Compression::best());
        to.write_all(body).unwrap();
        to.finish().unwrap()
    }

    fn of(values: &[&'static str]) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        declared_coding(&headers).ok()
    }

    async fn unpacked(coding: Coding, packed: Vec<u8>, max: usize) -> Result<Vec<u8>, UnpackError> {
        let (packed, charged) = (Bytes::from(packed), Cell::new(0));
        let charge = |bytes| {
            charged.set(charged.get() + bytes);
            if charged.get() <= ROOM { Ok(()) } else { Err(LimitReached) }
        };
        let unpacked = unpack(coding, &packed, max, charge).await;
        if let Ok(unpacked) = &unpacked {
            assert!(charged.get() >= unpacked.len() || *unpacked == packed);
            assert_eq!(unpack_stored(coding, &packed, max).as_ref(), Some(unpacked));
        }
        unpacked.map(|unpacked| unpacked.to_vec())
    }

    #[test]
    fn a_content_coding_is_read_from_the_head() {
        for (values, coding) in [
            (&[][..], Some(Coding::None)),
            (&[""], Some(Coding::None)),
            (&[" , "], Some(Coding::None)),
            (&["identity"], Some(Coding::None)),
            (&["Identity, identity"], Some(Coding::None)),
            (&["GZip"], Some(Coding::Gzip)),
            (&["x-gzip"], Some(Coding::Gzip)),
            (&["identity, gzip"], Some(Coding::Gzip)),
            (&["", "gzip"], Some(Coding::Gzip)),
            (&["deflate"], Some(Coding::Deflate)),
            (&["utf-8"], Some(Coding::Unknown)),
            (&["application/json"], Some(Coding::Unknown)),
            (&["br"], None),
            (&["zstd"], None),
            (&["gzip, gzip"], None),
            (&["gzip", "deflate"], None),
            (&["gzip, br"], None),
            (&["utf-8, gzip"], None),
        ] {
            assert_eq!(of(values), coding, "{values:?}");
        }
    }

    #[tokio::test]
    async fn every_form_of_each_coding_is_unpacked() {
        let body = br#"{"a": [1, 2.50, "x"]}"#.repeat(1000);
        let (mut zlib, mut bare) =
            (ZlibEncoder::new(Vec::new(), Compression::fast()), DeflateEncoder::new(Vec::new(), Compression::fast()));
        zlib.write_all(&body).unwrap();
        bare.write_all(&body).unwrap();
        let two = [gzip(&body[..7]), gzip(&body[7..])].concat();
        for (name, coding, packed) in [
            ("gzip", Coding::Gzip, gzip(&body)),
            ("gzip of two members", Coding::Gzip, two),
            ("zlib", Coding::Deflate, zlib.finish().unwrap()),
            ("bare deflate", Coding::Deflate, bare.finish().unwrap()),
            ("not packed at all", Coding::None, body.clone()),
            ("packed by nobody", Coding::Unknown, body.clone()),
        ] {
            assert_eq!(unpacked(coding, packed, body.len()).await.as_ref(), Ok(&body), "{name}");
        }
        for plain in [&b" {\"a\":1}\n"[..], b"[]", b"\xEF\xBB\xBF{}", b"", b" "] {
            for coding in [Coding::Gzip, Coding::Deflate] {
                assert_eq!(unpacked(coding, plain.to_vec(), 100).await.as_deref(), Ok(plain), "labelled, not packed");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_decode_within_its_limits_is_refused() {
        let body = vec![b' '; 1 << 20];
        let whole = gzip(&body);
        assert_eq!(
            unpacked(Coding::Gzip, whole.clone(), body.len()).await,
            Ok(body.clone()),
            "just as long as it may be"
        );
        assert_eq!(unpacked(Coding::Gzip, whole.clone(), body.len() - 1).await, Err(UnpackError::TooLarge));
        assert_eq!(unpacked(Coding::Gzip, gzip(&vec![0; 50 << 20]), 100).await, Err(UnpackError::TooLarge), "a bomb");
        assert_eq!(
            unpacked(Coding::Gzip, gzip(&vec![0; ROOM + 1]), 32 << 20).await,
            Err(UnpackError::MemoryLimit),
            "more than there is room"
        );
        for cut in [1, 4, 8, 9, whole.len() - 5] {
            assert_eq!(
                unpacked(Coding::Gzip, whole[..whole.len() - cut].to_vec(), 2 << 20).await,
                Err(UnpackError::Malformed),
                "cut {cut}"
            );
        }
        let mut flipped = whole.clone();
        let at = whole.len() - 6;
        flipped[at] ^= 1;
        assert_eq!(unpacked(Coding::Gzip, flipped, 2 << 20).await, Err(UnpackError::Malformed), "its checksum");
        for nonsense in [&b"nonsense"[..], b"\x1f\x8b", b"\x78\x9c", b"{\"a\": 1"] {
            assert_eq!(unpacked(Coding::Gzip, nonsense.to_vec(), 100).await, Err(UnpackError::Malformed));
            assert_eq!(
                unpacked(Coding::Deflate, nonsense.to_vec(), 100).await,
                Err(UnpackError::Malformed),
                "{nonsense:?}"
            );
        }
    }
}
