//! Bundles, installed components, images, systemd units.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use quorate_plan::{
    Missing, Seen,
    observation::{Components, Package, Unit},
    spec::Packages,
};
use serde::{Deserialize, Serialize};

use super::{PATIENCE, in_time, no_answer};
use crate::{
    command::{Command, SEARCH, Tools},
    durable::{self, FileError},
    paths::Paths,
};

/// Units that matter.
const UNITS: [&str; 4] = ["containerd", "kubelet", "quorate-lb", "quorate-keepalived"];

/// Where containerd answers.
pub(crate) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Bundles that lie whole on this host: a folder gets its final name only when every file in it was checked.
pub(super) fn bundles(paths: &Paths) -> Result<BTreeSet<String>, FileError> {
    let folder = paths.state("bundles");
    let entries = match fs::read_dir(&folder) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        result => result.map_err(FileError::new("read", &folder))?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(FileError::new("read", &folder))?;
        if let Some(name) = entry.file_name().to_str()
            && crate::bundle::is_id(name)
            && entry.path().join("manifest.json").exists()
        {
            found.insert(name.to_owned());
        }
    }
    Ok(found)
}

/// What was installed, kept as `components.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Installed {
    /// The bundle it came from.
    pub(crate) bundle: String,
    /// [`quorate_plan::kubeadm::RuntimeSettings::digest`].
    pub(crate) configuration: String,
    /// The programs came from packages: of the bundle is only what those lack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) from_packages: bool,
    /// Every file by its place.
    pub(crate) files: BTreeMap<PathBuf, InstalledFile>,
}

/// A file by what changes when it is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstalledFile {
    size: u64,
    modified_s: i64,
    modified_ns: i64,
    /// Where a symbolic link leads.
    link: Option<PathBuf>,
}

impl InstalledFile {
    /// The file as it is; `None` when it is not there, or a link that leads nowhere.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            size: meta.size(),
            modified_s: meta.mtime(),
            modified_ns: meta.mtime_nsec(),
            link: fs::read_link(path).ok(),
        })
    }
}

impl Installed {
    pub(crate) fn read(paths: &Paths) -> Result<Option<Self>, FileError> {
        durable::read_json(&paths.state("components.json"))
    }
}

pub(super) fn components(paths: &Paths) -> Result<Option<Components>, FileError> {
    let Some(installed) = Installed::read(paths)? else {
        return Ok(None);
    };
    let differing = installed
        .files
        .iter()
        .filter(|(path, file)| InstalledFile::of(&paths.at(path)).as_ref() != Some(file))
        .map(|(path, _)| path.display().to_string())
        .collect();
    Ok(Some(Components {
        bundle: installed.bundle,
        differing,
        configuration: installed.configuration,
        packages: match installed.from_packages {
            true => Some(packages(paths, &Packages::NAMES)?),
            false => None,
        },
    }))
}

/// Where dpkg keeps what is installed.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// Which of these packages are installed, by what dpkg keeps: whole, and of which version.
pub(crate) fn packages(
    paths: &Paths,
    names: &[&str],
) -> Result<BTreeMap<String, Package>, FileError> {
    let path = paths.at(DPKG_STATUS);
    let file = match fs::File::open(&path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        result => result.map_err(FileError::new("read", &path))?,
    };
    // Some megabytes on a host with much on it: a line at a time.
    let mut found = BTreeMap::new();
    let mut stanza = Stanza::default();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(FileError::new("read", &path))?;
        let line = String::from_utf8_lossy(&line);
        match line.split_once(": ") {
            _ if line.is_empty() => found.extend(std::mem::take(&mut stanza).of(names)),
            Some(("Package", name)) => stanza.name = name.to_owned(),
            Some(("Status", status)) => stanza.status = status.to_owned(),
            Some(("Version", version)) => stanza.version = version.to_owned(),
            _ => {}
        }
    }
    found.extend(stanza.of(names));
    Ok(found)
}

