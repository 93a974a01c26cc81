//! Masters that balance themselves, behind an address that they share: who takes part in it, and when. Start at [`Convergence::share`].
//!
//! A host listens to its peers before it may hold the address, and its peers know of it before that: otherwise two would hold it at once. That
//! does no harm to the cluster (both lead to the same apiservers) and costs those who are connected. So peers are added before a host begins, and
//! taken off after it ended.

use std::collections::BTreeSet;

use super::Convergence;
use crate::{
    NodeName, Seen,
    kubeadm::Peer,
    planner::{
        Draft,
        leaving::{Leaver, Way},
    },
    step::{HostEnsure, Reason, Step},
};

const TITLE: &str = "Share the endpoint's address";

impl Convergence<'_> {
    /// Hosts that balance, as far as steps are for them. A master that is silent does not hold up the others: it is told when it is back.
    pub(in crate::planner) fn balancers(&self) -> impl Iterator<Item = &NodeName> {
        let are_masters = self.spec.shared_address().is_some();
        self.spec
            .balancers()
            .map(|(node, _)| node)
            .filter(move |node| !are_masters || self.seen.host(node).is_ok())
    }

    /// These masters take part in the shared address, once their balancers have somebody to lead to.
    pub(in crate::planner) fn share(&self, draft: &mut Draft, nodes: &BTreeSet<NodeName>) {
        let steps = nodes
            .iter()
            .filter_map(|node| self.shared_address(&self.peer(node), &BTreeSet::new()));
        draft.stage(self.seen, TITLE, None, steps.collect());
    }

    /// A joiner takes part, after those who do already know of it. `leavers` are still to go.
    pub(in crate::planner) fn share_as_well(
        &self,
        draft: &mut Draft,
        node: &NodeName,
        leavers: &BTreeSet<Peer>,
    ) {
        let others = self.voters.iter().filter(|other| *other != node);
        let others = others.map(|other| self.peer(other)).chain(leavers.clone());
        let shares = |other: &Peer| {
            let sharing = self.seen.host(&other.name).map(|facts| &facts.sharing);
            matches!(sharing, Ok(Seen::Known { value, .. }) if value.share.is_some())
        };
        let steps = others
            .filter(shares)
            .filter_map(|other| self.shared_address(&other, &BTreeSet::new()))
            .filter(|step| !draft.plans(step));
        let steps = steps.collect();
        let title = format!("Tell those who share the address of {node}");
        draft.stage(self.seen, &title, None, steps);
        let step = self.shared_address(&self.peer(node), leavers);
        draft.stage(self.seen, TITLE, None, step.into_iter().collect());
    }

    /// `None`: the masters share no address.
    fn shared_address(&self, node: &Peer, leavers: &BTreeSet<Peer>) -> Option<Step> {
        let ensure = HostEnsure::SharedAddress {
            node: node.clone(),
            address: self.spec.shared_address()?,
            port: self.spec.endpoint.port,
            peers: self.spec.peers().union(leavers).cloned().collect(),
        };
        Some(self.host(&node.name, ensure, Reason::Ready))
    }

    /// Those of the leavers that may hold the address until they go.
    pub(in crate::planner) fn sharers<'l>(
        &self,
        leavers: impl Iterator<Item = &'l Leaver>,
    ) -> BTreeSet<Peer> {
        leavers
            .filter(|leaver| leaver.way == Way::Politely)
            .filter_map(|leaver| {
                Some(Peer {
                    name: leaver.node.clone()?,
                    address: *leaver.addresses.first()?,
                })
            })
            .collect()
    }

    /// What is given up before a leaver goes: its part in the address, that of those who are next to go, and its backends. Nothing where no address
    /// is shared.
    ///
    /// Masters that balance tell of etcd as well. They are asked before leadership moves: what they tell of it right then is not one picture.
    pub(in crate::planner) fn give_up<'l>(
        &self,
        draft: &Draft,
        leaver: &Leaver,
        next_to_go: impl IntoIterator<Item = &'l Leaver>,
        because: &Reason,
    ) -> Vec<Step> {
        let others = next_to_go.into_iter();
        let others = others.filter_map(|other| self.unshare(other, because.clone()));
        let own = self.unshare(leaver, because.clone());
        let mut steps: Vec<Step> = own.into_iter().chain(others).collect();
        if !steps.is_empty() {
            steps.extend(self.backend_gone(leaver, because.clone()));
        }
        steps.retain(|step| !draft.plans(step));
        steps
    }

    /// A host that answers gives the address up before its apiserver ends.
    fn unshare(&self, leaver: &Leaver, because: Reason) -> Option<Step> {
        self.spec.shared_address()?;
        match leaver.way {
            Way::Politely | Way::Sick => {}
            // It is reset, if it answers at all.
            Way::Silently(_) | Way::Left => return None,
        }
        let gone = HostEnsure::SharedAddressGone {};
        Some(self.host(leaver.node.as_ref()?, gone, because))
    }

    /// Whoever left for good is nobody's peer.
    pub(in crate::planner) fn peer_gone(&self, leaver: &Leaver) -> Vec<Step> {
        let (Some(_), Some(peer)) = (self.spec.shared_address(), &leaver.node) else {
            return Vec::new();
        };
        // One that comes back, made anew, has the address that its peers know.
        if self.spec.machine(peer).is_some() {
            return Vec::new();
        }
        self.balancers()
            .map(|node| {
                let gone = HostEnsure::SharedAddressPeerGone { peer: peer.clone() };
                self.host(node, gone, Reason::LeftBehind)
            })
            .collect()
    }
}
