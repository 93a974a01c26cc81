//! The API as this host's own apiserver tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use base64::Engine as _;
use quorate_kube::{Client, KubeError, Reason};
use quorate_plan::{
    Missing, NodeName, Seen,
    adopted::Adopted,
    observation::{ApiView, ConversionLook, KubeadmConfig, Manifest, Node, Readyz, Workload},
    standing::ADOPTED,
};
use serde::Deserialize;
use serde_json::Value;

use super::{PATIENCE, conversion_api, in_time, no_answer};
use crate::{clients, error::ActionError, facts::server_of, paths::Paths, shown, utc};

pub(super) async fn look(
    paths: &Paths,
    manifests: &Seen<BTreeMap<String, Manifest>>,
    converts: Option<&ConversionLook>,
) -> Seen<Option<ApiView>> {
    let address = match manifests.get() {
        Ok(manifests) if manifests.contains_key("kube-apiserver") => {
            clients::apiserver_address(manifests)
        }
        Ok(_) => return Seen::now(None),
        Err(missing) => return Seen::Unknown(missing),
    };
    let Some(address) = address else {
        return Seen::Unknown(Missing::unreadable(
            "the API",
            "kube-apiserver.yaml has no --advertise-address",
        ));
    };
    in_time("the API", async {
        tokio::select! {
            view = view(paths, address, converts) => match view {
                Ok(view) => Seen::now(Some(view)),
                Err(err) => Seen::Unknown(no_answer("the API", &err)),
            },
            () = behind_a_learner(paths) => {
                let why = "its etcd is a learner, which answers no apiserver";
                Seen::Unknown(Missing::no_answer("the API", why))
            }
        }
    })
    .await
}

/// Ends when this host's etcd says that it is a learner, and never otherwise. What an apiserver is asked then is not answered before the
/// member votes: to wait for it would make everything old that was seen beside it.
async fn behind_a_learner(paths: &Paths) {
    let learner = match clients::etcd(paths, clients::LOCAL_ETCD) {
        Ok(client) => client
            .status(PATIENCE)
            .await
            .is_ok_and(|status| status.is_learner),
        Err(_) => false,
    };
    if !learner {
        std::future::pending::<()>().await;
    }
}

async fn view(
    paths: &Paths,
    address: SocketAddr,
    converts: Option<&ConversionLook>,
) -> Result<ApiView, ActionError> {
    // As somebody: to an anonymous question over HTTP/2 the apiserver answers and ends the connection.
    let client = clients::api(paths, "admin.conf", address)?;
    let (readyz, version) = tokio::join!(
        Box::pin(client.readyz(PATIENCE)),
        Box::pin(client.get("/version", PATIENCE)),
    );
    let readyz = readyz_of(readyz.map_err(ActionError::kube("/readyz"))?);
    let version = version.map_err(ActionError::kube("/version"))?;
    let version = version["gitVersion"].as_str().unwrap_or_default();
    let view = ApiView {
        version: shown::line(version.strip_prefix('v').unwrap_or(version)),
        nodes: waits(&readyz),
        endpoints: waits(&readyz),
        kubeadm: waits(&readyz),
        cluster_info: waits(&readyz),
        workloads: waits(&readyz),
        notes: waits(&readyz),
        tokens: waits(&readyz),
        uploaded_certs: waits(&readyz),
        conversion: waits(&readyz),
        readyz,
    };
    if !view.readyz.ready {
        return Ok(view);
    }
    let client = Box::pin(administrator(paths, client, address)).await?;
    let conversion = async {
        match converts {
            Some(look) => {
                let seen = Box::pin(conversion_api::look(paths, &client, look)).await;
                Some(Box::new(seen))
            }
            None => None,
        }
    };
    let (nodes, endpoints, kubeadm, cluster_info, workloads, notes, tokens, certs, conversion) = tokio::join!(
        Box::pin(nodes_with_leases(&client)),
        Box::pin(endpoints(&client)),
        Box::pin(kubeadm_config(&client)),
        Box::pin(cluster_info(&client)),
        Box::pin(workloads(&client)),
        Box::pin(notes(&client)),
        Box::pin(own_tokens(&client)),
        Box::pin(uploaded_certs(&client)),
        Box::pin(conversion),
    );
    // A cluster that Quorate made is rendered from its file.
    let adopted =
        converts.is_some() || matches!(&notes, Ok(Some(notes)) if notes.contains_key(ADOPTED));
    let kubeadm = kubeadm.map(|config| {
        config.map(|config| KubeadmConfig {
            adopted: config.adopted.filter(|_| adopted),
            ..config
        })
    });
    Ok(ApiView {
        nodes: seen("nodes", nodes),
        endpoints: seen("the API's endpoints", endpoints),
        kubeadm: seen("kubeadm-config", kubeadm),
        cluster_info: seen("cluster-info", cluster_info),
        workloads: seen("workloads", workloads),
        notes: seen("Quorate's notes", notes),
        tokens: seen("bootstrap tokens", tokens),
        uploaded_certs: seen("uploaded certificates", certs),
        conversion: Seen::now(conversion),
        ..view
    })
}

