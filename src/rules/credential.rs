//! Which headers and query parameters hold credentials, by their names; these must not be stored.
//!
//! A name is split into words at `-`, `_` and `.`, and before a capital letter that follows a small one. In doubt the
//! value is not stored; a profile names the places that it needs.

/// What the name of a header or parameter says about its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    Plain,
    /// A signature of this one request.
    Signature,
    /// A credential: anyone who has it can send requests.
    Credential,
}

/// Words that mark a credential, alone or as the end of a longer word.
const ENDINGS: [&str; 11] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
    "apikey",
    "accesskey",
    "authkey",
    "cookie",
];
/// Words that mark a credential only where they are the whole word.
const WORDS: [&str; 10] =
    ["key", "auth", "authorization", "authentication", "oauth", "jwt", "pwd", "pass", "bearer", "code"];
/// A `key` after one of these words is an identifier, not a credential.
const HARMLESS_KEYS: [&str; 11] = [
    "idempotency",
    "partition",
    "routing",
    "dedup",
    "deduplication",
    "sort",
    "event",
    "message",
    "object",
    "record",
    "interaction",
];
const SIGNATURES: [&str; 4] = ["signature", "sig", "hmac", "signed"];

/// Classifies the name of a header or query parameter.
pub fn secrecy(name: &str) -> Secrecy {
    let words = words(name);
    let before = |i: usize| i.checked_sub(1).and_then(|i| words.get(i)).map(String::as_str);
    let harmless = |i: usize| before(i).is_some_and(|word| HARMLESS_KEYS.contains(&word));
    let opens = |(i, word): (usize, &String)| {
        ENDINGS.iter().any(|ending| word.ends_with(ending)) || (WORDS.contains(&word.as_str()) && !harmless(i))
    };
    if words.iter().enumerate().any(opens) {
        Secrecy::Credential
    } else if words.iter().any(|word| SIGNATURES.contains(&word.as_str())) {
        Secrecy::Signature
    } else {
        Secrecy::Plain
    }
}

/// The words of a name, in lower case.
fn words(name: &str) -> Vec<String> {
    let (mut words, mut was_small) = (vec![String::new()], false);
    for c in name.chars() {
        let parts = !c.is_ascii_alphanumeric();
        if parts || (was_small && c.is_ascii_uppercase()) {
            words.push(String::new());
        }
        if !parts && let Some(last) = words.last_mut() {
            last.push(c.to_ascii_lowercase());
        }
        was_small = c.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_classify_credentials_signatures_and_others() {
        let credentials = [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-apikey",
            "apiKey",
            "api_key",
            "key",
            "x-auth-token",
            "access_token",
            "accessToken",
            "x-amz-security-token",
            "x-goog-iam-authorization-token",
            "ocp-apim-subscription-key",
            "x-functions-key",
            "code",
            "client_secret",
            "x-client-secret-2",
            "aeg-sas-key",
            "aeg-sas-token",
            "x-gitlab-token",
            "x-webhook-secret",
            "x-hasura-admin-secret",
            "jwt",
            "x-jwt-assertion",
            "password",
            "pwd",
        ];
        let signatures =
            ["x-hub-signature-256", "stripe-signature", "webhook-signature", "sig", "x-sig", "x-hmac-sha256"];
        let plain = [
            "ce-id",
            "ce-partitionkey",
            "ce-type",
            "content-type",
            "idempotency-key",
            "partition_key",
            "x-event-key",
            "x-github-delivery",
            "webhook-id",
            "webhook-timestamp",
            "x-event-type",
            "x-author",
            "monkey",
            "type",
            "zipcode",
            "x-request-id",
        ];
        for (names, wanted) in [
            (credentials.as_slice(), Secrecy::Credential),
            (signatures.as_slice(), Secrecy::Signature),
            (plain.as_slice(), Secrecy::Plain),
        ] {
            for name in names {
                assert_eq!(secrecy(name), wanted, "{name}");
            }
        }
    }
}
