//! What is seen of hosts, from any command: [`HostStatus`]. Nothing here is remembered; power comes from the host's
//! cgroup, cuts from the kernel's packet rules.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::cuts::Cut;
use crate::names::{ClusterName, HostName};

/// Whether a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Its processes run.
    Running,
    /// Its processes exist and get no processor time.
    Frozen,
    /// It has no processes.
    Off,
}

impl Power {
    /// `running`, `frozen` or `off`.
    pub fn as_str(self) -> &'static str {
        match self {
            Power::Running => "running",
            Power::Frozen => "frozen",
            Power::Off => "off",
        }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A host as seen now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub name: HostName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it runs.
    pub power: Power,
    /// Its first process; `None` when it is off, or in the instant between two boots.
    pub init: Option<Init>,
    /// The cuts in force that concern it, in either direction.
    pub cuts: BTreeSet<Cut>,
}

/// The first process of a running host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Init {
    /// Its number on the machine. It was a process of the host when it was looked at; it may be another's later.
    pub pid: i32,
    /// When it started, to a hundredth of a second, by the machine's clock: the host's last boot.
    pub since: SystemTime,
}
