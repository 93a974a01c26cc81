//! Journals of runs are ways that the model has; and what no run could have written is none.

use quorate_exec::Journal;
use quorate_plan::{Event, Fence, Intent, event::Verdict, spec::BringUp};
use quorate_testkit::{
    World,
    conform::{Departed, Followed, Found, Left, Told, follow, follow_runs},
    drive::{Run, apply, apply_until_done},
    fixture::{Cluster, operator},
    memory::{Fault, Script, Shared},
    model::procedure::grown,
};

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

fn after(name: &'static str, before: Cluster, then: Cluster) -> Situation {
    let mut world = grown(before);
    world.know(&then.spec());
    Situation {
        name,
        world,
        intent: then.intent(),
    }
}

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

/// Killed at every thirteenth effect, before, within and after it; the next operator's journal goes on in a world that this one may have
/// left.
#[tokio::test(start_paused = true)]
async fn journals_of_killed_runs_and_of_those_that_go_on_are_followed() {
    for (offset, situation) in situations().into_iter().enumerate() {
        let effects = run(&situation, Script::none()).await.1.effects;
        for effect in (1 + 3 * offset as u64..=effects).step_by(13) {
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
    let told = follow_runs(runs.path()).expect("it is read");
    let [Told { run: id, found }] = &told[..] else {
        panic!("one run: {told:?}");
    };
    assert_eq!(id, "run-1");
    let Found::Anew(read) = found else {
        panic!("it is followed: {found:?}");
    };
    let written = followed(&run.events, &Left::default(), "as it was told");
    assert_eq!(
        (read.effects, read.prefixes),
        (written.effects, written.prefixes)
    );
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
    let told = follow_runs(runs.path()).expect("it is read");
    let [first, second, third] = &told[..] else {
        panic!("three runs: {told:?}");
    };
    assert!(matches!(first.found, Found::Anew(_)), "{first}");
    assert!(matches!(second.found, Found::Unexplained(_)), "{second}");
    assert!(matches!(third.found, Found::Anew(_)), "{third}");
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
