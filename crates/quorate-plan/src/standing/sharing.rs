//! End states of the address that masters share.

use std::{collections::BTreeSet, net::IpAddr};

use super::Differences;
use crate::{NodeName, kubeadm::Peer, observation::HostFacts, seen::Missing};

pub(super) fn keepalived(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    if !facts.sharing.get()?.keepalived {
        found.note("keepalived", "installed", "not installed");
    }
    Ok(())
}

pub(super) fn shared_address(
    found: &mut Differences,
    facts: &HostFacts,
    node: &Peer,
    address: IpAddr,
    port: u16,
    peers: &BTreeSet<Peer>,
) -> Result<(), Missing> {
    let Some(share) = &facts.sharing.get()?.share else {
        found.note(format_args!("part in {address}"), "there", "none");
        return Ok(());
    };
    found.equal("shared address", &address, &share.address);
    found.equal("shared address's port", &port, &share.port);
    for peer in peers.iter().filter(|peer| *peer != node) {
        match share.peers.get(&peer.name) {
            Some(known) => found.equal(
                &format!("keepalived's peer {}", peer.name),
                &peer.address,
                known,
            ),
            None => found.note(
                format_args!("keepalived's peer {}", peer.name),
                peer.address,
                "none",
            ),
        }
    }
    if !share.intact {
        found.note("keepalived's configuration", "as written", "changed");
    }
    if !share.active {
        found.note("keepalived", "running", "stopped");
    }
    if !share.redirects {
        found.note("redirection to the balancer", "loaded", "none");
    }
    Ok(())
}

pub(super) fn peer_gone(
    found: &mut Differences,
    facts: &HostFacts,
    peer: &NodeName,
) -> Result<(), Missing> {
    if let Some(share) = &facts.sharing.get()?.share
        && let Some(address) = share.peers.get(peer)
    {
        found.note(format_args!("keepalived's peer {peer}"), "none", address);
    }
    Ok(())
}

pub(super) fn gone(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    if let Some(share) = &facts.sharing.get()?.share {
        found.note(format_args!("part in {}", share.address), "none", "there");
    }
    if let Some(balancer) = facts.balancer.get()? {
        found.note("balancer", "none", format_args!("on {}", balancer.listen));
    }
    Ok(())
}
