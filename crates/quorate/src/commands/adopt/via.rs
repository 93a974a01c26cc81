//! Who is in a cluster, as its API tells somebody who has a kubeconfig for it. Start at [`ask`].

use std::{net::Ipv4Addr, path::Path, time::Duration};

use quorate_exec::hostile;
use quorate_kube::{Client, KubeError, Kubeconfig};
use serde_json::Value;

use super::{Host, Whose};
use crate::{exit::Exit, failure::Failure};

/// How long the API may take for each question.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// What says that a node is a master: kubeadm's label, and the one that it wrote before 1.20.
const MASTERS: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// Asks the API that a kubeconfig leads to.
///
/// # Errors
/// When the kubeconfig cannot be used, nobody answers, or it is no cluster of one master.
pub(super) async fn ask(kubeconfig: &Path) -> Result<Whose, Failure> {
    let shown = kubeconfig.display();
    let config = Kubeconfig::load(kubeconfig)
        .map_err(|error| Failure::doing(Exit::Usage, format!("could not use `{shown}`"), &error))?;
    let server = hostile::line(config.server());
    let unseen = |error: KubeError| {
        let doing = format!("could not ask {server} who is in the cluster");
        Failure::doing(Exit::Unseen, doing, &error)
            .hint("without --via name them: --master NAME=ADDRESS, and --worker NAME=ADDRESS for each worker")
    };
    let client = Client::new(&config, None).map_err(unseen)?;
    let nodes = client.list("/api/v1/nodes", ANSWER_MAX).await;
    let nodes = nodes.map_err(unseen)?.items;
    let version = client.get("/version", ANSWER_MAX).await.map_err(unseen)?;
    read(&nodes, &version).map_err(|what| {
        Failure::new(Exit::Refused, format!("{server}: {what}")).hint(
            "`quorate adopt --master NAME=ADDRESS --worker NAME=ADDRESS …` takes them from you",
        )
    })
}

/// Reads what the API answered.
///
/// # Errors
/// What was expected and what was seen, on one line.
fn read(nodes: &[Value], version: &Value) -> Result<Whose, String> {
    let mut masters = Vec::new();
    let mut workers = Vec::new();
    for node in nodes {
        let labels = &node["metadata"]["labels"];
        let of = match MASTERS.iter().any(|label| labels.get(label).is_some()) {
            true => &mut masters,
            false => &mut workers,
        };
        of.push(host(node)?);
    }
    workers.sort_by(|a, b| a.name.cmp(&b.name));
    let seen = version["gitVersion"].as_str().unwrap_or_default();
    let kubernetes = release(seen).ok_or_else(|| {
        format!(
            "expected a version as `v1.35.4`, seen `{}`",
            hostile::line(seen)
        )
    })?;
    match <[Host; 1]>::try_from(masters) {
        Ok([master]) => Ok(Whose {
            master,
            workers,
            kubernetes: Some(kubernetes),
        }),
        Err(masters) => {
            let names: Vec<String> = masters.iter().map(|host| host.name.to_string()).collect();
            Err(format!(
                "expected one node with the label {}, seen {}: {}",
                MASTERS[0],
                names.len(),
                if names.is_empty() {
                    "nobody".into()
                } else {
                    names.join(", ")
                }
            ))
        }
    }
}

fn host(node: &Value) -> Result<Host, String> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let shown = hostile::line(name);
    let addresses = node["status"]["addresses"].as_array();
    let address = addresses
        .into_iter()
        .flatten()
        .filter(|address| address["type"] == "InternalIP")
        .find_map(|address| address["address"].as_str()?.parse::<Ipv4Addr>().ok());
    Ok(Host {
        name: name
            .parse()
            .map_err(|_| format!("expected a node's name, seen `{shown}`"))?,
        address: address
            .ok_or_else(|| format!("expected an InternalIP of IPv4 on node {shown}, seen none"))?,
    })
}

/// `1.35.4` of `v1.35.4`, or of `v1.35.4+vendor`.
fn release(seen: &str) -> Option<String> {
    let version = seen.strip_prefix('v')?;
    let (release, _) = version.split_once('+').unwrap_or((version, ""));
    let parts: Vec<&str> = release.split('.').collect();
    let numbers = parts.iter().all(|part| part.parse::<u32>().is_ok());
    (parts.len() == 3 && numbers).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, label: Option<&str>, addresses: &[(&str, &str)]) -> Value {
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|(of, address)| json!({ "type": of, "address": address }))
            .collect();
        let mut node = json!({ "metadata": { "name": name, "labels": {} }, "status": { "addresses": addresses } });
        if let Some(label) = label {
            node["metadata"]["labels"][label] = json!("");
        }
        node
    }

    fn version() -> Value {
        json!({ "gitVersion": "v1.35.4" })
    }

    fn own(address: &str) -> [(&'static str, &str); 1] {
        [("InternalIP", address)]
    }

    #[test]
    fn one_master_and_its_workers_are_found() {
        let nodes = [
            node(
                "w2",
                None,
                &[("Hostname", "w2"), ("InternalIP", "10.0.0.22")],
            ),
            node(
                "cp1",
                Some(MASTERS[0]),
                &[("InternalIP", "fd00::1"), ("InternalIP", "10.0.0.11")],
            ),
            node("w1", None, &own("10.0.0.21")),
        ];
        let found = read(&nodes, &version()).unwrap();
        assert_eq!(found.master.name.to_string(), "cp1");
        assert_eq!(found.master.address.to_string(), "10.0.0.11");
        let workers: Vec<String> = found
            .workers
            .iter()
            .map(|host| host.name.to_string())
            .collect();
        assert_eq!(workers, ["w1", "w2"]);
        assert_eq!(found.kubernetes.as_deref(), Some("1.35.4"));
        // A cluster that was upgraded from before 1.20 may have the older label alone.
        let old = [node("cp1", Some(MASTERS[1]), &own("10.0.0.11"))];
        let found = read(&old, &json!({ "gitVersion": "v1.34.2+vendor.1" })).unwrap();
        assert_eq!(found.kubernetes.as_deref(), Some("1.34.2"));
    }

    #[test]
    fn what_is_no_cluster_of_one_master_is_told() {
        let master = |name| node(name, Some(MASTERS[0]), &own("10.0.0.11"));
        for (nodes, version, words) in [
            (vec![], version(), "seen 0: nobody"),
            (
                vec![master("cp1"), master("cp2")],
                version(),
                "seen 2: cp1, cp2",
            ),
            (
                vec![node("cp1", Some(MASTERS[0]), &[])],
                version(),
                "InternalIP of IPv4 on node cp1",
            ),
            (
                vec![node("a\u{1b}[2J", None, &own("10.0.0.1"))],
                version(),
                "expected a node's name",
            ),
            (vec![master("cp1")], json!({}), "expected a version"),
            (
                vec![master("cp1")],
                json!({ "gitVersion": "v1.35" }),
                "seen `v1.35`",
            ),
        ] {
            let error = read(&nodes, &version).unwrap_err();
            assert!(error.contains(words), "expected `{words}`, seen `{error}`");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
