//! The block device that etcd has to itself: what is on it, and whether it is in its place. Start at [`look`].
//!
//! ```text
//! DEVICE, ext4, label quorate-etcd   mounted on   /var/lib/quorate/etcd
//! /var/lib/quorate/etcd/data         mounted on   /var/lib/etcd
//! /var/lib/quorate/etcd/quorate.json              whose it is
//! /var/lib/quorate/etcd-volume.json               which file system this life of the host made or took over
//! ```
//!
//! etcd gets a folder of it, because kubeadm refuses a data directory that holds `lost+found`.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    time::Duration,
};

use quorate_plan::{
    Missing, Seen,
    observation::{EtcdVolume, OwnVolume, VolumeContent, VolumeMark},
    spec::EtcdDevice,
};
use serde::{Deserialize, Serialize};

use super::{ETCD_DATA, PATIENCE, in_time};
use crate::{
    command::{Command, Tools},
    durable::{self, FileError},
    error::ActionError,
    paths::Paths,
    shown,
};

/// The label of a file system that Quorate made. ext4 has room for 16 bytes.
pub(crate) const LABEL: &str = "quorate-etcd";

/// The only kind that Quorate makes: every Debian and Ubuntu has its tools, and for one log that is appended and synced none is better.
pub(crate) const KIND: &str = "ext4";

/// Where the volume is mounted.
pub(crate) const TOP: &str = "/var/lib/quorate/etcd";

/// The folder of it that is etcd's.
pub(crate) const DATA: &str = "/var/lib/quorate/etcd/data";

/// Whose the volume is, on itself.
pub(crate) const MARK: &str = "/var/lib/quorate/etcd/quorate.json";

/// In Quorate's state on the host: the file system of this life of it.
pub(crate) const NOTE: &str = "etcd-volume.json";

/// The units by which systemd mounts both, in their order. systemd derives such names from the places.
pub(crate) const UNITS: [&str; 2] = ["var-lib-quorate-etcd.mount", "var-lib-etcd.mount"];

/// Lets the kubelet wait for etcd's folder, from before there is a member whose guard asks for its data.
pub(crate) const DROP_IN: &str = "kubelet.service.d/15-quorate-etcd-volume.conf";

/// How much at a device's beginning has to be zeros besides having no signature that anybody knows, in bytes: raw data begins at once, and a file
/// system whose making was broken off has not written here yet.
const ZEROS_BYTES: usize = 4096;

/// The file system of this life of the host.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Its UUID.
    pub(crate) uuid: String,
}

