//! What a plan of Terraform would cost a control plane. Start at [`lint`].
//!
//! Terraform's own words mislead twice: an "update in place" may stop a machine, and a "replacement" of a master is a voter of etcd that
//! never answers again. A plan is judged by what it does to masters, to the way to port 6443 and to the balancer; everything else is none of
//! this lint's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use quorate_plan::{
    Change, MemberId, NodeName, Observation, Quorum, Seen, Spec, observation::EtcdView, permit,
    spec::Role,
};
use serde_json::Value;

use crate::{Action, Code, Finding, Resource, TerraformPlan};

/// The API server's port, which never moves.
const API: u16 = 6443;

/// Attributes whose change stops a machine, though Terraform calls it an update in place.
const STOPPING: [&str; 4] = [
    "instance_type",
    "user_data",
    "user_data_base64",
    "ebs_optimized",
];

/// A cluster that was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    /// Its file.
    pub spec: &'a Spec,
    /// What was seen, just now.
    pub seen: &'a Observation,
}

/// Reads a plan. With a cluster that was looked at, machines are known by their addresses, and what happens to one master is judged by the
/// quorum guard; without, it is always an error. Findings are in the order of the plan, those about several resources last.
pub fn lint(plan: &TerraformPlan, cluster: Option<Cluster<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let machines = Machines::of(plan, cluster);
    let mut touched = Vec::new();
    for resource in &plan.resources {
        match resource.kind.as_str() {
            "aws_instance" => machine(resource, &machines, &mut findings, &mut touched),
            "aws_ec2_instance_state" => state(resource, &machines, &mut findings, &mut touched),
            "aws_ebs_volume" | "aws_volume_attachment" => {
                disk(resource, &machines, &mut findings);
            }
            "aws_lb"
            | "aws_alb"
            | "aws_lb_listener"
            | "aws_alb_listener"
            | "aws_lb_target_group"
            | "aws_alb_target_group"
                if resource.goes() && of_api(plan, resource) =>
            {
                findings.push(lost(Code::EndpointLost, resource, done(resource)));
            }
            "aws_lb_target_group_attachment" | "aws_alb_target_group_attachment" => {
                attachment(plan, resource, &mut findings);
            }
            _ => {}
        }
    }
    touched.sort_unstable();
    touched.dedup();
    if touched.len() > 1 {
        findings.push(Finding::error(
            Code::MastersTogether,
            touched.join(", "),
            format!(
                "{} masters are destroyed, replaced or stopped",
                touched.len()
            ),
        ));
    }
    rules(plan, &mut findings);
    findings
}

/// `is destroyed`, as a sentence.
fn done(resource: &Resource) -> String {
    match resource.action {
        Action::Destroy => "it is destroyed".to_owned(),
        Action::Replace if resource.tainted => {
            "it is marked as tainted, and would be destroyed for another one".to_owned()
        }
        Action::Replace => "it is destroyed, and another one is made".to_owned(),
        Action::Update => "it is changed".to_owned(),
        Action::Keep | Action::Create | Action::Forget => "it stays".to_owned(),
    }
}

/// Something that goes. What is only marked, as after an apply that was interrupted, may be whole.
fn lost(code: Code, resource: &Resource, seen: String) -> Finding {
    let mut finding = Finding::error(code, &resource.address, seen);
    if resource.tainted {
        finding.fix = format!(
            "look whether it is whole: then `terraform untaint '{}'` keeps it, and plan again; where it is not, {}",
            resource.address, finding.fix
        );
    }
    finding
}

/// What a machine is.
enum Kind {
    Master(Option<NodeName>),
    Other,
    Unknown,
}

/// Who is who.
struct Machines<'a> {
    cluster: Option<Cluster<'a>>,
    /// Machines of the plan by their instance ids.
    by_id: BTreeMap<&'a str, &'a Resource>,
}

impl<'a> Machines<'a> {
    fn of(plan: &'a TerraformPlan, cluster: Option<Cluster<'a>>) -> Self {
        let by_id = plan
            .resources
            .iter()
            .filter(|resource| resource.kind == "aws_instance")
            .filter_map(|resource| Some((resource.was("id")?, resource)))
            .collect();
        Self { cluster, by_id }
    }

