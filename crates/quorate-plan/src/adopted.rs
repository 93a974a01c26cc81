//! What somebody else's kubeadm cluster was made with, as the base of what new masters are rendered from. Start at [`Adopted::read`].
//!
//! Only the endpoint, the names of the certificate and the version are Quorate's to say; everything else is kept, so that a joiner is like
//! the master that is there. Configurations of kubeadm's older API are read as the newer one, which every kubeadm that this tool calls
//! understands.

use std::{collections::BTreeSet, fmt::Write as _};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The API version of kubeadm that is written.
const WRITTEN: &str = "kubeadm.k8s.io/v1beta4";
/// The older one that is understood.
const OLDER: &str = "kubeadm.k8s.io/v1beta3";
/// Longest configuration that is taken in, in bytes; kubeadm's own are below 4 KiB.
const BYTES_MAX: usize = 64 << 10;
/// Where kubeadm keeps certificates unless it is told otherwise.
const CERTIFICATES: &str = "/etc/kubernetes/pki";

/// kubeadm's ClusterConfiguration and the kubelets' configuration, each as JSON with its keys in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adopted {
    /// The ClusterConfiguration, of the version that is written.
    pub cluster: String,
    /// The KubeletConfiguration of the ConfigMap `kubelet-config`. `None`: there is none.
    pub kubelet: Option<String>,
}

/// A configuration that was not understood; one line, without any of its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptedError {
    /// It is longer than any that kubeadm writes.
    #[error("it is longer than {BYTES_MAX} bytes")]
    Long,
    /// It is no YAML, or no mapping.
    #[error("it is no YAML mapping")]
    NoMapping,
    /// Its `apiVersion` or `kind` is another.
    #[error("expected {expected}, seen {seen}")]
    Kind {
        /// What it should be.
        expected: String,
        /// What it is, escaped and cut.
        seen: String,
    },
    /// A field has another type than kubeadm's.
    #[error("`{0}` is not what kubeadm writes there")]
    Field(&'static str),
}

/// Something in a configuration that a conversion cannot carry over to new masters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// The field.
    pub field: String,
    /// Its value, or what it means.
    pub seen: String,
    /// What to do about it.
    pub way: String,
    /// Once that was done the rest can be carried over.
    pub mendable: bool,
}

impl Adopted {
    /// Reads both texts as the cluster has them.
    ///
    /// # Errors
    /// [`AdoptedError`].
    pub fn read(cluster: &str, kubelet: Option<&str>) -> Result<Self, AdoptedError> {
        let cluster = upgraded(mapping(cluster)?)?;
        let kubelet = kubelet.map(mapping).transpose()?;
        Ok(Self {
            cluster: canonical(Value::Object(cluster)),
            kubelet: kubelet.map(|kubelet| canonical(Value::Object(kubelet))),
        })
    }

