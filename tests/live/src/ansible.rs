//! The Ansible collection over real SSH: blank hosts become a cluster by `site.yml`, though plays are killed in the middle of it. Then neither
//! a second play nor `quorate apply` finds anything to do; what somebody turned is shown by a check and turned back by a play; with a master
//! down no master joins, and with all of them up two do. In the end the same hosts, blank again, become the same cluster by `quorate apply`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    host_state,
    judge::{Api, ETCDCTL, listings, members, same},
    pages::{self, Reading},
    ssh_serial::{admit, operators_key},
    stage::{Stage, finish, said, tail},
};

const NAME: &str = "live-ansible";
const SUBNET: &str = "172.31.70.0/24";
const ENDPOINT: &str = "api.live-ansible.internal";
const MASTERS: [&str; 3] = ["cp-1", "cp-2", "cp-3"];
const HOSTS: [(&str, u8); 5] = [
    ("cp-1", 11),
    ("cp-2", 12),
    ("cp-3", 13),
    ("w-1", 101),
    ("lb-1", 201),
];
/// The play that brings up what the cluster file says.
pub const SITE: &str = "quorate.cluster.site";
const LATER: [(&str, u8); 2] = [("cp-4", 14), ("cp-5", 15)];

/// Where Ansible is: `cargo xtask test` installs it.
pub const ANSIBLE: &str = "QUORATE_ANSIBLE";

/// Where the oldest one is that the collection works with, which is Debian 12's.
pub const OLDEST: &str = "QUORATE_ANSIBLE_OLDEST";

/// The programs of an Ansible, by the variable that names it.
const PROGRAMS: [(&str, &str); 2] = [
    (ANSIBLE, "ansible-playbook"),
    (OLDEST, "ansible-playbook-oldest"),
];

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let hosts = Bare::make(stage, NAME, SUBNET, &HOSTS)?;
    let ops = operators_key(stage)?;
    admit(&hosts, "w-1", "ops", &ops.1)?;
    let file = files(stage, &hosts, &ops.0)?;
    trust(stage, &hosts, &file, &HOSTS)?;
    let names = HOSTS.map(|(host, _)| host);
    foreseen(stage, &hosts, &names)?;
    broken_off(stage, &hosts)?;
    let directory = stage.directory.clone();
    let reading = Reading {
        words: &[("prod", NAME)],
        directory: &directory,
        after: &|_, _| Ok(()),
    };
    pages::run(stage, "ansible", &reading)?;

    let api = Api::of(stage, &file, Some((ENDPOINT, "172.31.70.201")))?;
    api.whole(stage, &hosts, &MASTERS, &["w-1"])?;
    api.no_join_secrets(stage)?;
    healthy(stage, &file, Duration::from_secs(60))?;
    for (host, _) in HOSTS {
        stage.check(
            &format!("no ticket lies on {host}"),
            hosts.holds(host, "test -z \"$(ls -A /run/quorate/tickets)\""),
        );
    }
    nothing_to_do(stage, &hosts, SITE, &file, &names)?;
    turned(stage, &hosts, &names)?;
    let by_plays = host_state::taken(&hosts, &names)?;
    grown(stage, &hosts, &file, &api)?;
    drop(hosts);
    let again = Again {
        name: NAME,
        subnet: SUBNET,
        hosts: &HOSTS,
        file: &file,
        blank: &|hosts| admit(hosts, "w-1", "ops", &ops.1),
        exceptions: host_state::OF_ITS_TIME,
    };
    again.by_apply(stage, &by_plays)
}

/// A play in check mode on blank hosts.
fn foreseen(stage: &mut Stage, hosts: &Bare, names: &[&str]) -> Result<()> {
    let blank = listings(hosts, names)?;
    let checked = play(stage, ANSIBLE, SITE, &["--check", "--diff"])?;
    stage.check("a play in check mode succeeds", checked.status.success());
    stage.check(
        "it shows what differs",
        said(&checked).contains("net.ipv4.ip_forward"),
    );
    let looked = listings(hosts, names)?;
    same(stage, "and changed no file on any host", &looked, &blank);
    Ok(())
}

