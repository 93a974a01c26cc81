//! The cluster as it was found: what `status` prints and what `apply` ends with. Start at [`text`].

use std::collections::BTreeSet;

use quorate_plan::{
    Intent, Missing, NodeName, Observation, Quorum,
    assessment::{Assessment, Health},
    observation::EtcdView,
    spec::{BalancerSpec, Role},
};
use serde::Serialize;

use super::{counted, harmless, plan::losses, size, table::Table};
use crate::{
    console::{Paint, Style},
    exit::Exit,
};

/// The exit code that says the same.
pub fn exit(health: Health) -> Exit {
    match health {
        Health::Healthy => Exit::Done,
        Health::Degraded => Exit::Degraded,
        Health::QuorumLost => Exit::QuorumLost,
        Health::Absent => Exit::Absent,
        Health::Unseen => Exit::Unseen,
    }
}

/// The object for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status<'a> {
    /// The cluster's name.
    pub cluster: String,
    /// `HOST:PORT`.
    pub endpoint: String,
    /// The judgement.
    pub assessment: &'a Assessment,
    /// Everything that was seen.
    pub observation: &'a Observation,
}

/// One word and what follows from it.
pub fn verdict(intent: &Intent, assessment: &Assessment, paint: Paint) -> String {
    let name = &intent.spec.name;
    let (style, word) = match assessment.health {
        Health::Healthy => (Style::Good, "healthy"),
        Health::Degraded => (Style::Warn, "degraded"),
        Health::QuorumLost => (Style::Bad, "quorum lost: no write is answered"),
        Health::Absent => (Style::Dim, "there is no cluster yet"),
        Health::Unseen => (Style::Bad, "it could not be seen"),
    };
    let mut out = format!(
        "{}: {}\n",
        paint.paint(Style::Bold, name),
        paint.paint(style, word)
    );
    let spec = &intent.spec;
    out += &format!(
        "  endpoint: {}, Kubernetes {}\n",
        spec.endpoint, spec.kubernetes
    );
    if let (Some(voters), Some(healthy)) = (assessment.voters, assessment.healthy_voters) {
        out += &format!("  etcd: {}, {healthy} healthy\n", counted(voters, "voter"));
    }
    if let Some(tolerance) = assessment.tolerance {
        out += &format!("  survives the loss of a master: {}\n", survives(tolerance));
    }
    match (assessment.survives_balancer_loss, &spec.balancer) {
        (Some(survives), _) => {
            let word = if survives { "yes" } else { "no" };
            out += &format!("  survives the loss of the balancer: {word}\n");
        }
        (None, BalancerSpec::External) => out += "  balancer: not quorate's\n",
        (None, BalancerSpec::Dns) => {
            out += "  balancer: none, the name has a record for every master\n"
        }
        (None, BalancerSpec::Nlb { .. }) => out += "  balancer: AWS's, its targets are quorate's\n",
        (None, BalancerSpec::Quorate { .. } | BalancerSpec::Shared { .. }) => {}
    }
    if let Some(shared) = &assessment.shared_address {
        let holders: Vec<&str> = shared.holders.iter().map(NodeName::as_str).collect();
        let held = match holders.as_slice() {
            [] => "held by no master that was seen".to_owned(),
            some => format!("held by {}", some.join(" and ")),
        };
        out += &format!("  shared address: {}, {held}\n", shared.address);
    }
    if let Some(expiry) = &assessment.nearest_expiry {
        out += &format!(
            "  first certificate to expire: {} on {}, in {} days\n",
            harmless(&expiry.file),
            expiry.node,
            expiry.days_left
        );
    }
    out
}

fn survives(tolerance: usize) -> String {
    match tolerance {
        0 => "no".to_owned(),
        n => format!("yes, {}", losses(n)),
    }
}

/// The whole status.
pub fn text(
    intent: &Intent,
    seen: &Observation,
    assessment: &Assessment,
    paint: Paint,
    columns: Option<usize>,
) -> String {
    let mut out = verdict(intent, assessment, paint);
    out.push('\n');
    out += &hosts(intent, seen).text(columns);
    if let Some(members) = members(seen) {
        out.push('\n');
        out += &members.text(columns);
    }
    out += &trouble(assessment, paint);
    out
}

/// Problems and what was not seen.
pub fn trouble(assessment: &Assessment, paint: Paint) -> String {
    let mut out = String::new();
    if !assessment.problems.is_empty() {
        out += &format!("\n{}\n", paint.paint(Style::Bold, "PROBLEMS"));
        for problem in &assessment.problems {
            out += &format!("  {}: {}\n", problem.on, harmless(&problem.what));
        }
    }
    if !assessment.unseen.is_empty() {
        out += &format!("\n{}\n", paint.paint(Style::Bold, "UNSEEN"));
        for missing in &assessment.unseen {
            out += &format!("  {}\n", harmless(&missing.to_string()));
        }
    }
    out
}

