//! The `Host` of a request: who is meant, said once and readable (RFC 9112, section 3.2; RFC 9113, section 8.3.1).

use http::uri::Authority;
use http::{HeaderMap, Uri, Version, header};

/// Whether a request names its host as its version wants it. HTTP/1.1 has exactly one `Host` line, HTTP/1.0 at most one; in
/// HTTP/2 it may be left out where `:authority` is there, and must not contradict it. In HTTP/1.1 a target in absolute form
/// counts and its `Host` is ignored, as RFC 9112, section 3.2.2 wants.
pub fn is_sound(version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::HOST).iter();
    let (first, second) = (lines.next(), lines.next());
    if second.is_some() {
        return false;
    }
    let Some(host) = first else {
        return version < Version::HTTP_11 || (version >= Version::HTTP_2 && uri.host().is_some());
    };
    let Some(host) = host.to_str().ok().filter(|host| is_host(host)) else { return false };
    match uri.authority() {
        Some(authority) if version >= Version::HTTP_2 => authority.as_str().eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// A host with or without a port, and nobody's user name; the empty one is allowed by the grammar.
fn is_host(text: &str) -> bool {
    text.is_empty() || (!text.contains('@') && text.parse::<Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn sound(version: Version, uri: &str, hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        is_sound(version, &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn a_request_has_one_host_as_its_version_requires() {
        let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let cases: [(Version, &str, &[&'static str], bool); 19] = [
            (one, "/in/a", &["holdline.internal"], true),
            (one, "/in/a", &["holdline.internal:8080"], true),
            (one, "/in/a", &["[::1]:8080"], true),
            (one, "/in/a", &["under_score"], true),
            (one, "/in/a", &[""], true),
            (one, "/in/a", &[], false),
            (one, "/in/a", &["a", "b"], false),
            (one, "/in/a", &["a", "a"], false),
            (one, "/in/a", &["a b"], false),
            (one, "/in/a", &["a, b"], false),
            (one, "/in/a", &["user@a"], false),
            (one, "/in/a", &["a/b"], false),
            (one, "http://a/in/a", &["b"], true),
            (one, "http://a/in/a", &[], false),
            (old, "/in/a", &[], true),
            (old, "/in/a", &["a", "b"], false),
            (two, "https://a/in/a", &[], true),
            (two, "https://a/in/a", &["A"], true),
            (two, "https://a/in/a", &["b"], false),
        ];
        for (version, uri, hosts, is) in cases {
            assert_eq!(sound(version, uri, hosts), is, "{version:?} {uri} {hosts:?}");
        }
    }
}
