//! Masters as targets of a Network Load Balancer, against services that take as long as AWS's do, in virtual time; and against
//! moto's server, which somebody else wrote after AWS's own descriptions, where this machine has it. Both are those of the tests of `quorate-aws`.

#[expect(dead_code, reason = "made for more tests than these")]
#[path = "../../quorate-aws/tests/api/fake.rs"]
mod fake;
#[path = "../../quorate-aws/tests/api/moto_server.rs"]
mod moto_server;
#[expect(dead_code, reason = "made for more tests than these")]
#[path = "../../quorate-aws/tests/api/services.rs"]
mod services;

use std::{collections::BTreeMap, time::Duration};

use quorate_aws::Options;
use quorate_exec::{Infra as _, Machines, Nlb};
use quorate_plan::{
    InfraEnsure, NodeName, Seen, Spec,
    observation::Target,
    spec::{self, Inventory, Listed, TargetGroup},
};

use crate::{
    fake::Fault,
    moto_server::Moto,
    services::{ENVIRONMENT, GROUP, Services},
};

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// Three masters; of the last one's instance nobody at AWS knows.
fn cluster() -> Spec {
    with_targets(GROUP, ["i-01", "i-02", "i-99"])
}

fn with_targets(group: &str, instances: [&str; 3]) -> Spec {
    let masters = [
        ("cp-1", "10.0.0.11"),
        ("cp-2", "10.0.0.12"),
        ("cp-3", "10.0.0.13"),
    ];
    let inventory = Inventory {
        name: "demo".into(),
        host: "api.demo.internal".into(),
        port: 6443,
        masters: masters
            .iter()
            .zip(["a", "b", "c"])
            .map(|((name, address), zone)| Listed {
                name: (*name).into(),
                address: (*address).into(),
                zone: Some(zone.into()),
                etcd_device: None,
            })
            .collect(),
        workers: Vec::new(),
        target_group: TargetGroup {
            arn: group.into(),
            instances: masters
                .iter()
                .zip(instances)
                .map(|((name, _), instance)| ((*name).to_owned(), instance.to_owned()))
                .collect(),
        },
    };
    let file = "apiVersion: quorate/v1\nname: demo\nprovider: { kind: terraform, user: admin }\n";
    let (spec, _) = spec::parse_with(file, "demo.yaml", |_| Some(inventory)).unwrap();
    spec
}

async fn machines(services: &Services) -> Machines {
    let options = services.network.options(&ENVIRONMENT);
    let nlb = Nlb::of(&cluster(), options).await.unwrap();
    Machines::BehindNlb(Box::new(nlb.expect("Terraform's balancer")))
}

async fn seen(machines: &Machines) -> BTreeMap<NodeName, Target> {
    let told = machines.targets().await.into_iter();
    told.map(|(node, seen)| (node, seen.get().unwrap().clone()))
        .collect()
}

fn unhealthy(told: &str) -> Target {
    Target::Unhealthy { told: told.into() }
}

