//! `docs/promises.md`: claims with their proofs, and a table of when each live case was last green. The claims are written by people; the
//! table by `cargo xtask test --full`. What can be checked of both is checked here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result};

use crate::{build, runs::Run};

const PAGE: &str = "docs/promises.md";
const BEGIN: &str = "<!-- runs: written by `cargo xtask test --full` -->\n";
const END: &str = "<!-- end of runs -->\n";
const HEADING: &str =
    "| live case | last green run | commit | checks | took |\n|---|---|---|---:|---:|\n";
const NEVER: &str = "not yet";

/// A row of the table, its cells as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    date: String,
    commit: String,
    checks: String,
    took: String,
}

impl Row {
    fn never() -> Self {
        Self {
            date: NEVER.into(),
            commit: String::new(),
            checks: String::new(),
            took: String::new(),
        }
    }

    fn of(run: &Run) -> Self {
        Self {
            date: run.date.clone(),
            commit: format!("`{}`", run.commit.chars().take(12).collect::<String>()),
            checks: run.checks.to_string(),
            took: format!("{} s", run.took_s),
        }
    }

    fn green(&self) -> bool {
        self.date != NEVER
    }
}

/// Writes what is newly known into the table, a row for each case in this order. Says whether the page changed.
///
/// # Errors
/// When the page cannot be read or written, or has no table.
pub fn update(cases: &[String], fresh: &BTreeMap<String, Run>) -> Result<bool> {
    let path = build::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("failed to read {PAGE}"))?;
    let updated = updated(&page, cases, fresh)?;
    if updated == page {
        return Ok(false);
    }
    fs::write(&path, updated).with_context(|| format!("failed to write {PAGE}"))?;
    Ok(true)
}

fn updated(page: &str, cases: &[String], fresh: &BTreeMap<String, Run>) -> Result<String> {
    let (before, table, after) = parts(page)?;
    let known = rows(table);
    let mut out = format!("{before}{BEGIN}{HEADING}");
    for case in cases {
        let row = match fresh.get(case) {
            Some(run) => Row::of(run),
            None => known.get(case).cloned().unwrap_or_else(Row::never),
        };
        let Row {
            date,
            commit,
            checks,
            took,
        } = row;
        out += &format!("| `{case}` | {date} | {commit} | {checks} | {took} |\n");
    }
    Ok(out + END + after)
}

/// What stands before the table, in it, and after it.
fn parts(page: &str) -> Result<(&str, &str, &str)> {
    let (before, rest) = page
        .split_once(BEGIN)
        .with_context(|| format!("{PAGE} has no line `{}`", BEGIN.trim_end()))?;
    let (table, after) = rest
        .split_once(END)
        .with_context(|| format!("{PAGE} has no line `{}`", END.trim_end()))?;
    Ok((before, table, after))
}

fn rows(table: &str) -> BTreeMap<String, Row> {
    table
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [case, date, commit, checks, took] = cells[..] else {
                return None;
            };
            let case = case.strip_prefix('`')?.strip_suffix('`')?;
            let row = Row {
                date: date.into(),
                commit: commit.into(),
                checks: checks.into(),
                took: took.into(),
            };
            Some((case.to_owned(), row))
        })
        .collect()
}

/// The live cases by name, as their source has them: a rule of the repository is checked without building them.
///
/// # Errors
/// When the source cannot be read.
pub fn cases_in_source() -> Result<Vec<String>> {
    let source = fs::read_to_string(build::root().join("tests/live/src/main.rs"))?;
    Ok(source
        .lines()
        .filter_map(|line| {
            let name = line.trim().strip_prefix("name: \"")?.strip_suffix("\",")?;
            Some(name.to_owned())
        })
        .collect())
}

/// What is wrong with the page.
///
/// # Errors
/// When it cannot be read.
pub fn findings() -> Result<Vec<String>> {
    let page = fs::read_to_string(build::root().join(PAGE))?;
    let there = |path: &str| build::root().join(path).exists();
    check(&page, &cases_in_source()?, there)
}