/// Files that make it last over boots: path below the units' folder, and text.
pub(crate) fn lasting(uuid: &str) -> [(&'static str, String); 3] {
    let [top, data] = UNITS;
    // As systemd writes a dash that is no separator.
    let checked = format!(
        "systemd-fsck@dev-disk-by\\x2duuid-{}.service",
        uuid.replace('-', "\\x2d")
    );
    let head = "# Written by Quorate; changes are overwritten.\n[Unit]\n";
    let installed = "\n[Install]\nWantedBy=multi-user.target\n";
    [
        (
            top,
            format!(
                "{head}Description=etcd's own disk\nRequires={checked}\nAfter={checked}\n\n\
                 [Mount]\nWhat=/dev/disk/by-uuid/{uuid}\nWhere={TOP}\nType={KIND}\nOptions=noatime,nosuid,nodev\n{installed}"
            ),
        ),
        (
            data,
            format!(
                "{head}Description=etcd's folder of its own disk\nRequiresMountsFor={TOP}\n\n\
                 [Mount]\nWhat={DATA}\nWhere={ETCD_DATA}\nType=none\nOptions=bind\n{installed}"
            ),
        ),
        (
            DROP_IN,
            format!(
                "{head}# Without its disk etcd's folder is an empty one of the root file system.\nRequiresMountsFor={ETCD_DATA}\n"
            ),
        ),
    ]
}

/// The link by which a unit starts at boot.
fn at_boot(paths: &Paths, unit: &str) -> bool {
    let link = paths.unit("multi-user.target.wants").join(unit);
    fs::symlink_metadata(link).is_ok()
}

/// What is there of the device that was asked about.
pub(super) async fn look(
    paths: &Paths,
    tools: &Tools,
    device: Option<&EtcdDevice>,
) -> Seen<Option<EtcdVolume>> {
    const WHAT: &str = "etcd's disk";
    let Some(device) = device else {
        return Seen::now(None);
    };
    in_time(WHAT, async {
        match sight(paths, tools, device, PATIENCE).await {
            Ok(volume) => Seen::now(Some(volume)),
            Err(err) => {
                let why = shown::line(&shown::chain(&err));
                Seen::Unknown(Missing::no_answer(WHAT, why))
            }
        }
    })
    .await
}

/// The same, without a limit of a look's.
pub(crate) async fn sight(
    paths: &Paths,
    tools: &Tools,
    device: &EtcdDevice,
    within: Duration,
) -> Result<EtcdVolume, ActionError> {
    let mounts = Mounts::read()?;
    let data = paths.at(ETCD_DATA);
    let mut names = device.names().iter();
    let there = names.find_map(|name| Some((name, fs::metadata(paths.at(name)).ok()?)));
    let Some((name, meta)) = there else {
        return Ok(EtcdVolume {
            device: device.to_string(),
            content: VolumeContent::Absent,
            hides: false,
        });
    };
    let number = meta.rdev();
    let is_in_place = meta.file_type().is_block_device() && mounts.at(&data) == Some(number);
    let content = if !meta.file_type().is_block_device() {
        let what = "something that is no block device".to_owned();
        VolumeContent::Other { what }
    } else if is_in_place {
        let own = mounts.at(&paths.at(TOP)) == Some(number);
        let own = own.then(|| own_volume(paths)).transpose()?;
        VolumeContent::InPlace { own }
    } else if let Some(elsewhere) = mounts.elsewhere(number, &paths.at(TOP)) {
        let what = format!(
            "a file system that is mounted on {}",
            shown::line(elsewhere)
        );
        VolumeContent::Other { what }
    } else {
        content(paths, tools, name, within).await?
    };
    Ok(EtcdVolume {
        device: name.clone(),
        content,
        hides: !is_in_place && (mounts.at(&data).is_some() || !is_empty(&data)?),
    })
}

fn own_volume(paths: &Paths) -> Result<OwnVolume, FileError> {
    let note: Option<Note> = durable::read_json(&paths.state(NOTE))?;
    let lasts = match note {
        None => false,
        Some(note) => {
            let mut all = UNITS.into_iter().all(|unit| at_boot(paths, unit));
            for (path, text) in lasting(&note.uuid) {
                all &= durable::read_text(&paths.unit(path))?.as_ref() == Some(&text);
            }
            all
        }
    };
    Ok(OwnVolume {
        mark: mark(paths)?,
        lasts,
    })
}

/// Whose the volume is that is mounted.
pub(crate) fn mark(paths: &Paths) -> Result<Option<VolumeMark>, FileError> {
    durable::read_json(&paths.at(MARK))
}

fn is_empty(folder: &Path) -> Result<bool, FileError> {
    match fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(true),
        result => Ok(result
            .map_err(FileError::new("read", folder))?
            .next()
            .is_none()),
    }
}

async fn content(
    paths: &Paths,
    tools: &Tools,
    name: &str,
    within: Duration,
) -> Result<VolumeContent, ActionError> {
    let device = paths.at(name);
    let signatures = signatures(tools, &device, within).await?;
    let [only] = signatures.as_slice() else {
        if !signatures.is_empty() {
            let all: Vec<String> = signatures.iter().map(Signature::for_people).collect();
            let what = all.join(", ");
            return Ok(VolumeContent::Other { what });
        }
        let begins_blank = tokio::task::spawn_blocking(move || begins_with_zeros(&device))
            .await
            .expect("reading a device does not panic")?;
        let what = "bytes of something that nothing here knows, though no file system".into();
        return Ok(if begins_blank {
            VolumeContent::Blank
        } else {
            VolumeContent::Other { what }
        });
    };
    let Some(uuid) = only.own() else {
        let what = only.for_people();
        return Ok(VolumeContent::Other { what });
    };
    let note: Option<Note> = durable::read_json(&paths.state(NOTE))?;
    Ok(match note {
        Some(note) if note.uuid == uuid => VolumeContent::Made,
        Some(_) | None => VolumeContent::Earlier,
    })
}

