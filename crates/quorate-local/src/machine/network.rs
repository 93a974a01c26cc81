//! The machine's own network: what a cluster must not collide with, and the bridges made for clusters. Begin at
//! [`taken`] and [`ensure_bridge`].
//!
//! A bridge of ours carries its cluster's key as the interface's alias, so that it is known as ours even when every
//! file is lost.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::names::{BridgeName, ClusterKey};
use crate::subnet::Subnet;
use crate::{program, store};

/// What the alias of a bridge of ours begins with.
const ALIAS: &str = "quorate-local ";

/// A range of addresses the machine uses already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) network: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) interface: Option<String>,
    /// How to name it in a refusal.
    pub(crate) text: String,
}

/// Whose an interface name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There is no such interface.
    Nobody,
    /// A bridge marked as this cluster's.
    Cluster(ClusterKey),
    /// An interface without our mark.
    Unmarked,
}

/// Every range of addresses in the machine's routing tables but the default routes; its own addresses are among them.
pub(crate) fn taken() -> Result<Vec<Taken>> {
    routes_in(&program::run(
        "ip",
        ["-4", "-json", "route", "show", "table", "all"],
    )?)
}

fn routes_in(json: &str) -> Result<Vec<Taken>> {
    let routes: Vec<serde_json::Value> =
        serde_json::from_str(json).map_err(|source| Error::State {
            path: PathBuf::from("ip -json route"),
            source,
        })?;
    let mut found = Vec::new();
    for route in &routes {
        let text = |key: &str| route.get(key).and_then(serde_json::Value::as_str);
        let Some(dst) = text("dst") else { continue };
        let (address, prefix) = dst.split_once('/').unwrap_or((dst, "32"));
        // `default` is no address, and is not a place where something is.
        let (Ok(network), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u8>()) else {
            continue;
        };
        if prefix == 0 {
            continue;
        }
        let interface = text("dev").map(str::to_owned);
        let what = match (text("type"), &interface) {
            (Some("local"), Some(dev)) => format!("the address {dst} of {dev}"),
            (_, Some(dev)) => format!("the route {dst} dev {dev}"),
            (_, None) => format!("the route {dst}"),
        };
        found.push(Taken {
            network,
            prefix,
            interface,
            text: what,
        });
    }
    // A network says more than the addresses in it.
    found.sort_by_key(|taken| taken.prefix);
    Ok(found)
}

fn interface(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// Whether there is an interface of that name.
pub(crate) fn exists(name: &str) -> bool {
    interface(name).exists()
}

/// Whether the cluster's bridge is finished: it is set up last.
pub(crate) fn is_up(bridge: &BridgeName) -> bool {
    let flags =
        std::fs::read_to_string(interface(bridge.as_str()).join("flags")).unwrap_or_default();
    let flags = flags
        .trim()
        .strip_prefix("0x")
        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
    // IFF_UP: whether it has been set up, not whether a cable is in.
    flags.is_some_and(|flags| flags & 1 != 0)
}

/// Whose the interface of that name is.
pub(crate) fn owner(bridge: &BridgeName) -> Result<Owner> {
    let dir = interface(bridge.as_str());
    if !dir.exists() {
        return Ok(Owner::Nobody);
    }
    let alias = store::read_optional(&dir.join("ifalias"))?.unwrap_or_default();
    let key = alias
        .trim()
        .strip_prefix(ALIAS)
        .and_then(|key| key.parse().ok());
    Ok(key.map_or(Owner::Unmarked, Owner::Cluster))
}

/// Makes the cluster's bridge, or finishes one whose making was broken off. The place must have been claimed.
pub(crate) fn ensure_bridge(
    cluster: &ClusterKey,
    bridge: &BridgeName,
    subnet: Subnet,
) -> Result<()> {
    let name = bridge.as_str();
    if owner(bridge)? == Owner::Nobody {
        program::run(
            "ip",
            [
                "link",
                "add",
                "name",
                name,
                "address",
                &bridge.ethernet(),
                "type",
                "bridge",
            ],
        )?;
    }
    let alias = format!("{ALIAS}{cluster}");
    let gateway = format!("{}/24", subnet.gateway());
    program::run("ip", ["link", "set", "dev", name, "alias", &alias])?;
    program::run("ip", ["address", "replace", &gateway, "dev", name])?;
    program::run("ip", ["link", "set", "dev", name, "up"]).map(drop)
}

/// Removes an interface, also when there is none.
pub(crate) fn remove_interface(name: &str) -> Result<()> {
    match program::run("ip", ["link", "delete", "dev", name]) {
        // It can also go by itself between the look and the removal, with the namespace its other end is in.
        Err(_) if !exists(name) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_and_addresses_are_taken_and_the_default_route_is_not() {
        let json = r#"[
            {"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},
            {"type":"local","dst":"192.0.2.2","dev":"eth0","table":"local"},
            {"dst":"192.0.2.0/24","dev":"eth0","protocol":"kernel","flags":[]},
            {"type":"blackhole","dst":"10.0.0.0/8","flags":[]},
            {"dst":"0.0.0.0/0","dev":"tun0"}
        ]"#;
        let found: Vec<_> = routes_in(json)
            .expect("read")
            .into_iter()
            .map(|t| (t.prefix, t.text))
            .collect();
        let expect = [
            (8, "the route 10.0.0.0/8".to_owned()),
            (24, "the route 192.0.2.0/24 dev eth0".to_owned()),
            (32, "the address 192.0.2.2 of eth0".to_owned()),
        ];
        assert_eq!(found, expect);
        assert!(routes_in("not JSON").is_err());
    }

    #[test]
    fn loopback_is_somebodys_and_an_unknown_name_nobodys() {
        assert_eq!(
            owner(&"lo".parse().expect("a name")).expect("looked"),
            Owner::Unmarked
        );
        assert_eq!(
            owner(&"qrnone".parse().expect("a name")).expect("looked"),
            Owner::Nobody
        );
        assert!(exists("lo"));
    }
}
