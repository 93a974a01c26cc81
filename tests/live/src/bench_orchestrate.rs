//! `cargo xtask bench orchestrate`: the same three masters by `quorate apply` over SSH and by the collection's `site.yml`, with Ansible's own
//! connections and with Mitogen's: brought up from blank hosts, and looked at when nothing is left to do. Processor time is that of this
//! machine, all children included.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use quorate_testkit::conform::Happened;

use crate::{
    ansible::{self, ANSIBLE, SITE},
    bare::Bare,
    bench,
    stage::{Stage, finish, said, tail},
};

pub const NAME: &str = "bench-orchestrate";
const SUBNET: &str = "172.31.76.0/24";
const HOSTS: [(&str, u8); 4] = [("cp-1", 11), ("cp-2", 12), ("cp-3", 13), ("lb-1", 201)];

/// Repetitions of everything but what is brought up, when `QUORATE_ROUNDS` says nothing else.
const ROUNDS: usize = 3;

/// How hosts come to be what the file says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Apply,
    Play,
    Mitogen,
}

const WAYS: [Way; 3] = [Way::Apply, Way::Play, Way::Mitogen];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "quorate apply",
            Self::Play => "site.yml, pipelining",
            Self::Mitogen => "site.yml, Mitogen",
        }
    }
}

/// What something took.
#[derive(Clone, Copy)]
struct Took {
    wall_s: f64,
    cpu_s: f64,
}

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let rounds = bench::rounds(ROUNDS)?;
    let mut brought_up = Vec::new();
    let mut nothing = WAYS.map(|way| (way, Vec::new()));
    let mut execs = Vec::new();
    let mut cold = (Vec::new(), Vec::new());
    for (at, way) in WAYS.into_iter().enumerate() {
        if at > 0 {
            stage.succeed(&["local", "destroy", "--cluster", NAME, "--yes"])?;
            stage.tell(NAME, Happened::AllDestroyed);
            fs::remove_file(pinned(stage))?;
        }
        let hosts = Bare::make(stage, NAME, SUBNET, &HOSTS)?;
        let file = cluster_file(stage, &hosts)?;
        if at == 0 {
            ansible::settle(stage, NAME)?;
        }
        ansible::trust(stage, &hosts, &file, &HOSTS)?;
        let mut command = command(stage, way, &file)?;
        let took = timed(stage, way.name(), || program(&mut command))?;
        brought_up.push((way, took));
        if at > 0 {
            continue;
        }
        for _ in 0..rounds {
            execs.push(one_exec(stage, &hosts)?);
            for (way, all) in &mut nothing {
                let mut command = self::command(stage, *way, &file)?;
                all.push(timed(stage, way.name(), || program(&mut command))?);
            }
            cold.0.push(fresh_connections(stage, &hosts)?);
            cold.1.push(cold_plan(stage, &file)?);
        }
    }
    let load = fs::read_to_string("/proc/loadavg")?;
    println!(
        "three masters and a balancer, medians of {rounds}; load average {}",
        load.trim()
    );
    let exec = median(execs);
    println!("nothing to do");
    line("one exec over a kept connection", exec, exec);
    for (way, all) in nothing {
        line(way.name(), median(all), exec);
    }
    let (fresh, plan) = (median(cold.0), median(cold.1));
    println!("nobody connected yet");
    line("fresh connections to all, side by side", fresh, fresh);
    line("quorate plan", plan, fresh);
    println!("brought up from blank hosts, once each");
    let first = brought_up[0].1;
    for (way, took) in brought_up {
        line(way.name(), took, first);
    }
    Ok(())
}

fn line(what: &str, took: Took, than: Took) {
    println!(
        "  {what:<40} {:>7.2} s {:>7.2}x   {:>7.2} CPU-s {:>8.2}x",
        took.wall_s,
        took.wall_s / than.wall_s,
        took.cpu_s,
        took.cpu_s / than.cpu_s.max(0.001)
    );
}

fn median(all: Vec<Took>) -> Took {
    let middle = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
    };
    Took {
        wall_s: middle(all.iter().map(|took| took.wall_s).collect()),
        cpu_s: middle(all.iter().map(|took| took.cpu_s).collect()),
    }
}

/// Processor time of all children that have ended, in seconds.
fn children_s() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let all = usage.user_time() + usage.system_time();
    Ok(all.num_microseconds() as f64 / 1e6)
}

/// Times something that has to succeed, and otherwise says why it did not.
fn timed(
    stage: &mut Stage,
    what: &str,
    run: impl FnOnce() -> Result<Result<(), String>>,
) -> Result<Took> {
    let (before, began) = (children_s()?, Instant::now());
    let outcome = run()?;
    let took = Took {
        wall_s: began.elapsed().as_secs_f64(),
        cpu_s: children_s()? - before,
    };
    stage.check(
        &format!("{what}: {:.2} s, {:.2} CPU-s", took.wall_s, took.cpu_s),
        outcome.is_ok(),
    );
    if let Err(why) = outcome {
        bail!("{what} failed: {why}");
    }
    Ok(took)
}

