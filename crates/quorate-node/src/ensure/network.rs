//! The pod network is applied and its pods are ready on every node.

use quorate_kube::{Applied, Client, FieldManager};
use quorate_plan::step::Network;

use super::{ANSWER_WITHIN, Work, note, own_api};
use crate::{
    bundle::{Manifest, Role},
    durable::{self, FileError},
    error::ActionError,
    facts::Installed,
    shown,
};

/// The addon of the bundle that is Flannel.
const FLANNEL: &str = "kube-flannel.yml";

pub(super) async fn ensure(work: &Work<'_>, network: &Network) -> Result<(), ActionError> {
    let manifest = match network {
        Network::Flannel { pods, image } => flannel(work, pods, image)?,
        Network::Manifest { text, .. } => text.clone(),
    };
    let client = own_api(work)?;
    let manager = FieldManager {
        name: "quorate",
        force: true,
    };
    let applied = client.apply(&manifest, manager, ANSWER_WITHIN).await?;
    work.progress
        .say(format!("applied {} objects", applied.len()));
    for set in applied.iter().filter(|object| object.kind == "DaemonSet") {
        ready(work, &client, set).await?;
    }
    // Noted last: a run that was killed before waits again.
    note(&client, "network", &network.digest()).await
}

fn flannel(work: &Work<'_>, pods: &str, image: &str) -> Result<String, ActionError> {
    let missing = |seen: &str| {
        ActionError::unexpected(
            format!("`{FLANNEL}` in the bundle installed here"),
            seen,
            "build the bundle again, or use the one the plan was made with",
        )
    };
    let bundle = Installed::read(work.paths)?
        .ok_or_else(|| missing("no bundle is installed"))?
        .bundle;
    let folder = work.paths.bundle(&bundle);
    let manifest = Manifest::read(&folder, &bundle)?;
    let file = manifest
        .of(Role::Addon)
        .find(|file| file.name() == FLANNEL)
        .ok_or_else(|| missing("no such file"))?;
    file.check(&folder, &mut std::io::sink())?;
    let path = file.under(&folder);
    let text = durable::read_text(&path)?
        .ok_or_else(|| FileError::new("read", &path)(std::io::ErrorKind::NotFound.into()))?;
    Ok(render(&text, pods, image))
}

/// Fills in what the bundle's manifest leaves open.
fn render(text: &str, pods: &str, image: &str) -> String {
    text.replace("${POD_NETWORK}", pods)
        .replace("${IMAGE}", image)
}

async fn ready(work: &Work<'_>, client: &Client, set: &Applied) -> Result<(), ActionError> {
    let namespace = set.namespace.as_deref().unwrap_or("default");
    let path = format!(
        "/apis/apps/v1/namespaces/{namespace}/daemonsets/{}",
        set.name
    );
    let what = format!("the pods of {namespace}/{}", set.name);
    work.wait(&what, || async {
        let object = client
            .get(&path, ANSWER_WITHIN)
            .await
            .map_err(|err| shown::line(&shown::chain(&err)))?;
        rolled_out(&object)
    })
    .await
}

/// Every node that should run a pod runs a ready one of the newest kind.
fn rolled_out(object: &serde_json::Value) -> Result<(), String> {
    let status = &object["status"];
    let count = |field: &str| status[field].as_u64().unwrap_or_default();
    let current = count("observedGeneration")
        >= object["metadata"]["generation"]
            .as_u64()
            .unwrap_or_default();
    let (wanted, updated, ready) = (
        count("desiredNumberScheduled"),
        count("updatedNumberScheduled"),
        count("numberReady"),
    );
    if current && wanted > 0 && updated == wanted && ready == wanted {
        return Ok(());
    }
    Err(format!("{ready} of {wanted} ready, {updated} up to date"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let text = "Network: ${POD_NETWORK}\nimage: ${IMAGE}\nimage: ${IMAGE}\n";
        let rendered = render(text, "10.1.0.0/16", "x:1");
        assert_eq!(rendered, "Network: 10.1.0.0/16\nimage: x:1\nimage: x:1\n");
    }

    #[test]
    fn ready_on_every_node_and_not_before() {
        let set = |generation: u64, observed: u64, wanted: u64, updated: u64, ready: u64| {
            json!({ "metadata": { "generation": generation }, "status": {
                "observedGeneration": observed, "desiredNumberScheduled": wanted,
                "updatedNumberScheduled": updated, "numberReady": ready } })
        };
        assert!(rolled_out(&set(1, 1, 3, 3, 3)).is_ok());
        for not_yet in [
            set(2, 1, 3, 3, 3),
            set(1, 1, 3, 3, 2),
            set(1, 1, 3, 2, 3),
            set(1, 1, 0, 0, 0),
            json!({}),
        ] {
            assert!(rolled_out(&not_yet).is_err(), "{not_yet}");
        }
    }
}
