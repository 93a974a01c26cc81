//! Journals of runs are ways that the model has; and what no run could have written is none.

#[path = "conformance/of_runs.rs"]
mod of_runs;

use quorate_plan::{
    Event, Fence, Goal, Intent, NodeName, adopted::Adopted, event::Verdict, intent::Landmark,
    spec::BringUp,
};
use quorate_testkit::{
    World,
    conform::{Departed, Followed, Left, follow},
    drive::{Run, apply, apply_until_done},
    fixture::{Cluster, node, operator},
    memory::{Fault, Script, Shared},
    model::procedure::grown,
};

struct Situation {
    name: &'static str,
    world: World,
    intent: Intent,
    /// Runs are killed at one of so many effects: the worlds of a conversion take long to follow.
    killed_at_every: usize,
}

fn fresh(name: &'static str, cluster: Cluster) -> Situation {
    Situation {
        name,
        world: World::new(&cluster.spec()),
        intent: cluster.intent(),
        killed_at_every: 13,
    }
}

fn after(name: &'static str, before: Cluster, then: Cluster) -> Situation {
    let mut world = grown(before);
    world.know(&then.spec());
    Situation {
        name,
        world,
        intent: then.intent(),
        killed_at_every: 13,
    }
}

/// Somebody else's master, as it may be in the world that a plan is imagined in, and the goal to convert it.
fn somebody_elses(adopted: Option<&str>) -> Situation {
    let one = Cluster {
        masters: 1,
        workers: 2,
        balancers: 0,
        bring_up: BringUp::OneByOne,
        local: false,
        flannel: false,
        ..Cluster::default()
    };
    let three = Cluster {
        masters: 3,
        balancers: 1,
        ..one
    };
    let mut situation = after("a conversion", one, three);
    situation.world.somebody_elses();
    if let Some(text) = adopted {
        let adopted = Adopted::read(text, Some(KUBELET)).expect("it is kubeadm's");
        let master = node("cp-1");
        situation.world.was_made_with(&master, &adopted);
        let certificates = &mut situation.world.machine_mut(&master).disk.pki.certificates;
        let serving = certificates
            .get_mut("pki/apiserver.crt")
            .expect("it serves");
        serving
            .sans
            .extend(["kube.example".into(), "10.9.8.7".into()]);
    }
    situation.intent.goal = Goal::Convert { pause_after: None };
    situation.killed_at_every = 37;
    situation
}

/// What somebody's cluster was made with who calls its API by a name.
const NAMED: &str = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.35.4\n\
    controlPlaneEndpoint: kube.example:6443\nnetworking:\n  podSubnet: 10.244.0.0/16\n";

/// What its kubelets are configured with.
const KUBELET: &str =
    "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 99\n";

fn situations() -> Vec<Situation> {
    let together = Cluster {
        workers: 1,
        ..Cluster::default()
    };
    let one_by_one = Cluster {
        bring_up: BringUp::OneByOne,
        local: false,
        ..Cluster::default()
    };
    let single = Cluster {
        masters: 1,
        ..Cluster::default()
    };
    vec![
        fresh("founding together", together),
        fresh("one by one", one_by_one),
        after("one to three", single, Cluster::default()),
        after("a worker", Cluster::default(), together),
        somebody_elses(None),
        somebody_elses(Some(NAMED)),
    ]
}

fn begins(situation: &Situation) -> Left {
    Left {
        worlds: vec![situation.world.clone()],
        in_hand: Vec::new(),
    }
}

fn followed(events: &[Event], before: &Left, at: &str) -> Followed {
    follow(events, before).unwrap_or_else(|departed| panic!("{at}: {departed}"))
}

async fn run(situation: &Situation, script: Script) -> (Shared, Run) {
    let shared = Shared::new(situation.world.clone());
    let run = apply(&shared, &situation.intent, operator(1), script).await;
    (shared, run)
}

#[tokio::test(start_paused = true)]
async fn journals_of_whole_runs_are_followed() {
    for situation in situations() {
        let (_, run) = run(&situation, Script::none()).await;
        assert_eq!(run.verdict, Some(Verdict::Done), "{}", situation.name);
        let followed = followed(&run.events, &Left::default(), situation.name);
        assert_eq!(followed.verdict, Some(Verdict::Done), "{}", situation.name);
        assert!(followed.effects > 0, "{}", situation.name);
        assert!(followed.prefixes > followed.effects, "{}", situation.name);
    }
}

