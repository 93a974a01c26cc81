//! The drill `power-loss`: one host stops abruptly (or freezes) under load, stays away for a while, and comes back.

use std::{net::SocketAddr, time::Duration};

use quorate_exec::{Hosts, Infra, World, observe};
use quorate_kube::{KubeError, Kubeconfig};
use quorate_plan::{
    Intent, NodeName, Observation,
    assessment::{Assessment, Health, assess},
    quorum::Quorum,
};
use tokio::time::Instant;

use crate::{
    fault::{Fault, FaultError, Faults},
    history::{self, Outcome},
    probe::{PERIOD, Probe, Seen},
    report::Report,
};

/// Which host is struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The host that leads etcd.
    Leader,
    /// A control plane host that does not lead: the last by name.
    Follower,
    /// That one.
    Node(NodeName),
}

/// A drill.
#[derive(Clone, Debug)]
pub struct Drill {
    /// What is done.
    pub fault: Fault,
    /// To which host.
    pub target: Target,
    /// Load before the fault: what is normal shows first.
    pub before: Duration,
    /// How long the host stays away at least.
    pub away: Duration,
    /// The cluster was named by the operator: it is drilled without a disposable mark.
    pub named: bool,
    /// Name of the namespace it writes to; it is deleted afterwards.
    pub namespace: String,
}

/// How long the cluster may take to be whole again after the host is back: booting, etcd catching up, Node conditions.
const WHOLE_MAX: Duration = Duration::from_secs(240);

/// How long streams may take to succeed again after the fault before the drill goes on without them.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

/// Why a drill did not run.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The cluster is not marked as disposable.
    #[error(
        "{node} carries no disposable mark: a drill breaks hosts; name the cluster with --cluster {cluster} to drill it all the same"
    )]
    NotDisposable {
        /// A host without it.
        node: NodeName,
        /// The cluster's name.
        cluster: String,
    },
    /// It was not whole to begin with.
    #[error("the cluster is not healthy to begin with: {}", problems(.assessment))]
    NotHealthy {
        /// What was seen.
        assessment: Box<Assessment>,
    },
    /// The host is none of the masters, or no leader was seen.
    #[error("there is no such target: {what}")]
    NoTarget {
        /// What was looked for.
        what: String,
    },
    /// A fault could not be made or mended.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The API could not be used.
    #[error("failed to {what}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: KubeError,
    },
    /// It did not come back.
    #[error("the cluster was not whole again within {} s: {}", WHOLE_MAX.as_secs(), problems(.assessment))]
    NotWhole {
        /// What was seen last.
        assessment: Box<Assessment>,
    },
}

fn problems(assessment: &Assessment) -> String {
    let mut texts: Vec<String> = assessment
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.on, problem.what))
        .collect();
    texts.extend(assessment.unseen.iter().map(ToString::to_string));
    texts.truncate(4);
    texts.join("; ")
}

/// Runs it. `tell` gets a line for every phase.
///
/// The host is mended again whatever happens after the fault was made.
///
/// # Errors
/// See [`DrillError`]. Rules that did not hold are no error: they are in the report.
pub async fn run<H: Hosts, I: Infra>(
    drill: &Drill,
    intent: &Intent,
    world: &World<H, I>,
    faults: &impl Faults,
    kubeconfig: &Kubeconfig,
    address: Option<SocketAddr>,
    tell: &mut dyn FnMut(String),
) -> Result<Report, DrillError> {
    let seen = observe(world, intent).await;
    ready(drill, intent, &seen)?;
    let (node, led_etcd) = target(drill, intent, &seen)?;
    tell(format!(
        "probing through the endpoint for {} s",
        drill.before.as_secs()
    ));
    let probe = Probe::start(kubeconfig, address, &drill.namespace)
        .await
        .map_err(|source| DrillError::Api {
            what: "begin to probe",
            source,
        })?;
    tokio::time::sleep(drill.before).await;

    tell(format!(
        "{} of {node}{}",
        drill.fault,
        if led_etcd { ", which leads etcd" } else { "" }
    ));
    let struck = probe.now();
    let outcome = away(drill, &probe, faults, &node, struck, tell).await;
    // Mended first, reported after: a drill leaves no host broken behind.
    let mended = probe.now();
    tell(format!("mending {node}"));
    let mending = faults.mend(drill.fault, &node).await;
    let recovered = outcome?;
    mending?;

    let back = Instant::now();
    let whole = whole_again(intent, world, tell).await;
    let whole_after = back.elapsed();
    // The return may cost something too; what it costs shows a little later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ended = probe.now();
    tell("reading everything back".into());
    let (seen, found) = probe.finish().await.map_err(|source| DrillError::Api {
        what: "read back what was written",
        source,
    })?;
    let cleaned = Probe::clean_up(kubeconfig, address, &drill.namespace).await;
    whole?;
    cleaned.map_err(|source| DrillError::Api {
        what: "delete the drill's namespace",
        source,
    })?;
    let violations = history::check(&seen.writes, &found, &seen.watched);
    Ok(report(
        drill,
        intent,
        &node,
        led_etcd,
        &seen,
        violations,
        [struck, mended, ended],
        recovered,
        whole_after,
    ))
}

