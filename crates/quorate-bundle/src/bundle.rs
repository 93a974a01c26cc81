//! Reading a bundle. Start at [`Bundle::open`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::component::{FLANNEL_OBJECTS, path};
use crate::folder::{MANIFEST, UNFINISHED};
use crate::manifest::{
    BundleId, BundlePath, FileEntry, ImageRole, MANIFEST_BYTES_MAX, Manifest, ManifestError,
    Origin, Role,
};
use crate::version::{Arch, KubernetesVersion};

/// The text in `manifests/kube-flannel.yml` that stands for the cluster's pod network.
const POD_NETWORK: &str = "${POD_NETWORK}";

/// The executables a host of ours needs: with fewer, a bundle can only complete what a host has by itself.
const BINARIES: [&str; 8] = [
    "kubeadm",
    "kubelet",
    "kubectl",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "etcdctl",
    "etcdutl",
];

/// The CNI plugins Flannel's configuration calls.
const PLUGINS: [&str; 5] = ["flannel", "bridge", "host-local", "loopback", "portmap"];

/// Why a bundle cannot be used.
#[derive(Debug, Error)]
pub enum BundleError {
    /// No manifest.
    #[error(
        "{0} is not a bundle: it has no manifest.json\nhint: make one with `quorate bundle build` or `quorate bundle fetch`"
    )]
    Absent(PathBuf),
    /// Building or fetching did not come to its end.
    #[error(
        "the bundle {0} is not finished\nhint: run the command that makes it again; it goes on from what is there"
    )]
    Unfinished(PathBuf),
    /// The manifest, or another file, cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The manifest is not one.
    #[error("{path} is not usable")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        err: ManifestError,
    },
    /// The bundle has no Flannel objects.
    #[error("the bundle {0} holds no manifests/kube-flannel.yml")]
    NoFlannel(PathBuf),
    /// Not an IPv4 network.
    #[error("expected a pod network like 10.244.0.0/16, got {0:?}")]
    PodNetwork(String),
}

/// A bundle whose manifest was read. Its files were not: see [`crate::verify`].
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    id: BundleId,
}

/// An image archive of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleImage {
    /// What it is for.
    pub role: ImageRole,
    /// The reference it is imported under.
    pub reference: String,
    /// The archive on this machine.
    pub archive: PathBuf,
}

