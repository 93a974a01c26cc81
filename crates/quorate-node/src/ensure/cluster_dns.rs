//! CoreDNS as kubeadm installs it, once there are nodes to spread its pods over.

use quorate_plan::kubeadm::{ClusterSettings, Peer};

use super::{Work, cluster_config::local_kubeconfig};
use crate::{
    error::ActionError,
    kubeadm::{Extra, Kubeadm},
};

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let kubeconfig = local_kubeconfig(work, node)?;
    let extra = Extra::default();
    Kubeadm::new(
        work.paths,
        work.tools,
        settings,
        node,
        &extra,
        work.patience,
    )?
    .phase_with(
        &["addon", "coredns"],
        &[("--kubeconfig", kubeconfig.path())],
    )
    .await?;
    Ok(())
}
