//! What there is: the situation that a plan begins from, and what of it no plan can change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    Intent, NodeName, Observation, Refusal, Spec,
    adopted::Adopted,
    guard::EARLIER_VOLUME,
    kubeadm::ClusterSettings,
    observation::{Founding, HostFacts, MachineKind, VolumeContent},
    quorum::Quorum,
    seen::{Missing, Seen},
    spec::{BringUp, Role},
};

/// What the machines are like: told by the provider before they exist, by the first control plane host that was seen otherwise. They are
/// all of one kind, so the loss of one changes nothing.
pub(in crate::planner) fn machine_kind(
    spec: &Spec,
    seen: &Observation,
) -> Result<MachineKind, Missing> {
    let mut missing = Missing::not_looked("a control plane host");
    for (i, node) in spec.control_plane.keys().enumerate() {
        let kind = match seen.infra.get(node) {
            Some(view) => view.get().map(|view| view.kind),
            None => seen.host(node).and_then(|facts| {
                let machine = facts.machine.get()?;
                Ok(MachineKind {
                    cgroup: machine.cgroup,
                    oom_score_adjustable: machine.oom_score_adjustable,
                    swap: machine.swap,
                    shared_disk: false,
                })
            }),
        };
        match kind {
            Ok(kind) => return Ok(kind),
            Err(why) if i == 0 => missing = why,
            Err(_) => {}
        }
    }
    Err(missing)
}

/// What the cluster was made with, where somebody else made it: its own note says so. Nobody can say while a master of somebody else's is
/// there and no apiserver tells.
pub(in crate::planner) fn adopted(
    spec: &Spec,
    seen: &Observation,
) -> Result<Option<Adopted>, Missing> {
    let config = match seen.api() {
        Ok(Some(api)) => api.kubeadm.get(),
        Ok(None) => return Ok(None),
        Err(missing) => Err(missing),
    };
    match config {
        Ok(config) => Ok(config
            .as_ref()
            .and_then(|config| config.adopted.as_deref().cloned())),
        Err(missing) if spec.control_plane.keys().any(|node| foreign(seen, node)) => Err(missing),
        Err(_) => Ok(None),
    }
}

/// Whether that host is a node of a cluster by somebody else's doing: it has a kubelet.conf, and Quorate installed nothing there.
pub(in crate::planner) fn foreign(seen: &Observation, node: &NodeName) -> bool {
    seen.host(node).is_ok_and(|facts| {
        matches!(facts.components.get(), Ok(None))
            && matches!(facts.kubeconfigs.get(), Ok(files) if files.contains_key("kubelet.conf"))
    })
}

pub(in crate::planner) fn settings(
    intent: &Intent,
    kind: MachineKind,
    adopted: Option<Adopted>,
) -> ClusterSettings {
    let spec = &intent.spec;
    let mut sans: BTreeSet<String> = [spec.endpoint.host.clone()].into();
    for (name, machine, role) in spec.machines() {
        match role {
            Role::ControlPlane => {
                sans.insert(name.to_string());
                sans.insert(machine.address.to_string());
            }
            Role::Balancer => {
                sans.insert(machine.address.to_string());
            }
            Role::Worker => {}
        }
    }
    sans.extend(spec.shared_address().map(|address| address.to_string()));
    if let Some(adopted) = &adopted {
        sans.extend(adopted.sans());
    }
    ClusterSettings {
        cluster: spec.name.clone(),
        kubernetes: spec.kubernetes.clone(),
        endpoint: spec.endpoint.clone(),
        sans,
        pods: spec.network.pods.clone(),
        services: spec.network.services.clone(),
        images: intent.bundle.images.clone(),
        kind,
        adopted: adopted.map(Box::new),
    }
}

/// The founding that is in progress, or the one that a cluster of blank hosts begins with. `None`: there is a cluster.
///
/// # Errors
/// [`Refusal::Unnamed`] when a master that left the file has what is left of one, [`Missing`] when a host was not seen.
pub(super) fn founding(intent: &Intent, seen: &Observation) -> Result<Option<Founding>, Refusal> {
    let spec = &intent.spec;
    let mut blank = true;
    for node in spec.control_plane.keys() {
        let facts = match seen.hosts.get(node) {
            Some(Seen::Known { value, .. }) => value,
            Some(Seen::Unknown(missing)) => return Err(missing.clone().into()),
            None => return Err(Missing::not_looked(format!("host {node}")).into()),
        };
        match facts.founding.get()? {
            Some(founding) if !founding.done => {
                return in_progress(spec, seen, node, founding);
            }
            Some(_) => blank = false,
            None => {}
        }
        let data = facts.etcd_data.get()?;
        if data.wal || data.marker.is_some() || facts.manifests.get()?.contains_key("etcd") {
            blank = false;
        }
        if earlier_volume(facts)? {
            blank = false;
        }
    }
    if !blank {
        return Ok(None);
    }
    // Masters that were made anew are blank, too: what they had may be left on one that the file names no more.
    let mut left = BTreeSet::new();
    for (node, _, role) in intent.machines() {
        if role.is_none() {
            let data = seen.host(node)?.etcd_data.get()?;
            if data.wal || data.marker.is_some() {
                left.insert(node.to_string());
            }
        }
    }
    if !left.is_empty() {
        return Err(Refusal::Unnamed { names: left });
    }
    let nodes = match spec.bring_up {
        BringUp::Together => spec.control_plane.keys().cloned().collect(),
        BringUp::OneByOne => spec.control_plane.keys().take(1).cloned().collect(),
    };
    Ok(Some(Founding::of(nodes)))
}

