//! Live cases: chosen here, run by `tests/live`, each within a time budget of its own.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{build, progress::Progress};

/// A case as `quorate-live list` prints it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Only in `--full`.
    pub full: bool,
    /// How long it may take on a machine of two cores.
    pub budget: Duration,
    /// What it shows.
    pub about: String,
}

/// All cases.
///
/// # Errors
/// When the program that has them cannot be built or started.
pub fn cases() -> Result<Vec<Case>> {
    let output = build::cargo(&[
        "run",
        "--quiet",
        "--locked",
        "--package",
        "quorate-live",
        "--",
        "list",
    ])
    .output()
    .context("failed to start cargo")?;
    if !output.status.success() {
        bail!(
            "the live cases cannot be listed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let mut fields = line.split('\t');
            let mut next = || {
                fields
                    .next()
                    .with_context(|| format!("unexpected line `{line}`"))
            };
            Ok(Case {
                name: next()?.to_owned(),
                full: next()? == "full",
                budget: Duration::from_secs(next()?.parse()?),
                about: next()?.to_owned(),
            })
        })
        .collect()
}

/// The cases of a tier, or the one of a name.
///
/// # Errors
/// When there is none of that name.
pub fn choose(all: &[Case], full: bool, only: Option<&str>) -> Result<Vec<Case>> {
    match only {
        None => Ok(all
            .iter()
            .filter(|case| full || !case.full)
            .cloned()
            .collect()),
        Some(name) => match all.iter().find(|case| case.name == name) {
            Some(case) => Ok(vec![case.clone()]),
            None => {
                bail!("no live case is called `{name}`; `cargo xtask test --only list` shows them")
            }
        },
    }
}

/// Runs one case and returns how many of its checks passed and failed.
///
/// # Errors
/// When it cannot be started or prints no counts.
pub fn run(
    progress: &mut Progress,
    case: &Case,
    quorate: &Path,
    bundle: &Path,
) -> Result<(usize, usize)> {
    let title = format!("Live: {}", case.name);
    let mut command: Command = build::cargo(&[
        "run",
        "--quiet",
        "--locked",
        "--package",
        "quorate-live",
        "--",
        &case.name,
    ]);
    command
        .env("QUORATE_BINARY", quorate)
        .env("QUORATE_BUNDLE", bundle);
    let outcome = progress.run_within(&title, &mut command, case.budget * 2);
    let log = crate::progress::log_path(&title)?;
    let text = std::fs::read_to_string(&log)
        .with_context(|| format!("failed to read {}", log.display()))?;
    for line in text.lines().filter(|line| line.contains("FAILED")) {
        eprintln!("    {line}");
    }
    if let Err(error) = &outcome {
        eprintln!("{error:#}");
    }
    let counts = text.lines().rev().find_map(|line| {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        Some((passed.parse().ok()?, failed.parse().ok()?))
    });
    Ok(match (counts, outcome) {
        (Some(counts), Ok(())) => counts,
        (Some((passed, failed)), Err(_)) => (passed, std::cmp::max(failed, 1)),
        (None, _) => (0, 1),
    })
}
