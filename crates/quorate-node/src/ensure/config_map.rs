//! Editing a ConfigMap of kubeadm's: only what is meant, and only while nobody else wrote it. Start at [`edit`].

use quorate_kube::{Client, PatchKind, Reason};
use serde_json::{Value, json};

use super::{ANSWER_WITHIN, Attempt, Work};
use crate::{error::ActionError, facts};

/// Where it lies.
pub(super) fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
}

/// Reads one. `None`: there is none.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, ActionError> {
    let got = client.get(&path(namespace, name), ANSWER_WITHIN).await;
    facts::present(got).map_err(ActionError::kube(format!("reading {name}")))
}

/// Replaces one of its texts. Begins again when somebody else wrote it meanwhile.
pub(super) async fn edit(
    work: &Work<'_>,
    client: &Client,
    (namespace, name, key): (&str, &str, &str),
    new: impl Fn(&str) -> Result<String, ActionError>,
) -> Result<(), ActionError> {
    work.retry(&format!("{name} to be written by nobody else"), || async {
        let map = read(client, namespace, name)
            .await
            .map_err(Attempt::Final)?;
        let Some(map) = map else {
            return Err(Attempt::Final(ActionError::unexpected(
                format!("a ConfigMap {namespace}/{name}"),
                "there is none",
                "look whether kubeadm made this cluster",
            )));
        };
        let text = map["data"][key].as_str().unwrap_or_default();
        let wanted = new(text).map_err(Attempt::Final)?;
        if wanted == text {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": map["metadata"]["resourceVersion"] },
            "data": { key: wanted },
        });
        let written = client
            .patch(
                &path(namespace, name),
                PatchKind::Merge,
                &patch,
                ANSWER_WITHIN,
            )
            .await;
        match written {
            Ok(_) => Ok(()),
            Err(err) if matches!(err.reason(), Some(Reason::Conflict)) => {
                Err(Attempt::Again("it was written meanwhile".into()))
            }
            Err(err) => {
                let doing = format!("writing {name}");
                Err(Attempt::Final(ActionError::kube(doing)(err)))
            }
        }
    })
    .await
}
