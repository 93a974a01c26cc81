//! Where things lie on the operator's machine, by the XDG rules. Nothing there is needed by another operator: the cluster itself says
//! what is going on.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;
use quorate_plan::ClusterName;
use tempfile::TempDir;

use crate::{exit::Exit, failure::Failure};

/// Directories of this operator.
#[derive(Clone, Debug)]
pub struct Directories {
    state: PathBuf,
    data: PathBuf,
    /// `$XDG_RUNTIME_DIR`, or what stands in for it.
    runtime: Option<PathBuf>,
}

impl Directories {
    /// By the environment.
    ///
    /// # Errors
    /// When there is no home directory.
    pub fn of_process() -> Result<Self, Failure> {
        let xdg = etcetera::base_strategy::Xdg::new().map_err(|error| {
            Failure::doing(Exit::Unexpected, "there is no home directory", &error)
                .hint("set HOME, or XDG_STATE_HOME and XDG_DATA_HOME")
        })?;
        let home = xdg.home_dir();
        Ok(Self {
            state: xdg
                .state_dir()
                .unwrap_or_else(|| home.join(".local/state"))
                .join("quorate"),
            data: xdg.data_dir().join("quorate"),
            runtime: xdg.runtime_dir(),
        })
    }

    /// All below one directory, for scripts and tests.
    pub fn below(root: &Path) -> Self {
        Self {
            state: root.join("state"),
            data: root.join("data"),
            runtime: Some(root.join("run")),
        }
    }

    /// Those of one cluster.
    pub fn cluster(&self, name: &ClusterName) -> ClusterState {
        ClusterState {
            root: self.state.join("clusters").join(name.as_str()),
        }
    }

    /// The standard place of the components of a Kubernetes version.
    pub fn bundle(&self, kubernetes: &str) -> PathBuf {
        self.bundles().join(kubernetes)
    }

    /// Where bundles lie.
    pub fn bundles(&self) -> PathBuf {
        self.data.join("bundles")
    }

    /// A directory that is ours alone and goes when it is dropped, for what must not lie about.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn private(&self) -> Result<TempDir, Failure> {
        make(&self.state)?;
        tempfile::Builder::new()
            .prefix("private-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.state)
            .map_err(|error| {
                let doing = format!("could not make a directory in `{}`", self.state.display());
                Failure::doing(Exit::Unexpected, doing, &error)
            })
    }

    /// Where SSH's control sockets go: a short path, since a socket's may have 107 bytes. Whoever uses it checks that it is ours alone.
    pub fn sockets(&self) -> PathBuf {
        match &self.runtime {
            Some(runtime) if runtime.is_dir() => runtime.join("quorate"),
            _ => PathBuf::from(format!("/tmp/quorate-{}", nix::unistd::getuid())),
        }
    }
}

/// What is kept about one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterState {
    root: PathBuf,
}

impl ClusterState {
    /// Host keys of its hosts.
    pub fn known_hosts(&self) -> PathBuf {
        self.root.join("known_hosts")
    }

    /// Journals of its runs.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Masters it has or had, and the ways to them.
    pub fn masters(&self) -> PathBuf {
        self.root.join("masters.json")
    }

    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(&self) -> Result<(), Failure> {
        make(&self.root)
    }
}

fn make(directory: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| {
            let doing = format!("could not make the directory `{}`", directory.display());
            Failure::doing(Exit::Unexpected, doing, &error)
        })
}
