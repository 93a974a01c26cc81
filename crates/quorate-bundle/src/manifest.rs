//! `manifest.json`: what a bundle holds, file by file. Start at [`Manifest`].
//!
//! The manifest carries no time, no machine's name and no path outside the bundle, so that the same
//! inputs give the same bytes and with them the same [`BundleId`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Sha256;
use crate::version::{Arch, KubernetesVersion};

/// The format this program reads and writes. Raised when an older program would misread the file.
pub const FORMAT: u32 = 1;

/// The repository all images of a bundle are named under. It is not a registry: nothing is ever pulled from it.
pub const IMAGE_REPOSITORY: &str = "quorate.local";

/// A manifest larger than this is not one of ours: a bundle has about forty files.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The Kubernetes version of the components.
    pub kubernetes: KubernetesVersion,
    /// The processor they run on.
    pub arch: Arch,
    /// Where the components come from.
    pub origin: Origin,
    /// kubeadm's `imageRepository` for this bundle.
    pub image_repository: String,
    /// The full reference of each image, by what it is for.
    pub images: BTreeMap<ImageRole, String>,
    /// Every file but the manifest itself, ordered by path.
    pub files: Vec<FileEntry>,
}

/// Where the components of a bundle come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
pub enum Origin {
    /// Compiled from Go modules on the operator's machine.
    Built {
        /// The Go toolchain, such as `go1.26.8`.
        toolchain: String,
        /// Version of each Debian package that files of the network images were taken from.
        debian: BTreeMap<String, String>,
    },
    /// Taken from a mirror of the official release.
    Fetched,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Where it lies in the bundle.
    pub path: BundlePath,
    /// Length in bytes.
    pub size: u64,
    /// Digest of its bytes.
    pub sha256: Sha256,
    /// What it is for.
    pub role: Role,
    /// Version of what it holds, as its maker writes it.
    pub version: String,
    /// The Go module and its version (`module@version`), or the name it was fetched by.
    pub source: String,
    /// How it came to be: the build command without paths, or how a fetched file was checked.
    pub built: String,
    /// The digest of everything a built file was made from: equal inputs, equal file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inputs: Option<Sha256>,
    /// The reference of an image archive.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<String>,
}

/// What a file of a bundle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// An executable of the host, installed into its PATH.
    Binary,
    /// A CNI plugin, installed into `/opt/cni/bin`.
    CniPlugin,
    /// An OCI image archive, imported into containerd.
    Image,
    /// Kubernetes objects to apply, with placeholders.
    Addon,
}

impl Role {
    /// Whether files of this role must carry the executable bit.
    pub(crate) fn runs(self) -> bool {
        matches!(self, Self::Binary | Self::CniPlugin)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::CniPlugin => "cni plugin",
            Self::Image => "image",
            Self::Addon => "addon",
        })
    }
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageRole {
    /// The API server.
    KubeApiserver,
    /// The controller manager.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The service proxy of every node.
    KubeProxy,
    /// etcd, with etcdctl and etcdutl.
    Etcd,
    /// The cluster's DNS.
    Coredns,
    /// The container that holds a pod's namespaces.
    Pause,
    /// The pod network.
    Flannel,
}

impl ImageRole {
    /// Every role, in the order a control plane needs them.
    pub const ALL: [Self; 8] = [
        Self::Pause,
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::KubeProxy,
        Self::Flannel,
        Self::Coredns,
    ];

    /// The name used in references and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::KubeProxy => "kube-proxy",
            Self::Etcd => "etcd",
            Self::Coredns => "coredns",
            Self::Pause => "pause",
            Self::Flannel => "flannel",
        }
    }

    /// The full reference of this image with a tag.
    pub(crate) fn reference(self, tag: &str) -> String {
        format!("{IMAGE_REPOSITORY}/{}:{tag}", self.name())
    }

    /// Where the archive lies in a bundle.
    pub(crate) fn path(self) -> BundlePath {
        BundlePath(format!("images/{}.tar", self.name()))
    }
}

impl fmt::Display for ImageRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path inside a bundle: relative, of plain names, with `/` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BundlePath(String);

/// A text that is not a path inside a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a path inside a bundle (expected names of letters, digits, '.', '_' and '-', with '/' between)"
)]
pub struct PathError(String);

impl BundlePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Where this lies under a bundle's folder.
    pub fn under(&self, dir: &Path) -> PathBuf {
        dir.join(&self.0)
    }
}

impl fmt::Display for BundlePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BundlePath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        let plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if text.len() <= 255 && text.split('/').all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PathError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for BundlePath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<BundlePath> for String {
    fn from(path: BundlePath) -> String {
        path.0
    }
}

/// The name of a bundle's whole content: SHA-256 of the bytes of `manifest.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BundleId(pub Sha256);

