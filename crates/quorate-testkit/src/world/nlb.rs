//! A Network Load Balancer at a cloud, as far as decisions are made of it: who is registered, since when, and who gets traffic. It takes and
//! drains targets slowly; its checks can be blind. Start at [`World::targets`].

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{NodeName, Seen, observation::Target, spec::Spec};

use super::World;

/// The balancer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Nlb {
    /// Masters that may be targets: the cloud tells of each of them.
    pub masters: BTreeSet<NodeName>,
    /// Those that are.
    pub registered: BTreeMap<NodeName, Registration>,
    /// How long a target takes until it is probed, and until it is drained, in milliseconds.
    pub slow_ms: u64,
    /// Its probes reach nobody: a security group is in the way.
    pub blind: bool,
    /// Nobody gets an answer from the cloud.
    pub silent: bool,
}

/// A target, and since when, in milliseconds of [`World::now_ms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Registration {
    /// Registered.
    Since(u64),
    /// Being drained.
    Leaving(u64),
}

impl World {
    /// Takes in the balancer of a cluster file.
    pub(super) fn know_nlb(&mut self, spec: &Spec) {
        let named = spec.control_plane.keys();
        let told: BTreeSet<NodeName> = named
            .filter(|node| spec.instance(node).is_some())
            .cloned()
            .collect();
        if !told.is_empty() {
            let nlb = self.nlb.get_or_insert_default();
            nlb.masters.extend(told);
        }
    }

    /// What the cloud tells of every master. Empty where there is no such balancer.
    pub fn targets(&self) -> BTreeMap<NodeName, Seen<Target>> {
        let Some(nlb) = &self.nlb else {
            return BTreeMap::new();
        };
        let masters = nlb.masters.iter();
        masters
            .map(|node| {
                let seen = if nlb.silent {
                    Seen::Unknown(quorate_plan::Missing::no_answer(
                        "the target group",
                        "no answer within 15 s",
                    ))
                } else {
                    Seen::now(self.target(nlb, node))
                };
                (node.clone(), seen)
            })
            .collect()
    }

    fn target(&self, nlb: &Nlb, node: &NodeName) -> Target {
        let over = |since: u64| self.now_ms >= since + nlb.slow_ms;
        let unhealthy = |told: &str| Target::Unhealthy { told: told.into() };
        match nlb.registered.get(node) {
            None => Target::Absent,
            Some(Registration::Leaving(since)) if over(*since) => Target::Absent,
            Some(Registration::Leaving(_)) => Target::Draining,
            Some(Registration::Since(since)) if !over(*since) => {
                unhealthy("initial (Elb.RegistrationInProgress)")
            }
            Some(Registration::Since(_)) => {
                if !nlb.blind && self.api_ready(node).is_some() && self.connected(node, node) {
                    Target::Healthy
                } else {
                    unhealthy("unhealthy (Target.FailedHealthChecks)")
                }
            }
        }
    }

    /// Whether connections may still end at that master.
    pub fn is_target(&self, node: &NodeName) -> bool {
        self.nlb
            .as_ref()
            .is_some_and(|nlb| !matches!(self.target(nlb, node), Target::Absent))
    }

    /// Masters that get new connections because they are healthy.
    pub fn healthy_targets(&self) -> BTreeSet<NodeName> {
        let nlb = self.nlb.iter();
        nlb.flat_map(|nlb| nlb.masters.iter().map(move |node| (nlb, node)))
            .filter(|(nlb, node)| self.target(nlb, node) == Target::Healthy)
            .map(|(_, node)| node.clone())
            .collect()
    }

    /// Registers a target: one that is registered stays so.
    pub fn register(&mut self, node: &NodeName) {
        let now = self.now_ms;
        let nlb = self.nlb.as_mut().expect("a world with such a balancer");
        if !matches!(nlb.registered.get(node), Some(Registration::Since(_))) {
            nlb.registered
                .insert(node.clone(), Registration::Since(now));
            self.led_to(node);
        }
    }

    /// Begins to take a target out.
    pub fn deregister(&mut self, node: &NodeName) {
        let now = self.now_ms;
        let nlb = self.nlb.as_mut().expect("a world with such a balancer");
        if let Some(registration @ Registration::Since(_)) = nlb.registered.get_mut(node) {
            *registration = Registration::Leaving(now);
        }
    }

    /// Who a new connection ends at: a healthy target, or whoever accepts one when there is none.
    pub(super) fn through_nlb(&self, nlb: &Nlb) -> Option<NodeName> {
        let healthy = self.healthy_targets().into_iter().next();
        let mut registered = nlb.registered.keys();
        healthy.or_else(|| {
            registered
                .find(|node| self.is_target(node) && self.readyz(node).is_some())
                .cloned()
        })
    }
}
