//! There is no such Node object, and no pod that is bound to it.
//!
//! Kubernetes deletes such pods by itself, without asking a kubelet, some forty seconds after their node; until then what they stood for
//! is not started elsewhere. Whoever removes a host for good need not wait for that.

use quorate_plan::NodeName;

use super::{ANSWER_WITHIN, Work, own_api};
use crate::{error::ActionError, facts};

pub(super) async fn ensure(work: &Work<'_>, node: &NodeName) -> Result<(), ActionError> {
    let client = own_api(work)?;
    // The node first: a pod of a DaemonSet that is deleted before it is made again, on it.
    facts::present(
        client
            .delete(&format!("/api/v1/nodes/{node}"), ANSWER_WITHIN)
            .await,
    )
    .map_err(ActionError::kube(format!("deleting node {node}")))?;
    let pods = client
        .list(
            &format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"),
            ANSWER_WITHIN,
        )
        .await
        .map_err(ActionError::kube(format!("pods of {node}")))?;
    for pod in &pods.items {
        let (Some(namespace), Some(name)) = (
            pod["metadata"]["namespace"].as_str(),
            pod["metadata"]["name"].as_str(),
        ) else {
            continue;
        };
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0");
        facts::present(client.delete(&path, ANSWER_WITHIN).await)
            .map_err(ActionError::kube("deleting a pod of a node that is gone"))?;
    }
    if !pods.items.is_empty() {
        work.progress
            .say(format!("deleted {} pods of {node}", pods.items.len()));
    }
    Ok(())
}
