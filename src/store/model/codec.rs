//! The codec of all stored records.
//!
//! *Format.* A record is an envelope of 10 bytes and its payload:
//! ```text
//! kind u8 | version u8 | crc32 u32 LE | length u32 LE | payload
//! ```
//! The CRC covers kind, version, length and payload. The payload is bincode 1 (fixed-size integers, little-endian) of one
//! frozen struct per kind and version. A change of a struct is a new version, which is read by the struct's own module.
//! These records have a second version: rows of `history` and `settled` (`delta_encoding`), audit entries (`audit`),
//! redrives (`destination`), deliveries and dead letters (`event_record`), and quarantined requests (`quarantined_request`).
//!
//! *Failure.* A record that does not verify is [`Damaged`]; nothing here panics on any bytes.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Page = 1,
    History = 2,
    Settled = 3,
    Delivery = 4,
    DeadLetter = 5,
    Totals = 6,
    Names = 7,
    Hold = 8,
    Audit = 9,
    DamagedRecord = 10,
    IntakeOverride = 20,
    Outage = 21,
    Heartbeat = 22,
    DestinationOverrides = 23,
    Redrive = 24,
    RedriveList = 25,
    AlertState = 26,
    PacingState = 27,
    ClockReference = 28,
    QuarantinedRequest = 30,
}

impl Kind {
    /// Its newest version.
    fn newest(self) -> u8 {
        match self {
            Self::History
            | Self::Settled
            | Self::Audit
            | Self::QuarantinedRequest
            | Self::Redrive
            | Self::Delivery
            | Self::DeadLetter => 2,
            _ => VERSION,
        }
    }

    const ALL: [Self; 20] = [
        Self::Page,
        Self::History,
        Self::Settled,
        Self::Delivery,
        Self::DeadLetter,
        Self::Totals,
        Self::Names,
        Self::Hold,
        Self::Audit,
        Self::DamagedRecord,
        Self::IntakeOverride,
        Self::Outage,
        Self::Heartbeat,
        Self::DestinationOverrides,
        Self::Redrive,
        Self::RedriveList,
        Self::AlertState,
        Self::PacingState,
        Self::ClockReference,
        Self::QuarantinedRequest,
    ];
}

/// The version that [`encode`] writes, for every kind; most kinds have no other.
const VERSION: u8 = 1;
pub const ENVELOPE: usize = 10;
/// Limit of a record's length: 256 MiB. The longest body is 32 MiB; attempts, headers and the overhead of incompressible
/// data take far less than the rest.
const LENGTH_MAX: u64 = 256 << 20;

/// Why stored bytes are not the expected record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("the record is cut short")]
    Short,
    #[error("the record is of kind {found}, not {wanted}")]
    Kind { found: u8, wanted: u8 },
    #[error("the record has version {0}, which this holdline does not know")]
    Version(u8),
    #[error("the record's checksum does not match")]
    Checksum,
    #[error("the record's content does not decode")]
    Content,
    #[error("the record is missing")]
    Missing,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_little_endian().with_limit(LENGTH_MAX)
}

fn packed_options() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding().with_limit(LENGTH_MAX)
}

/// The bare payload of a value, for records inside another record.
pub fn payload<T: Serialize>(value: &T) -> Vec<u8> {
    options().serialize(value).expect("records are bounded and hold nothing that bincode refuses")
}

pub fn from_payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damaged> {
    options().deserialize(bytes).map_err(|_| Damaged::Content)
}

/// Length of the result of [`payload`] in bytes.
pub fn payload_length<T: Serialize>(value: &T) -> u64 {
    options().serialized_size(value).expect("records are bounded and hold nothing that bincode refuses")
}

/// As [`payload`], with integers of variable length.
pub fn packed<T: Serialize>(value: &T) -> Vec<u8> {
    packed_options().serialize(value).expect("records are bounded and hold nothing that bincode refuses")
}

pub fn from_packed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damaged> {
    packed_options().deserialize(bytes).map_err(|_| Damaged::Content)
}

/// Puts a payload of version 1 into its envelope.
pub fn seal(kind: Kind, payload: &[u8]) -> Vec<u8> {
    seal_as(kind, VERSION, payload)
}

pub fn seal_as(kind: Kind, version: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("records are far smaller than 4 GiB");
    let mut out = Vec::with_capacity(ENVELOPE + payload.len());
    out.extend([kind as u8, version]);
    out.extend(checksum(kind as u8, version, payload).to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(payload);
    out
}

pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    seal(kind, &payload(value))
}

