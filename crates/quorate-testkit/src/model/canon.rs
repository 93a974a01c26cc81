//! The canonical form of a world: worlds between which no decision and no rule can tell get the same one. Start at [`canonical`].
//!
//! Left out is how long ago something was (boots, recipients, clocks) and how much was written. Kept is the order of things: a log's
//! length becomes the number of changes to the membership it holds, and how far a member is behind becomes its place in line. So a member
//! list that was seen earlier still has the shorter log, and the longest log still wins an election.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    World,
    world::{CLOCK_MS, EtcdCluster, etcd::HEALTH_TICKS},
};

/// A log is long: what is written while a member is away is less than the tenth of it by which etcd judges a learner.
const INDEX: u64 = 1000;

/// Lengths of a log for each change of the membership: more than members that can be behind each other.
const INDEX_STEP: u64 = 16;

/// A lease that was not renewed for that long is old; how old does not matter.
const LEASE_MS: u64 = 30_000;

/// Changes to the membership and alarms so far. It only grows.
pub(super) fn version(cluster: &EtcdCluster) -> u64 {
    let present: u64 = cluster
        .members
        .values()
        .map(|member| 1 + u64::from(member.client_url.is_some()) + u64::from(!member.learner))
        .sum();
    // A member that is gone counts for more than all that can happen to one that is there.
    present + 4 * cluster.removed.len() as u64 + cluster.alarms.len() as u64
}

/// Brings a world into its canonical form.
pub(super) fn canonical(world: &mut World) {
    let now = std::mem::replace(&mut world.now_ms, CLOCK_MS);
    let clusters: Vec<_> = world.clusters.keys().copied().collect();
    for id in clusters {
        let lengths = lengths(world, &world.clusters[&id], id);
        let cluster = world.clusters.get_mut(&id).expect("listed above");
        let index = INDEX + INDEX_STEP * version(cluster);
        let shorter = |length: u64| match lengths.iter().rev().position(|known| *known == length) {
            _ if length == 0 => 0,
            Some(place) => index - (place as u64).min(INDEX_STEP - 1),
            None => index,
        };
        for member in cluster.members.values_mut() {
            member.confirmed = shorter(member.confirmed);
            if member.connected < HEALTH_TICKS {
                member.connected = 0;
            }
        }
        cluster.index = index;
        tokens(cluster);
        for since in cluster.kube.silent_since.values_mut() {
            let old = now.saturating_sub(*since) >= LEASE_MS;
            *since = if old {
                CLOCK_MS - 2 * LEASE_MS
            } else {
                CLOCK_MS
            };
        }
        for machine in world.machines.values_mut() {
            let Some(disk) = machine.disk.etcd.as_ref() else {
                continue;
            };
            let place = shorter(disk.index);
            if disk.cluster == id
                && disk.index != place
                && let Some(disk) = &mut Arc::make_mut(machine).disk.etcd
            {
                disk.index = place;
            }
        }
    }
    for machine in world.machines.values_mut() {
        let aside = machine.disk.aside.iter().any(|disk| disk.index != 0);
        if machine.boots != 1 || machine.memory.recipients != 0 || aside {
            let machine = Arc::make_mut(machine);
            machine.boots = 1;
            machine.memory.recipients = 0;
            for disk in &mut machine.disk.aside {
                disk.index = 0;
            }
        }
    }
}

/// Lengths of the cluster's log anywhere, its own the last.
fn lengths(world: &World, cluster: &EtcdCluster, id: crate::world::ClusterId) -> BTreeSet<u64> {
    let disks = world.machines.values().filter_map(|machine| {
        let disk = machine.disk.etcd.as_ref()?;
        (disk.cluster == id).then_some(disk.index)
    });
    let confirmed = cluster.members.values().map(|member| member.confirmed);
    let mut lengths: BTreeSet<u64> = disks.chain(confirmed).collect();
    lengths.insert(cluster.index);
    lengths
}

/// Tokens are told apart by nothing but their number.
fn tokens(cluster: &mut EtcdCluster) {
    let count = u32::try_from(cluster.kube.tokens.len()).unwrap_or(u32::MAX);
    if cluster.kube.tokens_made != count {
        cluster.kube.tokens_made = count;
        cluster.kube.tokens = (1..=count).map(|number| format!("t{number:05}")).collect();
    }
}
