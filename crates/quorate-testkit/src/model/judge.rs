//! What must hold of every effect, whatever went wrong before. Start at [`effect`]; what must hold of every world is in
//! [`crate::invariant`].

use std::collections::BTreeSet;

use quorate_plan::{Change, Ensure, Goal, HostEnsure, Intent, MemberId, NodeName};

use super::{
    rules::Rules,
    state::{Broken, State},
};
use crate::{World, invariant::new_backends, world::EtcdCluster};

/// The cluster that serves, when there is one.
fn serving(world: &World) -> Option<&EtcdCluster> {
    world
        .clusters
        .values()
        .find(|cluster| cluster.leader.is_some())
}

/// The membership that a permit was earned for, as a number that only grows. 0 where the step makes no change.
pub(super) fn permitted(rules: &Rules, world: u32, turn: u32) -> u16 {
    if rules.engine.turn(turn).change.is_none() {
        return 0;
    }
    membership(rules, world)
}

fn membership(rules: &Rules, world: u32) -> u16 {
    let etcd = rules.engine.etcd(world);
    let changes = etcd
        .values()
        .find(|cluster| cluster.leader.is_some())
        .map_or(0, |cluster| {
            // That a member starts, or raises an alarm, changes no membership.
            let voters = cluster.voters().count();
            cluster.members.len() + voters + 4 * cluster.removed.len()
        });
    u16::try_from(1 + changes).unwrap_or(u16::MAX)
}

/// What a host accepted.
pub(super) fn accepted(
    rules: &Rules,
    state: &State,
    op: usize,
    slot: usize,
    turn: u32,
) -> Option<Broken> {
    let machine = rules.engine.machine(state.world, slot);
    if state.operators[op].fence < machine.disk.fence.0 {
        return Some(Broken::Outranked);
    }
    let turn = rules.engine.turn(turn);
    let Ensure::Host(ensure) = &turn.step.ensure else {
        return None;
    };
    let etcd = rules.engine.etcd(state.world);
    let cluster = etcd.values().find(|cluster| cluster.leader.is_some())?;
    match ensure {
        HostEnsure::Learner { .. } | HostEnsure::Voter { .. } => {
            (!cluster.alarms.is_empty()).then_some(Broken::AlarmIgnored)
        }
        HostEnsure::MemberGone { member, .. } => {
            // A learner's going changes no vote: it leans on nobody.
            let votes = cluster.voters().any(|(id, _)| id == *member);
            if votes && cluster.alarms.iter().any(|(_, of)| of != member) {
                return Some(Broken::AlarmIgnored);
            }
            removal(rules, state, op, *member, turn.change.as_ref())
        }
        _ => None,
    }
}

/// A member is about to be removed.
fn removal(
    rules: &Rules,
    state: &State,
    op: usize,
    gone: MemberId,
    change: Option<&Change>,
) -> Option<Broken> {
    let world = rules.engine.world(state.world);
    let cluster = serving(&world)?;
    let member = cluster.members.get(&gone)?;
    let voters = cluster.voters().count();
    // Elections and returns may come in between once something fails.
    if cluster.leader == Some(gone) && voters > 1 && !state.struck() {
        return Some(Broken::LeaderRemoved);
    }
    let host = world
        .machines
        .keys()
        .find(|node| world.participant(node).is_some_and(|(_, id)| id == gone))?;
    let leader = world.machines.keys().find(|node| {
        let taking_part = world.participant(node);
        taking_part.is_some_and(|(_, id)| Some(id) == cluster.leader)
    })?;
    // One that raises an alarm is sick: it goes first, as somebody who is gone does.
    let sick = cluster.alarms.iter().any(|(_, of)| *of == gone);
    // One that is only just starting answers nobody yet: it cannot be told from one that never will.
    let serves = world.machine(host).serves("etcd");
    let well = !member.learner && !sick && serves && world.peers(host, leader);
    let report = state.operators[op].sight.reports[rules.engine.slot(host)];
    let seen_alive = report == rules.engine.look(state.world).bare[rules.engine.slot(host)];
    // The same host made anew: what joins next is what leaves now.
    let own = &rules.engine.intents[usize::from(state.operators[op].intent)].goal;
    let anew = matches!(own, Goal::Replace { node, with: None, .. } if node == host);
    let next =
        matches!(change, Some(Change::RemoveMember { next: Some(next), .. }) if next == host);
    let comes_back = anew && next;
    let intents = rules.engine.intents.iter();
    let wanted = intents.map(|intent| intent.spec.control_plane.len()).min();
    let spared = voters > wanted.unwrap_or(0) || comes_back;
    (well && !spared && (seen_alive || !state.struck())).then_some(Broken::Unspared)
}

