//! Hosts that somebody has, reached over SSH: nobody's keys are accepted unseen, masters join one by one, and what comes up is judged by
//! tools that are not ours. One host is reached as a user who has to become root; in the end another comes for it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::{Api, listings, members, same},
    leaver,
    pages::{self, Reading},
    stage::{Stage, finish},
};

const NAME: &str = "live-ssh";
const SUBNET: &str = "172.31.62.0/24";
const ENDPOINT: &str = "api.live-ssh.internal";
const HOSTS: [(&str, u8); 5] = [
    ("cp-1", 11),
    ("cp-2", 12),
    ("cp-3", 13),
    ("w-1", 101),
    ("lb-1", 201),
];

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let hosts = Bare::make(stage, NAME, SUBNET, &HOSTS)?;
    let ops = operators_key(stage)?;
    for host in ["cp-2", "w-1"] {
        admit(&hosts, host, "ops", &ops.1)?;
    }
    let file = cluster_file(stage, &hosts, &ops.0)?;
    trust(stage, &hosts, &file)?;
    let plan = stage.json(&["plan", "-f", &file, "-o", "json"])?;
    one_by_one(stage, &plan);
    forget(stage)?;

    // The guide's own words from here: keys pinned by somebody who types yes, the plan, and its doing.
    let directory = stage.directory.clone();
    let reading = Reading {
        words: &[("prod", NAME)],
        directory: &directory,
        after: &|_, _| Ok(()),
    };
    pages::run(stage, "ssh-serial", &reading)?;

    let api = Api::of(stage, &file, Some((ENDPOINT, "172.31.62.201")))?;
    api.whole(stage, &hosts, &["cp-1", "cp-2", "cp-3"], &["w-1"])?;
    api.no_join_secrets(stage)?;
    for (host, _) in HOSTS {
        stage.check(
            &format!("{host} finds the endpoint's name in its own hosts file"),
            hosts.holds(
                host,
                &format!("getent hosts {ENDPOINT} | grep -q 172.31.62.201"),
            ),
        );
    }
    stage.check(
        "the binary and what it keeps on a host belong to root, whoever brought it there",
        hosts.holds("cp-2", "test -z \"$(find /var/lib/quorate ! -uid 0)\""),
    );
    // The last session is over once the host has noticed that its channel is closed.
    let runs = "pgrep '^quorate-'";
    stage.wait(
        "nothing of Quorate runs on a master when nobody is connected",
        Duration::from_secs(20),
        |_| !hosts.holds("cp-1", runs),
    );
    stage.check(
        "and on the balancer's host the balancer does",
        hosts.holds("lb-1", runs),
    );

    let names = HOSTS.map(|(host, _)| host);
    let before = listings(&hosts, &names)?;
    let again = stage.succeed(&["apply", "--yes", "-f", &file])?;
    let said = crate::stage::said(&again);
    stage.check(
        "a second apply says that there is nothing to do",
        said.contains("nothing to do"),
    );
    let after = listings(&hosts, &names)?;
    same(stage, "and changed no file on any host", &after, &before);

    let refused = stage.quorate(&["destroy", "--yes", "-f", &file])?;
    stage.check_eq(
        "hosts that are somebody's are not destroyed",
        &refused.status.code(),
        &Some(3),
    );
    healthy(stage, &file, Duration::from_secs(60))?;
    swap(stage, &hosts, &file, &api)
}

