//! The user's own `terraform` or `tofu`: where it is, whether its version is one that is known, and how it is asked. Start at [`Tool::find`].
//!
//! What is asked is built here and run elsewhere ([`super::drive`]), so that tests can read every word of it. No secret is among the words or in
//! the environment that is set: credentials, variables and the backend's settings are the user's, and pass by us.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::run_within;
use crate::{exit::Exit, failure::Failure};

/// Names the program, where it is neither `terraform` nor `tofu` on the PATH.
const PROGRAM: &str = "QUORATE_TERRAFORM";

/// Versions that are known, of either program: from the first that the modules work with, before the first that may change what is written.
/// OpenTofu counts alike: its 1.6 began where Terraform's 1.6 did.
const VERSIONS: std::ops::Range<(u32, u32)> = (1, 6)..(2, 0);

/// How long it may take to tell its version: it looks at the providers that lie in the directory.
const VERSION_MAX: Duration = Duration::from_secs(60);

/// How long it may take to tell what is in a plan: it starts every provider for that.
const SHOW_MAX: Duration = Duration::from_secs(300);

/// Words of the environment that change what is asked, behind the back of whoever asks.
const BEHIND: [&str; 6] = [
    "TF_CLI_ARGS",
    "TF_CLI_ARGS_version",
    "TF_CLI_ARGS_plan",
    "TF_CLI_ARGS_show",
    "TF_CLI_ARGS_apply",
    "TF_CLI_ARGS_output",
];

/// A program of a version that is known, and the configuration that it is to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    program: PathBuf,
    directory: PathBuf,
    /// `1.11.4`.
    pub version: String,
}

/// Which program a plan was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Made {
    /// Its path.
    pub program: PathBuf,
    /// Its version.
    pub version: String,
}

#[derive(Deserialize)]
struct Version {
    terraform_version: String,
}

/// The program that the environment names, or the first one on the PATH.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf, Failure> {
    if let Some(named) = std::env::var_os(PROGRAM) {
        return Ok(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["terraform", "tofu"]
        .iter()
        .find_map(|name| {
            std::env::split_paths(&path)
                .map(|place| place.join(name))
                .find(|file| file.is_file())
        })
        .ok_or_else(|| {
            Failure::usage("expected `terraform` or `tofu` on the PATH, found neither")
                .hint(format!("{PROGRAM} names it where it is elsewhere"))
        })
}

impl Tool {
    /// A program for the configuration in a directory.
    ///
    /// # Errors
    /// When it does not run, is of a version that is not known, or the environment changes what it is asked.
    pub fn find(program: PathBuf, directory: &Path) -> Result<Self, Failure> {
        if let Some(name) = BEHIND
            .iter()
            .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        {
            return Err(Failure::usage(format!(
                "{name} is set: it would change what Terraform is asked"
            ))
            .hint(format!(
                "`unset {name}`; variables go into `terraform.tfvars`, or into TF_VAR_ variables"
            )));
        }
        let mut tool = Self {
            program,
            directory: directory.to_owned(),
            version: String::new(),
        };
        let told = tool.told(tool.ask(&["version", "-json"]), "its version", VERSION_MAX)?;
        let version: Version = serde_json::from_slice(&told).map_err(|error| {
            Failure::usage(format!("{tool} did not tell its version as JSON"))
                .because(quorate_exec::hostile::line(&error.to_string()))
        })?;
        tool.version = quorate_exec::hostile::line(&version.terraform_version);
        if !parsed(&tool.version).is_some_and(|version| VERSIONS.contains(&version)) {
            let ((from, from_minor), (to, to_minor)) = (VERSIONS.start, VERSIONS.end);
            return Err(Failure::usage(format!(
                "expected a version from {from}.{from_minor} on and before {to}.{to_minor}, {tool} is {}",
                tool.version
            ))
            .hint(format!("{PROGRAM} names another program")));
        }
        Ok(tool)
    }

    /// Which one it is.
    pub fn made(&self) -> Made {
        Made {
            program: self.program.clone(),
            version: self.version.clone(),
        }
    }

    /// The configuration that it works on.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Plans into a file, telling of it in lines of JSON. Ends with 0 when nothing is to be done, with 2 when something is.
    pub fn plan(&self, out: &Path) -> Command {
        let mut command = self.ask(&["plan", "-json", "-input=false", "-detailed-exitcode"]);
        let mut argument = std::ffi::OsString::from("-out=");
        argument.push(out);
        command.arg(argument);
        command
    }

    /// Applies a plan that was saved, and nothing else, telling of it in lines of JSON.
    pub fn apply(&self, saved: &Path) -> Command {
        let mut command = self.ask(&["apply", "-json", "-input=false"]);
        command.arg(saved);
        command
    }

    /// What a saved plan would do, as JSON.
    ///
    /// # Errors
    /// When it does not tell, or not in time.
    pub fn show(&self, saved: &Path) -> Result<Vec<u8>, Failure> {
        let mut command = self.ask(&["show", "-json", "-no-color"]);
        command.arg(saved);
        self.told(command, "what is in the plan", SHOW_MAX)
    }

    fn ask(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.directory);
        as_asked(&mut command);
        command
    }

    fn told(&self, command: Command, what: &str, within: Duration) -> Result<Vec<u8>, Failure> {
        let doing = || format!("{self} did not tell {what}");
        let output = run_within(command, within)
            .map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?
            .ok_or_else(|| {
                Failure::new(Exit::Unseen, doing()).because(format!(
                    "expected an answer within {} s, seen none: it was ended",
                    within.as_secs()
                ))
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(Exit::Usage, doing())
                .because(quorate_exec::hostile::text(said.trim()))
                .hint("`terraform init` comes first, in that directory"));
        }
        Ok(output.stdout)
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.program.display())
    }
}