    /// By its address in the cluster file, else by its tag, else by what somebody called it.
    fn kind(&self, resource: &Resource) -> Kind {
        let tagged = resource.tag("quorate/role");
        let node = || {
            resource
                .tag("quorate/node")
                .and_then(|name| name.parse().ok())
        };
        if let Some(cluster) = self.cluster
            && let Some(address) = address(resource)
        {
            let found = cluster
                .spec
                .machines()
                .find(|(_, machine, _)| machine.address == address);
            return match found {
                Some((name, _, Role::ControlPlane)) => Kind::Master(Some(name.clone())),
                Some((_, _, Role::Worker | Role::Balancer)) => Kind::Other,
                // It left the file, or never was in it.
                None if tagged == Some("master") => Kind::Master(node()),
                None => match member(cluster.seen, address) {
                    Ok(None) => Kind::Other,
                    Ok(Some(_)) => Kind::Master(node()),
                    // Whoever it is, nobody could say whether it votes.
                    Err(_) => Self::called(resource),
                },
            };
        }
        Self::called(resource)
    }

    /// By its tag, else by what somebody called it.
    fn called(resource: &Resource) -> Kind {
        let node = || {
            resource
                .tag("quorate/node")
                .and_then(|name| name.parse().ok())
        };
        match resource.tag("quorate/role") {
            Some("master") => return Kind::Master(node()),
            Some(_) => return Kind::Other,
            None => {}
        }
        let called = resource.name.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| called.contains(word));
        if has(&["master", "control"]) {
            Kind::Master(node())
        } else if has(&["worker", "bastion"]) {
            Kind::Other
        } else {
            Kind::Unknown
        }
    }

    /// What the quorum guard says to a master that stops for a while. `None`: nobody can be asked.
    fn interruption(&self, node: Option<&NodeName>) -> Option<Result<String, String>> {
        let seen = self.cluster?.seen;
        let Some(node) = node else {
            return Some(Err("its node is not in the cluster file".to_owned()));
        };
        let change = Change::Interrupt { node: node.clone() };
        Some(match permit(seen, &change, &BTreeSet::new()) {
            Ok(_) => Ok(format!(
                "the other masters keep the majority without {node}"
            )),
            Err(refusal) => Err(format!(
                "the quorum guard refuses ({}): {refusal}",
                refusal.code()
            )),
        })
    }

    /// Whether a master's machine may end: the cluster does not have it as a member any more. `None`: nobody can be asked.
    fn end(&self, node: Option<&NodeName>, address: Option<IpAddr>) -> Option<Result<(), String>> {
        let seen = self.cluster?.seen;
        let Some(address) = address else {
            return Some(Err("the plan does not tell its address".to_owned()));
        };
        Some(match member(seen, address) {
            Ok(Some(id)) => Err(format!("{address} is member {id} of etcd")),
            Ok(None) if seen.etcd.values().any(runs) || self.looked_at(node, address) => Ok(()),
            // No etcd was seen anywhere; the only one may be there.
            Ok(None) => Err(format!(
                "nobody looked at {address}, which may run an etcd of its own"
            )),
            Err(why) => Err(why),
        })
    }

    /// Whether a host is among those that a look asks.
    fn looked_at(&self, node: Option<&NodeName>, address: IpAddr) -> bool {
        self.cluster.is_some_and(|Cluster { spec, seen }| {
            let mut machines = spec.machines();
            machines.any(|(_, machine, _)| machine.address == address)
                || node.is_some_and(|node| seen.etcd.contains_key(node))
        })
    }
}

fn runs(etcd: &Seen<Option<EtcdView>>) -> bool {
    etcd.get().is_ok_and(Option::is_some)
}