impl Bundle {
    /// Reads the manifest of a bundle.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is not one this program understands.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(match dir.join(UNFINISHED).exists() {
                    true => BundleError::Unfinished(dir.to_owned()),
                    false => BundleError::Absent(dir.to_owned()),
                });
            }
            Err(err) => return Err(BundleError::Read { path, err }),
        }
        let manifest =
            Manifest::from_bytes(&bytes).map_err(|err| BundleError::Manifest { path, err })?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            id: BundleId::of(&bytes),
        })
    }

    /// The bundle's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The name of its whole content.
    pub fn id(&self) -> BundleId {
        self.id
    }

    /// An executable of the host, such as `kubeadm`.
    pub fn binary(&self, name: &str) -> Option<PathBuf> {
        self.with_role(Role::Binary)
            .find(|file| file.path.file_name() == name)
            .map(|file| file.path.under(&self.dir))
    }

    /// Every executable of the host: name and file.
    pub fn binaries(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.with_role(Role::Binary)
            .map(|file| (file.path.file_name(), file.path.under(&self.dir)))
    }

    /// Every CNI plugin: name and file.
    pub fn cni_plugins(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.with_role(Role::CniPlugin)
            .map(|file| (file.path.file_name(), file.path.under(&self.dir)))
    }

    /// Every image archive, in the order a control plane needs them.
    pub fn images(&self) -> impl Iterator<Item = BundleImage> {
        ImageRole::ALL
            .into_iter()
            .filter_map(|role| self.image(role))
    }

    /// The image archive for one purpose.
    pub fn image(&self, role: ImageRole) -> Option<BundleImage> {
        let reference = self.manifest.images.get(&role)?;
        let file = self
            .with_role(Role::Image)
            .find(|file| file.image.as_ref() == Some(reference))?;
        Some(BundleImage {
            role,
            reference: reference.clone(),
            archive: file.path.under(&self.dir),
        })
    }

    /// The tag of an image: what kubeadm's `imageTag` fields want.
    pub fn image_tag(&self, role: ImageRole) -> Option<&str> {
        self.manifest
            .images
            .get(&role)?
            .rsplit_once(':')
            .map(|(_, tag)| tag)
    }

    /// Flannel's Kubernetes objects for a pod network, as YAML.
    ///
    /// # Errors
    /// When the bundle has none, the file cannot be read, or `pods` is not an IPv4 network.
    pub fn flannel_objects(&self, pods: &str) -> Result<String, BundleError> {
        let network = pods.split_once('/').and_then(|(address, bits)| {
            Some((
                address.parse::<Ipv4Addr>().ok()?,
                bits.parse::<u8>().ok().filter(|bits| *bits <= 32)?,
            ))
        });
        let (address, bits) =
            network.ok_or_else(|| BundleError::PodNetwork(pods.chars().take(40).collect()))?;
        let wanted = path("manifests", FLANNEL_OBJECTS);
        if !self.manifest.files.iter().any(|file| file.path == wanted) {
            return Err(BundleError::NoFlannel(self.dir.clone()));
        }
        let path = wanted.under(&self.dir);
        let text = fs::read_to_string(&path).map_err(|err| BundleError::Read { path, err })?;
        Ok(text.replace(POD_NETWORK, &format!("{address}/{bits}")))
    }

    /// What a bundle for hosts without packages of their own should have and this one has not.
    /// Always empty after a build; a mirror may lack some.
    pub fn missing(&self) -> Vec<BundlePath> {
        let binaries = BINARIES.iter().map(|name| path("bin", name));
        let plugins = PLUGINS.iter().map(|name| path("cni", name));
        let images = ImageRole::ALL.into_iter().map(ImageRole::path);
        let wanted = binaries
            .chain(plugins)
            .chain(images)
            .chain([path("manifests", FLANNEL_OBJECTS)]);
        wanted
            .filter(|path| !self.manifest.files.iter().any(|file| file.path == *path))
            .collect()
    }

    /// The few facts a list shows.
    pub fn summary(&self) -> Summary {
        Summary {
            dir: self.dir.clone(),
            id: self.id,
            kubernetes: self.manifest.kubernetes,
            arch: self.manifest.arch,
            built: matches!(self.manifest.origin, Origin::Built { .. }),
            files: self.manifest.files.len(),
            size: self.manifest.size(),
        }
    }

    fn with_role(&self, role: Role) -> impl Iterator<Item = &FileEntry> {
        self.manifest
            .files
            .iter()
            .filter(move |file| file.role == role)
    }
}

/// The few facts about a bundle that a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its folder.
    pub dir: PathBuf,
    /// The name of its whole content.
    pub id: BundleId,
    /// Its Kubernetes version.
    pub kubernetes: KubernetesVersion,
    /// The processor it is for.
    pub arch: Arch,
    /// Built on an operator's machine, rather than fetched from a mirror.
    pub built: bool,
    /// How many files.
    pub files: usize,
    /// Bytes of all files.
    pub size: u64,
}

/// Every bundle directly below a folder, by folder name; an unusable one with the reason. Other folders are left out.
///
/// # Errors
/// When the folder cannot be listed.
pub fn list(parent: &Path) -> io::Result<BTreeMap<PathBuf, Result<Summary, BundleError>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(parent)? {
        let dir = entry?.path();
        match Bundle::open(&dir) {
            Err(BundleError::Absent(_)) => {}
            Err(BundleError::Read { err, .. }) if err.kind() == io::ErrorKind::NotADirectory => {}
            opened => drop(found.insert(dir, opened.map(|bundle| bundle.summary()))),
        }
    }
    Ok(found)
}

