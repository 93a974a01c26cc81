//! Quorate's balancer on a host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// The balancer on a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balancer {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its configured backends.
    pub backends: BTreeMap<NodeName, SocketAddr>,
    /// Backends that serve by its own account, those included that it only suspects for a moment. Empty when it did not answer.
    pub up: BTreeSet<NodeName>,
    /// Its unit runs.
    pub active: bool,
    /// The CA it verifies backends with, as [`Pki::cluster_ca`]. `None` before there is a cluster.
    pub cluster_ca: Option<String>,
    /// Hash of the binary its unit runs.
    pub binary: String,
}
