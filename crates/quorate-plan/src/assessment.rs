//! The cluster judged against its file: what `status` says and what `apply` ends with. Start at [`assess`].
//!
//! Only what was observed counts; what was not is listed as unseen, never rounded to good.

mod sharing;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    Intent, NodeName, Observation,
    observation::{ApiView, EndpointAnswer, Target},
    quorum::{Quorum, needed},
    seen::Missing,
    spec::{BalancerSpec, Cni},
    standing::ADOPTED,
};

pub use sharing::SharedAddress;

/// Days of validity below which a certificate is a problem; kubeadm's leaves live a year and are renewed with every upgrade.
const CERTIFICATE_DAYS_MIN: i64 = 30;

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assessment {
    /// In one word.
    pub health: Health,
    /// Voters of etcd, where a quorum told of them.
    pub voters: Option<usize>,
    /// Healthy ones among them.
    pub healthy_voters: Option<usize>,
    /// Further losses the control plane survives. `None`: cannot be told.
    pub tolerance: Option<usize>,
    /// Whether the loss of any one balancer host is survived. `None`: somebody else balances.
    pub survives_balancer_loss: Option<bool>,
    /// The address that the masters share, where they share one.
    pub shared_address: Option<SharedAddress>,
    /// What is not as the file wants it.
    pub problems: Vec<Problem>,
    /// What could not be seen, and why.
    pub unseen: Vec<Missing>,
    /// The certificate that expires first.
    pub nearest_expiry: Option<Expiry>,
}

/// A cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Everything the file wants was seen to be there.
    Healthy,
    /// It serves, and something is missing.
    Degraded,
    /// etcd has no quorum: no write is answered.
    QuorumLost,
    /// There is no cluster yet.
    Absent,
    /// It cannot be told.
    Unseen,
}

/// Something that is not as the file wants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Where: a node's name, `endpoint`, `etcd`, `cluster`.
    pub on: String,
    /// What was expected and what was seen.
    pub what: String,
}

/// A certificate's end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// Seconds since 1970.
    pub not_after: i64,
    /// Days left by the host's own clock.
    pub days_left: i64,
    /// Where.
    pub node: NodeName,
    /// Path below `/etc/kubernetes`.
    pub file: String,
}

/// Judges the cluster.
pub fn assess(intent: &Intent, seen: &Observation) -> Assessment {
    let mut judge = Judge {
        intent,
        seen,
        problems: Vec::new(),
        unseen: Vec::new(),
    };
    let absent = judge.absent();
    let quorum = Quorum::of(seen);
    if !absent {
        judge.hosts();
        judge.etcd(&quorum);
        judge.apiservers();
        judge.balancers();
        judge.shared_address();
        judge.targets();
        judge.endpoint();
        judge.records();
        match seen.api() {
            Ok(Some(api)) => judge.cluster(api),
            Ok(None) => judge.problem("cluster", "expected an API, seen none".into()),
            Err(missing) => judge.unseen.push(missing),
        }
    }
    let nearest_expiry = judge.expiry();
    let Judge {
        problems,
        mut unseen,
        ..
    } = judge;
    // The same look is missing to several judgements, not side by side in the list.
    let mut told = BTreeSet::new();
    unseen.retain(|missing| told.insert(missing.clone()));
    let quorum_lost = match &quorum {
        Err(_) => seen
            .etcd
            .values()
            .any(|view| matches!(view.get(), Ok(Some(_)))),
        Ok(Some(quorum)) => quorum.healthy.len() < needed(quorum.voter_count()),
        Ok(None) => false,
    };
    let health = if absent {
        Health::Absent
    } else if quorum_lost {
        Health::QuorumLost
    } else if quorum.is_err() || seen.api().is_err() {
        Health::Unseen
    } else if problems.is_empty() && unseen.is_empty() {
        Health::Healthy
    } else {
        Health::Degraded
    };
    let quorum = quorum.ok().flatten();
    Assessment {
        health,
        voters: quorum.as_ref().map(Quorum::voter_count),
        healthy_voters: quorum.as_ref().map(|quorum| quorum.healthy.len()),
        tolerance: quorum.as_ref().map(Quorum::tolerance),
        survives_balancer_loss: match &intent.spec.balancer {
            BalancerSpec::Quorate { hosts } => Some(hosts.len() > 1),
            BalancerSpec::Shared { .. } => Some(sharing::several(intent, seen)),
            BalancerSpec::External | BalancerSpec::Dns | BalancerSpec::Nlb { .. } => None,
        },
        shared_address: sharing::held(intent, seen),
        problems,
        unseen,
        nearest_expiry,
    }
}

