//! Cluster DNS runs on more than one node: all its pods were scheduled on the only master there was.

use quorate_kube::PatchKind;
use serde_json::json;

use super::{ANSWER_WITHIN, Work, own_api};
use crate::{error::ActionError, facts, shown, utc};

pub(super) async fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    let client = own_api(work)?;
    // As `kubectl rollout restart` does it; pods of one Deployment prefer different nodes.
    let at = utc::rfc3339(utc::now());
    let annotations = json!({ "kubectl.kubernetes.io/restartedAt": at });
    let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
    client
        .patch(facts::DNS, PatchKind::Strategic, &patch, ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("starting cluster DNS anew"))?;
    work.wait("cluster DNS to run on two nodes", || async {
        match facts::dns_nodes(&client).await {
            Ok(nodes) if nodes.len() >= 2 => Ok(()),
            Ok(nodes) => {
                let nodes: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
                Err(format!("ready on {}", nodes.join(", ")))
            }
            Err(err) => Err(shown::line(&shown::chain(&err))),
        }
    })
    .await
}
