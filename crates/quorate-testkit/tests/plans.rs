//! Plans as text, and the property everything rests on: after any prefix of a plan, planning again gives exactly the rest.

mod golden;

use std::collections::BTreeSet;

use quorate_plan::{
    Ensure, Fence, Goal, HostEnsure, InfraEnsure, Intent, NodeName, Observation, Place, Plan,
    Planning, Standing, Step, lint::lint, plan, spec::BringUp,
};
use quorate_testkit::{
    World,
    fixture::{Cluster, node},
    render,
    rng::Rng,
    walk::{act, founded_by, lanes, request, take, turns},
    world::ActError,
};

const FENCE: Fence = Fence(1);

/// Plans, and expects that nothing is refused, waited for, or found by the lint.
fn planned(intent: &Intent, world: &World) -> Plan {
    let seen = world.observe(intent);
    let Planning {
        plan,
        waiting,
        refused,
    } = plan(intent, &seen);
    assert_eq!(refused, [], "refused on the way\n{}", render::plan(&plan));
    assert_eq!(waiting, [], "waited for on the way");
    assert_eq!(lint(&plan, &seen), [], "{}", render::plan(&plan));
    plan
}

/// A world in which that cluster file was applied.
fn grown(intent: &Intent) -> World {
    let mut world = World::new(&intent.spec);
    finish(&mut world, intent);
    world
}

/// Walks through a plan to its end.
fn finish(world: &mut World, intent: &Intent) {
    let plan = planned(intent, world);
    for (step, change) in turns(&plan) {
        take(world, intent, step, change, FENCE)
            .unwrap_or_else(|error| panic!("{}: {error:?}", render::step(step)));
    }
    let left = planned(intent, world);
    assert!(left.is_empty(), "left over:\n{}", render::plan(&left));
}

/// A cluster whose third master died a while ago, and the file that names another host in its place.
fn dead_for(before: Cluster, then: Cluster) -> (World, Intent) {
    let mut world = grown(&before.intent());
    let intent = then.intent_after(&before);
    world.know(&intent.spec);
    dies(&mut world, "cp-3");
    (world, intent)
}

/// Its power is cut, and everybody notices.
fn dies(world: &mut World, name: &str) {
    world.power_off(&node(name));
    world.settle();
    world.now_ms += 60_000;
}

/// A goal in a cluster of three masters.
fn wants(
    world: &World,
    intent: Intent,
    goal: impl FnOnce(&Intent, &Observation) -> Goal,
) -> Intent {
    let goal = goal(&intent, &world.observe(&intent));
    Intent { goal, ..intent }
}

fn replaces(name: &str) -> impl FnOnce(&Intent, &Observation) -> Goal {
    move |intent, seen| {
        Goal::replace(intent, node(name), None, seen).expect("etcd tells of its members")
    }
}

/// The same host made anew: most of what stands of it has to be done again.
fn anew() -> Vec<(&'static str, World, Intent)> {
    let cluster = Cluster {
        local: false,
        ..Cluster::default()
    };
    let healthy = grown(&cluster.intent());
    let mut reinstalled = healthy.clone();
    reinstalled.lose_disk(&node("cp-2"));
    reinstalled.settle();
    reinstalled.now_ms += 60_000;
    let mut emptied = healthy.clone();
    emptied.lose_etcd_data(&node("cp-3"));
    emptied.settle();
    let foundings = [
        ("late-founder", &["cp-1", "cp-2"][..], &["cp-3"][..]),
        ("late-first-founder", &["cp-2", "cp-3"], &["cp-1"]),
        ("founding-again", &["cp-2"], &["cp-1", "cp-3"]),
    ]
    .map(|(situation, started, lost)| {
        let started: Vec<NodeName> = started.iter().map(|name| node(name)).collect();
        let mut world = founded_by(&cluster.intent(), &started);
        for name in lost {
            world.lose_disk(&node(name));
        }
        world.settle();
        (situation, world, cluster.intent())
    });
    [
        ("anew-healthy", healthy, "cp-2"),
        ("anew-the-leader", grown(&cluster.intent()), "cp-1"),
        ("anew-reinstalled", reinstalled, "cp-2"),
        ("anew-emptied", emptied, "cp-3"),
    ]
    .into_iter()
    .map(|(situation, world, name)| {
        let intent = wants(&world, cluster.intent(), replaces(name));
        (situation, world, intent)
    })
    .chain(foundings)
    .collect()
}

