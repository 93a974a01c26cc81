//! What was seen of the world in one look. Everything is observed, in parallel, one call to each host; etcd and the API are looked at
//! from the control plane hosts with the certificates that lie there, so each of their views is one witness's account.
//!
//! Start at [`Observation`]. Health is never observed: it is derived from several accounts, in [`crate::quorum`].
//!
//! The facts are plain data; what is wanted of them is decided in [`crate::standing`].

mod balancer;
mod cluster;
mod conversion;
mod infra;
mod old_address;
mod sharing;
mod volume;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    ClusterName, MemberId, NodeName,
    intent::{Claim, Fence},
    seen::{Missing, Seen},
    spec::EtcdDevice,
};

pub use balancer::Balancer;
pub use cluster::{ApiView, EtcdView, KubeadmConfig, Member, Node, Workload};
pub use conversion::{
    ApiConversion, Backup, Caller, ConversionLook, HostConversion, KeptObjects, Receipt, Snapshot,
    Stored,
};
pub use infra::{InfraView, MachineKind, Power, Target};
pub use old_address::{OldAddress, OldAddressRule};
pub use sharing::{Share, Sharing};
pub use volume::{EtcdVolume, OwnVolume, VolumeContent, VolumeMark};

/// One look at everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// Every machine of the spec, seen over its own channel.
    pub hosts: BTreeMap<NodeName, Seen<HostFacts>>,
    /// etcd as each control plane host sees it: independent witnesses. `None`: known to run no etcd.
    pub etcd: BTreeMap<NodeName, Seen<Option<EtcdView>>>,
    /// The API as each control plane host's own apiserver tells it. `None`: known to run no apiserver.
    pub api: BTreeMap<NodeName, Seen<Option<ApiView>>>,
    /// The machines under the hosts, where Quorate makes them. Empty for hosts that somebody else made.
    pub infra: BTreeMap<NodeName, Seen<InfraView>>,
    /// What the cloud's balancer says of each master that is, or may be, a target of it. Empty where there is no such balancer.
    #[serde(default)]
    pub targets: BTreeMap<NodeName, Seen<Target>>,
    /// How often each host was looked at by whoever looks, and answered: one look that failed is not a death.
    pub sightings: BTreeMap<NodeName, Sightings>,
}

/// The looks at one host over a time, by the looker's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sightings {
    /// Looks at it so far. One that was not made because its machine is known not to run is one that was not answered.
    pub looks: u32,
    /// Those of them that it answered.
    pub answered: u32,
    /// From the first of them to the latest.
    pub over: Duration,
    /// The latest looks in a row that it did not answer.
    pub silent_looks: u32,
    /// From the first of those to the latest.
    pub silent: Duration,
}

impl Sightings {
    /// One more look, `since` after the one before.
    pub fn look(&mut self, answered: bool, since: Duration) {
        if self.looks > 0 {
            self.over += since;
        }
        self.looks += 1;
        if answered {
            self.answered += 1;
            self.silent_looks = 0;
            self.silent = Duration::ZERO;
        } else {
            if self.silent_looks > 0 {
                self.silent += since;
            }
            self.silent_looks += 1;
        }
    }
}

impl Observation {
    /// Everything was seen that much longer ago: it was on its way.
    pub fn grow_older(&mut self, by: Duration) {
        let Self {
            hosts,
            etcd,
            api,
            infra,
            targets,
            sightings: _,
        } = self;
        hosts.values_mut().for_each(|seen| seen.grow_older(by));
        etcd.values_mut().for_each(|seen| seen.grow_older(by));
        api.values_mut().for_each(|seen| seen.grow_older(by));
        infra.values_mut().for_each(|seen| seen.grow_older(by));
        targets.values_mut().for_each(|seen| seen.grow_older(by));
    }

    /// The facts of `node`.
    ///
    /// # Errors
    /// [`Missing`] when nobody looked, or it did not answer.
    pub fn host(&self, node: &NodeName) -> Result<&HostFacts, Missing> {
        match self.hosts.get(node) {
            Some(seen) => seen.get(),
            None => Err(Missing::not_looked(format!("host {node}"))),
        }
    }

