//! The identities etcd gives out: 64-bit numbers that people see and type in hex.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is not an etcd identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 16 hex digits as `etcdctl member list` prints them, found `{found}`")]
pub struct IdParseError {
    /// What was given, at most 32 characters of it, control characters escaped.
    pub found: String,
}

fn parse_hex(text: &str) -> Result<u64, IdParseError> {
    let refused = || IdParseError {
        found: text
            .chars()
            .take(32)
            .flat_map(char::escape_default)
            .collect(),
    };
    // from_str_radix alone would also take a leading `+`.
    if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refused());
    }
    u64::from_str_radix(text, 16).map_err(|_| refused())
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        // etcd and etcdctl print lower-case hex without padding (`strconv.FormatUint(id, 16)`): an id is compared with their output by eye.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{:x}", self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// A member's id. A member that is removed never returns under the same id: adding the same machine again yields a new one.
    ///
    /// Shown, parsed and serialised as etcdctl prints it: lower-case hex without padding.
    MemberId
}

hex_id! {
    /// A cluster's id. Members whose cluster ids differ never talk to each other.
    ///
    /// Shown, parsed and serialised like [`MemberId`].
    ClusterId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_what_etcdctl_prints() {
        for (id, text) in [
            (0x8e9e_05c5_2164_694d, "8e9e05c52164694d"),
            (0x0a, "a"),
            (u64::MAX, "ffffffffffffffff"),
            (0, "0"),
        ] {
            assert_eq!(MemberId(id).to_string(), text);
            assert_eq!(text.parse::<MemberId>(), Ok(MemberId(id)));
            assert_eq!(
                serde_json::to_string(&MemberId(id)).expect("a string"),
                format!("\"{text}\"")
            );
            assert_eq!(
                serde_json::from_str::<MemberId>(&format!("\"{text}\"")).expect("hex"),
                MemberId(id)
            );
        }
        assert_eq!(
            "8E9E05C52164694D".parse::<MemberId>(),
            Ok(MemberId(0x8e9e_05c5_2164_694d))
        );
        assert_eq!(
            format!("{:>18}|{:?}", MemberId(0xab), MemberId(0xab)),
            "                ab|MemberId(ab)"
        );
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in [
            "",
            "+1",
            "-1",
            "0x8e",
            "8e9e05c52164694d0",
            "gg",
            " 1",
            "1\n",
        ] {
            assert!(
                text.parse::<MemberId>().is_err(),
                "{text:?} was taken for an id"
            );
        }
        assert_eq!(
            "\u{1b}[2J".parse::<ClusterId>().unwrap_err().found,
            "\\u{1b}[2J"
        );
    }
}
