//! A cluster that somebody else made with one master gets the endpoint and the masters of its file. Start at [`plan`]; what no conversion can
//! carry over is in [`obstacles`], who still uses the old address in [`census`], and the order is argued in `docs/design/0005-conversion.md`.
//!
//! The one master goes on serving its old address, so every stage up to the first join can be taken back: see [`super::unconvert`].

pub mod adoption;
pub(super) mod census;
mod foreseen;
pub(super) mod obstacles;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Draft,
    converge::{self, Convergence, situation},
    preflight, records,
};
use crate::{
    Goal, Intent, NodeName, Observation, Planning, Refusal,
    adopted::Adopted,
    intent::Landmark,
    kubeadm::{ClusterSettings, Peer},
    observation::{ApiView, HostFacts, KeptObjects},
    quorum::Quorum,
    seen::Missing,
    step::{HostEnsure, Reason, Step},
};

pub(super) fn plan(intent: &Intent, seen: &Observation, pause_after: Option<Landmark>) -> Planning {
    let mut draft = Draft {
        refused: preflight::held(intent, seen),
        ..Draft::default()
    };
    if !draft.refused.is_empty() {
        return draft.finish();
    }
    if let Some(planning) = converge::stopped_machines(intent, seen) {
        return planning;
    }
    let away = workers_away(intent, seen);
    for refusal in preflight::refusals_of(intent, seen, |node| !away.contains_key(node)) {
        draft.refuse(refusal);
    }
    for (node, missing) in away {
        let seen = missing.to_string();
        let refusal = Refusal::WorkerAway { node, seen };
        if !refusal.accepted(&intent.accepted) {
            draft.refuse(refusal);
        }
    }
    if intent.bundle.kubernetes != intent.spec.kubernetes {
        draft.refuse(Refusal::BundleVersion {
            bundle: intent.bundle.kubernetes.clone(),
            wanted: intent.spec.kubernetes.clone(),
        });
    }
    let drafted = Foreign::of(intent, seen)
        .and_then(|foreign| Conversion::of(&foreign, &mut draft)?.draft(&mut draft, pause_after));
    if let Err(refusal) = drafted {
        draft.refuse(refusal);
    }
    draft.finish()
}

/// Workers that do not answer. They cannot be led anywhere now; whether they may be left over is for the operator to say.
fn workers_away(intent: &Intent, seen: &Observation) -> BTreeMap<NodeName, Missing> {
    let unseen = |node: &NodeName| Some((node.clone(), seen.host(node).err()?));
    intent.spec.workers.keys().filter_map(unseen).collect()
}

/// Somebody else's cluster as it is, or was before it was begun with.
pub(super) struct Foreign<'a> {
    pub(super) intent: &'a Intent,
    pub(super) seen: &'a Observation,
    /// The master that was there first.
    pub(super) original: Peer,
    pub(super) facts: &'a HostFacts,
    pub(super) api: &'a ApiView,
    /// Control plane hosts that vote.
    pub(super) voters: BTreeSet<NodeName>,
    /// Workers that do not answer: they are left over, for a later conversion.
    pub(super) away: BTreeSet<NodeName>,
}

impl<'a> Foreign<'a> {
    /// # Errors
    /// What the members of etcd refuse; [`Missing`] when the master or its API cannot be seen.
    pub(super) fn of(intent: &'a Intent, seen: &'a Observation) -> Result<Self, Refusal> {
        obstacles::external_etcd(seen)?;
        let quorum = Quorum::of(seen)?.ok_or_else(|| Missing::not_looked("a running etcd"))?;
        obstacles::peer_urls(intent, seen, &quorum)?;
        let voters = situation::voters(&intent.spec, seen, None)?;
        let established = situation::established(seen, &voters)?;
        let original = established
            .first()
            .and_then(|node| intent.spec.peer(node))
            .ok_or_else(|| Missing::not_looked("a master that votes"))?;
        let facts = seen.host(&original.name)?;
        let api = seen
            .api()?
            .ok_or_else(|| Missing::not_looked("the cluster's API"))?;
        Ok(Self {
            intent,
            seen,
            original,
            facts,
            api,
            voters,
            // The way back is known by what is kept everywhere: it is not begun without somebody.
            away: match intent.goal {
                Goal::Unconvert => BTreeSet::new(),
                Goal::Convert { .. }
                | Goal::Converge
                | Goal::Replace { .. }
                | Goal::Remove { .. }
                | Goal::RetireOldAddress { .. }
                | Goal::KeepOldAddress
                | Goal::Repair => workers_away(intent, seen).into_keys().collect(),
            },
        })
    }

