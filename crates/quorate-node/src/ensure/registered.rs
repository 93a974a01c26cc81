//! The Node object carries label and taint of a control plane host, and the kubelet rotates its own certificate.

use std::path::Path;

use quorate_kube::PatchKind;
use quorate_plan::kubeadm::{ClusterSettings, Peer};
use serde_json::json;

use super::{ANSWER_WITHIN, TOOL_WITHIN, Work, apiserver};
use crate::{
    clients, durable,
    durable::FileError,
    error::ActionError,
    facts,
    kubeadm::{Extra, Kubeadm},
    shown,
};

/// Where the kubelet keeps the certificate it rotates.
const ROTATED: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    mark(work, node).await?;
    rotate(work, settings, node).await
}

/// As `kubeadm init phase mark-control-plane` does it, which cannot be told to ask this host's own apiserver.
async fn mark(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
    let client = clients::api(work.paths, "admin.conf", apiserver(node))?;
    let object = work
        .wait("this host's Node object", || async {
            match facts::nodes(&client).await {
                Ok(mut nodes) => nodes
                    .remove(&node.name)
                    .ok_or_else(|| format!("node {} is not registered", node.name)),
                Err(err) => Err(shown::line(&shown::chain(&err))),
            }
        })
        .await?;
    if object.control_plane {
        // A taint that was taken away by hand afterwards stays away.
        return Ok(());
    }
    let patch = json!({
        "metadata": { "labels": {
            "node-role.kubernetes.io/control-plane": "",
            "node.kubernetes.io/exclude-from-external-load-balancers": "",
        } },
        "spec": { "taints": [{ "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" }] },
    });
    let path = format!("/api/v1/nodes/{}", node.name);
    client
        .patch(&path, PatchKind::Strategic, &patch, ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("marking this host's node"))?;
    Ok(())
}

/// kubelet.conf holds the certificate it was made with until kubeadm points it at the rotated one.
async fn rotate(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let path = work.paths.kubernetes("kubelet.conf");
    if !holds_certificate(&path)? {
        return Ok(());
    }
    let rotated = work.paths.at(ROTATED);
    work.wait("the kubelet's own certificate", || async {
        if rotated.exists() {
            Ok(())
        } else {
            Err(format!("`{}` is not there", rotated.display()))
        }
    })
    .await?;
    let extra = Extra::default();
    Kubeadm::new(work.paths, work.tools, settings, node, &extra, TOOL_WITHIN)?
        .phase(&["kubelet-finalize", "all"])
        .await?;
    super::kubelet::start(work).await
}

fn holds_certificate(path: &Path) -> Result<bool, FileError> {
    let text = durable::read_text(path)?.unwrap_or_default();
    Ok(text.contains("client-certificate-data:"))
}
