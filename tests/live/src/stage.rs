//! What a case has at hand: the binary, a bundle, a directory of its own, and checks that count. Start at [`perform`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};
use quorate_testkit::conform::{Dated, Found, Happened, follow_runs};
use serde_json::Value;

/// Somebody asked for the end: nothing new is begun but cleaning up.
static ENDING: AtomicBool = AtomicBool::new(false);

/// The program that is waited for, by its ID. 0: none.
static WAITED_FOR: AtomicI32 = AtomicI32::new(0);

/// A case under way.
pub struct Stage {
    /// The static `quorate`.
    pub quorate: PathBuf,
    /// A bundle of the Kubernetes version that the case is for.
    pub bundle: PathBuf,
    /// What that bundle says of itself.
    manifest: Value,
    /// A directory of the case's own: cluster files, XDG directories.
    pub directory: PathBuf,
    passed: usize,
    failed: usize,
    began: Instant,
    /// Cluster files whose clusters are destroyed in the end, whatever happened.
    clusters: Vec<PathBuf>,
    /// Local hosts that no cluster file of provider `local` names, by their cluster's name.
    bare: Vec<String>,
    /// Variables that programs have besides.
    variables: Vec<(String, OsString)>,
    /// Console blocks of pages that were run.
    blocks_read: usize,
    /// What the case did to machines, by cluster, which no journal tells.
    happened: BTreeMap<String, Vec<Dated>>,
}

/// Runs a case and cleans up after it; a machine that is not as before is a failure of its own.
pub fn perform(name: &'static str, run: fn(&mut Stage) -> Result<()>) -> Result<(usize, usize)> {
    let path = |variable: &str| -> Result<PathBuf> {
        let value = std::env::var_os(variable).with_context(|| {
            format!("{variable} is not set: run `cargo xtask test --only {name}`")
        })?;
        Ok(value.into())
    };
    let directory = tempfile::Builder::new().prefix("quorate-live-").tempdir()?;
    let bundle = path("QUORATE_BUNDLE")?;
    let manifest = fs::read(bundle.join("manifest.json")).context("there is no bundle")?;
    let mut stage = Stage {
        quorate: path("QUORATE_BINARY")?,
        bundle,
        manifest: serde_json::from_slice(&manifest)?,
        directory: directory.path().to_path_buf(),
        passed: 0,
        failed: 0,
        began: Instant::now(),
        clusters: Vec::new(),
        bare: Vec::new(),
        variables: Vec::new(),
        blocks_read: 0,
        happened: BTreeMap::new(),
    };
    fs::create_dir(stage.directory.join("run"))?;
    end_gently()?;
    let before = Machine::look();
    // A case that panics or is asked to end has hosts to remove, like any other.
    let outcome =
        catch_unwind(AssertUnwindSafe(|| run(&mut stage))).unwrap_or_else(|_| bail!("it panicked"));
    if let Err(error) = &outcome {
        stage.check(&format!("the case ran to its end: {error:#}"), false);
    }
    let blocks = crate::pages::of(name)?.len();
    if blocks > 0 {
        stage.check(
            &format!("README's and the guide's {blocks} blocks that name this case were run"),
            stage.blocks_read >= blocks,
        );
    }
    ENDING.store(false, Ordering::SeqCst);
    // Whatever becomes of it, there are hosts to remove.
    if catch_unwind(AssertUnwindSafe(|| stage.follow_journals())).is_err() {
        stage.check("journals are followed without a panic", false);
    }
    for name in std::mem::take(&mut stage.bare) {
        let destroyed = stage.quorate(&["local", "destroy", "--cluster", &name, "--yes"]);
        stage.check(
            &format!("`quorate local destroy --cluster {name}` succeeds"),
            destroyed.is_ok_and(|output| output.status.success()),
        );
    }
    for file in std::mem::take(&mut stage.clusters) {
        let file = file.display().to_string();
        let destroyed = stage.quorate(&["destroy", "--yes", "-f", &file]);
        let good = destroyed
            .as_ref()
            .is_ok_and(|output| output.status.success());
        stage.check(&format!("`quorate destroy -f {file}` succeeds"), good);
        if let (Ok(output), false) = (&destroyed, good) {
            stage.say(&String::from_utf8_lossy(&output.stderr));
        }
    }
    let after = Machine::look();
    for difference in before.differences(&after) {
        stage.say(&difference);
    }
    stage.check("the machine is as it was before the case", before == after);
    Ok((stage.passed, stage.failed))
}