/// The other verbs.
fn verbs() -> Vec<(&'static str, World, Intent)> {
    let three = Cluster::default();
    let swapped = Cluster {
        swaps: [(3, 4), (0, 0)],
        ..three
    };
    let by_another = |_: &Intent, _: &Observation| Goal::Replace {
        node: node("cp-3"),
        with: Some(node("cp-4")),
        member: None,
    };
    let removes = |_: &Intent, _: &Observation| Goal::Remove { node: node("cp-3") };
    let healthy = {
        let mut world = grown(&three.intent());
        world.know(&swapped.spec());
        world
    };
    let (dead, dead_intent) = dead_for(three, swapped);
    // Four voters: a swap was interrupted when the new one had come.
    let four = {
        let intent = swapped.intent_after(&three);
        let mut world = healthy.clone();
        let plan = planned(&intent, &world);
        let comes = turns(&plan).into_iter().take_while(|(_, change)| {
            !matches!(change, Some(quorate_plan::Change::RemoveMember { .. }))
        });
        for (step, change) in comes {
            take(&mut world, &intent, step, change, FENCE).expect("it joins");
        }
        world
    };
    let mut rubbish = healthy.clone();
    {
        let first = node("cp-1");
        let kube = rubbish.kube_mut(&first).expect("it is ready");
        kube.uploaded_certs = true;
        kube.tokens.insert("t00009".into());
        kube.stale_endpoints
            .insert("10.0.0.77".parse().expect("an address"));
        let gone = quorate_plan::observation::Node {
            ready: false,
            reason: "Kubelet stopped posting node status.".into(),
            pressures: BTreeSet::new(),
            control_plane: true,
            tainted: true,
            kubelet: "1.35.4".into(),
            addresses: ["10.0.0.88".parse().expect("an address")].into(),
            heartbeat: None,
        };
        kube.nodes.insert(node("cp-9"), gone);
        kube.silent_since.insert(node("cp-9"), 0);
        let balancer = &mut rubbish.machine_mut(&node("lb-1")).disk.balancer;
        let backends = &mut balancer.as_mut().expect("it is there").backends;
        backends.insert(node("cp-8"), "10.0.0.66:6443".parse().expect("an address"));
        rubbish.settle();
    }
    let repairs = |_: &Intent, _: &Observation| Goal::Repair;
    [
        (
            "replace-healthy",
            healthy.clone(),
            wants(&healthy, swapped.intent_after(&three), by_another),
        ),
        (
            "replace-dead",
            dead.clone(),
            wants(&dead, dead_intent, by_another),
        ),
        (
            "remove-one-of-four",
            four.clone(),
            wants(&four, swapped.intent_after(&three), removes),
        ),
        (
            "repair-rubbish",
            rubbish.clone(),
            wants(&rubbish, three.intent(), repairs),
        ),
        (
            "repair-nothing",
            healthy.clone(),
            wants(&healthy, three.intent(), repairs),
        ),
    ]
    .into()
}

