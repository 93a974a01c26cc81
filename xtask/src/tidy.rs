//! Rules of this repository that a program can check: which crate may depend on which, how long files are, what no text may say. Each
//! finding names the file and the rule. They run as a test too, so that nobody has to remember them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{build, fences, promises};

/// What each crate may depend on among ours, in its normal dependencies. The design's table, checked.
const ARROWS: &[(&str, &[&str])] = &[
    ("quorate-plan", &[]),
    ("quorate-etcd", &[]),
    ("quorate-kube", &[]),
    ("quorate-aws", &[]),
    ("quorate-lb", &[]),
    ("quorate-bundle", &[]),
    ("quorate-local", &[]),
    (
        "quorate-node",
        &["quorate-plan", "quorate-etcd", "quorate-kube"],
    ),
    (
        "quorate-exec",
        &["quorate-plan", "quorate-local", "quorate-aws"],
    ),
    ("quorate-infra", &["quorate-plan", "quorate-aws"]),
    (
        "quorate-drill",
        &[
            "quorate-plan",
            "quorate-exec",
            "quorate-local",
            "quorate-kube",
        ],
    ),
    (
        "quorate-testkit",
        &["quorate-plan", "quorate-exec", "quorate-node"],
    ),
    (
        "quorate",
        &[
            "quorate-plan",
            "quorate-exec",
            "quorate-node",
            "quorate-lb",
            "quorate-bundle",
            "quorate-local",
            "quorate-drill",
            "quorate-kube",
            "quorate-aws",
            "quorate-infra",
        ],
    ),
    // Hosts that nobody has done anything to yet; what it judges it judges with tools that are not ours. Journals are followed by the model.
    (
        "quorate-live",
        &[
            "quorate-drill",
            "quorate-kube",
            "quorate-local",
            "quorate-testkit",
        ],
    ),
    ("xtask", &[]),
];

/// What the pure crate must not pull in.
const IMPURE: &[&str] = &["tokio", "nix", "hyper", "rustls", "tonic"];

/// Lines beyond which a file is probably more than one thing.
const LINES_MAX: usize = 640;

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "misc", "prelude",
];

/// Checks everything.
///
/// # Errors
/// When the repository cannot be read.
pub fn run() -> Result<ExitCode> {
    let findings = findings()?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() {
        eprintln!("tidy: nothing to say");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn findings() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    arrows(&mut findings)?;
    let files = tracked()?;
    names_and_lengths(&files, &mut findings)?;
    words(&files, &mut findings)?;
    runbooks(&mut findings)?;
    findings.extend(promises::findings()?);
    findings.extend(fences::findings(&files)?);
    Ok(findings)
}

fn metadata() -> Result<serde_json::Value> {
    let output = build::cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
        "--locked",
    ])
    .output()?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

fn arrows(findings: &mut Vec<String>) -> Result<()> {
    let metadata = metadata()?;
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for package in metadata["packages"]
        .as_array()
        .context("cargo metadata has packages")?
    {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else {
            findings.push(format!(
                "crate {name} is not in the table of arrows in xtask/src/tidy.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Tests may look across; what ships may not.
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let other = dependency["name"].as_str().unwrap_or_default();
            if other.starts_with("quorate") && !allowed.contains(&other) {
                findings.push(format!(
                    "crate {name} depends on {other}; the design draws no such arrow"
                ));
            }
            if name == "quorate-plan" && IMPURE.contains(&other) {
                findings.push(format!(
                    "quorate-plan depends on {other}: it decides and does nothing"
                ));
            }
        }
    }
    Ok(())
}

fn tracked() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .current_dir(build::root())
        .args(["ls-files", "-z"])
        .output()
        .context("git ls-files")?;
    Ok(output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .filter(|path| build::root().join(path).is_file())
        .collect())
}

fn names_and_lengths(files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    for path in files {
        for part in path.iter() {
            let stem = Path::new(part)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy();
            if EMPTY_NAMES.contains(&&*stem) {
                findings.push(format!(
                    "{}: `{stem}` says nothing about what is in it",
                    path.display()
                ));
            }
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(build::root().join(path))?;
            let lines = text.lines().count();
            if lines > LINES_MAX {
                findings.push(format!(
                    "{}: {lines} lines; is it one thing?",
                    path.display()
                ));
            }
            if text.contains("#[ignore") && !path.ends_with("tidy.rs") {
                findings.push(format!(
                    "{}: an ignored test proves nothing",
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

fn words(files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    // Spelled in pieces, so that this file does not find itself.
    let forbidden = [
        concat!("/wo", "rk/"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
    ];
    for path in files {
        let Ok(text) = std::fs::read_to_string(build::root().join(path)) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            for word in forbidden {
                if line.contains(word) {
                    findings.push(format!("{}:{number}: `{word}`", path.display()));
                }
            }
        }
    }
    Ok(())
}

/// Every refusal has its page.
fn runbooks(findings: &mut Vec<String>) -> Result<()> {
    let source = std::fs::read_to_string(build::root().join("crates/quorate-plan/src/refusal.rs"))?;
    let table = source
        .split("refusal_codes! {")
        .nth(1)
        .context("refusal.rs has its table")?;
    for line in table.lines().take_while(|line| *line != "}") {
        if let Some(name) = line.split('"').nth(1) {
            let page = build::root().join(format!("docs/runbooks/{name}.md"));
            if !page.is_file() {
                findings.push(format!(
                    "refusal {name} has no page docs/runbooks/{name}.md"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let findings = findings().expect("the repository can be read");
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
