//! etcd's own block device: it outlives its machine, with what is on it. Start at [`Volume`].

use quorate_plan::{
    NodeName,
    observation::{EtcdVolume, OwnVolume, VolumeContent, VolumeMark},
};

use super::{
    World,
    act::{ActError, failed},
    machine::{EtcdDisk, Machine},
};

/// The block device for etcd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Volume {
    /// What is on it.
    pub holds: Holds,
    /// Whose it is, by its own note.
    pub mark: Option<VolumeMark>,
    /// The member's data on it while it is not in its place; otherwise that is [`super::machine::Disk::etcd`].
    pub data: Option<EtcdDisk>,
    /// Data that was moved aside on it.
    pub aside: Vec<EtcdDisk>,
}

/// What is on a block device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Holds {
    /// Nothing.
    #[default]
    Nothing,
    /// A file system of Quorate's.
    Ours,
    /// Something else.
    Other(String),
}

/// By which name every host has it.
pub const DEVICE: &str = "/dev/disk/by-id/etcd";

/// What a host tells of it.
pub(super) fn told(machine: &Machine) -> Option<EtcdVolume> {
    let volume = machine.volume.as_ref()?;
    let in_place = machine.disk.volume_in_place;
    Some(EtcdVolume {
        device: DEVICE.into(),
        content: match &volume.holds {
            Holds::Nothing => VolumeContent::Blank,
            Holds::Other(what) => VolumeContent::Other { what: what.clone() },
            Holds::Ours if in_place => VolumeContent::InPlace {
                own: Some(OwnVolume {
                    mark: volume.mark.clone(),
                    lasts: true,
                }),
            },
            Holds::Ours => VolumeContent::Earlier,
        },
        hides: !in_place && machine.disk.etcd.is_some(),
    })
}

/// The machine goes and its volume stays, with the data on it.
pub(super) fn left(machine: &mut Machine) {
    if let Some(volume) = &mut machine.volume
        && machine.disk.volume_in_place
    {
        volume.data = machine.disk.etcd.take();
    }
}

impl World {
    pub(super) fn etcd_volume(&mut self, node: &NodeName) -> Result<(), ActError> {
        let machine = self.machine_mut(node);
        let told = told(machine).ok_or_else(|| failed("there is no such device"))?;
        if let Some(obstacle) = told.obstacle() {
            return Err(failed(format!("expected an empty disk, seen {obstacle}")));
        }
        let mark = machine.disk.mark.as_ref().map(|mark| VolumeMark {
            cluster: mark.cluster.clone(),
            node: mark.node.clone(),
        });
        let volume = machine.volume.as_mut().expect("it was told of");
        if volume.mark.is_some() && volume.mark != mark {
            return Err(failed("expected an empty disk, seen another host's"));
        }
        volume.holds = Holds::Ours;
        volume.mark = mark;
        volume.aside.extend(volume.data.take());
        machine.disk.volume_in_place = true;
        Ok(())
    }
}