/// Neither this play once more nor `quorate apply` changes anything.
pub fn nothing_to_do(
    stage: &mut Stage,
    hosts: &Bare,
    playbook: &str,
    file: &str,
    names: &[&str],
) -> Result<()> {
    let before = listings(hosts, names)?;
    let again = play(stage, ANSIBLE, playbook, &[])?;
    stage.check("a second play succeeds", again.status.success());
    changes(stage, &again, names.iter().copied(), &[]);
    let applied = stage.succeed(&["apply", "--yes", "-f", file])?;
    stage.check(
        "`quorate apply` says that there is nothing to do",
        said(&applied).contains("nothing to do"),
    );
    let after = listings(hosts, names)?;
    same(stage, "neither changed a file on any host", &after, &before);
    Ok(())
}

/// What somebody turned on one host: a check says just that and leaves it, a play turns it back and says the same.
fn turned(stage: &mut Stage, hosts: &Bare, names: &[&str]) -> Result<()> {
    let difference = "net.ipv4.ip_forward: expected 1, seen 0";
    let turned = "test $(cat /proc/sys/net/ipv4/ip_forward) = 0";
    hosts.run("w-1", "echo 0 >/proc/sys/net/ipv4/ip_forward")?;
    let before = listings(hosts, names)?;
    let checked = play(stage, OLDEST, SITE, &["--check", "--diff"])?;
    stage.check("a check of it succeeds", checked.status.success());
    changes(stage, &checked, names.iter().copied(), &["w-1"]);
    stage.check(
        "the check's difference is the one there is",
        said(&checked).contains(difference),
    );
    stage.check("and it is there still", hosts.holds("w-1", turned));
    let played = play(stage, OLDEST, SITE, &["--diff"])?;
    stage.check("a play upon it succeeds", played.status.success());
    // Taking the fence is a change of the first host's: what was done is more than what is asked.
    changes(stage, &played, names.iter().copied(), &["cp-1", "w-1"]);
    stage.check(
        "the play's difference is the same",
        said(&played).contains(difference),
    );
    stage.check("and it is gone", !hosts.holds("w-1", turned));
    let after = listings(hosts, names)?;
    same(stage, "no file was changed for it", &after, &before);
    Ok(())
}

/// Two masters more in the cluster file. With one of the three down no play lets them join; then they do.
fn grown(stage: &mut Stage, hosts: &Bare, file: &str, api: &Api) -> Result<()> {
    for (host, number) in LATER {
        hosts.grow(host, number)?;
    }
    let text = fs::read_to_string(file)?;
    let added: String = LATER
        .iter()
        .map(|(host, number)| format!("  - {{ name: {host}, address: 172.31.70.{number} }}\n"))
        .collect();
    let larger = text.replace("workers:\n", &format!("{added}workers:\n"));
    anyhow::ensure!(larger != text, "the cluster file has workers");
    fs::write(file, larger)?;
    trust(stage, hosts, file, &LATER)?;

    hosts.power_off("cp-3")?;
    let before = members(hosts, "cp-1")?;
    let refused = play(stage, OLDEST, SITE, &[])?;
    stage.check(
        "with a master down a play that would let masters join stops",
        !refused.status.success(),
    );
    stage.check(
        "it says which master it does not see",
        said(&refused).contains("cp-3"),
    );
    stage.check_eq(
        "etcd's members are the same, and the two that are left have quorum",
        &members(hosts, "cp-1")?,
        &before,
    );
    for (host, _) in LATER {
        stage.check(
            &format!("{host} has no etcd"),
            hosts.holds(host, "test ! -e /etc/kubernetes/manifests/etcd.yaml"),
        );
    }
    hosts.power_on("cp-3")?;
    stage.wait(
        "all three members of etcd are healthy again",
        Duration::from_secs(120),
        |_| hosts.holds("cp-1", &format!("{ETCDCTL} endpoint health --cluster")),
    );
    let joined = play(stage, OLDEST, SITE, &[])?;
    stage.check(
        "with it up again the play succeeds",
        joined.status.success(),
    );
    let masters = ["cp-1", "cp-2", "cp-3", "cp-4", "cp-5"];
    api.whole(stage, hosts, &masters, &["w-1"])?;
    fs::write(file, text)?;
    Ok(())
}