/// What changed in the membership.
#[derive(Debug, PartialEq, Eq)]
enum Changed {
    Nothing,
    Added,
    Promoted,
    Removed,
}

fn changed(before: &EtcdCluster, after: &EtcdCluster) -> Changed {
    let lacks =
        |a: &EtcdCluster, b: &EtcdCluster| a.members.keys().any(|id| !b.members.contains_key(id));
    if lacks(before, after) {
        Changed::Removed
    } else if lacks(after, before) {
        Changed::Added
    } else if before.voters().count() == after.voters().count() {
        Changed::Nothing
    } else {
        Changed::Promoted
    }
}

/// What an effect was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effect {
    /// It is wrong whatever went wrong before.
    broken: Option<Broken>,
    /// A backend was added that is not ready now, and votes.
    unready: bool,
    /// It changed the membership.
    changes: bool,
}

/// What a host just did.
pub(super) fn effect(rules: &Rules, before: &State, after: &State, slot: usize) -> Option<Broken> {
    let in_hand = before.tasks[slot];
    let effect = rules
        .engine
        .effect(before.world, after.world, in_hand.task, || {
            look_at(rules, before.world, after.world, in_hand.task)
        });
    // It may have failed since it was seen ready, once something fails.
    let struck = before.struck();
    let stale = in_hand.permitted != 0 && in_hand.permitted != membership(rules, before.world);
    if effect.broken.is_some() {
        effect.broken
    } else if effect.unready && !struck {
        Some(Broken::BackendNotReady)
    } else if effect.changes && stale {
        Some(Broken::StalePermit)
    } else {
        None
    }
}

fn look_at(rules: &Rules, before: u32, after: u32, task: u32) -> Effect {
    let engine = &rules.engine;
    let wrong = |broken| Effect {
        broken: Some(broken),
        ..Effect::default()
    };
    if engine.has_quorum(before) && !engine.has_quorum(after) {
        return wrong(Broken::CostQuorum);
    }
    let turn = engine.turn(engine.task_of(task).turn);
    let (was, is) = (engine.world(before), engine.world(after));
    let mut effect = Effect::default();
    if let Ensure::Host(HostEnsure::Backend { .. }) = &turn.step.ensure {
        for (_, backend) in new_backends(&was, &is) {
            if !votes(&was, &backend) {
                return wrong(Broken::BackendNotReady);
            }
            effect.unready |= was.api_ready(&backend).is_none();
        }
    }
    // While the others elect somebody no apiserver is ready, and only one without its manifest was stopped. Whether a leader may go was judged
    // when it was asked for.
    let electing = serving(&was).is_some() && serving(&is).is_none();
    if undrained(&was, &is, electing) {
        return wrong(Broken::NotDrained);
    }
    if !electing && nobody_serves(&was, &is) {
        return wrong(Broken::NobodyServes);
    }
    let (Some(old), Some(new)) = (serving(&was), serving_as(&was, &is)) else {
        return effect;
    };
    let data = |world: &World, node: &NodeName| {
        let disk = world.machine(node).disk.etcd.as_ref()?;
        Some(disk.member)
    };
    let robbed = was.machines.keys().any(|node| {
        data(&was, node).is_some_and(|member| {
            data(&is, node) != Some(member)
                && old.voters().any(|(id, _)| id == member)
                && new.members.contains_key(&member)
        })
    });
    if robbed {
        return wrong(Broken::LostVoter);
    }
    effect.changes = true;
    effect.broken = match changed(old, new) {
        Changed::Nothing => {
            effect.changes = false;
            None
        }
        Changed::Added => {
            let in_flight = old
                .members
                .values()
                .any(|member| member.learner || member.client_url.is_none());
            in_flight.then_some(Broken::TwoChanges)
        }
        Changed::Removed | Changed::Promoted => None,
    };
    effect
}

/// The same cluster afterwards: it may be without a leader for a moment.
fn serving_as<'a>(was: &World, is: &'a World) -> Option<&'a EtcdCluster> {
    let (id, _) = was
        .clusters
        .iter()
        .find(|(_, cluster)| cluster.leader.is_some())?;
    is.clusters.get(id)
}

/// A master that answered through a balancer does not any more, or will not in a moment, and the balancer still sends to it.
fn undrained(was: &World, is: &World, electing: bool) -> bool {
    let ends = |master: &NodeName| {
        let manifests = &is.machine(master).disk.manifests;
        (!electing && is.api_ready(master).is_none()) || !manifests.contains_key("kube-apiserver")
    };
    was.machines.iter().any(|(balancer, machine)| {
        let config = &is.machine(balancer).disk.balancer;
        machine.disk.balancer.is_some()
            && was.up(balancer).iter().any(|master| {
                let sends = config
                    .as_ref()
                    .is_some_and(|config| config.backends.contains_key(master));
                sends && ends(master)
            })
    })
}

