//! Journals of runs are ways that the model has; and what no run could have written is none.

use std::{collections::BTreeSet, path::Path, time::SystemTime};

use quorate_exec::Journal;
use quorate_plan::{
    Event, Fence, Goal, Intent, NodeName,
    adopted::Adopted,
    event::Verdict,
    intent::Landmark,
    observation::{Cgroup, MachineKind},
    spec::BringUp,
};
use quorate_testkit::{
    World,
    conform::{Dated, Departed, Followed, Found, Happened, Left, Told, follow, follow_runs},
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

#[tokio::test(start_paused = true)]
async fn a_journal_on_disk_is_followed() {
    let situation = &situations()[0];
    let (_, run) = run(situation, Script::none()).await;
    let runs = tempfile::tempdir().expect("a directory");
    let mut journal = Journal::open(runs.path(), "run-1").expect("a journal");
    for event in &run.events {
        journal.append(event).expect("it is written");
    }
    let told = follow_runs(runs.path(), &[]).expect("it is read");
    let [Told { run: id, found }] = &told[..] else {
        panic!("one run: {told:?}");
    };
    assert_eq!(id, "run-1");
    let Found::Anew { followed: read, .. } = found else {
        panic!("it is followed: {found:?}");
    };
    let written = followed(&run.events, &Left::default(), "as it was told");
    assert_eq!(
        (read.effects, read.prefixes),
        (written.effects, written.prefixes)
    );
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

/// A run that was killed while hosts had something in hand: what it told, and what it left.
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

/// Nobody knows why the second run planned that; hosts go on with what the first one handed them.
#[tokio::test(start_paused = true)]
async fn what_hosts_have_in_hand_outlasts_a_run_that_is_not_followed() {
    let (events, left) = killed_within("containerd runs").await;
    let in_hand = left.in_hand.last().expect("it was begun").clone();
    let before = planned_in(&left.worlds[0], &events[0]);
    let mut second = before.clone();
    let (Event::Started { plan: odd, .. }, Event::Started { plan, .. }) = (&mut second, &before)
    else {
        panic!("runs begin");
    };
    odd.stages.truncate(1);
    // The third looks before that host is done, and finds it done when its turn comes.
    let (at, stage) = (1..)
        .zip(&plan.stages)
        .find(|(_, stage)| stage.steps.contains(&in_hand))
        .expect("it was planned");
    let lane = stage.steps.iter().filter(|step| step.on == in_hand.on);
    let next = lane.skip_while(|step| **step != in_hand).nth(1);
    let third = [
        before.clone(),
        Event::Fenced { fence: Fence(3) },
        Event::StageStarted {
            number: at,
            title: stage.title.clone(),
            change: stage.change.clone(),
        },
        Event::StepStarted {
            step: Box::new(next.expect("images come after components").clone()),
        },
    ];
    let runs = tempfile::tempdir().expect("a directory");
    for (number, run) in (1..).zip([&events[..], &[second], &third]) {
        let mut journal = Journal::open(runs.path(), &format!("run-{number}")).expect("a journal");
        for event in run {
            journal.append(event).expect("it is written");
        }
    }
    let told = follow_runs(runs.path(), &[]).expect("it is read");
    let [first, second, third] = &told[..] else {
        panic!("three runs: {told:?}");
    };
    assert!(matches!(first.found, Found::Anew { .. }), "{first}");
    assert!(matches!(second.found, Found::Unexplained(_)), "{second}");
    assert!(matches!(third.found, Found::Anew { .. }), "{third}");
}

/// Writes the journal of a run.
fn written(runs: &Path, id: &str, events: &[Event]) {
    let mut journal = Journal::open(runs, id).expect("a journal");
    for event in events {
        journal.append(event).expect("it is written");
    }
}

/// What happened to machines after everything that was written before.
fn just_now(what: Happened) -> Dated {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("it is later");
    Dated {
        at_ms: since.as_millis() as u64,
        what,
    }
}

/// Founding was killed when its kubelets had been started, and one host was destroyed: without being told nobody knows why the next run
/// planned what it did.
#[tokio::test(start_paused = true)]
async fn what_somebody_did_to_machines_is_known_when_it_is_told() {
    let situation = &situations()[0];
    let whole = run(situation, Script::none()).await.1.events;
    let effects = |event: &&Event| matches!(event, Event::StepStarted { .. });
    let before = &whole[..begun(&whole, "kubelet runs")];
    // All three of them.
    let last = before.iter().filter(effects).count() as u64 + 3;
    let (shared, first) = run(situation, Script::at(last, Fault::KillAfter)).await;
    shared.change(|world| {
        world.lose_disk(&node("cp-3"));
        world.settle();
    });
    let rest = apply_until_done(&shared, &situation.intent, 2, 4).await;
    let begins = |run: &&Run| !run.events.is_empty();
    let second = rest.iter().find(begins).expect("somebody goes on");

    let runs = tempfile::tempdir().expect("a directory");
    written(runs.path(), "run-1", &first.events);
    let destroyed = just_now(Happened::Destroyed(node("cp-3")));
    written(runs.path(), "run-2", &second.events);
    let told = follow_runs(runs.path(), &[destroyed]).expect("it is read");
    assert!(matches!(told[1].found, Found::GoesOn(_)), "{}", told[1]);
    let untold = follow_runs(runs.path(), &[]).expect("it is read");
    assert!(
        !matches!(untold[1].found, Found::GoesOn(_)),
        "{}",
        untold[1]
    );
}

/// A master that nobody reaches is replaced as a dead one. It is cleared away when it is back, which only somebody can plan who knows that
/// it went on all the time.
#[tokio::test(start_paused = true)]
async fn a_master_that_was_cut_off_comes_back() {
    let swapped = Cluster {
        swaps: [(3, 4), (0, 0)],
        ..Cluster::default()
    };
    let founding = fresh("founding", Cluster::default());
    let (shared, founded) = run(&founding, Script::none()).await;
    let cut_off = node("cp-3");
    shared.change(|world| {
        world.know(&swapped.spec());
        world.cut(&cut_off);
        world.settle();
        world.now_ms += 60_000;
    });
    let mut wanted = swapped.intent();
    let gone = founding.intent.spec.control_plane;
    wanted.retired = gone
        .into_iter()
        .filter(|(name, _)| *name == cut_off)
        .collect();
    let swap = apply(&shared, &wanted, operator(2), Script::none()).await;
    assert_eq!(swap.verdict, Some(Verdict::Done), "{}", swap.text());
    shared.change(|world| {
        world.mend(&cut_off);
        world.settle();
    });
    wanted.goal = Goal::Repair;
    let repair = apply(&shared, &wanted, operator(3), Script::none()).await;
    assert!(repair.effects > 0, "{}", repair.text());

    let runs = tempfile::tempdir().expect("a directory");
    written(runs.path(), "run-1", &founded.events);
    let cut = just_now(Happened::CutOff(cut_off));
    written(runs.path(), "run-2", &swap.events);
    let mended = just_now(Happened::Mended);
    written(runs.path(), "run-3", &repair.events);
    let told = follow_runs(runs.path(), &[cut, mended]).expect("it is read");
    let goes_on = |run: &Told| matches!(run.found, Found::GoesOn(_));
    assert!(told[1..].iter().all(goes_on), "{}\n{}", told[1], told[2]);
}

/// Every one of three masters is replaced by another, on machines that are not what a model's are. What the last plan says of machines it
/// has from those that came later.
#[tokio::test(start_paused = true)]
async fn masters_that_are_all_replaced_are_followed() {
    let all = Cluster {
        masters: 6,
        ..Cluster::default()
    };
    let kind = MachineKind {
        cgroup: Cgroup::V1,
        oom_score_adjustable: false,
        swap: false,
        shared_disk: true,
    };
    let shared = Shared::new(World::new(&all.spec()));
    shared.change(|world| {
        for name in all.spec().control_plane.keys() {
            world.machine_mut(name).hardware.kind = kind;
        }
    });
    let runs = tempfile::tempdir().expect("a directory");
    let mut there: BTreeSet<NodeName> = [1, 2, 3].map(|n| node(&format!("cp-{n}"))).into();
    let founded = apply(
        &shared,
        &of_these(&all, &there),
        operator(1),
        Script::none(),
    )
    .await;
    written(runs.path(), "run-1", &founded.events);
    for (run, goes, comes) in [
        (2, "cp-1", "cp-4"),
        (3, "cp-2", "cp-5"),
        (4, "cp-3", "cp-6"),
    ] {
        there.remove(&node(goes));
        there.insert(node(comes));
        let mut file = of_these(&all, &there);
        let seen = shared.world().observe(&file);
        file.goal =
            Goal::replace(&file, node(goes), Some(node(comes)), &seen).expect("there are members");
        let swap = apply(&shared, &file, operator(run), Script::none()).await;
        assert_eq!(swap.verdict, Some(Verdict::Done), "{}", swap.text());
        written(runs.path(), &format!("run-{run}"), &swap.events);
    }
    let told = follow_runs(runs.path(), &[]).expect("it is read");
    let [_, swaps @ ..] = &told[..] else {
        panic!("four runs: {told:?}");
    };
    for swap in swaps {
        assert!(matches!(swap.found, Found::GoesOn(_)), "{swap}");
    }
}

/// The file that names these of all masters, of an operator who remembers those before them.
fn of_these(all: &Cluster, there: &BTreeSet<NodeName>) -> Intent {
    let mut file = all.intent();
    let last = there.last().expect("there is one").clone();
    file.retired = file.spec.control_plane.clone();
    file.retired
        .retain(|name, _| !there.contains(name) && *name < last);
    file.spec
        .control_plane
        .retain(|name, _| there.contains(name));
    file
}

/// Two operators at once: the one that is refused planned what the other one is about to do, and leaves everything as it was.
#[tokio::test(start_paused = true)]
async fn a_run_that_began_nothing_leaves_everything_as_it_was() {
    let situation = &situations()[0];
    let (shared, first) = run(situation, Script::none()).await;
    let refused = Event::Ended {
        verdict: Verdict::Refused {
            refusals: Vec::new(),
        },
    };
    let beside = [first.events[0].clone(), refused];
    let again = apply(&shared, &situation.intent, operator(2), Script::none()).await;

    let runs = tempfile::tempdir().expect("a directory");
    written(runs.path(), "run-1", &first.events);
    written(runs.path(), "run-2", &beside);
    written(runs.path(), "run-3", &again.events);
    let told = follow_runs(runs.path(), &[]).expect("it is read");
    assert!(matches!(told[2].found, Found::GoesOn(_)), "{}", told[2]);
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