fn hosts(intent: &Intent, seen: &Observation) -> Table {
    let quorum = Quorum::of(seen);
    let mut table = Table::new(["HOST", "ROLE", "ADDRESS", "ETCD", "SERVES", "NODE"]);
    for (node, machine, role) in intent.spec.machines() {
        let peer_url = format!("https://{}:2380", machine.address);
        let (etcd, serves) = match role {
            Role::ControlPlane => (etcd(&quorum, &peer_url), apiserver(seen, node)),
            Role::Balancer => (dash(), balancer(seen, node)),
            Role::Worker => (dash(), dash()),
        };
        let object = match role {
            Role::ControlPlane | Role::Worker => object(seen, node),
            Role::Balancer => dash(),
        };
        table.row([
            node.to_string(),
            match role {
                Role::ControlPlane => "control plane".to_owned(),
                Role::Worker => "worker".to_owned(),
                Role::Balancer => "balancer".to_owned(),
            },
            machine.address.to_string(),
            etcd,
            serves,
            object,
        ]);
    }
    table
}

/// Every member of etcd, also those that the cluster file does not name, with what each tells of itself. `None`: no quorum tells who
/// the members are.
fn members(seen: &Observation) -> Option<Table> {
    let quorum = Quorum::of(seen).ok()??;
    let mut table = Table::new([
        "MEMBER", "NAME", "ROLE", "RAFT", "DB", "IN USE", "VERSION", "ALARMS",
    ]);
    let views: Vec<&EtcdView> = seen
        .etcd
        .values()
        .filter_map(|view| view.get().ok()?.as_ref())
        .collect();
    for (id, member) in &quorum.members {
        let role = if member.learner {
            "learner"
        } else if quorum.leader == Some(*id) {
            "leader"
        } else {
            "voter"
        };
        let name = if member.started() {
            harmless(&member.name)
        } else {
            "not started".to_owned()
        };
        let alarms: BTreeSet<&str> = views
            .iter()
            .flat_map(|view| &view.alarms)
            .filter(|(_, raised_by)| raised_by == id)
            .map(|(kind, _)| kind.as_str())
            .collect();
        let alarms = if alarms.is_empty() {
            "none".to_owned()
        } else {
            harmless(&alarms.into_iter().collect::<Vec<_>>().join(" "))
        };
        let own = views.iter().find(|view| view.member == *id);
        let tells = |what: &dyn Fn(&EtcdView) -> String| own.map_or_else(unseen, |view| what(view));
        table.row([
            id.to_string(),
            name,
            role.to_owned(),
            tells(&|view| view.raft_index.to_string()),
            tells(&|view| size(view.db_bytes)),
            tells(&|view| size(view.db_in_use_bytes)),
            tells(&|view| harmless(&view.version)),
            alarms,
        ]);
    }
    Some(table)
}

fn dash() -> String {
    "-".to_owned()
}

fn unseen() -> String {
    "?".to_owned()
}

fn etcd(quorum: &Result<Option<Quorum>, Missing>, peer_url: &str) -> String {
    let quorum = match quorum {
        Ok(Some(quorum)) => quorum,
        Ok(None) => return dash(),
        Err(_) => return unseen(),
    };
    match quorum.by_peer_url(peer_url) {
        None => dash(),
        Some((_, member)) if member.learner => "learner".to_owned(),
        Some((id, _)) if !quorum.healthy.contains(&id) => "unhealthy".to_owned(),
        Some((id, _)) if quorum.leader == Some(id) => "leader".to_owned(),
        Some(_) => "voter".to_owned(),
    }
}

fn apiserver(seen: &Observation, node: &NodeName) -> String {
    match seen.api_at(node) {
        Ok(Some(view)) if view.readyz.ready => "ready".to_owned(),
        Ok(Some(view)) => format!("readyz {}", view.readyz.status),
        Ok(None) => dash(),
        Err(_) => unseen(),
    }
}

fn balancer(seen: &Observation, node: &NodeName) -> String {
    match seen.host(node).and_then(|facts| facts.balancer.get()) {
        Ok(Some(balancer)) if !balancer.active => "stopped".to_owned(),
        Ok(Some(balancer)) => format!("{} of {} up", balancer.up.len(), balancer.backends.len()),
        Ok(None) => dash(),
        Err(_) => unseen(),
    }
}

fn object(seen: &Observation, node: &NodeName) -> String {
    match seen.api() {
        Ok(Some(api)) => match api.nodes.get() {
            Ok(nodes) => match nodes.get(node) {
                Some(object) => {
                    let ready = if object.ready { "Ready" } else { "NotReady" };
                    let pressures = object.pressures.iter().map(String::as_str);
                    [ready]
                        .into_iter()
                        .chain(pressures)
                        .collect::<Vec<_>>()
                        .join(",")
                }
                None => dash(),
            },
            Err(_) => unseen(),
        },
        Ok(None) => dash(),
        Err(_) => unseen(),
    }
}
