//! README and guide, as somebody follows them who has read nothing else. Each case runs the blocks that name it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    bring_up::healthy,
    pages::{self, Reading},
    stage::{Stage, finish, said},
};

/// README's first session, with a cluster of another name and network than a person's own.
pub fn run(stage: &mut Stage) -> Result<()> {
    let directory = workplace(stage)?;
    stage.cluster("work/cluster.yaml");
    let after = |stage: &mut Stage, command: &str| {
        if command.starts_with("quorate init") {
            stage.settle_in("172.31.67.0/24", "work/cluster.yaml")?;
        }
        Ok(())
    };
    let reading = Reading {
        words: &[("demo", "live-readme")],
        directory: &directory,
        after: &after,
    };
    pages::run(stage, "readme", &reading)
}

/// The guide's cluster on this machine.
pub fn guide(stage: &mut Stage) -> Result<()> {
    let directory = workplace(stage)?;
    stage.cluster("work/live-guide.yaml");
    let after = |stage: &mut Stage, command: &str| {
        if command.starts_with("quorate init") {
            stage.settle_in("172.31.68.0/24", "work/live-guide.yaml")?;
        }
        Ok(())
    };
    let reading = Reading {
        words: &[("demo", "live-guide")],
        directory: &directory,
        after: &after,
    };
    pages::run(stage, "guide", &reading)
}

/// A directory with the sources of the components, and the components in their standard place, so that building them finds them there.
fn workplace(stage: &mut Stage) -> Result<PathBuf> {
    let directory = stage.directory.join("work");
    fs::create_dir(&directory)?;
    symlink(pages::root().join("bundle"), directory.join("bundle"))?;
    let standard = stage.directory.join("data/quorate/bundles");
    copy_bundle(stage, &standard)?;
    Ok(directory)
}

/// The components, as those of the default version in a directory of bundles.
fn copy_bundle(stage: &Stage, bundles: &Path) -> Result<()> {
    fs::create_dir_all(bundles)?;
    // Links where that is possible: a bundle is a gigabyte.
    let mut copy = Command::new("sh");
    copy.args([
        "-c",
        "cp -al \"$0\" \"$1\" 2>/dev/null || cp -a \"$0\" \"$1\"",
    ])
    .arg(&stage.bundle)
    .arg(bundles.join("1.35.4"));
    ensure!(
        finish(&mut copy)?.status.success(),
        "failed to copy the bundle"
    );
    Ok(())
}

/// README's first command, in a clone of the last commit, twice: the second run finds everything there. The clone builds where this
/// repository does, in a directory of its own.
pub fn quickstart(stage: &mut Stage) -> Result<()> {
    let list = said(&stage.quorate(&["local", "list"])?);
    ensure!(
        !list.lines().any(|line| line.starts_with("demo ")),
        "this machine has a cluster `demo` already, and quickstart would not make another: destroy it first"
    );
    let clone = stage.directory.join("clone");
    let mut git = Command::new("git");
    git.args(["clone", "--quiet"])
        .arg(pages::root())
        .arg(&clone);
    let cloned = finish(&mut git)?;
    ensure!(cloned.status.success(), "git clone: {}", said(&cloned));
    stage.cluster("clone/demo.yaml");
    // Builds of its own, kept between runs: those of this repository stay what they are. The components come from there.
    let target = stage
        .bundle
        .ancestors()
        .find(|path| path.join("bundles").is_dir())
        .context("the bundle lies in a target directory")?
        .join("quickstart");
    if !target.join("bundles/1.35.4").exists() {
        copy_bundle(stage, &target.join("bundles"))?;
    }
    stage.set("CARGO_TARGET_DIR", target.as_os_str());
    let reading = Reading {
        words: &[],
        directory: &clone,
        after: &|_, _| Ok(()),
    };
    pages::run(stage, "quickstart", &reading)?;
    let file = clone.join("demo.yaml").display().to_string();
    healthy(stage, &file, Duration::from_secs(60))?;
    let began = std::time::Instant::now();
    pages::run(stage, "quickstart", &reading)?;
    let took = began.elapsed().as_secs();
    stage.check(
        &format!("a warm run takes less than 3 minutes: {took} s"),
        took < 180,
    );
    healthy(stage, &file, Duration::from_secs(60))
}