/// What dpkg keeps of one package.
#[derive(Default)]
struct Stanza {
    name: String,
    status: String,
    version: String,
}

impl Stanza {
    fn of(self, names: &[&str]) -> Option<(String, Package)> {
        // What is wanted, whether it is damaged, and how far it is.
        let held = match self.status.as_str() {
            "install ok installed" => false,
            "hold ok installed" => true,
            _ => return None,
        };
        let version = self.version;
        names
            .contains(&self.name.as_str())
            .then_some((self.name, Package { version, held }))
    }
}

/// Whether a program is installed where programs are looked for.
pub(crate) fn installed(paths: &Paths, program: &str) -> bool {
    SEARCH
        .split(':')
        .any(|folder| paths.at(folder).join(program).exists())
}

pub(super) async fn images(paths: &Paths, tools: &Tools) -> Seen<BTreeSet<String>> {
    if !installed(paths, "ctr") {
        return Seen::now(BTreeSet::new());
    }
    if !paths.at(CONTAINERD).exists() {
        return Seen::Unknown(Missing::no_answer("images", "containerd does not run"));
    }
    in_time("images", async {
        // One that the kubelet may remove at any moment is not there.
        match list_images(tools, true, PATIENCE).await {
            Ok(images) => Seen::now(images),
            Err(err) => Seen::Unknown(no_answer("images", &err)),
        }
    })
    .await
}

/// Marks an image as one that the kubelet must not remove when the disk fills: it could not be pulled again.
pub(crate) const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// References of images that containerd has for the kubelet: those that stay, or all.
pub(crate) async fn list_images(
    tools: &Tools,
    pinned: bool,
    within: Duration,
) -> Result<BTreeSet<String>, crate::command::CommandError> {
    let mut list =
        Command::new("ctr", within).args(["--namespace", "k8s.io", "images", "list", "-q"]);
    if pinned {
        list = list.arg("labels.\"io.cri-containerd.pinned\"==pinned");
    }
    let out = tools.run(list).await?;
    // containerd also lists every image under its digest.
    Ok(out
        .text()
        .lines()
        .filter(|line| !line.starts_with("sha256:") && !line.is_empty())
        .map(str::to_owned)
        .collect())
}

pub(super) async fn units(tools: &Tools) -> Seen<BTreeMap<String, Unit>> {
    in_time("units", async {
        let show = Command::new("systemctl", PATIENCE)
            .arg("show")
            .arg("--property=Id,LoadState,ActiveState,SubState,UnitFileState")
            .args(UNITS.map(|unit| format!("{unit}.service")));
        match tools.run(show).await {
            Ok(out) => Seen::now(parse_units(&out.text())),
            Err(err) => Seen::Unknown(no_answer("units", &err)),
        }
    })
    .await
}

/// Whether systemd is still starting what it starts at boot.
pub(super) async fn booting(tools: &Tools) -> Seen<bool> {
    in_time("systemd's state", async {
        let show = Command::new("systemctl", PATIENCE).args(["show", "--property=SystemState"]);
        match tools.run(show).await {
            Ok(out) => Seen::now(boots(&out.text())),
            Err(err) => Seen::Unknown(no_answer("systemd's state", &err)),
        }
    })
    .await
}

/// `degraded` and the like are states that it comes to rest in.
fn boots(text: &str) -> bool {
    matches!(
        text.trim().strip_prefix("SystemState="),
        Some("initializing" | "starting")
    )
}

