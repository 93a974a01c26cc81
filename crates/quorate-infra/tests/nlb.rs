//! Load balancers as AWS tells of them, judged: one that is right, and every way to be wrong, one at a time.

use std::time::Duration;

use quorate_aws::{
    Arn, Direction, HealthCheck, Listener, LoadBalancer, Peer, Rule, TargetGroup, TargetHealth,
    TargetState, Zone,
};
use quorate_infra::{
    Code, Severity,
    nlb::{Balancer, Group, lint},
};

fn arn(thing: &str) -> Arn {
    format!("arn:aws:elasticloadbalancing:eu-central-1:123456789012:{thing}")
        .parse()
        .expect("an ARN")
}

fn attributes(pairs: &[(&str, &str)]) -> quorate_infra::nlb::Attributes {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// As the modules make it.
fn right() -> Balancer {
    let group = arn("targetgroup/demo-api/01");
    let zone = |name: &str| Zone {
        name: name.to_owned(),
        subnet_id: format!("subnet-{name}"),
        addresses: Vec::new(),
    };
    Balancer {
        balancer: LoadBalancer {
            arn: arn("loadbalancer/net/demo-api/01"),
            name: "demo-api".to_owned(),
            kind: "network".to_owned(),
            internal: true,
            dns_name: "demo-api-01.elb.eu-central-1.amazonaws.com".to_owned(),
            zone_id: None,
            state: "active".to_owned(),
            vpc_id: "vpc-01".to_owned(),
            security_groups: vec!["sg-01".to_owned()],
            zones: vec![zone("eu-central-1a"), zone("eu-central-1b")],
        },
        attributes: attributes(&[("load_balancing.cross_zone.enabled", "true")]),
        listeners: vec![Listener {
            arn: arn("listener/net/demo-api/01/01"),
            port: 6443,
            protocol: "TCP".to_owned(),
            forwards_to: vec![group.clone()],
        }],
        groups: vec![Group {
            group: TargetGroup {
                arn: group,
                name: "demo-api".to_owned(),
                protocol: "TCP".to_owned(),
                port: 6443,
                vpc_id: "vpc-01".to_owned(),
                target_type: "instance".to_owned(),
                health_check: HealthCheck {
                    enabled: true,
                    protocol: "HTTPS".to_owned(),
                    port: "traffic-port".to_owned(),
                    path: Some("/readyz".to_owned()),
                    codes: Some("200".to_owned()),
                    interval: Duration::from_secs(5),
                    timeout: Duration::from_secs(4),
                    healthy_threshold: 2,
                    unhealthy_threshold: 2,
                },
                load_balancers: Vec::new(),
            },
            attributes: attributes(&[
                ("preserve_client_ip.enabled", "false"),
                ("deregistration_delay.timeout_seconds", "90"),
                (
                    "deregistration_delay.connection_termination.enabled",
                    "true",
                ),
                (
                    "load_balancing.cross_zone.enabled",
                    "use_load_balancer_configuration",
                ),
            ]),
            targets: vec![target("i-01", TargetState::Healthy)],
        }],
        rules: vec![rule(Peer::Ipv4("10.0.0.0/16".to_owned()))],
    }
}

fn target(id: &str, state: TargetState) -> TargetHealth {
    TargetHealth {
        id: id.to_owned(),
        port: 6443,
        state,
        reason: None,
        description: None,
    }
}

fn rule(peer: Peer) -> Rule {
    Rule {
        id: "sgr-01".to_owned(),
        group_id: "sg-01".to_owned(),
        direction: Direction::In,
        protocol: "tcp".to_owned(),
        ports: Some((6443, 6443)),
        peer,
        description: None,
    }
}

/// What is found when that is different.
fn with(change: impl FnOnce(&mut Balancer)) -> Vec<(Code, Severity)> {
    let mut balancer = right();
    change(&mut balancer);
    lint(&balancer)
        .into_iter()
        .map(|finding| (finding.code, finding.severity))
        .collect()
}

const ERROR: Severity = Severity::Error;
const WARNING: Severity = Severity::Warning;

fn set(group: &mut Group, key: &str, value: &str) {
    group.attributes.insert(key.to_owned(), value.to_owned());
}

#[test]
fn what_the_modules_make_is_right() {
    assert_eq!(lint(&right()), []);
}

#[test]
fn kinds_and_listeners() {
    assert_eq!(
        with(|b| b.balancer.kind = "application".to_owned()),
        [(Code::NlbKind, ERROR)]
    );
    assert_eq!(
        with(|b| b.listeners[0].protocol = "TLS".to_owned()),
        [(Code::NlbListener, ERROR)]
    );
    assert_eq!(with(|b| b.listeners.clear()), [(Code::NlbListener, ERROR)]);
    assert_eq!(
        with(|b| b.listeners[0].forwards_to.clear()),
        [(Code::NlbListener, ERROR)]
    );
}

#[test]
fn a_master_must_reach_itself() {
    let missing = |b: &mut Balancer| {
        b.groups[0].attributes.remove("preserve_client_ip.enabled");
    };
    assert_eq!(
        with(|b| set(&mut b.groups[0], "preserve_client_ip.enabled", "true")),
        [(Code::NlbHairpin, ERROR)]
    );
    assert_eq!(with(missing), [(Code::NlbHairpin, ERROR)]);
    assert_eq!(
        with(|b| {
            missing(b);
            b.groups[0].group.target_type = "ip".to_owned();
        }),
        []
    );
}

#[test]
fn checks_ask_whether_a_master_is_ready() {
    type Change = fn(&mut HealthCheck);
    let wrong: [Change; 5] = [
        |check| check.protocol = "TCP".to_owned(),
        |check| check.path = Some("/livez".to_owned()),
        |check| check.path = None,
        |check| check.enabled = false,
        |check| check.port = "80".to_owned(),
    ];
    for change in wrong {
        assert_eq!(
            with(|b| change(&mut b.groups[0].group.health_check)),
            [(Code::NlbHealthCheck, ERROR)]
        );
    }
    assert_eq!(
        with(|b| b.groups[0].group.health_check.interval = Duration::from_secs(30)),
        [(Code::NlbSlowCheck, WARNING)]
    );
}

#[test]
fn zones() {
    assert_eq!(
        with(|b| b.attributes.clear()),
        [(Code::NlbCrossZone, ERROR)]
    );
    // The group's own word is stronger, both ways.
    let own = "load_balancing.cross_zone.enabled";
    assert_eq!(
        with(|b| set(&mut b.groups[0], own, "false")),
        [(Code::NlbCrossZone, ERROR)]
    );
    assert_eq!(
        with(|b| {
            b.attributes.clear();
            set(&mut b.groups[0], own, "true");
        }),
        []
    );
    assert_eq!(
        with(|b| b.balancer.zones.truncate(1)),
        [(Code::NlbOneZone, ERROR)]
    );
}

#[test]
fn who_may_come_in() {
    let world = || rule(Peer::Ipv4("0.0.0.0/0".to_owned()));
    assert_eq!(with(|b| b.rules.push(world())), [(Code::NlbOpen, WARNING)]);
    assert_eq!(
        with(|b| {
            b.balancer.internal = false;
            b.rules.push(world());
        }),
        [(Code::NlbOpen, ERROR)]
    );
    // Another port, or the way out.
    for (direction, ports) in [(Direction::In, (443, 443)), (Direction::Out, (0, 65535))] {
        assert_eq!(
            with(|b| b.rules.push(Rule {
                direction,
                ports: Some(ports),
                ..world()
            })),
            []
        );
    }
    assert_eq!(
        with(|b| {
            b.balancer.internal = false;
            b.balancer.security_groups.clear();
            b.rules.clear();
        }),
        [(Code::NlbNoGroup, ERROR)]
    );
}

#[test]
fn connections_end() {
    let leaving = "deregistration_delay.connection_termination.enabled";
    let dead = "target_health_state.unhealthy.connection_termination.enabled";
    for key in [leaving, dead] {
        assert_eq!(
            with(|b| set(&mut b.groups[0], key, "false")),
            [(Code::NlbDraining, ERROR)]
        );
    }
    assert_eq!(
        with(|b| set(
            &mut b.groups[0],
            "deregistration_delay.timeout_seconds",
            "300"
        )),
        [(Code::NlbDraining, WARNING)]
    );
}

#[test]
fn targets_serve() {
    let unhealthy = || target("i-02", TargetState::Unhealthy);
    assert_eq!(
        with(|b| b.groups[0].targets.push(unhealthy())),
        [(Code::NlbUnready, WARNING)]
    );
    assert_eq!(
        with(|b| b.groups[0].targets = vec![unhealthy()]),
        [(Code::NlbUnready, ERROR)]
    );
    assert_eq!(
        with(|b| b.groups[0]
            .targets
            .push(target("i-03", TargetState::Initial))),
        []
    );
    assert_eq!(with(|b| b.groups[0].targets.clear()), []);
}
