//! The block device that etcd has to itself, as its host sees it. Start at [`EtcdVolume`].

use serde::{Deserialize, Serialize};

use crate::{ClusterName, NodeName};

/// The block device for etcd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdVolume {
    /// The name that it was found by; the first of those that were asked for where there is none of them.
    pub device: String,
    /// What is on it.
    pub content: VolumeContent,
    /// Something lies in etcd's folder that is not on it: mounted there, the volume would hide it.
    pub hides: bool,
}

/// What is on a block device for etcd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeContent {
    /// There is no such device.
    Absent,
    /// Nothing: no file system, no partitions, no bytes where those begin.
    Blank,
    /// A file system that Quorate made in this life of the host, not in its place.
    Made,
    /// A file system that Quorate made for a host, and not in this life of this one: a member's data may be on it.
    Earlier,
    /// Something else, which is nobody's to overwrite.
    Other {
        /// What, for people.
        what: String,
    },
    /// It is in its place: etcd's folder is on it. `None`: somebody else mounted it there.
    InPlace {
        /// What Quorate set up.
        own: Option<OwnVolume>,
    },
}

/// A volume that Quorate set up, in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnVolume {
    /// Whose it is, by a note on the volume itself.
    pub mark: Option<VolumeMark>,
    /// It is mounted at every boot, and the kubelet does not start without it.
    pub lasts: bool,
}

/// Whose a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMark {
    /// The cluster.
    pub cluster: ClusterName,
    /// The host, by the name that the cluster has for it.
    pub node: NodeName,
}

impl std::fmt::Display for VolumeMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as {}", self.cluster, self.node)
    }
}

impl EtcdVolume {
    /// Why it cannot be taken for etcd. `None`: it can, or is.
    pub fn obstacle(&self) -> Option<String> {
        let occupied = "files in /var/lib/etcd that are not on it, which a mount would hide";
        match &self.content {
            VolumeContent::Absent => Some("no such device".into()),
            VolumeContent::Other { what } => Some(what.clone()),
            VolumeContent::Blank | VolumeContent::Made | VolumeContent::Earlier if self.hides => {
                Some(occupied.into())
            }
            VolumeContent::Blank
            | VolumeContent::Made
            | VolumeContent::Earlier
            | VolumeContent::InPlace { .. } => None,
        }
    }
}
