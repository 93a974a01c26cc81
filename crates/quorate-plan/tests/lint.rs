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
use seeing::{id, node, peer, seen};

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
            shared_disk: false,
        },
        adopted: None,
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
                restarts: 0,
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
    check("a+ c+ b+learner", joins("b")[1..].to_vec(), &[]);
    check("a+ c+ b+learner", joins("b")[2..].to_vec(), &[]);
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
        "a+ c+ b.",
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
        "a+ d+ b. c.",
        two,
        &[
            "stage 2: begins `add voter c` while b is still a learner",
            "stage 2: learner for c while b is one",
            "stage 3: begins `add voter b` while c is still a learner",
        ],
    );
    check(
        "a+ c+ b.",
        [stage(add("b"), [learner("b"), voter("b"), learner("b")])],
        &["stage 1: ends with b as a learner"],
    );
}

#[test]
fn changes_outside_their_stage() {
    check(
        "a+ c+ b.",
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

fn remove(name: &str, next: Option<&str>) -> Option<Change> {
    Some(Change::RemoveMember {
        id: id(name),
        next: next.map(node),
    })
}

fn moved(name: &str) -> Step {
    step(
        name,
        HostEnsure::LeaderMoved {
            member: id(name),
            to: [peer("b")].into(),
        },
    )
}

fn ended(name: &str) -> Step {
    step(name, HostEnsure::ControlPlaneGone { member: id(name) })
}

fn gone(on: &str, name: &str) -> Step {
    step(
        on,
        HostEnsure::MemberGone {
            member: id(name),
            peer_urls: BTreeSet::new(),
        },
    )
}

fn node_gone(name: &str) -> Step {
    step("b", HostEnsure::NodeGone { node: node(name) })
}

fn reset(name: &str) -> Step {
    step(name, HostEnsure::Reset { node: peer(name) })
}

fn leaves(name: &str, next: Option<&str>) -> Vec<Stage> {
    vec![
        stage(remove(name, next), [moved(name)]),
        stage(remove(name, next), [ended(name)]),
        stage(remove(name, next), [gone("b", name)]),
        stage(None, [node_gone(name)]),
        stage(None, [reset(name)]),
    ]
}

#[test]
fn good_ways_out_pass() {
    check("a+ b+ c+ d+", leaves("d", None), &[]);
    check("a+ b+ c+ d+", leaves("a", None), &[]);
    check(
        "a+ b+ c+ d+ e+",
        [leaves("e", None), leaves("d", None)].concat(),
        &[],
    );
    check("a+ b+ c+ d.", [joins("d"), leaves("a", None)].concat(), &[]);
    check(
        "a+ b+ c+",
        [leaves("c", Some("a")), leaves("a", None)].concat(),
        &[],
    );
    let dead = vec![stage(remove("c", Some("d")), [gone("b", "c")])];
    check("a+ b+ c- d.", [dead, joins("d")].concat(), &[]);
    // The same host made anew.
    check(
        "a+ b+ c+",
        [leaves("c", Some("c")), rejoins("c")].concat(),
        &[],
    );
    // What is left of one that was interrupted.
    check("a+ b+ c+", leaves("d", None)[3..].to_vec(), &[]);
    // A join that is taken back, where two voters were left.
    check(
        "a+ b+ c-learner",
        [stage(remove("c", None), [gone("b", "c")])],
        &[],
    );
}

/// As [`joins`], of a host that is compared again.
fn rejoins(name: &str) -> Vec<Stage> {
    let rehearsed = HostEnsure::Rehearsed {
        settings: settings(),
        node: peer(name),
    };
    [vec![stage(None, [step(name, rehearsed)])], joins(name)].concat()
}

#[test]
fn ways_out_in_the_wrong_order() {
    let without = |at: usize, name: &str| {
        let mut stages = leaves(name, None);
        stages.remove(at);
        stages
    };
    check("a+ b+ c+ d+", without(0, "d"), &[]);
    check(
        "a+ b+ c+ d+",
        without(0, "a"),
        &["stage 2: removes a1 while it leads"],
    );
    check(
        "a+ b+ c+ d+",
        without(2, "d"),
        &[
            "stage 3: node d goes before its member",
            "stage 4: d is reset before its member goes",
            "stage 4: ends with member d1 on its way out",
        ],
    );
    let mut own = leaves("d", None);
    own[2] = stage(remove("d", None), [gone("d", "d")]);
    check("a+ b+ c+ d+", own, &["stage 3: d removes itself"]);
    let mut outside = leaves("d", None);
    for stage in &mut outside {
        stage.change = None;
    }
    check(
        "a+ b+ c+ d+",
        outside,
        &[
            "stage 1: leadership of d1 moves outside its removal",
            "stage 2: control plane of d ends outside its removal",
            "stage 3: removal of d1 outside its change",
        ],
    );
    let first = vec![stage(remove("c", Some("d")), [gone("b", "c")])];
    check(
        "a+ b+ c+ d.",
        [first, joins("d")].concat(),
        &["stage 1: removes c1, which is healthy, before somebody comes in its place"],
    );
}

#[test]
fn voters_that_are_left() {
    check(
        "a+ b+ c-",
        [stage(remove("c", None), [gone("b", "c")])],
        &[
            "stage 1: ends with two voters",
            "stage 1: ends with 2 voters, an even number",
        ],
    );
    check(
        "a+ b+ c- d. e.",
        [
            vec![stage(remove("c", Some("e")), [gone("b", "c")])],
            joins("d"),
        ]
        .concat(),
        &["stage 2: leaves two voters and goes on with `add voter d`"],
    );
    check(
        "a+ b+ c+ d+ e+",
        leaves("e", None),
        &["stage 5: ends with 4 voters, an even number"],
    );
    check(
        "a+ b+ c+ d- e-",
        [stage(remove("d", None), [gone("b", "d"), gone("b", "e")])],
        &[
            "stage 1: removes more than one member",
            "stage 1: removal of e1 outside its change",
        ],
    );
    let mut between = leaves("e", None);
    between.splice(1..1, leaves("d", None));
    check(
        "a+ b+ c+ d+ e+",
        between,
        &["stage 2: begins `remove member d1` while member e1 is on its way out"],
    );
}

#[test]
fn joiners_that_were_not_compared() {
    let mut there = seen("a+ c+ b.");
    let Some(quorate_plan::Seen::Known { value, .. }) = there.hosts.get_mut(&node("b")) else {
        panic!("b answers")
    };
    value.rehearsed = quorate_plan::Seen::now(None);
    let found: Vec<String> = lint(&Plan { stages: joins("b") }, &there)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        ["stage 1: learner for b before it was compared with the masters"]
    );
    assert_eq!(
        lint(
            &Plan {
                stages: rejoins("b")
            },
            &there
        ),
        []
    );
}
