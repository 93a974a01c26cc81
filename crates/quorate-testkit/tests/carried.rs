//! Requests that somebody else hands to the hosts, in memory: round by round they lead where a run leads, they are given up at any round and
//! taken up by the next operator, and none is there for what would cost the quorum.

use std::collections::BTreeSet;

use quorate_exec::{
    Hosts as _, World as Seams,
    carried::{self, Round},
    consider, fence,
    fence::Held,
};
use quorate_plan::{Intent, Operator, event::Verdict, spec::BringUp};
use quorate_testkit::{
    World,
    drive::apply,
    fixture::{Cluster, node, operator},
    memory::{MemoryHosts, MemoryInfra, Script, Shared},
    render,
};

/// Rounds that nothing here needs: one for each step of a host would be far fewer.
const ROUNDS_MAX: usize = 200;

type Seam = Seams<MemoryHosts, MemoryInfra>;

fn given() -> Cluster {
    Cluster {
        local: false,
        bring_up: BringUp::OneByOne,
        workers: 1,
        ..Cluster::default()
    }
}

async fn taken(seams: &Seam, intent: &Intent, operator: &Operator) -> Held {
    let (seen, planning) = consider(seams, intent, &mut |_, _| {}).await;
    assert_eq!(planning.refused, []);
    fence::take(&seams.hosts, &seen, intent, &planning.plan, operator)
        .await
        .unwrap()
}

/// Hands one round over, as a play does: each host gets its own.
async fn hand_over(seams: &Seam, round: &Round) {
    let mut asked = BTreeSet::new();
    for one in &round.asked {
        assert!(
            asked.insert(&one.on),
            "{} is asked twice in a round",
            one.on
        );
        assert!(!one.differences.is_empty(), "{} stands", one.step.ensure);
        let request = one.carried.request.clone();
        seams
            .hosts
            .ensure(&one.on, request, &mut drop)
            .await
            .unwrap_or_else(|error| panic!("{}: {}: {error}", one.on, one.step.ensure));
    }
}

/// Rounds until nothing is left, at most `rounds_max`; says how many there were.
async fn play(shared: &Shared, intent: &Intent, run: u32, rounds_max: usize) -> usize {
    let (seams, handle) = shared.operator(operator(run), Script::none());
    let held = taken(&seams, intent, &operator(run)).await;
    for number in 0..rounds_max {
        let Some(round) = carried::next(&seams, held.claim()).await.unwrap() else {
            let kept = held.release(&seams.hosts).await;
            assert!(kept.is_empty(), "{kept:?}");
            handle.kill();
            return number;
        };
        assert!(!round.asked.is_empty(), "{}", round.stage.title);
        hand_over(&seams, &round).await;
        assert_eq!(shared.violations(), Vec::<String>::new());
    }
    handle.kill();
    rounds_max
}

async fn by_a_run(cluster: Cluster) -> String {
    let shared = Shared::new(World::new(&cluster.spec()));
    let run = apply(&shared, &cluster.intent(), operator(9), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    shared.rest().await;
    render::lasting(&shared.world())
}

#[tokio::test(start_paused = true)]
async fn rounds_lead_where_a_run_leads() {
    for cluster in [
        given(),
        Cluster {
            local: false,
            ..Cluster::default()
        },
    ] {
        let shared = Shared::new(World::new(&cluster.spec()));
        let rounds = play(&shared, &cluster.intent(), 1, ROUNDS_MAX).await;
        assert!(rounds < ROUNDS_MAX);
        shared.rest().await;
        let expected = by_a_run(cluster).await;
        let difference = render::first_difference(&expected, &render::lasting(&shared.world()));
        assert_eq!(difference, None, "{}", shared.log().join("\n"));
        // Nothing is left to plan, by whoever looks.
        let run = apply(&shared, &cluster.intent(), operator(2), Script::none()).await;
        assert_eq!((run.verdict, run.effects), (Some(Verdict::Done), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_play_that_is_given_up_at_any_round_is_taken_up() {
    let cluster = given();
    let expected = by_a_run(cluster).await;
    let shared = Shared::new(World::new(&cluster.spec()));
    let whole = play(&shared, &cluster.intent(), 1, ROUNDS_MAX).await;
    // Most rounds are of hosts that are prepared side by side; every other one has each kind of them.
    for rounds in (1..whole).step_by(2) {
        let shared = Shared::new(World::new(&cluster.spec()));
        let first = play(&shared, &cluster.intent(), 1, rounds).await;
        assert_eq!(first, rounds);
        play(&shared, &cluster.intent(), 2, ROUNDS_MAX).await;
        shared.rest().await;
        let difference = render::first_difference(&expected, &render::lasting(&shared.world()));
        assert_eq!(difference, None, "given up after {rounds} rounds");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outranked_play_is_told_and_hands_nothing_over() {
    let cluster = given();
    let intent = cluster.intent();
    let shared = Shared::new(World::new(&cluster.spec()));
    let (seams, handle) = shared.operator(operator(1), Script::none());
    let held = taken(&seams, &intent, &operator(1)).await;
    let round = carried::next(&seams, held.claim()).await.unwrap().unwrap();
    hand_over(&seams, &round).await;
    handle.kill();
    // The same person again, from another shell.
    let (others, _other) = shared.operator(operator(2), Script::none());
    let _others_now = taken(&others, &intent, &operator(2)).await;
    let (seams, _again) = shared.operator(operator(1), Script::none());
    match carried::next(&seams, held.claim()).await {
        Err(Verdict::Refused { refusals }) => assert!(
            refusals
                .iter()
                .all(|refusal| refusal.to_string().contains("token 1")),
            "{refusals:?}"
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_master_down_no_join_is_asked_for() {
    let three = Cluster {
        workers: 0,
        ..given()
    };
    let shared = Shared::new(World::new(&three.spec()));
    play(&shared, &three.intent(), 1, ROUNDS_MAX).await;
    shared.rest().await;
    let five = Cluster {
        masters: 5,
        ..three
    };
    shared.change(|world| world.know(&five.spec()));
    let (seams, _handle) = shared.operator(operator(2), Script::none());
    let held = taken(&seams, &five.intent(), &operator(2)).await;
    shared.change(|world| world.power_off(&node("cp-3")));
    let before = shared.effects();
    let next = carried::next(&seams, held.claim()).await;
    assert!(
        matches!(next, Err(Verdict::Unseen { .. } | Verdict::Refused { .. })),
        "{next:?}"
    );
    assert_eq!(shared.effects(), before, "nobody was asked for anything");
}
