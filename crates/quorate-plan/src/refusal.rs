//! Refusals: what will not be done, in numbers, with the way on. Each is a type of its own, each has a page in the runbooks, and one
//! table ([`RefusalCode::acceptable`]) says which of them an operator may override for one node. Losing quorum is never among them.

use std::{collections::BTreeSet, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MemberId, NodeName, intent::Fence, plan::Departure, seen::Missing};

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "code")]
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
    /// Control plane hosts are in the cluster that the file does not name.
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
    ForeignHost = "foreign-host", false;
    ForeignAuthority = "foreign-authority", false;
    UnfitHost = "unfit-host", true;
    ClockDiffers = "clock-differs", true;
    PortInUse = "port-in-use", false;
    EndpointUnresolved = "endpoint-unresolved", false;
    DataLost = "data-lost", false;
    MachineHeld = "machine-held", false;
    BundleVersion = "bundle-version", false;
    Unchangeable = "unchangeable", false;
    Unnamed = "unnamed", false;
    Fenced = "fenced", false;
    OperationInForce = "operation-in-force", false;
    PlanDeparted = "plan-departed", false;
    Unpermitted = "unpermitted", false;
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

impl From<Missing> for Refusal {
    fn from(missing: Missing) -> Self {
        Self::Missing { missing }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { missing } => write!(f, "{missing}"),
            Self::WouldLoseQuorum {
                change,
                voters,
                healthy,
                needed,
            } => {
                write!(
                    f,
                    "{change} leaves {healthy} healthy of {voters} voters, {needed} needed"
                )
            }
            Self::LearnerPresent { member, peer_urls } => {
                write!(
                    f,
                    "member {member} ({}) is still a learner: promote or remove it first",
                    list(peer_urls)
                )
            }
            Self::MemberUnstarted { member, peer_urls } => write!(
                f,
                "member {member} ({}) was added and never started",
                list(peer_urls)
            ),
            Self::AlarmRaised { alarm, member } => {
                write!(f, "etcd raises {alarm} on member {member}")
            }
            Self::NotBlank { node, found } => {
                write!(f, "{node} shall found a cluster, but carries {found}")
            }
            Self::ForeignHost {
                node,
                mark,
                expected,
            } => write!(f, "{node} belongs to {mark}, expected {expected}"),
            Self::ForeignAuthority { node, other } => {
                write!(f, "{node} holds another certificate authority than {other}")
            }
            Self::UnfitHost {
                node,
                expected,
                seen,
            } => write!(f, "{node}: expected {expected}, seen {seen}"),
            Self::ClockDiffers {
                node,
                by_ms,
                allowed_ms,
            } => {
                write!(
                    f,
                    "the clock of {node} is {by_ms} ms from the others', {allowed_ms} ms are allowed"
                )
            }
            Self::PortInUse {
                node,
                port,
                process,
            } => write!(f, "port {port} of {node} is taken by {process}"),
            Self::EndpointUnresolved { node, name } => {
                write!(f, "`{name}` does not resolve on {node}")
            }
            Self::DataLost { node, member } => {
                write!(
                    f,
                    "{node} was member {member} and its etcd data is gone: it must not start an empty etcd"
                )
            }
            Self::MachineHeld { node, state } => write!(
                f,
                "{node} is {state}: `quorate local thaw {node}` lets it go on"
            ),
            Self::BundleVersion { bundle, wanted } => write!(
                f,
                "the bundle holds Kubernetes {bundle}, the cluster file wants {wanted}"
            ),
            Self::Unchangeable { what, is, wanted } => write!(
                f,
                "{what} of the running cluster is {is}, the cluster file wants {wanted}"
            ),
            Self::Unnamed { names } => write!(
                f,
                "the cluster has control plane members the cluster file does not name: {}",
                list(names)
            ),
            Self::Fenced {
                token,
                highest,
                holder,
            } => write!(
                f,
                "token {token} is outranked by {highest}, held by {holder}"
            ),
            Self::OperationInForce {
                holder,
                goal,
                hosts,
            } => {
                write!(f, "`{goal}` of {holder} is in force on {}", list(hosts))
            }
            Self::PlanDeparted { departure } => {
                write!(f, "the plan was not approved like this: {departure}")
            }
            Self::Unpermitted { action } => write!(f, "`{action}` needs a permitted change"),
        }
    }
}

fn list<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    if texts.is_empty() {
        "none".into()
    } else {
        texts.join(", ")
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
}
