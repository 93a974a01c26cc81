//! The kubelet runs with kubeadm's configuration, and starts at boot.

use quorate_plan::kubeadm::{ClusterSettings, Peer};

use super::{TOOL_WITHIN, Work};
use crate::{
    command::Command,
    error::ActionError,
    kubeadm::{Extra, Kubeadm},
    shown,
};

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let extra = Extra::default();
    Kubeadm::new(work.paths, work.tools, settings, node, &extra, TOOL_WITHIN)?
        .phase(&["kubelet-start"])
        .await?;
    start(work).await
}

/// kubeadm does not say whether the kubelet started.
pub(super) async fn start(work: &Work<'_>) -> Result<(), ActionError> {
    let enable = ["enable", "--now", "kubelet.service"];
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(enable))
        .await?;
    work.wait("the kubelet to run", || async {
        let show = ["is-active", "kubelet.service"];
        match work
            .tools
            .run(Command::new("systemctl", TOOL_WITHIN).args(show))
            .await
        {
            Ok(_) => Ok(()),
            Err(err) => Err(shown::chain(&err)),
        }
    })
    .await
}