/// SIGTERM and SIGINT end what is waited for and what would come next, and let the case clean up after itself.
fn end_gently() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(asked_to_end),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler does nothing but what a handler may: two atomics and kill(2).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn asked_to_end(_: i32) {
    ENDING.store(true, Ordering::SeqCst);
    let child = WAITED_FOR.load(Ordering::SeqCst);
    if child > 0 {
        let _it_ended_by_itself = kill(Pid::from_raw(child), Signal::SIGTERM);
    }
}

/// Runs a program to its end, unless somebody asked for ours.
///
/// # Errors
/// When it cannot be started, or nothing new is begun any more.
pub fn finish(command: &mut Command) -> Result<Output> {
    if ENDING.load(Ordering::SeqCst) {
        bail!("asked to end");
    }
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    WAITED_FOR.store(child.id() as i32, Ordering::SeqCst);
    let output = child.wait_with_output();
    WAITED_FOR.store(0, Ordering::SeqCst);
    output.with_context(|| format!("failed to wait for {name}"))
}

impl Stage {
    /// The Kubernetes version of the bundle, as `1.35.4`.
    pub fn kubernetes(&self) -> &str {
        self.manifest["kubernetes"].as_str().unwrap_or_default()
    }

    /// The bundle's image of a role, with its tag.
    pub fn image(&self, role: &str) -> Result<&str> {
        self.manifest["images"][role]
            .as_str()
            .with_context(|| format!("the bundle has no image of {role}"))
    }

    /// Says something, with the time since the case began.
    pub fn say(&self, what: &str) {
        // Nobody may listen any more, and the hosts have to go nevertheless.
        let _ = writeln!(
            std::io::stderr(),
            "{:>6.1} s  {what}",
            self.began.elapsed().as_secs_f64()
        );
    }

    /// Counts one check.
    pub fn check(&mut self, what: &str, holds: bool) {
        if holds {
            self.passed += 1;
            self.say(&format!("ok      {what}"));
        } else {
            self.failed += 1;
            self.say(&format!("FAILED  {what}"));
        }
    }