/// Which member of etcd is at an address, or comes there: by its URLs, never by a name.
fn member(seen: &Observation, address: IpAddr) -> Result<Option<MemberId>, String> {
    let quorum = match Quorum::of(seen) {
        Ok(Some(quorum)) => quorum,
        // Every host that was looked at is known to run no etcd.
        Ok(None) => return Ok(None),
        Err(missing) => return Err(format!("the members of etcd are not known: {missing}")),
    };
    let mut by_name = None;
    for (id, member) in &quorum.members {
        for url in member.peer_urls.iter().chain(&member.client_urls) {
            match host(url) {
                Some(at) if at == address => return Ok(Some(*id)),
                Some(_) => {}
                None => {
                    by_name.get_or_insert((id, url));
                }
            }
        }
    }
    match by_name {
        None => Ok(None),
        Some((id, url)) => Err(format!(
            "member {id} of etcd is reached at {url}, which is no address"
        )),
    }
}

/// `10.0.0.11` of `https://10.0.0.11:2380`.
fn host(url: &str) -> Option<IpAddr> {
    let (_, authority) = url.split_once("://")?;
    let authority = authority.split('/').next().unwrap_or_default();
    let socket: Result<SocketAddr, _> = authority.parse();
    match socket {
        Ok(socket) => Some(socket.ip()),
        Err(_) => authority.trim_matches(['[', ']']).parse().ok(),
    }
}

fn address(resource: &Resource) -> Option<IpAddr> {
    resource.was("private_ip")?.parse().ok()
}

fn machine(
    resource: &Resource,
    machines: &Machines<'_>,
    findings: &mut Vec<Finding>,
    touched: &mut Vec<String>,
) {
    let about = &resource.address;
    let stops: Vec<&str> = match resource.action {
        Action::Update => STOPPING
            .into_iter()
            .filter(|key| resource.changes(key))
            .collect(),
        Action::Keep | Action::Create | Action::Destroy | Action::Replace | Action::Forget => {
            Vec::new()
        }
    };
    let node = match machines.kind(resource) {
        Kind::Master(node) => node,
        Kind::Other => return,
        Kind::Unknown => {
            if resource.goes() || !stops.is_empty() {
                let seen = match stops.is_empty() {
                    true => done(resource),
                    false => format!("{} changes, which stops it", stops.join(", ")),
                };
                findings.push(Finding::error(Code::MachineUnknown, about, seen));
            }
            return;
        }
    };
    if resource.goes() {
        let code = match resource.action {
            Action::Replace => Code::MasterReplaced,
            Action::Keep | Action::Create | Action::Update | Action::Destroy | Action::Forget => {
                Code::MasterDestroyed
            }
        };
        match machines.end(node.as_ref(), address(resource)) {
            Some(Ok(())) => return,
            Some(Err(why)) => {
                let seen = format!("{}; {why}", done(resource));
                findings.push(lost(code, resource, seen));
            }
            None => findings.push(lost(code, resource, done(resource))),
        }
        touched.push(about.clone());
        return;
    }
    if !stops.is_empty() {
        let seen = format!("{} changes, which stops the machine", stops.join(", "));
        stopped(about, &seen, node.as_ref(), machines, findings);
        touched.push(about.clone());
    }
    if resource.action != Action::Update {
        return;
    }
    let protected =
        |value: &Value| value.get("disable_api_termination") == Some(&Value::Bool(true));
    if protected(&resource.before) && !protected(&resource.after) {
        findings.push(Finding::warning(
            Code::ProtectionLifted,
            about,
            "disable_api_termination is turned off",
        ));
    }
    let groups = |value: &Value| -> BTreeSet<String> { texts(value.get("vpc_security_group_ids")) };
    // Groups that are made by this plan have no id yet; those that go have.
    let gone: Vec<String> = groups(&resource.before)
        .difference(&groups(&resource.after))
        .cloned()
        .collect();
    if !gone.is_empty() && resource.after.get("vpc_security_group_ids").is_some() {
        findings.push(Finding::error(
            Code::ApiRuleRemoved,
            about,
            format!("{} is taken from a master", gone.join(", ")),
        ));
    }
}

