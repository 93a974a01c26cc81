//! What an operator wants: the cluster file, a goal, and the risks they accepted by name. And who they are: the fence that keeps a
//! second operator, or the same one waking up late, from acting on what has moved on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    MemberId, NodeName, Observation, Quorum, Spec, health,
    observation::ConversionLook,
    refusal::RefusalCode,
    seen::Missing,
    spec::{Machine, Role},
};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The cluster file.
    pub spec: Spec,
    /// The components to install, as the operator's machine read them.
    pub bundle: BundleRef,
    /// Hash of the `quorate` binary that the hosts run: a unit that runs it names it.
    pub binary: String,
    /// The verb.
    pub goal: Goal,
    /// Risks accepted by name and node.
    pub accepted: BTreeSet<Acceptance>,
    /// Control plane machines that were in the cluster and are not in the file, as far as the operator's machine knows the way to them:
    /// from the file that was applied last, or from the provider's inventory. They are looked at too, and reset when they leave. A
    /// machine that the file names is never taken from here.
    pub retired: BTreeMap<NodeName, Machine>,
}

impl Intent {
    /// Every machine to look at: those of the file with their role, then those that left it.
    pub fn machines(&self) -> impl Iterator<Item = (&NodeName, &Machine, Option<Role>)> {
        self.spec
            .machines()
            .map(|(node, machine, role)| (node, machine, Some(role)))
            .chain(
                self.retired
                    .iter()
                    .filter(|(node, _)| self.spec.machine(node).is_none())
                    .map(|(node, machine)| (node, machine, None)),
            )
    }

    /// What a conversion has to know, where this is one: who is still connected to a master's own address.
    pub fn conversion_look(&self) -> Option<ConversionLook> {
        let watched = || {
            let masters = self.spec.control_plane.values();
            masters.map(Spec::apiserver).collect()
        };
        match self.goal {
            Goal::Convert { .. } | Goal::Unconvert | Goal::RetireOldAddress { .. } => {
                Some(ConversionLook { watched: watched() })
            }
            Goal::KeepOldAddress
            | Goal::Converge
            | Goal::Replace { .. }
            | Goal::Remove { .. }
            | Goal::Repair => None,
        }
    }

    /// Whether somebody else may finish this in its place: all is the same but the ways to machines that left the file, which each
    /// operator knows for himself.
    pub fn is_the_same_as(&self, other: &Self) -> bool {
        let Self {
            spec,
            bundle,
            binary,
            goal,
            accepted,
            retired: _,
        } = self;
        (spec, bundle, binary, goal, accepted)
            == (
                &other.spec,
                &other.bundle,
                &other.binary,
                &other.goal,
                &other.accepted,
            )
    }

    /// The machine of that name, in the file or out of it.
    pub fn machine(&self, node: &NodeName) -> Option<&Machine> {
        self.spec.machine(node).or_else(|| self.retired.get(node))
    }
}

/// A bundle by what it contains: its ID pins every byte of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleRef {
    /// SHA-256 of its `manifest.json`, hex.
    pub id: String,
    /// Kubernetes version, without `v`.
    pub kubernetes: String,
    /// Image references by role: `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kube-proxy`, `etcd`, `coredns`,
    /// `pause`, `flannel`.
    pub images: BTreeMap<String, String>,
}

/// A verb is a goal; each has its file in [`crate::planner`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    /// The cluster equals its file: masters that it lacks join, members that the file no longer names leave.
    Converge,
    /// One master is replaced and nothing else is changed. Made by [`Goal::replace`], which looks up the member.
    Replace {
        /// The master that goes.
        node: NodeName,
        /// The host that comes for it, which the file names while it no longer names `node`. `None`: the same host, made anew.
        with: Option<NodeName>,
        /// The member that goes: without its ID nobody could tell the same host's new member from its old one. `None`: it is no member
        /// any more.
        member: Option<MemberId>,
    },
    /// One member leaves that the file no longer names, and nothing else is changed.
    Remove {
        /// Which.
        node: NodeName,
    },
    /// What was begun and not finished is taken back, what was left behind is cleared away. Nothing joins.
    Repair,
    /// A cluster that somebody else made with one master gets the endpoint and the masters of the file.
    Convert {
        /// Where to stop. `None`: nowhere.
        pause_after: Option<Landmark>,
    },
    /// What a conversion changed is put back, as long as one master votes.
    Unconvert,
    /// Others than the cluster are refused at the address that it had before its endpoint, once none of them came for that long.
    RetireOldAddress {
        /// For how many seconds nobody came.
        quiet_for_s: u64,
    },
    /// Everybody may come by that address again.
    KeepOldAddress,
}

/// Where a conversion may be paused: everything that is reached before the first master joins. None lies between two voters and three.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Landmark {
    /// Everything is prepared and kept; nothing of the cluster is changed.
    Backup,
    /// The master serves a certificate with all names.
    Certificate,
    /// kubeadm's configuration names the endpoint.
    Configuration,
    /// `cluster-info` leads to the endpoint.
    ClusterInfo,
    /// kube-proxy of every node is connected to the endpoint.
    KubeProxy,
    /// All kubeconfigs on hosts lead to the endpoint.
    Kubeconfigs,
}