/// A master that is reached as a user who has to become root goes, and a host that was not there before comes for it. The one that went
/// is its owner's machine: it is clean, and runs.
fn swap(stage: &mut Stage, hosts: &Bare, file: &str, api: &Api) -> Result<()> {
    hosts.grow("cp-4", 14)?;
    let text: String = fs::read_to_string(file)?
        .lines()
        .map(|line| {
            if line.contains("name: cp-2") {
                "  - { name: cp-4, address: 172.31.62.14 }\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    fs::write(file, text)?;
    let print = hosts.fingerprint("cp-4")?;
    stage.succeed(&["trust", "-f", file, "--expect", &print])?;
    stage.succeed(&["replace", "cp-2", "--with", "cp-4", "--yes", "-f", file])?;
    healthy(stage, file, Duration::from_secs(60))?;
    let masters = ["cp-1", "cp-3", "cp-4"];
    api.whole(stage, hosts, &masters, &["w-1"])?;
    stage.check_eq(
        "etcd has no other member, says etcdctl",
        &members(hosts, "cp-1")?.len(),
        &masters.len(),
    );
    leaver::judge(stage, hosts, "cp-2");
    api.no_join_secrets(stage)
}

/// A key pair for a user who is not root: the private half's path, the public half.
pub fn operators_key(stage: &Stage) -> Result<(String, String)> {
    let path = stage.directory.join("ops_key");
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "ops", "-f"]);
    let output = finish(keygen.arg(&path))?;
    anyhow::ensure!(output.status.success(), "ssh-keygen: {output:?}");
    let public = fs::read_to_string(path.with_extension("pub"))?;
    Ok((path.display().to_string(), public.trim().to_owned()))
}

/// A user who may become root without a password, and nothing else.
pub fn admit(hosts: &Bare, host: &str, user: &str, public: &str) -> Result<()> {
    let keys = format!("/home/{user}/.ssh/authorized_keys");
    hosts.run(
        host,
        &format!(
            "useradd -m -s /bin/sh {user}; install -d -m 700 -o {user} -g {user} /home/{user}/.ssh; \
             echo '{public}' >{keys}; chown {user}:{user} {keys}; chmod 600 {keys}; \
             echo '{user} ALL=(root) NOPASSWD: ALL' >/etc/sudoers.d/{user}; chmod 440 /etc/sudoers.d/{user}"
        ),
    )?;
    Ok(())
}

fn cluster_file(stage: &Stage, hosts: &Bare, ops_key: &str) -> Result<String> {
    let root_key = hosts.identity("cp-1")?.display().to_string();
    let bundle = stage.bundle.display();
    let text = format!(
        "apiVersion: quorate/v1\n\
         name: {NAME}\n\
         endpoint:\n  host: {ENDPOINT}\n  hostsFile: managed\n  balancer: {{ kind: quorate, hosts: [{{ name: lb-1, address: 172.31.62.201 }}] }}\n\
         controlPlane:\n  hosts:\n  \
         - {{ name: cp-1, address: 172.31.62.11 }}\n  \
         - {{ name: cp-2, address: 172.31.62.12, user: ops, sudo: true, identity: {ops_key} }}\n  \
         - {{ name: cp-3, address: 172.31.62.13 }}\n\
         workers:\n  hosts:\n  - {{ name: w-1, address: 172.31.62.101, user: ops, identity: {ops_key} }}\n\
         network: {{ cni: flannel }}\n\
         provider: {{ kind: ssh, user: root, identity: {root_key} }}\n\
         components: {{ source: bundle, path: {bundle} }}\n"
    );
    let file = stage.directory.join(format!("{NAME}.yaml"));
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// Keys are pinned after somebody compared them, and never before.
fn trust(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    let unknown = stage.quorate(&["apply", "--yes", "-f", file])?;
    let said = crate::stage::said(&unknown);
    stage.check_eq(
        "hosts whose keys nobody compared are not seen",
        &unknown.status.code(),
        &Some(5),
    );
    stage.check(
        "and it is said how their keys are pinned",
        said.contains("quorate trust -f"),
    );
    let nobody = stage.quorate(&["trust", "-f", file])?;
    stage.check_eq(
        "without a terminal nothing is pinned unseen",
        &nobody.status.code(),
        &Some(2),
    );
    let prints = HOSTS
        .iter()
        .map(|(host, _)| hosts.fingerprint(host))
        .collect::<Result<Vec<_>>>()?;
    let mut arguments = vec!["trust", "-f", file];
    // All but the last: a host whose key was not compared stays unknown.
    for print in &prints[..prints.len() - 1] {
        arguments.extend(["--expect", print]);
    }
    let partly = stage.quorate(&arguments)?;
    stage.check_eq(
        "a host with another key than was compared is not trusted",
        &partly.status.code(),
        &Some(3),
    );
    stage.check(
        "and it is named",
        crate::stage::said(&partly).contains("lb-1"),
    );
    arguments.extend(["--expect", prints.last().context("there are hosts")?]);
    stage.succeed(&arguments)?;
    Ok(())
}

/// Pinned keys are gone: the guide begins without.
fn forget(stage: &Stage) -> Result<()> {
    let pinned = format!("state/quorate/clusters/{NAME}/known_hosts");
    Ok(fs::remove_file(stage.directory.join(pinned))?)
}

/// The first master founds, each of the others is added as a learner, started and promoted before the next.
fn one_by_one(stage: &mut Stage, plan: &Value) {
    let stages = plan["planning"]["plan"]["stages"].as_array();
    let changes: Vec<String> = stages
        .into_iter()
        .flatten()
        .filter(|stage| !stage["change"].is_null())
        .map(|stage| stage["change"].to_string())
        .collect();
    let place = |what: &str| changes.iter().position(|change| change.contains(what));
    let order = [place("cp-1"), place("cp-2"), place("cp-3")];
    stage.check(
        &format!("masters join one by one: {changes:?}"),
        order.iter().all(Option::is_some) && order.is_sorted(),
    );
    let together = changes
        .iter()
        .any(|change| change.contains("cp-1") && change.contains("cp-2"));
    stage.check("no change is about two masters", !together);
}
