//! What is told of machines and the cloud's balancer by whoever makes them.

use serde::{Deserialize, Serialize};

use super::Cgroup;

/// A machine that Quorate made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InfraView {
    /// Whether it is there and runs.
    pub power: Power,
    /// What every machine of this provider is like, known before it exists.
    pub kind: MachineKind,
}

/// Whether a machine is there and runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Power {
    /// Never made, or destroyed.
    Absent,
    /// It exists and does not run.
    Off,
    /// It exists and every process of it is stopped.
    Frozen,
    /// It runs.
    Running,
}

/// A master as the cloud's balancer has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// It is not registered.
    Absent,
    /// It gets traffic.
    Healthy,
    /// It is registered, and gets no traffic yet, or none any more. In the cloud's words, for people.
    Unhealthy {
        /// State and reason: `initial (Elb.RegistrationInProgress)`.
        told: String,
    },
    /// It is being taken out, and may still get traffic.
    Draining,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("not registered"),
            Self::Healthy => f.write_str("healthy"),
            Self::Unhealthy { told } => f.write_str(told),
            Self::Draining => f.write_str("draining"),
        }
    }
}

/// The traits of a machine that the cluster's settings depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineKind {
    /// Control groups.
    pub cgroup: Cgroup,
    /// See [`super::Machine::oom_score_adjustable`].
    pub oom_score_adjustable: bool,
    /// Whether swap is in use.
    pub swap: bool,
    /// The disk under it is not its own: how full that is in percent says nothing about what is left for it.
    pub shared_disk: bool,
}
