//! `cargo xtask bench convert`: somebody else's single master becomes three under load at its old and its new address, round after round, each
//! on hosts of its own: how long nobody got an answer, how many requests failed, and what each stage of the plan took.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use quorate_drill::timeline::Summary;
use quorate_testkit::conform::Happened;
use serde_json::Value;

use crate::{
    bench::{self, Figures},
    bring_up::healthy,
    conversion::{
        MASTERS, STRAGGLER, api, balancer, cluster_file, new_kubeconfig, old_kubeconfig, trusted,
    },
    foreign::{Foreign, Shape, WORKERS},
    load::{Load, STREAMS},
    stage::Stage,
};

pub const NAME: &str = "bench-convert";
const SUBNET: &str = "172.31.78.0/24";

/// Conversions, when `QUORATE_ROUNDS` says nothing else.
const ROUNDS: usize = 5;

/// No stream of requests shall see nothing for longer.
const GAP_TARGET_MS: u64 = 1_000;

/// From this share of the processors that others use on, gaps are theirs, too.
const BUSY: f64 = 0.1;

/// One conversion.
struct Round {
    /// What each stream of requests saw, by the address that it used.
    seen: [(&'static str, [Summary; 3]); 2],
    /// Stages with their seconds, in order.
    stages: Vec<(String, f64)>,
    /// The share of the processors that others used before.
    busy: f64,
}

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let rounds = bench::rounds(ROUNDS)?;
    let mut all = Vec::new();
    for number in 0..rounds {
        if number > 0 {
            stage.succeed(&["local", "destroy", "--cluster", NAME, "--yes"])?;
            stage.tell(NAME, Happened::AllDestroyed);
            let pinned = format!("state/quorate/clusters/{NAME}/known_hosts");
            fs::remove_file(stage.directory.join(pinned))?;
        }
        all.push(convert(stage)?);
    }
    tell(&all)
}

fn convert(stage: &mut Stage) -> Result<Round> {
    let busy = busy()?;
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    let old = old_kubeconfig(stage, hosts)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let part_old = ("at the old address", at_old.now());
    let pause = ["convert", "--pause-after", "certificate", "--yes"];
    stage.succeed(&[&pause[..], &["-f", file]].concat())?;
    let mut stages = stages(stage, file)?;
    let new = new_kubeconfig(stage, &old, file)?;
    let at_new = Load::start_at(&new, Some(balancer(hosts)?), "quorate-live-new")?;
    let part_new = ("at the new address", at_new.now());
    stage.succeed(&["convert", "--accept", STRAGGLER, "--yes", "-f", file])?;
    let (seen_old, seen_new) = (
        at_old.finish_measured(stage, part_old)?,
        at_new.finish_measured(stage, part_new)?,
    );
    stages.extend(self::stages(stage, file)?);
    healthy(stage, file, Duration::from_secs(120))?;
    api(stage, hosts, file, NAME)?.whole(stage, hosts, &MASTERS, &WORKERS)?;
    Ok(Round {
        seen: [(part_old.0, seen_old), (part_new.0, seen_new)],
        stages,
        busy,
    })
}

/// Stages of the last run with their seconds: each is over when the next one begins, or the run ends.
fn stages(stage: &Stage, file: &str) -> Result<Vec<(String, f64)>> {
    let output = stage.quorate(&["journal", "show", "-o", "json", "-f", file])?;
    let journal: Value = serde_json::from_slice(&output.stdout)?;
    let entries = journal["items"].as_array().context("it has entries")?;
    let mut stages = Vec::new();
    let mut begun: Option<(String, u64)> = None;
    for entry in entries {
        let (event, at) = (&entry["event"], entry["at"].as_u64().context("a time")?);
        let (begins, ends) = (event["event"] == "stageStarted", event["event"] == "ended");
        if !begins && !ends {
            continue;
        }
        if let Some((title, since)) = begun.take() {
            stages.push((title, at.saturating_sub(since) as f64 / 1000.0));
        }
        if begins {
            let title = event["title"].as_str().context("a stage has a title")?;
            begun = Some((title.to_owned(), at));
        }
    }
    Ok(stages)
}

fn tell(rounds: &[Round]) -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg")?;
    println!(
        "a live single master becomes three, {} rounds; load average {}",
        rounds.len(),
        load.trim()
    );
    let busiest = rounds.iter().map(|round| round.busy).fold(0.0, f64::max);
    if busiest > BUSY {
        println!(
            "NOT QUIET: before a round others used {:.0} % of this machine's processors, and gaps are longer for it",
            100.0 * busiest
        );
    }
    println!("longest time without an answer (target: below {GAP_TARGET_MS} ms)");
    let mut failed = Vec::new();
    for (at, (address, _)) in rounds[0].seen.iter().enumerate() {
        for (number, stream) in STREAMS.into_iter().enumerate() {
            let all = rounds.iter().map(|round| &round.seen[at].1[number]);
            let gaps: Vec<u64> = all.clone().map(|seen| seen.longest_gap_ms).collect();
            let worst = gaps.iter().max().copied().unwrap_or_default();
            let met = if worst < GAP_TARGET_MS {
                "met"
            } else {
                "missed"
            };
            println!("  {address}, {stream:<17} {met:<6} {worst} ms of {gaps:?}");
            failed.push((
                format!("{address}, {stream}"),
                all.clone().map(|seen| seen.requests).sum::<usize>(),
                all.clone().map(|seen| seen.failed).sum::<usize>(),
                all.map(|seen| seen.failed_after_retry).sum::<usize>(),
            ));
        }
    }
    println!("failed requests (target: none after one retry)");
    for (stream, requests, once, twice) in failed {
        let met = if twice == 0 { "met" } else { "missed" };
        println!("  {stream:<37} {met:<6} {twice} of {requests}, {once} before a retry");
    }
    println!("what each stage took");
    let mut titles: Vec<&str> = Vec::new();
    for (title, _) in rounds.iter().flat_map(|round| &round.stages) {
        if !titles.contains(&title.as_str()) {
            titles.push(title);
        }
    }
    for title in titles {
        let took = |round: &Round| {
            let of_it = round.stages.iter().filter(|(one, _)| one == title);
            of_it.map(|(_, took_s)| took_s).sum()
        };
        let figures = Figures::of(rounds.iter().map(took).collect());
        println!("  {title:<45} {figures}");
    }
    Ok(())
}

/// The share of the processors that is used in a second in which nothing of this is done.
fn busy() -> Result<f64> {
    let ticks = || -> Result<(f64, f64)> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("there are processors")?;
        let all: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .map(|cell| Ok(cell.parse()?))
            .collect::<Result<_>>()?;
        // The fourth and the fifth are idle, and idle for a disk.
        Ok((all.iter().sum(), all[3] + all[4]))
    };
    let (all, idle) = ticks()?;
    std::thread::sleep(Duration::from_secs(1));
    let (all_then, idle_then) = ticks()?;
    Ok(1.0 - (idle_then - idle) / (all_then - all).max(1.0))
}
