//! A load balancer that is there, judged as the endpoint of a control plane. Start at [`lint`]; [`look`] asks AWS.

use std::{collections::BTreeMap, time::Duration};

use quorate_aws::{
    Arn, Aws, AwsError, Direction, Listener, LoadBalancer, Peer, Rule, TargetGroup, TargetHealth,
    TargetState,
};

use crate::{Code, Finding};

/// The API server's port, which never moves.
const API: u16 = 6443;

/// The slowest check that is not worth a word: a dead master is out after two of them.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The longest that connections of a master that leaves may be given: API requests last at most a minute.
const DRAIN_MAX_S: u64 = 120;

/// Attributes of a thing, as AWS calls them.
pub type Attributes = BTreeMap<String, String>;

/// A load balancer with everything that is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// Itself.
    pub balancer: LoadBalancer,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Target groups that it forwards to.
    pub groups: Vec<Group>,
    /// Rules of its security groups.
    pub rules: Vec<Rule>,
}

/// A target group with its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Itself.
    pub group: TargetGroup,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its targets.
    pub targets: Vec<TargetHealth>,
}

/// Asks AWS for everything that is judged. `within` is for each call.
///
/// # Errors
/// See [`AwsError`].
pub async fn look(aws: &Aws, arn: &Arn, within: Duration) -> Result<Option<Balancer>, AwsError> {
    let found = aws
        .load_balancers(std::slice::from_ref(arn), within)
        .await?;
    let Some(balancer) = found.into_iter().next() else {
        return Ok(None);
    };
    let attributes = aws.load_balancer_attributes(arn, within).await?;
    let listeners = aws.listeners(arn, within).await?;
    let mut groups = Vec::new();
    for group in aws.target_groups_of(arn, within).await? {
        groups.push(Group {
            attributes: aws.target_group_attributes(&group.arn, within).await?,
            targets: aws.target_health(&group.arn, within).await?,
            group,
        });
    }
    let rules = match balancer.security_groups.as_slice() {
        [] => Vec::new(),
        groups => aws.security_group_rules(groups, within).await?,
    };
    Ok(Some(Balancer {
        balancer,
        attributes,
        listeners,
        groups,
        rules,
    }))
}

/// Judges it.
pub fn lint(seen: &Balancer) -> Vec<Finding> {
    let mut findings = Vec::new();
    let about = seen.balancer.arn.as_str();
    if seen.balancer.kind != "network" {
        findings.push(Finding::error(
            Code::NlbKind,
            about,
            format!("its type is `{}`", seen.balancer.kind),
        ));
        // Nothing else means the same for another kind.
        return findings;
    }
    zones(seen, &mut findings);
    let serving = listeners(seen, &mut findings);
    access(seen, &serving, &mut findings);
    for group in &seen.groups {
        let api = serving
            .iter()
            .any(|listener| listener.forwards_to.contains(&group.group.arn));
        if api {
            target_group(seen, group, &mut findings);
        }
    }
    findings
}

fn zones(seen: &Balancer, findings: &mut Vec<Finding>) {
    if let [] | [_] = seen.balancer.zones.as_slice() {
        let names: Vec<&str> = seen
            .balancer
            .zones
            .iter()
            .map(|zone| zone.name.as_str())
            .collect();
        findings.push(Finding::error(
            Code::NlbOneZone,
            seen.balancer.arn.as_str(),
            format!("its zones: {}", names.join(", ")),
        ));
    }
}

/// The listeners of the API: those on its port or with a target group on it; of a balancer with none of these, all.
fn listeners<'a>(seen: &'a Balancer, findings: &mut Vec<Finding>) -> Vec<&'a Listener> {
    let to_api = |listener: &&Listener| {
        listener.port == API
            || seen.groups.iter().any(|group| {
                group.group.port == API && listener.forwards_to.contains(&group.group.arn)
            })
    };
    let mut serving: Vec<&Listener> = seen.listeners.iter().filter(to_api).collect();
    if serving.is_empty() {
        serving = seen.listeners.iter().collect();
    }
    if serving.is_empty() {
        findings.push(Finding::error(
            Code::NlbListener,
            seen.balancer.arn.as_str(),
            "it has no listener",
        ));
    }
    for listener in &serving {
        let about = listener.arn.as_str();
        if listener.protocol != "TCP" {
            findings.push(Finding::error(
                Code::NlbListener,
                about,
                format!(
                    "its protocol is {} on port {}",
                    listener.protocol, listener.port
                ),
            ));
        } else if listener.forwards_to.is_empty() {
            findings.push(Finding::error(
                Code::NlbListener,
                about,
                "it forwards to no target group",
            ));
        }
    }
    serving
}

fn access(seen: &Balancer, serving: &[&Listener], findings: &mut Vec<Finding>) {
    let about = seen.balancer.arn.as_str();
    if seen.balancer.security_groups.is_empty() {
        let seen_ = "it has none";
        findings.push(match seen.balancer.internal {
            true => Finding::warning(Code::NlbNoGroup, about, seen_),
            false => Finding::error(Code::NlbNoGroup, about, seen_),
        });
    }
    for rule in &seen.rules {
        let world = match &rule.peer {
            Peer::Ipv4(network) => network == "0.0.0.0/0",
            Peer::Ipv6(network) => network == "::/0",
            Peer::PrefixList(_) | Peer::Group(_) => false,
        };
        let tcp = matches!(rule.protocol.as_str(), "-1" | "tcp" | "6");
        let covers = |port: u16| {
            rule.ports
                .is_none_or(|(first, last)| (first..=last).contains(&port))
        };
        let open = rule.direction == Direction::In
            && world
            && tcp
            && serving.iter().any(|listener| covers(listener.port));
        if open {
            let about = format!("{} of {}", rule.id, rule.group_id);
            let what = "it lets everybody in to the API's port";
            findings.push(match seen.balancer.internal {
                true => Finding::warning(Code::NlbOpen, about, what),
                false => Finding::error(Code::NlbOpen, about, what),
            });
        }
    }
}

