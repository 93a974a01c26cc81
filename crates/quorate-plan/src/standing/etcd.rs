//! End states that etcd's members and their apiservers tell of.

use super::Differences;
use crate::{NodeName, Observation, kubeadm::Peer, quorum::Quorum, seen::Missing};

pub(super) fn serving(found: &mut Differences, node: &NodeName, seen: &Observation) {
    // The host answered: where its etcd or apiserver did not, that is what not serving looks like, and waiting is what helps.
    match seen.etcd_at(node) {
        Ok(None) => found.note("etcd", "serving", "no manifest"),
        Ok(Some(view)) if view.linearizable => {}
        Ok(Some(_)) => found.note("etcd", "reaching a quorum", "not reaching one"),
        Err(missing) => found.note("etcd", "serving", format_args!("no answer ({missing})")),
    }
    match seen.api_at(node) {
        Ok(None) => found.note("apiserver", "ready", "no manifest"),
        Ok(Some(view)) if view.readyz.ready => {}
        Ok(Some(view)) => {
            let failing: Vec<_> = view.readyz.failing.iter().map(String::as_str).collect();
            found.note(
                "/readyz",
                "ok",
                format_args!("{} ({})", view.readyz.status, failing.join(", ")),
            );
        }
        Err(missing) => found.note("/readyz", "ok", format_args!("no answer ({missing})")),
    }
}

pub(super) fn learner(
    found: &mut Differences,
    joiner: &Peer,
    seen: &Observation,
) -> Result<(), Missing> {
    match Quorum::of(seen)? {
        None => found.note("etcd", "running", "nowhere"),
        Some(quorum) if quorum.by_peer_url(&joiner.peer_url()).is_some() => {}
        Some(_) => found.note("member list", joiner.peer_url(), "not in it"),
    }
    Ok(())
}

pub(super) fn voter(
    found: &mut Differences,
    joiner: &Peer,
    seen: &Observation,
) -> Result<(), Missing> {
    match Quorum::of(seen)? {
        None => found.note("etcd", "running", "nowhere"),
        Some(quorum) => match quorum.by_peer_url(&joiner.peer_url()) {
            Some((_, member)) if !member.learner && member.started() => {}
            Some((id, member)) if member.learner => {
                found.note(format_args!("member {id}"), "voter", "learner")
            }
            Some((id, _)) => found.note(format_args!("member {id}"), "started", "not started"),
            None => found.note("member list", joiner.peer_url(), "not in it"),
        },
    }
    Ok(())
}