/// The same cluster on the same hosts, blank again.
pub struct Again<'a> {
    pub name: &'a str,
    pub subnet: &'a str,
    pub hosts: &'a [(&'a str, u8)],
    pub file: &'a str,
    /// What their owner does to blank hosts.
    pub blank: &'a dyn Fn(&Bare) -> Result<()>,
    /// What may differ.
    pub exceptions: &'a [host_state::Exception],
}

impl Again<'_> {
    /// Makes it by `quorate apply`, and compares its hosts with those that plays made.
    pub fn by_apply(&self, stage: &mut Stage, by_plays: &BTreeSet<String>) -> Result<()> {
        let Self { name, file, .. } = self;
        stage.succeed(&["local", "destroy", "--cluster", name, "--yes"])?;
        stage.tell(name, Happened::AllDestroyed);
        let pinned = format!("state/quorate/clusters/{name}/known_hosts");
        fs::remove_file(stage.directory.join(pinned))?;
        let hosts = Bare::make(stage, name, self.subnet, self.hosts)?;
        (self.blank)(&hosts)?;
        let root_key = hosts.identity("cp-1")?.display().to_string();
        let text = fs::read_to_string(file)?;
        anyhow::ensure!(text.contains(&root_key), "the hosts have another key now");
        trust(stage, &hosts, file, self.hosts)?;
        stage.succeed(&["apply", "--yes", "-f", file])?;
        healthy(stage, file, Duration::from_secs(60))?;
        let names: Vec<&str> = self.hosts.iter().map(|(host, _)| *host).collect();
        let by_apply = host_state::taken(&hosts, &names)?;
        host_state::same(
            stage,
            "hosts are the same, whether a play or `quorate apply` made them",
            by_plays,
            &by_apply,
            self.exceptions,
        );
        Ok(())
    }
}

