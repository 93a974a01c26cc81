//! Worlds in which a plan is what planning yields. Start at [`imagine`].

use std::collections::BTreeSet;

use quorate_plan::{
    Ensure, Fence, HostEnsure, InfraEnsure, Intent, MemberId, NodeName, Place, Plan, Planning,
    Spec, Step,
    kubeadm::ClusterSettings,
    observation::{MachineKind, Power},
    plan,
    step::Reason,
};

use super::{foreign, waits};
use crate::{
    World, render,
    walk::{take, turns},
    world::{EtcdCluster, Machine},
};

/// The token of whoever made what stands before a journal begins. It is forgotten when all that is made.
const BEFORE: Fence = Fence(1);

/// Longer than any witness of a death needs.
const WITNESSES_MS: u64 = 60_000;

/// A world in which this plan is planned: what the plan does not make stands, what it makes does not.
///
/// # Errors
/// What stands although the plan makes it, or the other way round: then more is different than a plan tells.
pub fn imagine(intent: &Intent, approved: &Plan) -> Result<World, String> {
    let founds = approved.steps().any(|step| {
        matches!(
            &step.ensure,
            Ensure::Host(HostEnsure::Authority {
                founding: Some(_),
                ..
            })
        )
    });
    let converts = foreign::converts(intent);
    let mut spec = intent.spec.clone();
    if converts {
        spec = foreign::owners_file(intent, approved);
    } else if !founds {
        keep_what_was_there(&mut spec, intent, approved);
    }
    let mut world = World::new(&spec);
    let kind = kind(approved);
    be_like(&mut world, kind);
    if !founds {
        let earlier = Intent {
            spec,
            goal: quorate_plan::Goal::Converge,
            retired: Default::default(),
            ..intent.clone()
        };
        grow(&mut world, &earlier)?;
    }
    if converts {
        foreign::founded_by_its_owner(&mut world, intent, approved)?;
    }
    know_all(&mut world, intent);
    name_members(&mut world, approved);
    let_die(&mut world, approved);
    be_like(&mut world, kind);
    // Steps that are in no plan of a world like this stand already.
    for _ in 0..approved.len() + 200 {
        let planned = planned(intent, &world)?;
        let missing = turns(&planned)
            .into_iter()
            .find(|(step, _)| !approved.steps().any(|approved| approved == *step));
        let Some((step, change)) = missing else {
            break;
        };
        match (&step.ensure, &step.on) {
            (Ensure::Host(HostEnsure::Bundle { .. }), Place::Host(node)) if intent.spec.local() => {
                bring_bundle(&mut world, intent, node);
            }
            (Ensure::Host(HostEnsure::Keepalived {}), Place::Host(node)) => {
                bring_keepalived(&mut world, node);
            }
            _ => {
                take(&mut world, intent, step, change, BEFORE)
                    .map_err(|error| format!("{}: {error:?}", render::step(step)))?;
            }
        }
    }
    release(&mut world);
    Ok(world)
}

/// The world, when this plan may have been made in it; machines that the plan starts have no power in it.
///
/// # Errors
/// What is planned in it instead.
pub(super) fn begins(mut world: World, intent: &Intent, approved: &Plan) -> Result<World, String> {
    know_all(&mut world, intent);
    name_members(&mut world, approved);
    let_die(&mut world, approved);
    foreign::stay_away(&mut world, approved);
    world.settle();
    let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
    for node in &nodes {
        let brings = world.machine(node).answers();
        if brings && !approved.steps().any(|step| is_bundle(step, node)) {
            bring_bundle(&mut world, intent, node);
        }
        let told = |step: &Step| {
            step.on == Place::Host(node.clone())
                && matches!(step.ensure, Ensure::Host(HostEnsure::Keepalived {}))
        };
        if intent.spec.shared_address().is_some() && !approved.steps().any(told) {
            bring_keepalived(&mut world, node);
        }
    }
    for step in approved.steps() {
        if let Ensure::Infra(InfraEnsure::Machine { node, .. }) = &step.ensure
            && world.machine(node).power == Power::Running
        {
            world.power_off(node);
        }
    }
    let real =
        |plan: &Plan| -> Vec<Step> { plan.steps().filter(|step| !waits(step)).cloned().collect() };
    let mut instead = None;
    for world in led_by_anybody(world) {
        match planned(intent, &world) {
            Ok(plan) if real(&plan) == real(approved) => return Ok(world),
            Ok(plan) => drop(instead.get_or_insert_with(|| told_apart(&plan, approved))),
            Err(refused) => drop(instead.get_or_insert(refused)),
        }
    }
    Err(instead.unwrap_or_default())
}

