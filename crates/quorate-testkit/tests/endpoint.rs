//! A balancer that is somebody else's: what goes through it waits for it, and it is told who has to be registered there.

use std::time::Duration;

use quorate_plan::{
    NodeName, Observation, Refusal, Seen, event::Verdict, observation::EndpointAnswer, plan,
    spec::BringUp,
};
use quorate_testkit::{
    World,
    drive::{apply, apply_until_done},
    fixture::{Cluster, node, operator},
    memory::{Fault, Script, Shared},
};

fn cluster() -> Cluster {
    Cluster {
        workers: 1,
        balancers: 0,
        local: false,
        bring_up: BringUp::Together,
        ..Cluster::default()
    }
}

/// Nobody is registered there yet.
fn silent() -> Shared {
    let mut world = World::new(&cluster().spec());
    world.users_balancer = false;
    Shared::new(world)
}

const TOLD: &str = "nobody answers at api.demo.internal:6443 (10.0.0.250) from cp-1, cp-2, cp-3, though there are apiservers that are ready: \
                    the balancer there has to lead to cp-1 (10.0.0.11:6443), cp-2 (10.0.0.12:6443), cp-3 (10.0.0.13:6443)";

#[tokio::test(start_paused = true)]
async fn whoever_registers_the_masters_meanwhile_is_waited_for() {
    let shared = silent();
    let mended = async {
        while shared.world().ready().len() < 3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        shared.change(|world| world.users_balancer = true);
    };
    let intent = cluster().intent();
    let (run, ()) = tokio::join!(apply(&shared, &intent, operator(1), Script::none()), mended);
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    assert_eq!(shared.violations(), Vec::<String>::new());
}

/// Nobody hangs in a join, and when it is mended the same command goes on.
#[tokio::test(start_paused = true)]
async fn a_silent_balancer_is_refused_by_name() {
    let shared = silent();
    let intent = cluster().intent();
    let began = tokio::time::Instant::now();
    let run = apply(&shared, &intent, operator(1), Script::none()).await;
    assert_eq!(run.text(), format!("refused (endpoint-silent): {TOLD}"));
    assert!(began.elapsed() < Duration::from_secs(300), "it hangs");
    let untouched = |shared: &Shared| !shared.world().machine(&node("w-1")).active("kubelet");
    assert!(untouched(&shared), "no join was begun");
    let again = apply(&shared, &intent, operator(2), Script::none()).await;
    assert_eq!(again.text(), format!("refused (endpoint-silent): {TOLD}"));
    assert_eq!(again.effects, 0);
    shared.change(|world| world.users_balancer = true);
    for run in apply_until_done(&shared, &intent, 3, 2).await {
        assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    }
    assert!(!untouched(&shared));
    assert_eq!(shared.violations(), Vec::<String>::new());
}

/// A cluster in which nothing is left to do but the worker's join.
async fn before_the_worker() -> Observation {
    let shared = Shared::new(World::new(&cluster().spec()));
    let script = Script::on("w-1: worker is in the cluster", Fault::KillBefore);
    let run = apply(&shared, &cluster().intent(), operator(1), script).await;
    assert_eq!(run.verdict, None, "{}", run.text());
    shared.rest().await;
    shared.change(|world| world.observe(&cluster().intent()))
}

fn hears(seen: &mut Observation, name: &str, answer: EndpointAnswer) {
    let facts = match seen.hosts.get_mut(&node(name)) {
        Some(Seen::Known { value, .. }) => value,
        Some(Seen::Unknown(_)) | None => panic!("{name} was not seen"),
    };
    let Seen::Known {
        value: Some(sight), ..
    } = &mut facts.endpoint
    else {
        panic!("{name} did not look");
    };
    sight.answer = answer;
}

/// From where nobody is said to answer.
fn silent_from(seen: &Observation) -> String {
    let refused = plan(&cluster().intent(), seen).refused;
    let nodes = refused.iter().flat_map(|refusal| match refusal {
        Refusal::EndpointSilent { nodes, .. } => nodes.iter().map(NodeName::as_str),
        other => panic!("{other}"),
    });
    nodes.collect::<Vec<_>>().join(" ")
}

/// A host that has not joined cannot tell an apiserver from anybody else: masters can, and one of them that gets an answer is enough, since
/// some balancers do not lead a host back to itself.
#[tokio::test(start_paused = true)]
async fn who_is_believed_about_the_endpoint() {
    use EndpointAnswer::{Nobody, Somebody};
    let mut seen = before_the_worker().await;
    let first = plan(&cluster().intent(), &seen).plan.stages;
    assert_eq!(first[0].title, "Join the workers");
    assert_eq!(silent_from(&seen), "", "it leads to the masters");
    hears(&mut seen, "w-1", Nobody);
    assert_eq!(silent_from(&seen), "w-1");
    hears(&mut seen, "w-1", Somebody);
    hears(&mut seen, "cp-1", Nobody);
    hears(&mut seen, "cp-2", Nobody);
    assert_eq!(silent_from(&seen), "", "cp-3 is answered");
    hears(&mut seen, "cp-3", Nobody);
    assert_eq!(silent_from(&seen), "cp-1 cp-2 cp-3");
}