    /// What the cluster kept before it was begun with. `None`: it was not begun with.
    pub(super) fn kept(&self) -> Result<Option<&'a KeptObjects>, Missing> {
        let backup = self.facts.conversion()?.backup.get()?.as_ref();
        Ok(backup.and_then(|backup| backup.objects.as_ref()))
    }

    /// What it was made with. What was kept counts first, so that it stays the same while `kubeadm-config` is changed.
    pub(super) fn adopted(&self) -> Result<&'a Adopted, Refusal> {
        if let Some(kept) = self.kept()? {
            return Ok(&kept.adopted);
        }
        let config = self.api.kubeadm.get()?.as_ref();
        let adopted = config.and_then(|config| config.adopted.as_deref());
        adopted.ok_or_else(|| Refusal::NotConvertible {
            what: "ConfigMap kube-system/kubeadm-config".into(),
            seen: "there is none that kubeadm wrote".into(),
            way: "only clusters made by kubeadm are converted".into(),
            mendable: false,
        })
    }

    /// Its `controlPlaneEndpoint` before. Empty: it had none.
    fn old_endpoint(&self) -> Result<&'a str, Missing> {
        if let Some(kept) = self.kept()? {
            return Ok(&kept.endpoint);
        }
        let config = self.api.kubeadm.get()?.as_ref();
        Ok(config.map_or("", |config| config.endpoint.as_str()))
    }

    /// Servers that clients are to leave: the master's own address, and what the cluster called its endpoint before.
    pub(super) fn old_servers(&self) -> Result<BTreeSet<String>, Missing> {
        let own = format!("https://{}:6443", self.original.address);
        let mut old: BTreeSet<String> = [own].into();
        let before = self.old_endpoint()?;
        if !before.is_empty() {
            let port = if before.contains(':') { "" } else { ":6443" };
            old.insert(format!("https://{before}{port}"));
        }
        old.remove(&format!("https://{}", self.intent.spec.endpoint));
        Ok(old)
    }

    /// The workers of the file that are in the cluster and answer, in order.
    pub(super) fn workers(&self) -> Result<Vec<Peer>, Missing> {
        let mut found = Vec::new();
        let workers = self.intent.spec.workers.keys();
        for node in workers.filter(|node| !self.away.contains(*node)) {
            let joined = self
                .seen
                .host(node)?
                .kubeconfigs
                .get()?
                .contains_key("kubelet.conf");
            if joined {
                found.extend(self.intent.spec.peer(node));
            }
        }
        Ok(found)
    }

    /// Nodes that run kube-proxy, in the order they are led: a worker first, on which nothing of the control plane depends.
    pub(super) fn proxies(&self) -> Result<Vec<NodeName>, Missing> {
        let mut nodes: Vec<NodeName> = self.workers()?.into_iter().map(|peer| peer.name).collect();
        nodes.push(self.original.name.clone());
        Ok(nodes)
    }

    /// Settings of the cluster as it shall be: what it was made with, under the endpoint and with every name that it had and is to have.
    pub(super) fn settings(&self) -> Result<ClusterSettings, Refusal> {
        let spec = &self.intent.spec;
        let kind = situation::machine_kind(spec, self.seen)?;
        let adopted = self.adopted()?;
        let mut settings = situation::settings(self.intent, kind, Some(adopted.clone()));
        let serving = self.facts.pki.get()?.certificates.get("pki/apiserver.crt");
        let names = serving.into_iter().flat_map(|serving| &serving.sans);
        // kubeadm adds these by itself.
        let own = |name: &&String| !name.starts_with("kubernetes");
        settings.sans.extend(names.filter(own).cloned());
        if let Some((host, _)) = self.old_endpoint()?.rsplit_once(':') {
            settings.sans.insert(host.to_owned());
        }
        Ok(settings)
    }

    pub(super) fn step(&self, on: &NodeName, ensure: HostEnsure, because: Reason) -> Step {
        Step::on_host(on, ensure, because)
    }
}

struct Conversion<'a> {
    foreign: &'a Foreign<'a>,
    convergence: Convergence<'a>,
    old: BTreeSet<String>,
}

