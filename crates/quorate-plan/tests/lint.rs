//! The second opinion on plans: good ones pass, and each kind of bad one is found.

mod seeing;

use std::collections::BTreeSet;

use quorate_plan::{
    Change, Ensure, Handover, HostEnsure, InfraEnsure, Observation, Place, Plan, Reason, Stage,
    Step,
    kubeadm::{ClusterSettings, Peer},
    lint::lint,
    observation::{Cgroup, EndpointName, Founding, MachineKind},
};
use seeing::{node, peer, seen};

fn settings() -> ClusterSettings {
    ClusterSettings {
        cluster: "demo".parse().expect("a name"),
        kubernetes: "1.35.4".into(),
        endpoint: EndpointName {
            host: "api.demo.internal".into(),
            port: 6443,
        },
        sans: BTreeSet::new(),
        pods: "10.244.0.0/16".into(),
        services: "10.96.0.0/12".into(),
        images: [].into(),
        kind: MachineKind {
            cgroup: Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
        },
    }
}

fn step(on: &str, ensure: HostEnsure) -> Step {
    Step {
        on: Place::Host(node(on)),
        ensure: Ensure::Host(ensure),
        handover: None,
        because: Reason::Joins,
    }
}

fn stage(change: Option<Change>, steps: impl Into<Vec<Step>>) -> Stage {
    Stage {
        title: "a stage".into(),
        change,
        steps: steps.into(),
    }
}

fn add(name: &str) -> Option<Change> {
    Some(Change::AddVoter { node: node(name) })
}

fn found(names: &str) -> Option<Change> {
    Some(Change::Found {
        nodes: names.split(' ').map(node).collect(),
    })
}

fn learner(name: &str) -> Step {
    step("a", HostEnsure::Learner { joiner: peer(name) })
}

fn voter(name: &str) -> Step {
    step("a", HostEnsure::Voter { joiner: peer(name) })
}

fn serving(name: &str) -> Step {
    step(name, HostEnsure::Serving { node: peer(name) })
}

fn backend(name: &str) -> Step {
    step(
        "f",
        HostEnsure::Backend {
            backend: peer(name),
            address: (peer(name).address, 6443).into(),
        },
    )
}

fn etcd(name: &str, founders: &str) -> Step {
    let founders: BTreeSet<Peer> = founders.split_whitespace().map(peer).collect();
    step(
        name,
        HostEnsure::EtcdMember {
            settings: settings(),
            node: peer(name),
            founders,
        },
    )
}

fn authority(on: &str, of: Option<&str>) -> Step {
    step(
        on,
        HostEnsure::Authority {
            founding: Some(Founding {
                nodes: [node("a"), node("b")].into(),
                done: false,
            }),
            of: of.map(node),
        },
    )
}

#[track_caller]
fn check(there: &str, stages: impl Into<Vec<Stage>>, expected: &[&str]) {
    let plan = Plan {
        stages: stages.into(),
    };
    let found: Vec<String> = lint(&plan, &seen(there))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, expected);
}

fn joins(name: &str) -> Vec<Stage> {
    vec![
        stage(add(name), [learner(name)]),
        stage(add(name), [etcd(name, "")]),
        stage(add(name), [voter(name)]),
        stage(None, [serving(name)]),
        stage(None, [backend(name)]),
    ]
}

#[test]
fn good_plans_pass() {
    check("a+ b. c.", [joins("b"), joins("c")].concat(), &[]);
    // What is left of one that was interrupted after the learner was added, started, or promoted.
    check("a+ b+learner", joins("b")[1..].to_vec(), &[]);
    check("a+ b+learner", joins("b")[2..].to_vec(), &[]);
    check("a+ b+", joins("b")[3..].to_vec(), &[]);
    check("a+ b+", joins("b")[4..].to_vec(), &[]);
    check(
        "a. b.",
        [
            stage(found("a b"), [authority("a", None)]),
            stage(found("a b"), [authority("b", Some("a"))]),
            stage(
                found("a b"),
                [
                    etcd("a", "a b"),
                    etcd("b", "a b"),
                    serving("a"),
                    serving("b"),
                ],
            ),
            stage(None, [backend("a"), backend("b")]),
        ],
        &[],
    );
    assert_eq!(lint(&Plan::default(), &Observation::default()), []);
}

#[test]
fn traffic_before_serving() {
    let mut reordered = joins("b");
    reordered.swap(3, 4);
    check(
        "a+ b.",
        reordered,
        &["stage 4: traffic for b before it serves"],
    );
    // Side by side is not after.
    check(
        "a+ b+learner",
        [stage(None, [serving("b"), backend("b")])],
        &["stage 1: traffic for b before it serves"],
    );
    check(
        "a? b- c-",
        [stage(None, [backend("a")])],
        &["stage 1: traffic for a before it serves"],
    );
}

#[test]
fn learners_that_stay() {
    let mut left = joins("b");
    left.remove(2);
    check("a+ b.", left, &["stage 4: ends with b as a learner"]);
    let mut two = joins("b");
    two.splice(1..1, [stage(add("c"), [learner("c")])]);
    check(
        "a+ b. c.",
        two,
        &[
            "stage 2: begins `add voter c` while b is still a learner",
            "stage 2: learner for c while b is one",
            "stage 3: begins `add voter b` while c is still a learner",
        ],
    );
    check(
        "a+ b.",
        [stage(add("b"), [learner("b"), voter("b"), learner("b")])],
        &["stage 1: ends with b as a learner"],
    );
}

#[test]
fn changes_outside_their_stage() {
    check(
        "a+ b.",
        [stage(None, [learner("b")]), stage(None, [voter("b")])],
        &[
            "stage 1: learner for b outside its change",
            "stage 2: promotion of b outside its change",
        ],
    );
    check(
        "a+ b. c.",
        [stage(add("c"), [etcd("b", "")])],
        &["stage 1: etcd of b outside a change that is about it"],
    );
    check(
        "a. b. c.",
        [stage(found("a b"), [etcd("a", "a b c")])],
        &["stage 1: etcd of a outside a change that is about it"],
    );
    check(
        "a+ b.",
        [stage(None, [authority("b", None)])],
        &["stage 1: new certificate authorities on b outside a founding"],
    );
}

#[test]
fn founding_beside_a_cluster() {
    check(
        "a. b. c+",
        [stage(found("a b"), [etcd("a", "a b"), etcd("b", "a b")])],
        &["stage 1: founds a cluster beside the one that runs"],
    );
    // Its own, half-way up.
    check("a+ b-", [stage(found("a b"), [etcd("b", "a b")])], &[]);
}

#[test]
fn steps_in_impossible_places() {
    let machine = Step {
        on: Place::Host(node("a")),
        ensure: Ensure::Infra(InfraEnsure::Machine {
            node: node("a"),
            address: peer("a").address,
        }),
        handover: None,
        because: Reason::Wanted,
    };
    check(
        "a.",
        [stage(None, [machine])],
        &["stage 1: machine made on a"],
    );
    let nowhere = Step {
        on: Place::Operator,
        ..serving("a")
    };
    check(
        "a.",
        [stage(None, [nowhere])],
        &["stage 1: `etcd and apiserver serve: own /readyz is ok` is not on a host"],
    );
    let to_itself = Step {
        handover: Some(Handover::CaSet { from: node("b") }),
        ..authority("b", Some("a"))
    };
    check(
        "a. b.",
        [stage(found("a b"), [to_itself])],
        &["stage 1: b hands something over to itself"],
    );
    check("a.", [stage(None, [])], &["stage 1: has no step"]);
}
