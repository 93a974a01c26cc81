//! Why a bundle could not be built.

use std::path::PathBuf;

use thiserror::Error;

use crate::folder::FolderError;
use crate::go::GoError;
use crate::network_root::NetworkRootError;
use crate::version::{KubernetesVersion, UnknownMinor};

/// Why a bundle could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The minor is not known.
    #[error(transparent)]
    Minor(#[from] UnknownMinor),
    /// Bundles are not made for this processor.
    #[error("bundles are built on amd64 and arm64 machines, this one is {0}")]
    Processor(&'static str),
    /// A component's folder or one of its files is missing.
    #[error(
        "{path} is missing: expected the sources of {component} there\nhint: name the folder `bundle` of Quorate's source"
    )]
    NoSources {
        /// The file that was looked for.
        path: PathBuf,
        /// The component.
        component: &'static str,
    },
    /// The go.mod does not require the module it is about.
    #[error("{path} requires no version of {module}")]
    NoVersion {
        /// The go.mod.
        path: PathBuf,
        /// The module.
        module: &'static str,
    },
    /// The sources are of another patch.
    #[error(
        "asked for Kubernetes {asked}, but {path} pins {pinned}\nhint: ask for {pinned}, or change the versions in that file and run `go mod tidy` beside it"
    )]
    OtherVersion {
        /// The version that was asked for.
        asked: KubernetesVersion,
        /// The version of the sources.
        pinned: String,
        /// The file that pins it.
        path: PathBuf,
    },
    /// The source has another constant than this program's table.
    #[error(
        "{file} has {name} = {found}, but this program expects {expected:?}: images would be named otherwise than kubeadm asks for them"
    )]
    Constant {
        /// The source file, inside its module.
        file: &'static str,
        /// The constant.
        name: &'static str,
        /// What the source says.
        found: String,
        /// What this program's table says.
        expected: &'static str,
    },
    /// Go failed.
    #[error("building {component} failed")]
    Go {
        /// The component.
        component: &'static str,
        /// How.
        #[source]
        err: GoError,
    },
    /// There is no usable Go toolchain.
    #[error("no usable Go toolchain")]
    Toolchain(#[source] GoError),
    /// The files of the network images could not be gathered.
    #[error("the images of kube-proxy and flannel cannot be made")]
    Network(#[from] NetworkRootError),
    /// A file could not be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
}
