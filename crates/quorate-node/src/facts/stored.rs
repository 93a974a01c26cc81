//! Where the cluster's objects hold an address of the API that was there before. Start at [`look`].
//!
//! Nothing of an object is kept but where the address was found in it; what is decoded of a Secret is wiped before the next is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use base64::Engine as _;
use quorate_kube::{Client, KubeError};
use quorate_plan::observation::Stored;
use serde_json::Value;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::api::{config_map, list};
use crate::shown;

/// All lists together: the rest of what is asked of the API has to have its answer in the same look.
const PATIENCE: Duration = Duration::from_millis(1200);
/// Objects beyond these are not told: nobody would read them.
const TOLD_MAX: usize = 200;
/// Longest text that is searched, in bytes; an object is below 1.5 MiB.
const BYTES_MAX: usize = 2 << 20;

/// What kubeadm keeps and a conversion leads.
const LED: [&str; 3] = [
    "kube-public/cluster-info",
    "kube-system/kube-proxy",
    "kube-system/kubeadm-config",
];

/// Secrets, but for those that hold no kubeconfig and may be large.
const SECRETS: &str = "/api/v1/secrets?fieldSelector=type%21%3Dhelm.sh%2Frelease.v1%2Ctype%21%3Dkubernetes.io%2Fservice-account-token%2Ctype%21%3Dkubernetes.io%2Ftls%2Ctype%21%3Dbootstrap.kubernetes.io%2Ftoken";

/// Kinds that have a pod's template, with where it lies in them.
const TEMPLATES: [(&str, &str, &str); 4] = [
    (
        "DaemonSet",
        "/apis/apps/v1/daemonsets",
        "/spec/template/spec",
    ),
    (
        "Deployment",
        "/apis/apps/v1/deployments",
        "/spec/template/spec",
    ),
    (
        "StatefulSet",
        "/apis/apps/v1/statefulsets",
        "/spec/template/spec",
    ),
    (
        "CronJob",
        "/apis/batch/v1/cronjobs",
        "/spec/jobTemplate/spec/template/spec",
    ),
];

/// Kinds that say by URL where an apiserver asks.
const WEBHOOKS: [(&str, &str); 2] = [
    (
        "ValidatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    ),
    (
        "MutatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    ),
];

/// A kind whose conversion may be asked of a URL.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Why it cannot be told where an address is held.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoredError {
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error("more than {TOLD_MAX} of them")]
    Many,
    #[error("they were not all listed within {} ms", PATIENCE.as_millis())]
    Late,
}

/// All of them; `before` is what the cluster called its endpoint, where it had one and that was kept.
pub(super) async fn look(
    client: &Client,
    watched: &BTreeSet<SocketAddr>,
    before: Option<&str>,
) -> Result<BTreeSet<Stored>, StoredError> {
    let found = async {
        let kubeadm = config_map(client, "kube-system", "kubeadm-config").await?;
        let mut needles: BTreeSet<Needle> = watched.iter().map(Needle::of_address).collect();
        needles.extend(before.and_then(Needle::read));
        let text = kubeadm
            .as_ref()
            .and_then(|map| map["data"]["ClusterConfiguration"].as_str());
        needles.extend(text.and_then(endpoint_of).as_deref().and_then(Needle::read));
        stored(client, &needles).await
    };
    match timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => Err(StoredError::Late),
    }
}

/// DaemonSets that mount a host's `/etc/cni`.
pub(super) async fn networks(client: &Client) -> Result<BTreeSet<String>, KubeError> {
    let daemonsets = client.list(TEMPLATES[0].1, PATIENCE).await?;
    Ok(daemonsets.items.iter().filter_map(network).collect())
}

fn endpoint_of(text: &str) -> Option<String> {
    let config: Value = serde_saphyr::from_str(text).ok()?;
    config["controlPlaneEndpoint"].as_str().map(str::to_owned)
}

