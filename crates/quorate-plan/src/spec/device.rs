//! The block device that a master's etcd has to itself. Start at [`EtcdDevice`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{findings::Findings, raw::At};
use crate::diagnostic::Code;

/// Longest name of a device, in bytes: those of udev are below 120.
const NAME_BYTES_MAX: usize = 255;

/// A block device, by the names that it may have on its host; the first of them that is there is the one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EtcdDevice(Vec<String>);

impl EtcdDevice {
    /// One that has one name.
    pub fn named(name: impl Into<String>) -> Self {
        Self(vec![name.into()])
    }

    /// A volume of AWS, as `vol-0123456789abcdef0`, that is attached as `/dev/sdf`. Where disks are NVMe, which is on every machine type of the
    /// last years, it is called by its ID; on older ones, by where it is attached, under the name that their kernel gives that.
    pub fn of_ebs(volume: &str) -> Self {
        let id = volume.replacen('-', "", 1);
        Self(vec![
            format!("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{id}"),
            "/dev/xvdf".into(),
            "/dev/sdf".into(),
        ])
    }

    /// Its names, the likeliest first; there is one at least.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for EtcdDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.first().map_or("no device", String::as_str))
    }
}

/// A device as the file names it.
pub(super) fn device(findings: &mut Findings<'_>, written: &At<String>) -> Option<EtcdDevice> {
    let name = &written.value;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:+@".contains(&byte);
    let fits = name.len() <= NAME_BYTES_MAX
        && name.bytes().all(plain)
        && name
            .strip_prefix("/dev/")
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    if fits {
        return Some(EtcdDevice::named(name));
    }
    let short: String = name.chars().take(60).collect();
    let found = findings.report(
        Code::BadDevice,
        written.span.clone(),
        format!("`{short}` is not the name of a block device"),
    );
    found.label = "expected a path below /dev".into();
    found.help.push(
        "`ls -l /dev/disk/by-id` on the host shows names that stay the same over boots".into(),
    );
    None
}
