//! The world keeps the rules it claims to keep: those of `docs/design/etcd-rules.md`, in etcd's words, and kubeadm's about who serves
//! when. And the invariants do fail where they must.

use std::{sync::Arc, time::Duration};

use quorate_plan::{
    Fence, HostEnsure, Intent, MemberId, NodeName, Observation, Planning, Request, plan,
    spec::BringUp,
};
use quorate_testkit::{
    World,
    fixture::{Cluster, intent, node, operator},
    invariant::{has_quorum, violations},
    walk::{aged, take, turns},
    world::{ActError, etcd::HEALTH_TICKS, machine::Pod},
};

fn cluster(masters: u8) -> Cluster {
    Cluster {
        masters,
        local: false,
        ..Cluster::default()
    }
}

/// A running cluster of so many voters, founded together.
fn voters(masters: u8) -> World {
    let intent = cluster(masters).intent();
    let mut world = World::new(&intent.spec);
    let Planning { plan, refused, .. } = plan(&intent, &world.observe(&intent));
    assert_eq!(refused, []);
    for (step, change) in turns(&plan) {
        take(&mut world, &intent, step, change, Fence(1)).expect("an undisturbed plan");
    }
    world
}

fn cp(number: u8) -> NodeName {
    node(&format!("cp-{number}"))
}

fn url(number: u8) -> String {
    format!("https://10.0.0.{}:2380", 10 + number)
}

fn member(world: &World, number: u8) -> MemberId {
    let cluster = world.clusters.values().next().expect("an etcd");
    cluster.by_peer_url(&url(number)).expect("a member").0
}

/// Power is cut, and everybody has noticed.
fn down(world: &mut World, number: u8) {
    world.power_off(&cp(number));
    world.settle();
}

const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
const NOT_ENOUGH: &str = "etcdserver: re-configuration failed due to not enough started members";

#[test]
fn adding_needs_a_majority_of_the_larger_cluster() {
    for (there, lost, allowed) in [
        (1, 0, true),
        (2, 0, true),
        (3, 0, true),
        (3, 1, false),
        (4, 1, true),
        (5, 1, true),
        (5, 2, false),
    ] {
        let mut world = voters(there);
        for number in 0..lost {
            down(&mut world, there - number);
        }
        let said = world.add_learner(&cp(1), "https://10.0.0.99:2380");
        let expected = if allowed {
            Ok(())
        } else {
            Err(UNHEALTHY.to_owned())
        };
        assert_eq!(said.map(|_| ()), expected, "{lost} of {there} down");
    }
}

#[test]
fn a_voter_that_has_just_come_back_does_not_count_for_five_seconds() {
    let mut world = voters(3);
    down(&mut world, 3);
    world.power_on(&cp(3));
    // Kubelet, etcd and its first heartbeat.
    for _ in 0..4 {
        world.tick();
    }
    let peer_url = "https://10.0.0.99:2380";
    assert_eq!(
        world.add_learner(&cp(1), peer_url),
        Err(UNHEALTHY.to_owned())
    );
    for _ in 0..HEALTH_TICKS {
        world.tick();
    }
    assert!(world.add_learner(&cp(1), peer_url).is_ok());
}

#[test]
fn one_learner_at_most_and_no_peer_url_twice() {
    let mut world = voters(3);
    assert_eq!(
        world.add_learner(&cp(1), &url(2)),
        Err("etcdserver: Peer URLs already exists".into())
    );
    world
        .add_learner(&cp(1), "https://10.0.0.98:2380")
        .expect("a first learner");
    assert_eq!(
        world.add_learner(&cp(1), "https://10.0.0.98:2380"),
        Err("etcdserver: Peer URLs already exists".into())
    );
    assert_eq!(
        world.add_learner(&cp(1), "https://10.0.0.99:2380"),
        Err("etcdserver: too many learner members in cluster".into())
    );
}

