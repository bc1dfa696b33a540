//! The table of senders whose way of signing is known.

use super::scheme::{Algorithm, Encoding, Scheme, Stamp, StampPlace, StampUnit};
use super::secret::SecretEncoding;
use http::HeaderName;
use std::time::Duration;

/// Names that [`Scheme::preset`] knows.
pub const PRESETS: [&str; 7] =
    ["genesys-open-messaging", "genesys-engage", "github", "standard-webhooks", "zendesk", "zoom", "stripe"];

impl Scheme {
    /// How far a timestamp may lie from the clock on the wall, where nothing else is said (Standard Webhooks).
    pub const TOLERANCE: Duration = Duration::from_secs(300);

    /// HMAC-SHA256 of the body, in hexadecimal: what most senders that are in no table do.
    pub fn plain(header: HeaderName) -> Self {
        Self {
            header,
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            prefix: String::new(),
            separator: None,
            signed: "{body}".parse().expect("it signs the body"),
            stamp: None,
            id: None,
            secret_encoding: SecretEncoding::Utf8,
        }
    }

    /// The scheme of a known sender.
    pub fn preset(name: &str) -> Option<Self> {
        let plain = |header| Self::plain(HeaderName::from_static(header));
        Some(match name {
            "genesys-open-messaging" => {
                let plain = plain("x-hub-signature-256");
                Self { encoding: Encoding::Base64, prefix: "sha256=".to_owned(), ..plain }
            }
            "genesys-engage" => {
                let plain = plain("x-hub-signature");
                Self { algorithm: Algorithm::Sha1, prefix: "sha1=".to_owned(), ..plain }
            }
            "github" => Self { prefix: "sha256=".to_owned(), ..plain("x-hub-signature-256") },
            "standard-webhooks" => Self {
                encoding: Encoding::Base64,
                prefix: "v1,".to_owned(),
                separator: Some(' '),
                id: Some(HeaderName::from_static("webhook-id")),
                secret_encoding: SecretEncoding::Whsec,
                ..plain("webhook-signature").stamped("{id}.{ts}.{body}", in_header("webhook-timestamp"))
            },
            "zendesk" => {
                let stamp = in_header("x-zendesk-webhook-signature-timestamp");
                let plain = plain("x-zendesk-webhook-signature").stamped("{ts}{body}", stamp);
                Self { encoding: Encoding::Base64, ..plain }
            }
            "zoom" => {
                let plain = plain("x-zm-signature").stamped("v0:{ts}:{body}", in_header("x-zm-request-timestamp"));
                Self { prefix: "v0=".to_owned(), ..plain }
            }
            "stripe" => {
                let plain = plain("stripe-signature").stamped("{ts}.{body}", StampPlace::Field("t".to_owned()));
                Self { prefix: "v1=".to_owned(), separator: Some(','), ..plain }
            }
            _ => return None,
        })
    }

    fn stamped(self, signed: &str, place: StampPlace) -> Self {
        let signed = signed.parse().expect("the templates of the table are read by a test");
        Self { signed, stamp: Some(Stamp { place, unit: StampUnit::Auto, tolerance: Self::TOLERANCE }), ..self }
    }
}

fn in_header(name: &'static str) -> StampPlace {
    StampPlace::Header(HeaderName::from_static(name))
}