fn stopped(
    about: &str,
    seen: &str,
    node: Option<&NodeName>,
    machines: &Machines<'_>,
    findings: &mut Vec<Finding>,
) {
    findings.push(match machines.interruption(node) {
        Some(Ok(why)) => Finding::warning(Code::MasterStopped, about, format!("{seen}; {why}")),
        Some(Err(why)) => Finding::error(Code::MasterStopped, about, format!("{seen}; {why}")),
        None => Finding::error(Code::MasterStopped, about, seen),
    });
}

/// A resource that is nothing but whether a machine runs.
fn state(
    resource: &Resource,
    machines: &Machines<'_>,
    findings: &mut Vec<Finding>,
    touched: &mut Vec<String>,
) {
    let stops = match resource.action {
        Action::Create | Action::Update => {
            resource.after.get("state").and_then(Value::as_str) == Some("stopped")
        }
        Action::Keep | Action::Destroy | Action::Replace | Action::Forget => false,
    };
    let id = resource.after.get("instance_id").and_then(Value::as_str);
    if !stops {
        return;
    }
    let about = &resource.address;
    match id.and_then(|id| machines.by_id.get(id)) {
        Some(machine) => match machines.kind(machine) {
            Kind::Master(node) => {
                stopped(
                    about,
                    "it stops the machine",
                    node.as_ref(),
                    machines,
                    findings,
                );
                touched.push(machine.address.clone());
            }
            Kind::Other => {}
            Kind::Unknown => findings.push(Finding::error(
                Code::MachineUnknown,
                about,
                "it stops the machine",
            )),
        },
        None => findings.push(Finding::error(
            Code::MachineUnknown,
            about,
            "it stops a machine that is not in the plan",
        )),
    }
}

/// etcd's own volume, which is a master's by its tag or by where it is attached.
fn disk(resource: &Resource, machines: &Machines<'_>, findings: &mut Vec<Finding>) {
    if !resource.goes() {
        return;
    }
    let holder = match resource.was("instance_id") {
        Some(id) => machines.by_id.get(id).copied(),
        None => {
            let node = resource.tag("quorate/node");
            machines
                .by_id
                .values()
                .copied()
                .find(|machine| node.is_some() && machine.tag("quorate/node") == node)
        }
    };
    // With its machine it goes as that does, and was judged there.
    let Some(holder) = holder.filter(|holder| !holder.goes()) else {
        return;
    };
    match machines.kind(holder) {
        Kind::Master(node) => {
            if let Some(Ok(())) = machines.end(node.as_ref(), address(holder)) {
                return;
            }
            findings.push(Finding::error(
                Code::EtcdDiskLost,
                &resource.address,
                format!("{}; its machine is {}", done(resource), holder.address),
            ));
        }
        Kind::Other | Kind::Unknown => {}
    }
}

/// Whether a balancer, a listener or a target group is the API's: by its port, and a balancer by its listeners. A network balancer whose
/// listeners the plan does not have may be.
fn of_api(plan: &TerraformPlan, resource: &Resource) -> bool {
    let port = |resource: &Resource| resource.before.get("port").and_then(Value::as_u64);
    if !matches!(resource.kind.as_str(), "aws_lb" | "aws_alb") {
        return port(resource) == Some(u64::from(API));
    }
    if resource.was("load_balancer_type") != Some("network") {
        return false;
    }
    let mut listeners = plan
        .resources
        .iter()
        .filter(|other| matches!(other.kind.as_str(), "aws_lb_listener" | "aws_alb_listener"))
        .filter(|other| {
            resource.was("arn").is_some() && other.was("load_balancer_arn") == resource.was("arn")
        })
        .peekable();
    listeners.peek().is_none() || listeners.any(|listener| port(listener) == Some(u64::from(API)))
}

