//! The production runner over hosts in memory: it converges, and whoever is killed at any effect leaves a world from which the next
//! operator reaches the same end.

use std::time::Duration;

#[path = "runs/founding.rs"]
mod founding;

use quorate_exec::{StopSignal, run};
use quorate_plan::{Event, Goal, Intent, event::Verdict, observation::Power, spec::BringUp};
use quorate_testkit::{
    World,
    drive::{apply, apply_until_done, approve},
    fixture::{Cluster, node, operator},
    memory::{Fault, Script, Shared},
    render,
};

/// What there is, what is wanted.
struct Situation {
    name: &'static str,
    world: World,
    intent: Intent,
}

fn fresh(name: &'static str, cluster: Cluster) -> Situation {
    Situation {
        name,
        world: World::new(&cluster.spec()),
        intent: cluster.intent(),
    }
}

async fn after(name: &'static str, before: Cluster, then: Cluster) -> Situation {
    let mut world = grown(before).await;
    world.know(&then.spec());
    Situation {
        name,
        world,
        intent: then.intent(),
    }
}

fn together() -> Situation {
    fresh("founding together", Cluster::default())
}

fn one_by_one() -> Situation {
    let cluster = Cluster {
        bring_up: BringUp::OneByOne,
        ..Cluster::default()
    };
    fresh("one by one", cluster)
}

async fn one_to_three() -> Situation {
    let single = Cluster {
        masters: 1,
        ..Cluster::default()
    };
    after("one to three", single, Cluster::default()).await
}

async fn a_worker() -> Situation {
    let with_worker = Cluster {
        workers: 1,
        ..Cluster::default()
    };
    after("a worker", Cluster::default(), with_worker).await
}

fn swapped() -> Cluster {
    Cluster {
        swaps: [(3, 4), (0, 0)],
        ..Cluster::default()
    }
}

/// One master leaves for another; the operator's machine remembers it.
async fn swap(name: &'static str, before: Cluster, then: Cluster) -> Situation {
    let mut situation = after(name, before, then).await;
    situation.intent = then.intent_after(&before);
    situation
}

async fn swap_for_a_dead_one() -> Situation {
    let mut situation = swap("a dead one", Cluster::default(), swapped()).await;
    situation.world.power_off(&node("cp-3"));
    let shared = Shared::new(situation.world);
    tokio::time::sleep(Duration::from_secs(60)).await;
    situation.world = shared.world();
    situation
}

async fn anew() -> Situation {
    let cluster = Cluster::default();
    let world = grown(cluster).await;
    let intent = cluster.intent();
    let seen = world.observe(&intent);
    let goal = Goal::replace(&intent, node("cp-2"), None, &seen).expect("etcd tells");
    Situation {
        name: "made anew",
        world,
        intent: Intent { goal, ..intent },
    }
}

