//! etcd's data has a block device to itself: formatted when nothing is on it, mounted by its UUID now and at every boot, etcd's folder a folder of
//! it.
//!
//! A file system is made only where nothing is: what anybody could want back is refused, with what was seen. What lies on a volume of an
//! earlier life of this host is moved aside on the volume, after the guard saw that no member counts on it. Where systemd cannot mount the
//! volume the kubelet does not start.

use std::{path::Path, time::Duration};

use quorate_plan::{
    Refusal,
    kubeadm::Peer,
    observation::{EtcdVolume, VolumeContent, VolumeMark},
    spec::EtcdDevice,
};

use super::{TOOL_WITHIN, Work};
use crate::{
    aside::Aside,
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    facts::{
        self,
        etcd_volume::{
            DATA, KIND, LABEL, MARK, NOTE, Note, TOP, UNITS, lasting, sight, signatures,
        },
    },
    paths::Paths,
};

/// Making a file system. Its tables are written later, by the kernel: it takes a second.
const FORMAT_WITHIN: Duration = Duration::from_secs(180);

pub(super) async fn ensure(
    work: &Work<'_>,
    node: &Peer,
    device: &EtcdDevice,
) -> Result<(), ActionError> {
    let volume = sight(work.paths, work.tools, device, TOOL_WITHIN).await?;
    if let Some(seen) = volume.obstacle() {
        return Err(refused(node, &volume, seen));
    }
    unchanged_since_admission(work, &volume)?;
    let own = facts::mark(work.paths)?.map(|mark| VolumeMark {
        cluster: mark.cluster,
        node: mark.node,
    });
    let own = own.ok_or_else(|| {
        ActionError::unexpected(
            "a host that carries a cluster's mark",
            "it carries none",
            "run `quorate apply`: it prepares hosts first",
        )
    })?;
    let path = work.paths.at(&volume.device);
    match &volume.content {
        VolumeContent::InPlace { own: None } => return Ok(()),
        VolumeContent::Blank => format(work, &path).await?,
        VolumeContent::InPlace { own: Some(_) } | VolumeContent::Made | VolumeContent::Earlier => {}
        VolumeContent::Absent | VolumeContent::Other { .. } => {
            unreachable!("these are obstacles")
        }
    }
    let uuid = uuid_of(work, &path).await?;
    let in_place = matches!(volume.content, VolumeContent::InPlace { .. });
    let [(top, top_text), (data, data_text), (drop_in, drop_in_text)] = lasting(&uuid);
    write_unit(work.paths, top, &top_text)?;
    systemctl(work, &["daemon-reload"]).await?;
    if !in_place {
        systemctl(work, &["start", top]).await?;
    }
    // It may be somebody else's: nothing was written to it yet.
    if let Some(there) = facts::etcd_volume::mark(work.paths)?
        && there != own
    {
        if !in_place {
            systemctl(work, &["stop", top]).await?;
            durable::remove(&work.paths.unit(top))?;
            systemctl(work, &["daemon-reload"]).await?;
        }
        return Err(refused(node, &volume, format!("the disk of {there}")));
    }
    if volume.content == VolumeContent::Earlier
        && let Some(place) = Aside::new(work.paths).take(DATA)?
    {
        work.progress.say(format!(
            "what an earlier machine left on {} lies in {}",
            volume.device,
            place.display()
        ));
    }
    durable::write_json(&work.paths.at(MARK), &own)?;
    durable::write_json(&work.paths.state(NOTE), &Note { uuid })?;
    if !in_place {
        durable::private_folder(&work.paths.at(DATA))?;
        durable::private_folder(&work.paths.at(facts::ETCD_DATA))?;
    }
    write_unit(work.paths, data, &data_text)?;
    write_unit(work.paths, drop_in, &drop_in_text)?;
    systemctl(work, &["daemon-reload"]).await?;
    systemctl(work, &["enable", top, data]).await?;
    if !in_place {
        systemctl(work, &["start", data]).await?;
    }
    stands(work, device).await
}

/// A reset host has no member: the next life of it takes the volume over like any other.
pub(super) fn forget(paths: &Paths) -> Result<(), FileError> {
    durable::remove(&paths.at(MARK))?;
    durable::remove(&paths.state(NOTE))
}

fn refused(node: &Peer, volume: &EtcdVolume, seen: String) -> ActionError {
    Refusal::EtcdVolume {
        node: node.name.clone(),
        device: volume.device.clone(),
        seen,
    }
    .into()
}

/// The guard judged what was seen then.
fn unchanged_since_admission(work: &Work<'_>, now: &EtcdVolume) -> Result<(), ActionError> {
    let then = work.seen.host(work.node)?.etcd_volume.get()?;
    if then.as_ref() == Some(now) {
        return Ok(());
    }
    Err(ActionError::unexpected(
        format!("{} as it was a moment ago", now.device),
        format!("it was {then:?}, and is {now:?}"),
        "run the command again, and find out who else changes that disk",
    ))
}

async fn format(work: &Work<'_>, device: &Path) -> Result<(), ActionError> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = durable::read_text(path)?.unwrap_or_default();
    let uuid = uuid.trim().to_owned();
    // Before there is such a file system: broken off after it, this is how it is known for this host's own.
    let note = Note { uuid: uuid.clone() };
    durable::write_json(&work.paths.state(NOTE), &note)?;
    // Nothing was on it a moment ago. It takes the device for itself alone, so that nobody can have mounted it since.
    let make = Command::new(format!("mkfs.{KIND}"), FORMAT_WITHIN)
        .args(["-q", "-L", LABEL, "-U", &uuid])
        .arg(device);
    work.tools.run(make).await?;
    Ok(())
}

async fn uuid_of(work: &Work<'_>, device: &Path) -> Result<String, ActionError> {
    let found = signatures(work.tools, device, TOOL_WITHIN).await?;
    match found.as_slice() {
        [only] => only.own().map(str::to_owned),
        _ => None,
    }
    .ok_or_else(|| {
        ActionError::unexpected(
            format!(
                "one file system with the label {LABEL} on {}",
                device.display()
            ),
            format!("{found:?}"),
            "look at it with `wipefs` and `blkid`",
        )
    })
}

fn write_unit(paths: &Paths, name: &str, text: &str) -> Result<(), FileError> {
    durable::write_if_different(&paths.unit(name), text.as_bytes(), 0o644).map(drop)
}

async fn systemctl(work: &Work<'_>, args: &[&str]) -> Result<(), ActionError> {
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(args))
        .await?;
    Ok(())
}

/// systemd says of a mount that it is there; that it is the right one is seen.
async fn stands(work: &Work<'_>, device: &EtcdDevice) -> Result<(), ActionError> {
    let volume = sight(work.paths, work.tools, device, TOOL_WITHIN).await?;
    if let VolumeContent::InPlace { own: Some(own) } = &volume.content
        && own.lasts
    {
        return Ok(());
    }
    Err(ActionError::unexpected(
        format!(
            "{} on {TOP} and its folder on {}",
            volume.device,
            facts::ETCD_DATA
        ),
        format!("{:?}", volume.content),
        format!("look at `systemctl status {}`", UNITS.join(" ")),
    ))
}

#[cfg(test)]
#[path = "etcd_volume_tests.rs"]
mod tests;