/// A balancer that sent to somebody sends to nobody.
fn nobody_serves(was: &World, is: &World) -> bool {
    was.machines.iter().any(|(balancer, machine)| {
        machine.disk.balancer.is_some()
            && !was.up(balancer).is_empty()
            && is.up(balancer).is_empty()
    })
}

fn votes(world: &World, node: &NodeName) -> bool {
    let url = format!("https://{}:2380", world.machine(node).address);
    world.clusters.values().any(|cluster| {
        cluster
            .by_peer_url(&url)
            .is_some_and(|(_, member)| !member.learner)
    })
}

/// What must be so when an operator was told that everything stands.
pub(super) fn done(rules: &Rules, world: u32, intent: u8) -> Option<Broken> {
    let world = rules.engine.world(world);
    let intent = &rules.engine.intents[usize::from(intent)];
    let Some(cluster) = serving(&world) else {
        return Some(Broken::NotDone);
    };
    let whole = cluster
        .members
        .values()
        .all(|member| !member.learner && member.client_url.is_some());
    let voters: BTreeSet<NodeName> = world
        .machines
        .iter()
        .filter(|(_, machine)| {
            let url = format!("https://{}:2380", machine.address);
            cluster
                .by_peer_url(&url)
                .is_some_and(|(_, member)| !member.learner)
        })
        .map(|(node, _)| node.clone())
        .collect();
    let is_so = match &intent.goal {
        Goal::Converge => voters.iter().eq(intent.spec.control_plane.keys()),
        Goal::Replace { node, with, member } => {
            let came = voters.contains(with.as_ref().unwrap_or(node));
            let went = member.is_none_or(|member| !cluster.members.contains_key(&member));
            came && went && (with.is_none() || !voters.contains(node))
        }
        Goal::Remove { node } => !voters.contains(node),
        Goal::Repair => true,
        // Outside the model's bounds: stories tell of them.
        Goal::Convert { .. } | Goal::RetireOldAddress { .. } | Goal::KeepOldAddress => {
            voters.iter().eq(intent.spec.control_plane.keys())
        }
        Goal::Unconvert => voters.len() == 1,
    };
    let balanced = intent.spec.balancers().all(|(balancer, _)| {
        let config = &world.machine(balancer).disk.balancer;
        config
            .as_ref()
            .is_some_and(|config| config.backends.keys().all(|node| voters.contains(node)))
    });
    let all_balanced = intent.goal != Goal::Converge
        || intent.spec.balancers().all(|(balancer, _)| {
            let config = &world.machine(balancer).disk.balancer;
            config
                .as_ref()
                .is_some_and(|config| config.backends.len() == voters.len())
        });
    let is_so = is_so
        && whole
        && cluster.members.len() == voters.len()
        && balanced
        && all_balanced
        && is_tidy(&world, intent, cluster, &voters);
    (!is_so).then_some(Broken::NotDone)
}

/// Nothing is left in the cluster of those who went, and nothing is missing of those who came.
fn is_tidy(
    world: &World,
    intent: &Intent,
    cluster: &EtcdCluster,
    voters: &BTreeSet<NodeName>,
) -> bool {
    let kube = &cluster.kube;
    let masters: BTreeSet<&NodeName> = kube
        .nodes
        .iter()
        .filter(|(_, object)| object.control_plane)
        .map(|(node, _)| node)
        .collect();
    let addresses: BTreeSet<_> = voters
        .iter()
        .map(|node| world.machine(node).address)
        .collect();
    let places = kube.endpoints.is_subset(&addresses) && kube.stale_endpoints.is_empty();
    match &intent.goal {
        Goal::Converge => masters.into_iter().eq(voters) && places && kube.tokens.is_empty(),
        Goal::Replace { node, with, .. } => {
            let went = with.is_none() || !masters.contains(node);
            went && masters.contains(with.as_ref().unwrap_or(node))
        }
        Goal::Remove { node } => !masters.contains(node),
        Goal::Convert { .. }
        | Goal::Unconvert
        | Goal::RetireOldAddress { .. }
        | Goal::KeepOldAddress => true,
        Goal::Repair => {
            let known = |node: &&NodeName| world.machines.contains_key(*node);
            let whole = masters.iter().all(known) && places;
            whole && kube.tokens.is_empty() && !kube.uploaded_certs
        }
    }
}
