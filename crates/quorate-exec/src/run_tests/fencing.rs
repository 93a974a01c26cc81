//! Nobody is acted on who did not acknowledge the fence.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_fence_is_one_higher_than_any_that_was_seen() {
    let fake = Fake::default();
    fake.set_fencing(
        &node("cp-3"),
        Fencing {
            highest: Fence(41),
            ..Fencing::default()
        },
    );
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let (verdict, events) = run_on(&fake, whole).await;
    assert_eq!(verdict, Verdict::Done);
    assert!(events.contains(&Event::Fenced { fence: Fence(42) }));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_acknowledge_is_not_acted_on() {
    // It is not in the plan's way: a majority of the masters is enough.
    let fake = Fake::default();
    fake.etcd_runs.set(true);
    fake.silent.borrow_mut().insert(node("cp-3"));
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let (verdict, _) = run_on(&fake, whole.clone()).await;
    assert_eq!(verdict, Verdict::Done);

    // Where nobody else runs etcd, the one that cannot be asked may be the only master there ever was.
    let fake = Fake::default();
    fake.silent.borrow_mut().insert(node("cp-3"));
    let (verdict, _) = run_on(&fake, whole.clone()).await;
    assert!(matches!(verdict, Verdict::Unseen { .. }), "{verdict:?}");
    assert!(!fake.log().iter().any(|line| line.contains("begins")));

    // No majority: it is waited for, nobody is asked for anything, and nothing is done.
    let fake = Fake::default();
    fake.silent
        .borrow_mut()
        .extend([node("cp-3"), node("cp-2")]);
    let (verdict, events) = run_on(&fake, whole.clone()).await;
    let Verdict::Unseen { missing } = verdict else {
        panic!("{verdict:?}")
    };
    assert!(
        missing
            .iter()
            .any(|line| line.contains("1 of 3 acknowledged, 2 needed")),
        "{missing:?}"
    );
    let words = words(&events);
    assert_eq!(words.first().map(String::as_str), Some("started"));
    assert_eq!(words.last().map(String::as_str), Some("ended"));
    assert!(words.len() > 2, "waiting is told: {words:?}");
    assert!(
        words[1..words.len() - 1]
            .iter()
            .all(|word| word == "waiting"),
        "{words:?}"
    );
    assert_eq!(fake.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn of_two_who_come_at_once_one_has_it() {
    let whole = plan_of(vec![stage(
        "S",
        ["cp-1", "cp-2", "cp-3"].map(|on| step(on, "a")).to_vec(),
    )]);
    let nodes = ["cp-1", "cp-2", "cp-3"].map(node);
    // Each is nearer to some hosts than the other, in every way there is.
    for nearer in 0..8_u8 {
        let fake = Fake::default();
        for (n, node) in nodes.iter().enumerate() {
            let late = if nearer & (1 << n) == 0 { "r1" } else { "r2" };
            fake.far.borrow_mut().insert((late.into(), node.clone()));
        }
        let hosts = fake.facts.borrow().clone();
        let mut seen = Observation::default();
        for (node, facts) in hosts {
            seen.hosts.insert(node.clone(), Seen::now(facts));
            seen.etcd.insert(node, Seen::now(None));
        }
        let (wanted, operators) = (intent(), ["r1", "r2"].map(crate::identity::operator));
        let there = &fake;
        let take = |operator| fence::take(&there, &seen, &wanted, &whole, operator);
        let taken = tokio::join!(take(&operators[0]), take(&operators[1]));
        let (held, refused) = match taken {
            (Ok(held), Err(refused)) | (Err(refused), Ok(held)) => (held, refused),
            other => panic!("{nearer:03b}: {other:?}"),
        };
        assert_eq!(held.acknowledged(), nodes.clone().into());
        assert!(
            matches!(refused[..], [Refusal::Fenced { .. }]),
            "{refused:?}"
        );
        assert!(!fake.log().iter().any(|line| line.contains("released")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_in_force_is_not_taken_over() {
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let somebody = Operator {
        user: "somebody".into(),
        machine: "elsewhere".into(),
        pid: 1,
        run: "r0".into(),
    };
    let claim = |operator: &Operator, intent: Intent| Claim {
        fence: Fence(7),
        operator: operator.clone(),
        since: 0,
        intent,
    };
    let mut other = intent();
    other.spec.kubernetes = "1.36.3".into();
    let before = Operator {
        run: "r0".into(),
        ..operator()
    };
    for (operator, intent, connected, taken) in [
        (&somebody, intent(), true, false),
        (&somebody, other.clone(), false, false),
        (&somebody, intent(), false, true),
        (&before, other.clone(), false, true),
        (&before, other, true, false),
    ] {
        let fake = Fake::default();
        let claim = claim(operator, intent);
        fake.set_fencing(
            &node("cp-2"),
            Fencing {
                highest: Fence(7),
                claim: Some(claim),
                connected,
            },
        );
        let (verdict, _) = run_on(&fake, whole.clone()).await;
        match verdict {
            Verdict::Done => assert!(taken, "{operator} {connected}"),
            Verdict::Refused { refusals } => {
                assert!(!taken, "{operator} {connected}");
                assert_eq!(
                    refusals[0].to_string(),
                    format!("`apply` of {operator} is in force on cp-2")
                );
                assert_eq!(fake.log(), [""; 0]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_outranked_does_nothing_more() {
    let fake = Fake::default();
    *fake.fault.borrow_mut() = Some(Box::new(|fake, on, _, _| {
        if *on == node("cp-1") {
            // While cp-1 acts, another operator takes over on cp-2.
            fake.set_fencing(
                &node("cp-2"),
                Fencing {
                    highest: Fence(9),
                    ..Fencing::default()
                },
            );
        }
        None
    }));
    let whole = plan_of(vec![
        stage("One", vec![step("cp-1", "a")]),
        stage("Two", vec![step("cp-2", "a")]),
        stage("Three", vec![step("cp-3", "a")]),
    ]);
    let (verdict, events) = run_on(&fake, whole).await;
    let Verdict::Refused { refusals } = verdict else {
        panic!("{verdict:?}")
    };
    assert!(
        matches!(
            refusals[..],
            [Refusal::Fenced {
                token: Fence(1),
                highest: Fence(9),
                ..
            }]
        ),
        "{refusals:?}"
    );
    assert!(!fake.log().iter().any(|line| line.contains("cp-2 begins")));
    assert!(!fake.log().iter().any(|line| line.contains("cp-3 begins")));
    assert!(words(&events).contains(&"refused".to_owned()));
    // The operation is not over: it stays in force where it is.
    assert!(fake.fencing(&node("cp-1")).claim.is_some());
}

#[tokio::test(start_paused = true)]
async fn machines_are_made_side_by_side_and_claimed_before_their_first_action() {
    let fake = Fake::default();
    for name in ["cp-1", "cp-2", "cp-3"] {
        fake.power.borrow_mut().insert(node(name), Power::Absent);
    }
    let whole = plan_of(vec![
        stage("Make", ["cp-1", "cp-2", "cp-3"].map(machine_step).into()),
        stage("Prepare", vec![step("cp-1", "a"), step("cp-2", "a")]),
    ]);
    let (verdict, _) = run_on(&fake, whole).await;
    assert_eq!(verdict, Verdict::Done);
    let log = fake.log();
    let at = |line| position(&log, line);
    assert!(at("cp-3 booting") < at("cp-1 booted"), "{log:#?}");
    assert!(at("cp-1 booted") < at("cp-1 claimed 1"), "{log:#?}");
    assert!(at("cp-1 claimed 1") < at("cp-1 begins a"), "{log:#?}");
    assert!(
        !log.contains(&"cp-3 claimed 1".to_owned()),
        "it was not acted on"
    );
}

#[tokio::test(start_paused = true)]
async fn masters_that_leave_belong_to_the_old_ones() {
    let fake = Fake::default();
    fake.etcd_runs.set(true);
    let leavers = ["cp-4", "cp-5"].map(node);
    for leaver in &leavers {
        let blank = HostFacts::blank(leaver);
        fake.facts.borrow_mut().insert(leaver.clone(), blank);
    }
    let mut wanted = intent();
    let machine = wanted.spec.control_plane[&node("cp-1")].clone();
    let retired = leavers.clone().map(|node| (node, machine.clone()));
    wanted.retired.extend(retired);
    let world = World::new(&fake, &fake);
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let operator = crate::identity::operator("r");
    let take = async || {
        let seen = crate::observe(&world, &wanted).await;
        crate::fence::take(&&fake, &seen, &wanted, &whole, &operator).await
    };
    let held = take().await.unwrap();
    assert_eq!(held.acknowledged().len(), 5, "all of the old ones");
    let errors = held.release(&&fake).await;
    assert!(errors.is_empty(), "{errors:?}");
    // Two of three new ones, and with the leavers four of five old ones.
    fake.silent.borrow_mut().insert(node("cp-3"));
    assert_eq!(take().await.unwrap().acknowledged().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_stopped_after_its_fence_was_given_back() {
    let fake = Fake::default();
    fake.power.borrow_mut().insert(node("cp-2"), Power::Running);
    let mut off = machine_step("cp-2");
    off.ensure = Ensure::Infra(InfraEnsure::MachineOff { node: node("cp-2") });
    let whole = plan_of(vec![
        stage("Act", vec![step("cp-1", "a")]),
        stage("Stop", vec![off]),
    ]);
    let (verdict, _) = run_on(&fake, whole).await;
    assert_eq!(verdict, Verdict::Done);
    let log = fake.log();
    let at = |line| position(&log, line);
    assert!(at("cp-2 released 1") < at("cp-2 stopped"), "{log:#?}");
    let released = log.iter().filter(|line| *line == "cp-2 released 1");
    assert_eq!(released.count(), 1, "nobody is there to be told again");
}

#[tokio::test(start_paused = true)]
async fn what_one_host_gives_another_is_sealed_to_it() {
    let fake = Fake::default();
    let mut given = step("cp-2", "a");
    given.handover = Some(Handover::CaSet { from: node("cp-1") });
    let (verdict, _) = run_on(&fake, plan_of(vec![stage("S", vec![given])])).await;
    assert_eq!(verdict, Verdict::Done);
    let log = fake.log();
    let at = |line| position(&log, line);
    assert!(at("cp-1 claimed 1") < at("cp-2 made a recipient"));
    assert!(at("cp-2 made a recipient") < at("cp-1 sealed to age1cp-2"));
    assert!(at("cp-1 sealed to age1cp-2") < at("cp-2 begins a"));
}

#[tokio::test(start_paused = true)]
async fn before_the_cloud_is_asked_a_majority_confirms_the_fence_and_nobody_denies_it() {
    let fake = Fake::default();
    let hosts = &fake;
    let whole = plan_of(vec![stage("S", vec![step("cp-1", "a")])]);
    let seen = crate::observe(&World::new(hosts, hosts), &intent()).await;
    let held = crate::fence::take(&hosts, &seen, &intent(), &whole, &operator()).await;
    let held = held.expect("nobody else is at it");
    let confirm = async || {
        let said = held.confirm(&hosts, &seen).await;
        said.map_err(|refusal| format!("{}: {refusal}", refusal.code()))
    };
    assert_eq!(confirm().await, Ok(()));
    fake.silent.borrow_mut().insert(node("cp-3"));
    assert_eq!(confirm().await, Ok(()));
    fake.silent.borrow_mut().insert(node("cp-2"));
    let said = confirm().await.unwrap_err();
    assert!(said.starts_with("missing: "), "{said}");
    assert!(
        said.contains("1 of 3 masters confirm it, 2 needed"),
        "{said}"
    );
    // One that has heard of somebody else outweighs all who have not.
    fake.silent.borrow_mut().clear();
    let outranked = Fencing {
        highest: Fence(99),
        ..Fencing::default()
    };
    fake.set_fencing(&node("cp-3"), outranked);
    let said = confirm().await.unwrap_err();
    assert!(said.starts_with("fenced: "), "{said}");
}