fn check(page: &str, cases: &[String], there: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let (before, table, _) = parts(page)?;
    let rows = rows(table);
    let cases: BTreeSet<&str> = cases.iter().map(String::as_str).collect();
    let listed: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
    for case in cases.symmetric_difference(&listed) {
        findings.push(format!(
            "{PAGE}: live case `{case}` is {}",
            if cases.contains(case) {
                "not in the table of runs"
            } else {
                "in the table of runs, and there is none of that name"
            }
        ));
    }
    let mut claimed = BTreeSet::new();
    for line in before.lines().filter(|line| line.starts_with('|')) {
        let claim = line
            .trim_matches('|')
            .split('|')
            .next()
            .unwrap_or_default()
            .trim();
        let named = named_cases(line);
        for case in &named {
            if !cases.contains(case) {
                findings.push(format!(
                    "{PAGE}: `{claim}` is proven by live case `{case}`, and there is none"
                ));
            }
        }
        let proven = named
            .iter()
            .all(|case| rows.get(*case).is_some_and(Row::green));
        if !proven && !line.contains("not yet proven") {
            findings.push(format!(
                "{PAGE}: `{claim}` is proven by a live case that was never green in a full run: say \"not yet proven\""
            ));
        }
        claimed.extend(named);
        // Every other piece of code in a row is a path of the repository, or a command.
        for path in quoted(line).filter(|text| text.contains('/') && !text.contains(' ')) {
            if !path.starts_with('/') && !there(path) {
                findings.push(format!(
                    "{PAGE}: `{claim}` names `{path}`, which is not there"
                ));
            }
        }
    }
    for case in cases.difference(&claimed) {
        findings.push(format!("{PAGE}: no claim is proven by live case `{case}`"));
    }
    Ok(findings)
}

/// The cases in "live case `a`" and "live cases `a`, `b`".
fn named_cases(line: &str) -> BTreeSet<&str> {
    let mut named = BTreeSet::new();
    for rest in line.split("live case").skip(1) {
        let mut rest = rest.trim_start_matches('s').trim_start();
        while let Some(text) = rest.strip_prefix('`')
            && let Some((case, more)) = text.split_once('`')
        {
            named.insert(case);
            rest = more
                .trim_start_matches(',')
                .trim_start()
                .trim_start_matches("and ")
                .trim_start();
        }
    }
    named
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(claims: &str, rows: &str) -> String {
        format!(
            "# P\n\n| claim | proof |\n|---|---|\n{claims}\nIn between.\n{BEGIN}{HEADING}{rows}{END}after\n"
        )
    }

    fn cases(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[track_caller]
    fn finds(claims: &str, rows: &str, expected: &[&str]) {
        let there = |path: &str| path == "crates/x/tests";
        let found = check(&page(claims, rows), &cases(&["a", "b"]), there).unwrap();
        for word in expected {
            assert!(found.iter().any(|f| f.contains(word)), "{word}: {found:#?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }

    const GREEN: &str = "| `a` | 2026-01-02 | `abc` | 7 | 60 s |\n| `b` | not yet |  |  |  |\n";

    #[test]
    fn claims_and_runs_agree() {
        let good =
            "| works | live case `a`; not yet proven: live case `b` |\n| x | `crates/x/tests` |\n";
        finds(good, GREEN, &[]);
        finds("| works | live cases `a`, `b` |\n", GREEN, &["never green"]);
        finds(
            "| works | live cases `a` and `c`, not yet proven |\n",
            GREEN,
            &[
                "live case `c`, and there is none",
                "no claim is proven by live case `b`",
            ],
        );
        finds(
            "| works | not yet proven: live cases `a`, `b`; `crates/y` |\n",
            "| `a` | not yet |  |  |  |\n| `z` | not yet |  |  |  |\n",
            &[
                "`b` is not in the table",
                "`z` is in the table",
                "`crates/y`",
            ],
        );
    }

    #[test]
    fn a_row_changes_only_with_a_green_run() {
        let run = Run {
            date: "2026-03-04".into(),
            commit: "0123456789abcdef".into(),
            checks: 12,
            took_s: 95,
        };
        let before = page("", GREEN);
        let same = updated(&before, &cases(&["a", "b"]), &BTreeMap::new()).unwrap();
        assert_eq!(same, before);
        let fresh = BTreeMap::from([("b".to_owned(), run)]);
        let after = updated(&before, &cases(&["a", "b", "c"]), &fresh).unwrap();
        let expected = "| `a` | 2026-01-02 | `abc` | 7 | 60 s |\n\
                        | `b` | 2026-03-04 | `0123456789ab` | 12 | 95 s |\n\
                        | `c` | not yet |  |  |  |\n";
        assert_eq!(after, page("", expected));
    }
}
