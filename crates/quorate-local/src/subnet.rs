//! The subnet of a cluster: always a /24 of private addresses, the gateway always `.1`. Begin at [`Subnet`].

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A /24 network of private IPv4 addresses. `.1` is the machine itself; hosts take `.2` to `.254`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet([u8; 3]);

/// A subnet that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a subnet for local hosts: {rule}")]
pub struct BadSubnet {
    /// What was given, shortened and with control characters escaped.
    pub given: String,
    /// The rule it breaks, to be read after a colon.
    pub rule: &'static str,
}

impl Subnet {
    /// The network holding `address`.
    pub fn around(address: Ipv4Addr) -> Subnet {
        let [a, b, c, _] = address.octets();
        Subnet([a, b, c])
    }

    /// The address with this last byte.
    pub fn host(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The machine's own address in the network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// Whether a host may have this address: inside the network and neither its ends nor the gateway.
    pub fn takes(&self, address: Ipv4Addr) -> bool {
        Subnet::around(address) == *self && (2..=254).contains(&address.octets()[3])
    }

    /// Whether any address is both in this network and in `other`/`prefix`.
    pub(crate) fn overlaps(&self, other: Ipv4Addr, prefix: u8) -> bool {
        let bits = u32::from(prefix.min(24));
        let mask = if bits == 0 {
            0
        } else {
            u32::MAX << (32 - bits)
        };
        u32::from(self.host(0)) & mask == u32::from(other) & mask
    }

    /// The networks tried, in this order, for a cluster that does not ask for one: 256 of the less used end of
    /// the private ranges.
    pub(crate) fn candidates() -> impl Iterator<Item = Subnet> {
        (0..=255).map(|c| Subnet([172, 30, c]))
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;
    fn from_str(given: &str) -> Result<Subnet, BadSubnet> {
        let bad = |rule| BadSubnet {
            given: given
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect(),
            rule,
        };
        let (address, prefix) = given
            .split_once('/')
            .ok_or_else(|| bad("expected A.B.C.0/24"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("expected A.B.C.0/24"))?;
        if prefix != "24" {
            return Err(bad("it has to be a /24"));
        }
        if address.octets()[3] != 0 {
            return Err(bad("the last byte of a /24 is 0"));
        }
        // Shared (RFC 6598) and benchmark (RFC 2544) addresses are as unlikely to hide something real as RFC 1918's.
        let [a, b, ..] = address.octets();
        let private = address.is_private()
            || (a == 100 && (64..128).contains(&b))
            || (a == 198 && (18..20).contains(&b));
        if !private {
            return Err(bad(
                "only private addresses, so that nothing real is hidden (10/8, 172.16/12, 192.168/16)",
            ));
        }
        Ok(Subnet::around(address))
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;
    fn try_from(given: String) -> Result<Subnet, BadSubnet> {
        given.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/24", self.host(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &str, expect: &str) {
        let got = given
            .parse::<Subnet>()
            .map(|s| s.to_string())
            .unwrap_or_else(|e| e.rule.to_owned());
        assert_eq!(got, expect);
    }

    #[test]
    fn only_private_slash_24() {
        check("172.30.7.0/24", "172.30.7.0/24");
        check("100.64.1.0/24", "100.64.1.0/24");
        check("172.30.7.0", "expected A.B.C.0/24");
        check("172.30.7.0/16", "it has to be a /24");
        check("172.30.7.5/24", "the last byte of a /24 is 0");
        check(
            "8.8.8.0/24",
            "only private addresses, so that nothing real is hidden (10/8, 172.16/12, 192.168/16)",
        );
        check("fd00::/24", "expected A.B.C.0/24");
    }

    #[test]
    fn overlap_goes_by_the_shorter_prefix() {
        let net: Subnet = "172.30.7.0/24".parse().expect("valid");
        for (other, prefix, expect) in [
            ([172, 30, 7, 0], 24, true),
            ([172, 30, 8, 0], 24, false),
            ([172, 16, 0, 0], 12, true),
            ([172, 30, 7, 200], 32, true),
            ([172, 30, 6, 0], 23, true),
            ([0, 0, 0, 0], 0, true),
            ([10, 0, 0, 0], 8, false),
        ] {
            assert_eq!(
                net.overlaps(Ipv4Addr::from(other), prefix),
                expect,
                "{other:?}/{prefix}"
            );
        }
    }

    #[test]
    fn hosts_take_neither_the_ends_nor_the_gateway() {
        let net: Subnet = "10.1.2.0/24".parse().expect("valid");
        let taken: Vec<u8> = (0..=255).filter(|&n| net.takes(net.host(n))).collect();
        assert_eq!(
            (taken.first(), taken.last(), taken.len()),
            (Some(&2), Some(&254), 253)
        );
        assert!(!net.takes(Ipv4Addr::new(10, 1, 3, 7)));
    }
}
