//! The main job: three masters founded together, what comes out judged by tools that are not ours, drills, and everything off and on.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::stage::Stage;

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let file = stage.cluster("live.yaml");
    let file = file.display().to_string();
    let bundle = stage.bundle.display().to_string();
    stage.succeed(&[
        "init",
        "--name",
        "live-up",
        "--masters",
        "3",
        "--workers",
        "1",
        "--bundle",
        &bundle,
        &file,
    ])?;
    stage.settle_in("172.31.61.0/24", &file)?;

    let plan = stage.json(&["plan", "-f", &file, "-o", "json"])?;
    let stages = plan["planning"]["plan"]["stages"]
        .as_array()
        .map_or(0, Vec::len);
    stage.check("a plan is made before there is a machine", stages > 5);
    stage.succeed(&["apply", "--yes", "-f", &file])?;

    let kubeconfig = stage.directory.join("kubeconfig");
    stage.succeed(&[
        "kubeconfig",
        "-f",
        &file,
        "--out",
        &kubeconfig.display().to_string(),
    ])?;
    let mode = fs::metadata(&kubeconfig)?.permissions().mode() & 0o777;
    stage.check_eq("the kubeconfig is for its owner only", &mode, &0o600);
    judge(stage, &file, &kubeconfig)?;
    ports(stage, &file)?;
    nothing_to_do(stage, &file)?;
    no_secrets(stage)?;

    for target in ["leader", "follower"] {
        drill(stage, &file, &["power-loss", "--target", target])?;
    }
    drill(stage, &file, &["freeze", "--target", "leader"])?;
    healthy(stage, &file, Duration::from_secs(60))?;

    // As after a reboot of the machine: nothing runs, the disks are there.
    for host in ["cp-1", "cp-2", "cp-3", "w-1", "lb-1"] {
        stage.succeed(&["local", "power-off", host, "-f", &file])?;
    }
    stage.succeed(&["apply", "--yes", "-f", &file])?;
    healthy(stage, &file, Duration::from_secs(120))?;
    judge(stage, &file, &kubeconfig)?;
    nothing_to_do(stage, &file)
}

/// What came up, as kubectl and etcdctl see it.
pub fn judge(stage: &mut Stage, file: &str, kubeconfig: &std::path::Path) -> Result<()> {
    let nodes: Value =
        serde_json::from_str(&stage.kubectl(kubeconfig, &["get", "nodes", "-o", "json"])?)?;
    let nodes = nodes["items"]
        .as_array()
        .context("kubectl lists nodes")?
        .clone();
    let ready = nodes
        .iter()
        .filter(|node| {
            let conditions = node["status"]["conditions"].as_array();
            conditions.is_some_and(|all| {
                all.iter()
                    .any(|one| one["type"] == "Ready" && one["status"] == "True")
            })
        })
        .count();
    stage.check_eq("all nodes are Ready, says kubectl", &ready, &4);
    let etcdctl = "ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
                   --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key";
    let members = stage.on_host(file, "cp-2", &format!("{etcdctl} member list"))?;
    let voters = members
        .lines()
        .filter(|line| line.contains("started") && line.trim_end().ends_with("false"))
        .count();
    stage.check_eq("etcd has three started voters, says etcdctl", &voters, &3);
    let endpoints: Value = serde_json::from_str(&stage.kubectl(
        kubeconfig,
        &["get", "endpointslices", "kubernetes", "-o", "json"],
    )?)?;
    let addresses = endpoints["endpoints"].as_array().map_or(0, Vec::len);
    stage.check_eq(
        "the `kubernetes` service has three addresses",
        &addresses,
        &3,
    );
    let tokens = stage.kubectl(
        kubeconfig,
        &["-n", "kube-system", "get", "secrets", "-o", "name"],
    )?;
    stage.check(
        "no bootstrap token and no certificate secret is left",
        !tokens.contains("bootstrap-token") && !tokens.contains("kubeadm-certs"),
    );
    let server = stage.on_host(file, "cp-2", "grep server: /etc/kubernetes/kubelet.conf")?;
    stage.check(
        "kubelets of masters use their local apiserver",
        server.contains("172.31.61.12:6443"),
    );
    Ok(())
}

