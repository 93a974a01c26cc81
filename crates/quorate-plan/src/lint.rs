//! A second opinion on plans. It shares no code with the planner and knows nothing of how a plan came about: it reads the steps in order
//! and says what no good plan may contain. Start at [`lint`]; it runs on every plan in every test and before every apply.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    MemberId, NodeName, Observation,
    change::Change,
    observation::{EtcdView, Member, Target},
    plan::{Plan, Stage},
    step::{Ensure, HostEnsure, InfraEnsure, Place, Step},
};

/// What is wrong with a plan: a bug of the planner, never of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The stage, from 1.
    pub stage: usize,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stage {}: {}", self.stage, self.what)
    }
}

/// Reads a plan against what was seen.
pub fn lint(plan: &Plan, seen: &Observation) -> Vec<Finding> {
    let mut reader = Reader::new(plan, seen);
    reader.voters_before = reader.voters();
    for (number, stage) in (1..).zip(&plan.stages) {
        reader.number = number;
        reader.stage(stage);
    }
    reader.end(plan);
    reader.findings
}

/// The cluster as the plan goes by, read from its steps alone.
struct Reader<'a> {
    findings: Vec<Finding>,
    number: usize,
    seen: &'a Observation,
    /// Members as a quorum told of them, and those that the plan takes out of the list.
    members: BTreeMap<MemberId, Member>,
    /// Hosts that will be voters by now without being in `members`.
    joined: BTreeSet<NodeName>,
    leader: Option<MemberId>,
    /// Everybody who votes answers for itself.
    all_healthy: bool,
    /// Hosts whose apiservers serve.
    serving: BTreeSet<NodeName>,
    /// Hosts that balance no more.
    balance_no_more: BTreeSet<NodeName>,
    /// Hosts that were rehearsed.
    rehearsed: BTreeSet<NodeName>,
    open_learner: Option<NodeName>,
    /// A member that is on its way out.
    open_removal: Option<MemberId>,
    /// What has to follow a removal that left two voters.
    must_follow: Option<Option<NodeName>>,
    changes_membership: bool,
    voters_before: usize,
    previous_change: Option<&'a Change>,
    /// Hosts that join in a later stage.
    to_join: BTreeSet<NodeName>,
}

impl<'a> Reader<'a> {
    fn new(plan: &Plan, seen: &'a Observation) -> Self {
        let views = || {
            let views = seen.etcd.values();
            views.filter_map(|view| view.get().ok().and_then(Option::as_ref))
        };
        // Not the planner's judgement: whoever reached a quorum and has the longest log.
        let told = views()
            .filter(|view| view.linearizable)
            .max_by_key(|view| view.raft_index);
        let members = told.map(|view| view.members.clone()).unwrap_or_default();
        let leader = told.and_then(|view| view.leader);
        let well = |view: &&EtcdView| view.leader == leader && view.errors.is_empty();
        let answering: BTreeSet<MemberId> = views().filter(well).map(|view| view.member).collect();
        let all_healthy = members
            .iter()
            .filter(|(_, member)| !member.learner)
            .all(|(id, _)| answering.contains(id))
            && told.is_none_or(|view| view.alarms.is_empty());
        let rehearsed = seen.hosts.iter().filter(|(_, facts)| {
            let facts = facts.get().ok();
            facts.is_some_and(|facts| matches!(facts.rehearsed.get(), Ok(Some(_))))
        });
        let to_join = plan.steps().filter_map(|step| match &step.ensure {
            Ensure::Host(HostEnsure::Learner { joiner }) => Some(joiner.name.clone()),
            _ => None,
        });
        Self {
            findings: Vec::new(),
            number: 0,
            seen,
            leader,
            all_healthy,
            members,
            joined: BTreeSet::new(),
            serving: ready_now(seen),
            balance_no_more: BTreeSet::new(),
            rehearsed: rehearsed.map(|(node, _)| node.clone()).collect(),
            open_learner: None,
            open_removal: None,
            must_follow: None,
            changes_membership: false,
            voters_before: 0,
            previous_change: None,
            to_join: to_join.collect(),
        }
    }

    fn find(&mut self, what: String) {
        self.findings.push(Finding {
            stage: self.number,
            what,
        });
    }

    fn voters(&self) -> usize {
        let there = self.members.values().filter(|member| !member.learner);
        there.count() + self.joined.len()
    }

