//! What leaves the cluster: who, how it is, and the stages by which it goes. Start at [`Leaver`]; whom the cluster file no longer names is
//! found by [`Convergence::strangers`].
//!
//! A healthy member leaves in this order, so that nobody who uses it notices: leadership moves away, the balancers send traffic elsewhere,
//! its apiserver ends (and takes itself out of the `kubernetes` service), its member is removed, its Node object is deleted, its host is
//! reset. Of a dead one only its places in the cluster are cleared.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Draft, converge::Convergence, converge::situation, records};
use crate::{
    Intent, MemberId, NodeName, Observation, Refusal,
    change::Change,
    health::{Account, Condition, host_account, host_of},
    kubeadm::Peer,
    observation::{ApiView, HostFacts, Member, Power, Target},
    quorum::Quorum,
    seen::{Missing, Seen},
    step::{Ensure, HostEnsure, InfraEnsure, Place, Reason, Step},
};

/// Somebody who leaves, or left and was not cleared away.
#[derive(Clone, Debug)]
pub(super) struct Leaver {
    /// Its name. `None`: its member has a name that no host of a cluster file can have, or only an address is left of it.
    pub(super) node: Option<NodeName>,
    /// Where its apiserver is, or was.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Its member. `None`: it is none any more.
    pub(super) member: Option<LeavingMember>,
    /// How it goes.
    pub(super) way: Way,
}

/// The member of a leaver.
#[derive(Clone, Debug)]
pub(super) struct LeavingMember {
    pub(super) id: MemberId,
    pub(super) peer_urls: BTreeSet<String>,
    pub(super) learner: bool,
}

/// How somebody leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Healthy: whoever comes for it comes first, and it is drained and reset.
    Politely,
    /// Its host answers and its member is of no use: it goes first, and is reset.
    Sick,
    /// Its host does not answer: it goes first, without being reset.
    Silently(Silent),
    /// It is no member: what it left behind is cleared away, and its host is reset where it carries the cluster's mark.
    Left,
}

/// Why a host that does not answer is removed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// By the verdict.
    Dead,
    /// No way to it is known.
    Unreached,
    /// It never started.
    NeverStarted,
    /// The doubt was accepted by name.
    Accepted,
}

impl Leaver {
    /// As people call it.
    pub(super) fn label(&self) -> String {
        match (&self.node, &self.member, self.addresses.first()) {
            (Some(node), ..) => node.to_string(),
            (None, Some(member), _) => format!("member {}", member.id),
            (None, None, Some(address)) => address.to_string(),
            (None, None, None) => "nothing".into(),
        }
    }

