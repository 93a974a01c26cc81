//! Joins and leaves in one order: who goes first, who comes first. Start at [`Convergence::exchange`].
//!
//! - Who is gone is removed first: the vote that cannot be cast only weighs. Who is healthy leaves after somebody came.
//! - Two voters are no resting place: where a removal leaves two, a join (or, on the way down to one, another removal) follows at once.
//! - Otherwise one in, one out, so that the number of voters stays within one of where it was.
//!
//! The order follows from what is left to do alone, so after any part of it the rest is planned the same.

use std::collections::{BTreeSet, VecDeque};

use super::{
    Draft,
    converge::Convergence,
    leaving::{Leaver, Way},
};
use crate::{
    NodeName, Refusal,
    change::Change,
    guard,
    observation::Target,
    plan::Stage,
    quorum::Quorum,
    standing::Standing,
    step::{Ensure, Handover, HostEnsure, Reason, Step},
};

/// The number of voters that is no resting place.
const NO_RESTING_PLACE: usize = 2;

/// Who is still to come and to go, each in its order.
struct Queue {
    voters: usize,
    joiners: VecDeque<NodeName>,
    gone: VecDeque<Leaver>,
    politely: VecDeque<Leaver>,
    /// Removed, and not cleared away.
    left: VecDeque<Leaver>,
}

/// What comes next.
enum Turn {
    Join(NodeName),
    Remove(Leaver),
}

impl Queue {
    fn next(&mut self) -> Option<Turn> {
        let in_between = self.voters == NO_RESTING_PLACE;
        let even = self.voters.is_multiple_of(2) && !in_between;
        let must_join = in_between && !self.joiners.is_empty();
        if !must_join && !self.gone.is_empty() {
            self.gone.pop_front().map(Turn::Remove)
        } else if even && !self.politely.is_empty() {
            self.politely.pop_front().map(Turn::Remove)
        } else {
            self.joiners
                .pop_front()
                .map(Turn::Join)
                .or_else(|| self.politely.pop_front().map(Turn::Remove))
        }
    }

    /// Whose joining or leaving follows at once when one voter less would leave two.
    fn follows(&self) -> Option<&NodeName> {
        if self.voters != NO_RESTING_PLACE + 1 {
            return None;
        }
        self.joiners.front().or_else(|| {
            let mut leavers = self.gone.iter().chain(&self.politely);
            leavers.find_map(|leaver| leaver.node.as_ref())
        })
    }

    /// Nothing waits for a cluster of two voters that is about to change.
    fn may_clear(&self) -> bool {
        let more = !self.joiners.is_empty() || !self.gone.is_empty() || !self.politely.is_empty();
        self.voters != NO_RESTING_PLACE || !more
    }
}