    fn fields(&self) -> Map<String, Value> {
        // It was made by `read`, and travelled as a string.
        match serde_json::from_str(&self.cluster) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => Map::new(),
        }
    }

    /// A text of the configuration, by a path of keys.
    pub fn text(&self, path: &[&str]) -> Option<String> {
        let mut value = Value::Object(self.fields());
        for key in path {
            value = value.get_mut(key)?.take();
        }
        value.as_str().map(str::to_owned)
    }

    /// Names and addresses that the serving certificate was asked to have.
    pub fn sans(&self) -> BTreeSet<String> {
        let fields = self.fields();
        let sans = fields
            .get("apiServer")
            .and_then(|server| server.get("certSANs"));
        sans.and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// What no new master could be made like.
    pub fn obstacles(&self) -> BTreeSet<Obstacle> {
        let fields = self.fields();
        let mut found = BTreeSet::new();
        let mut note = |field: &str, seen: String, way: &str, mendable| {
            found.insert(Obstacle {
                field: field.into(),
                seen,
                way: way.into(),
                mendable,
            });
        };
        let etcd = fields.get("etcd");
        if self.external_etcd() {
            note(
                "etcd.external",
                "etcd runs elsewhere".into(),
                "Quorate makes etcd run on the masters; a cluster with an external etcd is not converted",
                false,
            );
        }
        let arguments = etcd.and_then(|etcd| etcd.get("local")?.get("extraArgs"));
        for argument in arguments.and_then(Value::as_array).into_iter().flatten() {
            let name = argument["name"].as_str().unwrap_or_default();
            if matches!(
                name,
                "initial-advertise-peer-urls"
                    | "initial-cluster"
                    | "advertise-client-urls"
                    | "listen-peer-urls"
                    | "listen-client-urls"
                    | "name"
            ) {
                note(
                    &format!("etcd.local.extraArgs: {name}"),
                    argument["value"].as_str().unwrap_or_default().into(),
                    "every new master would inherit it: take it out of the ConfigMap kube-system/kubeadm-config; the master's own manifest may keep it",
                    true,
                );
            }
        }
        if let Some(folder) = fields.get("certificatesDir").and_then(Value::as_str)
            && folder != CERTIFICATES
        {
            note(
                "certificatesDir",
                folder.into(),
                "certificates are only looked for in /etc/kubernetes/pki",
                false,
            );
        }
        for network in ["podSubnet", "serviceSubnet"] {
            let value = self.text(&["networking", network]).unwrap_or_default();
            if value.contains(':') {
                note(
                    &format!("networking.{network}"),
                    value,
                    "IPv6 is not supported, neither alone nor beside IPv4",
                    false,
                );
            }
        }
        found
    }

    /// Names of the arguments that kubeadm was told to give a component: `apiServer`, `controllerManager`, `scheduler`.
    pub fn extra_arguments(&self, component: &str) -> BTreeSet<String> {
        let fields = self.fields();
        let arguments = fields.get(component).and_then(|of| of.get("extraArgs"));
        let list = arguments.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|argument| argument["name"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// etcd runs elsewhere.
    pub fn external_etcd(&self) -> bool {
        let fields = self.fields();
        fields
            .get("etcd")
            .is_some_and(|etcd| etcd.get("external").is_some())
    }

    /// The ClusterConfiguration with this endpoint, version and these names: a mapping in block form whose values are written as JSON, which
    /// is YAML too.
    pub fn cluster_configuration(
        &self,
        endpoint: &str,
        version: &str,
        sans: &BTreeSet<String>,
    ) -> String {
        let mut fields = self.fields();
        fields.remove("certificatesDir");
        fields.insert("controlPlaneEndpoint".into(), endpoint.into());
        fields.insert("kubernetesVersion".into(), format!("v{version}").into());
        let server = fields
            .entry("apiServer".to_owned())
            .or_insert_with(|| json!({}));
        if let Value::Object(server) = server {
            server.insert("certSANs".into(), json!(sans));
        }
        block("ClusterConfiguration", WRITTEN, fields)
    }

    /// The kubelets' configuration. `None`: the cluster has none.
    pub fn kubelet_configuration(&self) -> Option<String> {
        let text = self.kubelet.as_ref()?;
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
            return None;
        };
        Some(block(
            "KubeletConfiguration",
            "kubelet.config.k8s.io/v1beta1",
            fields,
        ))
    }
}

fn block(kind: &str, version: &str, mut fields: Map<String, Value>) -> String {
    fields.remove("apiVersion");
    fields.remove("kind");
    let mut out = format!("apiVersion: {version}\nkind: {kind}\n");
    for (key, value) in fields {
        let key = Value::from(key);
        writeln!(out, "{key}: {value}").expect("a String takes everything");
    }
    out
}

fn mapping(text: &str) -> Result<Map<String, Value>, AdoptedError> {
    if text.len() > BYTES_MAX {
        return Err(AdoptedError::Long);
    }
    match serde_saphyr::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(AdoptedError::NoMapping),
    }
}

/// The same of the newer API: there extra arguments are a list, and a timeout has moved to where nodes have theirs.
fn upgraded(mut fields: Map<String, Value>) -> Result<Map<String, Value>, AdoptedError> {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let seen = format!("{} {}", text("apiVersion"), text("kind"));
    let older = match (text("apiVersion"), text("kind")) {
        (WRITTEN, "ClusterConfiguration") => false,
        (OLDER, "ClusterConfiguration") => true,
        _ => {
            return Err(AdoptedError::Kind {
                expected: format!("{WRITTEN} or {OLDER} ClusterConfiguration"),
                seen: seen.escape_debug().take(80).collect(),
            });
        }
    };
    if !older {
        return Ok(fields);
    }
    fields.insert("apiVersion".into(), WRITTEN.into());
    for (component, at) in [
        ("apiServer", "apiServer.extraArgs"),
        ("controllerManager", "controllerManager.extraArgs"),
        ("scheduler", "scheduler.extraArgs"),
    ] {
        listed(fields.get_mut(component), at)?;
    }
    let local = fields
        .get_mut("etcd")
        .and_then(|etcd| etcd.get_mut("local"));
    listed(local, "etcd.local.extraArgs")?;
    if let Some(Value::Object(server)) = fields.get_mut("apiServer") {
        server.remove("timeoutForControlPlane");
    }
    Ok(fields)
}

