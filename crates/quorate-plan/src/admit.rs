//! The last gate, on the host: the fence, then the permit, with a fresh look. A host executes only what is [`Admitted`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    MemberId, Observation,
    change::{Change, Permit},
    guard::{permit, promotable, resettable, restartable, serves, volume_of_nobody},
    intent::{Acceptance, Fence},
    observation::{Fencing, Receipt},
    refusal::Refusal,
    step::HostEnsure,
};

/// What a host is asked to make stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The operator's token.
    pub fence: Fence,
    /// The end state.
    pub ensure: HostEnsure,
    /// The change of the stage this belongs to.
    pub change: Option<Change>,
    /// What other hosts give, sealed to this one.
    pub sealed: Vec<Sealed>,
    /// What the operator's machine has of this host's backup, for [`HostEnsure::BackupOffHost`].
    #[serde(default)]
    pub receipt: Option<Receipt>,
    /// Risks accepted by name.
    pub accepted: BTreeSet<Acceptance>,
    /// What the operator's machine saw of the hosts that this one cannot see.
    pub testimony: Observation,
}

/// An age file (armored) for one host's ephemeral recipient. Nobody between the two can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

/// An age recipient (`age1…`) that a host made for one request; its identity never leaves the host's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipient(pub String);

/// A request that passed the fence and, where it changes the quorum, the guard. Made only by [`admit`].
#[derive(Debug)]
#[must_use = "an admitted request is there to be executed"]
#[non_exhaustive]
pub struct Admitted {
    /// The end state.
    pub ensure: HostEnsure,
    /// What other hosts gave.
    pub sealed: Vec<Sealed>,
    /// The permission for the change, taken by value by whoever changes membership.
    pub permit: Option<Permit>,
}

/// Admits a request or refuses it. `fencing` is this host's own; `seen` is the testimony with this host's own fresh look in it.
///
/// # Errors
/// [`Refusal::Fenced`] when a higher token was seen here; [`Refusal::Unpermitted`] when the action changes membership and the request
/// does not name exactly that change; otherwise whatever [`permit`] refuses.
pub fn admit(request: Request, fencing: &Fencing, seen: &Observation) -> Result<Admitted, Refusal> {
    if request.fence < fencing.highest {
        let holder = fencing.claim.as_ref().map_or_else(
            || "an operation that has ended".to_owned(),
            |claim| claim.operator.to_string(),
        );
        return Err(Refusal::Fenced {
            token: request.fence,
            highest: fencing.highest,
            holder,
        });
    }
    let permit = match (&request.change, needed_change(&request.ensure)) {
        (None, Needed::None) => None,
        (Some(change), Needed::None) => Some(permit(seen, change, &request.accepted)?),
        (Some(change), Needed::Exactly(needed)) if *change == needed => {
            Some(permit(seen, change, &request.accepted)?)
        }
        (Some(change @ Change::RemoveMember { id, .. }), Needed::Removal(member))
            if *id == member =>
        {
            Some(permit(seen, change, &request.accepted)?)
        }
        (_, Needed::Exactly(_) | Needed::Removal(_) | Needed::Never) => {
            return Err(Refusal::Unpermitted {
                action: request.ensure.to_string(),
            });
        }
    };
    if let HostEnsure::Voter { joiner } = &request.ensure {
        promotable(seen, joiner)?;
    }
    if let HostEnsure::Reset { node } = &request.ensure {
        resettable(seen, node)?;
    }
    if let HostEnsure::EtcdVolume { node, .. } = &request.ensure {
        volume_of_nobody(seen, node)?;
    }
    if let HostEnsure::FoundingAside { founding } = &request.ensure {
        restartable(seen, &founding.nodes)?;
    }
    if let HostEnsure::Backend { backend, .. } = &request.ensure {
        serves(seen, backend)?;
    }
    Ok(Admitted {
        ensure: request.ensure,
        sealed: request.sealed,
        permit,
    })
}

/// The change that an action is a part of.
enum Needed {
    /// None: it costs no quorum.
    None,
    /// This one and no other: a permit for one host is none for its neighbour.
    Exactly(Change),
    /// The removal of this member, whatever follows it.
    Removal(MemberId),
    /// No change contains it.
    Never,
}

/// What an action needs. Exhaustive on purpose: a new action has to say.
fn needed_change(ensure: &HostEnsure) -> Needed {
    match ensure {
        HostEnsure::Learner { joiner } | HostEnsure::Voter { joiner } => {
            Needed::Exactly(Change::AddVoter {
                node: joiner.name.clone(),
            })
        }
        HostEnsure::EtcdMember { node, founders, .. } if founders.is_empty() => {
            Needed::Exactly(Change::AddVoter {
                node: node.name.clone(),
            })
        }
        HostEnsure::EtcdMember { founders, .. } => Needed::Exactly(Change::Found {
            nodes: founders.iter().map(|peer| peer.name.clone()).collect(),
        }),
        HostEnsure::FoundingAside { founding } => Needed::Exactly(Change::Found {
            nodes: founding.nodes.clone(),
        }),
        HostEnsure::MemberGone { member, .. }
        | HostEnsure::LeaderMoved { member, .. }
        | HostEnsure::ControlPlaneGone { member } => Needed::Removal(*member),
        // New authorities are made for a founding: anywhere else they would cut a host off from its cluster.
        HostEnsure::Authority { founding, of: None } => match founding {
            Some(founding) => Needed::Exactly(Change::Found {
                nodes: founding.nodes.clone(),
            }),
            None => Needed::Never,
        },
        HostEnsure::Authority { of: Some(_), .. }
        | HostEnsure::Prepared { .. }
        | HostEnsure::EtcdVolume { .. }
        | HostEnsure::Bundle { .. }
        | HostEnsure::Components { .. }
        | HostEnsure::Images { .. }
        | HostEnsure::Balancer { .. }
        | HostEnsure::Certificates { .. }
        | HostEnsure::ControlPlane { .. }
        | HostEnsure::Kubelet { .. }
        | HostEnsure::Serving { .. }
        | HostEnsure::Backend { .. }
        | HostEnsure::ClusterConfig { .. }
        | HostEnsure::ClusterDns { .. }
        | HostEnsure::Registered { .. }
        | HostEnsure::Guarded {}
        | HostEnsure::FoundingOver {}
        | HostEnsure::Network { .. }
        | HostEnsure::Worker { .. }
        | HostEnsure::TokensGone {}
        | HostEnsure::Rehearsed { .. }
        | HostEnsure::BackendGone { .. }
        | HostEnsure::NodeGone { .. }
        | HostEnsure::EndpointGone { .. }
        | HostEnsure::Reset { .. }
        | HostEnsure::UploadedCertsGone {}
        | HostEnsure::BackedUp { .. }
        | HostEnsure::BackupOffHost { .. }
        | HostEnsure::ServingCertificate { .. }
        | HostEnsure::ServingCertificateKept { .. }
        | HostEnsure::Configuration { .. }
        | HostEnsure::ConfigurationKept { .. }
        | HostEnsure::ClusterInfo { .. }
        | HostEnsure::ProxyConfig { .. }
        | HostEnsure::Proxy { .. }
        | HostEnsure::Kubeconfigs { .. }
        | HostEnsure::KubeconfigsKept { .. }
        | HostEnsure::DnsSpread {}
        | HostEnsure::OldAddress { .. }
        | HostEnsure::Keepalived {}
        | HostEnsure::SharedAddress { .. }
        | HostEnsure::SharedAddressPeerGone { .. }
        | HostEnsure::SharedAddressGone {}
        | HostEnsure::BackupAside {} => Needed::None,
    }
}
