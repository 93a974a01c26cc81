//! What goes wrong, and at which effect of an operator. Start at [`Script`].

use std::{collections::BTreeMap, time::Duration};

use quorate_plan::NodeName;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operator's process ends before the host is asked.
    KillBefore,
    /// It ends while the host is at it.
    KillDuring,
    /// It ends when the host is done, before it hears of it.
    KillAfter,
    /// The operator's machine sleeps before the host is asked, until it is woken.
    Sleep,
    /// The effect is made; the answer is lost.
    DropReply,
    /// The host that is asked does not answer the operator for that long; what it has in hand goes on.
    Silence(Duration),
    /// A machine loses power for that long.
    PowerCut(NodeName, Duration),
    /// A machine is cut off from its peers for that long.
    Isolate(NodeName, Duration),
    /// Every process of a machine stops for that long.
    Freeze(NodeName, Duration),
    /// Looks at a machine tell what is so now, for that long.
    Stale(NodeName, Duration),
}

/// Faults by the number of the operator's effect, from 1: what it asks hosts and the provider to do, taking fences and sealing included.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Script(pub BTreeMap<u64, Vec<Fault>>);

impl Script {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// One fault.
    pub fn at(effect: u64, fault: Fault) -> Self {
        Self([(effect, vec![fault])].into())
    }
}