    /// Counts a check of equality and shows both sides when it fails.
    pub fn check_eq<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, seen: &T, expected: &T) {
        self.check(what, seen == expected);
        if seen != expected {
            self.say(&format!("        expected {expected:?}"));
            self.say(&format!("        seen     {seen:?}"));
        }
    }

    /// Moves a cluster file into a subnet of the case's own.
    pub fn settle_in(&self, subnet: &str, file: &str) -> Result<()> {
        let file = self.directory.join(file);
        let text = fs::read_to_string(&file)?;
        let moved: String = text
            .lines()
            .map(|line| {
                if line.starts_with("provider:") {
                    format!("provider: {{ kind: local, subnet: {subnet} }}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        Ok(fs::write(file, moved)?)
    }

    /// Tells those who follow the journals what a case did to machines just now.
    pub fn tell(&mut self, cluster: &str, what: Happened) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at_ms = since.map_or(0, |since| since.as_millis() as u64);
        let happened = self.happened.entry(cluster.to_owned()).or_default();
        happened.push(Dated { at_ms, what });
    }

    /// Follows the journals of all runs there were through the model: what they did was permitted, in order, and led on from wherever it
    /// broke off. A run that begins where no journal tells of may begin in a world that is imagined for it: the first of a cluster, and
    /// one that comes after somebody's hands were told of.
    fn follow_journals(&mut self) {
        let clusters = self.directory.join("state/quorate/clusters");
        let clusters = fs::read_dir(clusters).into_iter().flatten().flatten();
        for cluster in clusters.map(|entry| entry.path()) {
            let name = cluster.file_name().unwrap_or_default().to_string_lossy();
            let happened = self.happened.remove(&*name).unwrap_or_default();
            let told = match follow_runs(&cluster.join("runs"), &happened) {
                Ok(told) => told,
                Err(error) => {
                    self.check(&format!("the journals of {name} are read: {error}"), false);
                    continue;
                }
            };
            for run in &told {
                self.say(&format!("run {run}"));
            }
            let by_hand = |dated: &&Dated| dated.what == Happened::ByHand;
            // After each time that hands are told of, one plan may be of a world that cannot be imagined.
            let mut unexplained = happened.iter().filter(by_hand);
            let followed = told.iter().filter(|run| match run.found {
                Found::Empty | Found::GoesOn(_) | Found::Anew { instead: None, .. } => true,
                Found::Unexplained(_) => unexplained.next().is_some(),
                Found::Anew { .. } | Found::Departed(_) => false,
            });
            let (followed, all) = (followed.count(), told.len());
            if all > 0 {
                self.check(
                    &format!("{followed} of {all} runs of {name} go ways of the model"),
                    followed == all,
                );
            }
        }
    }

    /// A cluster file that is destroyed in the end.
    pub fn cluster(&mut self, file: &str) -> PathBuf {
        let path = self.directory.join(file);
        self.clusters.push(path.clone());
        path
    }

    /// The file of a cluster of local hosts in a subnet of the case's own; it is destroyed in the end.
    pub fn local_cluster(
        &mut self,
        name: &str,
        subnet: &str,
        masters: u8,
        workers: u8,
    ) -> Result<String> {
        let file = self.cluster(&format!("{name}.yaml")).display().to_string();
        let bundle = self.bundle.display().to_string();
        let (masters, workers) = (masters.to_string(), workers.to_string());
        self.succeed(&[
            "init",
            "--name",
            name,
            "--masters",
            &masters,
            "--workers",
            &workers,
            "--bundle",
            &bundle,
            &file,
        ])?;
        self.settle_in(subnet, &file)?;
        Ok(file)
    }

    /// Local hosts of that cluster are destroyed in the end, whoever makes them.
    pub fn bare(&mut self, cluster: &str) {
        if !self.bare.iter().any(|name| name == cluster) {
            self.bare.push(cluster.to_owned());
        }
    }

    /// Gives programs a variable more.
    pub fn set(&mut self, name: &str, value: &OsStr) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Lets a program have this case's own directories.
    pub fn surroundings(&self, command: &mut Command) {
        command
            .current_dir(&self.directory)
            .env("XDG_STATE_HOME", self.directory.join("state"))
            .env("XDG_DATA_HOME", self.directory.join("data"))
            .env("XDG_RUNTIME_DIR", self.directory.join("run"))
            .env("NO_COLOR", "1")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());
    }

    /// The binary with this case's own directories.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.quorate);
        self.surroundings(command.args(arguments));
        command
    }

    /// A console block of a page was run.
    pub fn read_a_block(&mut self) {
        self.blocks_read += 1;
    }

    /// Runs the binary to its end.
    pub fn quorate(&self, arguments: &[&str]) -> Result<Output> {
        let began = Instant::now();
        let output = finish(&mut self.command(arguments))?;
        self.say(&format!(
            "quorate {} -> {} after {:.1} s",
            arguments.join(" "),
            output
                .status
                .code()
                .map_or("killed".into(), |code| code.to_string()),
            began.elapsed().as_secs_f64()
        ));
        Ok(output)
    }

    /// Runs the binary and demands success, with what it said when there is none.
    pub fn succeed(&mut self, arguments: &[&str]) -> Result<Output> {
        let output = self.quorate(arguments)?;
        self.check(
            &format!("`quorate {}` succeeds", arguments.join(" ")),
            output.status.success(),
        );
        if !output.status.success() {
            bail!(
                "quorate {} failed ({})\n{}\n{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                tail(&String::from_utf8_lossy(&output.stderr), 60)
            );
        }
        Ok(output)
    }

    /// Runs the binary and parses its standard output.
    pub fn json(&mut self, arguments: &[&str]) -> Result<Value> {
        let output = self.quorate(arguments)?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "quorate {} printed no JSON ({}):\n{}",
                arguments.join(" "),
                output.status,
                tail(&String::from_utf8_lossy(&output.stderr), 40)
            )
        })
    }

    /// Runs a command on a host by `quorate local ssh`, the way a person would.
    pub fn on_host(&self, file: &str, host: &str, command: &str) -> Result<String> {
        let output = self.quorate(&["local", "ssh", host, "-f", file, "--", command])?;
        if !output.status.success() {
            bail!(
                "`{command}` on {host} failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// kubectl of the bundle, with a kubeconfig: a judge that shares no code with Quorate.
    pub fn kubectl(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        let mut kubectl = Command::new(self.bundle.join("bin/kubectl"));
        let output = finish(kubectl.arg("--kubeconfig").arg(kubeconfig).args(arguments))?;
        if !output.status.success() {
            bail!(
                "kubectl {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits for a condition; it is asked four times a second.
    pub fn wait(
        &mut self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> bool {
        let until = Instant::now() + within;
        loop {
            if holds(self) {
                self.check(what, true);
                return true;
            }
            if Instant::now() > until || ENDING.load(Ordering::SeqCst) {
                self.check(&format!("{what} within {} s", within.as_secs()), false);
                return false;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// Everything a command said.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// What a case must leave as it found it.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    tables: BTreeSet<String>,
    sysctls: BTreeSet<String>,
    loops: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Machine {
    fn look() -> Self {
        let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default()
        };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let sysctls = [
            "net/ipv4/ip_forward",
            "fs/inotify/max_user_instances",
            "fs/inotify/max_user_watches",
        ]
        .map(|name| {
            format!(
                "{name} {}",
                fs::read_to_string(format!("/proc/sys/{name}"))
                    .unwrap_or_default()
                    .trim()
            )
        });
        let links = lines(run("ip", &["-o", "link", "show"]))
            .iter()
            .filter_map(|line| {
                line.split(": ")
                    .nth(1)
                    .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            })
            .collect();
        Self {
            mounts: lines(mounts)
                .into_iter()
                .filter(|line| line.contains("quorate"))
                .collect(),
            links,
            cgroups: cgroups(),
            tables: lines(run("nft", &["list", "tables"])),
            sysctls: sysctls.into(),
            loops: lines(run(
                "losetup",
                &["--noheadings", "--output", "NAME,BACK-FILE"],
            )),
            processes: lines(run("pgrep", &["-a", "systemd-nspawn"])),
        }
    }

    fn differences(&self, after: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (what, before, after) in [
            ("mount", &self.mounts, &after.mounts),
            ("link", &self.links, &after.links),
            ("cgroup", &self.cgroups, &after.cgroups),
            ("nft table", &self.tables, &after.tables),
            ("sysctl", &self.sysctls, &after.sysctls),
            ("loop device", &self.loops, &after.loops),
            ("process", &self.processes, &after.processes),
        ] {
            found.extend(
                after
                    .difference(before)
                    .map(|item| format!("left behind: {what} {item}")),
            );
            found.extend(
                before
                    .difference(after)
                    .map(|item| format!("gone: {what} {item}")),
            );
        }
        found
    }
}

/// Control groups of ours, two levels deep.
fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for controller in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        for group in fs::read_dir(controller.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = group.path();
            if path.is_dir() && path.to_string_lossy().contains("quorate") {
                found.insert(path.display().to_string());
            }
        }
    }
    found
}
