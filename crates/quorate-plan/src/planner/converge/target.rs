//! Masters as targets of a cloud's balancer. Start at [`Convergence::target`].

use super::Convergence;
use crate::{
    NodeName,
    planner::Draft,
    seen::Missing,
    spec::BalancerSpec,
    step::{Ensure, InfraEnsure, Place, Reason, Step},
};

impl Convergence<'_> {
    /// A new cluster, or a conversion, is not begun while the cloud's balancer cannot be asked: it would come to a halt at its first master.
    pub(in crate::planner) fn targets_told(&self, draft: &mut Draft) {
        let masters = self.spec.control_plane.keys();
        for node in masters.filter(|node| self.spec.instance(node).is_some()) {
            if let Err(missing) = self.seen.target(node) {
                draft.refuse(missing.into());
            }
        }
    }

    /// Something about a master's target at the cloud's balancer. `None`: there is no such balancer, or nobody told of that master.
    pub(in crate::planner) fn target(
        &self,
        node: &NodeName,
        what: impl Fn(NodeName, String) -> InfraEnsure,
        because: Reason,
    ) -> Option<Step> {
        let instance = self.spec.instance(node)?.to_owned();
        Some(Step {
            on: Place::Operator,
            ensure: Ensure::Infra(what(node.clone(), instance)),
            handover: None,
            because,
        })
    }

    /// A master that serves is not stopped while nobody can say which target of the cloud's balancer it is.
    pub(in crate::planner) fn target_told(&self, draft: &mut Draft, node: &NodeName) {
        match &self.spec.balancer {
            BalancerSpec::Quorate { .. }
            | BalancerSpec::Shared { .. }
            | BalancerSpec::External
            | BalancerSpec::Dns => {}
            BalancerSpec::Nlb { instances, .. } => {
                if !instances.contains_key(node) {
                    let told = "Terraform's output does not name that master: add it again, marked `leaving`";
                    draft.refuse(Missing::no_answer(format!("the target of {node}"), told).into());
                }
            }
        }
    }
}
