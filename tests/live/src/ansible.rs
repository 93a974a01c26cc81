//! The Ansible collection over real SSH: blank hosts become a cluster by `site.yml`, though the first play is killed in the middle of it. Then
//! neither a second play nor `quorate apply` finds anything to do.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::{Api, listings, same},
    pages::{self, Reading},
    ssh_serial::{admit_user, operators_key},
    stage::{Stage, finish, said, tail},
};

const NAME: &str = "live-ansible";
const SUBNET: &str = "172.31.70.0/24";
const ENDPOINT: &str = "api.live-ansible.internal";
const HOSTS: [(&str, u8); 5] = [
    ("cp-1", 11),
    ("cp-2", 12),
    ("cp-3", 13),
    ("w-1", 101),
    ("lb-1", 201),
];

/// Where Ansible is: `cargo xtask test` installs it.
const ANSIBLE: &str = "QUORATE_ANSIBLE";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let ansible =
        PathBuf::from(std::env::var_os(ANSIBLE).with_context(|| {
            format!("{ANSIBLE} is not set: run `cargo xtask test --only ansible`")
        })?);
    let hosts = Bare::make(stage, NAME, SUBNET, &HOSTS)?;
    let ops = operators_key(stage)?;
    admit_user(&hosts, "w-1", &ops.1)?;
    let file = files(stage, &hosts, &ops.0, &ansible)?;
    let mut trust = vec!["trust".to_owned(), "-f".to_owned(), file.clone()];
    for (host, _) in HOSTS {
        trust.extend(["--expect".to_owned(), hosts.fingerprint(host)?]);
    }
    stage.succeed(&trust.iter().map(String::as_str).collect::<Vec<_>>())?;

    let names = HOSTS.map(|(host, _)| host);
    let blank = listings(&hosts, &names)?;
    let checked = play(stage, &["--check", "--diff"])?;
    stage.check("a play in check mode succeeds", checked.status.success());
    stage.check(
        "it shows what differs",
        said(&checked).contains("net.ipv4.ip_forward"),
    );
    let looked = listings(&hosts, &names)?;
    same(stage, "and changed no file on any host", &looked, &blank);

    broken_off(stage, &hosts)?;
    let directory = stage.directory.clone();
    let reading = Reading {
        words: &[("prod", NAME)],
        directory: &directory,
        after: &|_, _| Ok(()),
    };
    pages::run(stage, "ansible", &reading)?;

    let api = Api::of(stage, &file, Some((ENDPOINT, "172.31.70.201")))?;
    api.whole(stage, &hosts, &["cp-1", "cp-2", "cp-3"], &["w-1"])?;
    api.no_join_secrets(stage)?;
    healthy(stage, &file, Duration::from_secs(60))?;
    for (host, _) in HOSTS {
        stage.check(
            &format!("no ticket lies on {host}"),
            hosts.holds(host, "test -z \"$(ls -A /run/quorate/tickets)\""),
        );
    }

    let before = listings(&hosts, &names)?;
    let again = play(stage, &[])?;
    stage.check("a second play succeeds", again.status.success());
    unchanged(stage, &again, &names);
    let applied = stage.succeed(&["apply", "--yes", "-f", &file])?;
    stage.check(
        "`quorate apply` says that there is nothing to do",
        said(&applied).contains("nothing to do"),
    );
    let after = listings(&hosts, &names)?;
    same(stage, "neither changed a file on any host", &after, &before);
    Ok(())
}

