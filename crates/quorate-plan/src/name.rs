//! Identities as types. They are parsed once, at the edge; inside, no node is a string and no member ID a float.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest name of a node or cluster: names become host names, interface prefixes and certificate subjects.
const NAME_LENGTH_MAX: usize = 40;

/// Why a name was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` is not a name: expected 1 to 40 of a-z, 0-9 and `-`, beginning and ending with a letter or digit"
)]
pub struct NameError {
    /// What was given, shortened and escaped.
    pub name: String,
}

fn parse_name(raw: &str) -> Result<Box<str>, NameError> {
    let bytes = raw.as_bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = !bytes.is_empty()
        && bytes.len() <= NAME_LENGTH_MAX
        && bytes.iter().all(|&b| plain(b) || b == b'-')
        && plain(bytes[0])
        && plain(bytes[bytes.len() - 1]);
    if good {
        Ok(raw.into())
    } else {
        Err(NameError {
            name: raw.chars().take(60).flat_map(char::escape_debug).collect(),
        })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(raw: &str) -> Result<Self, NameError> {
                parse_name(raw).map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$" })
            }
        }
    };
}

name_type! {
    /// The name of a machine of the cluster: its host name, its Kubernetes node name and its etcd member name are this one.
    NodeName
}
name_type! {
    /// The name of a cluster, unique for an operator.
    ClusterName
}

/// An etcd member's ID. It is a full 64-bit number: anything that passes it through a float loses it, so it travels as hex text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for MemberId {
    type Err = std::num::ParseIntError;
    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(raw, 16).map(Self)
    }
}
impl Serialize for MemberId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(d)?
            .parse()
            .map_err(de::Error::custom)
    }
}
impl JsonSchema for MemberId {
    fn schema_name() -> Cow<'static, str> {
        "MemberId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{1,16}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        for good in ["cp-1", "a", "0", "demo", &"x".repeat(40)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a b",
            "\u{1b}[2J",
            "../x",
            &"x".repeat(41),
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        assert!(
            !"\u{1b}"
                .parse::<NodeName>()
                .unwrap_err()
                .to_string()
                .contains('\u{1b}')
        );
    }

    #[test]
    fn member_ids_keep_all_64_bits() {
        let id = MemberId(0x8e9e_05c5_2164_694d);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"8e9e05c52164694d\"");
        assert_eq!(
            serde_json::from_str::<MemberId>("\"8e9e05c52164694d\"").unwrap(),
            id
        );
    }
}
