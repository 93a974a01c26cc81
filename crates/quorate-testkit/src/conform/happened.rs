//! What somebody did to machines between two runs, which no journal tells. Start at [`Happened`].

use quorate_plan::{Ensure, NodeName, Place, Step};

use super::Left;
use crate::World;

/// What happened to machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A machine was destroyed, with everything that was on it. A provider's is gone until it is made again.
    Destroyed(NodeName),
    /// No packet passed any more between a machine and anybody. It went on.
    CutOff(NodeName),
    /// Every cut ended.
    Mended,
    /// Somebody changed the cluster by hand, with tools that write no journal. What it is since then nobody tells.
    ByHand,
    /// All machines were destroyed, and others with the same names were made later: what comes begins anew.
    AllDestroyed,
}

/// One of them, and when.
#[derive(Clone, Debug)]
pub struct Dated {
    /// UTC by the operator's clock, in milliseconds since 1970, as in journals.
    pub at_ms: u64,
    /// What.
    pub what: Happened,
}

impl Happened {
    /// What is left when this has happened to what was left.
    pub(super) fn to(&self, mut left: Left) -> Left {
        match self {
            Self::Destroyed(node) => {
                left.in_hand.retain(|step| !on(step, node));
                each(&mut left.worlds, |world| world.lose_disk(node));
            }
            Self::CutOff(node) => each(&mut left.worlds, |world| world.cut(node)),
            Self::Mended => each(&mut left.worlds, |world| {
                let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
                for node in &nodes {
                    world.mend(node);
                }
            }),
            Self::ByHand => left.worlds.clear(),
            Self::AllDestroyed => left = Left::default(),
        }
        left
    }
}

fn each(worlds: &mut [World], befalls: impl Fn(&mut World)) {
    for world in worlds {
        befalls(world);
        world.settle();
    }
}

/// Whether a machine has that in hand.
fn on(step: &Step, node: &NodeName) -> bool {
    matches!(step.ensure, Ensure::Host(_)) && step.on == Place::Host(node.clone())
}