async fn stored(
    client: &Client,
    needles: &BTreeSet<Needle>,
) -> Result<BTreeSet<Stored>, StoredError> {
    let (maps, secrets, daemonsets, deployments, stateful, jobs, validating, mutating, definitions) = tokio::join!(
        client.list("/api/v1/configmaps", PATIENCE),
        client.list(SECRETS, PATIENCE),
        client.list(TEMPLATES[0].1, PATIENCE),
        client.list(TEMPLATES[1].1, PATIENCE),
        client.list(TEMPLATES[2].1, PATIENCE),
        client.list(TEMPLATES[3].1, PATIENCE),
        client.list(WEBHOOKS[0].1, PATIENCE),
        client.list(WEBHOOKS[1].1, PATIENCE),
        client.list(DEFINITIONS, PATIENCE),
    );
    let mut search = Search {
        needles,
        found: BTreeSet::new(),
    };
    for map in maps?.items.iter().filter(|map| !is_led(map)) {
        for (key, value) in map["data"].as_object().into_iter().flatten() {
            search.text("ConfigMap", map, &format!("key {key}"), key, value);
        }
    }
    for secret in &secrets?.items {
        search.secret(secret);
    }
    for ((kind, _, place), list) in
        TEMPLATES
            .iter()
            .zip([daemonsets?, deployments?, stateful?, jobs?])
    {
        for object in &list.items {
            search.template(kind, object, place);
        }
    }
    for ((kind, _), list) in WEBHOOKS.iter().zip([validating?, mutating?]) {
        for object in &list.items {
            search.webhooks(kind, object);
        }
    }
    for definition in &definitions?.items {
        search.conversion(definition);
    }
    if search.found.len() > TOLD_MAX {
        return Err(StoredError::Many);
    }
    Ok(search.found)
}

fn is_led(map: &Value) -> bool {
    LED.contains(&name_of(map).as_str())
}

/// `namespace/name`, or the name of what has no namespace.
fn name_of(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str();
    let name = text("name").unwrap_or_default();
    shown::line(&match text("namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    })
}

/// A DaemonSet that installs a pod network.
fn network(daemonset: &Value) -> Option<String> {
    let volumes = &daemonset["spec"]["template"]["spec"]["volumes"];
    let installs = list(volumes).any(|volume| {
        let path = volume["hostPath"]["path"].as_str().unwrap_or_default();
        path.trim_end_matches('/') == "/etc/cni" || path.starts_with("/etc/cni/")
    });
    installs.then(|| name_of(daemonset))
}

/// The container runtime's socket by each node's own annotation.
pub(super) async fn sockets(client: &Client) -> Result<BTreeMap<String, String>, KubeError> {
    let nodes = client.list("/api/v1/nodes", PATIENCE).await?;
    Ok(nodes.items.iter().filter_map(socket).collect())
}

fn socket(node: &Value) -> Option<(String, String)> {
    let annotations = &node["metadata"]["annotations"];
    let socket = annotations["kubeadm.alpha.kubernetes.io/cri-socket"].as_str()?;
    Some((name_of(node), shown::line(socket)))
}

/// An address to look for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Needle {
    host: String,
    port: u16,
}

impl Needle {
    fn of_address(address: &SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }

    /// A `controlPlaneEndpoint`, whose port may be left out.
    fn read(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, 6443),
        };
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }

    /// Whether a text leads there: by `host:port`, or by the host alone where a pod is told where its API is. An address alone may be for
    /// anything.
    fn is_in(&self, key: &str, text: &str) -> bool {
        if names_the_api(key) && unquoted(text) == self.host {
            return true;
        }
        let whole = format!("{}:{}", self.host, self.port);
        let starts = |at: usize| {
            let before = text[..at].chars().next_back();
            before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_')))
        };
        let ends = |at: usize| {
            let after = text[at..].chars().next();
            after.is_none_or(|c| !c.is_ascii_digit())
        };
        let led = text
            .match_indices(&whole)
            .any(|(at, found)| starts(at) && ends(at + found.len()));
        led || text.lines().any(|line| {
            let pair = line.split_once([':', '=']);
            pair.is_some_and(|(key, value)| {
                let key = key.split_whitespace().next_back().unwrap_or_default();
                names_the_api(unquoted(key)) && unquoted(value) == self.host
            })
        })
    }
}

/// `KUBERNETES_SERVICE_HOST`, which every client of a pod reads, and Cilium's name for it.
fn names_the_api(key: &str) -> bool {
    let letters = key.chars().filter(|c| c.is_ascii_alphanumeric());
    let plain = letters.collect::<String>().to_ascii_lowercase();
    matches!(plain.as_str(), "kubernetesservicehost" | "k8sservicehost")
}

