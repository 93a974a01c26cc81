//! kubeadm's own configuration in the cluster names the endpoint and every name, or is as it was kept.

use quorate_kube::{Client, PatchKind};
use quorate_plan::{
    kubeadm::{ClusterSettings, Peer},
    standing::ADOPTED,
};
use serde_json::{Value, json};

use super::{
    ANSWER_WITHIN, Work, backed_up::object_of, cluster_config::local_kubeconfig, config_map, note,
    own_api,
};
use crate::{
    durable,
    error::ActionError,
    facts,
    kubeadm::{Extra, Kubeadm},
};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kubeadm-config";
const KEY: &str = "ClusterConfiguration";

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let client = own_api(work)?;
    // The note first: from here on the cluster is rendered from what it was made with.
    note(&client, ADOPTED, "converted").await?;
    let kubeconfig = local_kubeconfig(work, node)?;
    let extra = Extra::default();
    let kubeadm = Kubeadm::new(
        work.paths,
        work.tools,
        settings,
        node,
        &extra,
        work.patience,
    )?;
    let flags = [("--kubeconfig", kubeconfig.path())];
    Ok(kubeadm
        .phase_with(&["upload-config", "kubeadm"], &flags)
        .await?)
}

/// The text that was kept comes back, word for word.
pub(super) async fn keep(work: &Work<'_>) -> Result<(), ActionError> {
    let client = own_api(work)?;
    let path = object_of(work.paths, NAME);
    let kept: Option<Value> = durable::read_json(&path)?;
    let text = kept.and_then(|map| map["data"][KEY].as_str().map(str::to_owned));
    let Some(text) = text else {
        return Err(ActionError::unexpected(
            "the configuration that was kept",
            format!("none in {}", path.display()),
            "write it by hand: `kubectl -n kube-system edit configmap kubeadm-config`",
        ));
    };
    let new = |_: &str| Ok(text.clone());
    config_map::edit(work, &client, (NAMESPACE, NAME, KEY), new).await?;
    forget(&client).await
}

/// Takes the note away; that there are no notes at all is fine.
async fn forget(client: &Client) -> Result<(), ActionError> {
    let path = config_map::path(NAMESPACE, "quorate");
    let patch = json!({ "data": { ADOPTED: null } });
    let gone = client
        .patch(&path, PatchKind::Merge, &patch, ANSWER_WITHIN)
        .await;
    facts::present(gone)
        .map(drop)
        .map_err(ActionError::kube("writing Quorate's notes"))
}
