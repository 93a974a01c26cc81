//! Looking at everything: all hosts side by side, each with a deadline. Start at [`observe`].

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use futures_util::future::{join, join_all};
use quorate_plan::{
    Intent, Missing, NodeName, Observation, Planning, Refusal, Seen,
    kubeadm::dns_address,
    observation::{HostFacts, HostReport, InfraView, Look, Power, Sightings, Target},
    plan,
    plan::Waiting,
    spec::EtcdDevice,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    pace,
    seam::{Hosts, Infra, World},
};

/// How long one look may take before the rest goes on without that host. A host that answers takes a fraction of a second; the first
/// look at a new host brings the binary along, and goes on in the background when this is not enough.
pub const LOOK_MAX: Duration = Duration::from_secs(60);

/// What a host is asked to look at beyond itself, for this intent.
pub fn look_for(intent: &Intent) -> Look {
    Look {
        cluster: intent.spec.name.clone(),
        endpoint: Some(intent.spec.endpoint.clone()),
        dns: dns_address(&intent.spec.network.services),
        etcd_device: None,
        conversion: intent.conversion_look(),
    }
}

/// The block devices that masters are asked about besides, see [`Look::etcd_device`].
pub fn etcd_devices(intent: &Intent) -> BTreeMap<NodeName, EtcdDevice> {
    let machines = intent.spec.machines();
    machines
        .filter_map(|(node, machine, _)| Some((node.clone(), machine.etcd_device.clone()?)))
        .collect()
}

/// Looks at everything once: the machines first, then all hosts whose machine may answer, side by side.
///
/// A host that is not made yet is known to be blank, so that a plan can be made before there are machines. One that is switched off or
/// frozen is not asked, and says so.
pub async fn observe<H: Hosts, I: Infra>(world: &World<H, I>, intent: &Intent) -> Observation {
    Sight::look(world, intent).await.now().clone()
}

/// How long it is reasonable to wait for what is on its way, before anything was done.
pub(crate) fn arriving_max(seen: &Observation) -> Duration {
    let boots = |host: &Seen<HostFacts>| {
        host.get()
            .is_ok_and(|facts| matches!(facts.booting, Seen::Known { value: true, .. }))
    };
    if seen.hosts.values().any(boots) {
        pace::BOOT_MAX
    } else {
        pace::VERDICT_MAX
    }
}

/// Looks and plans; and looks again for a while as long as the plan only waits: for hosts that boot, or to see whether somebody who does
/// not answer is gone, since one look that failed says nothing about that. What such hosts run gets a while to come up after them. `tell`
/// hears what is waited for, and for how long at most.
pub async fn consider<H: Hosts, I: Infra>(
    world: &World<H, I>,
    intent: &Intent,
    tell: &mut dyn FnMut(&[Waiting], Duration),
) -> (Observation, Planning) {
    let began = Instant::now();
    let mut pause = pace::LOOK_PAUSE_MIN;
    let mut arrived: Option<Instant> = None;
    let mut told: Option<(Vec<Waiting>, Instant)> = None;
    loop {
        let mut sight = Sight::look(world, intent).await;
        let seen = sight.now();
        let planning = plan(intent, seen);
        let (for_what, since, at_most) = match (arriving(&planning), arrived) {
            (Some(waiting), _) => {
                arrived = Some(Instant::now());
                (waiting, began, arriving_max(seen))
            }
            (None, Some(arrived)) => match coming_up(&planning) {
                Some(waiting) => (waiting, arrived, pace::SETTLING_MAX),
                None => return (seen.clone(), planning),
            },
            (None, None) => return (seen.clone(), planning),
        };
        if since.elapsed() >= at_most {
            return (seen.clone(), planning);
        }
        let news = told
            .as_ref()
            .is_none_or(|(before, at)| *before != for_what || at.elapsed() >= pace::EXCUSE_EVERY);
        if news && began.elapsed() >= pace::NEWS_AFTER {
            tell(&for_what, at_most);
            told = Some((for_what, Instant::now()));
        }
        sleep(pause).await;
        pause = pace::longer(pause);
    }
}

/// What a planning waits for that does nothing else.
fn arriving(planning: &Planning) -> Option<Vec<Waiting>> {
    let waits =
        planning.plan.is_empty() && planning.refused.is_empty() && !planning.waiting.is_empty();
    waits.then(|| planning.waiting.clone())
}

