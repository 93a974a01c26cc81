//! Whether a step's end state stands: the precheck before acting, the check after, and what the planner uses to leave a step out. Start
//! at [`Step::standing`]; the nouns have a file each.

use serde::{Deserialize, Serialize};

use crate::{Observation, seen::Missing, step::Step};

/// What shows that an end state stands, as a sentence with what was seen: `cp-1 is voter 8e9e05c52164694d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Evidence(pub String);

/// One thing that differs from an end state: `sysctl net.ipv4.ip_forward: expected 1, seen 0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Difference(pub String);

/// Whether an end state stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It stands.
    Done(Evidence),
    /// It does not.
    Open(Vec<Difference>),
    /// Nobody can say.
    Unknown(Missing),
}

impl Step {
    /// Whether this step's end state stands in what was seen.
    pub fn standing(&self, _seen: &Observation) -> Standing {
        Standing::Open(Vec::new())
    }
}
