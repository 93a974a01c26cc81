//! What is acted on, in which order, and what becomes of hosts that are busy, silent or wrong.

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_to_do_is_done_without_a_fence() {
    let fake = Fake::default();
    let (verdict, events) = run_on(&fake, Plan::default()).await;
    assert_eq!(verdict, Verdict::Done);
    assert_eq!(words(&events), ["started", "ended"]);
    assert_eq!(fake.log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn places_side_by_side_and_steps_of_a_place_in_order() {
    let fake = Fake::default();
    let whole = plan_of(vec![
        stage(
            "Prepare",
            vec![step("cp-1", "a"), step("cp-1", "b"), step("cp-2", "a")],
        ),
        stage("Then", vec![step("cp-2", "c")]),
    ]);
    let (verdict, events) = run_on(&fake, whole).await;
    assert_eq!(verdict, Verdict::Done);
    let log = fake.log();
    let at = |line| position(&log, line);
    assert!(
        at("cp-2 begins a") < at("cp-1 ends a"),
        "side by side: {log:#?}"
    );
    assert!(
        at("cp-1 ends a") < at("cp-1 begins b"),
        "in order: {log:#?}"
    );
    assert!(
        at("cp-1 ends b") < at("cp-2 begins c"),
        "stages in order: {log:#?}"
    );
    assert_eq!(
        words(&events),
        [
            "started",
            "fenced",
            "stageStarted 1",
            "stepStarted cp-1",
            "stepProgress cp-1",
            "stepStarted cp-2",
            "stepProgress cp-2",
            "stepStands cp-1",
            "stepStarted cp-1",
            "stepProgress cp-1",
            "stepStands cp-2",
            "stepStands cp-1",
            "stageStarted 2",
            "stepStarted cp-2",
            "stepProgress cp-2",
            "stepStands cp-2",
            "ended",
        ]
    );
    // All three masters were claimed before the first effect, and told at the end that it is over.
    let claims = log.iter().filter(|line| line.contains("claimed 1")).count();
    assert_eq!(claims, 3);
    assert!(at("cp-3 claimed 1") < at("cp-1 begins a"));
    for name in ["cp-1", "cp-2", "cp-3"] {
        let fencing = fake.fencing(&node(name));
        assert_eq!((fencing.highest, fencing.claim), (Fence(1), None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_run_when_the_steps_in_flight_have_ended() {
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(|_, on, _, _| {
        (*on == node("cp-2")).then(|| HostError::Failed {
            node: on.clone(),
            error: "no space\u{1b}[2J".into(),
        })
    }));
    let whole = plan_of(vec![
        stage(
            "One",
            vec![step("cp-2", "a"), step("cp-1", "a"), step("cp-1", "b")],
        ),
        stage("Two", vec![step("cp-3", "a")]),
    ]);
    let (verdict, _) = run_on(&fake, whole).await;
    assert_eq!(
        verdict,
        Verdict::Failed {
            step: Box::new(step("cp-2", "a")),
            error: "no space\\u{1b}[2J".into()
        }
    );
    let log = fake.log();
    position(&log, "cp-1 ends a");
    for never in ["cp-1 begins b", "cp-3 begins a", "cp-1 released 1"] {
        assert!(!log.contains(&never.to_owned()), "{log:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn busy_hosts_are_asked_again() {
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(|_, on, _, count| {
        (count < 4).then(|| HostError::Busy {
            node: on.clone(),
            action: "an earlier action".into(),
            since_ms: 10,
            fence: Fence(0),
        })
    }));
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let (verdict, events) = run_on(&fake, whole).await;
    assert_eq!(verdict, Verdict::Done);
    assert_eq!(fake.asked.borrow()["cp-1 a"], 4);
    let told = events.iter().any(|event| {
        matches!(event, Event::StepProgress { line, .. } if line.contains("an earlier action"))
    });
    assert!(told, "why it takes long is told");
}

#[tokio::test(start_paused = true)]
async fn another_reason_is_told_without_waiting_for_its_turn() {
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(|_, on, _, count| {
        let action = if count < 3 { "the first" } else { "the second" };
        (count < 6).then(|| HostError::Busy {
            node: on.clone(),
            action: action.into(),
            since_ms: 10,
            fence: Fence(0),
        })
    }));
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let begun = Instant::now();
    let (verdict, events) = run_on(&fake, whole).await;
    assert_eq!(verdict, Verdict::Done);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "sooner than a reason is told again"
    );
    let told = |what: &str| {
        let lines = events.iter().filter(
            |event| matches!(event, Event::StepProgress { line, .. } if line.contains(what)),
        );
        lines.count()
    };
    assert_eq!((told("the first"), told("the second")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_channel_is_not_an_answer() {
    // The action went on there: its end state is found, and it is not asked for twice.
    let fake = Fake::default();
    let lost = |on: &NodeName| HostError::Unreachable {
        node: on.clone(),
        detail: "the connection was lost".into(),
    };
    *fake.fault.borrow_mut() = Some(Box::new(move |fake, on, _, _| {
        fake.give(on, "a");
        Some(lost(on))
    }));
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let (verdict, _) = run_on(&fake, whole.clone()).await;
    assert_eq!(verdict, Verdict::Done);
    assert_eq!(fake.asked.borrow()["cp-1 a"], 1);

    // It never arrived: it is asked for again.
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(move |_, on, _, count| {
        (count == 1).then(|| lost(on))
    }));
    let (verdict, _) = run_on(&fake, whole.clone()).await;
    assert_eq!(verdict, Verdict::Done);
    assert_eq!(fake.asked.borrow()["cp-1 a"], 2);

    // The host stays away: that is said, and not waited for as long as the action could take.
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(move |fake, on, _, _| {
        fake.silent.borrow_mut().insert(on.clone());
        Some(lost(on))
    }));
    let begun = Instant::now();
    let (verdict, _) = run_on(&fake, whole).await;
    let Verdict::Failed { error, .. } = verdict else {
        panic!("{verdict:?}")
    };
    assert!(
        error.contains("whether the action was made there is not known"),
        "{error}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_state_that_does_not_show_is_told_with_what_was_seen() {
    let fake = Fake::default();
    let guarded = Step {
        ensure: Ensure::Host(HostEnsure::Guarded {}),
        ..step("cp-1", "a")
    };
    let begun = Instant::now();
    let (verdict, _) = run_on(&fake, plan_of(vec![stage("S", vec![guarded])])).await;
    let Verdict::Failed { error, .. } = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(
        error,
        "expected that the empty-data guard is in place within 60 s, seen: member marker: expected present, seen missing"
    );
    assert!(begun.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn an_end_state_that_falls_again_and_again_is_a_fault() {
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(|fake, on, _, _| {
        // Whatever one does costs the other what it has.
        let other = if *on == node("cp-1") { "cp-2" } else { "cp-1" };
        fake.take_away(&node(other));
        None
    }));
    let whole = plan_of(vec![
        stage("One", vec![step("cp-1", "a")]),
        stage("Two", vec![step("cp-2", "b")]),
    ]);
    let (verdict, _) = run_on(&fake, whole).await;
    let Verdict::Failed { error, .. } = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(
        error,
        "it stood 3 times in this run and fell again each time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_departs_is_refused_and_a_moment_s_confusion_is_not() {
    for (lasting, expected) in [(true, "refused"), (false, "done")] {
        let fake = Fake::default();
        let whole = plan_of(vec![
            stage("One", vec![step("cp-1", "a")]),
            stage("Two", vec![step("cp-2", "b")]),
        ]);
        let mut other = whole.clone();
        other
            .stages
            .insert(1, stage("New", vec![step("cp-3", "z")]));
        let (stop, original) = (StopSignal::new(), whole.clone());
        let (verdict, _) = {
            let mut looks = 0;
            let mut watch = |event: &Event| {
                if matches!(event, Event::StepStands { .. }) {
                    looks += 1;
                    if looks == 1 {
                        WHOLE.set(other.clone());
                    }
                }
            };
            let back = async {
                if !lasting {
                    sleep(Duration::from_secs(10)).await;
                    WHOLE.set(original);
                }
            };
            let (end, ()) =
                futures_util::future::join(run_with(&fake, whole, &stop, &mut watch), back).await;
            end
        };
        match (expected, verdict) {
            ("done", Verdict::Done) => {}
            ("refused", Verdict::Refused { refusals }) => {
                assert_eq!(
                    refusals[0].to_string(),
                    "the plan was not approved like this: `New`: on cp-3: bundle z lies on the host"
                );
                assert!(!fake.log().iter().any(|line| line.contains("cp-2 begins")));
            }
            (expected, verdict) => panic!("{expected}: {verdict:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_just_started_gets_time_to_come_up() {
    // After a boot more seems to be left than was approved: units that are still starting, and apiservers, which take longer.
    let unit = step("cp-1", "b");
    let serving = Step {
        ensure: Ensure::Host(HostEnsure::Serving {
            node: intent().spec.peer(&node("cp-1")).unwrap(),
        }),
        ..step("cp-1", "")
    };
    for (open, up_after, verdict) in [
        (unit.clone(), 5, Verdict::Done),
        (unit, 30, Verdict::More),
        (serving.clone(), 45, Verdict::Done),
        (serving, 300, Verdict::More),
    ] {
        let fake = Fake::default();
        let approved = plan_of(vec![stage("Start", vec![step("cp-1", "a")])]);
        let mut more = approved.clone();
        more.stages.push(stage("Up", vec![open]));
        let whole = approved.clone();
        let mut watch = |event: &Event| {
            if matches!(event, Event::StepStarted { .. }) {
                WHOLE.set(more.clone());
            }
        };
        let up = async {
            sleep(Duration::from_secs(up_after)).await;
            fake.give(&node("cp-1"), "b");
            WHOLE.set(whole);
        };
        let stop = StopSignal::new();
        let run = run_with(&fake, approved, &stop, &mut watch);
        let ((end, events), ()) = futures_util::future::join(run, up).await;
        assert_eq!(end, verdict, "{up_after}");
        assert!(!fake.log().contains(&"cp-1 begins b".to_owned()));
        let waited = words(&events).contains(&"waiting".to_owned());
        assert!(waited, "whoever watches knows what it waits for");
        assert_eq!(
            fake.fencing(&node("cp-1")).claim,
            None,
            "the fence is given back"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_seen_gets_a_moment_and_is_no_refusal() {
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    for (back_after, done) in [(5, true), (1000, false)] {
        let fake = Fake::default();
        fake.silent.borrow_mut().insert(node("cp-1"));
        let back = async {
            sleep(Duration::from_secs(back_after)).await;
            fake.silent.borrow_mut().clear();
        };
        let run = run_on(&fake, whole.clone());
        tokio::pin!(run);
        tokio::pin!(back);
        let (verdict, events) = match futures_util::future::select(run, back).await {
            futures_util::future::Either::Left((end, _)) => end,
            futures_util::future::Either::Right(((), run)) => run.await,
        };
        if done {
            assert_eq!(verdict, Verdict::Done);
        } else {
            assert_eq!(
                verdict,
                Verdict::Unseen {
                    missing: vec![
                        "host cp-1 could not be seen: cp-1 does not answer: silent".into()
                    ]
                }
            );
            let words = words(&events);
            assert!(words.contains(&"waiting".to_owned()), "it was said");
            assert!(
                words
                    .iter()
                    .all(|word| ["started", "waiting", "ended"].contains(&word.as_str()))
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn observing_asks_only_machines_that_can_answer() {
    let fake = Fake::default();
    fake.power.borrow_mut().extend([
        (node("cp-1"), Power::Absent),
        (node("cp-2"), Power::Off),
        (node("cp-3"), Power::Running),
    ]);
    fake.silent
        .borrow_mut()
        .extend([node("cp-1"), node("cp-2")]);
    let world = World::new(&fake, &fake);
    let seen = crate::observe(&world, &intent()).await;
    let blank = seen.host(&node("cp-1")).unwrap();
    assert_eq!(*blank, HostFacts::blank(&node("cp-1")));
    assert_eq!(seen.etcd_at(&node("cp-1")), Ok(None));
    assert_eq!(seen.api_at(&node("cp-1")), Ok(None));
    assert_eq!(
        seen.host(&node("cp-2")).unwrap_err().to_string(),
        "host cp-2, whose machine is switched off, was not looked at"
    );
    assert!(seen.host(&node("cp-3")).is_ok());
}