async fn ask(machines: &Machines, what: InfraEnsure) -> Result<(), String> {
    let asked = machines.ensure(&what, &mut |_| {}).await;
    asked.map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_master_comes_and_goes_in_minutes() {
    let services = Services::new();
    let machines = machines(&services).await;
    let (name, instance) = (node("cp-1"), "i-01".to_owned());
    let comes = || InfraEnsure::Target {
        node: name.clone(),
        instance: instance.clone(),
    };
    assert_eq!(seen(&machines).await[&name], Target::Absent);
    // Asking twice is asking once.
    for _ in 0..2 {
        ask(&machines, comes()).await.unwrap();
    }
    let told = seen(&machines).await;
    assert_eq!(
        told[&name],
        unhealthy("initial (Elb.RegistrationInProgress)")
    );
    assert_eq!(told[&node("cp-2")], Target::Absent);
    tokio::time::sleep(Duration::from_secs(181)).await;
    assert_eq!(seen(&machines).await[&name], Target::Healthy);
    services.state().targets.get_mut("i-01").unwrap().sick = true;
    assert_eq!(
        seen(&machines).await[&name],
        unhealthy("unhealthy (Target.FailedHealthChecks)")
    );
    let gone = InfraEnsure::TargetGone {
        node: name.clone(),
        instance: instance.clone(),
    };
    ask(&machines, gone).await.unwrap();
    assert_eq!(seen(&machines).await[&name], Target::Draining);
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(seen(&machines).await[&name], Target::Absent);
}

#[tokio::test(start_paused = true)]
async fn throttled_for_a_moment_is_not_unknown_and_throttled_for_ever_is() {
    let services = Services::new();
    let machines = machines(&services).await;
    let throttled = || {
        let refusal = services::refusal(false, 400, "Throttling", "Rate exceeded");
        Fault::Instead(400, refusal.body)
    };
    services.network.faults([throttled(), throttled()]);
    assert_eq!(seen(&machines).await[&node("cp-2")], Target::Absent);
    services
        .network
        .faults(std::iter::repeat_with(throttled).take(20));
    for told in machines.targets().await.into_values() {
        let Seen::Unknown(missing) = told else {
            panic!("{told:?}");
        };
        let missing = missing.to_string();
        assert!(missing.contains("targetgroup/demo-api"), "{missing}");
        assert!(missing.contains("Throttling"), "{missing}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_aws_refuses_is_told_with_its_words() {
    let services = Services::new();
    let machines = machines(&services).await;
    let stopped = InfraEnsure::Target {
        node: node("cp-3"),
        instance: "i-99".into(),
    };
    let error = ask(&machines, stopped).await.unwrap_err();
    assert!(error.starts_with("registering cp-3 in arn:aws:"), "{error}");
    assert!(error.contains("not in a running state: i-99"), "{error}");
    let machine = InfraEnsure::Machine {
        node: node("cp-3"),
        address: [10, 0, 0, 13].into(),
    };
    let error = ask(&machines, machine).await.unwrap_err();
    assert!(error.contains("given"), "{error}");
}

/// moto calls a target healthy as soon as it is registered, and forgets it as soon as it is not.
#[tokio::test]
async fn masters_are_registered_at_moto_and_taken_out() {
    let Some(moto) = Moto::start() else {
        return;
    };
    let ids: [&str; 3] = moto.instances().try_into().expect("three instances");
    let spec = with_targets(moto.text("target_group"), ids);
    let options = Options::of(moto.environment());
    let nlb = Nlb::of(&spec, options).await.unwrap();
    let machines = Machines::BehindNlb(Box::new(nlb.expect("Terraform's balancer")));
    let all = |told: &BTreeMap<NodeName, Target>, expected: &Target| {
        told.len() == 3 && told.values().all(|target| target == expected)
    };
    let told = seen(&machines).await;
    assert!(all(&told, &Target::Absent), "{told:?}");
    for (name, instance) in ["cp-1", "cp-2", "cp-3"].iter().zip(ids) {
        let comes = InfraEnsure::Target {
            node: node(name),
            instance: instance.into(),
        };
        // Asking twice is asking once.
        for _ in 0..2 {
            ask(&machines, comes.clone()).await.unwrap();
        }
    }
    let told = seen(&machines).await;
    assert!(all(&told, &Target::Healthy), "{told:?}");
    // Once: moto refuses what AWS takes, that one goes who is not there.
    let gone = InfraEnsure::TargetGone {
        node: node("cp-2"),
        instance: ids[1].into(),
    };
    ask(&machines, gone).await.unwrap();
    let told = seen(&machines).await;
    assert_eq!(told[&node("cp-2")], Target::Absent);
    assert_eq!(told[&node("cp-1")], Target::Healthy);
    assert_eq!(told[&node("cp-3")], Target::Healthy);
}