/// Pins the keys of these hosts.
pub fn trust(stage: &mut Stage, hosts: &Bare, file: &str, which: &[(&str, u8)]) -> Result<()> {
    let mut trust = vec!["trust".to_owned(), "-f".to_owned(), file.to_owned()];
    for (host, _) in which {
        trust.extend(["--expect".to_owned(), hosts.fingerprint(host)?]);
    }
    stage.succeed(&trust.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(())
}

/// The cluster file, and what [`settle`] makes for it.
fn files(stage: &mut Stage, hosts: &Bare, ops_key: &str) -> Result<String> {
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
    let file = stage.directory.join(format!("{NAME}.yaml"));
    fs::write(&file, text)?;
    settle(stage, NAME)?;
    Ok(file.display().to_string())
}

/// Every Ansible, the collection, and the guide's inventory and settings, of the cluster file of that name.
pub fn settle(stage: &mut Stage, name: &str) -> Result<()> {
    let directory = stage.directory.clone();
    stage.set("ANSIBLE_HOME", directory.join("ansible-home").as_os_str());
    pages::write_files("ansible.md", "ansible", ("prod", name), &directory)?;
    stage.set("ANSIBLE_COLLECTIONS_PATH", directory.as_os_str());
    fs::create_dir_all(directory.join("ansible_collections/quorate"))?;
    let collection = pages::root().join("ansible").canonicalize()?;
    symlink(
        collection,
        directory.join("ansible_collections/quorate/cluster"),
    )?;
    let programs = pages::programs(stage)?;
    for (variable, name) in PROGRAMS {
        let place = std::env::var_os(variable).with_context(|| {
            format!("{variable} is not set: run `cargo xtask test --only ansible`")
        })?;
        symlink(
            PathBuf::from(place).join("bin/ansible-playbook"),
            programs.join(name),
        )?;
    }
    Ok(())
}

/// `ansible-playbook` with a playbook of the collection.
pub fn playbook(stage: &Stage, which: &str, book: &str, more: &[&str]) -> Result<Command> {
    let programs = pages::programs(stage)?;
    let program = PROGRAMS.iter().find(|(variable, _)| *variable == which);
    let (_, name) = program.context("an Ansible that there is")?;
    let mut command = Command::new(programs.join(name));
    command.arg(book).args(more);
    stage.surroundings(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("ANSIBLE_NOCOLOR", "1");
    Ok(command)
}

/// Runs a playbook of the collection to its end.
pub fn play(stage: &Stage, which: &str, book: &str, more: &[&str]) -> Result<Output> {
    let began = Instant::now();
    let output = finish(&mut playbook(stage, which, book, more)?)?;
    stage.say(&format!(
        "{which}: ansible-playbook {book} {} -> {} after {:.1} s",
        more.join(" "),
        output.status,
        began.elapsed().as_secs_f64()
    ));
    if !output.status.success() {
        stage.say(&tail(&said(&output), 60));
    }
    Ok(output)
}

/// Plays that are killed: when the first host has what it runs, when the first master has its etcd, when the second is a learner. The fence
/// stays on the hosts, and the next play goes on.
fn broken_off(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let learner = format!("{ETCDCTL} member list | grep -q 'true$'");
    for (when, condition) in [
        (
            "the first master has containerd",
            "test -e /etc/systemd/system/containerd.service",
        ),
        (
            "it has its etcd",
            "test -e /etc/kubernetes/manifests/etcd.yaml",
        ),
        ("etcd has a learner", learner.as_str()),
    ] {
        broken_off_when(stage, when, |_| hosts.holds("cp-1", condition))?;
    }
    Ok(())
}

/// A play of the collection that is killed at that moment, with all its workers.
pub fn broken_off_when(
    stage: &mut Stage,
    when: &str,
    condition: impl FnMut(&Stage) -> bool,
) -> Result<()> {
    let log = fs::File::create(stage.directory.join("broken-off.log"))?;
    let mut child = playbook(stage, ANSIBLE, SITE, &[])?
        .process_group(0)
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .context("failed to start ansible-playbook")?;
    let came = stage.wait(
        &format!("a play is killed when {when}"),
        Duration::from_secs(300),
        condition,
    );
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let _it_may_have_ended = killpg(group, Signal::SIGKILL);
    let ended = child.wait()?;
    end_workers(stage)?;
    stage.check("it had not ended by itself", ended.code().is_none());
    if !came || ended.code().is_some() {
        let text = fs::read_to_string(stage.directory.join("broken-off.log"))?;
        stage.say(&tail(&text, 60));
    }
    Ok(())
}

/// Ends the workers of a play that was killed. They have sessions of their own, and would wait for it for ever.
fn end_workers(stage: &Stage) -> Result<()> {
    let ours = pages::programs(stage)?.join(PROGRAMS[0].1);
    let ours = ours.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else {
            continue;
        };
        // One that ended meanwhile needs nothing.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word == ours) {
            let _it_may_have_ended = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// Ansible's own account: these hosts were changed, and no other.
pub fn changes<'a>(
    stage: &mut Stage,
    output: &Output,
    hosts: impl IntoIterator<Item = &'a str>,
    changed: &[&str],
) {
    let text = String::from_utf8_lossy(&output.stdout);
    let recap = text.rsplit("PLAY RECAP").next().unwrap_or_default();
    let counts: BTreeMap<&str, bool> = recap
        .lines()
        .filter(|line| line.contains("changed="))
        .filter_map(|line| {
            let (host, counts) = line.split_once(':')?;
            Some((host.trim(), !counts.contains("changed=0 ")))
        })
        .collect();
    let expected: BTreeMap<&str, bool> = hosts
        .into_iter()
        .map(|host| (host, changed.contains(&host)))
        .collect();
    stage.check_eq("Ansible says which hosts were changed", &counts, &expected);
}