fn unquoted(text: &str) -> &str {
    text.trim()
        .trim_end_matches(',')
        .trim_matches(['"', '\''])
        .trim()
}

struct Search<'a> {
    needles: &'a BTreeSet<Needle>,
    found: BTreeSet<Stored>,
}

impl Search<'_> {
    fn note(&mut self, kind: &str, object: &Value, place: &str, key: &str, text: &str) {
        if text.len() > BYTES_MAX {
            return;
        }
        for needle in self.needles {
            if needle.is_in(key, text) {
                self.found.insert(Stored {
                    kind: kind.to_owned(),
                    object: name_of(object),
                    key: shown::line(place),
                    address: shown::line(&format!("{}:{}", needle.host, needle.port)),
                });
            }
        }
    }

    fn text(&mut self, kind: &str, object: &Value, place: &str, key: &str, value: &Value) {
        if let Some(text) = value.as_str() {
            self.note(kind, object, place, key, text);
        }
    }

    fn secret(&mut self, secret: &Value) {
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let encoded = value.as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
            let Ok(bytes) = bytes.map(Zeroizing::new) else {
                continue;
            };
            if let Ok(text) = std::str::from_utf8(&bytes) {
                self.note("Secret", secret, &format!("key {key}"), key, text);
            }
        }
    }

    fn template(&mut self, kind: &str, object: &Value, place: &str) {
        let Some(pod) = object.pointer(place) else {
            return;
        };
        for container in list(&pod["initContainers"]).chain(list(&pod["containers"])) {
            let name = container["name"].as_str().unwrap_or_default();
            for variable in list(&container["env"]) {
                let key = variable["name"].as_str().unwrap_or_default();
                let place = format!("container {name}, variable {key}");
                self.text(kind, object, &place, key, &variable["value"]);
            }
            for (what, words) in [
                ("command", &container["command"]),
                ("args", &container["args"]),
            ] {
                for word in list(words) {
                    self.text(kind, object, &format!("container {name}, {what}"), "", word);
                }
            }
        }
    }

    /// Whoever converts a custom resource by a URL.
    fn conversion(&mut self, definition: &Value) {
        let kind = "CustomResourceDefinition";
        let client = &definition["spec"]["conversion"]["webhook"]["clientConfig"];
        self.text(kind, definition, "conversion webhook", "", &client["url"]);
    }

    fn webhooks(&mut self, kind: &str, object: &Value) {
        for webhook in list(&object["webhooks"]) {
            let name = webhook["name"].as_str().unwrap_or_default();
            let place = format!("webhook {name}");
            self.text(kind, object, &place, "", &webhook["clientConfig"]["url"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn needles() -> BTreeSet<Needle> {
        let own = Needle::of_address(&"10.0.0.11:6443".parse().unwrap());
        [own, Needle::read("k8s.old.example").unwrap()].into()
    }

    fn found(search: impl FnOnce(&mut Search<'_>)) -> Vec<String> {
        let needles = needles();
        let mut all = Search {
            needles: &needles,
            found: BTreeSet::new(),
        };
        search(&mut all);
        all.found.iter().map(Stored::to_string).collect()
    }

    fn named(namespace: &str, name: &str) -> Value {
        json!({ "namespace": namespace, "name": name })
    }

    #[test]
    fn a_text_leads_there_or_only_looks_like_it() {
        let own = Needle::of_address(&"10.0.0.11:6443".parse().unwrap());
        for (key, text) in [
            (
                "kubeconfig",
                "clusters:\n- cluster:\n    server: https://10.0.0.11:6443\n",
            ),
            ("x", "10.0.0.11:6443"),
            ("x", "a=10.0.0.11:6443,b"),
            ("KUBERNETES_SERVICE_HOST", "10.0.0.11"),
            (
                "values.yaml",
                "k8sServiceHost: \"10.0.0.11\"\nk8sServicePort: 6443\n",
            ),
            ("x", "{\n  \"KUBERNETES_SERVICE_HOST\": \"10.0.0.11\",\n}"),
            ("env", "export KUBERNETES_SERVICE_HOST=10.0.0.11"),
        ] {
            assert!(own.is_in(key, text), "{key}: {text}");
        }
        for (key, text) in [
            ("x", "110.0.0.11:6443"),
            ("x", "10.0.0.11:64430"),
            ("x", "10.0.0.11:9100"),
            ("x", "10.0.0.11"),
            ("x", "10.0.0.112:6443"),
            ("KUBERNETES_SERVICE_HOST", "10.0.0.12"),
            ("KUBERNETES_SERVICE_PORT", "10.0.0.11"),
            ("x", ""),
            ("x", "é10.0.0.11"),
        ] {
            assert!(!own.is_in(key, text), "{key}: {text}");
        }
    }

    #[test]
    fn objects_tell_where_and_nothing_else() {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let kubeconfig =
            "users: [{ user: { token: very-secret } }]\nserver: https://k8s.old.example:6443\n";
        let secret = json!({
            "metadata": named("app", "legacy-kubeconfig"),
            "data": { "config": encode(kubeconfig), "other": encode("x"), "bad": "%" },
        });
        let seen = found(|search| search.secret(&secret));
        assert_eq!(
            seen,
            ["Secret app/legacy-kubeconfig, key config: k8s.old.example:6443"]
        );
        let cilium = json!({
            "metadata": named("kube-system", "cilium\u{1b}[2J"),
            "spec": { "template": { "spec": {
                "initContainers": [{ "name": "config", "env": [{ "name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.11" }] }],
                "containers": [{ "name": "agent", "args": ["--k8s-api-server=https://10.0.0.11:6443"], "env": [{ "name": "X", "valueFrom": {} }] }],
                "volumes": [{ "name": "etc-cni-netd", "hostPath": { "path": "/etc/cni/net.d" } }],
            } } },
        });
        let seen = found(|search| search.template("DaemonSet", &cilium, TEMPLATES[0].2));
        assert_eq!(
            seen,
            [
                "DaemonSet kube-system/cilium\\u{1b}[2J, container agent, args: 10.0.0.11:6443",
                "DaemonSet kube-system/cilium\\u{1b}[2J, container config, variable KUBERNETES_SERVICE_HOST: 10.0.0.11:6443",
            ]
        );
        assert_eq!(
            network(&cilium).unwrap(),
            "kube-system/cilium\\u{1b}[2J",
            "it installs a pod network"
        );
        assert!(network(&json!({ "metadata": named("x", "y") })).is_none());
        let webhook = json!({
            "metadata": { "name": "policy" },
            "webhooks": [
                { "name": "a.example", "clientConfig": { "url": "https://10.0.0.11:6443/x" } },
                { "name": "b.example", "clientConfig": { "service": {} } },
            ],
        });
        let seen = found(|search| search.webhooks(WEBHOOKS[0].0, &webhook));
        assert_eq!(
            seen,
            ["ValidatingWebhookConfiguration policy, webhook a.example: 10.0.0.11:6443"]
        );
        let definition = json!({
            "metadata": { "name": "things.example.com" },
            "spec": { "conversion": { "strategy": "Webhook", "webhook": {
                "clientConfig": { "url": "https://10.0.0.11:6443/convert" },
            } } },
        });
        let seen = found(|search| search.conversion(&definition));
        assert_eq!(
            seen,
            ["CustomResourceDefinition things.example.com, conversion webhook: 10.0.0.11:6443"]
        );
        let none = json!({ "metadata": { "name": "x" }, "spec": { "conversion": { "strategy": "None" } } });
        assert!(found(|search| search.conversion(&none)).is_empty());
        let job = json!({ "metadata": named("x", "nightly"), "spec": { "jobTemplate": { "spec": { "template": { "spec": {
            "containers": [{ "name": "c", "command": ["curl", "https://10.0.0.11:6443"] }],
        } } } } } });
        let seen = found(|search| search.template("CronJob", &job, TEMPLATES[3].2));
        assert_eq!(
            seen,
            ["CronJob x/nightly, container c, command: 10.0.0.11:6443"]
        );
    }

    #[test]
    fn what_kubeadm_keeps_is_led() {
        assert!(is_led(
            &json!({ "metadata": named("kube-public", "cluster-info") })
        ));
        assert!(!is_led(&json!({ "metadata": named("app", "kube-proxy") })));
        let node = json!({ "metadata": { "name": "w-1", "annotations": {
            "kubeadm.alpha.kubernetes.io/cri-socket": "/var/run/dockershim.sock",
        } } });
        let (name, socket) = socket(&node).unwrap();
        assert_eq!(
            (name.as_str(), socket.as_str()),
            ("w-1", "/var/run/dockershim.sock")
        );
    }
}