impl<'a> Conversion<'a> {
    fn of(foreign: &'a Foreign<'a>, draft: &mut Draft) -> Result<Self, Refusal> {
        for refusal in obstacles::all(foreign)? {
            draft.refuse(refusal);
        }
        let mut convergence = Convergence::of_foreign(
            foreign.intent,
            foreign.seen,
            foreign.settings()?,
            foreign.voters.clone(),
        );
        let Foreign { intent, seen, .. } = foreign;
        if Quorum::of(seen)?.is_some_and(|quorum| quorum.members.len() == 1) {
            convergence.targets_told(draft);
            let leads = records::one_master(intent, seen, &foreign.original, &foreign.away);
            if let Err(refusal) = leads {
                draft.refuse(refusal);
            }
        }
        if !foreign.away.is_empty() {
            let machines = foreign.intent.spec.machines().map(|(node, ..)| node);
            let answers = machines.filter(|node| !foreign.away.contains(*node));
            convergence.only = Some(answers.cloned().collect());
        }
        Ok(Self {
            foreign,
            old: foreign.old_servers()?,
            convergence,
        })
    }

    fn draft(&self, draft: &mut Draft, pause_after: Option<Landmark>) -> Result<(), Refusal> {
        let Foreign {
            intent,
            seen,
            original,
            ..
        } = self.foreign;
        let first = &original.name;
        let spec = &intent.spec;
        let masters: BTreeSet<NodeName> = [first.clone()].into();
        let workers = spec.workers.keys();
        let workers = workers.filter(|node| !self.foreign.away.contains(*node));
        situation::one_authority(seen, first, spec.control_plane.keys(), workers)?;

        self.convergence.machines(draft);
        self.convergence.hosts(draft);
        // Compared before anything is kept or changed: what its owner mends in the cluster is then part of what is kept.
        let joins = |node: &&NodeName| *node != first && !self.foreign.voters.contains(*node);
        let joiners: Vec<NodeName> = spec.control_plane.keys().filter(joins).cloned().collect();
        self.convergence.rehearse(draft, &joiners)?;
        self.back_up(draft)?;
        let paused = |landmark| pause_after == Some(landmark);
        if paused(Landmark::Backup) {
            return Ok(());
        }
        self.convergence.serving(draft, &masters);
        self.convergence.backends(draft, first, &masters);
        self.convergence.share(draft, &masters);
        self.endpoint_leads(draft)?;
        let settings = || self.convergence.settings.clone();
        let on_first = |ensure| vec![self.foreign.step(first, ensure, Reason::Converts)];
        let certificate = on_first(HostEnsure::ServingCertificate {
            settings: settings(),
            node: original.clone(),
        });
        let title = "Serve a certificate with the new names";
        draft.stage(seen, title, None, certificate);
        if paused(Landmark::Certificate) {
            return Ok(());
        }
        let configuration = on_first(HostEnsure::Configuration {
            settings: settings(),
            node: original.clone(),
        });
        draft.stage(seen, "Tell kubeadm the endpoint", None, configuration);
        if paused(Landmark::Configuration) {
            return Ok(());
        }
        let server = format!("https://{}", spec.endpoint);
        // Some take it away so that nobody can ask for it; then nobody is misled either.
        if self.foreign.api.cluster_info.get()?.is_some() {
            let info = on_first(HostEnsure::ClusterInfo {
                server: server.clone(),
            });
            draft.stage(seen, "Lead joiners to the endpoint", None, info);
        }
        if paused(Landmark::ClusterInfo) {
            return Ok(());
        }
        lead_proxies(self.foreign, draft, &server, Some(&spec.endpoint))?;
        if paused(Landmark::KubeProxy) {
            return Ok(());
        }
        self.lead_kubeconfigs(draft)?;
        if paused(Landmark::Kubeconfigs) {
            return Ok(());
        }
        // Only when it is its turn: until then everybody is there, as they should be.
        if draft.planning_stages.is_empty() && self.foreign.voters.len() == 1 {
            for refusal in census::refusals(self.foreign)? {
                draft.refuse(refusal);
            }
        }
        self.join(draft, first)
    }

    fn back_up(&self, draft: &mut Draft) -> Result<(), Refusal> {
        let original = &self.foreign.original;
        let backed_up = |node: Peer, master| {
            let on = node.name.clone();
            let ensure = HostEnsure::BackedUp { node, master };
            self.foreign.step(&on, ensure, Reason::Keeps)
        };
        let mut steps = vec![backed_up(original.clone(), true)];
        for worker in self.foreign.workers()? {
            steps.push(backed_up(worker, false));
        }
        let title = "Back up before anything is changed";
        draft.stage(self.foreign.seen, title, None, steps);
        // A machine that is lost in the middle takes what lies on it along.
        let on = original.name.clone();
        let ensure = HostEnsure::BackupOffHost {
            node: original.clone(),
        };
        let steps = vec![self.foreign.step(&on, ensure, Reason::Keeps)];
        let title = "Carry the backup off the master, sealed";
        draft.stage(self.foreign.seen, title, None, steps);
        Ok(())
    }

