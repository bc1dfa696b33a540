//! The vectors of known senders, made by an independent implementation, and what must not pass.

use super::*;
use http::HeaderValue;
use std::time::Duration;

const SECRET: &str = "whatever-secret-token";
const WHSEC: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const STAMP: &str = "1749589385";
const WALL: Timestamp = Timestamp(1_749_589_385_000);

/// The signed body: the sample as compact JSON, in the order of its keys.
fn body() -> Vec<u8> {
    let sample = include_str!("../../tests/samples/15_om_outbound_text_2025.json");
    let (mut compact, mut quoted, mut escaped) = (String::new(), false, false);
    for c in sample.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => continue,
            _ => {}
        }
        compact.push(c);
    }
    compact.into_bytes()
}

struct Vector {
    preset: &'static str,
    secret: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const VECTORS: [Vector; 6] = [
    Vector {
        preset: "genesys-open-messaging",
        secret: SECRET,
        headers: &[("x-hub-signature-256", "sha256=FEfnDPsxmKKcd2ufsoM8vJ9mZAt99RaJkuCZz1Dpswg=")],
    },
    Vector {
        preset: "github",
        secret: SECRET,
        headers: &[("x-hub-signature-256", "sha256=1447e70cfb3198a29c776b9fb2833cbc9f66640b7df5168992e099cf50e9b308")],
    },
    Vector {
        preset: "zendesk",
        secret: SECRET,
        headers: &[
            ("x-zendesk-webhook-signature", "9uNj3I46f4Snt97nBeZnQfEhmUAzSXeAqFyHZ2026z0="),
            ("x-zendesk-webhook-signature-timestamp", STAMP),
        ],
    },
    Vector {
        preset: "zoom",
        secret: SECRET,
        headers: &[
            ("x-zm-signature", "v0=13e2e996b32d8144c927585043f33625edb28924f7a09211387950e5f1b209d8"),
            ("x-zm-request-timestamp", STAMP),
        ],
    },
    Vector {
        preset: "stripe",
        secret: SECRET,
        headers: &[(
            "stripe-signature",
            "t=1749589385,v1=57588a50890877e87ce830de551cf7be51708db0f96e85a1cec47f52bac215f1",
        )],
    },
    Vector {
        preset: "standard-webhooks",
        secret: WHSEC,
        headers: &[
            ("webhook-id", "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"),
            ("webhook-timestamp", STAMP),
            ("webhook-signature", "v1,exXG4JNSumQ6sFzuKoHRcWuTDfM6DYC/QFq9n1fp+KU="),
        ],
    },
];

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn verifier(preset: &str, secrets: &[&'static str]) -> Verifier {
    Verifier::new(Scheme::preset(preset).unwrap(), secrets.iter().copied()).unwrap()
}

fn passes(verifier: &Verifier, headers: &HeaderMap, wall: Timestamp, body: &[u8]) -> bool {
    verifier.claim(headers, wall).is_some_and(|claim| verifier.verify(&claim, body))
}

#[test]
fn the_test_vectors_of_every_sender_verify_and_altered_ones_fail() {
    let body = body();
    for vector in &VECTORS {
        let (name, sent) = (vector.preset, headers(vector.headers));
        let right = verifier(name, &[vector.secret]);
        assert!(passes(&right, &sent, WALL, &body), "{name}");
        let wrong = if vector.secret == WHSEC { "whsec_AAAA" } else { "another" };
        assert!(!passes(&verifier(name, &[wrong]), &sent, WALL, &body), "{name}: another secret");
        assert!(passes(&verifier(name, &[wrong, vector.secret]), &sent, WALL, &body), "{name}: while it is changed");
        for at in [0, body.len() / 2, body.len() - 1] {
            let mut other = body.clone();
            other[at] ^= 1;
            assert!(!passes(&right, &sent, WALL, &other), "{name}: byte {at} of the body");
        }
        assert!(!passes(&right, &sent, WALL, &[&body[..], b"\n"].concat()), "{name}: a line end");
        for (header, value) in vector.headers {
            let without: Vec<_> = vector.headers.iter().filter(|(n, _)| n != header).copied().collect();
            assert!(!passes(&right, &headers(&without), WALL, &body), "{name}: without {header}");
            for (at, _) in value.char_indices() {
                let mut other = value.as_bytes().to_vec();
                other[at] = if other[at] == b'9' { b'8' } else { b'9' };
                // the last digit of a padded base64 holds bits that no byte has: such a text is no base64 at all
                let other = String::from_utf8(other).unwrap();
                let changed: Vec<_> =
                    vector.headers.iter().map(|(n, v)| (*n, if n == header { other.as_str() } else { v })).collect();
                assert!(!passes(&right, &headers(&changed), WALL, &body), "{name}: {header} {other}");
            }
        }
    }
}

#[test]
fn the_legacy_preset_uses_sha1() {
    // HMAC-SHA1 of RFC 2202, case 2
    let right = verifier("genesys-engage", &["Jefe"]);
    let sent = headers(&[("x-hub-signature", "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")]);
    assert!(passes(&right, &sent, WALL, b"what do ya want for nothing?"));
    assert!(!passes(&right, &sent, WALL, b"what do ya want for nothing!"));
}

#[test]
fn a_timestamp_counts_within_its_tolerance_both_ways() {
    let body = body();
    for vector in VECTORS.iter().filter(|v| Scheme::preset(v.preset).unwrap().stamp.is_some()) {
        let (right, sent) = (verifier(vector.preset, &[vector.secret]), headers(vector.headers));
        for (seconds, near) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let wall = Timestamp(WALL.0.checked_add_signed(seconds * 1000).unwrap());
            assert_eq!(passes(&right, &sent, wall, &body), near, "{} {seconds}", vector.preset);
        }
    }
}

#[test]
fn timestamps_come_in_several_forms() {
    let stamp = |unit| Stamp { place: StampPlace::Field("t".to_owned()), unit, tolerance: Duration::from_secs(5) };
    for (unit, text, near) in [
        (StampUnit::Auto, "1749589385", true),
        (StampUnit::Auto, "1749589385000", true),
        (StampUnit::Auto, "2025-06-10T21:03:05Z", true),
        (StampUnit::Auto, "2025-06-10T21:03:06.123456Z", true),
        (StampUnit::Auto, "2025-06-10T21:04:05Z", false),
        (StampUnit::Seconds, "1749589385", true),
        (StampUnit::Seconds, "1749589385000", false),
        (StampUnit::Seconds, "18446744073709551615", false),
        (StampUnit::Milliseconds, "1749589385000", true),
        (StampUnit::Milliseconds, "1749589385", false),
        (StampUnit::Milliseconds, "2025-06-10T21:03:05Z", false),
        (StampUnit::Auto, "", false),
        (StampUnit::Auto, "-1", false),
        (StampUnit::Auto, " 1749589385", false),
        (StampUnit::Auto, "99999999999999999999999", false),
        (StampUnit::Auto, "soon", false),
    ] {
        assert_eq!(stamp(unit).is_near(text, WALL), near, "{unit:?} {text:?}");
    }
}

#[test]
fn any_of_several_signatures_may_verify() {
    let body = body();
    let right = "57588a50890877e87ce830de551cf7be51708db0f96e85a1cec47f52bac215f1";
    let wrong = "0".repeat(64);
    let stripe = verifier("stripe", &[SECRET]);
    let pass = |pairs: &[(&'static str, &str)]| passes(&stripe, &headers(pairs), WALL, &body);
    assert!(pass(&[("stripe-signature", &format!("t={STAMP},v1={wrong},v1={right},v0=x"))]));
    assert!(pass(&[
        ("stripe-signature", &format!("t={STAMP}, v1={wrong}")),
        ("stripe-signature", &format!("v1={right}"))
    ]));
    assert!(pass(&[("stripe-signature", &format!("v1={right},t={STAMP}"))]));
    assert!(pass(&[("stripe-signature", &format!("t={STAMP},v1={}", right.to_uppercase()))]));
    assert!(!pass(&[("stripe-signature", &format!("t={STAMP},v0={right}"))]));
    assert!(!pass(&[("stripe-signature", &format!("t={STAMP},t=1,v1={}", &right[1..]))]));
    assert!(!pass(&[("stripe-signature", &format!("t=1,t={STAMP},v1={right}"))]), "the first timestamp counts");
    let many = format!("t={STAMP},{}v1={right}", format!("v1={wrong},").repeat(SIGNATURES_MAX));
    assert!(!pass(&[("stripe-signature", &many)]), "so many signatures are not looked at");
    let two = format!("v1,{} v1,exXG4JNSumQ6sFzuKoHRcWuTDfM6DYC/QFq9n1fp+KU= v1a,xyz", "A".repeat(44));
    let sent = headers(&[
        ("webhook-id", "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"),
        ("webhook-timestamp", STAMP),
        ("webhook-signature", &two),
    ]);
    assert!(passes(&verifier("standard-webhooks", &[WHSEC]), &sent, WALL, &body));
}

#[test]
fn parameters_define_any_scheme() {
    // HMAC-SHA512 of RFC 4231, case 2
    let scheme = Scheme {
        algorithm: Algorithm::Sha512,
        signed: "what do {body}".parse().unwrap(),
        secret_encoding: SecretEncoding::Hex,
        ..Scheme::plain(HeaderName::from_static("x-s"))
    };
    let right = Verifier::new(scheme, ["4a656665"]).unwrap();
    let mac = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";
    assert!(passes(&right, &headers(&[("x-s", mac)]), WALL, b"ya want for nothing?"));
    assert!(!passes(&right, &headers(&[("x-s", mac)]), WALL, b"ya want for nothing"));
    assert!(!passes(&right, &headers(&[("x-s", "")]), WALL, b""));
    assert!(!passes(&right, &headers(&[("x-s", &mac[..126])]), WALL, b"ya want for nothing?"), "a part of it");
}

#[test]
fn secrets_are_decoded_and_never_shown() {
    for (encoding, good, bad) in [
        (SecretEncoding::Hex, "00ff", "0"),
        (SecretEncoding::Base64, "MDEyMw==", "MDEyM"),
        (SecretEncoding::Whsec, "whsec_MDEyMw", "whsec_"),
    ] {
        assert!(encoding.decode(good).is_ok(), "{good}");
        let fault = encoding.decode(bad).unwrap_err().to_string();
        assert!(fault.contains("secret_encoding") && !fault.contains(&format!("{bad} ")), "{fault}");
    }
    let shown = format!("{:?}", verifier("github", &[SECRET]));
    assert!(!shown.contains(SECRET) && shown.contains("keys: 1"), "{shown}");
}

#[test]
fn every_preset_is_complete() {
    for name in PRESETS {
        let scheme = Scheme::preset(name).unwrap();
        assert_eq!(scheme.signed.has_timestamp(), scheme.stamp.is_some(), "{name}");
        assert_eq!(scheme.signed.has_id(), scheme.id.is_some(), "{name}");
    }
    assert!(Scheme::preset("").is_none());
}

/// Whatever headers come in: neither a panic nor a pass.
#[test]
fn invalid_signatures_do_not_verify() {
    let mut random = fastrand::Rng::with_seed(11);
    let body = body();
    for _ in 0..20_000 {
        let vector = &VECTORS[random.usize(..VECTORS.len())];
        let mut changed: Vec<(&'static str, String)> =
            vector.headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        let at = random.usize(..changed.len());
        let (_, value) = &mut changed[at];
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..=value.len());
            match random.u8(..3) {
                0 => value.insert_str(place, ["v1,", "=", ",", " ", "t=", "A", "~", "0"][random.usize(..7)]),
                1 => value.truncate(place),
                _ => *value = value.replacen(|c: char| c.is_ascii_digit(), "f", 1),
            }
        }
        if vector.headers.iter().zip(&changed).all(|((_, a), (_, b))| a == b) {
            continue;
        }
        let mut map = HeaderMap::new();
        for (name, value) in &changed {
            if let Ok(value) = HeaderValue::from_str(value) {
                map.append(*name, value);
            }
        }
        let right = verifier(vector.preset, &[vector.secret]);
        let _ = passes(&right, &map, WALL, &body);
        assert!(!passes(&right, &map, WALL, b"{}"));
    }
}
