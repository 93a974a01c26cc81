//! The old address of a cluster that was converted, as its master's packet rules keep it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// What happens to who comes by a master's old address and is not of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OldAddressRule {
    /// The old address.
    pub address: Ipv4Addr,
    /// Addresses and networks of the cluster: its hosts, its balancers, its pods. They are let through and not told.
    pub inside: BTreeSet<String>,
    /// For how many seconds who came is remembered.
    pub remember_s: u64,
    /// Others are refused, by a reset. Otherwise they are let through, and remembered.
    pub refuse: bool,
}

/// The rule on a host, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OldAddress {
    /// The rule that was written down.
    pub rule: OldAddressRule,
    /// The kernel has it. `false`: it is written down and does nothing.
    pub loaded: bool,
    /// Who came within the time that the rule remembers and is not of the cluster.
    pub callers: BTreeSet<IpAddr>,
    /// For how long it has been looking, without a gap.
    pub over: Duration,
}
