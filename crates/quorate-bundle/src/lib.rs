//! The components of one Kubernetes version as a folder whose every file is named and hashed: a *bundle*.
//!
//! Start at [`Bundle`], what a reader of a bundle needs. [`build`] makes one from Go modules, [`fetch`]
//! takes one from a mirror of the official release, [`verify`] finds what differs from its manifest. Nothing here knows about clusters.

mod build;
mod bundle;
mod cache;
mod component;
mod digest;
mod elf;
mod fetch;
mod folder;
mod go;
mod go_mod;
mod image;
mod manifest;
mod network_root;
mod progress;
mod verify;
mod version;

pub use build::{BuildError, BuildReport, BuildRequest, build};
pub use bundle::{Bundle, BundleError, BundleImage, Summary, list, show};
pub use digest::{DigestError, Sha256};
pub use fetch::{FetchError, FetchReport, FetchRequest, fetch};
pub use folder::FolderError;
pub use go::{GoError, Toolchain};
pub use manifest::{
    BundleId, BundlePath, FORMAT, FileEntry, IMAGE_REPOSITORY, ImageRole, Manifest, ManifestError,
    Origin, PathError, Role,
};
pub use network_root::{NetworkRootError, missing_packages};
pub use progress::{Outcome, Progress};
pub use verify::{Difference, Wrong, verify};
pub use version::{Arch, KubeadmTags, KubernetesVersion, UnknownMinor, VersionError};