/// Runs a program to its end.
fn program(command: &mut Command) -> Result<Result<(), String>> {
    let output = finish(command)?;
    let good = output.status.success();
    Ok(if good {
        Ok(())
    } else {
        Err(tail(&said(&output), 40))
    })
}

fn command(stage: &Stage, way: Way, file: &str) -> Result<Command> {
    if way == Way::Apply {
        return Ok(stage.command(&["apply", "--yes", "-f", file]));
    }
    let mut play = ansible::playbook(stage, ANSIBLE, SITE, &[])?;
    if way == Way::Mitogen {
        let plugins = std::env::var_os("QUORATE_MITOGEN")
            .context("QUORATE_MITOGEN is not set: run `cargo xtask bench orchestrate`")?;
        play.env("ANSIBLE_STRATEGY_PLUGINS", plugins)
            .env("ANSIBLE_STRATEGY", "mitogen_linear");
    }
    Ok(play)
}

fn pinned(stage: &Stage) -> PathBuf {
    let clusters = stage.directory.join("state/quorate/clusters");
    clusters.join(NAME).join("known_hosts")
}

/// ssh to a host with the keys that `quorate trust` pinned.
fn ssh(stage: &Stage, hosts: &Bare, host: &str, more: &[&str]) -> Result<Command> {
    let mut command = Command::new("ssh");
    command
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", pinned(stage).display()))
        .arg("-i")
        .arg(hosts.identity(host)?)
        .args(more)
        .arg(format!("root@{}", hosts.address(host)?))
        .arg("true");
    Ok(command)
}

/// Runs ssh to several hosts side by side. A connection that is kept holds on to whatever its first user could write to, so that is nothing.
fn side_by_side(commands: Vec<Command>) -> Result<Result<(), String>> {
    let mut children = Vec::new();
    for mut command in commands {
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        children.push(command.spawn()?);
    }
    let mut outcome = Ok(());
    for child in &mut children {
        let ended = child.wait()?;
        if !ended.success() {
            outcome = Err(ended.to_string());
        }
    }
    Ok(outcome)
}

/// One program on one host, over a connection that is there already.
fn one_exec(stage: &mut Stage, hosts: &Bare) -> Result<Took> {
    let path = format!(
        "ControlPath={}",
        stage.directory.join("bench.ssh").display()
    );
    let keep = [
        "-o",
        &path,
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=60",
    ];
    let first = ssh(stage, hosts, "cp-1", &keep)?;
    timed(stage, "a connection that is kept", || {
        side_by_side(vec![first])
    })?;
    let second = ssh(stage, hosts, "cp-1", &keep)?;
    let took = timed(stage, "one exec over it", || side_by_side(vec![second]))?;
    let end = ssh(stage, hosts, "cp-1", &["-o", &path, "-O", "exit"])?;
    timed(stage, "its end", || side_by_side(vec![end]))?;
    Ok(took)
}

/// A new connection to every host, all at once.
fn fresh_connections(stage: &mut Stage, hosts: &Bare) -> Result<Took> {
    let commands = HOSTS.map(|(host, _)| ssh(stage, hosts, host, &["-o", "ControlPath=none"]));
    let commands = commands.into_iter().collect::<Result<_>>()?;
    timed(stage, "fresh connections", || side_by_side(commands))
}

/// A plan by a machine that is connected to nobody.
fn cold_plan(stage: &mut Stage, file: &str) -> Result<Took> {
    let sockets = tempfile::tempdir()?;
    let mut plan = stage.command(&["plan", "-f", file]);
    plan.env("XDG_RUNTIME_DIR", sockets.path());
    timed(stage, "quorate plan, connected to nobody", || {
        program(&mut plan)
    })
}

fn cluster_file(stage: &Stage, hosts: &Bare) -> Result<String> {
    let line = |host: &str| -> Result<String> {
        let address = hosts.address(host)?;
        Ok(format!("{{ name: {host}, address: {address} }}"))
    };
    let text = format!(
        "apiVersion: quorate/v1\nname: {NAME}\n\
         endpoint:\n  host: api.{NAME}.internal\n  hostsFile: managed\n  balancer: {{ kind: quorate, hosts: [{}] }}\n\
         controlPlane: {{ hosts: [{}, {}, {}] }}\n\
         network: {{ cni: flannel }}\n\
         provider: {{ kind: ssh, user: root, identity: {} }}\n\
         components: {{ source: bundle, path: {} }}\n",
        line("lb-1")?,
        line("cp-1")?,
        line("cp-2")?,
        line("cp-3")?,
        hosts.identity("cp-1")?.display(),
        stage.bundle.display()
    );
    let file = stage.directory.join(format!("{NAME}.yaml"));
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}