/// What of a planning comes about by itself on hosts that have just come: etcd elects, apiservers start.
fn coming_up(planning: &Planning) -> Option<Vec<Waiting>> {
    let missing: Option<Vec<Waiting>> = planning
        .refused
        .iter()
        .map(|refusal| match refusal {
            Refusal::Missing { missing } => Some(missing.clone().into()),
            _ => None,
        })
        .collect();
    match missing {
        Some(missing) if !missing.is_empty() => Some(missing),
        Some(_) if planning.plan.begins_with_waiting() => {
            let first = planning.plan.stages.first()?;
            let steps = first.steps.iter().map(|step| Waiting {
                on: step.on.clone(),
                what: step.ensure.to_string(),
            });
            Some(steps.collect())
        }
        Some(_) | None => None,
    }
}

/// How often each host was looked at, and answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Looks(Rc<RefCell<BTreeMap<NodeName, (Sightings, Instant)>>>);

impl Looks {
    fn note(&self, node: &NodeName, answered: bool, at: Instant) {
        let mut looks = self.0.borrow_mut();
        let (sightings, last) = looks
            .entry(node.clone())
            .or_insert_with(|| (Sightings::default(), at));
        sightings.look(answered, at.saturating_duration_since(*last));
        *last = at;
    }

    fn told(&self) -> BTreeMap<NodeName, Sightings> {
        let looks = self.0.borrow();
        looks
            .iter()
            .map(|(node, (sightings, _))| (node.clone(), *sightings))
            .collect()
    }
}

/// An observation that knows when each of its parts was seen, so that it can be used a while later without pretending to be fresh.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// With the ages that its parts had at `aged_at`.
    seen: Observation,
    hosts_at: BTreeMap<NodeName, Instant>,
    infra_at: Instant,
    targets_at: Instant,
    aged_at: BTreeMap<NodeName, Instant>,
    infra_aged_at: Instant,
    targets_aged_at: Instant,
    /// When everything was last looked at together.
    pub(crate) whole_at: Instant,
    /// All there were, this look included.
    looks: Looks,
}

impl Sight {
    pub(crate) async fn look<H: Hosts, I: Infra>(world: &World<H, I>, intent: &Intent) -> Self {
        let infra = world.infra.observe().await;
        let infra_at = Instant::now();
        let nodes: BTreeSet<&NodeName> = intent.machines().map(|(node, ..)| node).collect();
        let reports = join_all(nodes.into_iter().map(async |node| {
            let report = report(&world.hosts, node, infra.get(node)).await;
            (node, report, Instant::now())
        }));
        let targets = async { (world.infra.targets().await, Instant::now()) };
        let (reports, (targets, targets_at)) = join(reports, targets).await;
        let mut sight = Self {
            seen: Observation {
                infra,
                targets,
                ..Observation::default()
            },
            hosts_at: BTreeMap::new(),
            infra_at,
            targets_at,
            aged_at: BTreeMap::new(),
            infra_aged_at: infra_at,
            targets_aged_at: targets_at,
            whole_at: Instant::now(),
            looks: world.looks.clone(),
        };
        for (node, report, at) in reports {
            sight.record_at(node, report, at);
        }
        sight
    }

    /// Looks at one machine again: at itself, and at what makes it.
    pub(crate) async fn look_at<H: Hosts, I: Infra>(
        world: &World<H, I>,
        node: &NodeName,
        with_infra: bool,
    ) -> Glance {
        let infra = if with_infra {
            Some(world.infra.observe().await)
        } else {
            None
        };
        let machine = infra.as_ref().and_then(|infra| infra.get(node));
        let report = report(&world.hosts, node, machine).await;
        Glance {
            node: node.clone(),
            report,
            infra,
            at: Instant::now(),
        }
    }

    /// Looks again at what the cloud's balancer says.
    pub(crate) async fn look_at_targets<H: Hosts, I: Infra>(
        world: &World<H, I>,
    ) -> (BTreeMap<NodeName, Seen<Target>>, Instant) {
        (world.infra.targets().await, Instant::now())
    }

    pub(crate) fn take_in_targets(
        &mut self,
        (targets, at): (BTreeMap<NodeName, Seen<Target>>, Instant),
    ) {
        self.seen.targets = targets;
        self.targets_at = at;
        self.targets_aged_at = at;
    }

    pub(crate) fn take_in(&mut self, glance: Glance) {
        if let Some(infra) = glance.infra {
            self.seen.infra = infra;
            self.infra_at = glance.at;
            self.infra_aged_at = glance.at;
        }
        self.record_at(&glance.node, glance.report, glance.at);
    }