impl BundleId {
    /// The id of a manifest's bytes.
    pub fn of(manifest: &[u8]) -> Self {
        Self(Sha256::of(manifest))
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why the bytes of a manifest are not a manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not JSON, or not of the expected shape.
    #[error("it does not read as a bundle's manifest")]
    Shape(#[source] serde_json::Error),
    /// Written by a newer or older program.
    #[error(
        "its format is {0}, this program reads format {FORMAT}: use the quorate that made the bundle, or build it again"
    )]
    Format(u64),
    /// The same path is listed twice.
    #[error("it lists {0} twice")]
    Twice(BundlePath),
    /// An image is named that no file holds.
    #[error("it names {reference} as the {role} image, but no file of role \"image\" holds it")]
    NoArchive {
        /// What the image is for.
        role: ImageRole,
        /// The reference.
        reference: String,
    },
}

impl Manifest {
    /// The bytes that are written: indented JSON, files by path, a newline at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut sorted = self.clone();
        sorted.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut bytes = serde_json::to_vec_pretty(&sorted)
            .expect("a manifest has no map keys or numbers JSON lacks");
        bytes.push(b'\n');
        bytes
    }

    /// Reads and checks the bytes of a manifest.
    ///
    /// # Errors
    /// When the format is another one, the shape is wrong, or entries contradict each other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        // The format first: a later one may have fields this program does not know.
        let head: Head = serde_json::from_slice(bytes).map_err(ManifestError::Shape)?;
        if head.format != u64::from(FORMAT) {
            return Err(ManifestError::Format(head.format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Shape)?;
        let mut paths = BTreeSet::new();
        for file in &manifest.files {
            if !paths.insert(&file.path) {
                return Err(ManifestError::Twice(file.path.clone()));
            }
        }
        for (&role, reference) in &manifest.images {
            let held = |file: &FileEntry| {
                file.role == Role::Image && file.image.as_ref() == Some(reference)
            };
            if !manifest.files.iter().any(held) {
                return Err(ManifestError::NoArchive {
                    role,
                    reference: reference.clone(),
                });
            }
        }
        Ok(manifest)
    }

    /// Bytes of all files together.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest of the given files with their content.
    pub(crate) fn manifest_of(files: &[(&str, Role, &[u8])]) -> Manifest {
        Manifest {
            format: FORMAT,
            kubernetes: "1.35.4".parse().unwrap(),
            arch: Arch::Amd64,
            origin: Origin::Fetched,
            image_repository: IMAGE_REPOSITORY.to_owned(),
            images: BTreeMap::new(),
            files: files
                .iter()
                .map(|&(path, role, content)| FileEntry {
                    path: path.parse().unwrap(),
                    size: content.len() as u64,
                    sha256: Sha256::of(content),
                    role,
                    version: "v1".into(),
                    source: "example.org/m@v1".into(),
                    built: "by hand".into(),
                    inputs: None,
                    image: None,
                })
                .collect(),
        }
    }

    #[test]
    fn bytes_there_and_back_ordered_by_path() {
        let manifest = manifest_of(&[("bin/b", Role::Binary, b"b"), ("bin/a", Role::Binary, b"a")]);
        let bytes = manifest.to_bytes();
        let back = Manifest::from_bytes(&bytes).unwrap();
        assert_eq!(back.files[0].path.as_str(), "bin/a");
        assert_eq!(back.to_bytes(), bytes);
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["bin/kubeadm", "images/kube-proxy.tar", "a_b-c.d"] {
            assert!(good.parse::<BundlePath>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "bin/../x",
            "bin//x",
            "bin/",
            "./bin",
            ".hidden",
            "a b",
            "a\0",
            "bin\\x",
        ] {
            assert!(bad.parse::<BundlePath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refuses_other_formats_and_contradictions() {
        let good = manifest_of(&[("bin/a", Role::Binary, b"a")]);
        let text = String::from_utf8(good.to_bytes()).unwrap();

        let newer = text.replace("\"format\": 1", "\"format\": 2, \"new\": true");
        assert!(matches!(
            Manifest::from_bytes(newer.as_bytes()),
            Err(ManifestError::Format(2))
        ));

        let escape = text.replace("bin/a", "../a");
        assert!(matches!(
            Manifest::from_bytes(escape.as_bytes()),
            Err(ManifestError::Shape(_))
        ));

        let mut twice = good.clone();
        twice.files.push(twice.files[0].clone());
        assert!(matches!(
            Manifest::from_bytes(&twice.to_bytes()),
            Err(ManifestError::Twice(_))
        ));

        let mut nowhere = good;
        nowhere
            .images
            .insert(ImageRole::Pause, "quorate.local/pause:3".into());
        assert!(matches!(
            Manifest::from_bytes(&nowhere.to_bytes()),
            Err(ManifestError::NoArchive { .. })
        ));
    }
}