/// One thing on a device that libblkid knows: a file system, a partition table, a part of a RAID or a volume group.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Signature {
    #[serde(rename = "type")]
    kind: Option<String>,
    uuid: Option<String>,
    label: Option<String>,
}

impl Signature {
    /// The UUID of a file system that Quorate made.
    pub(crate) fn own(&self) -> Option<&str> {
        let ours = self.kind.as_deref() == Some(KIND) && self.label.as_deref() == Some(LABEL);
        self.uuid.as_deref().filter(|_| ours)
    }

    fn for_people(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("something");
        shown::line(
            &match self.label.as_deref().filter(|label| !label.is_empty()) {
                Some(label) => format!("{kind} with the label `{label}`"),
                None => kind.to_owned(),
            },
        )
    }
}

/// Everything that is known on a device. wipefs without `--all` changes nothing.
pub(crate) async fn signatures(
    tools: &Tools,
    device: &Path,
    within: Duration,
) -> Result<Vec<Signature>, ActionError> {
    let list = Command::new("wipefs", within)
        .args(["--json", "--output", "TYPE,UUID,LABEL"])
        .arg(device);
    let told = tools.run(list).await?.text();
    Ok(parse_signatures(&told).map_err(|err| FileError::senseless(device, err))?)
}

fn parse_signatures(told: &str) -> Result<Vec<Signature>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Told {
        signatures: Vec<Signature>,
    }
    // Of a device with nothing on it some versions say nothing at all.
    if told.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_str::<Told>(told)?.signatures)
}

