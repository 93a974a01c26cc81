//! The seams between a decision and the world.

use std::collections::BTreeMap;

use quorate_plan::{
    Claim, Fence, Handover, HostEnsure, InfraEnsure, NodeName, Refusal, Request, Sealed, Seen,
    admit::Recipient,
    observation::{Fencing, HostReport, InfraView, Receipt, Target},
    wire::Outcome,
};

pub use quorate_plan::observation::Look;

use crate::observe::Looks;

/// What makes a request good that somebody else carries.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// A recipient of its host that outlives the session.
    pub recipient: Recipient,
    /// What is here of the host's backup, for [`HostEnsure::BackupOffHost`].
    pub receipt: Option<Receipt>,
}

/// The hosts of one cluster, each over a channel of its own.
///
/// Nothing here retries: a failed look is [`Seen::Unknown`], and what to make of it is decided elsewhere.
#[allow(
    async_fn_in_trait,
    reason = "driven on one task; no adapter has to be Send"
)]
pub trait Hosts {
    /// Everything about a host, in one round trip, within a deadline of the adapter's.
    async fn report(&self, on: &NodeName) -> Seen<HostReport>;

    /// Takes the fence there.
    ///
    /// # Errors
    /// [`HostError::Refused`] when another operation is in force or the token is not the highest.
    async fn claim(&self, on: &NodeName, claim: &Claim) -> Result<Fencing, HostError>;

    /// Gives the fence back.
    ///
    /// # Errors
    /// [`HostError::Refused`] when somebody else holds it.
    async fn release(&self, on: &NodeName, fence: Fence) -> Result<(), HostError>;

    /// An ephemeral recipient of that host, for what others seal to it in this session.
    ///
    /// # Errors
    /// When the host does not answer.
    async fn recipient(&self, on: &NodeName) -> Result<Recipient, HostError>;

    /// A ticket of that host for a request that somebody else carries there. What the host needs beside the request is brought along, the
    /// files of a bundle; and what it is to stand by is brought here, its backup.
    ///
    /// # Errors
    /// When the host does not answer, or does not take a file.
    async fn ticket(&self, on: &NodeName, ensure: &HostEnsure) -> Result<Ticket, HostError>;

    /// Lets `what.from()` seal something to another host's recipient.
    ///
    /// # Errors
    /// When the giving host refuses, fails or does not answer.
    async fn seal(
        &self,
        fence: Fence,
        what: &Handover,
        to: &Recipient,
    ) -> Result<Sealed, HostError>;

    /// Makes an end state stand; `progress` gets a line now and then. A bundle's files are brought along where they are missing.
    ///
    /// # Errors
    /// When the host refuses, is busy, fails, or stops answering: in the last case the action may still be going on there.
    async fn ensure(
        &self,
        on: &NodeName,
        request: Request,
        progress: &mut dyn FnMut(String),
    ) -> Result<Outcome, HostError>;
}

/// The machines under the hosts, and the cloud's balancer before them.
#[allow(
    async_fn_in_trait,
    reason = "driven on one task; no adapter has to be Send"
)]
pub trait Infra {
    /// Every machine this provider makes. Empty for hosts that somebody else made.
    async fn observe(&self) -> BTreeMap<NodeName, Seen<InfraView>>;

    /// What the cloud's balancer says of every master that is, or may be, a target of it, within a deadline of the adapter's. Empty where
    /// there is no such balancer.
    async fn targets(&self) -> BTreeMap<NodeName, Seen<Target>>;

    /// Makes an end state stand.
    ///
    /// # Errors
    /// When the provider fails.
    async fn ensure(
        &self,
        what: &InfraEnsure,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), InfraError>;
}

/// Everything a run acts on.
#[derive(Debug)]
pub struct World<H, I> {
    /// The hosts.
    pub hosts: H,
    /// The machines under them.
    pub infra: I,
    /// How often each host was looked at, by whatever planning and run of this process.
    pub(crate) looks: Looks,
}

impl<H, I> World<H, I> {
    /// Nobody was looked at yet.
    pub fn new(hosts: H, infra: I) -> Self {
        Self {
            hosts,
            infra,
            looks: Looks::default(),
        }
    }
}

/// Why a host did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host, or the guard on it, said no.
    #[error("{node} refuses")]
    Refused {
        /// The host.
        node: NodeName,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// An earlier session's action still runs there.
    #[error("{node} is still busy with `{action}` for {since_ms} ms (token {fence})")]
    Busy {
        /// The host.
        node: NodeName,
        /// What runs.
        action: String,
        /// For how long, in milliseconds.
        since_ms: u64,
        /// Whose token started it.
        fence: Fence,
    },
    /// The action failed there.
    #[error("{node}: {error}")]
    Failed {
        /// The host.
        node: NodeName,
        /// What was expected and seen, escaped and capped.
        error: String,
    },
    /// No answer: whether the action happened is not known.
    #[error("{node} does not answer: {detail}")]
    Unreachable {
        /// The host.
        node: NodeName,
        /// One line, escaped and capped.
        detail: String,
    },
}

/// Why the provider did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {detail}")]
pub struct InfraError {
    /// What was being made.
    pub what: String,
    /// What was expected and seen.
    pub detail: String,
}
