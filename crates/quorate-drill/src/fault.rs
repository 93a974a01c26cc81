//! Faults, and whoever can make them real. Start at [`Faults`].

use quorate_plan::NodeName;
use serde::{Deserialize, Serialize};

/// What is done to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Every process ends at once and the network is gone; the disk cache of the machine underneath is kept.
    PowerLoss,
    /// Every process stops; the kernel underneath goes on acknowledging.
    Freeze,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PowerLoss => "abrupt stop, disk cache kept",
            Self::Freeze => "freeze",
        })
    }
}

/// Why a fault could not be made or mended.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {node}")]
pub struct FaultError {
    /// What was tried: `cut the power of`.
    pub what: &'static str,
    /// The host.
    pub node: NodeName,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Whoever can break hosts and mend them again.
#[allow(
    async_fn_in_trait,
    reason = "driven on one task; no implementation has to be Send"
)]
pub trait Faults {
    /// Breaks a host.
    ///
    /// # Errors
    /// When it cannot be done.
    async fn strike(&self, fault: Fault, node: &NodeName) -> Result<(), FaultError>;

    /// Mends what was broken.
    ///
    /// # Errors
    /// When it cannot be done.
    async fn mend(&self, fault: Fault, node: &NodeName) -> Result<(), FaultError>;
}

/// Local hosts: their power and their processes are ours to take.
impl Faults for quorate_local::Cluster {
    async fn strike(&self, fault: Fault, node: &NodeName) -> Result<(), FaultError> {
        let host = host(node)?;
        match fault {
            Fault::PowerLoss => self
                .power_off(&host)
                .await
                .map_err(failed("cut the power of", node)),
            Fault::Freeze => self.freeze(&host).await.map_err(failed("freeze", node)),
        }
    }

    async fn mend(&self, fault: Fault, node: &NodeName) -> Result<(), FaultError> {
        let host = host(node)?;
        match fault {
            Fault::PowerLoss => self
                .power_on(&host)
                .await
                .map_err(failed("give power back to", node)),
            Fault::Freeze => self.thaw(&host).await.map_err(failed("thaw", node)),
        }
    }
}

fn host(node: &NodeName) -> Result<quorate_local::HostName, FaultError> {
    node.as_str()
        .parse()
        .map_err(|source: quorate_local::BadName| failed("find the local host", node)(source))
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
    node: &NodeName,
) -> impl Fn(E) -> FaultError {
    let node = node.clone();
    move |source| FaultError {
        what,
        node: node.clone(),
        source: Box::new(source),
    }
}