/// A client that may read everything. Before the cluster has its configuration admin.conf is nobody to it yet; on a host that founded
/// it there is super-admin.conf then.
async fn administrator(
    paths: &Paths,
    client: Client,
    address: SocketAddr,
) -> Result<Client, ActionError> {
    let forbidden = match client.get("/api/v1/namespaces/kube-system", PATIENCE).await {
        Err(err) => matches!(err.reason(), Some(Reason::Forbidden)),
        Ok(_) => false,
    };
    if forbidden && paths.kubernetes("super-admin.conf").exists() {
        return clients::api(paths, "super-admin.conf", address);
    }
    Ok(client)
}

fn waits<T>(readyz: &Readyz) -> Seen<T> {
    Seen::Unknown(Missing::no_answer(
        "the API",
        format!("/readyz answers {}", readyz.status),
    ))
}

pub(super) fn seen<T>(what: &str, result: Result<T, KubeError>) -> Seen<T> {
    match result {
        Ok(value) => Seen::now(value),
        Err(err) => Seen::Unknown(no_answer(what, &err)),
    }
}

/// What an answer to `/readyz?verbose` says.
pub(super) fn readyz_of(answer: quorate_kube::Readyz) -> Readyz {
    Readyz {
        ready: answer.is_ready(),
        status: answer.status,
        // `[-]etcd failed: reason withheld`
        failing: answer
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("[-]"))
            .filter_map(|line| line.split_whitespace().next())
            .map(shown::line)
            .collect(),
    }
}

/// Node objects. Those with names that are none of ours are passed over: no host of a cluster file can be one of them.
pub(crate) async fn nodes(client: &Client) -> Result<BTreeMap<NodeName, Node>, KubeError> {
    let list = client.list("/api/v1/nodes", PATIENCE).await?;
    Ok(list.items.iter().filter_map(node).collect())
}

/// Node objects, and how long ago each kubelet said that it lives.
async fn nodes_with_leases(client: &Client) -> Result<BTreeMap<NodeName, Node>, KubeError> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let (nodes, leases) = tokio::join!(nodes(client), client.list(path, PATIENCE));
    let (mut nodes, leases) = (nodes?, leases?);
    let now = utc::now_ms();
    for (name, node) in &mut nodes {
        let own = leases
            .items
            .iter()
            .find(|lease| lease["metadata"]["name"] == name.as_str());
        node.heartbeat = own.and_then(|lease| heartbeat(lease, now));
    }
    Ok(nodes)
}

/// How long before `now_ms` a lease was renewed. One from the future, by a clock that is ahead, was renewed just now.
fn heartbeat(lease: &Value, now_ms: u64) -> Option<Duration> {
    let renewed = utc::parse_ms(lease["spec"]["renewTime"].as_str()?)?;
    Some(Duration::from_millis(now_ms.saturating_sub(renewed)))
}