    /// etcd as `witness` sees it; `None` when that host is known to run none.
    ///
    /// # Errors
    /// [`Missing`] when nobody looked, or its etcd did not answer.
    pub fn etcd_at(&self, witness: &NodeName) -> Result<Option<&EtcdView>, Missing> {
        match self.etcd.get(witness) {
            Some(seen) => Ok(seen.get()?.as_ref()),
            None => Err(Missing::not_looked(format!("etcd on {witness}"))),
        }
    }

    /// The API as `witness`'s apiserver tells it; `None` when that host is known to run none.
    ///
    /// # Errors
    /// [`Missing`] when nobody looked, or it did not answer.
    pub fn api_at(&self, witness: &NodeName) -> Result<Option<&ApiView>, Missing> {
        match self.api.get(witness) {
            Some(seen) => Ok(seen.get()?.as_ref()),
            None => Err(Missing::not_looked(format!("the API on {witness}"))),
        }
    }

    /// The API as any apiserver tells it that is ready: the latest account, the first by name among equals, so that a host's own fresh
    /// look outweighs what the operator's machine saw a while ago. `None` when every host is known to run none.
    ///
    /// # Errors
    /// [`Missing`] when none is ready and at least one could not be seen, or answers without being ready.
    pub fn api(&self) -> Result<Option<&ApiView>, Missing> {
        let mut missing = None;
        let mut latest: Option<(Duration, &ApiView)> = None;
        for (node, seen) in &self.api {
            match seen {
                Seen::Known {
                    value: Some(view),
                    age,
                } if view.readyz.ready => {
                    if latest.is_none_or(|(other, _)| *age < other) {
                        latest = Some((*age, view));
                    }
                }
                Seen::Known {
                    value: Some(view), ..
                } => {
                    missing.get_or_insert_with(|| {
                        Missing::no_answer(
                            format!("the API on {node}"),
                            format!("/readyz answers {}", view.readyz.status),
                        )
                    });
                }
                Seen::Known { value: None, .. } => {}
                Seen::Unknown(why) => {
                    missing.get_or_insert_with(|| why.clone());
                }
            }
        }
        match (latest, missing) {
            (Some((_, view)), _) => Ok(Some(view)),
            (None, Some(missing)) => Err(missing),
            (None, None) => Ok(None),
        }
    }

    /// What the cloud's balancer says of `node`.
    ///
    /// # Errors
    /// [`Missing`] when nobody looked, or it could not be asked.
    pub fn target(&self, node: &NodeName) -> Result<&Target, Missing> {
        match self.targets.get(node) {
            Some(seen) => seen.get(),
            None => Err(Missing::not_looked(format!("target {node}"))),
        }
    }

    /// Puts one host's answer where it belongs.
    pub fn record(&mut self, node: &NodeName, report: Seen<HostReport>) {
        match report {
            Seen::Known { value, age } => {
                self.hosts.insert(
                    node.clone(),
                    Seen::Known {
                        value: value.facts,
                        age,
                    },
                );
                self.etcd.insert(node.clone(), value.etcd);
                self.api.insert(node.clone(), value.api);
            }
            Seen::Unknown(missing) => {
                self.hosts
                    .insert(node.clone(), Seen::Unknown(missing.clone()));
                self.etcd
                    .insert(node.clone(), Seen::Unknown(missing.clone()));
                self.api.insert(node.clone(), Seen::Unknown(missing));
            }
        }
    }
}

/// What a host is asked to look at beyond itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// The cluster's name, as the host's mark should say it.
    pub cluster: ClusterName,
    /// The endpoint's name and port, to resolve and to ask for `/readyz`.
    pub endpoint: Option<EndpointName>,
    /// The cluster DNS address, to ask for `kubernetes.default.svc.cluster.local`.
    pub dns: Option<IpAddr>,
    /// The block device that etcd shall have to itself on that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_device: Option<EtcdDevice>,
    /// What a conversion has to know.
    pub conversion: Option<ConversionLook>,
}

