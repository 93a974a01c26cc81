//! What `status` says of a cluster in this or that state.

use quorate_plan::{
    Fence, Intent, Missing, Planning, Seen,
    assessment::{Health, assess},
    plan,
};
use quorate_testkit::{
    World,
    fixture::{Cluster, node},
    render,
    walk::{take, turns},
};

fn cluster() -> Cluster {
    Cluster {
        workers: 1,
        ..Cluster::default()
    }
}

fn grown(intent: &Intent) -> World {
    let mut world = World::new(&intent.spec);
    let Planning { plan, refused, .. } = plan(intent, &world.observe(intent));
    assert_eq!(refused, []);
    for (step, change) in turns(&plan) {
        take(&mut world, intent, step, change, Fence(1))
            .unwrap_or_else(|error| panic!("{}: {error:?}", render::step(step)));
    }
    world
}

/// What is said after that happened to a healthy cluster.
fn after(change: impl FnOnce(&mut World)) -> String {
    let intent = cluster().intent();
    let mut world = grown(&intent);
    change(&mut world);
    world.settle();
    render::assessment(&assess(&intent, &world.observe(&intent)))
}

#[test]
fn healthy() {
    assert_eq!(
        after(|_| {}),
        "healthy: 3 of 3 voters healthy, survives 1 more\n"
    );
    let intent = Cluster {
        balancers: 2,
        ..cluster()
    }
    .intent();
    let world = grown(&intent);
    let assessment = assess(&intent, &world.observe(&intent));
    assert_eq!(assessment.health, Health::Healthy);
    assert_eq!(assessment.survives_balancer_loss, Some(true));
    let expiry = assessment.nearest_expiry.expect("there are certificates");
    assert_eq!(expiry.days_left, 365);
}

#[test]
fn one_balancer_is_not_two() {
    let intent = cluster().intent();
    let world = grown(&intent);
    let assessment = assess(&intent, &world.observe(&intent));
    assert_eq!(assessment.survives_balancer_loss, Some(false));
    let external = Cluster {
        balancers: 0,
        local: false,
        ..cluster()
    }
    .intent();
    let assessment = assess(&external, &grown(&external).observe(&external));
    assert_eq!(assessment.health, Health::Healthy, "{assessment:?}");
    assert_eq!(assessment.survives_balancer_loss, None);
}

#[test]
fn absent() {
    let intent = cluster().intent();
    let world = World::new(&intent.spec);
    let assessment = assess(&intent, &world.observe(&intent));
    assert_eq!(assessment.health, Health::Absent);
    assert_eq!(assessment.problems, []);
    assert_eq!(assessment.voters, None);
}

#[test]
fn one_master_down() {
    let said = after(|world| world.power_off(&node("cp-1")));
    quorate_golden(&said, "one-master-down");
}

#[test]
fn two_masters_down() {
    let said = after(|world| {
        world.power_off(&node("cp-1"));
        world.power_off(&node("cp-2"));
    });
    quorate_golden(&said, "two-masters-down");
}

#[test]
fn a_balancer_down() {
    let said = after(|world| world.power_off(&node("lb-1")));
    quorate_golden(&said, "balancer-down");
}

#[test]
fn a_node_under_pressure() {
    let said = after(|world| {
        let kube = world.kube_mut(&node("cp-1")).expect("it is ready");
        let object = kube.nodes.get_mut(&node("w-1")).expect("it has joined");
        object.pressures.insert("DiskPressure".to_owned());
    });
    quorate_golden(&said, "node-under-pressure");
}

#[test]
fn a_kubelet_that_stopped() {
    let said = after(|world| world.stop_unit(&node("w-1"), "kubelet"));
    quorate_golden(&said, "kubelet-stopped");
}

#[test]
fn an_alarm() {
    let said = after(|world| world.raise_alarm(&node("cp-2"), "NOSPACE"));
    quorate_golden(&said, "alarm");
}

#[test]
fn a_learner_that_was_left() {
    let said = after(|world| {
        let peer_url = "https://10.0.0.99:2380";
        world
            .add_learner(&node("cp-1"), peer_url)
            .expect("a learner");
    });
    quorate_golden(&said, "learner-left");
}

#[test]
fn a_certificate_that_ends_soon() {
    let said = after(|world| world.now_ms += 340 * 86_400_000);
    quorate_golden(&said, "certificate");
}

#[test]
fn nobody_could_be_seen() {
    let intent = cluster().intent();
    let world = grown(&intent);
    let mut seen = world.observe(&intent);
    for (node, ..) in intent.spec.machines() {
        seen.record(
            node,
            Seen::Unknown(Missing::no_answer(format!("host {node}"), "no route")),
        );
    }
    let assessment = assess(&intent, &seen);
    assert_eq!(assessment.health, Health::Unseen);
    assert_eq!(assessment.tolerance, None, "what was not seen is not known");
    quorate_golden(&render::assessment(&assessment), "unseen");
}

mod golden;

fn quorate_golden(text: &str, name: &str) {
    golden::check(&format!("status/{name}.txt"), text);
}