impl Convergence<'_> {
    /// All joins and leaves, by `first`, who stays.
    pub(super) fn exchange(
        &self,
        draft: &mut Draft,
        first: &NodeName,
        joiners: Vec<NodeName>,
        leavers: Vec<Leaver>,
    ) -> Result<(), Refusal> {
        // Whether who does not answer goes or stays decides who may come.
        if draft.unsettled {
            return Ok(());
        }
        if self.founding.is_none() {
            self.none_emptied(&joiners)?;
        }
        let (voting, joiners): (Vec<_>, Vec<_>) = joiners
            .into_iter()
            .partition(|node| self.voters.contains(node));
        // What is left of a join that came as far as the vote is finished before anything else.
        for node in &voting {
            let leavers = self.sharers(leavers.iter());
            self.join(draft, first, node, &leavers)?;
        }
        self.rehearse(draft, &joiners)?;
        self.issue(draft, first, &joiners);
        if leavers.is_empty() {
            for node in self.in_flight_first(joiners) {
                if self.founding.is_none() {
                    self.foresee(draft, &Change::AddVoter { node: node.clone() })?;
                }
                self.join(draft, first, &node, &BTreeSet::new())?;
            }
            return Ok(());
        }
        let quorum = self.quorum()?;
        let mut queue = Queue {
            voters: quorum.voter_count(),
            joiners: self.in_flight_first(joiners).into(),
            gone: VecDeque::new(),
            politely: VecDeque::new(),
            left: VecDeque::new(),
        };
        for leaver in leavers {
            match leaver.way {
                Way::Left => queue.left.push_back(leaver),
                Way::Politely => queue.politely.push_back(leaver),
                Way::Sick | Way::Silently(_) => queue.gone.push_back(leaver),
            }
        }
        self.in_turn(&mut queue.politely, &quorum);
        loop {
            if queue.may_clear() {
                // As they are found when all of them are gone, whoever went first.
                let left = queue.left.make_contiguous();
                left.sort_by_key(|leaver| (leaver.node.is_none(), leaver.node.clone()));
                while let Some(leaver) = queue.left.pop_front() {
                    self.clear_away(draft, first, &leaver);
                }
            }
            match queue.next() {
                None => return Ok(()),
                Some(Turn::Join(node)) => {
                    self.foresee(draft, &Change::AddVoter { node: node.clone() })?;
                    let leavers = self.sharers(queue.politely.iter());
                    self.join(draft, first, &node, &leavers)?;
                    queue.voters += 1;
                }
                Some(Turn::Remove(leaver)) => {
                    let next = queue.follows().filter(|_| leaver.votes()).cloned();
                    if let Some(member) = &leaver.member {
                        let change = Change::RemoveMember {
                            id: member.id,
                            next: next.clone(),
                        };
                        self.foresee(draft, &change)?;
                    }
                    let (voters, others) = (queue.voters, &queue.politely);
                    self.remove(draft, first, &leaver, voters, next.as_ref(), others);
                    queue.voters -= usize::from(leaver.votes());
                    queue.left.push_back(leaver);
                }
            }
        }
    }

    /// Manifests of joiners are rehearsed before etcd hears of any of them, and compared with the masters'.
    pub(super) fn rehearse(&self, draft: &mut Draft, joiners: &[NodeName]) -> Result<(), Refusal> {
        let rehearsed = |node: &NodeName| HostEnsure::Rehearsed {
            settings: self.settings.clone(),
            node: self.peer(node),
        };
        let rehearsals: Vec<Step> = joiners
            .iter()
            .map(|node| self.host(node, rehearsed(node), Reason::Compares))
            .collect();
        let stands = |step: &Step| match step.standing(self.seen) {
            Standing::Done(_) => !draft.may_fall(step),
            Standing::Open(_) | Standing::Unknown(_) => false,
        };
        for (node, step) in joiners.iter().zip(&rehearsals) {
            if stands(step) {
                guard::like_the_masters(self.seen, node, &self.intent.accepted)?;
            }
        }
        // A conversion does it before it changes anything: by now it is planned already.
        let rehearsals = rehearsals
            .into_iter()
            .filter(|step| !draft.plans(step))
            .collect();
        draft.stage(
            self.seen,
            "Rehearse the joiners' manifests",
            None,
            rehearsals,
        );
        Ok(())
    }

    /// Joiners get their certificates.
    pub(super) fn issue(&self, draft: &mut Draft, first: &NodeName, joiners: &[NodeName]) {
        let mut certificates = Vec::new();
        for node in joiners {
            let authority = HostEnsure::Authority {
                founding: None,
                of: Some(first.clone()),
            };
            certificates.push(Step {
                handover: Some(Handover::CaSet {
                    from: first.clone(),
                }),
                ..self.host(node, authority, Reason::Joins)
            });
            let issued = HostEnsure::Certificates {
                settings: self.settings.clone(),
                node: self.peer(node),
            };
            certificates.push(self.host(node, issued, Reason::Joins));
        }
        let title = "Issue the joiners' certificates";
        draft.stage(self.seen, title, None, certificates);
    }

    /// Refuses a plan whose first change would be refused as things are. What an earlier stage changes is not foreseen.
    fn foresee(&self, draft: &Draft, change: &Change) -> Result<(), Refusal> {
        let changes = |stage: &Stage| {
            let waits =
                |step: &Step| matches!(step.ensure, Ensure::Host(HostEnsure::Serving { .. }));
            stage.change.is_some() || stage.steps.iter().any(waits)
        };
        if draft.planning_stages.iter().any(changes) {
            return Ok(());
        }
        guard::foresee(self.seen, change, &self.intent.accepted)
    }

    /// A joiner whose member is in the list already is finished before another is begun.
    fn in_flight_first(&self, mut joiners: Vec<NodeName>) -> Vec<NodeName> {
        let quorum = self.quorum().ok();
        joiners.sort_by_key(|node| {
            let url = self.peer(node).peer_url();
            let in_flight = quorum
                .as_ref()
                .is_some_and(|quorum| quorum.by_peer_url(&url).is_some());
            !in_flight
        });
        joiners
    }

    /// Followers first, the leader last: one election instead of several. Among them the highest name first, as hosts were numbered when they
    /// came. One that was begun with goes on.
    fn in_turn(&self, leavers: &mut VecDeque<Leaver>, quorum: &Quorum) {
        let leads = |leaver: &Leaver| {
            let member = leaver.member.as_ref();
            member.is_some_and(|member| Some(member.id) == quorum.leader)
        };
        leavers.make_contiguous().sort_by(|a, b| {
            (!self.is_leaving(a), leads(a))
                .cmp(&(!self.is_leaving(b), leads(b)))
                .then_with(|| b.node.cmp(&a.node))
        });
    }

    /// Its users were sent elsewhere already.
    fn is_leaving(&self, leaver: &Leaver) -> bool {
        let Some(node) = &leaver.node else {
            return false;
        };
        let ended = self.seen.host(node).is_ok_and(|facts| {
            let manifests = facts.manifests.get();
            manifests.is_ok_and(|manifests| !manifests.contains_key("kube-apiserver"))
        });
        let drained = self.balancers().any(|balancer| {
            let backends = self.seen.host(balancer).and_then(|facts| {
                let own = facts.balancer.get()?.as_ref();
                Ok(own.is_some_and(|own| {
                    !own.backends.is_empty() && !own.backends.contains_key(node)
                }))
            });
            backends.unwrap_or(false)
        });
        let undone = matches!(
            self.seen.target(node),
            Ok(Target::Absent | Target::Draining)
        );
        ended || drained || undone
    }
}
