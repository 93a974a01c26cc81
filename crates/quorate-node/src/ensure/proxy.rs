//! kube-proxy of one node begins anew, with the kubeconfig that the cluster keeps now. The rules it made stay in the kernel meanwhile.
//!
//! Its DaemonSet has no readiness probe, so a rollout that went well says nothing: where it is connected to is seen on its node.

use std::collections::BTreeSet;

use quorate_kube::{Client, KubeError};
use quorate_plan::NodeName;
use serde_json::Value;

use super::{ANSWER_WITHIN, Work, own_api};
use crate::{error::ActionError, facts, shown};

pub(super) async fn ensure(work: &Work<'_>, node: &NodeName) -> Result<(), ActionError> {
    let client = own_api(work)?;
    let old = pods(&client, node)
        .await
        .map_err(ActionError::kube("listing the pods of kube-proxy"))?;
    for (name, _) in &old {
        let path = format!("/api/v1/namespaces/kube-system/pods/{name}");
        facts::present(client.delete(&path, ANSWER_WITHIN).await)
            .map_err(ActionError::kube("deleting a pod of kube-proxy"))?;
    }
    let names: BTreeSet<&str> = old.iter().map(|(name, _)| name.as_str()).collect();
    work.wait("kube-proxy to run again", || async {
        let now = pods(&client, node)
            .await
            .map_err(|err| shown::line(&shown::chain(&err)))?;
        let mut new = now
            .iter()
            .filter(|(name, _)| !names.contains(name.as_str()));
        match new.next() {
            Some((_, true)) => Ok(()),
            Some((name, false)) => Err(format!("{name} does not run yet")),
            None => Err("there is no new pod yet".into()),
        }
    })
    .await
}

/// Pods of kube-proxy on a node, by name, and whether they run.
async fn pods(client: &Client, node: &NodeName) -> Result<Vec<(String, bool)>, KubeError> {
    let path = format!(
        "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-proxy&fieldSelector=spec.nodeName%3D{node}"
    );
    let list = client.list(&path, ANSWER_WITHIN).await?;
    let runs = |pod: &Value| pod["status"]["phase"] == "Running";
    Ok(list
        .items
        .iter()
        .filter_map(|pod| Some((shown::line(pod["metadata"]["name"].as_str()?), runs(pod))))
        .collect())
}