/// The stable name of the API and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointName {
    /// A DNS name or an IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for EndpointName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What one host answers when asked for its facts: one round trip.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostReport {
    /// The machine itself.
    pub facts: HostFacts,
    /// Its etcd's account of the cluster. `Known(None)`: there is no etcd manifest here.
    pub etcd: Seen<Option<EtcdView>>,
    /// Its apiserver's account. `Known(None)`: there is no kube-apiserver manifest here.
    pub api: Seen<Option<ApiView>>,
}

/// A machine, as it describes itself. Each field can fail to be seen on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostFacts {
    /// Hardware, system, identity.
    pub machine: Seen<Machine>,
    /// The system is still starting what it starts at boot: what does not run yet may in a moment.
    pub booting: Seen<bool>,
    /// Quorate's mark: which cluster this host belongs to. `None`: no cluster of Quorate's.
    pub mark: Seen<Option<HostMark>>,
    /// The highest fencing token seen here and the claim in force.
    pub fencing: Seen<Fencing>,
    /// Kernel settings that matter, by sysctl name. Absent on the machine: absent here.
    pub sysctls: Seen<BTreeMap<String, String>>,
    /// Lines of `/etc/hosts` that Quorate manages: name to address.
    pub hosts_file: Seen<BTreeMap<String, IpAddr>>,
    /// Bundles lying whole on this host, by ID.
    pub bundles: Seen<BTreeSet<String>>,
    /// Installed components. `None`: Quorate installed none.
    pub components: Seen<Option<Components>>,
    /// References of the images in containerd's `k8s.io` namespace. Empty when containerd is not installed.
    pub images: Seen<BTreeSet<String>>,
    /// Units that matter, by name without `.service`: `containerd`, `kubelet`, `quorate-lb`. Not installed: absent.
    pub units: Seen<BTreeMap<String, Unit>>,
    /// What lies below `/etc/kubernetes/pki`.
    pub pki: Seen<Pki>,
    /// Static pod manifests, by file name without `.yaml`.
    pub manifests: Seen<BTreeMap<String, Manifest>>,
    /// What kubeadm would write as this host's static pod manifests, from the last rehearsal. `None`: there was none.
    pub rehearsed: Seen<Option<Rehearsal>>,
    /// Kubeconfigs below `/etc/kubernetes`, by file name: the server they point at.
    pub kubeconfigs: Seen<BTreeMap<String, String>>,
    /// etcd's data on this host.
    pub etcd_data: Seen<EtcdData>,
    /// The block device for etcd. `None`: was not asked about.
    #[serde(default = "not_asked")]
    pub etcd_volume: Seen<Option<EtcdVolume>>,
    /// A founding in progress, or done, on this host. `None`: never founded here.
    pub founding: Seen<Option<Founding>>,
    /// The balancer on this host. `None`: none configured.
    pub balancer: Seen<Option<Balancer>>,
    /// The endpoint as seen from here. `None`: was not asked about.
    pub endpoint: Seen<Option<EndpointSight>>,
    /// The cluster's DNS as seen from here: the addresses `kubernetes.default` resolved to. `None`: was not asked about.
    pub dns: Seen<Option<BTreeSet<IpAddr>>>,
    /// TCP ports something listens on, with the process's name.
    pub listening: Seen<BTreeMap<u16, String>>,
    /// What a conversion has to know of it. `None`: was not asked about.
    #[serde(default = "not_asked")]
    pub conversion: Seen<Option<Box<HostConversion>>>,
    /// The rule for who comes by its address from before there was an endpoint. `None`: there is none, everybody may.
    #[serde(default = "not_asked")]
    pub old_address: Seen<Option<OldAddress>>,
    /// This host's part in the address that masters share.
    #[serde(default = "Sharing::none")]
    pub sharing: Seen<Sharing>,
}

/// Of what was written down before there was such a question: nobody looked.
fn nothing_yet<T>() -> Seen<T> {
    Seen::Unknown(Missing::not_looked("what a conversion has to know besides"))
}

