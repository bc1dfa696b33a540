//! When certificates end: the one field of X.509 that an operator must know in time.
//!
//! *Invariants.* Only read from certificates that were taken into use, and trusted for nothing but an alert. What cannot be
//! read has no end.

use crate::time::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A certificate in use, or several from one file, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `intake`, or the name of a destination.
    pub of: String,
    pub role: Role,
    pub ends: Timestamp,
}

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It proves who holdline is.
    Own,
    /// It proves who others are.
    Authority,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Authority => "authority",
        }
    }
}

/// When the first certificate of a file ends; none where nothing can be read.
pub fn first_end_in(path: &Path) -> Option<Timestamp> {
    let all = CertificateDer::pem_file_iter(path).ok()?;
    all.filter_map(|certificate| not_after(&certificate.ok()?)).min()
}

/// When a certificate ends (RFC 5280, 4.1.2.5); none where that cannot be read.
fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = inside(der, SEQUENCE)?;
    let (mut fields, _) = inside(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // serial number, algorithm, issuer
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (validity, _) = inside(fields, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    moment(tag, std::str::from_utf8(text).ok()?)
}

fn inside(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(der)?;
    (tag == wanted).then_some((content, rest))
}

/// The first element: its tag, its content, and what comes behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn moment(tag: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z').filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    let digits = match (tag, digits.len()) {
        // two digits of the year: 1950 to 2049
        (UTC_TIME, 12) => format!("{}{digits}", if &digits[..2] >= "50" { "19" } else { "20" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let of = |range: std::ops::Range<usize>| &digits[range];
    let text = format!("{}-{}-{}T{}:{}:{}Z", of(0..4), of(4..6), of(6..8), of(8..10), of(10..12), of(12..14));
    humantime::parse_rfc3339(&text).ok().map(Timestamp::from_system)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_expiry_is_read_in_both_forms() {
        for (year, end) in [(2031, "2031-03-04T00:00:00.000Z"), (2080, "2080-03-04T00:00:00.000Z")] {
            let found = not_after(certificate(year).der()).unwrap();
            assert_eq!(found.to_string(), end);
        }
    }

    #[test]
    fn the_earliest_expiry_counts_and_invalid_input_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.pem");
        std::fs::write(&path, [certificate(2050).pem(), certificate(2040).pem()].concat()).unwrap();
        assert_eq!(first_end_in(&path).unwrap().to_string(), "2040-03-04T00:00:00.000Z");
        assert_eq!(first_end_in(&folder.path().join("none.pem")), None);
        let der = certificate(2040).der().to_vec();
        // wherever it is cut it is either the same or nothing, and never a panic
        for n in 0..der.len() {
            assert_eq!(not_after(&der[..n]), None, "{n}");
        }
        assert_eq!(moment(UTC_TIME, "99123123595Z"), None);
        assert_eq!(moment(UTC_TIME, "991332235959Z"), None);
    }
}
