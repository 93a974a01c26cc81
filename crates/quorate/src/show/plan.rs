//! A plan as text: stages with what each changes for the quorum, their steps grouped by host, each group with its reason. Start at
//! [`text`]. The numbers come from the observation the plan was made from.

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{
    Change, Ensure, Goal, HostEnsure, Missing, NodeName, Observation, Place, Plan, Quorum, Spec,
    Stage, Step,
    interruption::{self, Expected},
    quorum::{needed, tolerance},
    spec::BalancerSpec,
    step::InfraEnsure,
};

use super::{counted, details};
use crate::console::{Paint, Style};

/// Longest line.
const WIDTH: usize = 100;

/// Above the stage after which `convert --undo` is refused.
const NO_RETURN: &str = "--- point of no return: from the end of the next stage the way is on to the masters of the file ---";

/// What is to be expected of each stage, of a plan that converts. `None`: it does not, and every change is judged by its quorum.
pub fn expected(plan: &Plan, goal: &Goal, seen: &Observation) -> Option<Vec<Expected>> {
    match goal {
        Goal::Convert { .. } | Goal::Unconvert => {
            let joined = matches!(Quorum::of(seen), Ok(Some(quorum)) if quorum.voter_count() > 1);
            Some(interruption::of_all(&plan.stages, joined))
        }
        Goal::RetireOldAddress { .. }
        | Goal::KeepOldAddress
        | Goal::Converge
        | Goal::Replace { .. }
        | Goal::Remove { .. }
        | Goal::Repair => None,
    }
}

/// The plan as text.
pub fn text(plan: &Plan, goal: &Goal, seen: &Observation, verbose: bool, paint: Paint) -> String {
    let mut out = String::new();
    let mut voters = Voters::seen(seen);
    let mut before: Option<&Change> = None;
    let expected = expected(plan, goal, seen);
    for (i, stage) in plan.stages.iter().enumerate() {
        let expected = expected.as_ref().and_then(|all| all.get(i));
        if expected.is_some_and(|expected| expected.point_of_no_return) {
            out += &paint.paint(Style::Warn, NO_RETURN);
            out.push('\n');
        }
        let number = format!("{}/{}", i + 1, plan.stages.len());
        out += &format!(
            "{} {}\n",
            paint.paint(Style::Dim, number),
            paint.paint(Style::Bold, &stage.title)
        );
        match &stage.change {
            Some(change) if before == Some(change) => {
                out += &paint.paint(Style::Dim, "    quorum: the same change goes on");
                out.push('\n');
            }
            Some(change) => {
                let line = format!("    quorum: {change}: {}", voters.after(change));
                out += &paint.paint(Style::Warn, line);
                out.push('\n');
            }
            None => {}
        }
        before = stage.change.as_ref();
        if let Some(expected) = expected {
            let mut lines = vec![format!("    interruption: {}", expected.interruption)];
            if *goal != Goal::Unconvert {
                lines.push(format!("    taken back by: {}", expected.undo.text()));
            }
            for line in lines {
                out += &paint.paint(Style::Dim, line);
                out.push('\n');
            }
        }
        for group in groups(stage) {
            out += &group.text(verbose, paint);
        }
    }
    if verbose {
        out += &details::kubeadm(plan, paint);
    }
    out
}

/// One line: `3 stages, 12 steps on 4 machines`.
pub fn size(plan: &Plan) -> String {
    let mut machines: Vec<String> = plan.steps().map(where_of).collect();
    machines.sort();
    machines.dedup();
    format!(
        "{}, {} on {}",
        counted(plan.stages.len(), "stage"),
        counted(plan.len(), "step"),
        counted(machines.len(), "machine")
    )
}

/// What a balancer of the user's own, or the name's records, have to lead to once the masters of the plan serve. `None`: it is ours, or none
/// comes.
pub fn to_register(plan: &Plan, spec: &Spec) -> Option<String> {
    let comes = |step: &Step| match &step.ensure {
        Ensure::Host(HostEnsure::ControlPlane { node, .. }) => Some(node.name.clone()),
        Ensure::Host(_) | Ensure::Infra(_) => None,
    };
    let coming: BTreeSet<NodeName> = plan.steps().filter_map(comes).collect();
    let backends: Vec<String> = coming
        .iter()
        .filter_map(|node| Some((node, spec.control_plane.get(node)?)))
        .map(|(node, machine)| format!("{node} ({})", Spec::apiserver(machine)))
        .collect();
    let records: Vec<String> = coming
        .iter()
        .filter_map(|node| Some((node, spec.control_plane.get(node)?)))
        .map(|(node, machine)| format!("{} ({node})", machine.address))
        .collect();
    match spec.balancer {
        BalancerSpec::Quorate { .. }
        | BalancerSpec::Shared { .. }
        | BalancerSpec::Nlb { .. } => None,
        BalancerSpec::External => (!backends.is_empty()).then(|| {
            format!(
                "The balancer at {} is yours: register {} there. The pod network and workers need it.",
                spec.endpoint,
                backends.join(", ")
            )
        }),
        BalancerSpec::Dns => (!coming.is_empty()).then(|| {
            format!(
                "The records of {} are yours: add one for each new master when it serves, not before: {}. `quorate status` names those that are missing.",
                spec.endpoint.host,
                records.join(", ")
            )
        }),
    }
}

/// The machine a step is about.
pub fn where_of(step: &Step) -> String {
    match (&step.ensure, &step.on) {
        (Ensure::Infra(infra), _) => infra.node().to_string(),
        (Ensure::Host(_), Place::Host(node)) => node.to_string(),
        (Ensure::Host(_), Place::Operator) => Place::Operator.to_string(),
    }
}