/// A world in which that cluster file was applied.
async fn grown(cluster: Cluster) -> World {
    let shared = Shared::new(World::new(&cluster.spec()));
    let run = apply(&shared, &cluster.intent(), operator(90), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    shared.rest().await;
    shared.world()
}

fn well(shared: &Shared, at: &str) {
    assert_eq!(
        shared.violations(),
        Vec::<String>::new(),
        "{at}\n{}",
        shared.log().join("\n")
    );
}

fn same(expected: &str, shared: &Shared, at: &str) {
    let difference = render::first_difference(expected, &render::lasting(&shared.world()));
    assert_eq!(difference, None, "{at}\n{}", shared.log().join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_run_converges_and_a_second_one_has_nothing_to_do() {
    for Situation {
        name,
        world,
        intent,
    } in [
        together(),
        one_by_one(),
        one_to_three().await,
        a_worker().await,
        swap("swapped", Cluster::default(), swapped()).await,
        swap_for_a_dead_one().await,
        anew().await,
    ] {
        let shared = Shared::new(world);
        let run = apply(&shared, &intent, operator(1), Script::none()).await;
        assert_eq!(run.verdict, Some(Verdict::Done), "{name}: {}", run.text());
        shared.rest().await;
        well(&shared, name);
        let after = render::lasting(&shared.world());
        let again = apply(&shared, &intent, operator(2), Script::none()).await;
        assert!(
            again.approved.is_empty(),
            "{name}: {}",
            render::plan(&again.approved)
        );
        assert_eq!(again.verdict, Some(Verdict::Done), "{name}");
        assert_eq!(again.effects, 0, "{name}: nothing was to be done");
        same(&after, &shared, name);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_while_founding_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(together()).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_masters_join_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(one_by_one()).await;
}

#[tokio::test(start_paused = true)]
async fn killed_on_the_way_from_one_to_three_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(one_to_three().await).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_a_worker_joins_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(a_worker().await).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_a_master_is_swapped_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(swap("swapped", Cluster::default(), swapped()).await).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_five_become_three_the_next_operator_reaches_the_same_end() {
    let five = Cluster {
        masters: 5,
        ..Cluster::default()
    };
    killed_at_every_effect(swap("five to three", five, Cluster::default()).await).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_a_dead_master_is_replaced_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(swap_for_a_dead_one().await).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_a_master_is_made_anew_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(anew().await).await;
}

async fn killed_at_every_effect(situation: Situation) {
    let Situation {
        name,
        world,
        intent,
    } = situation;
    let shared = Shared::new(world.clone());
    let whole = apply(&shared, &intent, operator(1), Script::none()).await;
    assert_eq!(whole.verdict, Some(Verdict::Done), "{}", whole.text());
    shared.rest().await;
    let expected = render::lasting(&shared.world());
    let log = shared.log();
    for effect in 1..=whole.effects {
        let line = log
            .iter()
            .find(|line| line.starts_with(&format!("run-1 #{effect} ")))
            .expect("every effect is in the log");
        // A fence or a seal is there at once: there is no while in which to be killed.
        let at_once = [": claim", ": release", ": recipient", ": seal"]
            .iter()
            .any(|end| line.ends_with(end));
        for fault in [
            Fault::KillBefore,
            Fault::KillDuring,
            Fault::KillAfter,
            Fault::DropReply,
        ] {
            if at_once && fault == Fault::KillDuring {
                continue;
            }
            let at = format!("{name}, {fault:?} at {line}");
            let shared = Shared::new(world.clone());
            let lost_reply = fault == Fault::DropReply;
            let first = apply(&shared, &intent, operator(1), Script::at(effect, fault)).await;
            // A lost answer of a host is asked for again; without a fence, or a machine, nothing goes on.
            let stops = line.contains("this machine") || line.ends_with(": claim");
            if !lost_reply {
                assert_eq!(first.verdict, None, "{at}: {}", first.text());
            } else if !stops {
                assert_eq!(first.verdict, Some(Verdict::Done), "{at}: {}", first.text());
            }
            for run in apply_until_done(&shared, &intent, 2, 4).await {
                assert_eq!(
                    run.verdict,
                    Some(Verdict::Done),
                    "{at}: {}\n{}",
                    run.text(),
                    shared.log().join("\n")
                );
            }
            shared.rest().await;
            well(&shared, &at);
            same(&expected, &shared, &at);
        }
    }
}

/// An operator's machine sleeps before each effect in turn; another one takes over and finishes; the first wakes.
#[tokio::test(start_paused = true)]
async fn whoever_wakes_after_another_took_over_changes_nothing() {
    let Situation {
        name,
        world,
        intent,
    } = together();
    let shared = Shared::new(world.clone());
    let effects = apply(&shared, &intent, operator(1), Script::none())
        .await
        .effects;
    for effect in 1..=effects {
        let at = format!("{name}, asleep before effect {effect} of {effects}");
        let shared = Shared::new(world.clone());
        let script = Script::at(effect, Fault::Sleep);
        let (seams, handle) = shared.operator(operator(1), script);
        let approved = approve(&seams, &intent).await.expect("a plan");
        let stop = StopSignal::new();
        let mut emit = |_| {};
        let first = operator(1);
        let sleeper = run(&approved, &intent, &seams, &first, &stop, &mut emit);
        let others = async {
            handle.asleep().await;
            for run in apply_until_done(&shared, &intent, 2, 4).await {
                assert_eq!(run.verdict, Some(Verdict::Done), "{at}: {}", run.text());
            }
            shared.rest().await;
            let before = render::lasting(&shared.world());
            handle.wake();
            before
        };
        let (verdict, before) = tokio::join!(sleeper, others);
        shared.rest().await;
        well(&shared, &at);
        same(&before, &shared, &at);
        assert!(
            !matches!(verdict, Verdict::Failed { .. } | Verdict::Unseen { .. }),
            "{at}: {}",
            render::verdict(&verdict)
        );
    }
}

/// Two operators who begin at the same moment: one of them works, and the cluster is whole in the end.
#[tokio::test(start_paused = true)]
async fn two_at_once_do_not_get_into_each_others_way() {
    let Situation { world, intent, .. } = together();
    let shared = Shared::new(world);
    let (a, b) = tokio::join!(
        apply(&shared, &intent, operator(1), Script::none()),
        apply(&shared, &intent, operator(2), Script::none()),
    );
    let ends = format!("{} | {}", a.text(), b.text());
    let done = [&a, &b]
        .iter()
        .filter(|run| run.verdict == Some(Verdict::Done))
        .count();
    assert!(done <= 1, "both worked: {ends}");
    for run in apply_until_done(&shared, &intent, 3, 4).await {
        assert_eq!(run.verdict, Some(Verdict::Done), "{ends} | {}", run.text());
    }
    shared.rest().await;
    well(&shared, &ends);
}

/// Runs of one operator after another, as the command line makes them of one `apply --yes`: as long as there is more to approve.
async fn applied(shared: &Shared, intent: &Intent) -> Vec<quorate_testkit::drive::Run> {
    let mut runs = Vec::new();
    for number in 1..=4 {
        let run = apply(shared, intent, operator(number), Script::none()).await;
        let more = match &run.verdict {
            Some(Verdict::More) => true,
            Some(Verdict::Done) => !run.approved.is_empty(),
            Some(_) | None => false,
        };
        runs.push(run);
        if !more {
            break;
        }
    }
    runs
}

fn titles(runs: &[quorate_testkit::drive::Run]) -> Vec<String> {
    runs.iter()
        .map(|run| {
            let stages = run.approved.stages.iter();
            let titles: Vec<&str> = stages.map(|stage| stage.title.as_str()).collect();
            format!("{}: {}", titles.join(", "), run.text())
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn machines_that_were_off_come_back_and_serve() {
    let cluster = Cluster {
        workers: 1,
        ..Cluster::default()
    };
    let whole = grown(cluster).await;
    let expected = render::lasting(&whole);
    let all: Vec<_> = whole.machines.keys().cloned().collect();
    let one = vec![node("cp-2")];
    for off in [all, one] {
        let shared = Shared::new(whole.clone());
        for node in &off {
            shared.change(|world| world.power_off(node));
        }
        let runs = applied(&shared, &cluster.intent()).await;
        assert_eq!(
            titles(&runs),
            ["Start the machines: done", ": done"],
            "{off:?}\n{}",
            shared.log().join("\n")
        );
        shared.rest().await;
        well(&shared, "started again");
        same(&expected, &shared, "started again");
    }
}

/// What else the file wants is planned when the machines run, and approved on its own.
#[tokio::test(start_paused = true)]
async fn what_is_needed_besides_starting_machines_is_asked_for_then() {
    let whole = grown(Cluster::default()).await;
    let with_worker = Cluster {
        workers: 1,
        ..Cluster::default()
    };
    let shared = Shared::new(whole);
    shared.change(|world| {
        world.know(&with_worker.spec());
        for name in ["cp-1", "cp-2", "cp-3", "lb-1"] {
            world.power_off(&node(name));
        }
    });
    let runs = applied(&shared, &with_worker.intent()).await;
    assert_eq!(
        titles(&runs),
        [
            "Start the machines: done, and more is needed",
            "Make the machines, Prepare the hosts, Join the workers, Clean up: done",
            ": done"
        ],
        "{}",
        shared.log().join("\n")
    );
    shared.rest().await;
    well(&shared, "with a worker");
}

/// A frozen machine is left to whoever froze it, and nothing is begun beside it.
#[tokio::test(start_paused = true)]
async fn a_frozen_machine_is_not_thawed_on_the_way() {
    let whole = grown(Cluster::default()).await;
    let shared = Shared::new(whole);
    shared.change(|world| {
        world.freeze(&node("cp-2"));
        world.power_off(&node("cp-3"));
    });
    let runs = applied(&shared, &Cluster::default().intent()).await;
    assert_eq!(
        titles(&runs),
        [": refused (machine-held): cp-2 is frozen: `quorate local thaw cp-2` lets it go on"]
    );
    assert_eq!(runs[0].effects, 0);
    shared.change(|world| world.thaw(&node("cp-2")));
    let runs = applied(&shared, &Cluster::default().intent()).await;
    assert_eq!(titles(&runs), ["Start the machines: done", ": done"]);
    well(&shared, "thawed");
}

/// One that freezes while others are started: what was approved is done, and no more.
#[tokio::test(start_paused = true)]
async fn a_machine_that_freezes_meanwhile_stops_what_would_come_next() {
    let whole = grown(Cluster::default()).await;
    let shared = Shared::new(whole);
    shared.change(|world| world.power_off(&node("cp-3")));
    let script = Script::on(
        "this machine: machine cp-3",
        Fault::Freeze(node("cp-2"), std::time::Duration::from_secs(3600)),
    );
    let intent = Cluster::default().intent();
    let run = apply(&shared, &intent, operator(1), script).await;
    assert_eq!(
        run.text(),
        "refused (machine-held): cp-2 is frozen: `quorate local thaw cp-2` lets it go on"
    );
    let told = run.events.iter().any(
        |event| matches!(event, Event::Waiting { what, .. } if what.starts_with("cp-2 is frozen")),
    );
    assert!(told, "it was said while it might have passed");
    assert_eq!(shared.world().machine(&node("cp-3")).power, Power::Running);
}

/// Hosts that somebody else made and that boot: nobody is refused, and nothing is planned for a host whose units are not up yet.
#[tokio::test(start_paused = true)]
async fn hosts_that_boot_are_waited_for() {
    let cluster = Cluster {
        local: false,
        ..Cluster::default()
    };
    let whole = grown(cluster).await;
    let expected = render::lasting(&whole);
    for (fresh, silent, starting) in [(true, 20, 20), (false, 20, 40), (false, 0, 200)] {
        let at = format!("fresh {fresh}, {silent} ticks silent, {starting} starting");
        let world = if fresh {
            World::new(&cluster.spec())
        } else {
            whole.clone()
        };
        let shared = Shared::new(world);
        shared.change(|world| {
            for name in ["cp-2", "cp-3", "lb-1"] {
                world.power_off(&node(name));
                world.boot(&node(name), silent, starting);
            }
        });
        let runs = applied(&shared, &cluster.intent()).await;
        for run in &runs {
            assert_eq!(run.verdict, Some(Verdict::Done), "{at}: {}", run.text());
        }
        let first = &runs[0];
        assert_eq!(
            first.approved.is_empty(),
            !fresh,
            "{at}: {}",
            render::plan(&first.approved)
        );
        shared.rest().await;
        well(&shared, &at);
        same(&expected, &shared, &at);
    }
}

/// Waiting has an end, with nothing done.
#[tokio::test(start_paused = true)]
async fn hosts_that_never_come_are_not_waited_for_for_ever() {
    let cluster = Cluster {
        local: false,
        ..Cluster::default()
    };
    for (silent, starting, within_s, what) in [
        (100_000, 0, 60..75, "cp-2 to answer: no answer"),
        (
            0,
            100_000,
            300..320,
            "cp-2 to finish booting: what it needs can be seen then",
        ),
    ] {
        let shared = Shared::new(World::new(&cluster.spec()));
        shared.change(|world| {
            world.power_off(&node("cp-2"));
            world.boot(&node("cp-2"), silent, starting);
        });
        let began = tokio::time::Instant::now();
        let run = apply(&shared, &cluster.intent(), operator(1), Script::none()).await;
        assert_eq!(run.text(), format!("cannot be seen: {what}"));
        assert_eq!(run.effects, 0, "{what}");
        let waited = began.elapsed().as_secs();
        assert!(within_s.contains(&waited), "{what}: {waited} s");
    }
}
