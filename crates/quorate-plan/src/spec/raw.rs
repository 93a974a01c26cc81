//! The shape of the cluster file: every key that does something, with what a reader of the reference needs to know. The JSON Schema and
//! `docs/reference/cluster-file.md` are made from these types; [`super::read`] fills them.
//!
//! A key enters this file together with the work that makes it do something.

use std::{borrow::Cow, collections::BTreeSet, ops::Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::BringUp;

/// A value with the bytes it was written at.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A key's value. `None`: it is not there, or was wrong and reported.
pub(super) type Key<T> = Option<At<T>>;

/// A group of keys is there, at these bytes.
pub(super) type Span = Range<usize>;

/// A Quorate cluster file: one highly available kubeadm cluster.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename = "ClusterFile", rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    /// How this file is to be read: `quorate/v1`.
    #[schemars(required)]
    #[expect(dead_code, reason = "one value is possible: it is read to be checked")]
    pub(super) api_version: Key<ApiVersion>,
    /// The cluster's name: 1 to 40 of a-z, 0-9 and `-`. Unique among the clusters of one operator.
    #[schemars(required)]
    pub(super) name: Key<String>,
    /// Kubernetes version, exact and without `v`: 1.34.x, 1.35.x or 1.36.x. Default: 1.35.4.
    pub(super) kubernetes: Key<String>,
    /// The stable name of the API and what stands behind it.
    pub(super) endpoint: Option<Endpoint>,
    /// The masters: 1, 3, 5 or 7 of them. Required, unless Terraform says which there are.
    pub(super) control_plane: Option<ControlPlane>,
    /// The workers. Default: none.
    pub(super) workers: Option<Workers>,
    /// Networks.
    pub(super) network: Option<Network>,
    /// Where the hosts come from.
    #[schemars(required)]
    pub(super) provider: Option<Provider>,
    /// Where Kubernetes' components come from.
    pub(super) components: Option<Components>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// `quorate/v1`
#[derive(Clone, Copy, Debug, JsonSchema)]
pub(super) enum ApiVersion {
    #[schemars(rename = "quorate/v1")]
    V1,
}

/// The stable name of the API and what stands behind it.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Endpoint {
    /// A DNS name that you own, or the address of a balancer. It is in every certificate and kubeconfig, and stays for as long as the
    /// cluster lives. Default with local hosts: `api.NAME.internal`.
    pub(super) host: Key<String>,
    /// The key is there, whatever is wrong with its value.
    #[schemars(skip)]
    pub(super) host_written: bool,
    /// TCP port. Default: 6443.
    #[schemars(range(min = 1))]
    pub(super) port: Key<u16>,
    /// Who makes the name resolve on the hosts. Default: `managed` for local hosts behind quorate's balancer, otherwise `unmanaged`.
    pub(super) hosts_file: Key<HostsFile>,
    /// What stands behind the name.
    pub(super) balancer: Option<Balancer>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// Who makes the endpoint's name resolve on the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(super) enum HostsFile {
    /// Quorate writes it into `/etc/hosts` of every host.
    Managed,
    /// You do, in DNS. `apply` does not begin before it resolves everywhere.
    Unmanaged,
}

/// What stands behind the endpoint's name.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Balancer {
    /// Which balancer. Default: `quorate`.
    pub(super) kind: Key<BalancerKind>,
    /// Where quorate's balancer runs. Default: `hosts`.
    pub(super) on: Key<BalancerOn>,
    /// How many balancer hosts quorate makes (local hosts only): 1 to 9. Default: 1.
    #[schemars(range(min = 1, max = 9))]
    pub(super) count: Key<u64>,
    /// Balancer hosts that you have.
    pub(super) hosts: Key<Vec<Host>>,
    /// With `on: masters`: the address that they share, which no host has and which lies in their network. keepalived holds it on one of them.
    pub(super) address: Key<String>,
    /// What Terraform says of its balancer.
    #[schemars(skip)]
    pub(super) target_group: Option<super::TargetGroup>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// A balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(super) enum BalancerKind {
    /// `quorate lb`, which quorate installs.
    Quorate,
    /// One that you have: quorate changes nothing there and says which hosts have to be registered.
    External,
    /// The Network Load Balancer that Terraform made, with `provider.kind: terraform`: quorate registers the masters there.
    Nlb,
    /// None: the endpoint's name has an address record for every master. The records are yours; quorate looks at them, and says which one to
    /// add or to remove.
    Dns,
}

/// Where quorate's balancer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(super) enum BalancerOn {
    /// On hosts of its own.
    Hosts,
    /// On the masters, which share an address. Not where an address cannot move from host to host, as in a cloud's network.
    Masters,
}

impl BalancerOn {
    /// As they are written.
    pub(super) const WORDS: &[(&str, Self)] = &[("hosts", Self::Hosts), ("masters", Self::Masters)];
}

