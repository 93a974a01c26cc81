//! The Node object carries label and taint of a control plane host. That the kubelet rotates its own certificate was seen to before it
//! started, in `kubelet`.

use quorate_kube::PatchKind;
use quorate_plan::kubeadm::Peer;
use serde_json::json;

use super::{ANSWER_WITHIN, Work, apiserver};
use crate::{clients, error::ActionError, facts, shown};

/// As `kubeadm init phase mark-control-plane` does it, which cannot be told to ask this host's own apiserver.
pub(super) async fn ensure(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
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
