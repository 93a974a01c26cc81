//! The names of local hosts: parsed once at the edge, so that nothing inside handles a name that could be a path,
//! an option or two names. Begin at [`ClusterName`], [`HostName`] and [`BridgeName`].
//!
//! Three limits meet here. A host's name is its hostname (a DNS label). A network interface's name has at most 15
//! bytes in Linux. And `systemd-nspawn` names the machine's end of a host's cable `vb-` plus the machine name it was
//! given, which must be unlike every other on the whole machine. So nspawn is given a short machine name made of the
//! bridge and the last byte of the address (`qr0-11`), and the name people use stays free.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a network interface in Linux, in bytes (`IFNAMSIZ` less the closing zero).
pub const INTERFACE_NAME_MAX: usize = 15;

/// Longest bridge name, in bytes: `vb-` + bridge + `-` + three digits must fit into [`INTERFACE_NAME_MAX`].
pub const BRIDGE_NAME_MAX: usize = INTERFACE_NAME_MAX - "vb-".len() - "-254".len();

/// Longest DNS label, in bytes.
const LABEL_MAX: usize = 63;

/// A name that cannot be used, and the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {kind}: {rule}")]
pub struct BadName {
    /// What was given, shortened and with control characters escaped.
    pub given: String,
    /// What it should have been: "cluster name", "host name", "bridge name".
    pub kind: &'static str,
    /// The rule, to be read after a colon.
    pub rule: &'static str,
}

fn bad(given: &str, kind: &'static str, rule: &'static str) -> BadName {
    let given: String = given
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    BadName { given, kind, rule }
}

