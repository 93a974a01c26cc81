//! IPv4 networks of the cluster file.

use std::{fmt, net::Ipv4Addr};

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    base: u32,
    bits: u32,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetError {
    NotANetwork,
    Ipv6,
    /// It has host bits; this is the network it lies in.
    HostBits(Net),
}

impl Net {
    pub(super) fn parse(raw: &str) -> Result<Self, NetError> {
        let (base, bits) = raw.split_once('/').ok_or(NetError::NotANetwork)?;
        if base.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(NetError::Ipv6);
        }
        let base: Ipv4Addr = base.parse().map_err(|_| NetError::NotANetwork)?;
        if bits.is_empty() || bits.len() > 2 || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NetError::NotANetwork);
        }
        let bits: u32 = bits.parse().map_err(|_| NetError::NotANetwork)?;
        if bits > 32 {
            return Err(NetError::NotANetwork);
        }
        let net = Self {
            base: u32::from(base) & mask(bits),
            bits,
        };
        if net.base == u32::from(base) {
            Ok(net)
        } else {
            Err(NetError::HostBits(net))
        }
    }

    pub(super) fn bits(self) -> u32 {
        self.bits
    }

    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.bits) == self.base
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let bits = self.bits.min(other.bits);
        self.base & mask(bits) == other.base & mask(bits)
    }

    /// The address `n` after the first. Only for networks that have one.
    pub(super) fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.saturating_add(n))
    }

    /// `address` as its distance from the network's first.
    pub(super) fn offset(self, address: Ipv4Addr) -> u32 {
        u32::from(address).wrapping_sub(self.base)
    }
}

fn mask(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// Why no host can have this address. `None`: one can.
pub(super) fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets()[0] == 0 {
        Some("unspecified")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_link_local() {
        Some("link-local")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.octets()[0] >= 240 {
        Some("reserved")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let net = |raw| Net::parse(raw).unwrap();
        assert_eq!(net("10.96.0.0/12").to_string(), "10.96.0.0/12");
        assert_eq!(net("0.0.0.0/0").nth(1), Ipv4Addr::new(0, 0, 0, 1));
        assert_eq!(
            Net::parse("10.244.3.0/16"),
            Err(NetError::HostBits(net("10.244.0.0/16")))
        );
        for bad in [
            "10.0.0.0",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "x/8",
            "10.0.0.0/",
            "/",
        ] {
            assert_eq!(Net::parse(bad), Err(NetError::NotANetwork), "{bad}");
        }
        assert_eq!(Net::parse("fd00::/8"), Err(NetError::Ipv6));
        assert!(net("10.96.0.0/12").overlaps(net("10.100.3.0/24")));
        assert!(net("10.100.3.0/24").overlaps(net("10.96.0.0/12")));
        assert!(!net("10.96.0.0/12").overlaps(net("10.244.0.0/16")));
        assert!(net("0.0.0.0/0").overlaps(net("10.244.0.0/16")));
        assert!(net("10.1.2.3/32").contains("10.1.2.3".parse().unwrap()));
    }
}