#[test]
fn promoting() {
    let mut world = voters(3);
    assert_eq!(
        world.promote(&cp(1), MemberId(1)),
        Err("etcdserver: member not found".into())
    );
    let two = member(&world, 2);
    assert_eq!(
        world.promote(&cp(1), two),
        Err("etcdserver: can only promote a learner member".into())
    );
    let learner = world
        .add_learner(&cp(1), "https://10.0.0.99:2380")
        .expect("a learner");
    assert_eq!(
        world.promote(&cp(1), learner),
        Err("etcdserver: can only promote a learner member which is in sync with leader".into()),
        "it never started"
    );
}

/// One voter and a learner that is up and has caught up.
fn voter_and_learner() -> (World, Intent) {
    let single = Cluster {
        masters: 1,
        bring_up: BringUp::OneByOne,
        ..cluster(1)
    };
    let mut spec = single.spec();
    let mut world = voters(1);
    spec.control_plane = cluster(2).spec().control_plane;
    let intent = intent(spec);
    world.know(&intent.spec);
    let Planning { plan, refused, .. } = plan(&intent, &world.observe(&intent));
    assert_eq!(refused, []);
    for (step, change) in turns(&plan) {
        if matches!(
            &step.ensure,
            quorate_plan::Ensure::Host(HostEnsure::Voter { .. })
        ) {
            break;
        }
        take(&mut world, &intent, step, change, Fence(1)).expect("an undisturbed plan");
    }
    (world, intent)
}

#[test]
fn a_learner_does_not_vote_and_tells_clients_little() {
    let (world, _) = voter_and_learner();
    assert_eq!(
        world.machine(&cp(2)).memory.pods.get("etcd"),
        Some(&Pod::Serving)
    );
    assert_eq!(
        world.etcd_client(&cp(2)),
        Err("etcdserver: rpc not supported for learner".into())
    );
    let report = world.report(&cp(2));
    let report = report.get().expect("a host that answers");
    let view = report.etcd.get().expect("a learner tells its status");
    let view = view.as_ref().expect("it runs etcd");
    assert!(!view.linearizable);
    assert!(view.members.is_empty());
    assert!(view.leader.is_some());
    // It may go away without anybody minding.
    let (mut world, _) = voter_and_learner();
    down(&mut world, 2);
    assert!(has_quorum(&world));
}

#[test]
fn a_dead_learner_is_promoted_and_takes_the_quorum_with_it() {
    let (mut world, intent) = voter_and_learner();
    let learner = member(&world, 2);
    let early = aged(world.observe(&intent), Duration::from_secs(1));
    down(&mut world, 2);
    // By a host of ours it is not: nobody has seen it alive.
    let asked = |testimony: Observation| Request {
        fence: Fence(1),
        ensure: HostEnsure::Voter {
            joiner: intent.spec.peer(&cp(2)).expect("a master"),
        },
        change: Some(quorate_plan::Change::AddVoter { node: cp(2) }),
        sealed: Vec::new(),
        receipt: None,
        accepted: [].into(),
        testimony,
    };
    let refused = world.accept(&cp(1), &asked(world.observe(&intent)));
    assert!(
        matches!(&refused, Err(ActError::Refused(refusal)) if refusal.code().name() == "missing"),
        "{refused:?}"
    );
    let long_ago = aged(early, Duration::from_secs(60));
    assert!(
        world.accept(&cp(1), &asked(long_ago)).is_err(),
        "61 s are too old"
    );
    // By etcd itself it is.
    world
        .promote(&cp(1), learner)
        .expect("it was in sync when it died");
    world.settle();
    assert!(!has_quorum(&world));
    world.power_on(&cp(2));
    world.settle();
    assert!(has_quorum(&world), "it comes back with the member");
}

#[test]
fn removing_judges_the_members_that_are_connected() {
    let mut world = voters(3);
    down(&mut world, 3);
    let (two, three) = (member(&world, 2), member(&world, 3));
    assert_eq!(world.remove_member(&cp(1), two), Err(UNHEALTHY.into()));
    world.remove_member(&cp(1), three).expect("the dead one");
    assert_eq!(
        world.remove_member(&cp(1), three),
        Err("etcdserver: member not found".into())
    );
    let mut one = voters(1);
    let only = member(&one, 1);
    assert_eq!(one.remove_member(&cp(1), only), Err(NOT_ENOUGH.into()));
    // Of two with one dead nothing can be removed: there is no answer.
    let mut two = voters(2);
    let second = member(&two, 2);
    down(&mut two, 2);
    assert_eq!(
        two.remove_member(&cp(1), second),
        Err("etcdserver: no leader".into())
    );
}