/// A founding that the file no longer names all founders of is over where a majority of them decides: then it is an ordinary cluster that
/// some leave.
///
/// # Errors
/// [`Refusal::NotBlank`] where nobody decides: who is missing may be just the one that is needed.
fn in_progress(
    spec: &Spec,
    seen: &Observation,
    node: &NodeName,
    founding: &Founding,
) -> Result<Option<Founding>, Refusal> {
    let named = |node: &NodeName| spec.control_plane.contains_key(node);
    if founding.nodes.iter().all(named) {
        return Ok(Some(founding.clone()));
    }
    if matches!(Quorum::of(seen), Ok(Some(_))) {
        return Ok(None);
    }
    let names: Vec<&str> = founding.nodes.iter().map(NodeName::as_str).collect();
    Err(Refusal::NotBlank {
        node: node.clone(),
        found: format!("a founding of {} in progress", names.join(", ")),
    })
}

/// Control plane hosts that vote.
///
/// # Errors
/// [`Refusal::Unnamed`] when none of the file's masters is one, [`Refusal::NotBlank`] when data lies there and no etcd runs, [`Missing`]
/// when nobody can say.
pub(in crate::planner) fn voters(
    spec: &Spec,
    seen: &Observation,
    founding: Option<&Founding>,
) -> Result<BTreeSet<NodeName>, Refusal> {
    let quorum = match (founding, Quorum::of(seen)) {
        (_, Ok(Some(quorum))) => quorum,
        // While a founding is in progress its etcd may not answer yet.
        (Some(_), Ok(None) | Err(_)) => return Ok(BTreeSet::new()),
        (None, Ok(None)) => return Err(not_blank(spec, seen)?),
        (None, Err(missing)) => return Err(missing.into()),
    };
    let mut voters = BTreeSet::new();
    let mut unnamed = BTreeSet::new();
    let peers = spec.peers();
    for (id, member) in &quorum.members {
        match peers
            .iter()
            .find(|peer| member.peer_urls.contains(&peer.peer_url()))
        {
            Some(peer) if !member.learner => {
                voters.insert(peer.name.clone());
            }
            Some(_) => {}
            None => {
                unnamed.insert(if member.started() {
                    member.name.clone()
                } else {
                    id.to_string()
                });
            }
        }
    }
    // Members that the file does not name leave, unless nobody would be left that it does name: then it is another cluster's file.
    if unnamed.is_empty() || (founding.is_none() && !voters.is_empty()) {
        Ok(voters)
    } else {
        Err(Refusal::Unnamed { names: unnamed })
    }
}

/// Nobody has looked yet at what lies on etcd's volume of an earlier life of this host: it may be the last copy of a cluster.
fn earlier_volume(facts: &HostFacts) -> Result<bool, Missing> {
    let volume = facts.etcd_volume.get()?.as_ref();
    Ok(volume.is_some_and(|volume| volume.content == VolumeContent::Earlier))
}

/// No etcd runs anywhere, and yet not every host is blank: which one, and what lies there.
fn not_blank(spec: &Spec, seen: &Observation) -> Result<Refusal, Missing> {
    for node in spec.control_plane.keys() {
        let facts = seen.host(node)?;
        let data = facts.etcd_data.get()?;
        let found = match (&data.marker, data.wal) {
            (Some(marker), _) => format!("the marker of etcd member {}", marker.member),
            (None, true) => "etcd data".into(),
            (None, false) if facts.founding.get()?.is_some() => "a founding that is over".into(),
            (None, false) if earlier_volume(facts)? => EARLIER_VOLUME.into(),
            (None, false) => continue,
        };
        return Ok(Refusal::NotBlank {
            node: node.clone(),
            found,
        });
    }
    Ok(Missing::not_looked("etcd").into())
}