/// What is planned instead. Where its words are the same, the first step with another content as well.
fn told_apart(planned: &Plan, approved: &Plan) -> String {
    let words = render::plan(planned);
    if words != render::plan(approved) {
        return words;
    }
    let mut pairs = planned.steps().zip(approved.steps());
    let other = pairs.find(|(planned, approved)| planned != approved);
    match other {
        Some((planned, approved)) => {
            format!("{words}\nin which this step\n{planned:?}\nis not\n{approved:?}")
        }
        None => words,
    }
}

/// The world, and the same with every other leader of etcd there may be: no journal tells of elections.
pub(super) fn led_by_anybody(world: World) -> Vec<World> {
    let mut worlds = Vec::new();
    for (id, cluster) in &world.clusters {
        let alive = world.participants(*id);
        let others = alive.iter().map(|(_, member)| *member).filter(|member| {
            cluster.leader.is_some_and(|leader| leader != *member)
                && !cluster.members[member].learner
        });
        for member in others {
            let mut other = world.clone();
            if let Some(cluster) = other.clusters.get_mut(id) {
                cluster.leader = Some(member);
            }
            worlds.push(other);
        }
    }
    worlds.insert(0, world);
    worlds
}

/// Somebody else leads than that member.
pub(super) fn elect_another(world: &mut World, member: MemberId) {
    let led = |(_, cluster): &(&_, &EtcdCluster)| cluster.leader == Some(member);
    let Some((id, _)) = world.clusters.iter().find(led).map(|(id, of)| (*id, of)) else {
        return;
    };
    let alive = world.participants(id).into_iter().map(|(_, other)| other);
    let cluster = world.clusters.get_mut(&id).expect("found above");
    let mut others = alive.filter(|other| *other != member && !cluster.members[other].learner);
    if let Some(other) = others.next() {
        cluster.leader = Some(other);
    }
}

/// Takes the power of hosts that a plan takes out as dead, unless they are known to be cut off: for good, and long enough ago for every
/// witness.
fn let_die(world: &mut World, approved: &Plan) {
    for step in approved.steps().filter(|step| step.because == Reason::Dead) {
        let Ensure::Host(HostEnsure::MemberGone { peer_urls, .. }) = &step.ensure else {
            continue;
        };
        let url = |machine: &Machine| format!("https://{}:2380", machine.address);
        let mut machines = world.machines.iter();
        let dead = machines.find(|(_, machine)| peer_urls.contains(&url(machine)));
        if let Some(node) = dead.map(|(node, _)| node.clone())
            && world.machine(&node).power == Power::Running
        {
            if !world.machine(&node).isolated {
                world.power_off(&node);
            }
            world.settle();
            world.now_ms += WITNESSES_MS;
        }
    }
}

/// Gives members the IDs that a plan names them by. Which ID a real etcd makes up for somebody shows when it is to leave.
fn name_members(world: &mut World, approved: &Plan) {
    for step in approved.steps() {
        let Ensure::Host(HostEnsure::MemberGone { member, peer_urls }) = &step.ensure else {
            continue;
        };
        let known = world.clusters.values().find_map(|cluster| {
            let mut urls = peer_urls.iter();
            urls.find_map(|url| cluster.by_peer_url(url).map(|(id, _)| id))
        });
        if let Some(known) = known.filter(|known| known != member) {
            rename(world, known, *member);
        }
    }
}

fn rename(world: &mut World, old: MemberId, new: MemberId) {
    let named = |id: &mut MemberId| {
        if *id == old {
            *id = new;
        }
    };
    for cluster in world.clusters.values_mut() {
        if let Some(member) = cluster.members.remove(&old) {
            cluster.members.insert(new, member);
        }
        cluster.leader.iter_mut().for_each(named);
        let alarms = std::mem::take(&mut cluster.alarms).into_iter();
        cluster.alarms = alarms
            .map(|(kind, mut id)| {
                named(&mut id);
                (kind, id)
            })
            .collect();
    }
    let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
    for node in nodes {
        let disk = &mut world.machine_mut(&node).disk;
        disk.etcd
            .iter_mut()
            .for_each(|data| named(&mut data.member));
        disk.marker
            .iter_mut()
            .for_each(|marker| named(&mut marker.member));
    }
}

/// Brings the bundle to a host.
fn is_bundle(step: &Step, node: &NodeName) -> bool {
    matches!(step.ensure, Ensure::Host(HostEnsure::Bundle { .. }))
        && step.on == Place::Host(node.clone())
}

