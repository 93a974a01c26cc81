//! What may be asked of a cloud's balancer, by what is seen.

mod seeing;

use std::time::Duration;

use quorate_plan::{InfraEnsure, Missing, Observation, Seen, observation::Target, permit_infra};
use seeing::{node, ready_api, seen};

#[test]
fn a_target_comes_for_whom_somebody_saw_ready_and_goes_while_another_is_healthy() {
    let instance = || "i-0b".to_owned();
    let comes = InfraEnsure::Target {
        node: node("b"),
        instance: instance(),
    };
    let goes = InfraEnsure::TargetGone {
        node: node("b"),
        instance: instance(),
    };
    let says = |seen: &Observation, what: &InfraEnsure| match permit_infra(seen, what) {
        Ok(()) => "permitted".to_owned(),
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    };
    let mut there = seen("a+ b+ c+");
    let unready = "missing: the apiserver of b could not be seen: it is not ready";
    there
        .api
        .insert(node("b"), Seen::now(Some(ready_api(false))));
    assert_eq!(says(&there, &comes), unready);
    there
        .api
        .insert(node("b"), Seen::now(Some(ready_api(true))));
    assert_eq!(says(&there, &comes), "permitted");

    let unhealthy = || Target::Unhealthy {
        told: "unhealthy (Target.Timeout)".into(),
    };
    let mut among = |a: Seen<Target>, c: Seen<Target>| {
        there.targets = [
            (node("a"), a),
            (node("b"), Seen::now(Target::Healthy)),
            (node("c"), c),
        ]
        .into();
        says(&there, &goes)
    };
    let unseen = || Seen::Unknown(Missing::no_answer("the target group", "no answer"));
    let now = Seen::<Target>::now;
    assert_eq!(
        among(now(Target::Healthy), now(Target::Absent)),
        "permitted"
    );
    assert_eq!(among(unseen(), now(Target::Healthy)), "permitted");
    assert_eq!(
        among(now(unhealthy()), now(Target::Draining)),
        "last-target: without b the balancer has no healthy target: 2 others \
         (a unhealthy (Target.Timeout), c draining)"
    );
    assert_eq!(
        among(now(unhealthy()), unseen()),
        "missing: the target group could not be seen: no answer"
    );
    let old = Seen::Known {
        value: Target::Healthy,
        age: Duration::from_secs(61),
    };
    assert_eq!(
        among(now(Target::Absent), old),
        "missing: a fresh look is missing: the last one is 61 s old, at most 60 s are allowed"
    );
}
