//! Targets that take as long as a real balancer's to come, to fall ill and to go.

use std::time::Duration;

use quorate_aws::{Target, TargetState};
use tokio::time::Instant;

use crate::fake::SOON;
use crate::services::{Services, group};

const EVERY: Duration = Duration::from_secs(5);

fn target(id: &str) -> Target {
    Target {
        id: id.to_owned(),
        port: None,
    }
}

/// States of a target in the order they were seen, until `end` says that it is done; and how long that took.
async fn watch(
    services: &Services,
    id: &str,
    end: impl Fn(Option<&TargetState>) -> bool,
) -> (Vec<Option<TargetState>>, Duration) {
    let aws = services.client().await;
    let began = Instant::now();
    let mut states: Vec<Option<TargetState>> = Vec::new();
    loop {
        let health = aws.target_health(&group(), SOON).await.unwrap();
        let state = health
            .into_iter()
            .find(|target| target.id == id)
            .map(|target| target.state);
        if states.last() != Some(&state) {
            states.push(state.clone());
        }
        if end(state.as_ref()) {
            return (states, began.elapsed());
        }
        assert!(began.elapsed() < Duration::from_secs(600), "{states:?}");
        tokio::time::sleep(EVERY).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_gets_traffic_minutes_after_it_was_registered() {
    for (id, takes) in [("i-01", 180), ("i-02", 240), ("i-03", 300)] {
        let services = Services::new();
        let aws = services.client().await;
        aws.register_targets(&group(), &[target(id)], SOON)
            .await
            .unwrap();
        let (states, took) =
            watch(&services, id, |state| state == Some(&TargetState::Healthy)).await;
        assert_eq!(
            states,
            [Some(TargetState::Initial), Some(TargetState::Healthy)]
        );
        let takes = Duration::from_secs(takes);
        assert!((takes..takes + EVERY * 2).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reasons_come_with_the_states() {
    let services = Services::new();
    let aws = services.client().await;
    aws.register_targets(&group(), &[target("i-01")], SOON)
        .await
        .unwrap();
    let reason = async || {
        let health = aws.target_health(&group(), SOON).await.unwrap();
        health[0].reason.clone()
    };
    assert_eq!(
        reason().await.as_deref(),
        Some("Elb.RegistrationInProgress")
    );
    tokio::time::sleep(Duration::from_secs(175)).await;
    assert_eq!(reason().await.as_deref(), Some("Elb.InitialHealthChecking"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(reason().await, None);
    services.state().targets.get_mut("i-01").unwrap().sick = true;
    let health = aws.target_health(&group(), SOON).await.unwrap();
    assert_eq!(health[0].state, TargetState::Unhealthy);
    assert_eq!(
        health[0].reason.as_deref(),
        Some("Target.FailedHealthChecks")
    );
    assert_eq!(health[0].port, 6443);
}

#[tokio::test(start_paused = true)]
async fn registering_twice_is_registering_once() {
    let services = Services::new();
    let aws = services.client().await;
    for _ in 0..2 {
        aws.register_targets(&group(), &[target("i-01"), target("i-02")], SOON)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(90)).await;
    }
    // It did not begin again with the second call: 180 s after the first it has traffic.
    let health = aws.target_health(&group(), SOON).await.unwrap();
    let states: Vec<_> = health
        .iter()
        .map(|each| (each.id.as_str(), each.state.clone()))
        .collect();
    assert_eq!(
        states,
        [
            ("i-01", TargetState::Healthy),
            ("i-02", TargetState::Initial)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_target_drains_for_minutes_and_is_gone() {
    let services = Services::new();
    let aws = services.client().await;
    aws.register_targets(&group(), &[target("i-01")], SOON)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    for _ in 0..2 {
        aws.deregister_targets(&group(), &[target("i-01")], SOON)
            .await
            .unwrap();
    }
    let (states, took) = watch(&services, "i-01", |state| state.is_none()).await;
    assert_eq!(states, [Some(TargetState::Draining), None]);
    let drains = Duration::from_secs(300);
    assert!((drains..drains + EVERY * 2).contains(&took), "{took:?}");
    // It is gone, and taking it out once more is no error.
    aws.deregister_targets(&group(), &[target("i-01")], SOON)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_draining_target_that_is_registered_again_comes_back() {
    let services = Services::new();
    let aws = services.client().await;
    let only = [target("i-01")];
    aws.register_targets(&group(), &only, SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    aws.deregister_targets(&group(), &only, SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    aws.register_targets(&group(), &only, SOON).await.unwrap();
    let (states, _) = watch(&services, "i-01", |state| {
        state == Some(&TargetState::Healthy)
    })
    .await;
    assert_eq!(
        states,
        [Some(TargetState::Initial), Some(TargetState::Healthy)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_run_is_refused_at_once() {
    let services = Services::new();
    let aws = services.client().await;
    let began = Instant::now();
    let err = aws
        .register_targets(&group(), &[target("i-99")], SOON)
        .await
        .unwrap_err();
    assert_eq!(err.code(), Some("InvalidTarget"));
    assert_eq!(
        err.to_string(),
        "elasticloadbalancing:RegisterTargets at http://aws.test answered 400 InvalidTarget: \
         The following targets are not in a running state: i-99 (request req-err)"
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(services.network.seen().len(), 1);
    // Nothing to do is done without asking.
    aws.register_targets(&group(), &[], SOON).await.unwrap();
    assert_eq!(services.network.seen().len(), 1);
}