    /// Nobody is led to an endpoint that does not lead on. Only when it is its turn: the stage before gives the balancer its backend.
    fn endpoint_leads(&self, draft: &mut Draft) -> Result<(), Refusal> {
        if !draft.planning_stages.is_empty() {
            return Ok(());
        }
        let workers = self.foreign.workers()?;
        // Some balancers do not lead a host back to itself: where there are workers, they speak for it.
        let mut asked: Vec<&NodeName> = workers.iter().map(|peer| &peer.name).collect();
        if asked.is_empty() {
            asked.push(&self.foreign.original.name);
        }
        let mut silent = BTreeSet::new();
        let mut resolves = BTreeSet::new();
        for node in asked {
            let facts = self.foreign.seen.host(node)?;
            if facts.conversion()?.leads.get()?.is_none() {
                silent.insert(node.clone());
                let sight = facts.endpoint.get()?.as_ref();
                resolves.extend(sight.into_iter().flat_map(|sight| &sight.resolves).copied());
            }
        }
        if silent.is_empty() {
            return Ok(());
        }
        let original = &self.foreign.original;
        let address = std::net::SocketAddr::new(original.address, 6443);
        draft.refuse(Refusal::EndpointSilent {
            nodes: silent,
            endpoint: self.foreign.intent.spec.endpoint.to_string(),
            resolves,
            backends: [(original.name.clone(), address)].into(),
        });
        Ok(())
    }

    /// The master's first, which are people's, then one worker after the other.
    fn lead_kubeconfigs(&self, draft: &mut Draft) -> Result<(), Refusal> {
        let mut nodes = vec![(self.foreign.original.clone(), true)];
        let workers = self.foreign.workers()?;
        nodes.extend(workers.into_iter().map(|worker| (worker, false)));
        for (node, master) in nodes {
            let on = node.name.clone();
            let ensure = HostEnsure::Kubeconfigs {
                node,
                endpoint: self.foreign.intent.spec.endpoint.clone(),
                old: self.old.clone(),
                master,
            };
            let title = format!("Lead {on} to the endpoint");
            let step = self.foreign.step(&on, ensure, Reason::Converts);
            draft.stage(self.foreign.seen, &title, None, vec![step]);
        }
        Ok(())
    }

    fn join(&self, draft: &mut Draft, first: &NodeName) -> Result<(), Refusal> {
        let seen = self.foreign.seen;
        let guarded = self
            .foreign
            .step(first, HostEnsure::Guarded {}, Reason::Protects);
        draft.stage(seen, "Guard the master", None, vec![guarded]);
        let masters = self.foreign.intent.spec.control_plane.keys();
        let joiners = masters.filter(|node| *node != first).cloned().collect();
        self.convergence
            .exchange(draft, first, joiners, Vec::new())?;
        let spread = HostEnsure::DnsSpread {};
        let step = self.foreign.step(first, spread, Reason::Converts);
        draft.stage(seen, "Spread cluster DNS", None, vec![step]);
        Ok(())
    }
}

/// kube-proxy's configuration, then one node's, then the others'.
pub(super) fn lead_proxies(
    foreign: &Foreign<'_>,
    draft: &mut Draft,
    server: &str,
    via: Option<&crate::observation::EndpointName>,
) -> Result<(), Refusal> {
    let first = &foreign.original.name;
    let because = if foreign.intent.goal == Goal::Unconvert {
        Reason::TakenBack
    } else {
        Reason::Converts
    };
    let config = HostEnsure::ProxyConfig {
        server: server.to_owned(),
    };
    let steps = vec![foreign.step(first, config, because.clone())];
    draft.stage(foreign.seen, "Lead kube-proxy elsewhere", None, steps);
    let mut steps = foreign.proxies()?.into_iter().map(|node| {
        let ensure = HostEnsure::Proxy {
            node,
            server: server.to_owned(),
            via: via.cloned(),
        };
        foreign.step(first, ensure, because.clone())
    });
    let one: Vec<Step> = steps.next().into_iter().collect();
    let others: Vec<Step> = steps.collect();
    let title = "Start kube-proxy anew on one node";
    draft.stage(foreign.seen, title, None, one);
    let title = "Start kube-proxy anew on the others";
    draft.stage(foreign.seen, title, None, others);
    Ok(())
}
