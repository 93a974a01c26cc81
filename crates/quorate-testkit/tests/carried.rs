//! Requests that somebody else hands to the hosts, in memory: round by round they lead where a run leads, they are given up at any round and
//! taken up by the next operator, and none is there for what would cost the quorum.

use std::collections::BTreeSet;

use quorate_exec::{
    Hosts as _, World as Seams,
    carried::{self, Round},
    consider, fence,
    fence::Held,
};
use quorate_plan::{
    Event, Goal, Intent, Operator, event::Verdict, intent::Landmark, spec::BringUp,
};
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

/// Its targets are the provider's.
fn behind_nlb() -> Cluster {
    Cluster {
        nlb: true,
        ..given()
    }
}

/// The masters balance themselves.
fn behind_a_shared_address() -> Cluster {
    Cluster {
        shared: true,
        balancers: 0,
        ..given()
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

/// What is the provider's of a round is done as well, when the hosts had theirs.
async fn provided(seams: &Seam, held: &Held, round: &Round) {
    let open = &round.provider;
    assert!(open.iter().all(|one| !one.differences.is_empty()));
    let steps = carried::provide(seams, held.claim(), &mut |_| {}).await;
    assert_eq!(steps, Ok(open.len()), "{}", round.stage.title);
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
        let nothing = round.asked.is_empty() && round.provider.is_empty();
        assert!(!nothing, "{}", round.stage.title);
        hand_over(&seams, &round).await;
        if !round.provider.is_empty() {
            provided(&seams, &held, &round).await;
        }
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
        behind_nlb(),
        behind_a_shared_address(),
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

/// Rounds until the provider is to do something.
async fn until_provider(seams: &Seam, held: &Held) -> Round {
    for _ in 0..ROUNDS_MAX {
        let round = carried::next(seams, held.claim()).await.unwrap().unwrap();
        if !round.provider.is_empty() {
            return round;
        }
        let early = carried::provide(seams, held.claim(), &mut |_| {}).await;
        assert_eq!(early, Ok(0), "{}: hosts have to act", round.stage.title);
        hand_over(seams, &round).await;
    }
    panic!("the provider is asked for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_target_is_waited_for_and_told() {
    let cluster = behind_nlb();
    let mut world = World::new(&cluster.spec());
    world.nlb.as_mut().expect("a cloud's").slow_ms = 180_000;
    let shared = Shared::new(world);
    let (seams, _handle) = shared.operator(operator(1), Script::none());
    let held = taken(&seams, &cluster.intent(), &operator(1)).await;
    let round = until_provider(&seams, &held).await;
    let mut lines = Vec::new();
    let steps = carried::provide(&seams, held.claim(), &mut |event| {
        if let Event::StepProgress { line, .. } = event {
            lines.push(line);
        }
    })
    .await;
    assert_eq!(steps, Ok(round.provider.len()));
    assert!((15..=30).contains(&lines.len()), "{lines:?}");
    let healthy = shared.world().healthy_targets();
    assert_eq!(healthy.len(), round.provider.len());
    assert_eq!(shared.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_outranked_play_asks_the_provider_for_nothing() {
    let cluster = behind_nlb();
    let intent = cluster.intent();
    let shared = Shared::new(World::new(&cluster.spec()));
    let (seams, handle) = shared.operator(operator(1), Script::none());
    let held = taken(&seams, &intent, &operator(1)).await;
    until_provider(&seams, &held).await;
    handle.kill();
    let (others, _other) = shared.operator(operator(2), Script::none());
    let _others_now = taken(&others, &intent, &operator(2)).await;
    let (seams, _again) = shared.operator(operator(1), Script::none());
    match carried::provide(&seams, held.claim(), &mut |_| {}).await {
        Err(Verdict::Refused { refusals }) => assert!(
            refusals
                .iter()
                .all(|refusal| refusal.to_string().contains("token 1")),
            "{refusals:?}"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(shared.world().healthy_targets(), BTreeSet::new());
}

/// One master that somebody else made, with a worker, and an intent to have three, which may share an address.
async fn somebody_elses(to_share: bool) -> (Shared, Intent) {
    let one = Cluster {
        masters: 1,
        flannel: false,
        ..given()
    };
    let shared = Shared::new(World::new(&one.spec()));
    let run = apply(&shared, &one.intent(), operator(1), Script::none()).await;
    assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
    shared.rest().await;
    let mut three = Cluster { masters: 3, ..one };
    if to_share {
        (three.shared, three.balancers) = (true, 0);
    }
    shared.change(|world| {
        world.somebody_elses();
        world.know(&three.spec());
    });
    let intent = Intent {
        goal: Goal::Convert { pause_after: None },
        ..three.intent()
    };
    (shared, intent)
}

#[tokio::test(start_paused = true)]
async fn rounds_convert_as_a_run_does() {
    for to_share in [false, true] {
        let (shared, intent) = somebody_elses(to_share).await;
        let run = apply(&shared, &intent, operator(2), Script::none()).await;
        assert_eq!(run.verdict, Some(Verdict::Done), "{}", run.text());
        shared.rest().await;
        let expected = render::lasting(&shared.world());

        let (shared, intent) = somebody_elses(to_share).await;
        let rounds = play(&shared, &intent, 2, ROUNDS_MAX).await;
        assert!(rounds < ROUNDS_MAX);
        shared.rest().await;
        let difference = render::first_difference(&expected, &render::lasting(&shared.world()));
        assert_eq!(difference, None, "{}", shared.log().join("\n"));
        assert_eq!(shared.world().ready().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn rounds_take_a_conversion_back() {
    let (shared, intent) = somebody_elses(false).await;
    let convert = Intent {
        goal: Goal::Convert {
            pause_after: Some(Landmark::Kubeconfigs),
        },
        ..intent.clone()
    };
    let there = play(&shared, &convert, 2, ROUNDS_MAX).await;
    let undo = Intent {
        goal: Goal::Unconvert,
        ..intent
    };
    let back = play(&shared, &undo, 3, ROUNDS_MAX).await;
    assert!(there < ROUNDS_MAX && back < ROUNDS_MAX);
    assert!(back > 0, "there is something to take back");
    let run = apply(&shared, &undo, operator(4), Script::none()).await;
    assert_eq!((run.verdict, run.effects), (Some(Verdict::Done), 0));
}