/// The situations every property is tried in: what is there, and what is wanted.
fn situations() -> Vec<(&'static str, World, Intent)> {
    let together = Cluster::default();
    let one_by_one = Cluster {
        bring_up: BringUp::OneByOne,
        ..together
    };
    let single = Cluster {
        masters: 1,
        ..together
    };
    let with_worker = Cluster {
        workers: 1,
        ..together
    };
    let whole = Cluster {
        workers: 2,
        balancers: 2,
        ..one_by_one
    };
    let given = Cluster {
        local: false,
        balancers: 0,
        workers: 1,
        flannel: false,
        ..together
    };
    let nlb = Cluster {
        local: false,
        nlb: true,
        ..one_by_one
    };
    let shared = Cluster {
        shared: true,
        ..together
    };
    let shared_single = Cluster {
        masters: 1,
        ..shared
    };
    let shared_five = Cluster {
        masters: 5,
        ..shared
    };
    let shared_swapped = Cluster {
        swaps: [(3, 4), (0, 0)],
        ..shared
    };
    let shared_one_by_one = Cluster {
        shared: true,
        workers: 1,
        ..one_by_one
    };
    let five = Cluster {
        masters: 5,
        ..together
    };
    let swapped = Cluster {
        swaps: [(3, 4), (0, 0)],
        ..together
    };
    let two_swapped = Cluster {
        swaps: [(2, 5), (3, 4)],
        ..together
    };
    let first_swapped = Cluster {
        swaps: [(1, 4), (0, 0)],
        ..together
    };
    let fresh = |cluster: Cluster| {
        let intent = cluster.intent();
        (World::new(&intent.spec), intent)
    };
    let after = |before: Cluster, then: Cluster| {
        let mut world = grown(&before.intent());
        let intent = then.intent_after(&before);
        world.know(&intent.spec);
        (world, intent)
    };
    [
        ("found-three", fresh(together)),
        ("one-by-one", fresh(one_by_one)),
        ("one-to-three", after(single, together)),
        ("add-a-worker", after(together, with_worker)),
        ("nothing-to-do", after(together, together)),
        ("whole-cluster", fresh(whole)),
        ("given-hosts", fresh(given)),
        ("nlb", fresh(nlb)),
        (
            "nlb-swap",
            after(
                nlb,
                Cluster {
                    swaps: [(3, 4), (0, 0)],
                    ..nlb
                },
            ),
        ),
        ("shared", fresh(shared)),
        ("shared-one-by-one", fresh(shared_one_by_one)),
        ("shared-one-to-three", after(shared_single, shared)),
        ("shared-five-to-three", after(shared_five, shared)),
        ("shared-three-to-one", after(shared, shared_single)),
        ("shared-swap", after(shared, shared_swapped)),
        ("shared-swap-a-dead-one", dead_for(shared, shared_swapped)),
        ("three-to-five", after(together, five)),
        ("five-to-three", after(five, together)),
        ("swap-one", after(together, swapped)),
        ("swap-two", after(together, two_swapped)),
        ("swap-the-leader", after(together, first_swapped)),
        ("swap-a-dead-one", dead_for(together, swapped)),
        (
            "second-balancer",
            after(
                together,
                Cluster {
                    balancers: 2,
                    ..together
                },
            ),
        ),
    ]
    .into_iter()
    .map(|(name, (world, intent))| (name, world, intent))
    .chain(verbs())
    .collect()
}

#[test]
fn plans_read_like_this() {
    for (name, world, intent) in situations().into_iter().chain(anew()) {
        let text = render::plan(&planned(&intent, &world));
        golden::check(&format!("plans/{name}.txt"), &text);
    }
}