fn listed(component: Option<&mut Value>, at: &'static str) -> Result<(), AdoptedError> {
    let Some(arguments) = component.and_then(|component| component.get_mut("extraArgs")) else {
        return Ok(());
    };
    let list: Option<Vec<Value>> = match &*arguments {
        Value::Null => Some(Vec::new()),
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| Some(json!({ "name": name, "value": value.as_str()? })))
            .collect(),
        _ => None,
    };
    *arguments = Value::Array(list.ok_or(AdoptedError::Field(at))?);
    Ok(())
}

/// Keys in order, so that the same configuration is the same text whatever order it was written in.
fn canonical(value: Value) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut pairs: Vec<(String, Value)> = map.into_iter().collect();
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                let pairs = pairs.into_iter().map(|(key, value)| (key, sorted(value)));
                Value::Object(pairs.collect())
            }
            Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    sorted(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "apiServer:
  extraArgs:
    authorization-mode: Node,RBAC
    audit-log-path: /var/log/audit.log
  timeoutForControlPlane: 4m0s
apiVersion: kubeadm.k8s.io/v1beta3
certificatesDir: /etc/kubernetes/pki
clusterName: kubernetes
etcd:
  local:
    dataDir: /var/lib/etcd
imageRepository: registry.k8s.io
kind: ClusterConfiguration
kubernetesVersion: v1.35.4
networking:
  dnsDomain: cluster.local
  podSubnet: 10.244.0.0/16
";

    #[test]
    fn an_older_configuration_becomes_the_newer_one() {
        let old = Adopted::read(OLD, None).unwrap();
        let sans = ["api.demo.internal".to_owned()].into();
        let text = old.cluster_configuration("api.demo.internal:6443", "1.35.4", &sans);
        assert!(
            text.starts_with("apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n")
        );
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read["controlPlaneEndpoint"], "api.demo.internal:6443");
        assert_eq!(read["apiServer"]["certSANs"], json!(["api.demo.internal"]));
        assert!(read["apiServer"].get("timeoutForControlPlane").is_none());
        assert!(read.get("certificatesDir").is_none());
        let arguments = read["apiServer"]["extraArgs"].as_array().unwrap();
        assert!(
            arguments.contains(&json!({ "name": "audit-log-path", "value": "/var/log/audit.log" }))
        );
        assert_eq!(read["networking"]["podSubnet"], "10.244.0.0/16");
        assert!(old.obstacles().is_empty());
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let mut lines: Vec<&str> = OLD.lines().collect();
        let last = lines.split_off(13);
        let turned = [last.join("\n"), lines.join("\n")].join("\n");
        assert_eq!(
            Adopted::read(OLD, None).unwrap(),
            Adopted::read(&turned, None).unwrap()
        );
    }

    #[test]
    fn what_cannot_be_carried_over_is_named() {
        let local = OLD.replace(
            "    dataDir: /var/lib/etcd\n",
            "    extraArgs:\n      initial-advertise-peer-urls: https://127.0.0.1:2380\n",
        );
        let found = Adopted::read(&local, None).unwrap().obstacles();
        let only = found.first().unwrap();
        assert_eq!(only.seen, "https://127.0.0.1:2380");
        let external = OLD.replace(
            "  local:\n    dataDir: /var/lib/etcd\n",
            "  external:\n    endpoints: [https://10.0.0.9:2379]\n",
        );
        let found = Adopted::read(&external, None).unwrap().obstacles();
        assert_eq!(found.first().unwrap().field, "etcd.external");
        let both = OLD.replace("10.244.0.0/16", "10.244.0.0/16,fd00:10::/64");
        let found = Adopted::read(&both, None).unwrap().obstacles();
        assert_eq!(found.first().unwrap().field, "networking.podSubnet");
        assert!(!found.first().unwrap().mendable);
    }

    #[test]
    fn hostile_text_is_no_configuration() {
        for text in ["", "[]", "a: [", "\u{1b}[2J", "kind: ClusterConfiguration"] {
            assert!(Adopted::read(text, None).is_err(), "{text:?}");
        }
        let long = format!("{OLD}featureGates: {{ {} }}\n", "x".repeat(BYTES_MAX));
        assert_eq!(Adopted::read(&long, None), Err(AdoptedError::Long));
        let wrong = OLD.replace("authorization-mode: Node,RBAC", "authorization-mode: [1]");
        let err = Adopted::read(&wrong, None).unwrap_err();
        assert_eq!(err, AdoptedError::Field("apiServer.extraArgs"));
        assert!(Adopted::read(OLD, Some("- x")).is_err());
    }
}