/// A bundle as plain text: what it is, its images, and each file with version and source.
pub fn show(bundle: &Bundle) -> String {
    let manifest = bundle.manifest();
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(out, "{name:<12}{value}").expect("a String takes any text")
    };
    line("bundle", &bundle.id().to_string());
    line(
        "kubernetes",
        &format!("{} ({})", manifest.kubernetes, manifest.arch),
    );
    match &manifest.origin {
        Origin::Built { toolchain, debian } => {
            line("origin", &format!("built by you with {toolchain}"));
            let packages: Vec<String> = debian
                .iter()
                .map(|(package, version)| format!("{package} {version}"))
                .collect();
            if !packages.is_empty() {
                line("debian", &packages.join(", "));
            }
        }
        Origin::Fetched => line("origin", "fetched from a mirror"),
    }
    line(
        "size",
        &format!(
            "{} in {} files",
            mebibytes(manifest.size()),
            manifest.files.len()
        ),
    );
    out.push('\n');
    let width = |column: fn(&FileEntry) -> usize| {
        manifest.files.iter().map(column).max().unwrap_or_default()
    };
    let (paths, versions) = (
        width(|file| file.path.as_str().len()),
        width(|file| file.version.len()),
    );
    for file in &manifest.files {
        let name = file
            .image
            .as_deref()
            .unwrap_or_else(|| file.source.split(' ').next().unwrap_or_default());
        let (path, version, size) = (file.path.as_str(), &file.version, mebibytes(file.size));
        writeln!(
            out,
            "{path:<paths$}  {version:<versions$}  {size:>9}  {name}"
        )
        .expect("a String takes any text");
    }
    let missing = bundle.missing();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(BundlePath::as_str).collect();
        writeln!(out, "\nnot in this bundle: {}", names.join(", "))
            .expect("a String takes any text");
    }
    out
}

fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest_of;

    fn bundle_at(dir: &Path) -> Bundle {
        let flannel = "Network: ${POD_NETWORK}\n";
        let files = [
            ("bin/kubeadm", Role::Binary, &b"adm"[..]),
            ("cni/bridge", Role::CniPlugin, b"br"),
            ("images/pause.tar", Role::Image, b"tar"),
            (
                "manifests/kube-flannel.yml",
                Role::Addon,
                flannel.as_bytes(),
            ),
        ];
        let mut manifest = manifest_of(&files);
        manifest.files[2].image = Some("quorate.local/pause:3.10.1".into());
        manifest
            .images
            .insert(ImageRole::Pause, "quorate.local/pause:3.10.1".into());
        for (path, _, content) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::write(dir.join(MANIFEST), manifest.to_bytes()).unwrap();
        Bundle::open(dir).unwrap()
    }

    #[test]
    fn finds_what_consumers_ask_for() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle_at(dir.path());
        assert_eq!(
            bundle.binary("kubeadm"),
            Some(dir.path().join("bin/kubeadm"))
        );
        assert_eq!(bundle.binary("bridge"), None);
        assert_eq!(
            bundle
                .cni_plugins()
                .map(|(name, _)| name)
                .collect::<Vec<_>>(),
            ["bridge"]
        );
        let pause = bundle.image(ImageRole::Pause).unwrap();
        assert_eq!(
            (pause.reference.as_str(), pause.archive),
            (
                "quorate.local/pause:3.10.1",
                dir.path().join("images/pause.tar")
            )
        );
        assert_eq!(bundle.image_tag(ImageRole::Pause), Some("3.10.1"));
        assert_eq!(bundle.images().count(), 1);
        assert!(
            bundle
                .missing()
                .iter()
                .any(|path| path.as_str() == "bin/kubelet")
        );
        assert!(show(&bundle).contains("quorate.local/pause:3.10.1"));
    }

    #[test]
    fn renders_the_pod_network() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle_at(dir.path());
        assert_eq!(
            bundle.flannel_objects("10.9.0.0/16").unwrap(),
            "Network: 10.9.0.0/16\n"
        );
        for wrong in ["", "10.9.0.0", "10.9.0.0/33", "10.9.0.0/16\"", "fd00::/64"] {
            assert!(
                matches!(
                    bundle.flannel_objects(wrong),
                    Err(BundleError::PodNetwork(_))
                ),
                "{wrong}"
            );
        }
    }

    #[test]
    fn lists_bundles_and_says_why_one_is_not_usable() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["good", "damaged", "half", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("file"), "").unwrap();
        let good = bundle_at(&dir.path().join("good"));
        fs::write(dir.path().join("damaged").join(MANIFEST), "{").unwrap();
        fs::write(dir.path().join("half").join(UNFINISHED), "[]").unwrap();
        let found = list(dir.path()).unwrap();
        let names: Vec<_> = found
            .keys()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["damaged", "good", "half"]);
        assert!(matches!(
            found[&dir.path().join("damaged")],
            Err(BundleError::Manifest { .. })
        ));
        assert!(matches!(
            found[&dir.path().join("half")],
            Err(BundleError::Unfinished(_))
        ));
        assert_eq!(
            found[&dir.path().join("good")].as_ref().unwrap().id,
            good.id()
        );
    }
}
