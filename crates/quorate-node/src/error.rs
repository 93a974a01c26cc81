//! Why an action was not made. Start at [`ActionError`].

use quorate_etcd::{EndpointError, EtcdError};
use quorate_kube::{ApplyError, KubeError, KubeconfigError};
use quorate_plan::{Missing, Refusal};

use crate::{command::CommandError, durable::FileError, seal::SealError, shown};

/// Why an action was not made, or not to its end. Every action may be asked for again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActionError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tool.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// etcd.
    #[error("etcd: {doing}")]
    Etcd {
        /// What was being done.
        doing: String,
        /// Its answer.
        #[source]
        source: EtcdError,
    },
    /// The way to etcd.
    #[error("etcd cannot be asked")]
    EtcdEndpoint(#[from] EndpointError),
    /// The API.
    #[error("the API: {doing}")]
    Kube {
        /// What was being done.
        doing: String,
        /// Its answer.
        #[source]
        source: KubeError,
    },
    /// A kubeconfig that cannot be used.
    #[error("the API cannot be asked")]
    Kubeconfig(#[from] KubeconfigError),
    /// A manifest.
    #[error("the manifest was not applied")]
    Apply(#[from] ApplyError),
    /// What another host sealed for this one.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The machine is not as the action needs it.
    #[error("expected {expected}, seen {seen}; {next}")]
    Unexpected {
        /// What was expected.
        expected: String,
        /// What was seen, escaped.
        seen: String,
        /// What to do.
        next: String,
    },
    /// Something did not happen in time.
    #[error("waited {waited_s} s for {what}; last seen: {seen}")]
    Late {
        /// For what.
        what: String,
        /// How long, in seconds.
        waited_s: u64,
        /// The last that was seen, escaped; may be several lines.
        seen: String,
    },
    /// A guard said no.
    #[error("refused: {0}")]
    Refused(Box<Refusal>),
}

impl ActionError {
    pub(crate) fn etcd(doing: impl Into<String>) -> impl FnOnce(EtcdError) -> Self {
        let doing = doing.into();
        move |source| Self::Etcd { doing, source }
    }

    pub(crate) fn kube(doing: impl Into<String>) -> impl FnOnce(KubeError) -> Self {
        let doing = doing.into();
        move |source| Self::Kube { doing, source }
    }

    pub(crate) fn unexpected(
        expected: impl Into<String>,
        seen: impl AsRef<str>,
        next: impl Into<String>,
    ) -> Self {
        Self::Unexpected {
            expected: expected.into(),
            seen: shown::line(seen.as_ref()),
            next: next.into(),
        }
    }
}

impl From<Refusal> for ActionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<Missing> for ActionError {
    fn from(missing: Missing) -> Self {
        Refusal::from(missing).into()
    }
}
