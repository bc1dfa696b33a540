//! Which addresses a destination may have.
//!
//! Private networks and loopback addresses are allowed. Refused are link-local, metadata and unspecified addresses,
//! through which a machine reaches services that only it should see: a name that resolves to one, by mistake or on
//! purpose, would send events and credentials to a cloud's metadata service or to any service of the local machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether [`forbidden`] addresses are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPolicy {
    /// Allows all but link-local, metadata and unspecified addresses.
    Guarded,
    Anywhere,
}

/// Metadata addresses of clouds that are not link-local: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
/// Metadata addresses of AWS and Google.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

impl AddressPolicy {
    /// Why an address is refused; none where it is allowed.
    pub fn refusal(self, ip: IpAddr) -> Option<&'static str> {
        match self {
            Self::Anywhere => None,
            Self::Guarded => forbidden(ip),
        }
    }
}

fn forbidden(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => forbidden_v4(ip),
        IpAddr::V6(ip) => forbidden_v6(ip).or_else(|| inner_v4(ip).and_then(forbidden_v4)),
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip {
        _ if ip.octets()[0] == 0 => Some("an unspecified address"),
        _ if ip.is_link_local() => Some("a link-local address"),
        _ if METADATA_V4.contains(&ip) => Some("the address of a metadata service"),
        _ => None,
    }
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("an unspecified address"),
        _ if ip.is_unicast_link_local() => Some("a link-local address"),
        _ if METADATA_V6.contains(&ip) => Some("the address of a metadata service"),
        _ => None,
    }
}

/// The IPv4 address embedded in an IPv6 address: mapped, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn inner_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_class_is_allowed_or_refused() {
        let refused = [
            ("169.254.169.254", "a link-local address"),
            ("169.254.0.1", "a link-local address"),
            ("::ffff:169.254.169.254", "a link-local address"),
            ("64:ff9b::169.254.169.254", "a link-local address"),
            ("2002:a9fe:a9fe::1", "a link-local address"),
            ("fe80::1", "a link-local address"),
            ("febf::1", "a link-local address"),
            ("0.0.0.0", "an unspecified address"),
            ("0.1.2.3", "an unspecified address"),
            ("::", "an unspecified address"),
            ("::ffff:0.0.0.0", "an unspecified address"),
            ("fd00:ec2::254", "the address of a metadata service"),
            ("fd20:ce::254", "the address of a metadata service"),
            ("100.100.100.200", "the address of a metadata service"),
            ("168.63.129.16", "the address of a metadata service"),
            ("::ffff:192.0.0.192", "the address of a metadata service"),
        ];
        for (ip, why) in refused {
            assert_eq!(AddressPolicy::Guarded.refusal(ip.parse().unwrap()), Some(why), "{ip}");
            assert_eq!(AddressPolicy::Anywhere.refusal(ip.parse().unwrap()), None, "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "fd00::1",
            "1.1.1.1",
            "::ffff:10.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "fec0::1",
            "64:ff9b::10.0.0.1",
            "2606:4700::1",
        ] {
            assert_eq!(AddressPolicy::Guarded.refusal(ip.parse().unwrap()), None, "{ip}");
        }
    }
}
