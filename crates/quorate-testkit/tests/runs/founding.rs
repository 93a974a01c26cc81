//! Foundings that lose founders on the way: they go on, or begin again, once.

use quorate_plan::{Ensure, Fence, HostEnsure, Step, event::Verdict};
use quorate_testkit::{
    drive::{apply, apply_until_done},
    fixture::{Cluster, node, operator},
    memory::{Fault, Script, Shared},
    render,
    walk::{founded_by, take, turns},
};

use crate::{Situation, grown, killed_at_every_effect, same, well};

/// Given hosts in the middle of their founding: these have started.
fn founding(name: &'static str, started: &[&str]) -> Situation {
    let cluster = Cluster {
        local: false,
        ..Cluster::default()
    };
    let intent = cluster.intent();
    let started: Vec<_> = started.iter().map(|name| node(name)).collect();
    Situation {
        name,
        world: founded_by(&intent, &started),
        intent,
    }
}

fn late() -> Situation {
    let mut late = founding("a founder made anew", &["cp-1", "cp-2"]);
    late.world.lose_disk(&node("cp-3"));
    late
}

fn again() -> Situation {
    let mut again = founding("two founders made anew", &["cp-1"]);
    again.world.lose_disk(&node("cp-2"));
    again.world.lose_disk(&node("cp-3"));
    again
}

fn stages(run: &quorate_testkit::drive::Run) -> String {
    let stages = run.approved.stages.iter();
    let titles: Vec<&str> = stages.map(|stage| stage.title.as_str()).collect();
    titles.join("; ")
}

/// It was away while the others founded, and comes back with what it had: it goes on with the founding.
#[tokio::test(start_paused = true)]
async fn a_founder_that_was_away_goes_on() {
    let Situation {
        name,
        mut world,
        intent,
    } = founding("a founder away", &["cp-1", "cp-2"]);
    world.power_off(&node("cp-3"));
    let shared = Shared::new(world);
    let run = apply(&shared, &intent, operator(1), Script::none()).await;
    assert_eq!(run.text(), "cannot be seen: cp-3 to answer: no answer");
    assert_eq!(run.effects, 0);
    shared.change(|world| world.power_on(&node("cp-3")));
    let run = apply(&shared, &intent, operator(2), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    assert!(
        run.approved.stages[0].title == "Found the control plane"
            && !stages(&run).contains("Remove"),
        "{}",
        stages(&run)
    );
    shared.rest().await;
    well(&shared, name);
    let founded = grown(Cluster {
        local: false,
        ..Cluster::default()
    });
    same(&render::lasting(&founded.await), &shared, name);
}

/// It stays away, and the file names another host for it.
#[tokio::test(start_paused = true)]
async fn a_founder_that_stays_away_is_swapped_for_another() {
    let Situation {
        name,
        mut world,
        intent,
    } = founding("a founder gone", &["cp-1", "cp-2"]);
    let before = Cluster {
        local: false,
        ..Cluster::default()
    };
    let then = Cluster {
        swaps: [(3, 4), (0, 0)],
        ..before
    };
    drop(intent);
    let intent = then.intent_after(&before);
    world.know(&intent.spec);
    world.power_off(&node("cp-3"));
    let shared = Shared::new(world);
    for run in apply_until_done(&shared, &intent, 1, 4).await {
        assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    }
    shared.rest().await;
    well(&shared, name);
    let members: Vec<String> = shared
        .world()
        .clusters
        .values()
        .flat_map(|cluster| cluster.members.values())
        .map(|member| member.name.clone())
        .collect();
    assert_eq!(members.len(), 3, "{members:?}");
    assert!(!members.contains(&"cp-3".into()), "{members:?}");
}

#[tokio::test(start_paused = true)]
async fn killed_while_a_late_founder_joins_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(late()).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_a_founding_begins_again_the_next_operator_reaches_the_same_end() {
    killed_at_every_effect(again()).await;
}

/// Of two that carry something one was moved aside when the operator was killed: that it tells of the second try does not use it up.
#[tokio::test(start_paused = true)]
async fn a_founding_that_is_half_moved_aside_begins_again() {
    let cluster = Cluster {
        masters: 5,
        local: false,
        ..Cluster::default()
    };
    let intent = cluster.intent();
    let mut world = founded_by(&intent, &[node("cp-1"), node("cp-2")]);
    for name in ["cp-3", "cp-4", "cp-5"] {
        world.lose_disk(&node(name));
    }
    let planned = quorate_plan::plan(&intent, &world.observe(&intent));
    assert_eq!(planned.refused, []);
    let aside =
        |step: &Step| matches!(&step.ensure, Ensure::Host(HostEnsure::FoundingAside { .. }));
    let turns = turns(&planned.plan);
    let of_both: Vec<_> = turns.iter().filter(|(step, _)| aside(step)).collect();
    assert_eq!(of_both.len(), 2);
    let (step, change) = of_both[0];
    take(&mut world, &intent, step, *change, Fence(1)).expect("moved aside");
    world.machine_mut(&node("cp-1")).memory.connected = false;
    let shared = Shared::new(world);
    for run in apply_until_done(&shared, &intent, 1, 2).await {
        assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    }
    shared.rest().await;
    well(&shared, "half moved aside");
    for name in ["cp-1", "cp-5"] {
        let noted = shared.world().machine(&node(name)).disk.founding.clone();
        assert_eq!(noted.map(|noted| noted.restarts), Some(1), "{name}");
    }
}

/// The second time it is told, and nothing is done.
#[tokio::test(start_paused = true)]
async fn a_founding_begins_again_once() {
    let Situation {
        name,
        world,
        intent,
    } = again();
    let shared = Shared::new(world);
    // It fails again: cp-2 is made anew while the others start.
    let script = Script::on("cp-1: kubelet runs", Fault::KillAfter);
    let run = apply(&shared, &intent, operator(1), script).await;
    assert_eq!(run.verdict, None);
    assert!(
        run.approved
            .stages
            .iter()
            .any(|stage| stage.title == "Move what the founding left aside"),
        "{}",
        stages(&run)
    );
    shared.rest().await;
    let noted = shared.world().machine(&node("cp-1")).disk.founding.clone();
    assert_eq!(noted.map(|founding| founding.restarts), Some(1));
    assert!(shared.world().machine(&node("cp-1")).disk.etcd.is_some());
    shared.change(|world| {
        for name in ["cp-2", "cp-3"] {
            world.lose_disk(&node(name));
        }
    });
    let run = apply(&shared, &intent, operator(2), Script::none()).await;
    assert_eq!(
        run.text(),
        "refused (founding-failed): the founding of cp-1, cp-2, cp-3 was begun again once and failed again: \
         2 of 3 founders have nothing of it (cp-2, cp-3)"
    );
    assert_eq!(run.effects, 0, "{name}");
}
