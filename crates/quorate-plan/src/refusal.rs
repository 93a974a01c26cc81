//! Refusals: what will not be done, in numbers, with the way on. Each is a type of its own, each has a page in the runbooks, and one
//! table ([`RefusalCode::acceptable`]) says which of them an operator may override for one node. Losing quorum is never among them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Acceptance, MemberId, NodeName,
    health::Accounts,
    intent::Fence,
    observation::{Caller, Stored},
    plan::Departure,
    rehearsal::ManifestDifference,
    seen::Missing,
};

mod text;

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "code")]
pub enum Refusal {
    /// Nobody can say whether it is safe.
    Missing {
        /// What was not seen, and why.
        missing: Missing,
    },
    /// Too few healthy voters would remain.
    WouldLoseQuorum {
        /// The change.
        change: String,
        /// Voters after it.
        voters: usize,
        /// Healthy ones among them.
        healthy: usize,
        /// Needed to decide.
        needed: usize,
    },
    /// A learner has to be promoted or removed first.
    LearnerPresent {
        /// Its ID.
        member: MemberId,
        /// Where its peers would reach it.
        peer_urls: BTreeSet<String>,
    },
    /// A member was added and never started.
    MemberUnstarted {
        /// Its ID.
        member: MemberId,
        /// Where its peers would reach it.
        peer_urls: BTreeSet<String>,
    },
    /// An alarm is raised.
    AlarmRaised {
        /// `NOSPACE` or `CORRUPT`.
        alarm: String,
        /// On which member.
        member: MemberId,
    },
    /// A host that shall found a cluster already carries one.
    NotBlank {
        /// The host.
        node: NodeName,
        /// What lies there.
        found: String,
    },
    /// The founding was begun again once, and failed again.
    FoundingFailed {
        /// The founders.
        nodes: BTreeSet<NodeName>,
        /// Those that have nothing of it.
        lost: BTreeSet<NodeName>,
    },
    /// The host belongs to another cluster.
    ForeignHost {
        /// The host.
        node: NodeName,
        /// What it says of itself.
        mark: String,
        /// What was expected.
        expected: String,
    },
    /// The host holds another certificate authority than the masters.
    ForeignAuthority {
        /// The host.
        node: NodeName,
        /// Whose authority it differs from.
        other: NodeName,
    },
    /// The host does not have what a node needs.
    UnfitHost {
        /// The host.
        node: NodeName,
        /// What is expected: `at least 2 processors`.
        expected: String,
        /// What was seen.
        seen: String,
    },
    /// The host's clock differs from the others'.
    ClockDiffers {
        /// The host.
        node: NodeName,
        /// How far it is from the median, in milliseconds.
        by_ms: i64,
        /// What is allowed.
        allowed_ms: i64,
    },
    /// etcd's own block device cannot be taken for it.
    EtcdVolume {
        /// The host.
        node: NodeName,
        /// The device.
        device: String,
        /// What was seen instead of an empty one, or one of this host's own.
        seen: String,
    },
    /// Something else already listens where the cluster has to.
    PortInUse {
        /// The host.
        node: NodeName,
        /// TCP port.
        port: u16,
        /// Who listens.
        process: String,
    },
    /// The endpoint's name does not lead to the cluster.
    EndpointUnresolved {
        /// From where.
        node: NodeName,
        /// The name.
        name: String,
    },
    /// The endpoint's name resolves, and nobody answers there although there are apiservers that are ready.
    EndpointSilent {
        /// From where.
        nodes: BTreeSet<NodeName>,
        /// The endpoint.
        endpoint: String,
        /// What its name resolves to there.
        resolves: BTreeSet<IpAddr>,
        /// The apiservers that it has to lead to.
        backends: BTreeMap<NodeName, SocketAddr>,
    },
    /// The endpoint is a name with a record for every master, and one of its records leads where nobody must be led.
    EndpointRecords {
        /// The name.
        name: String,
        /// From where.
        nodes: BTreeSet<NodeName>,
        /// What those records lead to.
        records: BTreeSet<IpAddr>,
        /// Why nobody must be led there, and what to do.
        why: String,
    },
    /// A host's data directory is empty where it must not be.
    DataLost {
        /// The host.
        node: NodeName,
        /// The member it was.
        member: MemberId,
    },
    /// The machine is stopped or frozen by hand.
    MachineHeld {
        /// The host.
        node: NodeName,
        /// Its state.
        state: String,
    },
    /// The bundle is of another version than the cluster file asks for.
    BundleVersion {
        /// The bundle's.
        bundle: String,
        /// The cluster file's.
        wanted: String,
    },
    /// The cluster runs what the cluster file no longer says, and no verb changes that yet.
    Unchangeable {
        /// What: `controlPlaneEndpoint`.
        what: String,
        /// As the cluster has it.
        is: String,
        /// As the cluster file wants it.
        wanted: String,
    },
    /// None of the masters that the file names is in the cluster: it has other members.
    Unnamed {
        /// The hosts' or members' names.
        names: BTreeSet<String>,
    },
    /// A higher token was seen: another operator took over.
    Fenced {
        /// The token of this request.
        token: Fence,
        /// The highest seen here.
        highest: Fence,
        /// Who holds it.
        holder: String,
    },
    /// Another operation is in force.
    OperationInForce {
        /// Whose.
        holder: String,
        /// Which verb.
        goal: String,
        /// The hosts that say so.
        hosts: BTreeSet<NodeName>,
    },
    /// The approved plan is not what planning afresh yields.
    PlanDeparted {
        /// The first difference.
        departure: Box<Departure>,
    },
    /// Nobody can promise that the member is dead: the witnesses do not agree, or not yet.
    NotProvenDead {
        /// Its host.
        node: NodeName,
        /// Its ID.
        member: MemberId,
        /// What each witness says.
        accounts: Box<Accounts>,
    },
    /// The member may still run where nobody sees it, and without it too few healthy voters are left to fence it off.
    MayStillRun {
        /// Its ID.
        member: MemberId,
        /// What is seen of it.
        seen: String,
        /// Voters without it.
        voters: usize,
        /// Healthy ones among them.
        healthy: usize,
        /// Needed to decide.
        needed: usize,
    },
    /// A member that remains is behind the others.
    RaftLags {
        /// Its host.
        node: NodeName,
        /// Entries of the log that it did not apply yet.
        behind: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// The database of a member that remains is close to its quota: at the quota every write is refused.
    NearQuota {
        /// Its host.
        node: NodeName,
        /// Its size in bytes.
        bytes: u64,
        /// Its quota in bytes.
        quota: u64,
        /// Percent of the quota that are allowed.
        percent_max: u64,
    },
    /// The disk of a member that remains is nearly full.
    DiskFull {
        /// Its host.
        node: NodeName,
        /// Free space in bytes.
        free: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// The disk of a member that remains is too slow for etcd.
    DiskSlow {
        /// Its host.
        node: NodeName,
        /// 99 of 100 syncs ended within this, in milliseconds.
        p99_ms: u64,
        /// What is allowed, in milliseconds.
        allowed_ms: u64,
    },
    /// A member that remains runs a version that is known to be bad for what is to be done.
    KnownBadVersion {
        /// Its host.
        node: NodeName,
        /// `etcd` or `kubeadm`.
        component: String,
        /// Its version.
        version: String,
        /// What is wrong with it, and since which version it is not.
        why: String,
    },
    /// The verb would end with an even number of voters: one more than needed to survive as many losses.
    EvenVoters {
        /// Voters it would end with.
        voters: usize,
        /// The way to an odd number.
        instead: String,
    },
    /// The change would leave two voters, and what is to follow it is not ready.
    NoSuccessor {
        /// The change.
        change: String,
        /// What is missing, as a sentence.
        lacks: String,
    },
    /// The cluster file still wants the node.
    StillWanted {
        /// Which.
        node: NodeName,
        /// The edit that makes it leave the file.
        edit: String,
    },
    /// The cluster file does not name the host that is to come.
    NotWanted {
        /// Which.
        node: NodeName,
        /// The edit that makes the file name it.
        edit: String,
    },
    /// A host that is to join would run with other settings than the masters.
    JoinerDiffers {
        /// The host.
        node: NodeName,
        /// All differences.
        differences: BTreeSet<ManifestDifference>,
    },
    /// The host shall be reset and is still a member of etcd.
    StillMember {
        /// The host.
        node: NodeName,
        /// Its member.
        member: MemberId,
    },
    /// The cluster has something that a conversion cannot carry over, or would break.
    NotConvertible {
        /// What: a field, a file, an object.
        what: String,
        /// What was seen of it.
        seen: String,
        /// What to do about it.
        way: String,
        /// Once that was done it can be converted.
        mendable: bool,
    },
    /// Somebody is still connected to the master's old address who has another way.
    OldAddressInUse {
        /// The host that saw it.
        node: NodeName,
        /// Who.
        callers: BTreeSet<Caller>,
        /// The endpoint's name, where that leads to the old address itself: who came by which of them nobody can tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// An object of the cluster still holds an address that nobody would answer at once the first master is lost.
    OldAddressStored {
        /// The first master.
        node: NodeName,
        /// Where, never what else is there.
        stored: BTreeSet<Stored>,
    },
    /// The cluster has something that no conversion was proven with: nobody can say whether it goes on.
    Unproven {
        /// The master that is there.
        node: NodeName,
        /// What it is.
        unknowns: BTreeSet<String>,
    },
    /// A worker does not answer, so it cannot be led to the endpoint now.
    WorkerAway {
        /// Which.
        node: NodeName,
        /// What was seen of it.
        seen: String,
    },
    /// More than one master votes: the way is on, or down through `remove`.
    PastReturn {
        /// Voters.
        voters: usize,
    },
    /// A target of the cloud's balancer does not turn healthy.
    TargetUnhealthy {
        /// The master.
        node: NodeName,
        /// Its instance.
        instance: String,
        /// What was seen last.
        seen: String,
        /// For how long, in seconds.
        waited_s: u64,
    },
    /// Without that target the cloud's balancer would have none that is healthy.
    LastTarget {
        /// The master.
        node: NodeName,
        /// The others, and what was seen of them.
        others: BTreeSet<String>,
    },
    /// The request carries no change, or another one, where the action makes one.
    Unpermitted {
        /// What was to be done.
        action: String,
    },
}

macro_rules! refusal_codes {
    ($($variant:ident = $name:literal, $acceptable:literal;)*) => {
        /// A refusal's name, as it is written in messages, runbooks and `--accept`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum RefusalCode {
            $(#[doc = concat!("See [`Refusal::", stringify!($variant), "`].")] $variant,)*
        }

        impl RefusalCode {
            /// All codes, in the order of this file.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether an operator may override it for one node by name.
            pub fn acceptable(self) -> bool {
                match self { $(Self::$variant => $acceptable,)* }
            }
        }

        impl Refusal {
            /// Its name.
            pub fn code(&self) -> RefusalCode {
                match self { $(Self::$variant { .. } => RefusalCode::$variant,)* }
            }
        }
    };
}

// The one table of what can be accepted.
refusal_codes! {
    Missing = "missing", false;
    WouldLoseQuorum = "would-lose-quorum", false;
    LearnerPresent = "learner-present", false;
    MemberUnstarted = "member-unstarted", false;
    AlarmRaised = "alarm-raised", false;
    NotBlank = "not-blank", false;
    FoundingFailed = "founding-failed", false;
    ForeignHost = "foreign-host", false;
    ForeignAuthority = "foreign-authority", false;
    UnfitHost = "unfit-host", true;
    ClockDiffers = "clock-differs", true;
    EtcdVolume = "etcd-volume", true;
    PortInUse = "port-in-use", false;
    EndpointUnresolved = "endpoint-unresolved", false;
    EndpointSilent = "endpoint-silent", false;
    EndpointRecords = "endpoint-records", false;
    DataLost = "data-lost", false;
    MachineHeld = "machine-held", false;
    BundleVersion = "bundle-version", false;
    Unchangeable = "unchangeable", false;
    Unnamed = "unnamed", false;
    Fenced = "fenced", false;
    OperationInForce = "operation-in-force", false;
    PlanDeparted = "plan-departed", false;
    Unpermitted = "unpermitted", false;
    NotProvenDead = "not-proven-dead", true;
    MayStillRun = "may-still-run", false;
    RaftLags = "raft-lags", true;
    NearQuota = "near-quota", true;
    DiskFull = "disk-full", true;
    DiskSlow = "disk-slow", true;
    KnownBadVersion = "known-bad-version", true;
    EvenVoters = "even-voters", false;
    NoSuccessor = "no-successor", false;
    StillWanted = "still-wanted", false;
    NotWanted = "not-wanted", false;
    JoinerDiffers = "joiner-differs", true;
    StillMember = "still-member", false;
    NotConvertible = "not-convertible", false;
    OldAddressInUse = "old-address-in-use", true;
    OldAddressStored = "old-address-stored", true;
    Unproven = "unproven", true;
    WorkerAway = "worker-away", true;
    PastReturn = "past-return", false;
    TargetUnhealthy = "target-unhealthy", false;
    LastTarget = "last-target", false;
}

impl RefusalCode {
    /// The code of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Refusal {
    /// The node whose operator may accept it by name. `None`: it cannot be accepted.
    pub fn acceptable_for(&self) -> Option<&NodeName> {
        let node = match self {
            Self::UnfitHost { node, .. }
            | Self::ClockDiffers { node, .. }
            | Self::EtcdVolume { node, .. }
            | Self::NotProvenDead { node, .. }
            | Self::RaftLags { node, .. }
            | Self::NearQuota { node, .. }
            | Self::DiskFull { node, .. }
            | Self::DiskSlow { node, .. }
            | Self::KnownBadVersion { node, .. }
            | Self::JoinerDiffers { node, .. }
            | Self::OldAddressInUse { node, .. }
            | Self::OldAddressStored { node, .. }
            | Self::Unproven { node, .. }
            | Self::WorkerAway { node, .. } => node,
            Self::Missing { .. }
            | Self::WouldLoseQuorum { .. }
            | Self::LearnerPresent { .. }
            | Self::MemberUnstarted { .. }
            | Self::AlarmRaised { .. }
            | Self::FoundingFailed { .. }
            | Self::NotBlank { .. }
            | Self::ForeignHost { .. }
            | Self::ForeignAuthority { .. }
            | Self::PortInUse { .. }
            | Self::EndpointUnresolved { .. }
            | Self::EndpointSilent { .. }
            | Self::EndpointRecords { .. }
            | Self::DataLost { .. }
            | Self::MachineHeld { .. }
            | Self::BundleVersion { .. }
            | Self::Unchangeable { .. }
            | Self::Unnamed { .. }
            | Self::Fenced { .. }
            | Self::OperationInForce { .. }
            | Self::PlanDeparted { .. }
            | Self::MayStillRun { .. }
            | Self::EvenVoters { .. }
            | Self::NoSuccessor { .. }
            | Self::StillWanted { .. }
            | Self::NotWanted { .. }
            | Self::StillMember { .. }
            | Self::NotConvertible { .. }
            | Self::PastReturn { .. }
            | Self::TargetUnhealthy { .. }
            | Self::LastTarget { .. }
            | Self::Unpermitted { .. } => return None,
        };
        self.code().acceptable().then_some(node)
    }

    /// Whether it was accepted by name, for the very node it is about.
    pub fn accepted(&self, accepted: &BTreeSet<Acceptance>) -> bool {
        self.acceptable_for().is_some_and(|node| {
            accepted.contains(&Acceptance {
                risk: self.code(),
                node: node.clone(),
            })
        })
    }
}

impl From<Missing> for Refusal {
    fn from(missing: Missing) -> Self {
        Self::Missing { missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losing_quorum_is_never_accepted() {
        for code in [
            RefusalCode::WouldLoseQuorum,
            RefusalCode::Missing,
            RefusalCode::Fenced,
            RefusalCode::DataLost,
            RefusalCode::NotBlank,
            RefusalCode::MayStillRun,
            RefusalCode::EvenVoters,
            RefusalCode::NoSuccessor,
            RefusalCode::StillMember,
        ] {
            assert!(!code.acceptable(), "{code}");
        }
    }

    #[test]
    fn names_are_what_serde_writes() {
        for code in RefusalCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert_eq!(RefusalCode::parse(code.name()), Some(*code));
        }
    }

    /// People and plays look up what a refusal's data says.
    #[test]
    fn a_refusal_is_written_with_the_name_of_its_code() {
        for code in RefusalCode::ALL {
            let bare = serde_json::json!({ "code": code.name() });
            let read = serde_json::from_value::<Refusal>(bare).map_err(|error| error.to_string());
            assert!(
                read.is_err_and(|error| error.contains("missing field")),
                "{code}"
            );
        }
    }
}