impl Landmark {
    /// All, in the order they are reached.
    pub const ALL: [Self; 6] = [
        Self::Backup,
        Self::Certificate,
        Self::Configuration,
        Self::ClusterInfo,
        Self::KubeProxy,
        Self::Kubeconfigs,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Certificate => "certificate",
            Self::Configuration => "configuration",
            Self::ClusterInfo => "cluster-info",
            Self::KubeProxy => "kube-proxy",
            Self::Kubeconfigs => "kubeconfigs",
        }
    }
}

impl fmt::Display for Landmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a landmark was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a conversion does not pause there: expected one of backup, certificate, configuration, cluster-info, kube-proxy, kubeconfigs; after the first join two voters are no place to stay"
)]
pub struct LandmarkError;

impl FromStr for Landmark {
    type Err = LandmarkError;
    fn from_str(raw: &str) -> Result<Self, LandmarkError> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.name() == raw).ok_or(LandmarkError)
    }
}

impl Goal {
    /// The goal of replacing `node`, its member looked up in what was seen for `intent`, whose own goal does not matter. A replacement of
    /// it that is in force on some host is taken up again.
    ///
    /// # Errors
    /// [`Missing`] when nobody tells of etcd's members.
    pub fn replace(
        intent: &Intent,
        node: NodeName,
        with: Option<NodeName>,
        seen: &Observation,
    ) -> Result<Self, Missing> {
        for facts in seen.hosts.values().filter_map(|facts| facts.get().ok()) {
            if let Ok(fencing) = facts.fencing.get()
                && let Some(claim) = &fencing.claim
                && let Self::Replace {
                    node: old,
                    with: old_with,
                    ..
                } = &claim.intent.goal
                && (old, old_with) == (&node, &with)
            {
                return Ok(claim.intent.goal.clone());
            }
        }
        let quorum = Quorum::of(seen)?.ok_or_else(|| Missing::not_looked("a running etcd"))?;
        let member = health::member_of(intent, &quorum, &node);
        Ok(Self::Replace { node, with, member })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Converge => f.write_str("apply"),
            Self::Replace {
                node,
                with: Some(with),
                ..
            } => write!(f, "replace {node} --with {with}"),
            Self::Replace { node, .. } => write!(f, "replace {node}"),
            Self::Remove { node } => write!(f, "remove {node}"),
            Self::Repair => f.write_str("repair"),
            Self::Convert { pause_after: None } => f.write_str("convert"),
            Self::Convert {
                pause_after: Some(landmark),
            } => write!(f, "convert --pause-after {landmark}"),
            Self::Unconvert => f.write_str("convert --undo"),
            Self::RetireOldAddress { quiet_for_s } => {
                write!(
                    f,
                    "convert --retire-old-endpoint --quiet-for {quiet_for_s}s"
                )
            }
            Self::KeepOldAddress => f.write_str("convert --keep-old-endpoint"),
        }
    }
}

/// One refusal, overridden for one node: `--accept RISK=NODE`. There is no general force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceptance {
    /// The refusal.
    pub risk: RefusalCode,
    /// The node it is accepted for.
    pub node: NodeName,
}

/// Why an acceptance was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{raw}` accepts nothing: expected RISK=NODE, as in `clock-differs=cp-2`; `quorate explain` lists the risks that can be accepted"
)]
pub struct AcceptanceError {
    /// What was given, escaped.
    pub raw: String,
}

impl FromStr for Acceptance {
    type Err = AcceptanceError;
    fn from_str(raw: &str) -> Result<Self, AcceptanceError> {
        let error = || AcceptanceError {
            raw: raw.chars().take(80).flat_map(char::escape_debug).collect(),
        };
        let (risk, node) = raw.split_once('=').ok_or_else(error)?;
        let risk = RefusalCode::parse(risk)
            .filter(|code| code.acceptable())
            .ok_or_else(error)?;
        Ok(Self {
            risk,
            node: node.parse().map_err(|_| error())?,
        })
    }
}

/// A fencing token: hosts refuse an action that carries a lower one than the highest they have seen.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl Fence {
    /// The token that outranks this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who acts: shown to others, compared to know oneself again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operator {
    /// User name on the operator's machine.
    pub user: String,
    /// The operator's machine.
    pub machine: String,
    /// Process ID of the tool there.
    pub pid: u32,
    /// This run's ID, as its journal is named.
    pub run: String,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{} (process {}, run {})",
            self.user, self.machine, self.pid, self.run
        )
    }
}

/// An operation in force, kept on every host it touches beside the token: any operator's machine can finish it from there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Its token.
    pub fence: Fence,
    /// Who took it.
    pub operator: Operator,
    /// Since when, UTC in seconds by the operator's clock: for people only, nothing is decided by it.
    pub since: u64,
    /// What is wanted.
    pub intent: Intent,
}