    fn stage(&mut self, stage: &'a Stage) {
        if stage.steps.is_empty() {
            self.find("has no step".into());
        }
        if let Some(Change::Found { nodes }) = &stage.change
            && self.members.values().any(|member| {
                member.started() && !nodes.iter().any(|node| node.as_str() == member.name)
            })
        {
            self.find("founds a cluster beside the one that runs".into());
        }
        // A membership change that was begun ends before another one begins.
        if let Some(change) = &stage.change
            && self.previous_change != Some(change)
        {
            if let Some(node) = self.open_learner.clone() {
                self.find(format!("begins `{change}` while {node} is still a learner"));
            }
            if let Some(member) = self.open_removal {
                self.find(format!(
                    "begins `{change}` while member {member} is on its way out"
                ));
            }
            self.follows(change);
        }
        if let Some(Change::RemoveMember { id, .. }) = &stage.change
            && self.members.contains_key(id)
        {
            self.open_removal = Some(*id);
        }
        let removals = stage
            .steps
            .iter()
            .filter(|step| matches!(step.ensure, Ensure::Host(HostEnsure::MemberGone { .. })));
        if removals.count() > 1 {
            self.find("removes more than one member".into());
        }
        // Places of a stage go on side by side: what one of them makes serve serves from the next stage on.
        let mut now_serving = BTreeSet::new();
        for step in &stage.steps {
            let ensure = match &step.ensure {
                Ensure::Host(ensure) => ensure,
                Ensure::Infra(infra) => {
                    if step.on != Place::Operator {
                        self.find(format!("machine made on {}", step.on));
                    }
                    self.targets(infra);
                    continue;
                }
            };
            let Place::Host(on) = &step.on else {
                self.find(format!("`{ensure}` is not on a host"));
                continue;
            };
            if let Some(handover) = &step.handover
                && handover.from() == on
            {
                self.find(format!("{on} hands something over to itself"));
            }
            if let HostEnsure::Serving { node } = ensure {
                now_serving.insert(node.name.clone());
            }
            self.comes(stage, on, ensure);
            self.goes(stage, step, on, ensure);
        }
        self.serving.extend(now_serving);
        self.previous_change = stage.change.as_ref();
    }

    /// Two voters are left behind at once, by what was promised.
    fn follows(&mut self, change: &Change) {
        let Some(promised) = self.must_follow.take() else {
            return;
        };
        let kept = match (&promised, change) {
            (Some(next), Change::AddVoter { node }) => next == node,
            (Some(next), Change::RemoveMember { id, .. }) => self
                .members
                .get(id)
                .is_some_and(|member| member.name == next.as_str()),
            (None, _) | (Some(_), Change::Found { .. } | Change::Interrupt { .. }) => false,
        };
        if !kept {
            self.find(format!("leaves two voters and goes on with `{change}`"));
        }
    }

    fn targets(&mut self, infra: &InfraEnsure) {
        match infra {
            InfraEnsure::Machine { .. } | InfraEnsure::MachineOff { .. } => {}
            InfraEnsure::Target { node, .. } => {
                if !self.serving.contains(node) {
                    self.find(format!("traffic for {node} before it serves"));
                }
            }
            InfraEnsure::TargetGone { node, .. } => {
                self.serving.remove(node);
            }
        }
    }

    fn comes(&mut self, stage: &Stage, on: &NodeName, ensure: &HostEnsure) {
        let adds = |joiner: &NodeName| matches!(&stage.change, Some(Change::AddVoter { node }) if node == joiner);
        match ensure {
            HostEnsure::Backend { backend, .. } if !self.serving.contains(&backend.name) => {
                self.find(format!("traffic for {} before it serves", backend.name));
            }
            HostEnsure::Rehearsed { node, .. } => {
                self.rehearsed.insert(node.name.clone());
            }
            HostEnsure::Learner { joiner } => {
                if !adds(&joiner.name) {
                    self.find(format!("learner for {} outside its change", joiner.name));
                }
                if let Some(other) = self.open_learner.clone() {
                    self.find(format!("learner for {} while {other} is one", joiner.name));
                }
                if !self.rehearsed.contains(&joiner.name) {
                    self.find(format!(
                        "learner for {} before it was compared with the masters",
                        joiner.name
                    ));
                }
                self.open_learner = Some(joiner.name.clone());
                self.changes_membership = true;
            }
            HostEnsure::Voter { joiner } => {
                if !adds(&joiner.name) {
                    self.find(format!("promotion of {} outside its change", joiner.name));
                }
                self.open_learner = None;
                self.changes_membership = true;
                self.to_join.remove(&joiner.name);
                self.joined.insert(joiner.name.clone());
                let url = joiner.peer_url();
                let learner = self
                    .members
                    .iter()
                    .find(|(_, member)| member.peer_urls.contains(&url));
                if let Some((id, _)) = learner {
                    let id = *id;
                    self.members.remove(&id);
                }
            }
            HostEnsure::EtcdMember { node, founders, .. } => match &stage.change {
                Some(Change::Found { nodes })
                    if founders.iter().map(|peer| &peer.name).eq(nodes) => {}
                Some(Change::AddVoter { node: joiner })
                    if founders.is_empty() && *joiner == node.name => {}
                _ => self.find(format!(
                    "etcd of {} outside a change that is about it",
                    node.name
                )),
            },
            HostEnsure::Authority { of: None, .. }
                if !matches!(stage.change, Some(Change::Found { .. })) =>
            {
                self.find(format!(
                    "new certificate authorities on {on} outside a founding"
                ));
            }
            _ => {}
        }
    }