fn parse_units(text: &str) -> BTreeMap<String, Unit> {
    let mut found = BTreeMap::new();
    for block in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        let Some(name) = field("Id").strip_suffix(".service") else {
            continue;
        };
        if field("LoadState") == "not-found" {
            continue;
        }
        let unit = Unit {
            active: field("ActiveState") == "active",
            enabled: field("UnitFileState") == "enabled",
            state: format!("{}/{}", field("ActiveState"), field("SubState")),
        };
        found.insert(name.to_owned(), unit);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_system_that_boots() {
        for (text, expected) in [
            ("SystemState=initializing\n", true),
            ("SystemState=starting\n", true),
            ("SystemState=running\n", false),
            ("SystemState=degraded\n", false),
            ("SystemState=maintenance\n", false),
            ("", false),
        ] {
            assert_eq!(boots(text), expected, "{text}");
        }
    }

    #[test]
    fn units_that_are_installed() {
        let text = "Id=containerd.service\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n\n\
                    Id=kubelet.service\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=disabled\n\n\
                    Id=quorate-lb.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n";
        let seen = parse_units(text);
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["containerd", "kubelet"]);
        assert!(seen["containerd"].active && seen["containerd"].enabled);
        let kubelet = &seen["kubelet"];
        assert!(!kubelet.active && !kubelet.enabled);
        assert_eq!(kubelet.state, "activating/auto-restart");
    }

    #[test]
    fn bundles_under_their_final_name() {
        let machine = testing::machine();
        let id = "ab".repeat(32);
        for folder in [&id, &format!("{id}.partial"), &"short".to_owned()] {
            machine.write(
                &format!("/var/lib/quorate/bundles/{folder}/manifest.json"),
                "{}",
            );
        }
        std::fs::create_dir_all(machine.paths.bundle(&"cd".repeat(32))).unwrap();
        assert_eq!(bundles(&machine.paths).unwrap(), [id].into());
    }

    #[test]
    fn changed_and_missing_files_differ() {
        let machine = testing::machine();
        machine.write("/usr/local/bin/a", "a");
        machine.write("/usr/local/bin/b", "b");
        std::os::unix::fs::symlink(
            machine.paths.at("/usr/local/bin/b"),
            machine.paths.at("/usr/local/bin/c"),
        )
        .unwrap();
        let files = ["/usr/local/bin/a", "/usr/local/bin/b", "/usr/local/bin/c"].map(|path| {
            let file = InstalledFile::of(&machine.paths.at(path)).unwrap();
            (PathBuf::from(path), file)
        });
        let installed = Installed {
            bundle: "b".into(),
            configuration: "c".into(),
            from_packages: false,
            files: files.into(),
        };
        durable::write_json(&machine.paths.state("components.json"), &installed).unwrap();
        let seen = components(&machine.paths).unwrap().unwrap();
        assert!(seen.differing.is_empty(), "{:?}", seen.differing);
        machine.write("/usr/local/bin/a", "ab");
        std::fs::remove_file(machine.paths.at("/usr/local/bin/b")).unwrap();
        let seen = components(&machine.paths).unwrap().unwrap();
        assert_eq!(seen.differing.len(), 3, "{:?}", seen.differing);
        assert_eq!(seen.packages, None);
    }

    #[test]
    fn packages_as_dpkg_keeps_them() {
        let machine = testing::machine();
        assert_eq!(packages(&machine.paths, &["kubelet"]).unwrap(), [].into());
        machine.write(
            DPKG_STATUS,
            "Package: kubeadm\nStatus: hold ok installed\nVersion: 1.35.4-1.1\nDescription: x\n Version: 9\n\n\
             Package: kubectl\nStatus: install ok half-configured\nVersion: 1.35.4-1.1\n\n\
             Package: kubernetes-cni\nStatus: install ok installed\nVersion: 1.8.0-1.1\n\n\
             Package: kubelet\nStatus: install ok installed\nVersion: 1.35.3-1.1\n",
        );
        let package = |version: &str, held| Package {
            version: version.to_owned(),
            held,
        };
        let wanted = [
            ("kubeadm".to_owned(), package("1.35.4-1.1", true)),
            ("kubelet".to_owned(), package("1.35.3-1.1", false)),
        ];
        assert_eq!(
            packages(&machine.paths, &Packages::NAMES).unwrap(),
            wanted.into()
        );
    }
}
