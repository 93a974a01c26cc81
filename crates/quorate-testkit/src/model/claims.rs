//! Taking the fence: production's own [`fence::take`] over hosts that answer one by one. Start at [`Rules::claim`].
//!
//! A future cannot be copied into a state; the answers it was given so far can. So it is asked anew with all of them, and stops where it
//! waits for the next one.

use std::{
    cell::RefCell,
    future::Future as _,
    pin::pin,
    task::{Context, Poll, Waker},
};

use quorate_exec::{HostError, Hosts as Seam, Ticket, fence};
use quorate_plan::{
    Claim, Fence, Handover, HostEnsure, NodeName, Request, Sealed, Seen,
    admit::Recipient,
    observation::{Fencing, HostReport},
    refusal::{Refusal, RefusalCode},
    wire,
};

use super::{
    engine::{Deed, Outcome, Sight},
    operator::identity,
    rules::Rules,
    state::{Hosts, Op, Phase, State},
};

impl Rules {
    /// The next host answers the claim; when all did, the fence is taken or not, as production's [`fence::take`] says: then with the code of
    /// the first reason.
    pub(super) fn claim(&self, state: &State, op: usize) -> (State, Option<RefusalCode>) {
        let mut next = state.clone();
        if let Claiming::Waits { slot, fence } = self.claiming(state, op) {
            let own = state.operators[op];
            let deed = Deed::Claim {
                slot,
                op,
                run: own.run,
                intent: own.intent,
                fence,
            };
            let (world, outcome) = self.engine.deed(state.world, deed);
            next.world = world;
            let Phase::Claiming {
                ok,
                refused,
                silent,
            } = &mut next.operators[op].phase
            else {
                unreachable!("it is claiming")
            };
            let answered = match outcome {
                Outcome::Done | Outcome::Sealed(_) => ok,
                Outcome::Refused => refused,
                Outcome::Failed | Outcome::Gone => silent,
            };
            *answered = answered.with(slot);
        }
        // With the last answer it is decided: there is nothing in between.
        match self.claiming(&next, op) {
            Claiming::Waits { .. } => {}
            Claiming::Taken {
                fence,
                acknowledged,
            } => {
                let own = &mut next.operators[op];
                own.phase = Phase::Looking;
                own.fence = fence;
                own.acknowledged = acknowledged;
                own.sight = Sight::default();
            }
            Claiming::Failed {
                fence,
                released,
                code,
            } => {
                let own = &mut next.operators[op];
                own.fence = fence;
                own.acknowledged = released;
                self.end(&mut next, op, false);
                return (next, code);
            }
        }
        (next, None)
    }

    fn hosts<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeName>) -> Hosts {
        nodes.into_iter().fold(Hosts::default(), |hosts, node| {
            hosts.with(self.engine.slot(node))
        })
    }

    /// How far the claim is: production's own code, asked again with all the answers there are by now.
    fn claiming(&self, state: &State, op: usize) -> Claiming {
        let own = &state.operators[op];
        self.engine.claiming(op, own, || self.ask_again(own, op))
    }

    fn ask_again(&self, own: &Op, op: usize) -> Claiming {
        let seen = self.engine.observation(&own.sight);
        let gates = Gates {
            rules: self,
            phase: own.phase,
            asked: RefCell::default(),
            released: RefCell::default(),
        };
        let intent = &self.engine.intents[usize::from(own.intent)];
        let plan = self.engine.plans.get(own.approved);
        let operator = identity(op, own.run);
        let taken = {
            let taking = pin!(fence::take(&gates, &seen, intent, &plan, &operator));
            taking.poll(&mut Context::from_waker(Waker::noop()))
        };
        match taken {
            Poll::Ready(Ok(held)) => Claiming::Taken {
                fence: held.fence().0,
                acknowledged: self.hosts(&held.acknowledged()),
            },
            Poll::Ready(Err(refusals)) => {
                let released = gates.released.into_inner();
                Claiming::Failed {
                    fence: released.first().map_or(0, |(_, fence)| fence.0),
                    released: self.hosts(released.iter().map(|(node, _)| node)),
                    code: refusals.first().map(Refusal::code),
                }
            }
            Poll::Pending => {
                let asked = gates.asked.into_inner().into_iter().next();
                let (node, fence) = asked.expect("it waits for an answer");
                Claiming::Waits {
                    slot: self.engine.slot(&node),
                    fence: fence.0,
                }
            }
        }
    }
}

/// How far a claim is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claiming {
    /// The fence is taken.
    Taken { fence: u64, acknowledged: Hosts },
    /// It is not; these were told that it is over.
    Failed {
        fence: u64,
        released: Hosts,
        code: Option<RefusalCode>,
    },
    /// This host has to answer first.
    Waits { slot: usize, fence: u64 },
}

/// The hosts as [`fence::take`] meets them: they answer what they have answered so far.
struct Gates<'a> {
    rules: &'a Rules,
    phase: Phase,
    asked: RefCell<Vec<(NodeName, Fence)>>,
    released: RefCell<Vec<(NodeName, Fence)>>,
}

impl Seam for Gates<'_> {
    async fn report(&self, _on: &NodeName) -> Seen<HostReport> {
        unreachable!("a fence is taken without a look")
    }

    async fn claim(&self, on: &NodeName, claim: &Claim) -> Result<Fencing, HostError> {
        let Phase::Claiming {
            ok,
            refused,
            silent,
        } = self.phase
        else {
            unreachable!("only who is claiming asks")
        };
        let slot = self.rules.engine.slot(on);
        let node = on.clone();
        if ok.has(slot) {
            return Ok(Fencing {
                highest: claim.fence,
                claim: Some(claim.clone()),
                connected: true,
            });
        }
        if refused.has(slot) {
            let refusal = Refusal::Fenced {
                token: claim.fence,
                highest: claim.fence.next(),
                holder: "another".into(),
            };
            let refusal = Box::new(refusal);
            return Err(HostError::Refused { node, refusal });
        }
        if silent.has(slot) {
            let detail = "no answer".into();
            return Err(HostError::Unreachable { node, detail });
        }
        self.asked.borrow_mut().push((node, claim.fence));
        std::future::pending().await
    }

    async fn release(&self, on: &NodeName, fence: Fence) -> Result<(), HostError> {
        self.released.borrow_mut().push((on.clone(), fence));
        Ok(())
    }

    async fn recipient(&self, _on: &NodeName) -> Result<Recipient, HostError> {
        unreachable!("a fence is taken before anything is handed over")
    }

    async fn ticket(&self, _on: &NodeName, _ensure: &HostEnsure) -> Result<Ticket, HostError> {
        unreachable!("a fence is taken before anything is handed over")
    }

    async fn seal(
        &self,
        _fence: Fence,
        _what: &Handover,
        _to: &Recipient,
    ) -> Result<Sealed, HostError> {
        unreachable!("a fence is taken before anything is handed over")
    }

    async fn ensure(
        &self,
        _on: &NodeName,
        _request: Request,
        _progress: &mut dyn FnMut(String),
    ) -> Result<wire::Outcome, HostError> {
        unreachable!("a fence is taken before anything is asked for")
    }
}
