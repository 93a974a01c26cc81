//! A fence in a file: held over several commands, for requests that somebody else carries to the hosts. It is no secret and no permission:
//! the hosts know the fence themselves, and a higher one ends this.

use std::path::{Path, PathBuf};

use quorate_plan::Claim;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{self, BackupPlace, ClusterFile},
    failure::Failure,
    saved::{cluster_of, write_kept},
    show::json::API_VERSION,
    state::Directories,
};

/// What `kind` says in the file.
const KIND: &str = "HeldFence";

/// A fence in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FenceFile {
    api_version: String,
    kind: String,
    /// The cluster file it was taken for, absolute: paths in the intent are relative to it.
    cluster_file: PathBuf,
    /// Where a backup goes that leaves its host, and whom it is sealed to.
    #[serde(default)]
    backup: BackupPlace,
    /// What the hosts were told.
    pub claim: Claim,
}

impl FenceFile {
    /// A fence that was just taken.
    pub fn new(cluster: &ClusterFile, claim: &Claim) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            cluster_file: cluster.path.clone(),
            backup: cluster.backup.clone(),
            claim: claim.clone(),
        }
    }

    /// Writes it. Only its owner can read it; what is there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        write_kept(path, "fence", self)
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = cluster::read_text("the fence", path)?;
        let none = |detail: String| {
            Failure::usage(format!("`{}` is no fence: {detail}", path.display()))
                .hint("`quorate lock take --out FILE` writes one")
        };
        let held: Self = serde_json::from_str(&text)
            .map_err(|error| none(quorate_exec::hostile::line(&error.to_string())))?;
        if held.api_version != API_VERSION || held.kind != KIND {
            return Err(none(format!(
                "expected {API_VERSION} {KIND}, seen {} {}",
                quorate_exec::hostile::line(&held.api_version),
                quorate_exec::hostile::line(&held.kind)
            )));
        }
        Ok(held)
    }

    /// The cluster it is for, as far as it is needed to reach it.
    ///
    /// # Errors
    /// When it was taken with other components or another binary than are here.
    pub fn cluster(&self, directories: Directories) -> Result<ClusterFile, Failure> {
        let again = "take it again: `quorate lock take --out FILE`";
        let intent = &self.claim.intent;
        let cluster = cluster_of(&self.cluster_file, intent, "fence", again, directories)?;
        Ok(ClusterFile {
            backup: self.backup.clone(),
            ..cluster
        })
    }
}
