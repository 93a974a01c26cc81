//! Static pod manifests of apiserver, controller manager and scheduler, as kubeadm renders them.

use quorate_plan::kubeadm::{ClusterSettings, Peer};

use super::{TOOL_WITHIN, Work};
use crate::{
    durable,
    error::ActionError,
    kubeadm::{Extra, Kubeadm},
};

/// In the order they are placed: the others wait for the apiserver anyway.
const COMPONENTS: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let extra = Extra::default();
    let kubeadm = Kubeadm::new(work.paths, work.tools, settings, node, &extra, TOOL_WITHIN)?;
    let manifests = kubeadm.manifests(&["control-plane", "all"]).await?;
    for name in COMPONENTS {
        let text = manifests.get(name).ok_or_else(|| rendered_nothing(name))?;
        durable::write_if_different(&work.paths.manifest(name), text.as_bytes(), 0o600)?;
    }
    Ok(())
}

/// kubeadm ended well and a manifest is missing all the same.
pub(super) fn rendered_nothing(name: &str) -> ActionError {
    ActionError::unexpected(
        format!("kubeadm to render {name}.yaml"),
        "no such file in its output",
        "look whether the bundle's kubeadm is the version of the cluster file",
    )
}