fn begins_with_zeros(device: &Path) -> Result<bool, FileError> {
    let mut bytes = [0; ZEROS_BYTES];
    File::open(device)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(FileError::new("read", device))?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// What is mounted, as the kernel tells.
struct Mounts(String);

impl Mounts {
    /// Of this thread: a test has a namespace of its own.
    fn read() -> Result<Self, FileError> {
        let path = Path::new("/proc/thread-self/mountinfo");
        fs::read_to_string(path)
            .map(Self)
            .map_err(FileError::new("read", path))
    }

    /// Device number and place, in the order of mounting: of several on one place the last is seen.
    fn all(&self) -> impl DoubleEndedIterator<Item = (u64, &str)> {
        self.0.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(2);
            let (major, minor) = words.next()?.split_once(':')?;
            let number = nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?);
            // The next is the root of the mount within its file system.
            Some((number, words.nth(1)?))
        })
    }

    /// The device that is mounted there.
    fn at(&self, place: &Path) -> Option<u64> {
        let mut mounts = self.all().rev();
        mounts.find_map(|(number, at)| (Path::new(at) == place).then_some(number))
    }

    /// Where that device is mounted besides `place`.
    fn elsewhere(&self, number: u64, place: &Path) -> Option<&str> {
        let mut mounts = self.all();
        mounts.find_map(|(other, at)| (other == number && Path::new(at) != place).then_some(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn mounts_by_place_and_device() {
        let mounts = Mounts(
            "24 1 259:1 / / rw - ext4 /dev/root rw\n\
             31 24 259:5 / /var/lib/quorate/etcd rw,noatime shared:1 - ext4 /dev/nvme1n1 rw\n\
             32 24 259:5 /data /var/lib/etcd rw,noatime shared:1 master:3 - ext4 /dev/nvme1n1 rw\n\
             nonsense\n"
                .to_owned(),
        );
        let disk = nix::sys::stat::makedev(259, 5);
        let top = Path::new(TOP);
        assert_eq!(mounts.at(Path::new(ETCD_DATA)), Some(disk));
        assert_eq!(mounts.at(Path::new("/var/lib")), None);
        assert_eq!(mounts.elsewhere(disk, top), Some("/var/lib/etcd"));
        assert_eq!(mounts.elsewhere(disk + 1, top), None);
    }

    #[test]
    fn what_wipefs_tells() {
        assert_eq!(parse_signatures("").unwrap(), []);
        assert_eq!(parse_signatures("{\"signatures\":[]}").unwrap(), []);
        let told = "{\"signatures\": [\n {\"type\":\"ext4\",\"uuid\":\"u\",\"label\":\"quorate-etcd\"},\
                    {\"type\":\"gpt\",\"uuid\":null,\"label\":null}]}";
        let both = parse_signatures(told).unwrap();
        assert_eq!(both[0].own(), Some("u"));
        assert_eq!(
            (both[1].own(), both[1].for_people().as_str()),
            (None, "gpt")
        );
        let other = told.replace("ext4", "xfs");
        assert_eq!(parse_signatures(&other).unwrap()[0].own(), None);
        assert!(parse_signatures("{").is_err());
    }

    #[tokio::test]
    async fn what_is_no_device_is_told() {
        let machine = testing::machine();
        let device = EtcdDevice::of_ebs("vol-0123456789abcdef0");
        let tools = Tools::default();
        let seen = sight(&machine.paths, &tools, &device, PATIENCE)
            .await
            .unwrap();
        assert_eq!(seen.content, VolumeContent::Absent);
        assert_eq!(
            seen.device,
            "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
        );
        machine.write("/dev/xvdf", "a file");
        machine.write("/var/lib/etcd/member/wal/0.wal", "x");
        let seen = sight(&machine.paths, &tools, &device, PATIENCE)
            .await
            .unwrap();
        assert_eq!(seen.device, "/dev/xvdf");
        assert!(seen.hides && seen.obstacle().unwrap().contains("no block device"));
    }

    /// systemd itself reads the units, and has nothing to say about them.
    #[test]
    fn systemd_understands_the_units() {
        let machine = testing::machine();
        let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        for (path, text) in lasting(uuid) {
            machine.write(&format!("/units/{path}"), text);
        }
        let kubelet = "[Service]\nExecStart=/bin/true\n";
        machine.write("/units/kubelet.service", kubelet);
        let folder = machine.paths.at("/units");
        let verify = || {
            std::process::Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .args(UNITS.map(|unit| folder.join(unit)))
                .arg(folder.join("kubelet.service"))
                .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()))
                .output()
        };
        let Ok(out) = verify() else {
            eprintln!("SKIPPED: systemd_understands_the_units: there is no systemd-analyze here");
            return;
        };
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{said}");
        // It would have said something.
        machine.write(
            "/units/var-lib-etcd.mount",
            "[Mount]\nWhat=/a\nWhere=/b\nKind=x\n",
        );
        let out = verify().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains("var-lib-etcd.mount"), "{said}");
    }

    #[test]
    fn units_are_called_by_their_places() {
        let of = |place: &str| format!("{}.mount", place.trim_start_matches('/').replace('/', "-"));
        assert_eq!(UNITS, [of(TOP), of(ETCD_DATA)]);
        let [(_, top), (_, data), (_, kubelet)] = lasting("12-34");
        assert!(
            top.contains("After=systemd-fsck@dev-disk-by\\x2duuid-12\\x2d34.service\n"),
            "{top}"
        );
        assert!(top.contains("What=/dev/disk/by-uuid/12-34\n"), "{top}");
        assert!(
            data.contains("RequiresMountsFor=/var/lib/quorate/etcd\n"),
            "{data}"
        );
        assert!(kubelet.contains("\n[Unit]\n"), "{kubelet}");
    }
}
