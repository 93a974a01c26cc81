//! One machine: hardware, disk, and what runs in its memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use quorate_plan::{
    Claim, Fence, MemberId, NodeName,
    observation::{
        Balancer, Cgroup, Components, Founding, HostMark, MachineKind, Manifest, MemberMark, Pki,
        Power, Rehearsal, Sharing,
    },
};

use super::{etcd::ClusterId, foreign::ForeignDisk, volume::Volume};

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Its address.
    pub address: IpAddr,
    /// Made by Quorate's provider; otherwise somebody else made it and it is always there.
    pub provided: bool,
    /// Whether it runs.
    pub power: Power,
    /// Cut off from its peers; the operator still reaches it.
    pub isolated: bool,
    /// The operator does not reach it.
    pub unreachable: bool,
    /// What it is like.
    pub hardware: Hardware,
    /// Boots so far.
    pub boots: u32,
    /// A block device for etcd, which stays when the machine is made anew. `None`: there is none.
    pub volume: Option<Volume>,
    /// What survives a loss of power.
    pub disk: Disk,
    /// What does not.
    pub memory: Memory,
}

/// What a machine is like, and what somebody else runs on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hardware {
    /// Architecture.
    pub arch: String,
    /// systemd's version when it is PID 1.
    pub systemd: Option<u32>,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Free space in bytes.
    pub disk_free_bytes: u64,
    /// How far its clock is from the true time, in milliseconds.
    pub clock_off_ms: i64,
    /// Foreign processes that listen, by TCP port.
    pub listening: BTreeMap<u16, String>,
    /// The time within which most syncs of its disk end, in milliseconds.
    pub fsync_p99_ms: u64,
    /// Size of etcd's database here, in bytes.
    pub db_bytes: u64,
    /// etcd's version here.
    pub etcd_version: String,
    /// Entries of the log that etcd here has not applied.
    pub raft_lag: u64,
    /// The traits that the cluster's settings depend on.
    pub kind: MachineKind,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            arch: "x86_64".into(),
            systemd: Some(252),
            cpus: 2,
            memory_bytes: 4 << 30,
            disk_free_bytes: 40 << 30,
            clock_off_ms: 0,
            listening: BTreeMap::new(),
            fsync_p99_ms: 4,
            db_bytes: 20 << 20,
            etcd_version: "3.6.16".into(),
            raft_lag: 0,
            kind: MachineKind {
                cgroup: Cgroup::V2,
                oom_score_adjustable: true,
                swap: false,
                shared_disk: false,
            },
        }
    }
}

/// What lies on a machine's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    /// The highest token that was seen.
    pub fence: Fence,
    /// The operation in force. Whether its operator is connected is not on the disk: see [`Memory::connected`].
    pub claim: Option<Arc<Claim>>,
    /// The mark.
    pub mark: Option<HostMark>,
    /// Kernel settings that were set, by name.
    pub sysctls: BTreeMap<String, String>,
    /// Managed lines of `/etc/hosts`.
    pub hosts_file: BTreeMap<String, IpAddr>,
    /// Bundles.
    pub bundles: BTreeSet<String>,
    /// Installed components.
    pub components: Option<Components>,
    /// Images.
    pub images: BTreeSet<String>,
    /// Units that start at boot.
    pub enabled: BTreeSet<String>,
    /// Certificates and keys.
    pub pki: Pki,
    /// Static pod manifests.
    pub manifests: BTreeMap<String, Manifest>,
    /// What kubeadm rendered aside.
    pub rehearsed: Option<Rehearsal>,
    /// Kubeconfigs: the server they point at.
    pub kubeconfigs: BTreeMap<String, String>,
    /// etcd's data directory is on the volume.
    pub volume_in_place: bool,
    /// etcd's data directory. `None`: empty.
    pub etcd: Option<EtcdDisk>,
    /// Data that a reset moved aside.
    pub aside: Vec<EtcdDisk>,
    /// The empty-data guard's marker, outside of etcd's data.
    pub marker: Option<MemberMark>,
    /// A founding.
    pub founding: Option<Founding>,
    /// The balancer's configuration; `up` and `active` are not on the disk.
    pub balancer: Option<Balancer>,
    /// keepalived, and the part in the address that masters share; whether it runs and who holds it is not on the disk.
    pub sharing: Sharing,
    /// Version of the kubelet that was set up, without `v`.
    pub kubernetes: String,
    /// What only a conversion is about.
    pub foreign: ForeignDisk,
}

/// etcd's data directory: it knows for good which member of which cluster it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EtcdDisk {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// Length of its log.
    pub index: u64,
}

/// What is gone when the power is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    /// It boots. `None`: it is up.
    pub boot: Option<Boot>,
    /// Units that run.
    pub active: BTreeSet<String>,
    /// Those of them that end at once, again and again.
    pub crashing: BTreeSet<String>,
    /// Static pods by manifest name, once the kubelet saw the manifest.
    pub pods: BTreeMap<String, Pod>,
    /// The claim's operator has a channel open to this host.
    pub connected: bool,
    /// Recipients made in this boot.
    pub recipients: u32,
}

/// A boot in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Boot {
    /// Ticks until it answers.
    pub silent: u32,
    /// Ticks after that until units run.
    pub starting: u32,
}

/// A static pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pod {
    /// The kubelet started it; it does not answer yet.
    Starting,
    /// It answers.
    Serving,
    /// It ends at once every time, with this as its last words.
    Crashing(String),
}

impl Machine {
    /// A machine that carries nothing: not made yet where the provider makes it.
    pub fn new(_node: &NodeName, address: IpAddr, provided: bool) -> Self {
        Self {
            address,
            provided,
            power: if provided {
                Power::Absent
            } else {
                Power::Running
            },
            isolated: false,
            unreachable: false,
            hardware: Hardware::default(),
            boots: 1,
            volume: None,
            disk: Disk::default(),
            memory: Memory::default(),
        }
    }

    /// It runs.
    pub fn on(&self) -> bool {
        self.power == Power::Running
    }

    /// It runs, has booted and answers the operator.
    pub fn answers(&self) -> bool {
        self.on() && !self.unreachable && self.memory.boot.is_none_or(|boot| boot.silent == 0)
    }

    /// A unit runs.
    pub fn active(&self, unit: &str) -> bool {
        self.on()
            && self.memory.boot.is_none()
            && self.memory.active.contains(unit)
            && !self.memory.crashing.contains(unit)
    }

    /// A static pod answers.
    pub fn serves(&self, pod: &str) -> bool {
        self.on() && self.memory.pods.get(pod) == Some(&Pod::Serving)
    }

    /// Starts a unit now and at every boot.
    pub fn enable(&mut self, unit: &str) {
        self.disk.enabled.insert(unit.to_owned());
        self.memory.active.insert(unit.to_owned());
    }

    /// The empty-data guard holds the kubelet: this host was a voter and its data is gone.
    pub fn guard_holds(&self) -> bool {
        self.disk.marker.is_some() && self.disk.etcd.is_none()
    }
}
