//! Cutting traffic between hosts: packet rules on the cluster's bridge. Begin at [`Cut`]. The kernel's rules are the
//! only record of what is cut: each carries its cut as a comment, which is read back.
//!
//! A rule names the port a frame comes in by and the one it leaves by, so it cuts everything between two hosts: any
//! address, any protocol, ARP too. It does nothing to frames already delivered, nor to connections: they stall.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::names::{BadName, BridgeName, HostName};
use crate::program;
use crate::spec::Uplink;
use crate::subnet::Subnet;

/// One end of a path: a host, or everything that is not a host of the cluster (the machine and what lies behind it).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Side {
    /// A host of the cluster.
    Host(HostName),
    /// The machine and everything beyond it. Written `outside`.
    Outside,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Side::Host(name) => name.fmt(f),
            Side::Outside => f.pad("outside"),
        }
    }
}

impl FromStr for Side {
    type Err = BadName;
    fn from_str(given: &str) -> Result<Side, BadName> {
        match given {
            "outside" => Ok(Side::Outside),
            name => name.parse().map(Side::Host),
        }
    }
}

impl TryFrom<String> for Side {
    type Error = BadName;
    fn try_from(given: String) -> Result<Side, BadName> {
        given.parse()
    }
}

impl From<Side> for String {
    fn from(side: Side) -> String {
        side.to_string()
    }
}

impl From<HostName> for Side {
    fn from(name: HostName) -> Side {
        Side::Host(name)
    }
}

/// Nothing sent by one side reaches the other. The other direction is another cut.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cut {
    /// Who sends.
    pub from: Side,
    /// Who no longer receives it.
    pub to: Side,
}

impl Cut {
    /// What `from` sends no longer reaches `to`.
    pub fn one_way(from: impl Into<Side>, to: impl Into<Side>) -> Cut {
        Cut {
            from: from.into(),
            to: to.into(),
        }
    }

    /// Neither hears the other.
    pub fn both_ways(a: impl Into<Side>, b: impl Into<Side>) -> [Cut; 2] {
        let (a, b) = (a.into(), b.into());
        [Cut::one_way(a.clone(), b.clone()), Cut::one_way(b, a)]
    }

    /// Whether the host is at either end.
    pub fn concerns(&self, host: &HostName) -> bool {
        [&self.from, &self.to]
            .into_iter()
            .any(|side| matches!(side, Side::Host(name) if name == host))
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{}", self.from, self.to)
    }
}

impl FromStr for Cut {
    type Err = BadName;
    fn from_str(given: &str) -> Result<Cut, BadName> {
        let (from, to) = given.split_once('>').unwrap_or((given, ""));
        Ok(Cut {
            from: from.parse()?,
            to: to.parse()?,
        })
    }
}

/// The rules for exactly these cuts, replacing whatever was there in one transaction. `ports` are the interfaces of
/// the hosts; a cut between sides that are not in it is left out.
fn rules(bridge: &BridgeName, ports: &BTreeMap<HostName, String>, cuts: &BTreeSet<Cut>) -> String {
    let table = bridge.table();
    // Declaring before deleting makes the deletion succeed when there was no table.
    let mut text = format!("table bridge {table}\ndelete table bridge {table}\n");
    if cuts.is_empty() {
        return text;
    }
    let port = |name: &HostName| ports.get(name);
    let (mut forward, mut input, mut output) = (String::new(), String::new(), String::new());
    for cut in cuts {
        let rule = |matches: String| format!("    {matches} drop comment \"{cut}\"\n");
        match (&cut.from, &cut.to) {
            (Side::Host(from), Side::Host(to)) => {
                if let (Some(from), Some(to)) = (port(from), port(to)) {
                    forward.push_str(&rule(format!("iifname \"{from}\" oifname \"{to}\"")));
                }
            }
            (Side::Host(from), Side::Outside) => {
                if let Some(from) = port(from) {
                    input.push_str(&rule(format!("iifname \"{from}\"")));
                }
            }
            (Side::Outside, Side::Host(to)) => {
                if let Some(to) = port(to) {
                    output.push_str(&rule(format!("oifname \"{to}\"")));
                }
            }
            (Side::Outside, Side::Outside) => {}
        }
    }
    text.push_str(&format!("table bridge {table} {{\n"));
    for (hook, rules) in [("forward", forward), ("input", input), ("output", output)] {
        text.push_str(&format!(
            "  chain {hook} {{\n    type filter hook {hook} priority filter; policy accept;\n{rules}  }}\n"
        ));
    }
    text.push_str("}\n");
    text
}

/// The cuts among the rules nft lists.
fn cuts_in(listing: &str) -> BTreeSet<Cut> {
    let comments = listing
        .lines()
        .filter_map(|line| line.trim().split_once(" drop comment \""));
    comments
        .filter_map(|(_, comment)| comment.trim_end_matches('"').parse().ok())
        .collect()
}

/// The cuts in force.
pub(crate) fn seen(bridge: &BridgeName) -> Result<BTreeSet<Cut>> {
    let tables = program::run("nft", ["list", "tables", "bridge"])?;
    let table = bridge.table();
    if !tables
        .lines()
        .any(|line| line.trim() == format!("table bridge {table}"))
    {
        return Ok(BTreeSet::new());
    }
    Ok(cuts_in(&program::run(
        "nft",
        ["list", "table", "bridge", &table],
    )?))
}