/// Of what was written down before there was such a question.
fn not_asked<T>() -> Seen<Option<T>> {
    Seen::now(None)
}

/// Hardware, system and identity of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// The host's own name.
    pub hostname: String,
    /// As `uname -m`: `x86_64`.
    pub arch: String,
    /// `ID` and `VERSION_ID` of os-release: `debian 12`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// systemd's version when it is PID 1.
    pub systemd: Option<u32>,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Free space for `/var/lib`, in bytes.
    pub disk_free_bytes: u64,
    /// Control groups of the machine.
    pub cgroup: Cgroup,
    /// Whether processes may lower their OOM score: not without CAP_SYS_RESOURCE, and then containerd needs a setting for it.
    pub oom_score_adjustable: bool,
    /// Whether swap is in use.
    pub swap: bool,
    /// UTC by this host's clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// The host's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Hash of the `quorate` binary that answers.
    pub binary: String,
}

/// Version of the control group hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cgroup {
    /// The old hierarchy, one tree per controller: the kubelet must be told not to refuse it.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What Quorate wrote on a host it prepared, so that no other cluster's operator touches it by mistake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostMark {
    /// The cluster the host belongs to.
    pub cluster: ClusterName,
    /// The name the cluster knows it by.
    pub node: NodeName,
    /// Whether the cluster may be drilled and destroyed without being named.
    pub disposable: bool,
}

/// The fence of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fencing {
    /// The highest token seen here; a lower one changes nothing any more. 0 on a host nobody fenced yet.
    pub highest: Fence,
    /// The operation in force: who, and what is wanted. `None` when the last one ended.
    pub claim: Option<Claim>,
    /// Whether the claim's operator has a channel open to this host now.
    pub connected: bool,
}

/// Installed components.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// The bundle they came from.
    pub bundle: String,
    /// Files that differ from what was installed (missing, other size or time).
    pub differing: BTreeSet<String>,
    /// [`crate::kubeadm::RuntimeSettings::digest`] of what containerd and the kubelet were set up with.
    pub configuration: String,
    /// Where the programs came from packages: those that are installed now of [`crate::spec::Packages::NAMES`]. `None`: from the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<BTreeMap<String, Package>>,
}

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Its version, with the revision.
    pub version: String,
    /// It is held: no upgrade of the system changes it.
    pub held: bool,
}

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// `ActiveState` is `active`.
    pub active: bool,
    /// Starts at boot.
    pub enabled: bool,
    /// `ActiveState/SubState`, for people.
    pub state: String,
}

impl Unit {
    /// systemd has it running, or keeps trying to: between two of its lives a unit that crashes again and again is not active either.
    pub fn kept_running(&self) -> bool {
        let state = self.state.split('/').next().unwrap_or_default();
        self.active || matches!(state, "activating" | "reloading" | "deactivating")
    }
}

/// Certificates and keys of a control plane host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pki {
    /// Digest over the public halves of the CA set (cluster, front proxy, etcd, service accounts), when the set is whole with its
    /// private keys. `None`: nothing of it lies here.
    pub authority: Option<String>,
    /// Files of the CA set that are missing while others are there.
    pub missing: BTreeSet<String>,
    /// SHA-256 of the cluster CA's certificate in DER, hex, also on workers (`/etc/kubernetes/pki/ca.crt`).
    pub cluster_ca: Option<String>,
    /// Leaf certificates by path below `/etc/kubernetes` (also those inside kubeconfigs).
    pub certificates: BTreeMap<String, Certificate>,
}

/// A leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// Subject alternative names, DNS and IP.
    pub sans: BTreeSet<String>,
}