    fn goes(&mut self, stage: &Stage, step: &Step, on: &NodeName, ensure: &HostEnsure) {
        let removes = |member: &MemberId| matches!(&stage.change, Some(Change::RemoveMember { id, .. }) if id == member);
        match ensure {
            HostEnsure::LeaderMoved { member, to } => {
                if !removes(member) {
                    self.find(format!("leadership of {member} moves outside its removal"));
                }
                if to.iter().any(|peer| peer.name == *on) {
                    self.find(format!("leadership moves from {on} to itself"));
                }
                if self.leader == Some(*member) {
                    self.leader = None;
                }
            }
            HostEnsure::SharedAddressGone {} => {
                self.balance_no_more.insert(on.clone());
            }
            HostEnsure::BackendGone { backend } => {
                self.serving.remove(backend);
            }
            HostEnsure::ControlPlaneGone { member } => {
                if !removes(member) {
                    self.find(format!("control plane of {on} ends outside its removal"));
                }
                if self.is_backend(on) && self.serving.contains(on) {
                    self.find(format!("control plane of {on} ends before it was drained"));
                }
                self.serving.remove(on);
            }
            HostEnsure::MemberGone { member, .. } => self.member_goes(stage, step, on, *member),
            HostEnsure::NodeGone { node } if self.is_member(node) => {
                self.find(format!("node {node} goes before its member"));
            }
            HostEnsure::Reset { node } => {
                if self.is_member(&node.name) {
                    self.find(format!("{} is reset before its member goes", node.name));
                }
                if node.name != *on {
                    self.find(format!("{} is reset on {on}", node.name));
                }
                self.serving.remove(on);
                self.rehearsed.remove(on);
                self.balance_no_more.insert(on.clone());
            }
            _ => {}
        }
    }

    fn member_goes(&mut self, stage: &Stage, step: &Step, on: &NodeName, member: MemberId) {
        if !matches!(&stage.change, Some(Change::RemoveMember { id, .. }) if *id == member) {
            self.find(format!("removal of {member} outside its change"));
        }
        self.changes_membership = true;
        self.open_removal = None;
        let Some(gone) = self.members.remove(&member) else {
            return;
        };
        let own = matches!(self.seen.etcd_at(on), Ok(Some(view)) if view.member == member);
        if own || gone.name == on.as_str() {
            self.find(format!("{} removes itself", step.on));
        }
        if gone.learner {
            return;
        }
        let answers = self
            .seen
            .etcd
            .values()
            .any(|view| matches!(view.get(), Ok(Some(view)) if view.member == member));
        if self.leader == Some(member) && answers && self.voters() > 0 {
            self.find(format!("removes {member} while it leads"));
        }
        // Its place is taken by somebody who could have come first.
        let others = self.to_join.iter().any(|node| node.as_str() != gone.name);
        if self.all_healthy && others && self.voters().is_multiple_of(2) {
            self.find(format!(
                "removes {member}, which is healthy, before somebody comes in its place"
            ));
        }
        if self.voters() == 2
            && let Some(Change::RemoveMember { next, .. }) = &stage.change
        {
            self.must_follow = Some(next.clone());
        }
    }

    fn is_member(&self, node: &NodeName) -> bool {
        let voted = |member: &Member| member.name == node.as_str() && !member.learner;
        self.members.values().any(voted) || self.joined.contains(node)
    }

    fn is_backend(&self, node: &NodeName) -> bool {
        let balance = self
            .seen
            .hosts
            .iter()
            .filter(|(host, _)| !self.balance_no_more.contains(*host));
        balance.map(|(_, facts)| facts).any(|facts| {
            let facts = facts.get().ok();
            let balancer = facts.and_then(|facts| facts.balancer.get().ok()?.as_ref());
            balancer.is_some_and(|balancer| balancer.backends.contains_key(node))
        }) || matches!(
            self.seen.target(node),
            Ok(Target::Healthy | Target::Unhealthy { .. } | Target::Draining)
        )
    }

    fn end(&mut self, plan: &Plan) {
        self.number = plan.stages.len();
        if let Some(node) = self.open_learner.clone() {
            self.find(format!("ends with {node} as a learner"));
        }
        if let Some(member) = self.open_removal {
            self.find(format!("ends with member {member} on its way out"));
        }
        if self.must_follow.is_some() {
            self.find("ends with two voters".into());
        }
        let voters = self.voters();
        // Whoever takes a learner back found that number.
        let changed = self.changes_membership && voters != self.voters_before;
        if changed && !self.members.is_empty() && voters.is_multiple_of(2) {
            self.find(format!("ends with {voters} voters, an even number"));
        }
    }
}

fn ready_now(seen: &Observation) -> BTreeSet<NodeName> {
    seen.api
        .iter()
        .filter(|(_, view)| matches!(view.get(), Ok(Some(view)) if view.readyz.ready))
        .map(|(node, _)| node.clone())
        .collect()
}