    /// Somebody who is no member any more.
    pub(super) fn left(node: Option<NodeName>, addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            node,
            addresses,
            member: None,
            way: Way::Left,
        }
    }

    /// A member that the file names and that never started, or started and lost what it was before it came to anything.
    pub(super) fn never_started(
        node: &NodeName,
        address: IpAddr,
        id: MemberId,
        member: &Member,
    ) -> Self {
        Self {
            node: Some(node.clone()),
            addresses: [address].into(),
            member: Some(LeavingMember {
                id,
                peer_urls: member.peer_urls.clone(),
                learner: member.learner,
            }),
            way: Way::Silently(Silent::NeverStarted),
        }
    }

    /// It votes.
    pub(super) fn votes(&self) -> bool {
        self.member.as_ref().is_some_and(|member| !member.learner)
    }

    /// The member of that ID, as it leaves. `None`: it is not known yet how it is, which the draft says, or refuses.
    ///
    /// # Errors
    /// [`Refusal::Unchangeable`] when a member of a host's name has another address than the file gives that host.
    pub(super) fn of_member(
        intent: &Intent,
        seen: &Observation,
        quorum: &Quorum,
        id: MemberId,
        member: &Member,
        draft: &mut Draft,
    ) -> Result<Option<Self>, Refusal> {
        let node = name_of(intent, seen, id, member)?;
        let way = match Condition::of(seen, quorum, id, member) {
            Condition::Healthy | Condition::Mute { .. } => Way::Politely,
            Condition::Sick { .. } | Condition::Emptied => Way::Sick,
            Condition::Unstarted => match node.as_ref().map(|node| seen.host(node)) {
                Some(Ok(_)) => Way::Sick,
                Some(Err(_)) | None => Way::Silently(Silent::NeverStarted),
            },
            Condition::Unreached(_) => Way::Silently(Silent::Unreached),
            Condition::Dead(_) => Way::Silently(Silent::Dead),
            Condition::Doubtful(accounts) => {
                let node = host_of(seen, id, member)
                    .ok_or_else(|| Missing::not_looked(format!("the host of member {id}")))?;
                let (may_become_a_verdict, told) =
                    (accounts.may_become_a_verdict(), accounts.to_string());
                let doubt = Refusal::NotProvenDead {
                    node: node.clone(),
                    member: id,
                    accounts: Box::new(accounts),
                };
                if doubt.accepted(&intent.accepted) {
                    Way::Silently(Silent::Accepted)
                } else {
                    draft.unsettled = true;
                    if may_become_a_verdict {
                        draft.wait(
                            &node,
                            format!("{node} to answer, or to be seen to be dead: {told}"),
                        );
                    } else {
                        draft.refuse(doubt);
                    }
                    return Ok(None);
                }
            }
        };
        Ok(Some(Self {
            node,
            addresses: addresses(&member.peer_urls),
            member: Some(LeavingMember {
                id,
                peer_urls: member.peer_urls.clone(),
                learner: member.learner,
            }),
            way,
        }))
    }

    /// A learner, whose join is taken back. Its host, where the file names it, is looked after by whoever takes back joins.
    pub(super) fn learner(
        intent: &Intent,
        seen: &Observation,
        id: MemberId,
        member: &Member,
    ) -> Result<Self, Refusal> {
        let node = name_of(intent, seen, id, member)?;
        let retired = node
            .as_ref()
            .is_some_and(|node| intent.spec.machine(node).is_none() && seen.host(node).is_ok());
        Ok(Self {
            node,
            addresses: addresses(&member.peer_urls),
            member: Some(LeavingMember {
                id,
                peer_urls: member.peer_urls.clone(),
                learner: true,
            }),
            way: if retired {
                Way::Sick
            } else {
                Way::Silently(Silent::NeverStarted)
            },
        })
    }

    /// Why its member and its places in the cluster go.
    fn because(&self, asked: &Reason) -> Reason {
        match self.way {
            Way::Politely | Way::Sick => asked.clone(),
            Way::Silently(Silent::Dead) => Reason::Dead,
            Way::Silently(Silent::Unreached) => Reason::Unreached,
            Way::Silently(Silent::Accepted) => Reason::Accepted,
            Way::Silently(Silent::NeverStarted) | Way::Left => Reason::LeftBehind,
        }
    }
}