fn label(given: &str, kind: &'static str) -> Result<String, BadName> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if given.is_empty() || given.len() > LABEL_MAX {
        return Err(bad(given, kind, "1 to 63 characters"));
    }
    if !given.chars().all(|c| plain(c) || c == '-')
        || !given.starts_with(plain)
        || !given.ends_with(plain)
    {
        return Err(bad(
            given,
            kind,
            "lower-case letters, digits and inner hyphens only",
        ));
    }
    Ok(given.to_owned())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(given: &str) -> Result<Self, BadName> {
                let parse: fn(&str) -> Result<String, BadName> = $parse;
                parse(given).map($name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(given: String) -> Result<Self, BadName> {
                given.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a cluster of local hosts: a DNS label, unlike every other on the machine.
    ClusterName, |given| label(given, "cluster name")
}

name_type! {
    /// The name of a host, which is also its hostname: a DNS label, unlike every other in its cluster.
    ///
    /// `outside` is refused: it stands for everything that is not a host (see [`Side`](crate::Side)).
    HostName, |given| match given {
        "outside" => Err(bad(given, "host name", "`outside` means everything that is not a host")),
        _ => label(given, "host name"),
    }
}

name_type! {
    /// The name of a cluster's bridge: 1 to 8 lower-case letters and digits, beginning with a letter.
    ///
    /// Eight, because the interfaces of the hosts carry it inside their own names ([`BRIDGE_NAME_MAX`]).
    BridgeName, |given| {
        if given.is_empty() || given.len() > BRIDGE_NAME_MAX {
            return Err(bad(given, "bridge name", "1 to 8 characters"));
        }
        let letters = given.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !letters || !given.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(bad(given, "bridge name", "lower-case letters and digits, beginning with a letter"));
        }
        Ok(given.to_owned())
    }
}

name_type! {
    /// What tells one making of a cluster from every other, also after the machine's reboot when names are free
    /// again: its name and eight random hex digits. It marks the bridge and the cgroups.
    ClusterKey, |given| match given.rsplit_once('-') {
        Some((name, hex)) if hex.len() == 8 && hex.chars().all(|c| c.is_ascii_hexdigit()) => {
            name.parse::<ClusterName>().map(|_| given.to_owned())
        }
        _ => Err(bad(given, "cluster key", "a cluster name, a hyphen and eight hex digits")),
    }
}

impl ClusterKey {
    /// A new one, from the kernel's random numbers.
    pub(crate) fn random(name: &ClusterName) -> crate::error::Result<ClusterKey> {
        use crate::error::During;
        let source = std::path::Path::new("/proc/sys/kernel/random/uuid");
        let uuid = std::fs::read_to_string(source).during("read", source)?;
        Ok(ClusterKey(format!(
            "{name}-{}",
            uuid.get(..8).unwrap_or("00000000")
        )))
    }
}

impl BridgeName {
    /// The bridge a cluster gets when it does not ask for one: `qr0`, `qr1` and so on.
    pub(crate) fn numbered(number: u16) -> BridgeName {
        BridgeName(format!("qr{number}"))
    }

    /// The machine name `systemd-nspawn` is given for the host at `address`.
    pub(crate) fn machine(&self, address: Ipv4Addr) -> String {
        format!("{}-{}", self.0, address.octets()[3])
    }

    /// The interface on the machine's side of the cable of the host at `address`.
    pub(crate) fn port(&self, address: Ipv4Addr) -> String {
        format!("vb-{}", self.machine(address))
    }

    /// The name of the nftables tables of this cluster.
    pub(crate) fn table(&self) -> String {
        format!("quorate_{}", self.0)
    }

    /// An Ethernet address for the bridge: locally administered and always the same, so that a host that has
    /// learned its gateway's address is not misled when ports come and go (a bridge otherwise takes on the lowest
    /// address among its ports).
    pub(crate) fn ethernet(&self) -> String {
        use sha2::{Digest, Sha256};
        let hash = Sha256::digest(self.0.as_bytes());
        format!(
            "02:71:{:02x}:{:02x}:{:02x}:{:02x}",
            hash[0], hash[1], hash[2], hash[3]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr<Err = BadName> + fmt::Display>(given: &str, expect: &str) {
        let got = match given.parse::<T>() {
            Ok(name) => format!("{name}"),
            Err(bad) => bad.to_string(),
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn host_names_are_dns_labels() {
        check::<HostName>("cp-1", "cp-1");
        check::<HostName>("1", "1");
        check::<HostName>("", "`` is not a host name: 1 to 63 characters");
        check::<HostName>(&"a".repeat(63), &"a".repeat(63));
        check::<HostName>(
            "-a",
            "`-a` is not a host name: lower-case letters, digits and inner hyphens only",
        );
        check::<HostName>(
            "../x",
            "`../x` is not a host name: lower-case letters, digits and inner hyphens only",
        );
        check::<HostName>(
            "a\u{1b}[31m",
            "`a\\u{1b}[31m` is not a host name: lower-case letters, digits and inner hyphens only",
        );
        check::<HostName>(
            "outside",
            "`outside` is not a host name: `outside` means everything that is not a host",
        );
        check::<ClusterName>("outside", "outside");
    }

    #[test]
    fn every_interface_name_fits() {
        let longest: BridgeName = "abcdefgh".parse().expect("eight letters");
        let port = longest.port(Ipv4Addr::new(10, 0, 0, 254));
        assert_eq!(port, "vb-abcdefgh-254");
        assert_eq!(port.len(), INTERFACE_NAME_MAX);
        check::<BridgeName>(
            "abcdefghi",
            "`abcdefghi` is not a bridge name: 1 to 8 characters",
        );
        check::<BridgeName>(
            "0qr",
            "`0qr` is not a bridge name: lower-case letters and digits, beginning with a letter",
        );
    }

    #[test]
    fn the_bridges_ethernet_address_is_local_and_constant() {
        assert_eq!(
            BridgeName::numbered(0).ethernet(),
            BridgeName::numbered(0).ethernet()
        );
        assert_ne!(
            BridgeName::numbered(0).ethernet(),
            BridgeName::numbered(1).ethernet()
        );
        assert!(BridgeName::numbered(0).ethernet().starts_with("02:"));
    }

    #[test]
    fn keys_differ_though_names_are_equal() {
        let name: ClusterName = "a-b".parse().expect("a name");
        let key = ClusterKey::random(&name).expect("random numbers");
        assert_ne!(key, ClusterKey::random(&name).expect("random numbers"));
        assert_eq!(key.as_str().parse::<ClusterKey>().as_ref(), Ok(&key));
        check::<ClusterKey>(
            "a/b-0123abcd",
            "`a/b` is not a cluster name: lower-case letters, digits and inner hyphens only",
        );
        check::<ClusterKey>(
            "a-b",
            "`a-b` is not a cluster key: a cluster name, a hyphen and eight hex digits",
        );
    }

    #[test]
    fn names_are_checked_when_read_back_from_a_file() {
        assert!(serde_json::from_str::<HostName>("\"cp-1\"").is_ok());
        assert!(serde_json::from_str::<HostName>("\"../cp-1\"").is_err());
    }
}
