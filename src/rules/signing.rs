//! Signatures of outgoing requests as in Standard Webhooks 1.0: the receiver can verify who sent a request, and when.
//!
//! `{id}.{seconds}.{body}` is signed with HMAC-SHA256. The id is that of the event; the time is that of the attempt,
//! since receivers refuse requests older than some minutes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use std::fmt;

/// The minimum of Standard Webhooks: 192 bits.
const KEY_BYTES_MIN: usize = 24;
const PREFIX: &str = "whsec_";

/// Why a secret is invalid; the text does not contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it does not begin with `{PREFIX}`; write `{PREFIX}` and the key in base64")]
    Prefix,
    #[error("what follows `{PREFIX}` is not base64")]
    Base64,
    #[error("its key is shorter than {KEY_BYTES_MIN} bytes; make a longer one")]
    Short,
}

/// The key of a signature. `Debug` does not show it.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Key {
    /// Parses a secret: `whsec_` and the key in base64.
    pub fn decode(secret: &str) -> Result<Self, KeyError> {
        let Some(encoded) = secret.strip_prefix(PREFIX) else {
            return Err(KeyError::Prefix);
        };
        let key = STANDARD.decode(encoded.trim()).map_err(|_| KeyError::Base64)?;
        if key.len() < KEY_BYTES_MIN {
            return Err(KeyError::Short);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }
}

/// The value of `webhook-signature`: one signature per key, so that keys can be rotated.
pub fn signatures(keys: &[Key], id: &str, seconds: u64, body: &[u8]) -> String {
    let one = |key: &Key| {
        let mut mac = hmac::Context::with_key(&key.0);
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.sign()))
    };
    keys.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const ID: &str = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W";

    /// Vectors from an independent implementation.
    #[test]
    fn a_signature_follows_standard_webhooks() {
        let body = compact(include_str!("../../tests/samples/15_om_outbound_text_2025.json"));
        let keys = [Key::decode(SECRET).unwrap()];
        let wanted = "v1,exXG4JNSumQ6sFzuKoHRcWuTDfM6DYC/QFq9n1fp+KU=";
        assert_eq!(signatures(&keys, ID, 1_749_589_385, body.as_bytes()), wanted);
        let other = Key::decode("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        let two = signatures(&[keys[0].clone(), other], ID, 1_749_589_385, body.as_bytes());
        assert!(two.starts_with(&format!("{wanted} v1,")) && two.matches("v1,").count() == 2, "{two}");
        for (id, seconds, body) in [("msg", 1_749_589_385, body.as_str()), (ID, 1, &body), (ID, 1_749_589_385, "")] {
            assert_ne!(signatures(&keys, id, seconds, body.as_bytes()), wanted);
        }
        assert_eq!(format!("{keys:?}"), "[***]");
    }

    /// JSON without whitespace between tokens, keys in the order of the file.
    fn compact(text: &str) -> String {
        let (mut out, mut inside, mut escaped) = (String::new(), false, false);
        for c in text.chars() {
            if inside || !c.is_whitespace() {
                out.push(c);
            }
            (inside, escaped) = match c {
                '"' if !escaped => (!inside, false),
                '\\' => (inside, !escaped),
                _ => (inside, false),
            };
        }
        out
    }

    #[test]
    fn a_malformed_secret_is_refused_with_its_fault() {
        for (secret, wanted) in [
            ("hunter2", "it does not begin with `whsec_`; write `whsec_` and the key in base64"),
            ("whsec_hunter2!", "what follows `whsec_` is not base64"),
            ("whsec_aHVudGVyMg==", "its key is shorter than 24 bytes; make a longer one"),
        ] {
            assert_eq!(Key::decode(secret).unwrap_err().to_string(), wanted);
        }
    }
}