/// Makes exactly these the cuts in force; without any, the table is gone.
pub(crate) fn set(
    bridge: &BridgeName,
    ports: &BTreeMap<HostName, String>,
    cuts: &BTreeSet<Cut>,
) -> Result<()> {
    program::run_with_input("nft", &["-f", "-"], &rules(bridge, ports, cuts)).map(drop)
}

/// What the machine does with packets between the bridge and anywhere else.
fn uplink_rules(bridge: &BridgeName, subnet: Subnet, uplink: Uplink) -> String {
    let table = bridge.table();
    let mut text = format!("table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n");
    // Where bridged frames pass the machine's IP rules (bridge-nf-call-iptables), both interfaces are the bridge.
    match uplink {
        Uplink::None => text.push_str(&format!(
            "  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    \
             iifname \"{bridge}\" oifname != \"{bridge}\" drop\n    \
             iifname != \"{bridge}\" oifname \"{bridge}\" drop\n  }}\n"
        )),
        Uplink::Nat => text.push_str(&format!(
            "  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    \
             ip saddr {subnet} ip daddr != {subnet} oifname != \"{bridge}\" masquerade\n  }}\n"
        )),
    }
    text.push_str("}\n");
    text
}

/// Puts the cluster's uplink rules in force.
pub(crate) fn set_uplink(bridge: &BridgeName, subnet: Subnet, uplink: Uplink) -> Result<()> {
    program::run_with_input("nft", &["-f", "-"], &uplink_rules(bridge, subnet, uplink)).map(drop)
}

/// Removes every table of the cluster, also when there is none.
pub(crate) fn remove_tables(bridge: &BridgeName) -> Result<()> {
    let table = bridge.table();
    let text: String = ["bridge", "ip"]
        .map(|f| format!("table {f} {table}\ndelete table {f} {table}\n"))
        .concat();
    program::run_with_input("nft", &["-f", "-"], &text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> HostName {
        name.parse().expect("a host name")
    }

    fn ports() -> BTreeMap<HostName, String> {
        BTreeMap::from([
            (name("cp-1"), "vb-qr0-11".to_owned()),
            (name("cp-2"), "vb-qr0-12".to_owned()),
        ])
    }

    #[test]
    fn each_direction_has_its_hook() {
        let bridge = BridgeName::numbered(0);
        let mut cuts = BTreeSet::from(Cut::both_ways(name("cp-1"), Side::Outside));
        cuts.insert(Cut::one_way(name("cp-1"), name("cp-2")));
        cuts.insert(Cut::one_way(name("cp-1"), name("gone")));
        let expect = r#"table bridge quorate_qr0
delete table bridge quorate_qr0
table bridge quorate_qr0 {
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "vb-qr0-11" oifname "vb-qr0-12" drop comment "cp-1>cp-2"
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "vb-qr0-11" drop comment "cp-1>outside"
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname "vb-qr0-11" drop comment "outside>cp-1"
  }
}
"#;
        assert_eq!(rules(&bridge, &ports(), &cuts), expect);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let bridge = BridgeName::numbered(0);
        let mut cuts = BTreeSet::from(Cut::both_ways(name("cp-1"), name("cp-2")));
        cuts.insert(Cut::one_way(Side::Outside, name("cp-2")));
        assert_eq!(cuts_in(&rules(&bridge, &ports(), &cuts)), cuts);
        assert_eq!(
            cuts_in("table bridge other {\n  iifname \"x\" drop comment \"no cut\"\n}"),
            BTreeSet::new()
        );
    }

    #[test]
    fn without_cuts_there_is_no_table() {
        let expect = "table bridge quorate_qr3\ndelete table bridge quorate_qr3\n";
        assert_eq!(
            rules(&BridgeName::numbered(3), &ports(), &BTreeSet::new()),
            expect
        );
    }

    #[test]
    fn without_an_uplink_nothing_is_forwarded_and_with_nat_only_what_leaves_is_hidden() {
        let (bridge, subnet) = (
            BridgeName::numbered(0),
            "172.30.7.0/24".parse().expect("a subnet"),
        );
        let none = r#"table ip quorate_qr0
delete table ip quorate_qr0
table ip quorate_qr0 {
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "qr0" oifname != "qr0" drop
    iifname != "qr0" oifname "qr0" drop
  }
}
"#;
        assert_eq!(uplink_rules(&bridge, subnet, Uplink::None), none);
        let nat = r#"table ip quorate_qr0
delete table ip quorate_qr0
table ip quorate_qr0 {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 172.30.7.0/24 ip daddr != 172.30.7.0/24 oifname != "qr0" masquerade
  }
}
"#;
        assert_eq!(uplink_rules(&bridge, subnet, Uplink::Nat), nat);
    }

    #[test]
    fn sides_and_cuts_read_as_they_print() {
        for text in ["cp-1>cp-2", "outside>cp-1", "cp-1>outside"] {
            assert_eq!(text.parse::<Cut>().expect("a cut").to_string(), text);
        }
        assert!("cp-1".parse::<Cut>().is_err());
        let json = serde_json::to_string(&Cut::one_way(name("cp-1"), Side::Outside)).expect("JSON");
        assert_eq!(json, r#"{"from":"cp-1","to":"outside"}"#);
    }
}
