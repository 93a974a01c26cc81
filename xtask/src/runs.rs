//! Which live cases were green on which commit. Kept beside the builds, so that `--resume` can leave out what passed on this very
//! commit; the table in `docs/promises.md` is written from it. Start at [`Runs::open`].

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{build, promises};

/// A green run of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The day, in UTC: `2026-05-14`.
    pub date: String,
    /// The commit that was tested, whole.
    pub commit: String,
    /// Checks that passed.
    pub checks: usize,
    /// How long it took, in seconds.
    pub took_s: u64,
}

/// The last green run of every case, and the commit that is tested now.
#[derive(Debug)]
pub struct Runs {
    file: PathBuf,
    commit: Option<String>,
    green: BTreeMap<String, Run>,
}

impl Runs {
    /// What earlier runs left. A file that cannot be read is as none: cases run again then.
    ///
    /// # Errors
    /// When git does not answer.
    pub fn open() -> Result<Self> {
        let file = build::target_directory().join("xtask/runs.json");
        let green = read(&file);
        Ok(Self {
            commit: tested_commit()?,
            file,
            green,
        })
    }

    /// The commit that is tested. `None`: files differ from it, so that a result would be nobody's.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// A green run of a case on this very commit.
    pub fn passed(&self, case: &str) -> Option<&Run> {
        let commit = self.commit.as_ref()?;
        self.green.get(case).filter(|run| run.commit == *commit)
    }

    /// A case was run: what is known of it on this commit changes. At once: a run of hours may be interrupted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&mut self, case: &str, counts: (usize, usize), took: Duration) -> Result<()> {
        let Some(commit) = &self.commit else {
            return Ok(());
        };
        match counts {
            (checks @ 1.., 0) => {
                let run = Run {
                    date: today()?,
                    commit: commit.clone(),
                    checks,
                    took_s: took.as_secs(),
                };
                self.green.insert(case.to_owned(), run);
            }
            // What fails now did not pass for good before.
            _ if self.passed(case).is_some() => {
                self.green.remove(case);
            }
            _ => return Ok(()),
        }
        write(&self.file, &self.green)
    }

    /// Brings the table in `docs/promises.md` up to date with the cases that are green on this commit. Says whether it changed.
    ///
    /// # Errors
    /// When the page cannot be read or written.
    pub fn publish(&self, cases: &[String]) -> Result<bool> {
        let fresh = self
            .green
            .iter()
            .filter(|(case, _)| self.passed(case).is_some())
            .map(|(case, run)| (case.clone(), run.clone()))
            .collect();
        promises::update(cases, &fresh)
    }
}

fn read(file: &Path) -> BTreeMap<String, Run> {
    fs::read_to_string(file)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn write(file: &Path, green: &BTreeMap<String, Run>) -> Result<()> {
    let failed = || format!("failed to write {}", file.display());
    let new = file.with_extension("new");
    let text = serde_json::to_string_pretty(green).expect("runs are plain data");
    fs::write(&new, text).with_context(failed)?;
    fs::rename(&new, file).with_context(failed)
}

/// HEAD, when the files are those of HEAD. The page that results are written into does not count.
fn tested_commit() -> Result<Option<String>> {
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        ".",
        ":(exclude)docs/promises.md",
    ])?;
    if changed.is_empty() {
        Ok(Some(git(&["rev-parse", "HEAD"])?))
    } else {
        Ok(None)
    }
}

fn git(arguments: &[&str]) -> Result<String> {
    said(
        Command::new("git")
            .current_dir(build::root())
            .args(arguments),
    )
}

fn today() -> Result<String> {
    said(Command::new("date").args(["-u", "+%Y-%m-%d"]))
}

fn said(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_green_run_on_this_commit_counts() {
        let file = std::env::temp_dir().join(format!("xtask-runs-{}.json", std::process::id()));
        let mut runs = Runs {
            file: file.clone(),
            commit: Some("one".into()),
            green: BTreeMap::new(),
        };
        let minute = Duration::from_secs(60);
        runs.record("a", (3, 0), minute).unwrap();
        runs.record("b", (3, 1), minute).unwrap();
        runs.record("c", (0, 0), minute).unwrap();
        let known = |runs: &Runs| ["a", "b", "c"].map(|case| runs.passed(case).is_some());
        assert_eq!(known(&runs), [true, false, false]);

        let mut again = Runs {
            green: read(&file),
            ..runs
        };
        assert_eq!(again.passed("a").map(|run| run.checks), Some(3));
        again.commit = Some("two".into());
        assert_eq!(known(&again), [false; 3], "another commit");
        again.commit = None;
        again.record("a", (0, 1), minute).unwrap();
        assert_eq!(known(&again), [false; 3], "files differ from the commit");
        again.commit = Some("one".into());
        assert_eq!(known(&again), [true, false, false]);
        again.record("a", (2, 1), minute).unwrap();
        assert_eq!(known(&again), [false; 3], "it failed since");
        fs::remove_file(&file).unwrap();
    }
}