/// What a step makes stand, without the machine's own address where the machine is named.
pub fn what_of(step: &Step) -> String {
    match &step.ensure {
        Ensure::Infra(InfraEnsure::Machine { .. }) => "machine runs and answers SSH".to_owned(),
        Ensure::Infra(
            InfraEnsure::MachineOff { .. }
            | InfraEnsure::Target { .. }
            | InfraEnsure::TargetGone { .. },
        ) => step.ensure.to_string(),
        Ensure::Host(ensure) => ensure.to_string(),
    }
}

/// Hosts that do the same for the same reasons.
struct Group<'a> {
    hosts: Vec<String>,
    steps: Vec<&'a Step>,
}

/// The steps by host, in the order the hosts come first; hosts with the same steps together.
fn groups(stage: &Stage) -> Vec<Group<'_>> {
    let mut order: Vec<String> = Vec::new();
    let mut by_host: BTreeMap<String, Vec<&Step>> = BTreeMap::new();
    for step in &stage.steps {
        let host = where_of(step);
        if !by_host.contains_key(&host) {
            order.push(host.clone());
        }
        by_host.entry(host).or_default().push(step);
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for host in order {
        let steps = by_host.remove(&host).unwrap_or_default();
        let same = |other: &Group<'_>| {
            other.steps.len() == steps.len()
                && other
                    .steps
                    .iter()
                    .zip(&steps)
                    .all(|(a, b)| what_of(a) == what_of(b) && a.because == b.because)
        };
        match groups.iter_mut().find(|group| same(group)) {
            Some(group) => group.hosts.push(host),
            None => groups.push(Group {
                hosts: vec![host],
                steps,
            }),
        }
    }
    groups
}

impl Group<'_> {
    fn text(&self, verbose: bool, paint: Paint) -> String {
        let mut out = String::new();
        let hosts = self.hosts.join(", ");
        let reason = &self.steps[0].because;
        let one_reason = self.steps.iter().all(|step| step.because == *reason);
        for (i, line) in wrapped(&hosts, WIDTH - 4).into_iter().enumerate() {
            let line = if i == 0 { line } else { format!("  {line}") };
            out += &format!("    {}\n", paint.paint(Style::Bold, line));
        }
        if one_reason {
            out += &format!(
                "      {}\n",
                paint.paint(Style::Dim, format!("because {reason}"))
            );
        }
        for step in &self.steps {
            out += &format!("      - {}\n", what_of(step));
            if !one_reason {
                let because = format!("because {}", step.because);
                out += &format!("          {}\n", paint.paint(Style::Dim, because));
            }
            if verbose {
                for line in details::of(step) {
                    out += &format!("          {}\n", paint.paint(Style::Dim, line));
                }
            }
        }
        out
    }
}

/// A list in lines of at most `width`, broken after commas.
fn wrapped(list: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for item in list.split_inclusive(", ") {
        let last = lines.last_mut().expect("there is one");
        if !last.is_empty() && last.len() + item.trim_end().len() > width {
            lines.push(item.to_owned());
        } else {
            last.push_str(item);
        }
    }
    lines
        .iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// etcd's voters as the stages of a plan go by: what was seen, and what each change makes of it.
struct Voters {
    now: Result<(usize, usize), Missing>,
}

impl Voters {
    fn seen(seen: &Observation) -> Self {
        Self {
            now: Quorum::of(seen).map(|quorum| {
                quorum.map_or((0, 0), |quorum| {
                    (quorum.voter_count(), quorum.healthy.len())
                })
            }),
        }
    }

    /// What a change makes of the quorum, and goes on from there.
    fn after(&mut self, change: &Change) -> String {
        let (voters, healthy) = match &self.now {
            Ok(now) => *now,
            Err(missing) => return format!("voters not known ({missing})"),
        };
        let (then, healthy_then) = match change {
            Change::Found { nodes } => (nodes.len(), nodes.len()),
            Change::AddVoter { .. } => (voters + 1, healthy + 1),
            Change::RemoveMember { .. } => (
                voters.saturating_sub(1),
                healthy.min(voters.saturating_sub(1)),
            ),
            Change::Interrupt { .. } => (voters, healthy.saturating_sub(1)),
        };
        let text = match change {
            Change::Interrupt { .. } => format!(
                "{healthy_then} of {voters} voters left meanwhile, needs {}",
                needed(voters)
            ),
            Change::Found { .. } | Change::AddVoter { .. } | Change::RemoveMember { .. } => {
                format!(
                    "voters {voters} -> {then}, needs {}, survives {}",
                    needed(then),
                    losses(tolerance(then, healthy_then))
                )
            }
        };
        match change {
            // Several stages belong to one founding: each shows the whole of it. A voter that is interrupted comes back.
            Change::Found { .. } | Change::Interrupt { .. } => {}
            Change::AddVoter { .. } | Change::RemoveMember { .. } => {
                self.now = Ok((then, healthy_then));
            }
        }
        text
    }
}

/// `no loss`, `1 loss`, `2 losses`.
pub fn losses(n: usize) -> String {
    match n {
        0 => "no loss".to_owned(),
        1 => "1 loss".to_owned(),
        n => format!("{n} losses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_broken_after_commas() {
        assert_eq!(wrapped("a, b, c", 5), ["a, b,", "c"]);
        assert_eq!(wrapped("a-long-one", 3), ["a-long-one"]);
    }
}