/// Between hosts only what the port matrix names is open: all that came up did so behind it.
fn ports(stage: &mut Stage, file: &str) -> Result<()> {
    for (host, open) in [
        ("cp-1", "2379 2380 6443 10250 "),
        ("w-1", "6443 "),
        ("lb-1", "6443 "),
    ] {
        let script = "for port in 22 2379 2380 6443 10250; do (timeout 2 bash -c \"exec 3<>/dev/tcp/172.31.61.12/$port\" 2>/dev/null \
                      && echo $port) & done | sort -n | tr '\\n' ' '; wait";
        let seen = stage.on_host(file, host, script)?;
        stage.check_eq(
            &format!("{host} may open to a master what the port matrix names"),
            &seen.as_str(),
            &open,
        );
    }
    Ok(())
}

/// A second apply says so and changes nothing.
pub fn nothing_to_do(stage: &mut Stage, file: &str) -> Result<()> {
    let listing = "find /etc /usr/local/bin /opt/cni /var/lib/kubelet/config.yaml /var/lib/quorate -xdev -type f \
                   -not -path '*/fence.json' -printf '%p %T@ %s\\n' | sort | sha256sum";
    let before: Vec<String> = ["cp-1", "cp-3", "w-1", "lb-1"]
        .iter()
        .map(|host| stage.on_host(file, host, listing))
        .collect::<Result<_>>()?;
    let again = stage.succeed(&["apply", "--yes", "-f", file])?;
    let said = String::from_utf8_lossy(&again.stdout).into_owned()
        + &String::from_utf8_lossy(&again.stderr);
    stage.check(
        "a second apply says that there is nothing to do",
        said.to_lowercase().contains("nothing to do"),
    );
    let after: Vec<String> = ["cp-1", "cp-3", "w-1", "lb-1"]
        .iter()
        .map(|host| stage.on_host(file, host, listing))
        .collect::<Result<_>>()?;
    stage.check_eq("and changed no file on any host", &after, &before);
    Ok(())
}

/// The status is healthy, at the latest after a while.
pub fn healthy(stage: &mut Stage, file: &str, within: Duration) -> Result<()> {
    stage.wait("`quorate status` says healthy", within, |stage| {
        stage
            .quorate(&["status", "-f", file])
            .is_ok_and(|output| output.status.success())
    });
    Ok(())
}

fn drill(stage: &mut Stage, file: &str, which: &[&str]) -> Result<()> {
    let mut arguments = vec!["drill", "run"];
    arguments.extend(which);
    arguments.extend(["-f", file, "-o", "json"]);
    let report = stage.json(&arguments)?;
    let what = which.join(" ");
    stage.say(&format!(
        "{what}: longest gap new {} ms, kept {} ms, writes {} ms",
        report["newConnections"]["longestGapMs"],
        report["keptConnection"]["longestGapMs"],
        report["writes"]["longestGapMs"]
    ));
    stage.check(
        &format!("{what}: writes were acknowledged"),
        report["acknowledgedWrites"].as_u64().unwrap_or(0) > 50,
    );
    stage.check_eq(
        &format!("{what}: no rule of the history is broken"),
        &report["violations"],
        &Value::Array(vec![]),
    );
    for stream in ["newConnections", "keptConnection", "writes"] {
        let gap = report[stream]["longestGapMs"].as_u64().unwrap_or(u64::MAX);
        stage.check(
            &format!("{what}: gap of {stream} below the loose ceiling of 5 s (seen {gap} ms)"),
            gap < 5_000,
        );
    }
    Ok(())
}

/// No private key, token or certificate key in the journal or anywhere in the operator's state.
fn no_secrets(stage: &mut Stage) -> Result<()> {
    let mut found = Vec::new();
    let mut left = vec![stage.directory.join("state")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            for secret in [
                "PRIVATE KEY",
                "AGE-SECRET-KEY",
                "certificateKey",
                "token-secret",
                "client-key-data",
            ] {
                if text.contains(secret) {
                    found.push(format!("{secret} in {}", path.display()));
                }
            }
        }
    }
    stage.check_eq(
        "no secret lies in the operator's state",
        &found,
        &Vec::new(),
    );
    Ok(())
}
