//! The procedures that are explored. Start at [`all`].
//!
//! Hosts are given (no provider is in the way), one balancer stands before the masters, and hosts that are to join are prepared: what of a
//! plan comes before the first change of the cluster is left to the simulation.

use quorate_plan::{
    Fence, Goal, Intent, NodeName, Planning, observation::Node, plan, spec::BringUp,
};

use super::Procedure;
use crate::{
    World,
    fixture::{Cluster, node},
    render,
    walk::{take, turns},
};

/// Walks through a plan after the other until nothing is left to do, without faults.
///
/// # Panics
/// When that does not come about.
pub fn grow(world: &mut World, intent: &Intent) {
    for _ in 0..4 {
        let plan = planned(world, intent);
        if plan.is_empty() {
            return;
        }
        for (step, change) in turns(&plan) {
            take(world, intent, step, change, Fence(1))
                .unwrap_or_else(|error| panic!("{}: {error:?}", render::step(step)));
        }
    }
    panic!("it is not done after four plans");
}

fn planned(world: &World, intent: &Intent) -> quorate_plan::Plan {
    let Planning { plan, refused, .. } = plan(intent, &world.observe(intent));
    assert_eq!(refused, [], "{}", render::plan(&plan));
    plan
}

/// A world in which that cluster was brought up long ago, and nobody is at it.
pub fn grown(cluster: Cluster) -> World {
    let intent = cluster.intent();
    let mut world = World::new(&intent.spec);
    grow(&mut world, &intent);
    release(&mut world, Fence(1));
    world
}

fn release(world: &mut World, fence: Fence) {
    let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
    for node in nodes {
        // Some are off, and some were never claimed.
        let _ = world.release(&node, fence);
    }
}

fn given(masters: u8) -> Cluster {
    Cluster {
        masters,
        bring_up: BringUp::OneByOne,
        local: false,
        flannel: false,
        ..Cluster::default()
    }
}

/// Instead of that master, `cp-4`.
fn swapped(goes: u8) -> Cluster {
    Cluster {
        swaps: [(goes, 4), (0, 0)],
        ..given(3)
    }
}

/// Takes the steps of a plan that come before the first change of the cluster.
fn prepare(world: &mut World, intent: &Intent) {
    const TITLE: &str = "Prepare the hosts";
    let plan = planned(world, intent);
    let stage = plan.stages.iter().find(|stage| stage.title == TITLE);
    for step in stage.iter().flat_map(|stage| &stage.steps) {
        take(world, intent, step, None, Fence(2))
            .unwrap_or_else(|error| panic!("{}: {error:?}", render::step(step)));
    }
    release(world, Fence(2));
}

/// A cluster becomes another one.
fn change(name: &'static str, before: Cluster, then: Cluster) -> Procedure {
    let mut world = grown(before);
    let intent = then.intent_after(&before);
    world.know(&intent.spec);
    prepare(&mut world, &intent);
    Procedure {
        name,
        world,
        intents: vec![intent],
        wants: [vec![0], vec![0]],
    }
}

/// One master becomes three.
pub fn one_to_three() -> Procedure {
    change("one-to-three", given(1), given(3))
}

/// Three masters become five.
pub fn three_to_five() -> Procedure {
    change("three-to-five", given(3), given(5))
}

/// Five masters become three.
pub fn five_to_three() -> Procedure {
    change("five-to-three", given(5), given(3))
}

/// A master that is well is replaced by another host; the other operator wants the same by another verb.
pub fn replace_healthy() -> Procedure {
    replace("replace-healthy", 3)
}

/// The same with the master that leads etcd and does everything for the others.
pub fn replace_leader() -> Procedure {
    replace("replace-leader", 1)
}

fn replace(name: &'static str, goes: u8) -> Procedure {
    let mut procedure = change(name, given(3), swapped(goes));
    let applies = procedure.intents[0].clone();
    let gone = node(&format!("cp-{goes}"));
    let goal = Goal::Replace {
        node: gone,
        with: Some(node("cp-4")),
        member: None,
    };
    procedure.intents = vec![
        Intent {
            goal,
            ..applies.clone()
        },
        applies,
    ];
    procedure.wants = [vec![0], vec![1]];
    procedure
}

/// A master without power is replaced by another host.
pub fn replace_dead() -> Procedure {
    let mut procedure = replace("replace-dead", 3);
    procedure.world.power_off(&node("cp-3"));
    procedure.world.settle();
    procedure.world.now_ms += 60_000;
    procedure
}

/// A master whose disk was lost joins again under its own name.
pub fn replace_anew() -> Procedure {
    let mut world = grown(given(3));
    world.lose_disk(&node("cp-3"));
    world.settle();
    world.now_ms += 60_000;
    let intent = given(3).intent();
    let goal = Goal::replace(&intent, node("cp-3"), None, &world.observe(&intent));
    let intent = Intent {
        goal: goal.expect("etcd tells of its members"),
        ..intent
    };
    Procedure {
        name: "replace-anew",
        world,
        intents: vec![intent],
        wants: [vec![0], vec![0]],
    }
}

/// What a join left that was killed when it had added its learner, and rubbish of earlier times. The other operator applies the file, which
/// wants that join.
pub fn repair() -> Procedure {
    let joining = change("repair", given(3), given(5));
    let mut world = joining.world;
    let applies = joining.intents[0].clone();
    let plan = planned(&world, &applies);
    let begun = turns(&plan)
        .into_iter()
        .take_while(|(step, _)| !render::step(step).contains("etcd manifest"));
    for (step, change) in begun {
        take(&mut world, &applies, step, change, Fence(3))
            .unwrap_or_else(|error| panic!("{}: {error:?}", render::step(step)));
    }
    release(&mut world, Fence(3));
    let kube = world.kube_mut(&node("cp-1")).expect("it is ready");
    kube.tokens.insert("t00009".into());
    kube.stale_endpoints
        .insert("10.0.0.77".parse().expect("an address"));
    let gone = Node {
        ready: false,
        reason: "Kubelet stopped posting node status.".into(),
        control_plane: true,
        tainted: true,
        kubelet: crate::fixture::KUBERNETES.into(),
        addresses: ["10.0.0.88".parse().expect("an address")].into(),
        heartbeat: None,
        pressures: [].into(),
    };
    kube.nodes.insert(node("cp-9"), gone);
    kube.silent_since.insert(node("cp-9"), 0);
    world.settle();
    let repairs = Intent {
        goal: Goal::Repair,
        ..given(3).intent_after(&given(5))
    };
    Procedure {
        name: "repair",
        world,
        intents: vec![repairs, applies],
        wants: [vec![0], vec![1]],
    }
}

/// Five masters, two of which are dead for good, and a file that names three: the dead ones and one of the others. Two of the living are to
/// leave, which they may not.
pub fn degraded() -> Procedure {
    let five = given(5);
    let mut world = grown(five);
    for name in ["cp-4", "cp-5"] {
        world.power_off(&node(name));
    }
    world.settle();
    world.now_ms += 60_000;
    let mut intent = five.intent();
    for name in ["cp-2", "cp-3"] {
        let machine = intent.spec.control_plane.remove(&node(name));
        intent
            .retired
            .insert(node(name), machine.expect("it is one of five"));
    }
    Procedure {
        name: "degraded",
        world,
        intents: vec![intent],
        wants: [vec![0], vec![0]],
    }
}

/// All of them.
pub fn all() -> Vec<Procedure> {
    vec![
        one_to_three(),
        three_to_five(),
        five_to_three(),
        replace_healthy(),
        replace_leader(),
        replace_dead(),
        replace_anew(),
        repair(),
    ]
}
