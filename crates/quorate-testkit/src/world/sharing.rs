//! The address that masters share: who has a part in it, and who holds it. It takes no time here to move, and it is always the first that may hold it
//! who does: nothing is decided by which one it is.

use std::{collections::BTreeMap, net::IpAddr};

use quorate_plan::{
    HostEnsure, NodeName,
    observation::{Share, Sharing},
};

use super::{
    World,
    act::{ActError, failed, not_yet},
    machine::Machine,
};

const UNIT: &str = "quorate-keepalived";

impl World {
    /// The effect of an end state of the shared address.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn shares(&mut self, node: &NodeName, ensure: &HostEnsure) -> Result<(), ActError> {
        match ensure {
            HostEnsure::Keepalived {} => self.machine_mut(node).disk.sharing.keepalived = true,
            HostEnsure::SharedAddress {
                node: own,
                address,
                port,
                peers,
            } => {
                let machine = self.machine_mut(node);
                if !machine.disk.sharing.keepalived {
                    return Err(failed("keepalived is not installed"));
                }
                let old = machine.disk.sharing.share.take();
                let mut known: BTreeMap<NodeName, IpAddr> =
                    old.map(|share| share.peers).unwrap_or_default();
                let others = peers.iter().filter(|peer| *peer != own);
                known.extend(others.map(|peer| (peer.name.clone(), peer.address)));
                machine.disk.sharing.share = Some(Share {
                    address: *address,
                    port: *port,
                    peers: known,
                    intact: true,
                    active: false,
                    redirects: true,
                    holds: false,
                });
                machine.enable(UNIT);
                self.holder(node, *address)
                    .ok_or_else(|| not_yet("no balancer that serves can hold the address"))?;
            }
            HostEnsure::SharedAddressPeerGone { peer } => {
                if let Some(share) = &mut self.machine_mut(node).disk.sharing.share {
                    share.peers.remove(peer);
                }
            }
            HostEnsure::SharedAddressGone {} => self.unshare(node),
            other => unreachable!("`{other}` is not about a shared address"),
        }
        Ok(())
    }

    /// No part in the address any more, and no balancer.
    pub(super) fn unshare(&mut self, node: &NodeName) {
        let machine = self.machine_mut(node);
        machine.disk.sharing.share = None;
        machine.disk.balancer = None;
        for unit in [UNIT, "quorate-lb"] {
            machine.memory.active.remove(unit);
            machine.disk.enabled.remove(unit);
        }
    }

    /// The host that holds the address, as that host would find out: of those that it can reach.
    pub(super) fn holder(&self, asks: &NodeName, address: IpAddr) -> Option<&NodeName> {
        let may = |node: &NodeName, machine: &Machine| {
            let share = machine.disk.sharing.share.as_ref();
            share.is_some_and(|share| share.address == address)
                && machine.active(UNIT)
                && machine.active("quorate-lb")
                && self.connected(asks, node)
        };
        self.machines
            .iter()
            .find(|(node, machine)| may(node, machine))
            .map(|(node, _)| node)
    }

    /// As that host tells it.
    pub(super) fn sharing(&self, node: &NodeName) -> Sharing {
        let machine = self.machine(node);
        let mut sharing = machine.disk.sharing.clone();
        if let Some(share) = &mut sharing.share {
            share.active = machine.active(UNIT);
            share.holds = self.holder(node, share.address) == Some(node);
        }
        sharing
    }
}