/// A founder that loses its data before its guard stands may come back as a voter that forgot what it had confirmed.
#[test]
fn nobody_is_led_to_a_master_before_its_guard() {
    let mut led = 0;
    for (name, world, intent) in situations().into_iter().chain(anew()) {
        let plan = planned(&intent, &world);
        let marked = |node: &NodeName| world.machine(node).disk.marker.is_some();
        let mut guarded: BTreeSet<NodeName> = world
            .machines
            .keys()
            .filter(|node| marked(node))
            .cloned()
            .collect();
        for stage in &plan.stages {
            for step in &stage.steps {
                let to = match &step.ensure {
                    Ensure::Host(HostEnsure::Backend { backend, .. }) => &backend.name,
                    Ensure::Infra(InfraEnsure::Target { node, .. }) => node,
                    Ensure::Host(_) | Ensure::Infra(_) => continue,
                };
                led += 1;
                assert!(guarded.contains(to), "{name}: {}", render::step(step));
            }
            let now = stage
                .steps
                .iter()
                .filter_map(|step| match (&step.ensure, &step.on) {
                    (Ensure::Host(HostEnsure::Guarded {}), Place::Host(node)) => Some(node.clone()),
                    _ => None,
                });
            guarded.extend(now);
        }
    }
    assert!(led > 0, "nobody was led anywhere: nothing was looked at");
}

#[test]
fn after_any_prefix_planning_gives_exactly_the_rest() {
    for (name, mut world, intent) in situations() {
        let approved = planned(&intent, &world);
        let turns = turns(&approved);
        for done in 0..=turns.len() {
            let rest = planned(&intent, &world);
            rest.rest_of(&approved)
                .unwrap_or_else(|departure| panic!("{name} after {done} steps: {departure}"));
            let taken: Vec<_> = turns[..done].iter().map(|(step, _)| *step).collect();
            let seen = world.observe(&intent);
            let expected: Vec<_> = approved
                .steps()
                .filter(|step| !taken.contains(step) && !stood_by_itself(step, &seen))
                .collect();
            // Cleaning up follows from what is handed over in the plan, whether or not there is anything to clean up yet.
            let planned: Vec<_> = rest
                .steps()
                .filter(|step| !stood_by_itself(step, &seen))
                .collect();
            assert_eq!(
                planned
                    .iter()
                    .map(|step| render::step(step))
                    .collect::<Vec<_>>(),
                expected
                    .iter()
                    .map(|step| render::step(step))
                    .collect::<Vec<_>>(),
                "{name} after {done} steps"
            );
            assert_eq!(planned, expected, "{name} after {done} steps");
            let Some((step, change)) = turns.get(done) else {
                continue;
            };
            take(&mut world, &intent, step, *change, FENCE)
                .unwrap_or_else(|error| panic!("{name}: {}: {error:?}", render::step(step)));
        }
    }
}

/// Steps that only wait, or clean up what may not be there, can come to stand without being taken; leadership can be elsewhere by itself,
/// and an apiserver that ends says so itself. No others can.
fn stood_by_itself(step: &Step, seen: &Observation) -> bool {
    let may = matches!(
        step.ensure,
        Ensure::Host(
            HostEnsure::Serving { .. }
                | HostEnsure::TokensGone {}
                | HostEnsure::LeaderMoved { .. }
                | HostEnsure::EndpointGone { .. }
        )
    );
    may && stands(step, seen)
}

/// What a host that is made anew gets back, what one that leaves gives up again, or what nobody can look at any more on a machine that was stopped.
fn takes_away(step: &Step) -> bool {
    matches!(
        step.ensure,
        Ensure::Host(
            HostEnsure::Reset { .. }
                | HostEnsure::LeaderMoved { .. }
                | HostEnsure::FoundingAside { .. }
                | HostEnsure::BackendGone { .. }
                | HostEnsure::SharedAddress { .. }
                | HostEnsure::SharedAddressGone {}
                | HostEnsure::NodeGone { .. }
                | HostEnsure::EndpointGone { .. }
                | HostEnsure::ControlPlaneGone { .. }
        )
    )
}

fn stands(step: &Step, seen: &Observation) -> bool {
    matches!(step.standing(seen), Standing::Done(_))
}

/// Steps of a stage go on side by side, those of one place in order: any such order is a prefix somebody can be interrupted in.
#[test]
fn after_any_order_within_stages_planning_gives_the_rest() {
    for (name, world, intent) in situations().into_iter().chain(anew()) {
        for seed in 0..3 {
            any_order(name, world.clone(), &intent, seed);
        }
    }
}