fn target_group(seen: &Balancer, group: &Group, findings: &mut Vec<Finding>) {
    let about = group.group.arn.as_str();
    let is = |key: &str| group.attributes.get(key).map(String::as_str);
    if group.group.protocol != "TCP" {
        findings.push(Finding::error(
            Code::NlbListener,
            about,
            format!("its protocol is {}", group.group.protocol),
        ));
    }
    // By instance id it is on unless told otherwise; by address, off.
    let preserved = match is("preserve_client_ip.enabled") {
        Some(word) => word != "false",
        None => group.group.target_type == "instance",
    };
    if preserved {
        let targets = &group.group.target_type;
        findings.push(Finding::error(
            Code::NlbHairpin,
            about,
            format!("preserve_client_ip.enabled is on, for targets by {targets}"),
        ));
    }
    health_check(group, findings);
    let cross_zone = "load_balancing.cross_zone.enabled";
    let across = match is(cross_zone) {
        Some("true") => true,
        Some("false") => false,
        // As the balancer has it.
        Some(_) | None => seen.attributes.get(cross_zone).map(String::as_str) == Some("true"),
    };
    if !across {
        findings.push(Finding::error(
            Code::NlbCrossZone,
            about,
            format!("{cross_zone} is off"),
        ));
    }
    draining(group, findings);
    targets(group, findings);
}

fn health_check(group: &Group, findings: &mut Vec<Finding>) {
    let about = group.group.arn.as_str();
    let check = &group.group.health_check;
    let port = check.port == "traffic-port" || check.port == group.group.port.to_string();
    let path = check.path.as_deref().unwrap_or_default();
    let asks = check.enabled && check.protocol == "HTTPS" && path == "/readyz" && port;
    let code = check.codes.as_deref().is_none_or(|codes| codes == "200");
    if !asks || !code {
        findings.push(Finding::error(
            Code::NlbHealthCheck,
            about,
            match check.enabled {
                true => format!(
                    "{} {path} on {}, codes {}",
                    check.protocol,
                    check.port,
                    check.codes.as_deref().unwrap_or("of its own")
                ),
                false => "nothing is checked".to_owned(),
            },
        ));
    }
    if check.enabled && (check.interval > INTERVAL_MAX || check.unhealthy_threshold > 2) {
        let (interval, threshold) = (check.interval.as_secs(), check.unhealthy_threshold);
        findings.push(Finding::warning(
            Code::NlbSlowCheck,
            about,
            format!("every {interval} s, out after {threshold} checks"),
        ));
    }
}

fn draining(group: &Group, findings: &mut Vec<Finding>) {
    let about = group.group.arn.as_str();
    let is = |key: &str| group.attributes.get(key).map(String::as_str);
    let mut seen = Vec::new();
    let leaving = "deregistration_delay.connection_termination.enabled";
    if is(leaving) != Some("true") {
        seen.push(format!("{leaving} is off"));
    }
    let dead = "target_health_state.unhealthy.connection_termination.enabled";
    if is(dead).is_some_and(|word| word != "true") {
        seen.push(format!("{dead} is off"));
    }
    if !seen.is_empty() {
        findings.push(Finding::error(Code::NlbDraining, about, seen.join(", ")));
    }
    let delay =
        is("deregistration_delay.timeout_seconds").and_then(|text| text.parse::<u64>().ok());
    // 300 where nobody said another.
    let delay = delay.unwrap_or(300);
    if delay > DRAIN_MAX_S {
        findings.push(Finding::warning(
            Code::NlbDraining,
            about,
            format!("connections are given {delay} s"),
        ));
    }
}

fn targets(group: &Group, findings: &mut Vec<Finding>) {
    let about = group.group.arn.as_str();
    let sick: Vec<String> = group
        .targets
        .iter()
        .filter(|target| match target.state {
            TargetState::Unhealthy
            | TargetState::UnhealthyDraining
            | TargetState::Unused
            | TargetState::Unavailable
            | TargetState::Other(_) => true,
            TargetState::Initial | TargetState::Healthy | TargetState::Draining => false,
        })
        .map(|target| match &target.reason {
            Some(reason) => format!("{} is {} ({reason})", target.id, target.state),
            None => format!("{} is {}", target.id, target.state),
        })
        .collect();
    if sick.is_empty() {
        return;
    }
    let healthy = group
        .targets
        .iter()
        .any(|target| target.state == TargetState::Healthy);
    findings.push(match healthy {
        true => Finding::warning(Code::NlbUnready, about, sick.join(", ")),
        false => Finding::error(
            Code::NlbUnready,
            about,
            format!(
                "{}; none is healthy, so all of them get traffic",
                sick.join(", ")
            ),
        ),
    });
}
