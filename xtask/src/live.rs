//! Live cases: chosen here, run by `tests/live`, each within a time budget of its own.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// A case as `quorate-live list` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Only in `--full`.
    pub full: bool,
    /// How long it may take on a machine of two cores.
    pub budget: Duration,
    /// The Kubernetes version that it is about.
    pub kubernetes: String,
    /// What it shows.
    pub about: String,
}

/// All cases of the program that has them.
///
/// # Errors
/// When it cannot be started, or prints something else.
pub fn cases(program: &Path) -> Result<Vec<Case>> {
    let output = Command::new(program)
        .arg("list")
        .output()
        .with_context(|| format!("failed to start {}", program.display()))?;
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
                kubernetes: match next()? {
                    "-" => crate::build::KUBERNETES,
                    version => version,
                }
                .to_owned(),
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

/// One part of several: `2/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `of`.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl Shard {
    /// All there is.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Its share of the cases, in their order. Shares are about equally long and depend on nothing but the cases: the longest case goes
    /// first, each to the part that has least to do.
    pub fn of(self, cases: &[Case]) -> Vec<Case> {
        let mut longest: Vec<&Case> = cases.iter().collect();
        longest.sort_by(|a, b| b.budget.cmp(&a.budget).then(a.name.cmp(&b.name)));
        let mut parts = vec![(Duration::ZERO, Vec::new()); self.of];
        for case in longest {
            let least = parts
                .iter_mut()
                .min_by_key(|(sum, _)| *sum)
                .expect("there is at least one part");
            least.0 += case.budget;
            least.1.push(case);
        }
        let own = &parts[self.number - 1].1;
        cases
            .iter()
            .filter(|case| own.contains(case))
            .cloned()
            .collect()
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("expected a part and how many there are, like 2/4".into()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// How a case ended.
pub struct Outcome {
    /// Checks that passed, and that failed.
    pub counts: (usize, usize),
    /// What failed, in the case's own words.
    pub failures: Vec<String>,
}

/// Runs one case.
///
/// # Errors
/// When its log cannot be written or read.
pub fn run(
    progress: &mut Progress,
    program: &Path,
    case: &Case,
    quorate: &Path,
    bundle: &Path,
    environment: &[(&'static str, PathBuf)],
) -> Result<Outcome> {
    let title = format!("Live: {}", case.name);
    let mut command = Command::new(program);
    command
        .arg(&case.name)
        .current_dir(crate::build::root())
        .env("QUORATE_BINARY", quorate)
        .env("QUORATE_BUNDLE", bundle)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    let outcome = progress.run_within(&title, &mut command, case.budget * 2);
    let log = crate::progress::log_path(&title)?;
    let text = std::fs::read_to_string(&log)
        .with_context(|| format!("failed to read {}", log.display()))?;
    let mut failures: Vec<String> = text
        .lines()
        .filter(|line| line.contains("FAILED"))
        .map(|line| format!("{title}: {}", line.trim()))
        .collect();
    if let Err(error) = &outcome {
        failures.push(format!("{title}: {error:#}"));
    }
    for what in &failures {
        eprintln!("    {what}");
    }
    let counts = text.lines().rev().find_map(|line| {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        Some((passed.parse().ok()?, failed.parse().ok()?))
    });
    let counts = match (counts, outcome) {
        (Some(counts), Ok(())) => counts,
        (Some((passed, failed)), Err(_)) => (passed, std::cmp::max(failed, 1)),
        (None, _) => (0, 1),
    };
    Ok(Outcome { counts, failures })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, minutes: u64) -> Case {
        Case {
            name: name.into(),
            full: true,
            budget: Duration::from_secs(60 * minutes),
            kubernetes: crate::build::KUBERNETES.into(),
            about: String::new(),
        }
    }

    #[test]
    fn shards_are_all_cases_once_and_about_equally_long() {
        let cases: Vec<Case> = [("a", 9), ("b", 1), ("c", 5), ("d", 4), ("e", 1), ("f", 7)]
            .map(|(name, minutes)| case(name, minutes))
            .into();
        for of in 1..8 {
            let parts: Vec<Vec<Case>> = (1..=of)
                .map(|number| Shard { number, of }.of(&cases))
                .collect();
            let mut names: Vec<String> = parts
                .iter()
                .flatten()
                .map(|case| case.name.clone())
                .collect();
            names.sort();
            assert_eq!(names, ["a", "b", "c", "d", "e", "f"], "{of} parts");
        }
        let sums: Vec<u64> = (1..=3)
            .map(|number| {
                let part = Shard { number, of: 3 }.of(&cases);
                part.iter().map(|case| case.budget.as_secs() / 60).sum()
            })
            .collect();
        assert_eq!(sums, [9, 9, 9]);
    }

    #[test]
    fn shards_by_name() {
        assert_eq!("2/4".parse(), Ok(Shard { number: 2, of: 4 }));
        for wrong in ["0/4", "5/4", "2", "2/", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