/// Asked by a program, not by somebody who types.
pub(super) fn as_asked(command: &mut Command) {
    command
        .env("TF_IN_AUTOMATION", "1")
        .env("TF_INPUT", "0")
        .env("CHECKPOINT_DISABLE", "1");
}

/// `(1, 11)` of `1.11.4`.
fn parsed(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<&str> {
        command
            .get_args()
            .filter_map(|word| word.to_str())
            .collect()
    }

    #[test]
    fn every_word_that_is_asked() {
        let tool = Tool {
            program: "/bin/terraform".into(),
            directory: "/made".into(),
            version: "1.11.4".into(),
        };
        let plan = tool.plan(Path::new("/private/plan"));
        let expected = [
            "plan",
            "-json",
            "-input=false",
            "-detailed-exitcode",
            "-out=/private/plan",
        ];
        assert_eq!(words(&plan), expected);
        assert_eq!(plan.get_current_dir(), Some(Path::new("/made")));
        let set: Vec<_> = plan
            .get_envs()
            .map(|(name, value)| (name.to_str(), value.and_then(|value| value.to_str())))
            .collect();
        let expected = [
            (Some("CHECKPOINT_DISABLE"), Some("1")),
            (Some("TF_INPUT"), Some("0")),
            (Some("TF_IN_AUTOMATION"), Some("1")),
        ];
        assert_eq!(set, expected);
        let apply = tool.apply(Path::new("/private/plan"));
        assert_eq!(
            words(&apply),
            ["apply", "-json", "-input=false", "/private/plan"]
        );
    }

    #[test]
    fn versions_that_are_known() {
        let known =
            |version: &str| parsed(version).is_some_and(|version| VERSIONS.contains(&version));
        for version in ["1.6.0", "1.11.4", "1.15.5", "1.10.0-rc1"] {
            assert!(known(version), "{version}");
        }
        for version in ["0.15.5", "1.5.7", "2.0.0", "", "1", "one.two", "1.x.0"] {
            assert!(!known(version), "{version}");
        }
    }
}