/// Killed at every so-and-so-many-th effect, before, within and after it; the next operator's journal goes on in a world that this one may have
/// left.
#[tokio::test(start_paused = true)]
async fn journals_of_killed_runs_and_of_those_that_go_on_are_followed() {
    for (offset, situation) in situations().into_iter().enumerate() {
        let effects = run(&situation, Script::none()).await.1.effects;
        for effect in (1 + 3 * offset as u64..=effects).step_by(situation.killed_at_every) {
            for fault in [
                Fault::KillBefore,
                Fault::KillDuring,
                Fault::KillAfter,
                Fault::DropReply,
            ] {
                let at = format!("{}, {fault:?} at effect {effect}", situation.name);
                let (shared, first) = run(&situation, Script::at(effect, fault)).await;
                let mut left = begins(&situation);
                let rest = apply_until_done(&shared, &situation.intent, 2, 4).await;
                for run in [first].iter().chain(&rest) {
                    if run.events.is_empty() {
                        continue;
                    }
                    left = followed(&run.events, &left, &at).left;
                }
            }
        }
    }
}

/// Nothing in a plan tells of a worker that is passed over: that it is accepted by name does.
#[tokio::test(start_paused = true)]
async fn a_conversion_without_a_worker_is_followed() {
    let mut situation = somebody_elses(None);
    situation.world.power_off(&node("w-2"));
    situation.world.settle();
    let accepted = "worker-away=w-2".parse().expect("it can be accepted");
    situation.intent.accepted = [accepted].into();
    let (_, run) = run(&situation, Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    let followed = followed(&run.events, &Left::default(), "without w-2");
    assert!(followed.effects > 0);
}

/// On a disk that others use, too, with keepalived on it before anybody comes: no step makes it so.
fn as_it_was_found(world: &mut World, node: &NodeName) {
    let machine = world.machine_mut(node);
    machine.hardware.kind.shared_disk = true;
    machine.disk.sharing.keepalived = true;
}

#[tokio::test(start_paused = true)]
async fn masters_that_come_to_share_an_address_are_followed() {
    let mut situation = somebody_elses(Some(NAMED));
    let three = Cluster {
        workers: 2,
        balancers: 0,
        shared: true,
        bring_up: BringUp::OneByOne,
        local: false,
        flannel: false,
        ..Cluster::default()
    };
    let goal = situation.intent.goal.clone();
    situation.world.know(&three.spec());
    situation.intent = Intent {
        goal,
        ..three.intent()
    };
    let nodes: Vec<_> = situation.world.machines.keys().cloned().collect();
    for node in &nodes {
        as_it_was_found(&mut situation.world, node);
    }
    let paused = Goal::Convert {
        pause_after: Some(Landmark::Certificate),
    };
    let part = Intent {
        goal: paused,
        ..situation.intent.clone()
    };
    let shared = Shared::new(situation.world.clone());
    let mut left = Left::default();
    for (number, intent) in [(1, &part), (2, &situation.intent)] {
        let run = apply(&shared, intent, operator(number), Script::none()).await;
        let at = format!("run {number}: {}", run.text());
        assert!(!run.approved.is_empty(), "{at}");
        left = followed(&run.events, &left, &at).left;
        assert!(!left.worlds.is_empty(), "{at}");
    }
    // A member leaves for another host, in the world that the runs before it left.
    let instead = Cluster {
        swaps: [(2, 4), (0, 0)],
        ..three
    };
    let mut file = instead.intent_after(&three);
    shared.change(|world| {
        world.know(&file.spec);
        as_it_was_found(world, &node("cp-4"));
    });
    let seen = shared.world().observe(&file);
    file.goal =
        Goal::replace(&file, node("cp-2"), Some(node("cp-4")), &seen).expect("its member is known");
    let run = apply(&shared, &file, operator(3), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    followed(&run.events, &left, "the replacement");
}

/// A run that was killed while hosts had something in hand: what it told, and what it left.
async fn killed_within(words: &str) -> (Vec<Event>, Left) {
    let situation = &situations()[0];
    let mut events = run(situation, Script::none()).await.1.events;
    events.truncate(begun(&events, words) + 1);
    let left = followed(&events, &begins(situation), words).left;
    (events, left)
}

/// The beginning of a run that was planned in this world.
fn planned_in(world: &World, like: &Event) -> Event {
    let mut started = like.clone();
    let Event::Started { intent, plan, .. } = &mut started else {
        panic!("a run begins");
    };
    *plan = quorate_plan::plan(intent, &world.observe(intent)).plan;
    started
}

/// The second run still sees nothing of what the first one's hosts have in hand, and is killed; by the third one they are done.
#[tokio::test(start_paused = true)]
async fn what_hosts_finish_some_runs_later_is_known() {
    let (events, left) = killed_within("containerd has").await;
    assert!(left.worlds.len() > 1, "something was in hand");
    let second = [planned_in(&left.worlds[0], &events[0])];
    let later = followed(&second, &left, "the second").left;
    for world in &left.worlds {
        followed(&[planned_in(world, &events[0])], &later, "the third");
    }
}

/// The last step was in hand when the first run was killed. The second one planned it, and found it done when its turn came.
#[tokio::test(start_paused = true)]
async fn a_run_has_nothing_left_to_do_when_hosts_have_finished() {
    let situation = somebody_elses(None);
    let mut events = run(&situation, Script::none()).await.1.events;
    events.truncate(begun(&events, "cluster DNS runs on two nodes") + 1);
    let left = followed(&events, &begins(&situation), "the first").left;
    let done = Event::Ended {
        verdict: Verdict::Done,
    };
    let second = [planned_in(&left.worlds[0], &events[0]), done];
    followed(&second, &left, "the second");
    let nothing_in_hand = Left {
        worlds: vec![left.worlds[0].clone()],
        in_hand: Vec::new(),
    };
    let departed = follow(&second, &nothing_in_hand).expect_err("nobody did it");
    assert!(departed.what.contains("done, and yet"), "{departed}");
}

/// Events that a whole run of one to three told.
async fn told() -> Vec<Event> {
    let situation = situations().swap_remove(2);
    run(&situation, Script::none()).await.1.events
}

fn departs(events: &[Event], words: &str) {
    match follow(events, &Left::default()) {
        Ok(_) => panic!("it was followed, and should not be: {words}"),
        Err(Departed { what, .. }) => {
            assert!(what.contains(words), "expected `{words}`, seen `{what}`");
        }
    }
}

fn begun(events: &[Event], words: &str) -> usize {
    let at = events.iter().position(|event| match event {
        Event::StepStarted { step } => step.ensure.to_string().contains(words),
        _ => false,
    });
    at.unwrap_or_else(|| panic!("no `{words}` was begun"))
}

#[tokio::test(start_paused = true)]
async fn an_effect_without_a_fence_is_none_of_a_run() {
    let mut events = told().await;
    events.retain(|event| !matches!(event, Event::Fenced { .. }));
    departs(&events, "before the fence was taken");
}

#[tokio::test(start_paused = true)]
async fn an_effect_out_of_order_is_none_of_a_run() {
    let mut events = told().await;
    // The promotion, moved to where the learner was to be added.
    let promoted = begun(&events, "cp-2 is a voter");
    let event = events.remove(promoted);
    let added = begun(&events, "learner for cp-2");
    events.insert(added, event);
    departs(&events, "not what comes next");
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_was_not_approved_is_none_of_a_run() {
    let mut events = told().await;
    let at = begun(&events, "cp-2 is a voter");
    let Event::Started { plan, .. } = &mut events[0] else {
        panic!("a run begins");
    };
    for stage in &mut plan.stages {
        stage
            .steps
            .retain(|step| !step.ensure.to_string().contains("cp-2 is a voter"));
    }
    let before = begins(&situations().swap_remove(2));
    match follow(&events, &before) {
        Ok(_) => panic!("it was followed"),
        // Nobody would have planned that, which shows before anything is begun.
        Err(departed) => assert!(departed.event <= at, "{departed}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_state_that_nobody_made_is_told_by_no_run() {
    let mut events = told().await;
    let at = begun(&events, "learner for cp-2");
    events.remove(at);
    departs(&events, "is told to stand, and does not");
}

#[tokio::test(start_paused = true)]
async fn done_is_told_by_no_run_that_stopped_half_way() {
    let mut events = told().await;
    let at = begun(&events, "learner for cp-3");
    events.truncate(at);
    events.push(Event::Ended {
        verdict: Verdict::Done,
    });
    departs(&events, "and yet there is left");
}

#[tokio::test(start_paused = true)]
async fn a_token_lower_than_one_seen_before_is_taken_by_no_run() {
    let situation = &situations()[2];
    let (shared, first) = run(situation, Script::at(12, Fault::KillAfter)).await;
    let left = followed(&first.events, &begins(situation), "the first run").left;
    let second = apply(&shared, &situation.intent, operator(2), Script::none()).await;
    let mut events = second.events;
    for event in &mut events {
        if let Event::Fenced { fence } = event {
            *fence = Fence(1);
        }
    }
    match follow(&events, &left) {
        Ok(_) => panic!("it was followed"),
        Err(departed) => assert!(departed.what.contains("lower than"), "{departed}"),
    }
}