fn node(object: &Value) -> Option<(NodeName, Node)> {
    let name = object["metadata"]["name"].as_str()?.parse().ok()?;
    let status = &object["status"];
    let ready = list(&status["conditions"]).find(|condition| condition["type"] == "Ready");
    let message = ready.map_or("it has no Ready condition", |c| {
        c["message"].as_str().unwrap_or_default()
    });
    let kubelet = status["nodeInfo"]["kubeletVersion"]
        .as_str()
        .unwrap_or_default();
    let node = Node {
        ready: ready.is_some_and(|condition| condition["status"] == "True"),
        reason: shown::line(message),
        pressures: list(&status["conditions"])
            .filter(|condition| condition["status"] == "True")
            .filter_map(|condition| condition["type"].as_str())
            .filter(|kind| kind.ends_with("Pressure"))
            .map(shown::line)
            .collect(),
        control_plane: object["metadata"]["labels"]
            .get("node-role.kubernetes.io/control-plane")
            .is_some(),
        tainted: list(&object["spec"]["taints"])
            .any(|taint| taint["key"] == "node-role.kubernetes.io/control-plane"),
        kubelet: shown::line(kubelet.strip_prefix('v').unwrap_or(kubelet)),
        addresses: list(&status["addresses"])
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str()?.parse().ok())
            .collect(),
        heartbeat: None,
    };
    Some((name, node))
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Addresses that the `kubernetes` service leads to.
pub(crate) async fn endpoints(client: &Client) -> Result<BTreeSet<std::net::IpAddr>, KubeError> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = present(client.get(path, PATIENCE).await)?.unwrap_or_default();
    Ok(list(&slice["endpoints"])
        .flat_map(|endpoint| list(&endpoint["addresses"]))
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect())
}

pub(super) async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, KubeError> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    present(client.get(&path, PATIENCE).await)
}

async fn kubeadm_config(client: &Client) -> Result<Option<KubeadmConfig>, KubeError> {
    let (map, kubelet) = tokio::join!(
        config_map(client, "kube-system", "kubeadm-config"),
        config_map(client, "kube-system", "kubelet-config"),
    );
    let (Some(map), kubelet) = (map?, kubelet?) else {
        return Ok(None);
    };
    let text = map["data"]["ClusterConfiguration"]
        .as_str()
        .unwrap_or_default();
    let kubelet = kubelet
        .as_ref()
        .and_then(|map| map["data"]["kubelet"].as_str());
    Ok(parse_kubeadm_config(text, kubelet))
}

fn parse_kubeadm_config(text: &str, kubelet: Option<&str>) -> Option<KubeadmConfig> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        #[serde(default)]
        kubernetes_version: String,
        #[serde(default)]
        control_plane_endpoint: String,
    }
    let config: Config = serde_saphyr::from_str(text).ok()?;
    let version = &config.kubernetes_version;
    Some(KubeadmConfig {
        kubernetes: shown::line(version.strip_prefix('v').unwrap_or(version)),
        endpoint: shown::line(&config.control_plane_endpoint),
        // One that is not understood is as good as none: nothing is rendered from it.
        adopted: Adopted::read(text, kubelet).ok().map(Box::new),
    })
}

/// What a cluster was made with, as the API has it now. `None`: kubeadm did not make it.
pub(crate) async fn adopted(client: &Client) -> Result<Option<KubeadmConfig>, KubeError> {
    kubeadm_config(client).await
}

async fn cluster_info(client: &Client) -> Result<Option<String>, KubeError> {
    let map = config_map(client, "kube-public", "cluster-info").await?;
    Ok(map
        .and_then(|map| server_of(map["data"]["kubeconfig"].as_str()?))
        .map(|server| shown::line(&server)))
}

async fn workloads(client: &Client) -> Result<BTreeMap<String, Workload>, KubeError> {
    let mut found = BTreeMap::new();
    for namespace in ["kube-system", "kube-flannel"] {
        for (kind, wanted, ready) in [
            ("daemonsets", "desiredNumberScheduled", "numberReady"),
            ("deployments", "replicas", "readyReplicas"),
        ] {
            let path = format!("/apis/apps/v1/namespaces/{namespace}/{kind}");
            for object in client.list(&path, PATIENCE).await?.items {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let count = |field: &str| {
                    let count = object["status"][field].as_u64().unwrap_or_default();
                    u32::try_from(count).unwrap_or(u32::MAX)
                };
                let workload = Workload {
                    wanted: count(wanted),
                    ready: count(ready),
                };
                found.insert(format!("{namespace}/{}", shown::line(name)), workload);
            }
        }
    }
    Ok(found)
}

