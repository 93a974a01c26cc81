//! `cargo xtask quickstart`: from a clone to a real cluster on this machine that has lost a master and come back. Warm runs keep what is
//! there: a running demo is left alone, a stopped one is started again.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    machine::{self, Machine},
    progress::{Progress, seconds, wrapped},
};

/// How to go about it.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Do not install missing Debian packages: name them and stop.
    #[arg(long)]
    no_install: bool,
    /// Bring the cluster up and stop there, without taking a master's power away.
    #[arg(long)]
    no_drill: bool,
}

/// The cluster file of the demo, in the repository's root.
const FILE: &str = "demo.yaml";

/// Runs it.
///
/// # Errors
/// When a step fails; running it again goes on from there.
pub fn run(options: &Options) -> Result<ExitCode> {
    announce();
    let mut progress = Progress::new(6);
    machine::ensure_packages(&mut progress, !options.no_install)?;
    let machine = Machine::look();
    if let Some(obstacle) = machine.obstacle() {
        bail!("{obstacle}; local hosts cannot run without it");
    }
    let quorate = build::quorate(&mut progress)?;
    let bundle = build::bundle(&mut progress, &quorate, build::KUBERNETES)?;

    let file = build::root().join(FILE);
    if file.exists() {
        progress.skip(
            "Write the cluster file",
            &format!("{FILE} is there and stays as it is"),
        );
    } else {
        let mut init = Command::new(&quorate);
        init.current_dir(build::root()).args([
            "init",
            "--name",
            "demo",
            "--masters",
            "3",
            "--workers",
            "1",
            "--bundle",
        ]);
        progress.run("Write the cluster file", init.arg(&bundle).arg(FILE))?;
    }
    progress.run_open(
        "quorate apply",
        quorate_command(&quorate).args(["apply", "--yes", "-f", FILE]),
    )?;
    if options.no_drill {
        progress.skip("quorate drill run power-loss", "not asked for");
    } else {
        progress.run_open(
            "quorate drill run power-loss",
            quorate_command(&quorate).args([
                "drill",
                "run",
                "power-loss",
                "--target",
                "leader",
                "-f",
                FILE,
            ]),
        )?;
    }
    let kubeconfig = build::target_directory().join("demo.kubeconfig");
    // What it would tell to do next is told below.
    let written = quorate_command(&quorate)
        .args(["kubeconfig", "-f", FILE, "--force", "--out"])
        .arg(&kubeconfig)
        .output()
        .context("failed to start quorate")?;
    if !written.status.success() {
        bail!(
            "`quorate kubeconfig` failed ({}): {}",
            written.status,
            String::from_utf8_lossy(&written.stderr)
        );
    }
    let program = link("quorate", &quorate)?;
    println!(
        "\nThe cluster is up; all of it took {}. What to do next:\n\
         \n  {program} status -f {FILE}\
         \n  {} --kubeconfig {} get nodes\
         \n  {program} local ssh cp-1 -f {FILE}\
         \n  {program} drill run power-loss --target follower -f {FILE}\
         \n  {program} destroy -f {FILE}\n",
        seconds(progress.elapsed()),
        link("kubectl", &bundle.join("bin/kubectl"))?,
        shown(&kubeconfig),
    );
    Ok(ExitCode::SUCCESS)
}

/// What will happen, and how long it takes on a machine of two cores.
fn announce() {
    eprintln!(
        "{}\n",
        wrapped(
            "This brings up a real highly available Kubernetes cluster on this machine, as local hosts: real Debian systems in \
             namespaces, with systemd, sshd, containerd and kubeadm. It will",
            0
        )
    );
    let components = format!(
        "build Kubernetes {} and etcd from source (about 14 minutes the first time)",
        build::KUBERNETES
    );
    let steps = [
        "install missing Debian packages (named first; --no-install stops there)",
        "build quorate (about 5 minutes the first time)",
        &components,
        &format!("write {FILE}, unless there is one"),
        "quorate apply: three masters, a worker, a balancer (3 minutes, 2 of them for the first base system)",
        "take the power of the etcd leader's host away, under load, and measure",
    ];
    for (number, step) in (1..).zip(steps) {
        eprintln!("{}", wrapped(&format!("  {number}. {step}"), 5));
    }
    eprintln!();
}

fn quorate_command(quorate: &Path) -> Command {
    let mut command = Command::new(quorate);
    command.current_dir(build::root());
    command
}

/// A short name for a program, to be typed: a link in the target directory.
fn link(name: &str, program: &Path) -> Result<String> {
    let link = build::target_directory().join(name);
    let failed = || format!("failed to link {}", link.display());
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        Err(_) | Ok(()) => {}
    }
    std::os::unix::fs::symlink(program, &link).with_context(failed)?;
    Ok(shown(&link))
}

/// A path below the repository as someone in its root would write it.
fn shown(path: &Path) -> String {
    path.strip_prefix(build::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