/// The name of a member's host: the one that the file, or what is known of machines that left it, has at its peer address; else the member's
/// own.
fn name_of(
    intent: &Intent,
    seen: &Observation,
    id: MemberId,
    member: &Member,
) -> Result<Option<NodeName>, Refusal> {
    let known = intent.machines().find(|(_, machine, _)| {
        member
            .peer_urls
            .contains(&format!("https://{}:2380", machine.address))
    });
    if let Some((node, ..)) = known {
        return Ok(Some(node.clone()));
    }
    let Some(name) = host_of(seen, id, member).or_else(|| member.name.parse().ok()) else {
        return Ok(None);
    };
    match intent.spec.machine(&name) {
        // It would be two members of one name and one Node object.
        Some(machine) => Err(Refusal::Unchangeable {
            what: format!("the address of {name}"),
            is: list(&addresses(&member.peer_urls)),
            wanted: machine.address.to_string(),
        }),
        None => Ok(Some(name)),
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

/// Hosts of URLs that are addresses.
fn addresses(urls: &BTreeSet<String>) -> BTreeSet<IpAddr> {
    urls.iter()
        .filter_map(|url| {
            let host = url.split_once("://")?.1.rsplit_once(':')?.0;
            host.trim_matches(['[', ']']).parse().ok()
        })
        .collect()
}

impl Convergence<'_> {
    /// Members that the file does not name, and what is left of those that were.
    ///
    /// # Errors
    /// [`Refusal::LearnerPresent`] and [`Refusal::MemberUnstarted`] when one of them never came to vote: that is taken back by a verb of
    /// its own.
    pub(super) fn strangers(&self, draft: &mut Draft) -> Result<Vec<Leaver>, Refusal> {
        let quorum = self.quorum()?;
        let named: BTreeSet<String> = self.spec.peers().iter().map(Peer::peer_url).collect();
        let mut found = Vec::new();
        for (id, member) in &quorum.members {
            if !member.peer_urls.is_disjoint(&named) {
                continue;
            }
            let (member_id, peer_urls) = (*id, member.peer_urls.clone());
            if !member.started() {
                return Err(Refusal::MemberUnstarted {
                    member: member_id,
                    peer_urls,
                });
            }
            if member.learner {
                return Err(Refusal::LearnerPresent {
                    member: member_id,
                    peer_urls,
                });
            }
            found.extend(Leaver::of_member(
                self.intent,
                self.seen,
                &quorum,
                *id,
                member,
                draft,
            )?);
        }
        let left = self.left_behind(&quorum, &found);
        found.extend(left);
        Ok(found)
    }

    /// Etcd as it runs.
    pub(super) fn quorum(&self) -> Result<Quorum, Missing> {
        Quorum::of(self.seen)?.ok_or_else(|| Missing::not_looked("a running etcd"))
    }

    /// What is left of control plane hosts that are neither in the file nor members: machines that left the file, Node objects, addresses of
    /// the `kubernetes` service, backends. Members are somebody else's business, `leaving` as well.
    pub(super) fn left_behind(&self, quorum: &Quorum, leaving: &[Leaver]) -> Vec<Leaver> {
        let mut left: BTreeMap<NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut taken: BTreeSet<IpAddr> = self
            .spec
            .machines()
            .map(|(_, machine, _)| machine.address)
            .chain(leaving.iter().flat_map(|leaver| leaver.addresses.clone()))
            .collect();
        let mut members: BTreeSet<String> = BTreeSet::new();
        for member in quorum.members.values() {
            taken.extend(addresses(&member.peer_urls));
            members.insert(member.name.clone());
        }
        let known = |node: &NodeName| {
            self.spec.machine(node).is_some()
                || members.contains(node.as_str())
                || leaving
                    .iter()
                    .any(|leaver| leaver.node.as_ref() == Some(node))
        };
        for (node, machine) in &self.intent.retired {
            if !known(node) && !taken.contains(&machine.address) {
                left.entry(node.clone())
                    .or_default()
                    .insert(machine.address);
            }
        }
        let api = self.seen.api().ok().flatten();
        for (node, object) in control_plane_nodes(api) {
            if !known(node) && !left.contains_key(node) {
                let free = object.difference(&taken).copied();
                left.insert(node.clone(), free.collect());
            }
        }
        for balancer in self.balancers() {
            let backends = self.seen.host(balancer).and_then(|facts| {
                Ok(facts
                    .balancer
                    .get()?
                    .as_ref()
                    .map(|own| own.backends.clone()))
            });
            for (node, address) in backends.ok().flatten().unwrap_or_default() {
                if !known(&node) && !left.contains_key(&node) {
                    let free = Some(address.ip()).filter(|ip| !taken.contains(ip));
                    left.insert(node, free.into_iter().collect());
                }
            }
        }
        for (node, target) in &self.seen.targets {
            match target.get() {
                Ok(Target::Healthy | Target::Unhealthy { .. } | Target::Draining) => {}
                Ok(Target::Absent) | Err(_) => continue,
            }
            if !known(node) && !left.contains_key(node) {
                left.insert(node.clone(), BTreeSet::new());
            }
        }
        taken.extend(left.values().flatten());
        let mut found: Vec<Leaver> = left
            .into_iter()
            .map(|(node, addresses)| Leaver::left(Some(node), addresses))
            .collect();
        if let Some(Ok(endpoints)) = api.map(|api| api.endpoints.get()) {
            let nameless = endpoints.difference(&taken);
            found.extend(nameless.map(|address| Leaver::left(None, [*address].into())));
        }
        found
    }

    /// Takes a member out of etcd, after those who use it were sent elsewhere. Those who are next to go give a shared address up with it: their
    /// balancers would go on leading to it.
    pub(super) fn remove<'l>(
        &self,
        draft: &mut Draft,
        first: &NodeName,
        leaver: &Leaver,
        voters: usize,
        next: Option<&NodeName>,
        next_to_go: impl IntoIterator<Item = &'l Leaver>,
    ) {
        let Some(member) = &leaver.member else { return };
        let change = Some(Change::RemoveMember {
            id: member.id,
            next: next.cloned(),
        });
        let because = || leaver.because(&self.leaves);
        let titled = |what: &str| format!("Remove {}: {what}", leaver.label());
        let mut steps = Vec::new();
        let politely = leaver.way == Way::Politely;
        if let Some(node) = leaver.node.as_ref().filter(|_| politely) {
            self.target_told(draft, node);
            let due = draft.planning_stages.is_empty();
            let stands = records::of_leaver(self.intent, self.seen, node, &leaver.addresses, due);
            if let Err(refusal) = stands {
                draft.refuse(refusal);
            }
        }
        // A healthy one may come to lead at any moment; a sick one hands over what it has.
        let leads = self
            .quorum()
            .is_ok_and(|quorum| quorum.leader == Some(member.id));
        let moves = voters > 1 && (politely || (leaver.way == Way::Sick && leads));
        if let Some(node) = leaver.node.as_ref().filter(|_| moves) {
            let to = self.spec.peers().into_iter();
            let moved = HostEnsure::LeaderMoved {
                member: member.id,
                to: to.filter(|peer| peer.name != *node).collect(),
            };
            steps.push(self.host(node, moved, because()));
        }
        let unshared = self.give_up(draft, leaver, next_to_go, &because());
        let title = titled("give up the shared address");
        draft.stage(self.seen, &title, change.clone(), unshared);
        let gone = self.backend_gone(leaver, because());
        steps.extend(gone.into_iter().filter(|step| !draft.plans(step)));
        draft.stage(
            self.seen,
            &titled("send its users elsewhere"),
            change.clone(),
            steps,
        );
        if let Some(node) = leaver.node.as_ref().filter(|_| politely) {
            let ended = HostEnsure::ControlPlaneGone { member: member.id };
            let steps = vec![self.host(node, ended, because())];
            draft.stage(
                self.seen,
                &titled("end its control plane"),
                change.clone(),
                steps,
            );
        }
        let gone = HostEnsure::MemberGone {
            member: member.id,
            peer_urls: member.peer_urls.clone(),
        };
        let steps = vec![self.host(first, gone, because())];
        draft.stage(self.seen, &titled("take it out of etcd"), change, steps);
    }

    pub(super) fn backend_gone(&self, leaver: &Leaver, because: Reason) -> Vec<Step> {
        let Some(backend) = &leaver.node else {
            return Vec::new();
        };
        // Its own, if it has one, goes with it.
        let balancers = self.balancers().filter(|balancer| *balancer != backend);
        let target = |node, instance| InfraEnsure::TargetGone { node, instance };
        balancers
            .map(|balancer| {
                let gone = HostEnsure::BackendGone {
                    backend: backend.clone(),
                };
                self.host(balancer, gone, because.clone())
            })
            .chain(self.target(backend, target, because.clone()))
            .collect()
    }

    /// Clears away what a member leaves in the cluster, and resets its host where that answers.
    pub(super) fn clear_away(&self, draft: &mut Draft, first: &NodeName, leaver: &Leaver) {
        self.clear_places(draft, first, leaver);
        let reset = self.reset(draft, leaver);
        let off = self.machine_off(leaver, reset.is_some());
        if let Some(reset) = reset {
            let title = format!("Remove {}: reset the host", leaver.label());
            draft.stage(self.seen, &title, None, vec![reset]);
        }
        if let Some(off) = off {
            let title = format!("Remove {}: stop its machine", leaver.label());
            draft.stage(self.seen, &title, None, vec![off]);
        }
    }

    /// A machine that Quorate made and that is of no use any more, once nothing of the cluster is on it.
    fn machine_off(&self, leaver: &Leaver, is_reset: bool) -> Option<Step> {
        let node = leaver.node.as_ref()?;
        if !self.spec.local() || self.spec.machine(node).is_some() {
            return None;
        }
        match self.seen.infra.get(node)?.get().ok()?.power {
            Power::Running => {}
            // One that is frozen is left to whoever froze it.
            Power::Absent | Power::Off | Power::Frozen => return None,
        }
        let blank = match self.seen.host(node).and_then(|facts| facts.mark.get()) {
            Ok(mark) => mark.is_none(),
            Err(_) => false,
        };
        (is_reset || blank).then(|| Step {
            on: Place::Operator,
            ensure: Ensure::Infra(InfraEnsure::MachineOff { node: node.clone() }),
            handover: None,
            because: Reason::LeftBehind,
        })
    }

    /// Its backends, where its member is gone already; its address in the `kubernetes` service; its Node object. The object goes last: its
    /// name leads back here when this is interrupted.
    pub(super) fn clear_places(&self, draft: &mut Draft, first: &NodeName, leaver: &Leaver) {
        let title = format!("Remove {}: clear its places", leaver.label());
        let mut steps = Vec::new();
        if leaver.member.is_none() {
            steps.extend(self.backend_gone(leaver, Reason::LeftBehind));
        }
        steps.extend(self.peer_gone(leaver));
        if !leaver.addresses.is_empty() {
            let gone = HostEnsure::EndpointGone {
                addresses: leaver.addresses.clone(),
            };
            steps.push(self.host(first, gone, Reason::LeftBehind));
        }
        if let Some(node) = &leaver.node {
            let gone = HostEnsure::NodeGone { node: node.clone() };
            steps.push(self.host(first, gone, Reason::LeftBehind));
        }
        draft.stage(self.seen, &title, None, steps);
    }

    fn reset(&self, draft: &mut Draft, leaver: &Leaver) -> Option<Step> {
        let node = leaver.node.as_ref()?;
        let machine = self.intent.machine(node)?;
        let step = self.reset_of(node, machine.address);
        match leaver.way {
            Way::Politely | Way::Sick => Some(step),
            Way::Silently(_) => None,
            Way::Left => match self.seen.hosts.get(node)? {
                Seen::Known { value, .. } => carries_mark(self.intent, value).then_some(step),
                Seen::Unknown(_) => {
                    match host_account(self.seen, node) {
                        Account::Gone(_) => {}
                        // It may have been on its way to being reset: one look that failed says nothing.
                        Account::Alive(told) | Account::Unknown(told) => {
                            draft.wait(node, format!("{node} to answer, and be reset: {told}"));
                        }
                    }
                    None
                }
            },
        }
    }

    pub(super) fn reset_of(&self, node: &NodeName, address: IpAddr) -> Step {
        let peer = Peer {
            name: node.clone(),
            address,
        };
        self.host(node, HostEnsure::Reset { node: peer }, Reason::LeftBehind)
    }

    /// The master by which others are taken out: one that stays, is healthy and was there before all others.
    ///
    /// # Errors
    /// [`Missing`] when none was seen.
    pub(super) fn remover(&self, leaving: &BTreeSet<NodeName>) -> Result<NodeName, Missing> {
        let quorum = self.quorum()?;
        let healthy = |node: &NodeName| {
            let member = quorum.by_peer_url(&self.peer(node).peer_url());
            member.is_some_and(|(id, _)| quorum.healthy.contains(&id))
        };
        let stay: BTreeSet<NodeName> = self
            .voters
            .iter()
            .filter(|node| !leaving.contains(*node) && self.seen.host(node).is_ok())
            .filter(|node| healthy(node))
            .cloned()
            .collect();
        situation::established(self.seen, &stay)?
            .first()
            .cloned()
            .ok_or_else(|| Missing::not_looked("a healthy master that stays"))
    }
}

