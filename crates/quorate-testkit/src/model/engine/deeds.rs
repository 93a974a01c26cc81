//! What is done to a world. Start at [`Deed`].

use std::sync::Arc;

use quorate_plan::{Claim, Fence, Sealed, observation::Power};

use super::{
    super::{
        operator::identity,
        state::{Fault, Hosts, OPERATORS},
    },
    Engine,
};
use crate::{World, world::ActError};

/// Something that is done to a world, whatever its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::model) enum Deed {
    /// An operator asks for the fence of a host.
    Claim {
        slot: usize,
        op: usize,
        run: u8,
        intent: u8,
        fence: u64,
    },
    /// An operator's process ends, after it gave the fence back on these hosts.
    End {
        op: usize,
        run: u8,
        fence: u64,
        release: Hosts,
    },
    /// What a step needs is handed over to a host.
    Seal { slot: usize, turn: u32, fence: u64 },
    /// A fault.
    Strike { slot: usize, fault: Fault },
    /// Power is back.
    PowerOn { slot: usize },
    /// The network heals.
    Rejoin { slot: usize },
    /// Operators are gone, everything is switched on and connected.
    Quiet { runs: [u8; OPERATORS] },
}

/// What came of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Outcome {
    /// It is done.
    Done,
    /// This is handed over, by number.
    Sealed(u32),
    /// Somebody said no.
    Refused,
    /// It failed.
    Failed,
    /// The machine does not run.
    Gone,
}

impl From<ActError> for Outcome {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Refused(_) => Self::Refused,
            ActError::NotYet(_) | ActError::Failed(_) => Self::Failed,
            ActError::Gone => Self::Gone,
        }
    }
}

impl Engine {
    /// The world after a deed, and what came of it.
    pub(in crate::model) fn deed(&self, number: u32, deed: Deed) -> (u32, Outcome) {
        self.deeds.get((number, deed), || {
            let mut world = self.world(number);
            let outcome = self.act(&mut world, deed);
            (self.put(number, world), outcome)
        })
    }

    fn act(&self, world: &mut World, deed: Deed) -> Outcome {
        match deed {
            Deed::Claim {
                slot,
                op,
                run,
                intent,
                fence,
            } => {
                let claim = Claim {
                    fence: Fence(fence),
                    operator: identity(op, run),
                    // Since when is for people only.
                    since: 0,
                    intent: self.intents[usize::from(intent)].clone(),
                };
                let answer = world.claim(&self.nodes[slot], &claim);
                answer.map_or_else(Outcome::from, |_fencing| Outcome::Done)
            }
            Deed::End {
                op,
                run,
                fence,
                release,
            } => {
                for slot in release.slots().filter(|slot| *slot < self.nodes.len()) {
                    // Who does not answer goes on naming an operation that nobody is at.
                    let _ = world.release(&self.nodes[slot], Fence(fence));
                }
                world.hang_up(&identity(op, run));
                Outcome::Done
            }
            Deed::Seal { slot, turn, fence } => {
                let turn = self.turn(turn);
                let what = turn.step.handover.as_ref().expect("it is handed over");
                let given = world
                    .recipient(&self.nodes[slot])
                    .and_then(|to| world.seal(Fence(fence), what, &to));
                match given {
                    Ok(Sealed(text)) => Outcome::Sealed(self.sealed.put(Arc::new(text))),
                    Err(error) => error.into(),
                }
            }
            Deed::Strike { slot, fault } => {
                let node = &self.nodes[slot];
                match fault {
                    Fault::PowerCut => world.power_off(node),
                    Fault::Isolate => world.machine_mut(node).isolated = true,
                    Fault::Cut => world.cut(node),
                    Fault::Hide => world.machine_mut(node).unreachable = true,
                    Fault::Return => world.power_on(node),
                    Fault::LoseData => world.lose_etcd_data(node),
                    Fault::LoseDisk => world.lose_disk(node),
                    Fault::Alarm => world.raise_alarm(node, "NOSPACE"),
                    Fault::Kill
                    | Fault::Sleep
                    | Fault::LoseReply
                    | Fault::StaleLook
                    | Fault::Silence => unreachable!("these are about operators"),
                }
                Outcome::Done
            }
            Deed::PowerOn { slot } => {
                world.power_on(&self.nodes[slot]);
                Outcome::Done
            }
            Deed::Rejoin { slot } => {
                world.mend(&self.nodes[slot]);
                Outcome::Done
            }
            Deed::Quiet { runs } => {
                for (op, run) in runs.into_iter().enumerate() {
                    world.hang_up(&identity(op, run));
                }
                for node in &self.nodes {
                    if world.machine(node).power == Power::Off && !self.is_dead(node) {
                        world.power_on(node);
                    }
                    if world.machine(node).isolated || world.machine(node).unreachable {
                        world.mend(node);
                    }
                }
                Outcome::Done
            }
        }
    }
}
