//! etcd's own block device.

use super::Differences;
use crate::{
    kubeadm::Peer,
    observation::{EtcdVolume, HostFacts, VolumeContent, VolumeMark},
    seen::Missing,
    spec::EtcdDevice,
};

/// What whoever made a disk himself has mounted is left as it is. One of Quorate's carries the mark of the host's own cluster.
pub(super) fn etcd_volume(
    found: &mut Differences,
    facts: &HostFacts,
    node: &Peer,
    device: &EtcdDevice,
) -> Result<(), Missing> {
    let volume = facts
        .etcd_volume
        .get()?
        .as_ref()
        .ok_or_else(|| Missing::not_looked(format!("{device} of {}", node.name)))?;
    let EtcdVolume {
        device, content, ..
    } = volume;
    let file_system = match content {
        VolumeContent::InPlace { own: None } => return Ok(()),
        VolumeContent::InPlace { own: Some(own) } => {
            match (&own.mark, facts.mark.get()?) {
                (Some(there), Some(host))
                    if *there
                        == VolumeMark {
                            cluster: host.cluster.clone(),
                            node: host.node.clone(),
                        } => {}
                (there, _) => {
                    let seen = there.as_ref().map_or("none".into(), ToString::to_string);
                    found.note(format_args!("mark on {device}"), "this host's", seen);
                }
            }
            if !own.lasts {
                found.note(
                    format_args!("mount of {device}"),
                    "at every boot, before the kubelet",
                    "not set up so",
                );
            }
            return Ok(());
        }
        VolumeContent::Absent => Some("no such device"),
        VolumeContent::Blank => Some("nothing"),
        VolumeContent::Other { what } => Some(what.as_str()),
        VolumeContent::Made | VolumeContent::Earlier => None,
    };
    if let Some(seen) = file_system {
        found.note(device, "a file system of Quorate's", seen);
    }
    found.note("/var/lib/etcd", format_args!("on {device}"), "elsewhere");
    if *content == VolumeContent::Earlier {
        found.note(
            format_args!("data of an earlier machine on {device}"),
            "moved aside",
            "as it was left",
        );
    }
    if let Some(obstacle) = volume.obstacle().filter(|_| volume.hides) {
        found.note("/var/lib/etcd", "empty before that", obstacle);
    }
    Ok(())
}
