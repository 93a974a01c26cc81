//! Who may open a connection to which host, on which port: packet rules on the cluster's bridge, as a cloud's security groups are between
//! machines. Begin at [`Opening`].
//!
//! The rules keep no account of connections, since not every kernel can do that on a bridge: of TCP what opens a connection is looked at, of UDP
//! the port that is sent to. They hold between hosts. The machine itself, from which an operator works, reaches all of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::names::BridgeName;
use crate::program;

/// What is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP: both directions have to be open where an answer is wanted.
    Udp,
    /// IP's protocol 112, which has no ports.
    Vrrp,
}

/// Hosts that may open connections to others. By address, so that they hold for hosts that are not made yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// Who may. Empty: nobody.
    pub from: BTreeSet<Ipv4Addr>,
    /// To whom. Empty: to nobody.
    pub to: BTreeSet<Ipv4Addr>,
    /// What is above IP.
    pub transport: Transport,
    /// The first port.
    pub first: u16,
    /// The last port, the same for a single one.
    pub last: u16,
}

fn table(bridge: &BridgeName) -> String {
    format!("{}_open", bridge.table())
}

/// The rules for exactly these openings, replacing whatever was there in one transaction.
fn rules(bridge: &BridgeName, openings: &[Opening]) -> String {
    let table = table(bridge);
    let set = |addresses: &BTreeSet<Ipv4Addr>| {
        let all: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
        all.join(", ")
    };
    let mut text = format!(
        "table bridge {table}\ndelete table bridge {table}\ntable bridge {table} {{\n  chain forward {{\n    \
         type filter hook forward priority filter; policy accept;\n    \
         ether type != ip accept\n    \
         ip protocol icmp accept\n    \
         ip frag-off & 0x1fff != 0 accept\n    \
         ip protocol tcp tcp flags & (syn | ack) != syn accept\n"
    );
    for opening in openings {
        if opening.from.is_empty() || opening.to.is_empty() {
            continue;
        }
        let ports = match opening.first == opening.last {
            true => opening.first.to_string(),
            false => format!("{}-{}", opening.first, opening.last),
        };
        let what = match opening.transport {
            Transport::Tcp => format!("tcp dport {ports}"),
            Transport::Udp => format!("udp dport {ports}"),
            Transport::Vrrp => "ip protocol 112".to_owned(),
        };
        text.push_str(&format!(
            "    ip saddr {{ {} }} ip daddr {{ {} }} {what} accept\n",
            set(&opening.from),
            set(&opening.to)
        ));
    }
    text.push_str("    counter drop\n  }\n}\n");
    text
}

/// Makes these the only connections that hosts can open to each other.
pub(crate) fn set(bridge: &BridgeName, openings: &[Opening]) -> Result<()> {
    program::run_with_input("nft", &["-f", "-"], &rules(bridge, openings)).map(drop)
}

/// Removes the table, also when there is none.
pub(crate) fn remove(bridge: &BridgeName) -> Result<()> {
    let table = table(bridge);
    let text = format!("table bridge {table}\ndelete table bridge {table}\n");
    program::run_with_input("nft", &["-f", "-"], &text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_open_is_dropped() {
        let address = |last| Ipv4Addr::new(172, 30, 7, last);
        let opening = |to: &[u8], transport, first, last| Opening {
            from: [address(11), address(12)].into(),
            to: to.iter().map(|last| address(*last)).collect(),
            transport,
            first,
            last,
        };
        let openings = [
            opening(&[11], Transport::Tcp, 2380, 2380),
            opening(&[], Transport::Tcp, 22, 22),
            opening(&[21], Transport::Udp, 30000, 32767),
            opening(&[12], Transport::Vrrp, 0, 0),
        ];
        let expect = "table bridge quorate_qr0_open\ndelete table bridge quorate_qr0_open\ntable bridge quorate_qr0_open {\n  chain forward {\n    \
                      type filter hook forward priority filter; policy accept;\n    \
                      ether type != ip accept\n    \
                      ip protocol icmp accept\n    \
                      ip frag-off & 0x1fff != 0 accept\n    \
                      ip protocol tcp tcp flags & (syn | ack) != syn accept\n    \
                      ip saddr { 172.30.7.11, 172.30.7.12 } ip daddr { 172.30.7.11 } tcp dport 2380 accept\n    \
                      ip saddr { 172.30.7.11, 172.30.7.12 } ip daddr { 172.30.7.21 } udp dport 30000-32767 accept\n    \
                      ip saddr { 172.30.7.11, 172.30.7.12 } ip daddr { 172.30.7.12 } ip protocol 112 accept\n    \
                      counter drop\n  }\n}\n";
        assert_eq!(rules(&BridgeName::numbered(0), &openings), expect);
    }
}