async fn notes(client: &Client) -> Result<Option<BTreeMap<String, String>>, KubeError> {
    let map = config_map(client, "kube-system", "quorate").await?;
    Ok(map.map(|map| {
        let data = map["data"].as_object();
        data.into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((shown::line(key), shown::line(value.as_str()?))))
            .collect()
    }))
}

/// IDs of the bootstrap tokens that Quorate made. The secrets' other parts are not kept.
pub(crate) async fn own_tokens(client: &Client) -> Result<BTreeSet<String>, KubeError> {
    let path = "/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken";
    let secrets = client.list(path, PATIENCE).await?;
    let text = |value: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?);
        String::from_utf8(bytes.ok()?).ok()
    };
    Ok(secrets
        .items
        .iter()
        .filter(|secret| {
            text(&secret["data"]["description"]).as_deref() == Some(crate::token::DESCRIPTION)
        })
        .filter_map(|secret| text(&secret["data"]["token-id"]))
        .map(|id| shown::line(&id))
        .collect())
}

/// The Secret that `kubeadm init phase upload-certs` makes.
pub(crate) const UPLOADED_CERTS: &str = "/api/v1/namespaces/kube-system/secrets/kubeadm-certs";

/// Whether it is there. What is in it is dropped here.
async fn uploaded_certs(client: &Client) -> Result<bool, KubeError> {
    Ok(present(client.get(UPLOADED_CERTS, PATIENCE).await)?.is_some())
}

/// `None` where the server says that there is no such thing.
pub(crate) fn present<T>(result: Result<T, KubeError>) -> Result<Option<T>, KubeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(err) if matches!(err.reason(), Some(Reason::NotFound)) => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn readyz_names_what_fails() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed\nreadyz check failed\n";
        let seen = readyz_of(quorate_kube::Readyz {
            status: 500,
            body: body.to_owned(),
        });
        assert!(!seen.ready);
        assert_eq!(
            seen.failing,
            ["etcd", "poststarthook/x"].map(str::to_owned).into()
        );
    }

    #[test]
    fn a_node() {
        let object = json!({
            "metadata": { "name": "cp-1", "labels": { "node-role.kubernetes.io/control-plane": "" } },
            "spec": { "taints": [{ "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" }] },
            "status": {
                "conditions": [
                    { "type": "DiskPressure", "status": "True" },
                    { "type": "PIDPressure", "status": "False" },
                    { "type": "Ready", "status": "False", "message": "no\u{1b} network" },
                ],
                "addresses": [{ "type": "InternalIP", "address": "10.0.0.1" }, { "type": "Hostname", "address": "cp-1" }],
                "nodeInfo": { "kubeletVersion": "v1.35.4" },
            },
        });
        let (name, node) = super::node(&object).unwrap();
        assert_eq!(name.as_str(), "cp-1");
        assert!(!node.ready && node.control_plane && node.tainted);
        assert_eq!(node.reason, "no\\u{1b} network");
        assert_eq!(node.pressures, ["DiskPressure".to_owned()].into());
        assert_eq!(node.kubelet, "1.35.4");
        assert_eq!(node.addresses, ["10.0.0.1".parse().unwrap()].into());
        assert!(super::node(&json!({ "metadata": { "name": "Not.Ours" } })).is_none());
    }

    #[test]
    fn a_heartbeat_is_a_leases_age() {
        let lease = json!({ "spec": { "renewTime": "2024-02-29T23:59:59.250000Z" } });
        let at = 1_709_251_199_250;
        assert_eq!(
            heartbeat(&lease, at + 20_000),
            Some(Duration::from_secs(20))
        );
        assert_eq!(heartbeat(&lease, at - 4_000), Some(Duration::ZERO));
        for none in [json!({}), json!({ "spec": { "renewTime": "yesterday" } })] {
            assert_eq!(heartbeat(&none, at), None);
        }
    }

    #[test]
    fn kubeadms_configuration() {
        let text = "apiVersion: kubeadm.k8s.io/v1beta4\ncontrolPlaneEndpoint: api:6443\nkind: ClusterConfiguration\nkubernetesVersion: v1.35.4\n";
        let seen = parse_kubeadm_config(text, None).unwrap();
        assert_eq!(
            (seen.kubernetes.as_str(), seen.endpoint.as_str()),
            ("1.35.4", "api:6443")
        );
    }
}
