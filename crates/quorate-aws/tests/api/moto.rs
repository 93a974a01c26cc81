//! Against moto, which somebody else wrote after AWS's own descriptions: that requests are understood and answers read. moto probes nothing, takes
//! any key and is never slow; for that there are services of our own beside this.

use std::net::Ipv4Addr;
use std::time::Duration;

use quorate_aws::{Arn, Aws, Direction, InstanceState, Options, Peer, Target, TargetState};

use crate::moto_server::Moto;

/// For one call on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_cluster_at_moto_is_seen_and_its_targets_moved() {
    let Some(moto) = Moto::start() else {
        return;
    };
    let arn = |name: &str| -> Arn { moto.text(name).parse().expect("an ARN") };
    let (balancer, group) = (arn("balancer"), arn("target_group"));
    let options = Options {
        region: Some(balancer.region().clone()),
        ..Options::of(moto.environment())
    };
    let aws = Aws::open(options, SOON).await.unwrap();

    let found = aws
        .load_balancers(std::slice::from_ref(&balancer), SOON)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].internal && found[0].kind == "network" && found[0].state == "active");
    assert_eq!(found[0].security_groups, [moto.text("group")]);
    assert_eq!(found[0].zones.len(), 3);
    let attributes = aws.load_balancer_attributes(&balancer, SOON).await.unwrap();
    assert_eq!(attributes["load_balancing.cross_zone.enabled"], "true");
    let listeners = aws.listeners(&balancer, SOON).await.unwrap();
    assert_eq!(
        (listeners[0].port, &listeners[0].forwards_to[..]),
        (6443, &[group.clone()][..])
    );
    let groups = aws.target_groups_of(&balancer, SOON).await.unwrap();
    assert_eq!(
        groups,
        aws.target_groups(std::slice::from_ref(&group), SOON)
            .await
            .unwrap()
    );
    let check = &groups[0].health_check;
    assert_eq!(
        (check.protocol.as_str(), check.path.as_deref()),
        ("HTTPS", Some("/readyz"))
    );
    assert_eq!(check.interval, Duration::from_secs(5));
    let attributes = aws.target_group_attributes(&group, SOON).await.unwrap();
    assert_eq!(attributes["preserve_client_ip.enabled"], "false");

    let ids = moto.instances();
    let absent = "i-00000000000000000";
    let asked = [&ids[..], &[absent]].concat();
    let mut instances = aws.instances(&asked, SOON).await.unwrap();
    instances.sort_by(|a, b| a.zone.cmp(&b.zone));
    assert_eq!(instances.len(), 3, "one of the four does not exist");
    assert_eq!(instances[0].id, ids[0]);
    assert_eq!(instances[0].state, InstanceState::Running);
    assert_eq!(instances[0].tags["Name"], "cp-1");
    assert_eq!(instances[0].address, Some(Ipv4Addr::new(10, 0, 0, 4)));
    assert_eq!(instances[2].zone, "eu-central-1c");

    let rules = aws
        .security_group_rules(&[moto.text("group")], SOON)
        .await
        .unwrap();
    let mut admitted: Vec<_> = rules
        .iter()
        .filter(|rule| rule.direction == Direction::In)
        .map(|rule| (rule.ports, rule.peer.clone()))
        .collect();
    admitted.sort();
    assert_eq!(
        admitted,
        [
            (
                Some((2379, 2380)),
                Peer::Group(moto.text("group").to_owned())
            ),
            (Some((6443, 6443)), Peer::Ipv4("10.0.0.0/16".to_owned()))
        ]
    );

    let targets: Vec<Target> = ids
        .iter()
        .map(|id| Target {
            id: (*id).to_owned(),
            port: None,
        })
        .collect();
    let registered = async || {
        let health = aws.target_health(&group, SOON).await.unwrap();
        assert!(health.iter().all(|target| target.port == 6443));
        assert!(
            health
                .iter()
                .all(|target| target.state == TargetState::Healthy)
        );
        let mut ids: Vec<String> = health.into_iter().map(|target| target.id).collect();
        ids.sort();
        ids
    };
    assert!(registered().await.is_empty());
    for _ in 0..2 {
        aws.register_targets(&group, &targets, SOON).await.unwrap();
    }
    let mut all: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    all.sort();
    assert_eq!(registered().await, all);
    aws.deregister_targets(&group, &targets[..1], SOON)
        .await
        .unwrap();
    assert_eq!(registered().await.len(), 2);

    let nowhere: Arn = group.as_str().replace("demo-api", "other").parse().unwrap();
    let err = aws.target_health(&nowhere, SOON).await.unwrap_err();
    assert_eq!(err.code(), Some("TargetGroupNotFound"), "{err}");
}
