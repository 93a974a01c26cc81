//! Every drill there is, several rounds of it: power taken from the leader, from a follower, from a master by name; either frozen. Nothing
//! acknowledged is lost, the report as JSON is the report that is shown, and no drill begins on a cluster that is not whole.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::Api,
    stage::{Stage, said},
};

const NAME: &str = "live-drills";
const SUBNET: &str = "172.31.66.0/24";
const MASTERS: [&str; 3] = ["cp-1", "cp-2", "cp-3"];

/// What is done to whom, and whether that one leads etcd.
const DRILLS: [(&str, &str, Option<bool>); 6] = [
    ("power-loss", "leader", Some(true)),
    ("power-loss", "follower", Some(false)),
    ("freeze", "leader", Some(true)),
    ("freeze", "follower", Some(false)),
    ("power-loss", "cp-1", None),
    ("power-loss", "leader", Some(true)),
];

/// The loose ceiling of every gap, in milliseconds. What is usual is a benchmark's business.
const GAP_MS_MAX: u64 = 5_000;

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let file = stage.local_cluster(NAME, SUBNET, 3, 0)?;
    stage.succeed(&["apply", "--yes", "-f", &file])?;
    let hosts = Bare::open(NAME)?;
    let api = Api::of(stage, &file, None)?;
    for (round, drill) in (1..).zip(DRILLS) {
        one(stage, &file, round, drill)?;
        api.whole(stage, &hosts, &MASTERS, &[])?;
    }
    refused(stage, &file, &hosts)?;
    api.whole(stage, &hosts, &MASTERS, &[])
}

fn one(
    stage: &mut Stage,
    file: &str,
    round: usize,
    (fault, target, leads): (&str, &str, Option<bool>),
) -> Result<()> {
    let what = format!("{round}. {fault} of {target}");
    let path = stage.directory.join(format!("drill-{round}.json"));
    let out = path.display().to_string();
    let output = stage.quorate(&[
        "drill", "run", fault, "--target", target, "--report", &out, "-f", file, "-o", "json",
    ])?;
    stage.check_eq(
        &format!("{what}: exit code"),
        &output.status.code(),
        &Some(0),
    );
    if !output.status.success() {
        stage.say(&crate::stage::tail(&said(&output), 30));
    }
    let shown: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{what}: no report: {}", said(&output)))?;
    let kept: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    stage.check_eq(
        &format!("{what}: the report that is kept is the one that is shown"),
        &kept,
        &shown,
    );
    if let Some(leads) = leads {
        stage.check_eq(
            &format!("{what}: it led etcd"),
            &shown["ledEtcd"],
            &leads.into(),
        );
    } else {
        stage.check_eq(
            &format!("{what}: that master"),
            &shown["node"],
            &target.into(),
        );
    }
    let acknowledged = shown["acknowledgedWrites"].as_u64().unwrap_or(0);
    stage.check(
        &format!("{what}: {acknowledged} writes were acknowledged"),
        acknowledged > 50,
    );
    stage.check_eq(
        &format!("{what}: no rule of the history is broken, nothing is lost"),
        &shown["violations"],
        &Value::Array(vec![]),
    );
    for stream in ["newConnections", "keptConnection", "writes"] {
        let summary = &shown[stream];
        let gap = summary["longestGapMs"].as_u64().unwrap_or(u64::MAX);
        stage.check(
            &format!("{what}: {stream}: longest gap {gap} ms, below the ceiling"),
            gap < GAP_MS_MAX,
        );
        let twice = format!("{what}: {stream}: requests that failed and failed again");
        // etcd answers nobody whose proposal was on its way to a leader that is gone: such a write runs into its time limit, and so may
        // its retry. It is counted, and no acknowledged one among it is lost.
        if stream == "writes" && shown["ledEtcd"] == true {
            stage.say(&format!("{twice}: {}", summary["failedAfterRetry"]));
        } else {
            stage.check_eq(&twice, &summary["failedAfterRetry"], &0.into());
        }
    }
    healthy(stage, file, Duration::from_secs(60))
}

/// Drills that must not begin.
fn refused(stage: &mut Stage, file: &str, hosts: &Bare) -> Result<()> {
    let other = stage.quorate(&["drill", "run", "freeze", "--cluster", "prod", "-f", file])?;
    stage.check_eq(
        "a drill of another cluster than the file's: exit code",
        &other.status.code(),
        &Some(2),
    );
    hosts.power_off("cp-3")?;
    let broken = stage.quorate(&["drill", "run", "power-loss", "-f", file])?;
    stage.check_eq(
        "a drill of a cluster that is not whole: exit code",
        &broken.status.code(),
        &Some(3),
    );
    stage.check(
        "and nobody else lost power",
        ["cp-1", "cp-2"]
            .iter()
            .all(|host| hosts.holds(host, "true")),
    );
    stage.check(
        "and it is said why",
        said(&broken).contains("not healthy to begin with"),
    );
    hosts.power_on("cp-3")?;
    healthy(stage, file, Duration::from_secs(180))
}