/// Length of the whole record, with its envelope, from its first bytes.
pub fn sealed_length(bytes: &[u8]) -> Result<usize, Damaged> {
    let length = bytes.get(6..ENVELOPE).ok_or(Damaged::Short)?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken"));
    if u64::from(length) > LENGTH_MAX { Err(Damaged::Checksum) } else { Ok(ENVELOPE + length as usize) }
}

/// The kind of a record according to its first bytes; not verified.
pub fn kind_of(bytes: &[u8]) -> Option<Kind> {
    let kind = Kind::ALL.into_iter().find(|kind| Some(&(*kind as u8)) == bytes.first());
    kind.filter(|kind| bytes.get(1).is_some_and(|version| (VERSION..=kind.newest()).contains(version)))
}

/// Verifies a record of version 1 and returns its payload.
pub fn open(kind: Kind, bytes: &[u8]) -> Result<&[u8], Damaged> {
    match open_any(kind, bytes)? {
        (VERSION, payload) => Ok(payload),
        (version, _) => Err(Damaged::Version(version)),
    }
}

/// Verifies a record of any known version of the kind, and returns its version and payload.
pub fn open_any(kind: Kind, bytes: &[u8]) -> Result<(u8, &[u8]), Damaged> {
    if bytes.len() < ENVELOPE || bytes.len() != sealed_length(bytes)? {
        return Err(Damaged::Short);
    }
    let (found, version) = (bytes[0], bytes[1]);
    let crc = u32::from_le_bytes(bytes[2..6].try_into().expect("four bytes were taken"));
    let payload = &bytes[ENVELOPE..];
    if crc != checksum(found, version, payload) {
        return Err(Damaged::Checksum);
    }
    if found != kind as u8 {
        return Err(Damaged::Kind { found, wanted: kind as u8 });
    }
    if !(VERSION..=kind.newest()).contains(&version) {
        return Err(Damaged::Version(version));
    }
    Ok((version, payload))
}

pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Damaged> {
    from_payload(open(kind, bytes)?)
}

fn checksum(kind: u8, version: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind, version]);
    crc.update(&(payload.len() as u32).to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_cannot_claim_more_parts_than_exist() {
        let claiming = |length: u64| [&[1, 1, 0, 0, 0, 0][..], &(length as u32).to_le_bytes()].concat();
        assert_eq!(sealed_length(&claiming(LENGTH_MAX)), Ok(ENVELOPE + LENGTH_MAX as usize));
        for length in [LENGTH_MAX + 1, u64::from(u32::MAX)] {
            assert_eq!(sealed_length(&claiming(length)), Err(Damaged::Checksum));
        }
        assert_eq!(sealed_length(&claiming(0)[..ENVELOPE - 1]), Err(Damaged::Short));
    }

    #[test]
    fn a_record_names_its_kind_where_its_version_is_known() {
        for kind in Kind::ALL {
            assert_eq!(kind_of(&seal(kind, b"")), Some(kind));
            assert_eq!(kind_of(&seal_as(kind, 0, b"")), None);
            assert_eq!(kind_of(&seal_as(kind, kind.newest(), b"")), Some(kind));
            assert_eq!(kind_of(&seal_as(kind, kind.newest() + 1, b"")), None);
        }
        assert_eq!((kind_of(&[]), kind_of(&[1]), kind_of(&[0, 1])), (None, None, None));
        assert_eq!(open(Kind::Hold, &seal(Kind::Hold, b"")), Ok(&b""[..]));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let sealed = encode(Kind::Audit, &("who", 7u64));
        assert_eq!(decode::<(String, u64)>(Kind::Audit, &sealed), Ok(("who".to_owned(), 7)));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(String, u64)>(Kind::Audit, &bad).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(decode::<(String, u64)>(Kind::Audit, &sealed[..length]).is_err(), "cut to {length}");
        }
        assert_eq!(
            decode::<(String, u64)>(Kind::Hold, &sealed),
            Err(Damaged::Kind { found: Kind::Audit as u8, wanted: Kind::Hold as u8 })
        );
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let payload = payload(&1u8);
        let mut newer = seal(Kind::Hold, &payload);
        newer[1] = 2;
        newer[2..6].copy_from_slice(&checksum(Kind::Hold as u8, 2, &payload).to_le_bytes());
        assert_eq!(decode::<u8>(Kind::Hold, &newer), Err(Damaged::Version(2)));
    }
}