fn ready(drill: &Drill, intent: &Intent, seen: &Observation) -> Result<(), DrillError> {
    for (node, ..) in intent.spec.machines() {
        let disposable = match seen.host(node).and_then(|facts| facts.mark.get()) {
            Ok(Some(mark)) => mark.disposable,
            Ok(None) => false,
            // Not seen is not without a mark: the assessment below says what is wrong with that host, and refuses.
            Err(_) => continue,
        };
        if !disposable && !drill.named {
            return Err(DrillError::NotDisposable {
                node: node.clone(),
                cluster: intent.spec.name.to_string(),
            });
        }
    }
    let assessment = assess(intent, seen);
    match assessment.health {
        Health::Healthy => Ok(()),
        Health::Degraded | Health::QuorumLost | Health::Absent | Health::Unseen => {
            Err(DrillError::NotHealthy {
                assessment: Box::new(assessment),
            })
        }
    }
}

fn target(
    drill: &Drill,
    intent: &Intent,
    seen: &Observation,
) -> Result<(NodeName, bool), DrillError> {
    let leader = Quorum::of(seen).ok().flatten().and_then(|quorum| {
        let member = quorum.members.get(&quorum.leader?)?.clone();
        intent
            .spec
            .peers()
            .into_iter()
            .find(|peer| member.peer_urls.contains(&peer.peer_url()))
            .map(|peer| peer.name)
    });
    let leader = leader.ok_or_else(|| DrillError::NoTarget {
        what: "etcd's leader".into(),
    })?;
    let node = match &drill.target {
        Target::Leader => leader.clone(),
        Target::Follower => {
            let follower = intent
                .spec
                .control_plane
                .keys()
                .rev()
                .find(|node| **node != leader);
            follower.cloned().ok_or_else(|| DrillError::NoTarget {
                what: "a master that does not lead".into(),
            })?
        }
        Target::Node(node) if intent.spec.control_plane.contains_key(node) => node.clone(),
        Target::Node(node) => {
            return Err(DrillError::NoTarget {
                what: format!("{node} among the masters"),
            });
        }
    };
    let led = node == leader;
    Ok((node, led))
}

/// Strikes and waits until every stream succeeded again, and at least as long as the drill says. Returns how long the streams took.
async fn away(
    drill: &Drill,
    probe: &Probe,
    faults: &impl Faults,
    node: &NodeName,
    struck: Duration,
    tell: &mut dyn FnMut(String),
) -> Result<Duration, DrillError> {
    faults.strike(drill.fault, node).await?;
    // An answer that was on its way does not count: a stream is back when a request sent after the fault was whole succeeds.
    let whole = probe.now();
    let recovered = loop {
        if probe.all_succeeded_after(whole).await {
            break probe.now() - struck;
        }
        if probe.now() - struck > RECOVERY_MAX {
            tell(format!(
                "not every stream has succeeded again after {} s",
                RECOVERY_MAX.as_secs()
            ));
            break RECOVERY_MAX;
        }
        tokio::time::sleep(PERIOD).await;
    };
    tokio::time::sleep(drill.away.saturating_sub(probe.now() - struck)).await;
    Ok(recovered)
}