/// The host is this cluster's.
pub(super) fn carries_mark(intent: &Intent, facts: &HostFacts) -> bool {
    match facts.mark.get() {
        Ok(Some(mark)) => mark.cluster == intent.spec.name,
        Ok(None) | Err(_) => false,
    }
}

/// What only a member carries, or one that began to be: data, the marker of a member, static pods.
pub(super) fn carries_member(facts: &HostFacts) -> Result<bool, Missing> {
    let data = facts.etcd_data.get()?;
    Ok(data.wal || data.marker.is_some() || !facts.manifests.get()?.is_empty())
}

fn control_plane_nodes(api: Option<&ApiView>) -> Vec<(&NodeName, &BTreeSet<IpAddr>)> {
    api.and_then(|api| api.nodes.get().ok())
        .into_iter()
        .flatten()
        .filter(|(_, object)| object.control_plane)
        .map(|(node, object)| (node, &object.addresses))
        .collect()
}

impl Convergence<'_> {
    /// A member whose host lost its data cannot go on: a master is replaced, and a join taken back, since etcd's leader counts on what a
    /// learner had confirmed.
    ///
    /// # Errors
    /// [`Refusal::DataLost`], [`Refusal::LearnerPresent`].
    pub(super) fn none_emptied<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a NodeName>,
    ) -> Result<(), Refusal> {
        let quorum = self.quorum()?;
        for node in nodes {
            let Some((id, member)) = quorum.by_peer_url(&self.peer(node).peer_url()) else {
                continue;
            };
            if Condition::of(self.seen, &quorum, id, member) != Condition::Emptied {
                continue;
            }
            return Err(if member.learner {
                Refusal::LearnerPresent {
                    member: id,
                    peer_urls: member.peer_urls.clone(),
                }
            } else {
                Refusal::DataLost {
                    node: node.clone(),
                    member: id,
                }
            });
        }
        Ok(())
    }
}