/// The masters.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ControlPlane {
    /// How many masters quorate makes (local hosts only): 1, 3, 5 or 7, named cp-1, cp-2, …
    #[schemars(range(min = 1, max = 7))]
    pub(super) count: Key<u64>,
    /// Masters that you have.
    pub(super) hosts: Key<Vec<Host>>,
    /// Whether a new cluster is founded on all masters at once, or on the first, which the others join one by one.
    /// Default: `together` for local hosts, otherwise `oneByOne`.
    pub(super) bring_up: Key<BringUp>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// The workers.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Workers {
    /// How many workers quorate makes (local hosts only): 0 to 99, named w-1, w-2, …
    #[schemars(range(max = 99))]
    pub(super) count: Key<u64>,
    /// Workers that you have.
    pub(super) hosts: Key<Vec<Host>>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// A host.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Host {
    /// Its name: host name, node name and etcd member name. Unique in the cluster.
    #[schemars(required)]
    pub(super) name: Key<String>,
    /// The IPv4 address that you and the other hosts reach it at. Local hosts may leave it to quorate: one called cp-4 gets the address that it would have by `count`, one called otherwise that of its place in the list.
    pub(super) address: Key<String>,
    /// Its failure zone, if it has one: an availability zone, a rack.
    pub(super) zone: Key<String>,
    /// The block device that this master's etcd has to itself, as `/dev/disk/by-id/…`: an empty one gets a file system and is mounted for etcd;
    /// one with anything on it is refused. Masters that you have; with Terraform the modules say it. Default: etcd's data lies on the disk of
    /// `/var/lib`.
    pub(super) etcd_device: Key<String>,
    /// The same, as Terraform says it.
    #[schemars(skip)]
    pub(super) etcd_volume: Option<super::EtcdDevice>,
    /// SSH user. Default: `provider.user`.
    pub(super) user: Key<String>,
    /// SSH port. Default: `provider.port`.
    #[schemars(range(min = 1))]
    pub(super) port: Key<u16>,
    /// SSH private key file on this machine. Default: `provider.identity`.
    pub(super) identity: Key<String>,
    /// Whether `sudo -n` is needed to become root. Default: `provider.sudo`.
    pub(super) sudo: Key<bool>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// Networks. They must have no address in common, with each other or with the hosts.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Network {
    /// The pod network's plugin. Default: `flannel`.
    pub(super) cni: Key<CniKey>,
    /// Addresses of pods; every node gets a /24 of them. Default: 10.244.0.0/16.
    pub(super) pods: Key<String>,
    /// Addresses of services. Default: 10.96.0.0/12.
    pub(super) services: Key<String>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// The pod network's plugin.
#[derive(Clone, Debug)]
pub(super) enum CniKey {
    /// Flannel with VXLAN.
    Flannel,
    /// You install one; nodes become Ready only then.
    None,
    /// Your own manifest: the file, relative to this one.
    Manifest(String),
}

impl JsonSchema for CniKey {
    fn schema_name() -> Cow<'static, str> {
        "Cni".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The pod network's plugin.",
            "oneOf": [
                { "const": "flannel", "description": "Flannel with VXLAN, from the components." },
                { "const": "none", "description": "You install one; nodes become Ready only then." },
                {
                    "type": "object",
                    "description": "Your own manifest.",
                    "properties": { "manifest": {
                        "type": "string",
                        "minLength": 1,
                        "description": "The manifest's file, relative to the cluster file."
                    } },
                    "required": ["manifest"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// Where the hosts come from.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Provider {
    /// `local`, `ssh` or `terraform`.
    #[schemars(required)]
    pub(super) kind: Key<ProviderKind>,
    /// The network of local hosts, a /24. Default: 10.177.64.0/24.
    pub(super) subnet: Key<String>,
    /// The directory of the Terraform configuration whose output `quorate_cluster` names hosts and endpoint, relative to this file.
    /// Default: this file's own.
    pub(super) directory: Key<String>,
    /// SSH user of hosts that name none. Default: `root`.
    pub(super) user: Key<String>,
    /// SSH port of hosts that name none. Default: 22.
    #[schemars(range(min = 1))]
    pub(super) port: Key<u16>,
    /// SSH private key file on this machine, of hosts that name none. Default: the agent and your own SSH configuration decide.
    pub(super) identity: Key<String>,
    /// Whether `sudo -n` is needed to become root, on hosts that do not say. Default: yes, unless the user is `root`.
    pub(super) sudo: Key<bool>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// Where hosts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(super) enum ProviderKind {
    /// Local hosts: real Debian machines in namespaces on this Linux machine, made and destroyed by quorate.
    Local,
    /// Hosts that you have, reached over SSH.
    Ssh,
    /// Hosts that Terraform made, reached over SSH. Names, addresses, zones and the endpoint are those of its output `quorate_cluster`.
    Terraform,
}

/// Where Kubernetes' components come from.
#[derive(Debug, Default, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Components {
    /// What hosts get their programs from. Default: `bundle`.
    pub(super) source: Key<Source>,
    /// The bundle's directory, relative to this file. Default: the standard place.
    pub(super) path: Key<String>,
    /// With `source: packages`: the address of the repository of Kubernetes' packages, the directory that has `InRelease` and `Packages`.
    pub(super) repository: Key<String>,
    /// With `source: packages`: the file of the public key that signs the repository, in ASCII armour, relative to this file.
    pub(super) key: Key<String>,
    /// With `source: packages`: the exact version of kubelet, kubeadm and kubectl with its revision, as in 1.35.4-1.1. They are held at it.
    pub(super) version: Key<String>,
    /// Keys that are there, whatever is wrong with their values.
    #[schemars(skip)]
    pub(super) written: BTreeSet<String>,
    #[schemars(skip)]
    pub(super) span: Span,
}

/// Where components come from.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(super) enum Source {
    /// A verified directory of components, see `quorate bundle`.
    Bundle,
    /// kubelet, kubeadm, kubectl and CNI plugins of Kubernetes' repository and containerd of the distribution's, on Debian and its kin; images
    /// and the pod network's manifest come from a bundle.
    Packages,
}

/// The JSON Schema of the cluster file (draft 2020-12).
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(File).to_value();
    without_null(&mut schema);
    schema
}

/// An absent key is absent, never `null`: the types here are optional only because a mistake may have left them empty.
fn without_null(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(any)) = map.get_mut("anyOf") {
                any.retain(|schema| schema.get("type").is_none_or(|name| name != "null"));
                if let [Value::Object(only)] = any.as_slice() {
                    let only = only.clone();
                    map.shift_remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}