struct Judge<'a> {
    intent: &'a Intent,
    seen: &'a Observation,
    problems: Vec<Problem>,
    unseen: Vec<Missing>,
}

impl Judge<'_> {
    fn problem(&mut self, on: impl ToString, what: String) {
        self.problems.push(Problem {
            on: on.to_string(),
            what,
        });
    }

    /// Every control plane host is known to carry no cluster.
    fn absent(&self) -> bool {
        self.intent.spec.control_plane.keys().all(|node| {
            self.seen.host(node).is_ok_and(|facts| {
                facts
                    .manifests
                    .get()
                    .is_ok_and(|manifests| !manifests.contains_key("etcd"))
                    && facts
                        .etcd_data
                        .get()
                        .is_ok_and(|data| !data.wal && data.marker.is_none())
            })
        })
    }

    fn hosts(&mut self) {
        for (node, ..) in self.intent.spec.machines() {
            if let Err(missing) = self.seen.host(node) {
                self.unseen.push(missing);
            }
        }
    }

    fn etcd(&mut self, quorum: &Result<Option<Quorum>, Missing>) {
        let quorum = match quorum {
            Ok(Some(quorum)) => quorum,
            Ok(None) => return self.problem("etcd", "expected to run, seen nowhere".into()),
            Err(missing) => return self.unseen.push(missing.clone()),
        };
        for (node, machine) in &self.intent.spec.control_plane {
            let url = format!("https://{}:2380", machine.address);
            match quorum.by_peer_url(&url) {
                None => self.problem(
                    node,
                    format!("expected an etcd voter at {url}, seen no such member"),
                ),
                Some((id, member)) if member.learner => self.problem(
                    node,
                    format!("member {id}: expected a voter, seen a learner"),
                ),
                Some((id, _)) if !quorum.healthy.contains(&id) => {
                    self.problem(node, format!("member {id}: expected to follow the leader without an alarm, seen not to"));
                }
                Some(_) => {}
            }
        }
        let expected: BTreeSet<String> = self
            .intent
            .spec
            .control_plane
            .values()
            .map(|machine| format!("https://{}:2380", machine.address))
            .collect();
        for (id, member) in &quorum.members {
            if member.peer_urls.is_disjoint(&expected) {
                let urls: Vec<&str> = member.peer_urls.iter().map(String::as_str).collect();
                let name = match (member.started(), member.learner) {
                    (true, false) => member.name.as_str(),
                    (true, true) => "a learner",
                    (false, _) => "never started",
                };
                self.problem(
                    "etcd",
                    format!(
                        "member {id} ({name}, {}) is none of the file's",
                        urls.join(", ")
                    ),
                );
            }
        }
        for view in self.seen.etcd.values() {
            if let Ok(Some(view)) = view.get() {
                for (alarm, member) in &view.alarms {
                    let problem = Problem {
                        on: "etcd".into(),
                        what: format!("alarm {alarm} on member {member}"),
                    };
                    if !self.problems.contains(&problem) {
                        self.problems.push(problem);
                    }
                }
            }
        }
        if quorum.healthy.len() < needed(quorum.voter_count()) {
            let (healthy, voters) = (quorum.healthy.len(), quorum.voter_count());
            self.problem(
                "etcd",
                format!(
                    "{healthy} healthy of {voters} voters, {} needed",
                    needed(voters)
                ),
            );
        }
    }

    fn apiservers(&mut self) {
        for node in self.intent.spec.control_plane.keys() {
            match self.seen.api_at(node) {
                Ok(Some(view)) if view.readyz.ready => {}
                Ok(Some(view)) => {
                    let failing: Vec<_> = view.readyz.failing.iter().map(String::as_str).collect();
                    self.problem(
                        node,
                        format!(
                            "/readyz: expected ok, seen {} ({})",
                            view.readyz.status,
                            failing.join(", ")
                        ),
                    );
                }
                Ok(None) => self.problem(node, "expected an apiserver, seen no manifest".into()),
                Err(missing) => self.unseen.push(missing),
            }
        }
    }

    /// At the cloud's balancer: every master gets traffic, and nobody who is none.
    fn targets(&mut self) {
        let BalancerSpec::Nlb { instances, .. } = &self.intent.spec.balancer else {
            return;
        };
        for (node, instance) in instances {
            let wanted = self.intent.spec.control_plane.contains_key(node);
            match (self.seen.target(node), wanted) {
                (Ok(Target::Healthy), true) | (Ok(Target::Absent), false) => {}
                (Ok(target), _) => {
                    let expected = if wanted { "healthy" } else { "not registered" };
                    self.problem(
                        node,
                        format!("target {instance}: expected {expected}, seen {target}"),
                    );
                }
                (Err(missing), _) => self.unseen.push(missing),
            }
        }
    }

    fn balancers(&mut self) {
        let masters: BTreeSet<&NodeName> = self.intent.spec.control_plane.keys().collect();
        for (node, _) in self.intent.spec.balancers() {
            let balancer = match self.seen.host(node).and_then(|facts| facts.balancer.get()) {
                Ok(Some(balancer)) => balancer.clone(),
                Ok(None) => {
                    self.problem(node, "expected a balancer, seen none".into());
                    continue;
                }
                // The host itself is in the list of the unseen already.
                Err(_) => continue,
            };
            if !balancer.active {
                self.problem(node, "balancer: expected to run, seen stopped".into());
            }
            for master in &masters {
                if !balancer.backends.contains_key(*master) {
                    self.problem(
                        node,
                        format!("balancer: expected backend {master}, seen none"),
                    );
                } else if !balancer.up.contains(*master) {
                    self.problem(
                        node,
                        format!("balancer: backend {master} gets no connections"),
                    );
                }
            }
            for other in balancer
                .backends
                .keys()
                .filter(|name| !masters.contains(name))
            {
                self.problem(
                    node,
                    format!("balancer: backend {other} is none of the file's masters"),
                );
            }
        }
    }

    fn endpoint(&mut self) {
        let name = self.intent.spec.endpoint.to_string();
        for node in self
            .intent
            .spec
            .control_plane
            .keys()
            .chain(self.intent.spec.workers.keys())
        {
            match self.seen.host(node).and_then(|facts| facts.endpoint.get()) {
                Ok(Some(sight)) if sight.resolves.is_empty() => {
                    self.problem(node, format!("`{name}` does not resolve"))
                }
                Ok(Some(sight)) => match &sight.answer {
                    EndpointAnswer::Apiserver(readyz) if readyz.ready => {}
                    EndpointAnswer::Apiserver(readyz) => self.problem(
                        node,
                        format!(
                            "/readyz through {name}: expected ok, seen {}",
                            readyz.status
                        ),
                    ),
                    EndpointAnswer::Nobody => {
                        self.problem(node, format!("nobody answers at {name}"));
                    }
                    // It is not in the cluster yet, which is a problem of its own.
                    EndpointAnswer::Somebody => {}
                },
                Ok(None) => self
                    .unseen
                    .push(Missing::not_looked(format!("the endpoint from {node}"))),
                Err(_) => {}
            }
        }
    }

    /// Where nothing but records leads to the masters: every master that serves has one, and nobody else.
    fn records(&mut self) {
        let spec = &self.intent.spec;
        if spec.balancer != BalancerSpec::Dns {
            return;
        }
        let name = &spec.endpoint.host;
        let serves = |node: &NodeName| {
            let view = self.seen.api_at(node);
            matches!(view, Ok(Some(view)) if view.readyz.ready)
        };
        let mut told: BTreeMap<String, BTreeSet<&NodeName>> = BTreeMap::new();
        for from in spec.control_plane.keys().chain(spec.workers.keys()) {
            let sight = self.seen.host(from).and_then(|facts| facts.endpoint.get());
            // What was not seen, or does not resolve, is told by itself.
            let Some(sight) = sight.ok().and_then(Option::as_ref) else {
                continue;
            };
            if sight.resolves.is_empty() {
                continue;
            }
            let mut strangers = sight.resolves.clone();
            for (node, machine) in &spec.control_plane {
                let address = machine.address;
                let what = match (strangers.remove(&address), serves(node)) {
                    (true, true) | (false, false) => continue,
                    (false, true) => {
                        format!("`{name}`: expected a record {address} for {node}, seen none")
                    }
                    (true, false) => format!(
                        "`{name}`: a record leads to {address}, and {node} does not serve there"
                    ),
                };
                told.entry(what).or_default().insert(from);
            }
            for address in strangers {
                let what = format!(
                    "`{name}`: a record leads to {address}, which is none of the file's masters"
                );
                told.entry(what).or_default().insert(from);
            }
        }
        let told: Vec<String> = told
            .into_iter()
            .map(|(what, from)| {
                let from: Vec<&str> = from.into_iter().map(NodeName::as_str).collect();
                format!("{what} (from {})", from.join(", "))
            })
            .collect();
        for what in told {
            self.problem("endpoint", what);
        }
    }

    fn cluster(&mut self, api: &ApiView) {
        let spec = &self.intent.spec;
        let networked = match spec.network.cni {
            Cni::Flannel | Cni::Manifest { .. } => true,
            Cni::None => false,
        };
        match api.nodes.get() {
            Ok(nodes) => {
                for node in spec.control_plane.keys().chain(spec.workers.keys()) {
                    match nodes.get(node) {
                        None => self.problem(node, "expected a Node object, seen none".into()),
                        Some(object) if !object.ready && networked => {
                            self.problem(
                                node,
                                format!("node: expected Ready, seen not ready: {}", object.reason),
                            );
                        }
                        Some(object) => {
                            // Pods that are bound to it already go on; others are kept away, or sent away.
                            for pressure in &object.pressures {
                                self.problem(
                                    node,
                                    format!("node: expected no {pressure}, seen {pressure}: its kubelet takes no new pods"),
                                );
                            }
                        }
                    }
                }
                for other in nodes.keys().filter(|node| spec.machine(node).is_none()) {
                    self.problem(other, "a node that the file does not name".into());
                }
            }
            Err(missing) => self.unseen.push(missing),
        }
        self.left_over(api);
        match api.endpoints.get() {
            Ok(addresses) => {
                let wanted: BTreeSet<_> = spec
                    .control_plane
                    .values()
                    .map(|machine| machine.address)
                    .collect();
                if *addresses != wanted {
                    self.problem(
                        "cluster",
                        format!(
                            "addresses of the `kubernetes` service: expected {}, seen {}",
                            list(&wanted),
                            list(addresses)
                        ),
                    );
                }
            }
            Err(missing) => self.unseen.push(missing),
        }
        match api.workloads.get() {
            Ok(workloads) => {
                for (name, workload) in workloads {
                    if networked && workload.ready < workload.wanted {
                        self.problem(
                            "cluster",
                            format!(
                                "{name}: {} of {} pods ready",
                                workload.ready, workload.wanted
                            ),
                        );
                    }
                }
            }
            Err(missing) => self.unseen.push(missing),
        }
        if networked {
            self.dns();
        }
    }

    fn dns(&mut self) {
        for node in self
            .intent
            .spec
            .control_plane
            .keys()
            .chain(self.intent.spec.workers.keys())
        {
            match self.seen.host(node).and_then(|facts| facts.dns.get()) {
                Ok(Some(addresses)) if addresses.is_empty() => self.problem(
                    node,
                    "cluster DNS: `kubernetes.default` has no address".into(),
                ),
                Ok(Some(_)) => {}
                Ok(None) => self.unseen.push(Missing::not_looked(format!(
                    "the cluster's DNS from {node}"
                ))),
                Err(missing) => {
                    if self.seen.host(node).is_ok() {
                        self.unseen.push(missing);
                    }
                }
            }
        }
    }

    /// Workers of a cluster that was converted, which were away meanwhile: they are lost with the master that was there first.
    fn left_over(&mut self, api: &ApiView) {
        // Whoever cannot tell of its notes tells of nothing else that is missing here either.
        let Ok(Some(notes)) = api.notes.get() else {
            return;
        };
        if !notes.contains_key(ADOPTED) {
            return;
        }
        let endpoint = format!("https://{}", self.intent.spec.endpoint);
        for node in self.intent.spec.workers.keys() {
            // A host that was not seen is in the list of the unseen.
            let Ok(facts) = self.seen.host(node) else {
                continue;
            };
            match facts
                .kubeconfigs
                .get()
                .map(|files| files.get("kubelet.conf"))
            {
                Ok(Some(server)) if *server != endpoint => {
                    let what = format!(
                        "kubelet.conf: expected to lead to {endpoint}, seen {server}: `quorate convert` leads it"
                    );
                    self.problem(node, what);
                }
                Ok(Some(_) | None) => {}
                Err(missing) => self.unseen.push(missing),
            }
        }
    }

    fn expiry(&mut self) -> Option<Expiry> {
        let mut nearest: Option<Expiry> = None;
        for (node, ..) in self.intent.spec.machines() {
            let Ok(facts) = self.seen.host(node) else {
                continue;
            };
            let (Ok(machine), Ok(pki)) = (facts.machine.get(), facts.pki.get()) else {
                continue;
            };
            for (file, certificate) in &pki.certificates {
                let days_left =
                    (certificate.not_after - (machine.clock_ms / 1000) as i64).div_euclid(86_400);
                let expiry = Expiry {
                    not_after: certificate.not_after,
                    days_left,
                    node: node.clone(),
                    file: file.clone(),
                };
                if nearest.as_ref().is_none_or(|nearest| expiry < *nearest) {
                    nearest = Some(expiry);
                }
            }
        }
        if let Some(expiry) = &nearest
            && expiry.days_left < CERTIFICATE_DAYS_MIN
        {
            let what = format!("{} expires in {} days", expiry.file, expiry.days_left);
            self.problems.push(Problem {
                on: expiry.node.to_string(),
                what,
            });
        }
        nearest
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        "none".into()
    } else {
        texts.join(", ")
    }
}