fn any_order(name: &str, mut world: World, intent: &Intent, seed: u64) {
    let mut rng = Rng::new(seed);
    let approved = planned(intent, &world);
    let mut taken: Vec<&Step> = Vec::new();
    for stage in &approved.stages {
        let mut lanes = lanes(stage);
        while !lanes.is_empty() {
            let lane = usize::try_from(rng.below(lanes.len() as u64)).expect("an index");
            let (step, change) = lanes[lane].remove(0);
            lanes.retain(|lane| !lane.is_empty());
            let at = format!("{name}, seed {seed}, after {}", render::step(step));
            taken.push(step);
            match take(&mut world, intent, step, change, FENCE) {
                // A founder waits for the others, whose turn comes later in this order.
                Ok(_) | Err(ActError::NotYet(_)) => {}
                Err(error) => panic!("{at}: {error:?}"),
            }
            let rest = planned(intent, &world);
            rest.rest_of(&approved)
                .unwrap_or_else(|departure| panic!("{at}: {departure}"));
            let seen = world.observe(intent);
            // What a host made anew was taken away it gets back: it does not go twice.
            let done = |step: &Step| takes_away(step) && taken.contains(&step);
            let open: Vec<_> = approved
                .steps()
                .filter(|step| !stands(step, &seen) && !done(step))
                .collect();
            // Cleaning up follows from what is handed over in the plan, whether or not there is anything to clean up yet.
            let planned: Vec<_> = rest.steps().filter(|step| !stands(step, &seen)).collect();
            assert_eq!(planned, open, "{at}:\n{}", render::plan(&rest));
        }
    }
    assert!(planned(intent, &world).is_empty(), "{name}, seed {seed}");
}

#[test]
fn every_action_run_twice_changes_nothing_the_second_time() {
    for (name, mut world, intent) in situations().into_iter().chain(anew()) {
        let approved = planned(&intent, &world);
        for (step, change) in turns(&approved) {
            let at = format!("{name}: {}", render::step(step));
            let asked = request(&mut world, &intent, step, change, FENCE);
            let Some((node, mut request)) = asked.unwrap_or_else(|error| panic!("{at}: {error:?}"))
            else {
                continue;
            };
            act(&mut world, &node, &request).unwrap_or_else(|error| panic!("{at}: {error:?}"));
            let before = render::lasting(&world);
            // Once by what was seen before the first time, as after a lost answer, and once by a fresh look.
            let late = act(&mut world, &node, &request);
            // To who saw another leader than there is now the guard says no.
            let moved = matches!(step.ensure, Ensure::Host(HostEnsure::LeaderMoved { .. }));
            assert!(
                late.is_ok() || (moved && matches!(late, Err(ActError::Refused(_)))),
                "{at}, by an old look: {late:?}"
            );
            let difference = render::first_difference(&before, &render::lasting(&world));
            assert_eq!(difference, None, "{at}, by an old look");
            request.testimony = world.observe(&intent);
            let again = act(&mut world, &node, &request)
                .unwrap_or_else(|error| panic!("{at}, again: {error:?}"));
            assert_eq!(again.changed, [], "{at}");
            let difference = render::first_difference(&before, &render::lasting(&world));
            assert_eq!(difference, None, "{at}");
        }
    }
}

#[test]
fn a_plan_names_every_host_of_the_file_and_no_other() {
    let intent = Cluster {
        workers: 1,
        ..Cluster::default()
    }
    .intent();
    let plan = planned(&intent, &World::new(&intent.spec));
    let places: std::collections::BTreeSet<NodeName> = plan
        .steps()
        .filter_map(|step| match &step.on {
            quorate_plan::Place::Host(node) => Some(node.clone()),
            quorate_plan::Place::Operator => None,
        })
        .collect();
    assert_eq!(
        places,
        ["cp-1", "cp-2", "cp-3", "lb-1", "w-1"].map(node).into()
    );
}
