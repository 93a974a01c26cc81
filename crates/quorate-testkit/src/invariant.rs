//! What must hold after every effect, whatever went wrong before. Start at [`violations`].

use std::collections::BTreeSet;

use quorate_plan::{NodeName, quorum::needed};

use crate::World;

/// What does not hold, one sentence each. Empty: all is well.
pub fn violations(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    let led: Vec<_> = world
        .clusters
        .iter()
        .filter(|(_, cluster)| cluster.leader.is_some())
        .map(|(id, _)| id.to_string())
        .collect();
    if led.len() > 1 {
        found.push(format!("split brain: {} are led", led.join(" and ")));
    }
    for (id, cluster) in &world.clusters {
        if let Some(member) = cluster.amnesiacs.first() {
            found.push(format!("voter {member} came back with an empty log"));
        }
        if cluster.begun_anew {
            found.push(format!(
                "{id} had clients, and a founding was begun again over its data"
            ));
        }
        if !cluster.served {
            continue;
        }
        let voters: BTreeSet<_> = cluster.voters().map(|(member, _)| member).collect();
        let with_data = world
            .machines
            .values()
            .filter_map(|machine| machine.disk.etcd.as_ref())
            .filter(|disk| disk.cluster == *id && voters.contains(&disk.member))
            .count();
        if with_data < needed(voters.len()) {
            found.push(format!(
                "data of {with_data} of {} voters is left, {} needed",
                voters.len(),
                needed(voters.len())
            ));
        }
        let learners = cluster
            .members
            .values()
            .filter(|member| member.learner)
            .count();
        if learners > 1 {
            found.push(format!("{learners} learners at once"));
        }
        let added_unstarted = cluster
            .members
            .values()
            .filter(|member| member.name.is_empty())
            .count();
        if added_unstarted > 1 {
            found.push(format!("{added_unstarted} members in flight at once"));
        }
    }
    let authorities: BTreeSet<&String> = world
        .machines
        .values()
        .filter(|machine| machine.disk.etcd.is_some())
        .filter_map(|machine| machine.disk.pki.authority.as_ref())
        .collect();
    if authorities.len() > 1 {
        found.push(format!("etcd hosts hold {} authorities", authorities.len()));
    }
    found
}

/// Some host can have something decided by an etcd cluster that serves.
pub fn has_quorum(world: &World) -> bool {
    world
        .clusters
        .iter()
        .filter(|(_, cluster)| cluster.served)
        .any(|(id, _)| {
            world
                .machines
                .keys()
                .any(|node| world.participant(node).is_some() && world.quorum_at(*id, node))
        })
}

/// Backends that were added to balancers between the two: the balancer and the backend.
pub fn new_backends(before: &World, after: &World) -> Vec<(NodeName, NodeName)> {
    let mut found = Vec::new();
    for (balancer, machine) in &after.machines {
        let old = backends(before.machine(balancer));
        let new = backends(machine);
        found.extend(
            new.difference(&old)
                .map(|backend| (balancer.clone(), backend.clone())),
        );
    }
    found
}

fn backends(machine: &crate::world::Machine) -> BTreeSet<NodeName> {
    machine
        .disk
        .balancer
        .iter()
        .flat_map(|config| config.backends.keys().cloned())
        .collect()
}