fn attachment(plan: &TerraformPlan, resource: &Resource, findings: &mut Vec<Finding>) {
    let seen = match resource.action {
        Action::Create | Action::Replace => "it registers a target",
        Action::Keep | Action::Update => "Terraform owns a target",
        Action::Destroy | Action::Forget => return,
    };
    let group = resource
        .after
        .get("target_group_arn")
        .and_then(Value::as_str);
    let known = |arn: &str| {
        plan.resources
            .iter()
            .filter(|other| other.kind.ends_with("_target_group"))
            .find(|other| other.was("arn") == Some(arn))
    };
    let api = match group {
        Some(arn) => known(arn).is_none_or(|group| of_api(plan, group)),
        // Of a group that is made in the same plan: by the port that it registers, or any.
        None => resource
            .after
            .get("port")
            .and_then(Value::as_u64)
            .is_none_or(|port| port == u64::from(API)),
    };
    if api {
        findings.push(Finding::error(Code::TargetsOwned, &resource.address, seen));
    }
}

/// Who may reach port 6443 by a rule before and may not afterwards.
fn rules(plan: &TerraformPlan, findings: &mut Vec<Finding>) {
    let mut after = BTreeSet::new();
    for resource in &plan.resources {
        after.extend(admitted(resource, &resource.after));
    }
    for resource in &plan.resources {
        match resource.action {
            Action::Update | Action::Destroy | Action::Replace => {}
            Action::Keep | Action::Create | Action::Forget => continue,
        }
        let gone: BTreeSet<String> = admitted(resource, &resource.before)
            .into_iter()
            .filter(|way| !after.contains(way))
            .map(|(_, peer)| peer)
            .collect();
        if !gone.is_empty() {
            let gone: Vec<String> = gone.into_iter().collect();
            findings.push(Finding::error(
                Code::ApiRuleRemoved,
                &resource.address,
                format!("port {API} is not open to {} any more", gone.join(", ")),
            ));
        }
    }
}

/// Group and source of every rule of a resource that lets in to the API's port.
fn admitted(resource: &Resource, values: &Value) -> BTreeSet<(String, String)> {
    let text = |key: &str| values.get(key).and_then(Value::as_str);
    let group = |key: &str| text(key).unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    match resource.kind.as_str() {
        "aws_vpc_security_group_ingress_rule" if covers(values, "ip_protocol") => {
            let peer = [
                "cidr_ipv4",
                "cidr_ipv6",
                "prefix_list_id",
                "referenced_security_group_id",
            ];
            for peer in peer.iter().filter_map(|key| text(key)) {
                found.insert((group("security_group_id"), peer.to_owned()));
            }
        }
        "aws_security_group_rule"
            if text("type") == Some("ingress") && covers(values, "protocol") =>
        {
            let group = group("security_group_id");
            found.extend(peers(values, &group));
        }
        "aws_security_group" => {
            let group = group("id");
            let lists = values.get("ingress").and_then(Value::as_array);
            for rule in lists.into_iter().flatten() {
                if covers(rule, "protocol") {
                    found.extend(peers(rule, &group));
                }
            }
        }
        _ => {}
    }
    found
}

/// Sources of a rule that has lists of them.
fn peers(rule: &Value, group: &str) -> BTreeSet<(String, String)> {
    let keys = [
        "cidr_blocks",
        "ipv6_cidr_blocks",
        "prefix_list_ids",
        "security_groups",
    ];
    let mut all: BTreeSet<String> = keys.iter().flat_map(|key| texts(rule.get(key))).collect();
    let one = rule.get("source_security_group_id").and_then(Value::as_str);
    all.extend(one.map(str::to_owned));
    if rule.get("self") == Some(&Value::Bool(true)) {
        all.insert(group.to_owned());
    }
    all.into_iter()
        .map(|peer| (group.to_owned(), peer))
        .collect()
}

fn covers(rule: &Value, protocol: &str) -> bool {
    let port = |key: &str| rule.get(key).and_then(Value::as_i64);
    match rule.get(protocol).and_then(Value::as_str) {
        Some("-1" | "all") => true,
        Some("tcp" | "6") => match (port("from_port"), port("to_port")) {
            (Some(first), Some(last)) => (first..=last).contains(&i64::from(API)),
            (Some(_) | None, _) => false,
        },
        Some(_) | None => false,
    }
}

fn texts(value: Option<&Value>) -> BTreeSet<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