/// A static pod's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The first container's image.
    pub image: String,
    /// Its flags, in order: `--name=value`.
    pub flags: Vec<String>,
    /// Host paths mounted into it.
    pub mounts: BTreeSet<String>,
    /// Files of the host that its flags name and somebody wrote for it, such as an audit policy, by path: SHA-256 in hex, or what is there
    /// instead. What kubeadm issues for each host, and what the component itself writes, is left out.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// Static pod manifests as kubeadm renders them for a host that is to join, before anything is added for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsal {
    /// [`crate::kubeadm::ClusterSettings::digest`] of the settings they were rendered from.
    pub settings: String,
    /// By file name without `.yaml`.
    pub manifests: BTreeMap<String, Manifest>,
}

impl Manifest {
    /// The value of `--name=`, of the last one when it is repeated.
    pub fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find_map(|flag| {
            flag.strip_prefix("--")?
                .strip_prefix(name)?
                .strip_prefix('=')
        })
    }
}

/// etcd's data on a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdData {
    /// There is a write-ahead log: this host was or is a member.
    pub wal: bool,
    /// Outside the data: this host was a voter, of that cluster, under that ID. Where it exists and the log does not, the data is lost.
    pub marker: Option<MemberMark>,
}

/// The empty-data guard's marker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberMark {
    /// etcd's cluster ID, as hex.
    pub cluster_id: String,
    /// The member's ID.
    pub member: MemberId,
}

/// A founding: all its hosts start as one new etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Founding {
    /// The founders. They are etcd's static `initial-cluster`.
    pub nodes: BTreeSet<NodeName>,
    /// Over: from then on the ordinary rules of membership hold. Those founders vote that could go on with it, a majority of them.
    pub done: bool,
    /// How often it was begun again, with what it had left moved aside: at most [`Founding::RESTARTS_MAX`] times.
    #[serde(default)]
    pub restarts: u32,
}

impl Founding {
    /// What fails twice fails for a reason that beginning again does not take away.
    pub const RESTARTS_MAX: u32 = 1;

    /// A new one.
    pub fn of(nodes: BTreeSet<NodeName>) -> Self {
        Self {
            nodes,
            done: false,
            restarts: 0,
        }
    }
}

/// The endpoint as one host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSight {
    /// What the name resolves to. Empty: it does not.
    pub resolves: BTreeSet<IpAddr>,
    /// Who answers there.
    pub answer: EndpointAnswer,
}

/// Who answers at the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointAnswer {
    /// Nobody, or nobody whom the cluster's certificate authority vouches for.
    Nobody,
    /// Somebody takes connections. Whether it is an apiserver cannot be told on a host that holds no certificate authority yet.
    Somebody,
    /// An apiserver of this cluster said so to `/readyz`.
    Apiserver(Readyz),
}

/// An apiserver's answer to `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readyz {
    /// It said `ok`.
    pub ready: bool,
    /// HTTP status.
    pub status: u16,
    /// Failing checks by name.
    pub failing: BTreeSet<String>,
}

impl HostFacts {
    /// A machine that was not made yet: known to carry nothing. Its hardware is not known.
    pub fn blank(node: &NodeName) -> Self {
        let unmade = || Missing::not_looked(format!("{node}, which is not made yet"));
        Self {
            machine: Seen::Unknown(unmade()),
            booting: Seen::now(false),
            mark: Seen::now(None),
            fencing: Seen::now(Fencing::default()),
            sysctls: Seen::now(BTreeMap::new()),
            hosts_file: Seen::now(BTreeMap::new()),
            bundles: Seen::now(BTreeSet::new()),
            components: Seen::now(None),
            images: Seen::now(BTreeSet::new()),
            units: Seen::now(BTreeMap::new()),
            pki: Seen::now(Pki::default()),
            manifests: Seen::now(BTreeMap::new()),
            rehearsed: Seen::now(None),
            kubeconfigs: Seen::now(BTreeMap::new()),
            etcd_data: Seen::now(EtcdData::default()),
            etcd_volume: Seen::now(None),
            founding: Seen::now(None),
            balancer: Seen::now(None),
            endpoint: Seen::now(None),
            dns: Seen::now(None),
            listening: Seen::now(BTreeMap::new()),
            conversion: Seen::now(None),
            old_address: Seen::now(None),
            sharing: Sharing::none(),
        }
    }
}
