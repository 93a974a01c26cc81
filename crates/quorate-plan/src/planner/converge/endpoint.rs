//! What goes through the endpoint waits until it leads to an apiserver. Start at [`Convergence::endpoint_leads`].

use std::collections::BTreeSet;

use super::Convergence;
use crate::{
    NodeName, Refusal, Spec,
    observation::{EndpointAnswer, EndpointSight},
    planner::Draft,
    standing::Standing,
    step::{Ensure, HostEnsure, Place, Step},
};

impl Convergence<'_> {
    /// Refuses what has to go through the endpoint while nobody answers there, although apiservers are ready: it would wait in vain, and say
    /// less about why. Only when it is their turn: until then the balancer may have nobody to lead to.
    pub(super) fn endpoint_leads(&self, draft: &mut Draft, steps: &[Step]) {
        if !draft.planning_stages.is_empty() || !matches!(self.seen.api(), Ok(Some(_))) {
            return;
        }
        let masters = || self.spec.control_plane.keys();
        // Some balancers do not lead a master back to itself, so one that gets an answer speaks for all of them.
        let led = masters().any(|node| {
            let sight = self.endpoint_sight(node);
            matches!(
                sight.map(|sight| &sight.answer),
                Some(EndpointAnswer::Apiserver(_))
            )
        });
        let from_masters = || masters().filter(|node| !led && self.hears_nobody(node));
        let mut silent: BTreeSet<&NodeName> = BTreeSet::new();
        for step in steps {
            let (Place::Host(node), Standing::Open(_)) = (&step.on, step.standing(self.seen))
            else {
                continue;
            };
            match &step.ensure {
                // kube-proxy finds the apiservers through the endpoint, and pod networks find them through kube-proxy.
                Ensure::Host(HostEnsure::Network { .. }) => silent.extend(from_masters()),
                Ensure::Host(HostEnsure::Worker { .. }) => {
                    match self.endpoint_sight(node).map(|sight| &sight.answer) {
                        Some(EndpointAnswer::Nobody) => {
                            silent.insert(node);
                        }
                        // It cannot tell who: the masters can.
                        Some(EndpointAnswer::Somebody) => silent.extend(from_masters()),
                        Some(EndpointAnswer::Apiserver(_)) | None => {}
                    }
                }
                Ensure::Host(_) | Ensure::Infra(_) => {}
            }
        }
        if silent.is_empty() {
            return;
        }
        let resolves = silent.iter().filter_map(|node| self.endpoint_sight(node));
        draft.refuse(Refusal::EndpointSilent {
            endpoint: self.spec.endpoint.to_string(),
            resolves: resolves
                .flat_map(|sight| &sight.resolves)
                .copied()
                .collect(),
            backends: self
                .spec
                .control_plane
                .iter()
                .map(|(node, machine)| (node.clone(), Spec::apiserver(machine)))
                .collect(),
            nodes: silent.into_iter().cloned().collect(),
        });
    }

    fn hears_nobody(&self, node: &NodeName) -> bool {
        let sight = self.endpoint_sight(node);
        matches!(
            sight.map(|sight| &sight.answer),
            Some(EndpointAnswer::Nobody)
        )
    }

    /// `None`: nobody looked.
    fn endpoint_sight(&self, node: &NodeName) -> Option<&EndpointSight> {
        self.seen.host(node).ok()?.endpoint.get().ok()?.as_ref()
    }
}
