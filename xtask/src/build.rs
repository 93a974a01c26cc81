//! Builds what tests and quickstart run: the static `quorate`, and bundles.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::progress::Progress;

/// The Kubernetes version that quickstart and the live tests use.
pub const KUBERNETES: &str = "1.35.4";

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
        .to_path_buf()
}

/// Cargo's target directory.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A cargo command in the repository.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    // `cargo run` gave us what describes this package. Build scripts that watch it (ring's does) would run anew, and with them all that is built
    // on top, each time that cargo is called by hand in between.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The target triple of this machine's toolchain.
fn host_triple() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("failed to run `rustc -vV`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    Ok(line.to_owned())
}

/// Builds `quorate`, optimised and linked statically: hosts run the same file, whatever C library they have.
///
/// # Errors
/// When the build fails.
pub fn quorate(progress: &mut Progress) -> Result<PathBuf> {
    let triple = host_triple()?;
    // The flag goes to the target only: procedural macros cannot be built with it.
    let flags = format!("target.{triple}.rustflags=[\"-C\",\"target-feature=+crt-static\"]");
    let arguments = [
        "build",
        "--release",
        "--locked",
        "--package",
        "quorate",
        "--target",
        &triple,
        "--config",
        &flags,
    ];
    progress.build("Build quorate", &mut cargo(&arguments))?;
    Ok(target_directory().join(&triple).join("release/quorate"))
}

/// Builds `quorate` like the tests: enough to build a bundle with, and many minutes faster than what hosts run.
///
/// # Errors
/// When the build fails.
pub fn quorate_for_tests(progress: &mut Progress) -> Result<PathBuf> {
    progress.build(
        "Build quorate for tests",
        &mut cargo(&["build", "--locked", "--package", "quorate"]),
    )?;
    Ok(target_directory().join("debug/quorate"))
}

/// Where bundles are built.
pub fn bundles() -> PathBuf {
    target_directory().join("bundles")
}

/// Builds a bundle, or finds that nothing changed.
///
/// # Errors
/// When the build fails.
pub fn bundle(progress: &mut Progress, quorate: &Path, kubernetes: &str) -> Result<PathBuf> {
    let out = bundles().join(kubernetes);
    let mut command = Command::new(quorate);
    command
        .current_dir(root())
        .args(["bundle", "build", "--kubernetes", kubernetes, "--sources"])
        .arg(root().join("bundle"))
        .arg("--out")
        .arg(&out);
    progress.build_open(
        &format!("Build the components of Kubernetes {kubernetes}"),
        &mut command,
    )?;
    Ok(out)
}

/// Builds the live cases, and finds the program that has them.
///
/// # Errors
/// When the build fails.
pub fn live_cases(progress: &mut Progress) -> Result<PathBuf> {
    progress.build(
        "Build the live cases",
        &mut cargo(&["build", "--locked", "--package", "quorate-live"]),
    )?;
    Ok(target_directory().join("debug/quorate-live"))
}