    /// A host's answer, just now.
    pub(crate) fn record(&mut self, node: &NodeName, report: HostReport) {
        self.record_at(node, Seen::now(report), Instant::now());
    }

    fn record_at(&mut self, node: &NodeName, report: Seen<HostReport>, at: Instant) {
        let answered = match &report {
            Seen::Known { .. } => true,
            Seen::Unknown(_) => false,
        };
        self.looks.note(node, answered, at);
        self.seen.record(node, report);
        self.hosts_at.insert(node.clone(), at);
        self.aged_at.insert(node.clone(), at);
    }

    /// Takes over what `other` saw later than this.
    pub(crate) fn merge(&mut self, other: Self) {
        let newer: BTreeSet<NodeName> = self
            .hosts_at
            .iter()
            .filter(|(node, at)| other.hosts_at.get(*node).is_none_or(|other| other < at))
            .map(|(node, _)| node.clone())
            .collect();
        let before = std::mem::replace(self, other);
        for node in newer {
            let Observation {
                hosts, etcd, api, ..
            } = &before.seen;
            copy(&mut self.seen.hosts, hosts, &node);
            copy(&mut self.seen.etcd, etcd, &node);
            copy(&mut self.seen.api, api, &node);
            self.hosts_at.insert(node.clone(), before.hosts_at[&node]);
            self.aged_at.insert(node.clone(), before.aged_at[&node]);
        }
        if before.infra_at > self.infra_at {
            self.seen.infra = before.seen.infra;
            self.infra_at = before.infra_at;
            self.infra_aged_at = before.infra_aged_at;
        }
        if before.targets_at > self.targets_at {
            self.seen.targets = before.seen.targets;
            self.targets_at = before.targets_at;
            self.targets_aged_at = before.targets_aged_at;
        }
    }

    /// What was seen, with the ages it has by now.
    pub(crate) fn now(&mut self) -> &Observation {
        let now = Instant::now();
        let since = |node: &NodeName| {
            self.aged_at
                .get(node)
                .map_or(Duration::ZERO, |at| now.saturating_duration_since(*at))
        };
        let seen = &mut self.seen;
        seen.sightings = self.looks.told();
        age(&mut seen.hosts, since);
        age(&mut seen.etcd, since);
        age(&mut seen.api, since);
        age(&mut seen.infra, |_| {
            now.saturating_duration_since(self.infra_aged_at)
        });
        age(&mut seen.targets, |_| {
            now.saturating_duration_since(self.targets_aged_at)
        });
        self.aged_at.values_mut().for_each(|at| *at = now);
        self.infra_aged_at = now;
        self.targets_aged_at = now;
        &self.seen
    }
}

/// One look at one machine.
pub(crate) struct Glance {
    node: NodeName,
    report: Seen<HostReport>,
    infra: Option<BTreeMap<NodeName, Seen<InfraView>>>,
    at: Instant,
}

fn copy<T: Clone>(to: &mut BTreeMap<NodeName, T>, from: &BTreeMap<NodeName, T>, node: &NodeName) {
    if let Some(value) = from.get(node) {
        to.insert(node.clone(), value.clone());
    }
}

fn age<T>(seen: &mut BTreeMap<NodeName, Seen<T>>, by: impl Fn(&NodeName) -> Duration) {
    for (node, seen) in seen {
        seen.grow_older(by(node));
    }
}

async fn report<H: Hosts>(
    hosts: &H,
    node: &NodeName,
    machine: Option<&Seen<InfraView>>,
) -> Seen<HostReport> {
    let power = match machine {
        Some(Seen::Known { value, .. }) => Some(value.power),
        // The provider does not know: the host may.
        Some(Seen::Unknown(_)) | None => None,
    };
    let held = |state: &str| {
        Seen::Unknown(Missing::not_looked(format!(
            "host {node}, whose machine is {state},"
        )))
    };
    match power {
        Some(Power::Absent) => Seen::now(HostReport {
            facts: HostFacts::blank(node),
            etcd: Seen::now(None),
            api: Seen::now(None),
        }),
        Some(Power::Off) => held("switched off"),
        Some(Power::Frozen) => held("frozen"),
        Some(Power::Running) | None => {
            timeout(LOOK_MAX, hosts.report(node))
                .await
                .unwrap_or_else(|_| {
                    Seen::Unknown(Missing::not_yet(
                        format!("host {node}"),
                        format!("no answer within {} s", LOOK_MAX.as_secs()),
                    ))
                })
        }
    }
}
