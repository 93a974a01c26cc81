//! A master's part in the address that masters share.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{NodeName, Seen};

/// What this host has for sharing an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sharing {
    /// keepalived is installed.
    pub keepalived: bool,
    /// Its part in it. `None`: none.
    pub share: Option<Share>,
}

impl Sharing {
    /// Known to be nothing: of a blank machine, and of what was written down before masters could share an address.
    pub(super) fn none() -> Seen<Self> {
        Seen::now(Self::default())
    }
}

/// A part in the shared address: this host may hold it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The address.
    pub address: IpAddr,
    /// Its port, which this host redirects to its own balancer.
    pub port: u16,
    /// The other hosts that may hold it, as keepalived here knows them.
    pub peers: BTreeMap<NodeName, IpAddr>,
    /// keepalived's configuration is what Quorate wrote for these.
    pub intact: bool,
    /// keepalived runs.
    pub active: bool,
    /// The kernel redirects.
    pub redirects: bool,
    /// The address is on this host now.
    pub holds: bool,
}