#[test]
fn a_removed_member_does_not_come_back() {
    let mut world = voters(3);
    down(&mut world, 3);
    let three = member(&world, 3);
    world.remove_member(&cp(1), three).expect("the dead one");
    let again = world
        .add_learner(&cp(1), &url(3))
        .expect("its URL is free at once");
    assert_ne!(again, three, "under a new ID");
    world.power_on(&cp(3));
    world.settle();
    assert_eq!(
        world.machine(&cp(3)).memory.pods.get("etcd"),
        Some(&Pod::Crashing(
            "the member has been permanently removed from the cluster".into()
        ))
    );
    assert_eq!(world.participant(&cp(3)), None);
}

#[test]
fn a_joiner_names_exactly_the_members() {
    let (mut world, _) = voter_and_learner();
    // Another member comes and goes in the list while the joiner is not up yet: its manifest is wrong for ever.
    world.power_off(&cp(2));
    world.machine_mut(&cp(2)).disk.etcd = None;
    let learner = member(&world, 2);
    world
        .remove_member(&cp(1), learner)
        .expect("a learner goes without a check");
    world.power_on(&cp(2));
    world.settle();
    assert_eq!(
        world.machine(&cp(2)).memory.pods.get("etcd"),
        Some(&Pod::Crashing(
            "error validating peerURLs: member count is unequal".into()
        ))
    );
    let (mut alone, _) = voter_and_learner();
    alone.power_off(&cp(2));
    alone.machine_mut(&cp(2)).disk.etcd = None;
    down(&mut alone, 1);
    alone.power_on(&cp(2));
    alone.settle();
    assert_eq!(
        alone.machine(&cp(2)).memory.pods.get("etcd"),
        Some(&Pod::Crashing(
            "cannot fetch cluster info from peer urls".into()
        ))
    );
}

/// Takes the empty-data guard away: what etcd alone would do.
fn unguarded(world: &mut World) {
    for machine in world.machines.values_mut() {
        Arc::make_mut(machine).disk.marker = None;
    }
}

#[test]
fn a_founder_without_its_data_stays_out_while_others_are_reached() {
    let mut world = voters(3);
    unguarded(&mut world);
    world.lose_etcd_data(&cp(1));
    world.settle();
    assert_eq!(
        world.machine(&cp(1)).memory.pods.get("etcd"),
        Some(&Pod::Crashing(
            "member has already been bootstrapped".into()
        ))
    );
    assert_eq!(violations(&world), Vec::<String>::new());
}

#[test]
fn a_founder_without_its_data_founds_again_when_it_is_alone() {
    let mut world = voters(3);
    unguarded(&mut world);
    for number in [2, 3] {
        world.power_off(&cp(number));
    }
    world.lose_etcd_data(&cp(1));
    world.settle();
    let one = member(&world, 1);
    assert_eq!(
        violations(&world),
        [format!("voter {one} came back with an empty log")]
    );
}

#[test]
fn the_guard_keeps_the_kubelet_from_starting_an_emptied_master() {
    let mut world = voters(3);
    for number in [2, 3] {
        world.power_off(&cp(number));
    }
    world.lose_etcd_data(&cp(1));
    world.settle();
    assert!(!world.machine(&cp(1)).active("kubelet"));
    assert_eq!(world.participant(&cp(1)), None);
    assert_eq!(violations(&world), Vec::<String>::new());
}

#[test]
fn lost_disks_are_noticed() {
    let mut world = voters(3);
    for number in [1, 2] {
        world.lose_disk(&cp(number));
    }
    world.settle();
    assert_eq!(
        violations(&world),
        ["data of 1 of 3 voters is left, 2 needed"]
    );
}

