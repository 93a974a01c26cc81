//! A balancer at a cloud, whose targets take minutes: that is told while it is waited for, and whoever dies meanwhile is replaced by whoever comes.

use std::collections::BTreeMap;

use quorate_plan::{Ensure, Event, NodeName, event::Verdict, spec::BringUp};
use quorate_testkit::{
    World,
    drive::{Run, apply, apply_until_done},
    fixture::{Cluster, node, operator},
    memory::{Fault, Script, Shared},
};

fn cluster() -> Cluster {
    Cluster {
        nlb: true,
        local: false,
        bring_up: BringUp::OneByOne,
        ..Cluster::default()
    }
}

/// Its targets take that long to come, and to go.
fn slow(seconds: u64) -> Shared {
    let mut world = World::new(&cluster().spec());
    world.nlb.as_mut().expect("a cloud's").slow_ms = seconds * 1000;
    Shared::new(world)
}

/// What was told about each target while it was waited for.
fn told(run: &Run) -> BTreeMap<NodeName, Vec<String>> {
    let mut told: BTreeMap<NodeName, Vec<String>> = BTreeMap::new();
    for event in &run.events {
        if let Event::StepProgress { step, line } = event
            && let Ensure::Infra(infra) = &step.ensure
        {
            told.entry(infra.node().clone())
                .or_default()
                .push(line.clone());
        }
    }
    told
}

#[tokio::test(start_paused = true)]
async fn five_minutes_are_waited_for_and_told() {
    let shared = slow(300);
    let run = apply(&shared, &cluster().intent(), operator(1), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    let told = told(&run);
    assert_eq!(told.len(), 3, "{told:?}");
    for (node, lines) in told {
        // Every ten seconds.
        assert!((25..=40).contains(&lines.len()), "{node}: {lines:?}");
        let instance = cluster()
            .spec()
            .instance(&node)
            .expect("a master's")
            .to_owned();
        let begins = format!(
            "target {node} ({instance}): expected healthy, seen initial (Elb.RegistrationInProgress), for "
        );
        for line in lines {
            assert!(line.starts_with(&begins), "{line}");
            assert!(line.ends_with(" s of at most 600"), "{line}");
        }
    }
    assert_eq!(shared.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_killed_around_a_call_is_followed_by_whoever_comes() {
    for fault in [
        Fault::KillBefore,
        Fault::KillDuring,
        Fault::KillAfter,
        Fault::DropReply,
    ] {
        let shared = slow(180);
        let script = Script::on("register cp-2", fault.clone());
        let intent = cluster().intent();
        let run = apply(&shared, &intent, operator(1), script).await;
        assert_ne!(run.verdict, Some(Verdict::Done), "{fault:?}");
        for run in apply_until_done(&shared, &intent, 2, 2).await {
            assert_eq!(
                run.verdict,
                Some(Verdict::Done),
                "{fault:?}: {}",
                run.text()
            );
        }
        let healthy = ["cp-1", "cp-2", "cp-3"].map(node).into();
        assert_eq!(shared.world().healthy_targets(), healthy, "{fault:?}");
        assert_eq!(shared.violations(), Vec::<String>::new(), "{fault:?}");
    }
}
