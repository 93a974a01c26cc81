//! What a stage changes for the quorum, and the permission to do it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{MemberId, NodeName};

/// A change that can cost the cluster its quorum. Interruptions spend quorum too and are changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A new etcd cluster is started on these hosts at once.
    Found {
        /// The founders.
        nodes: BTreeSet<NodeName>,
    },
    /// A voter is added: first as a learner, then promoted.
    AddVoter {
        /// The host that joins.
        node: NodeName,
    },
    /// A member is removed.
    RemoveMember {
        /// Its ID.
        id: MemberId,
        /// The host whose joining or leaving follows at once, where this change alone would leave two voters: two are no resting place.
        next: Option<NodeName>,
    },
    /// A voter is stopped for a while.
    Interrupt {
        /// The host.
        node: NodeName,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { nodes } => {
                write!(f, "found etcd on ")?;
                for (i, node) in nodes.iter().enumerate() {
                    write!(f, "{}{node}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::AddVoter { node } => write!(f, "add voter {node}"),
            Self::RemoveMember { id, next: None } => write!(f, "remove member {id}"),
            Self::RemoveMember {
                id,
                next: Some(next),
            } => write!(f, "remove member {id}, then go on with {next}"),
            Self::Interrupt { node } => write!(f, "interrupt {node}"),
        }
    }
}

/// A permission for one change, given by [`crate::permit`] for what was observed then. It cannot be made otherwise, copied or stored:
/// whoever changes membership takes it by value.
#[derive(Debug)]
#[must_use = "a permit is for one change"]
pub struct Permit {
    change: Change,
}

impl Permit {
    pub(crate) fn new(change: Change) -> Self {
        Self { change }
    }

    /// What it permits.
    pub fn change(&self) -> &Change {
        &self.change
    }
}