async fn whole_again<H: Hosts, I: Infra>(
    intent: &Intent,
    world: &World<H, I>,
    tell: &mut dyn FnMut(String),
) -> Result<(), DrillError> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let assessment = assess(intent, &observe(world, intent).await);
        match assessment.health {
            Health::Healthy => return Ok(()),
            Health::Degraded | Health::QuorumLost | Health::Absent | Health::Unseen => {}
        }
        if began.elapsed() > WHOLE_MAX {
            return Err(DrillError::NotWhole {
                assessment: Box::new(assessment),
            });
        }
        let left = problems(&assessment);
        if left != told {
            tell(format!("waiting: {left}"));
            told = left;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "the parts of one report, put together in one place"
)]
fn report(
    drill: &Drill,
    intent: &Intent,
    node: &NodeName,
    led_etcd: bool,
    seen: &Seen,
    violations: Vec<history::Violation>,
    [struck, mended, ended]: [Duration; 3],
    recovered: Duration,
    whole: Duration,
) -> Report {
    let returned =
        [&seen.new, &seen.kept, &seen.write].map(|timeline| timeline.summary(mended, ended));
    Report {
        api_version: "quorate/v1".into(),
        kind: "DrillReport".into(),
        cluster: intent.spec.name.to_string(),
        fault: drill.fault,
        node: node.clone(),
        led_etcd,
        new_connections: seen.new.summary(struck, mended),
        kept_connection: seen.kept.summary(struck, mended),
        writes: seen.write.summary(struck, mended),
        watch_cuts: seen
            .watch_cuts
            .iter()
            .filter(|cut| **cut > struck && **cut <= mended)
            .count(),
        recovered_ms: recovered.as_millis() as u64,
        whole_ms: whole.as_millis() as u64,
        return_gaps_ms: returned.clone().map(|summary| summary.longest_gap_ms),
        return_failed: returned.iter().map(|summary| summary.failed).sum(),
        acknowledged_writes: seen
            .writes
            .iter()
            .filter(|write| {
                matches!(
                    write.outcome,
                    Outcome::Acknowledged { .. } | Outcome::FoundThere
                )
            })
            .count(),
        unknown_writes: seen
            .writes
            .iter()
            .filter(|write| write.outcome == Outcome::Unknown)
            .count(),
        violations,
        load_average: load_average(),
    }
}

/// As the kernel tells it; empty where it does not.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use quorate_plan::{Fence, plan};
    use quorate_testkit::{
        World,
        fixture::{Cluster, node},
        walk::{take, turns},
    };

    use super::*;

    fn drill() -> Drill {
        Drill {
            fault: Fault::Freeze,
            target: Target::Leader,
            before: Duration::ZERO,
            away: Duration::ZERO,
            named: false,
            namespace: "x".into(),
        }
    }

    /// Why no drill begins on a cluster of that kind, after that happened to it.
    fn refused(cluster: Cluster, change: impl FnOnce(&mut World)) -> Option<DrillError> {
        let intent = cluster.intent();
        let mut world = World::new(&intent.spec);
        let planning = plan(&intent, &world.observe(&intent));
        for (step, change) in turns(&planning.plan) {
            take(&mut world, &intent, step, change, Fence(1)).expect("it is brought up");
        }
        change(&mut world);
        world.settle();
        ready(&drill(), &intent, &world.observe(&intent)).err()
    }

    #[test]
    fn a_drill_begins_on_disposable_clusters_that_are_whole() {
        assert!(refused(Cluster::default(), |_| {}).is_none());
        let theirs = Cluster {
            local: false,
            ..Cluster::default()
        };
        let mark = refused(theirs, |_| {});
        assert!(
            matches!(mark, Some(DrillError::NotDisposable { .. })),
            "{mark:?}"
        );
        // A host that is not seen has no mark to be seen; that is not what is wrong with it.
        let off = refused(Cluster::default(), |world| world.power_off(&node("cp-3")));
        assert!(
            matches!(off, Some(DrillError::NotHealthy { .. })),
            "{off:?}"
        );
    }
}
