//! The gate of a host: its fence, and what it seals to others. Start at [`World::claim`].

use std::sync::Arc;

use quorate_plan::{
    Claim, Fence, Handover, NodeName, Operator, Refusal, Sealed, admit::Recipient,
    observation::Fencing,
};
use serde::{Deserialize, Serialize};

use super::{
    World,
    act::{ActError, failed},
};

/// What one host seals to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parcel {
    to: String,
    what: Contents,
}

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Contents {
    CaSet { authority: String },
    ClusterCa { ca: String },
    JoinToken { id: String, ca: String },
}

/// The cluster CA of a CA set.
pub(super) fn cluster_ca(authority: &str) -> String {
    format!("ca of {authority}")
}

impl World {
    /// A host's fence, as it tells it.
    pub fn fencing(&self, node: &NodeName) -> Fencing {
        let machine = self.machine(node);
        Fencing {
            highest: machine.disk.fence,
            claim: machine.disk.claim.as_deref().cloned(),
            connected: machine.memory.connected,
        }
    }

    /// An operator takes the fence of a host.
    ///
    /// # Errors
    /// When a higher token was seen here, or another's operation is in force and its operator is connected.
    pub fn claim(&mut self, node: &NodeName, claim: &Claim) -> Result<Fencing, ActError> {
        if !self.machine(node).answers() {
            return Err(ActError::Gone);
        }
        let fencing = self.fencing(node);
        if claim.fence < fencing.highest {
            return Err(Self::outranked(&fencing, claim.fence).into());
        }
        match &fencing.claim {
            // The same run again, perhaps over a new channel.
            Some(held) if held.operator == claim.operator => {}
            _ if claim.fence == fencing.highest => {
                return Err(Self::outranked(&fencing, claim.fence).into());
            }
            // Somebody else may finish what was begun, not begin something else over it.
            Some(held) => {
                let own = (&held.operator.user, &held.operator.machine)
                    == (&claim.operator.user, &claim.operator.machine);
                if fencing.connected || !(own || held.intent.is_the_same_as(&claim.intent)) {
                    return Err(Refusal::OperationInForce {
                        holder: held.operator.to_string(),
                        goal: held.intent.goal.to_string(),
                        hosts: [node.clone()].into(),
                    }
                    .into());
                }
            }
            None => {}
        }
        let machine = self.machine_mut(node);
        machine.disk.fence = claim.fence;
        machine.disk.claim = Some(Arc::new(claim.clone()));
        machine.memory.connected = true;
        Ok(self.fencing(node))
    }

    /// An operator gives the fence of a host back.
    ///
    /// # Errors
    /// When somebody else holds it.
    pub fn release(&mut self, node: &NodeName, fence: Fence) -> Result<(), ActError> {
        if !self.machine(node).answers() {
            return Err(ActError::Gone);
        }
        let fencing = self.fencing(node);
        let own = match &fencing.claim {
            Some(claim) => claim.fence == fence,
            None => fencing.highest == fence,
        };
        if !own {
            return Err(Self::outranked(&fencing, fence).into());
        }
        let machine = self.machine_mut(node);
        machine.disk.claim = None;
        machine.memory.connected = false;
        Ok(())
    }

    /// The operator's channels close: hosts notice.
    pub fn hang_up(&mut self, operator: &Operator) {
        for machine in self.machines.values_mut() {
            let claim = machine.disk.claim.as_ref();
            if machine.memory.connected && claim.is_some_and(|claim| claim.operator == *operator) {
                Arc::make_mut(machine).memory.connected = false;
            }
        }
    }

    pub(super) fn outranked(fencing: &Fencing, token: Fence) -> Refusal {
        Refusal::Fenced {
            token,
            highest: fencing.highest,
            holder: fencing.claim.as_ref().map_or_else(
                || "an operation that has ended".into(),
                |claim| claim.operator.to_string(),
            ),
        }
    }

    /// A host makes a recipient for what others will seal to it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn recipient(&mut self, node: &NodeName) -> Result<Recipient, ActError> {
        let machine = self.machine_mut(node);
        if !machine.answers() {
            return Err(ActError::Gone);
        }
        machine.memory.recipients += 1;
        let (boot, number) = (machine.boots, machine.memory.recipients);
        Ok(Recipient(format!("{node}/boot {boot}/{number}")))
    }

    /// `what.from()` seals something to another host.
    ///
    /// # Errors
    /// When it does not have it, or the token is outranked there.
    pub fn seal(
        &mut self,
        fence: Fence,
        what: &Handover,
        to: &Recipient,
    ) -> Result<Sealed, ActError> {
        let from = what.from();
        let machine = self.machine(from);
        if !machine.answers() {
            return Err(ActError::Gone);
        }
        let fencing = self.fencing(from);
        if fence < fencing.highest {
            return Err(Self::outranked(&fencing, fence).into());
        }
        let authority = machine.disk.pki.authority.clone();
        let authority = authority.ok_or_else(|| failed(format!("{from} has no CA set")))?;
        let contents = match what {
            Handover::CaSet { .. } => Contents::CaSet { authority },
            Handover::ClusterCa { .. } => Contents::ClusterCa {
                ca: cluster_ca(&authority),
            },
            Handover::JoinToken { .. } => {
                let kube = self
                    .kube_mut(from)
                    .ok_or_else(|| failed(format!("{from}: its API is not ready")))?;
                if kube.cluster_info.is_none() {
                    return Err(failed("cluster-info is not published"));
                }
                kube.tokens_made += 1;
                let id = format!("t{:05}", kube.tokens_made);
                kube.tokens.insert(id.clone());
                Contents::JoinToken {
                    id,
                    ca: cluster_ca(&authority),
                }
            }
        };
        let parcel = Parcel {
            to: to.0.clone(),
            what: contents,
        };
        let text = serde_json::to_string(&parcel).expect("plain data has a JSON form");
        Ok(Sealed(text))
    }

    /// What was sealed to this host in this boot.
    pub(super) fn open(
        &self,
        node: &NodeName,
        sealed: &[Sealed],
    ) -> Result<Option<Contents>, ActError> {
        let Some(Sealed(text)) = sealed.first() else {
            return Ok(None);
        };
        let parcel: Parcel =
            serde_json::from_str(text).map_err(|_| failed("what was handed over is damaged"))?;
        let boot = format!("{node}/boot {}/", self.machine(node).boots);
        if parcel.to.starts_with(&boot) {
            Ok(Some(parcel.what))
        } else {
            Err(failed("what was handed over is not sealed to this host"))
        }
    }
}