/// The cluster file, its inventory, and Ansible with the collection.
fn files(
    stage: &mut Stage,
    hosts: &Bare,
    ops_key: &str,
    ansible: &std::path::Path,
) -> Result<String> {
    let root_key = hosts.identity("cp-1")?.display().to_string();
    let text = format!(
        "apiVersion: quorate/v1\n\
         name: {NAME}\n\
         endpoint:\n  host: {ENDPOINT}\n  hostsFile: managed\n  balancer: {{ kind: quorate, hosts: [{{ name: lb-1, address: 172.31.70.201 }}] }}\n\
         controlPlane:\n  hosts:\n  \
         - {{ name: cp-1, address: 172.31.70.11 }}\n  \
         - {{ name: cp-2, address: 172.31.70.12 }}\n  \
         - {{ name: cp-3, address: 172.31.70.13 }}\n\
         workers:\n  hosts:\n  - {{ name: w-1, address: 172.31.70.101, user: ops, sudo: true, identity: {ops_key} }}\n\
         network: {{ cni: flannel }}\n\
         provider: {{ kind: ssh, user: root, identity: {root_key} }}\n\
         components: {{ source: bundle, path: {} }}\n",
        stage.bundle.display()
    );
    let directory = stage.directory.clone();
    stage.set("ANSIBLE_HOME", directory.join("ansible-home").as_os_str());
    let file = directory.join(format!("{NAME}.yaml"));
    fs::write(&file, text)?;
    fs::write(
        directory.join("quorate.yml"),
        format!("plugin: quorate.cluster.hosts\nfile: {NAME}.yaml\n"),
    )?;
    fs::write(
        directory.join("ansible.cfg"),
        "[defaults]\ninventory = quorate.yml\ncollections_path = .\n[ssh_connection]\npipelining = true\n",
    )?;
    fs::create_dir_all(directory.join("ansible_collections/quorate"))?;
    let collection = pages::root().join("ansible").canonicalize()?;
    symlink(
        collection,
        directory.join("ansible_collections/quorate/cluster"),
    )?;
    let programs = pages::programs(stage)?;
    let name = "ansible-playbook";
    symlink(ansible.join("bin").join(name), programs.join(name))?;
    Ok(file.display().to_string())
}

fn playbook(stage: &Stage, more: &[&str]) -> Result<Command> {
    let programs = pages::programs(stage)?;
    let mut command = Command::new(programs.join("ansible-playbook"));
    command.arg("quorate.cluster.site").args(more);
    stage.surroundings(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("ANSIBLE_NOCOLOR", "1");
    Ok(command)
}

fn play(stage: &Stage, more: &[&str]) -> Result<Output> {
    let output = finish(&mut playbook(stage, more)?)?;
    stage.say(&format!(
        "ansible-playbook quorate.cluster.site {} -> {}",
        more.join(" "),
        output.status
    ));
    if !output.status.success() {
        stage.say(&tail(&said(&output), 60));
    }
    Ok(output)
}

/// A play that is killed when the first master has its etcd: its fence stays on the hosts, and the next play goes on.
fn broken_off(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let log = fs::File::create(stage.directory.join("broken-off.log"))?;
    let mut child = playbook(stage, &[])?
        .process_group(0)
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .context("failed to start ansible-playbook")?;
    let founded = stage.wait(
        "a play is killed when the first master has its etcd",
        Duration::from_secs(300),
        |_| hosts.holds("cp-1", "test -e /etc/kubernetes/manifests/etcd.yaml"),
    );
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let _it_may_have_ended = killpg(group, Signal::SIGKILL);
    child.wait()?;
    if !founded {
        let text = fs::read_to_string(stage.directory.join("broken-off.log"))?;
        stage.say(&tail(&text, 60));
    }
    Ok(())
}

/// Ansible's own account.
fn unchanged(stage: &mut Stage, output: &Output, names: &[&str]) {
    let text = String::from_utf8_lossy(&output.stdout);
    let recap = text.rsplit("PLAY RECAP").next().unwrap_or_default();
    for name in names {
        let counts = recap.lines().find(|line| {
            line.split(':')
                .next()
                .is_some_and(|host| host.trim() == *name)
        });
        stage.check(
            &format!("and says of {name} that nothing was changed: {counts:?}"),
            counts.is_some_and(|counts| counts.contains("changed=0 ")),
        );
    }
}