/// Machines that Quorate makes have the bundle from the beginning, and nothing tells of it.
pub(super) fn bring_bundle(world: &mut World, intent: &Intent, node: &NodeName) {
    if intent.spec.local() && !world.machine(node).disk.bundles.contains(&intent.bundle.id) {
        let disk = &mut world.machine_mut(node).disk;
        disk.bundles.insert(intent.bundle.id.clone());
    }
}

/// A package of the distribution may be there before anything of a cluster is, and nothing tells of it.
fn bring_keepalived(world: &mut World, node: &NodeName) {
    if !world.machine(node).disk.sharing.keepalived {
        world.machine_mut(node).disk.sharing.keepalived = true;
    }
}

/// Takes in the machines of a cluster file, and those that left it.
fn know_all(world: &mut World, intent: &Intent) {
    let mut spec = intent.spec.clone();
    spec.control_plane.extend(intent.retired.clone());
    world.know(&spec);
}

/// Takes out of a cluster file what the plan brings in, and puts in what it takes out.
fn keep_what_was_there(spec: &mut Spec, intent: &Intent, approved: &Plan) {
    let mut comes: BTreeSet<NodeName> = BTreeSet::new();
    for step in approved.steps() {
        match &step.ensure {
            Ensure::Host(HostEnsure::Learner { joiner } | HostEnsure::Voter { joiner }) => {
                comes.insert(joiner.name.clone());
            }
            Ensure::Host(HostEnsure::Worker { node, .. }) => {
                comes.insert(node.name.clone());
            }
            _ => {}
        }
    }
    spec.control_plane.retain(|node, _| !comes.contains(node));
    spec.workers.retain(|node, _| !comes.contains(node));
    let goes = approved
        .steps()
        .any(|step| matches!(step.ensure, Ensure::Host(HostEnsure::MemberGone { .. })));
    if goes {
        for (node, machine) in &intent.retired {
            spec.control_plane.insert(node.clone(), machine.clone());
        }
    }
}

/// What the machines are like, as the plan's settings tell.
fn kind(approved: &Plan) -> Option<MachineKind> {
    let runtime = approved.steps().find_map(|step| match &step.ensure {
        Ensure::Host(HostEnsure::Components { runtime, .. }) => Some(runtime.kind),
        _ => None,
    });
    runtime.or_else(|| settings(approved).map(|settings| settings.kind))
}

/// The cluster's settings, as the plan's steps carry them.
pub(super) fn settings(approved: &Plan) -> Option<&ClusterSettings> {
    approved.steps().find_map(|step| match &step.ensure {
        Ensure::Host(
            HostEnsure::Rehearsed { settings, .. }
            | HostEnsure::Certificates { settings, .. }
            | HostEnsure::EtcdMember { settings, .. }
            | HostEnsure::ControlPlane { settings, .. }
            | HostEnsure::Kubelet { settings, .. }
            | HostEnsure::ClusterConfig { settings, .. }
            | HostEnsure::ClusterDns { settings, .. }
            | HostEnsure::Registered { settings, .. }
            | HostEnsure::Worker { settings, .. }
            | HostEnsure::ServingCertificate { settings, .. }
            | HostEnsure::Configuration { settings, .. },
        ) => Some(settings),
        _ => None,
    })
}

pub(super) fn planned(intent: &Intent, world: &World) -> Result<Plan, String> {
    let Planning { plan, refused, .. } = plan(intent, &world.observe(intent));
    match refused.first() {
        Some(refusal) => Err(format!("planning is refused: {refusal}")),
        None => Ok(plan),
    }
}

fn grow(world: &mut World, intent: &Intent) -> Result<(), String> {
    for _ in 0..4 {
        let plan = planned(intent, world)?;
        if plan.is_empty() {
            release(world);
            return Ok(());
        }
        for (step, change) in turns(&plan) {
            // A founder waits for the others, whose turn comes later.
            let _ = take(world, intent, step, change, BEFORE);
        }
    }
    Err("the cluster that was there before cannot be imagined".into())
}

fn release(world: &mut World) {
    let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
    for node in nodes {
        let _ = world.release(&node, BEFORE);
        world.machine_mut(&node).disk.fence = Fence::default();
    }
}

fn be_like(world: &mut World, kind: Option<MachineKind>) {
    let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
    for (node, kind) in nodes.iter().zip(std::iter::repeat(kind)) {
        if let Some(kind) = kind {
            world.machine_mut(node).hardware.kind = kind;
        }
    }
}