/// Voters that everything else about the cluster is done by, so that a master that is joining changes nothing in the rest of the plan:
/// those that founded, or, where none of them is left, those that nobody else was there before. One whose control plane was ended, to
/// leave, has to come back like a joiner.
///
/// # Errors
/// [`Missing`] when a voter's host was not seen.
pub(in crate::planner) fn established(
    seen: &Observation,
    voters: &BTreeSet<NodeName>,
) -> Result<BTreeSet<NodeName>, Missing> {
    let mut founders = BTreeSet::new();
    let mut joined: BTreeMap<NodeName, BTreeSet<String>> = BTreeMap::new();
    for node in voters {
        let manifests = seen.host(node)?.manifests.get()?;
        let etcd = manifests.get("etcd");
        if etcd.is_some() && !manifests.contains_key("kube-apiserver") {
            continue;
        }
        match etcd.filter(|etcd| etcd.flag("initial-cluster-state") == Some("existing")) {
            Some(etcd) => {
                // The members there were when it joined.
                let members = etcd.flag("initial-cluster").unwrap_or_default();
                let names = members
                    .split(',')
                    .filter_map(|entry| entry.split_once('='))
                    .map(|(name, _)| name.to_owned());
                joined.insert(node.clone(), names.collect());
            }
            None => {
                founders.insert(node.clone());
            }
        }
    }
    if !founders.is_empty() {
        return Ok(founders);
    }
    let found = |node: &NodeName, other: &NodeName| {
        joined
            .get(node)
            .is_some_and(|names| names.contains(other.as_str()))
    };
    let oldest = joined.keys().filter(|node| {
        joined
            .keys()
            .all(|other| other == *node || !found(node, other) || found(other, node))
    });
    let oldest: BTreeSet<NodeName> = oldest.cloned().collect();
    Ok(if oldest.is_empty() {
        voters.clone()
    } else {
        oldest
    })
}

/// Hosts believe the same certificate authority as the first control plane host, or none yet: masters by what they issue from, workers by what
/// they joined by.
///
/// # Errors
/// [`Refusal::ForeignAuthority`]; [`Missing`] when a host was not seen.
pub(in crate::planner) fn one_authority<'a>(
    seen: &Observation,
    first: &NodeName,
    masters: impl IntoIterator<Item = &'a NodeName>,
    workers: impl IntoIterator<Item = &'a NodeName>,
) -> Result<(), Refusal> {
    let authority = &seen.host(first)?.pki.get()?.authority;
    for node in masters {
        let own = &seen.host(node)?.pki.get()?.authority;
        if authority.is_some() && own.is_some() && own != authority {
            return Err(Refusal::ForeignAuthority {
                node: node.clone(),
                other: first.clone(),
            });
        }
    }
    // A worker of another kubeadm cluster carries no mark of ours, and the CA it joined by.
    let authority = &seen.host(first)?.pki.get()?.cluster_ca;
    for node in workers {
        let own = &seen.host(node)?.pki.get()?.cluster_ca;
        if own.is_some() && own != authority {
            return Err(Refusal::ForeignAuthority {
                node: node.clone(),
                other: first.clone(),
            });
        }
    }
    Ok(())
}

/// What the running cluster was made with is what the file says: no verb changes it yet, and steps of a plan that assumed otherwise would
/// half-change it.
///
/// # Errors
/// [`Refusal::Unchangeable`].
pub(in crate::planner) fn unchanged(spec: &Spec, seen: &Observation) -> Result<(), Refusal> {
    // Without a ready apiserver there is nothing to compare with yet; whoever needs one says so.
    let Ok(Some(api)) = seen.api() else {
        return Ok(());
    };
    let Ok(Some(config)) = api.kubeadm.get() else {
        return Ok(());
    };
    for (what, is, wanted) in [
        (
            "controlPlaneEndpoint",
            &config.endpoint,
            &spec.endpoint.to_string(),
        ),
        ("kubernetesVersion", &config.kubernetes, &spec.kubernetes),
    ] {
        if is != wanted {
            return Err(Refusal::Unchangeable {
                what: what.into(),
                is: is.clone(),
                wanted: wanted.clone(),
            });
        }
    }
    same_balancers(spec, seen)
}

/// Masters that share an address go on sharing that one, and others do not begin: everybody would have to be led elsewhere.
fn same_balancers(spec: &Spec, seen: &Observation) -> Result<(), Refusal> {
    const WHAT: &str = "where the balancer is";
    let text = |address: Option<IpAddr>| match address {
        Some(address) => format!("on the masters, behind {address}"),
        None => "not on the masters".to_owned(),
    };
    let wanted = spec.shared_address();
    let mut balances = None;
    for facts in spec
        .control_plane
        .keys()
        .filter_map(|node| seen.host(node).ok())
    {
        if let Some(share) = &facts.sharing.get()?.share
            && Some(share.address) != wanted
        {
            return Err(Refusal::Unchangeable {
                what: WHAT.into(),
                is: text(Some(share.address)),
                wanted: text(wanted),
            });
        }
        balances = Some(balances == Some(true) || facts.balancer.get()?.is_some());
    }
    // They are prepared before there is a cluster.
    if balances == Some(false) && wanted.is_some() {
        return Err(Refusal::Unchangeable {
            what: WHAT.into(),
            is: text(None),
            wanted: text(wanted),
        });
    }
    Ok(())
}