#[test]
fn founders_wait_for_each_other_and_joiners_for_their_vote() {
    let mut world = voters(3);
    for number in 1..=3 {
        world.power_off(&cp(number));
    }
    world.power_on(&cp(1));
    world.settle();
    // Alone it answers no client at all, and its apiserver neither.
    assert!(!world.machine(&cp(1)).serves("etcd"));
    assert_eq!(world.readyz(&cp(1)), None);
    world.power_on(&cp(2));
    world.settle();
    assert!(world.api_ready(&cp(1)).is_some());
    // Losing it again, those that answered go on answering, and say why they are not ready.
    world.power_off(&cp(2));
    world.settle();
    let readyz = world.readyz(&cp(1)).expect("it answers");
    assert!(!readyz.ready);
    assert_eq!(readyz.failing, ["etcd".to_owned()].into());
}

#[test]
fn static_pods_need_a_kubelet() {
    let mut world = voters(3);
    world.power_off(&cp(2));
    world.machine_mut(&cp(2)).disk.enabled.remove("kubelet");
    world.power_on(&cp(2));
    world.settle();
    assert!(world.machine(&cp(2)).memory.pods.is_empty());
    assert_eq!(world.participant(&cp(2)), None);
}

#[test]
fn etcds_of_two_authorities_do_not_talk() {
    let mut world = voters(3);
    world.machine_mut(&cp(3)).disk.pki.authority = Some("somebody's".into());
    world.settle();
    assert!(!world.peers(&cp(1), &cp(3)));
    assert_eq!(world.api_ready(&cp(3)), None);
    assert_eq!(violations(&world), ["etcd hosts hold 2 authorities"]);
}

#[test]
fn a_cut_off_master_serves_nothing_and_comes_back() {
    let mut world = voters(3);
    world.machine_mut(&cp(1)).isolated = true;
    world.settle();
    assert_eq!(world.api_ready(&cp(1)), None);
    assert!(world.api_ready(&cp(2)).is_some());
    assert_eq!(world.up(&node("lb-1")), [cp(2), cp(3)].into());
    world.machine_mut(&cp(1)).isolated = false;
    world.settle();
    assert_eq!(world.up(&node("lb-1")), [cp(1), cp(2), cp(3)].into());
}

#[test]
fn hosts_act_only_for_the_operation_in_force() {
    let intent = cluster(3).intent();
    let mut world = World::new(&intent.spec);
    let request = |fence| Request {
        fence: Fence(fence),
        ensure: HostEnsure::Guarded {},
        change: None,
        sealed: Vec::new(),
        receipt: None,
        accepted: [].into(),
        testimony: world.observe(&intent),
    };
    let (one, two) = (request(1), request(2));
    let failed = |said: Result<_, ActError>| match said {
        Err(ActError::Failed(words)) => words,
        other => panic!("{:?}", other.err()),
    };
    assert_eq!(
        failed(world.accept(&cp(1), &one)),
        "expected token 1 to be granted on this host"
    );
    let claim = |fence, run| quorate_plan::Claim {
        fence: Fence(fence),
        operator: operator(run),
        since: 0,
        intent: intent.clone(),
    };
    world.claim(&cp(1), &claim(1, 1)).expect("nobody is at it");
    assert_eq!(
        failed(world.accept(&cp(1), &one)),
        "expected a host that carries a cluster's mark"
    );
    // While its operator is connected nobody takes it over; afterwards somebody does.
    assert!(matches!(
        world.claim(&cp(1), &claim(2, 2)),
        Err(ActError::Refused(refusal)) if refusal.code().name() == "operation-in-force"
    ));
    world.machine_mut(&cp(1)).memory.connected = false;
    world
        .claim(&cp(1), &claim(2, 2))
        .expect("nobody is at it any more");
    assert!(matches!(
        world.accept(&cp(1), &one),
        Err(ActError::Refused(refusal)) if refusal.code().name() == "fenced"
    ));
    assert!(matches!(
        world.claim(&cp(1), &claim(1, 1)),
        Err(ActError::Refused(refusal)) if refusal.code().name() == "fenced"
    ));
    assert!(matches!(
        world.release(&cp(1), Fence(1)),
        Err(ActError::Refused(refusal)) if refusal.code().name() == "fenced"
    ));
    assert!(world.accept(&cp(1), &two).is_err(), "it carries no mark");
    world.release(&cp(1), Fence(2)).expect("its own");
}
