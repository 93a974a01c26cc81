//! All runs of a cluster, one after the other: each begins where those before it ended, and what somebody did to machines in between is told.

use std::{collections::BTreeSet, path::Path, time::SystemTime};

use quorate_exec::Journal;
use quorate_plan::{
    Ensure, Event, Fence, Goal, HostEnsure, Intent, NodeName,
    event::Verdict,
    observation::{Cgroup, MachineKind},
};
use quorate_testkit::{
    World,
    conform::{Dated, Found, Happened, Left, Told, follow_runs},
    drive::{Run, apply, apply_until_done},
    fixture::{Cluster, node, operator},
    memory::{Fault, Script, Shared},
};

use super::{begun, followed, fresh, killed_within, planned_in, run, situations};

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

/// Three masters that share an address, how they were founded, and the file by which `cp-4` takes the place of `cp-2`: the step that hands
/// over leadership is alone in its stage there.
async fn about_to_replace() -> (Shared, Run, Intent) {
    let all = Cluster {
        masters: 4,
        balancers: 0,
        shared: true,
        ..Cluster::default()
    };
    let named = |numbers: [u8; 3]| numbers.map(|n| node(&format!("cp-{n}"))).into();
    let shared = Shared::new(World::new(&all.spec()));
    let founding = of_these(&all, &named([1, 2, 3]));
    let founded = apply(&shared, &founding, operator(1), Script::none()).await;
    let mut file = of_these(&all, &named([1, 3, 4]));
    let seen = shared.world().observe(&file);
    file.goal =
        Goal::replace(&file, node("cp-2"), Some(node("cp-4")), &seen).expect("there are members");
    (shared, founded, file)
}

/// Who leads etcd changes, which no journal tells, and the plan is the same whoever does: that it hands over what it leads shows only when
/// that step begins.
#[tokio::test(start_paused = true)]
async fn a_master_that_came_to_lead_untold_is_followed() {
    for leads in ["cp-1", "cp-2", "cp-3"] {
        let (shared, founded, file) = about_to_replace().await;
        let runs = tempfile::tempdir().expect("a directory");
        written(runs.path(), "run-1", &founded.events);
        shared.change(|world| world.elect_on(&node(leads)));
        let swap = apply(&shared, &file, operator(2), Script::none()).await;
        assert_eq!(swap.verdict, Some(Verdict::Done), "{}", swap.text());
        let begun = |event: &Event| {
            matches!(event, Event::StepStarted { step }
                if matches!(step.ensure, Ensure::Host(HostEnsure::LeaderMoved { .. })))
        };
        let moved = swap.events.iter().any(begun);
        assert_eq!(moved, leads == "cp-2", "{leads} leads: {}", swap.text());
        written(runs.path(), "run-2", &swap.events);
        let told = follow_runs(runs.path(), &[]).expect("it is read");
        let goes_on = matches!(told[1].found, Found::GoesOn(_));
        assert!(goes_on, "{leads} leads: {}", told[1]);
    }
}

/// Whoever comes to lead etcd at whatever effect of a replacement: it goes on to its end, and its journal is followed.
#[tokio::test(start_paused = true)]
async fn elections_within_a_replacement_are_followed() {
    let (founding, founded, file) = about_to_replace().await;
    let left = followed(&founded.events, &Left::default(), "founding").left;
    let begun = founding.world();
    for leads in ["cp-2", "cp-4"] {
        for effect in 1.. {
            let at = format!("{leads} leads from effect {effect}");
            let shared = Shared::new(begun.clone());
            let script = Script::at(effect, Fault::Elect(node(leads)));
            let swap = apply(&shared, &file, operator(2), script).await;
            assert_eq!(swap.verdict, Some(Verdict::Done), "{at}: {}", swap.text());
            followed(&swap.events, &left, &at);
            if effect > swap.effects {
                break;
            }
        }
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
