//! A state of the model, and what may happen next. Start at [`State`].
//!
//! Worlds, looks, plans and tasks are numbers of the [`super::engine::Engine`] that made them.

use super::engine::{HOSTS_MAX, Sight};

/// Operators that a model may have.
pub const OPERATORS: usize = 2;

/// Nobody waits for the end of a task: who asked for it is gone.
pub(super) const NOBODY: u8 = u8::MAX;

/// Everything there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The world, in its canonical form.
    pub world: u32,
    /// What each host has in hand.
    pub tasks: [InHand; HOSTS_MAX],
    /// The operators.
    pub operators: [Op; OPERATORS],
    /// How often each kind of fault has happened.
    pub spent: [u8; FAULTS],
    /// What was broken on the way here. Nothing happens after that.
    pub broken: Option<Broken>,
}

impl State {
    /// Something happened to a host on the way here.
    pub fn struck(&self) -> bool {
        Fault::OF_HOSTS
            .iter()
            .any(|fault| self.spent[*fault as usize] > 0)
    }

    /// Data was lost on the way here.
    pub fn lost(&self) -> bool {
        self.spent[Fault::LoseData as usize] + self.spent[Fault::LoseDisk as usize] > 0
    }
}

/// A task that a host has accepted. It is carried out whatever becomes of the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InHand {
    /// Its number; 0: nothing is in hand.
    pub task: u32,
    /// The operator who waits for its end.
    pub by: u8,
    /// The membership for which its change was permitted; 0 where it makes none.
    pub permitted: u16,
}

impl InHand {
    /// That operator waits for its end.
    pub fn awaited_by(self, op: usize) -> bool {
        self.task != 0 && usize::from(self.by) == op
    }
}

/// An operator's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Op {
    /// How far it is.
    pub phase: Phase,
    /// Runs that were begun so far.
    pub run: u8,
    /// What is wanted, by number.
    pub intent: u8,
    /// An effect was asked for.
    pub acted: bool,
    /// The approved plan.
    pub approved: u32,
    /// The token; 0 before it is taken.
    pub fence: u64,
    /// Hosts that acknowledged it.
    pub acknowledged: Hosts,
    /// The stage that is acted on.
    pub stage: u32,
    /// Steps that stand, for each host's lane of the stage.
    pub stood: [u8; HOSTS_MAX],
    /// Lanes whose next step was made and is not seen standing yet.
    pub made: Hosts,
    /// Hosts that did not answer at the last look.
    pub unanswered: Hosts,
    /// What was seen last.
    pub sight: Sight,
}

/// How far an operator's process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// There is none.
    #[default]
    Away,
    /// A plan is approved; the run has not begun.
    Approved,
    /// The fence is being taken: who acknowledged, refused or did not answer so far.
    Claiming {
        /// Acknowledged.
        ok: Hosts,
        /// Said no.
        refused: Hosts,
        /// Did not answer.
        silent: Hosts,
    },
    /// It looks and plans afresh.
    Looking,
    /// It acts on a stage.
    Acting,
}

/// Hosts by their place, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hosts(pub u8);

impl Hosts {
    /// Every host.
    pub const ALL: Self = Self(u8::MAX);

    /// It is among them.
    pub fn has(self, slot: usize) -> bool {
        self.0 & (1 << slot) != 0
    }

    /// With one more.
    #[must_use]
    pub fn with(self, slot: usize) -> Self {
        Self(self.0 | (1 << slot))
    }

    /// Without that one.
    #[must_use]
    pub fn without(self, slot: usize) -> Self {
        Self(self.0 & !(1 << slot))
    }

    /// Their places.
    pub fn slots(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |slot| self.has(*slot))
    }
}

/// A kind of fault. How often each may happen is in [`super::Bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fault {
    /// An operator's process ends.
    Kill,
    /// An operator's machine sleeps: hosts see its channels close, and later it goes on.
    Sleep,
    /// The answer of a host is lost.
    LoseReply,
    /// A look tells of one host what was so at the look before.
    StaleLook,
    /// A look misses one host.
    Silence,
    /// A machine loses power, until somebody switches it on.
    PowerCut,
    /// A machine is cut off from its peers, and not from the operator, until the network heals.
    Isolate,
    /// A machine is cut off from everybody, until the network heals.
    Cut,
    /// The operators do not reach a machine, its peers do, until the network heals.
    Hide,
    /// A machine boots without etcd's data.
    LoseData,
    /// A machine is replaced by a blank one.
    LoseDisk,
    /// etcd on a machine raises an alarm.
    Alarm,
    /// A machine that had no power from the beginning gets it back.
    Return,
}

/// Number of kinds of faults.
pub const FAULTS: usize = 13;

impl Fault {
    /// All kinds.
    pub const ALL: [Self; FAULTS] = [
        Self::Kill,
        Self::Sleep,
        Self::LoseReply,
        Self::StaleLook,
        Self::Silence,
        Self::PowerCut,
        Self::Isolate,
        Self::Cut,
        Self::Hide,
        Self::LoseData,
        Self::LoseDisk,
        Self::Alarm,
        Self::Return,
    ];

    /// Those after which a host may not be as it was seen a moment ago.
    pub const OF_HOSTS: [Self; 7] = [
        Self::PowerCut,
        Self::Isolate,
        Self::Cut,
        Self::Hide,
        Self::LoseData,
        Self::LoseDisk,
        Self::Return,
    ];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Sleep => "sleep",
            Self::LoseReply => "lose-reply",
            Self::StaleLook => "stale-look",
            Self::Silence => "silence",
            Self::PowerCut => "power-cut",
            Self::Isolate => "isolate",
            Self::Cut => "cut",
            Self::Hide => "hide",
            Self::LoseData => "lose-data",
            Self::LoseDisk => "lose-disk",
            Self::Alarm => "alarm",
            Self::Return => "return",
        }
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// An operator looks, plans and approves.
    Begin {
        /// Who.
        op: usize,
        /// What is wanted.
        intent: u8,
    },
    /// A run begins: it looks again and asks for the fence.
    Fence {
        /// Whose.
        op: usize,
    },
    /// The next host answers the claim.
    Claim {
        /// Whose.
        op: usize,
    },
    /// An operator looks at everything.
    Look {
        /// Who.
        op: usize,
    },
    /// An operator looks at everything; one host's answer is old or missing.
    BadLook {
        /// Who.
        op: usize,
        /// Which host.
        slot: usize,
        /// [`Fault::StaleLook`] or [`Fault::Silence`].
        fault: Fault,
    },
    /// An operator asks a host for its next step.
    Ask {
        /// Who.
        op: usize,
        /// Which host.
        slot: usize,
    },
    /// A host goes on with what it has in hand.
    Work {
        /// Which host.
        slot: usize,
    },
    /// A host gives up what it has in hand: it took too long.
    Expire {
        /// Which host.
        slot: usize,
    },
    /// An operator gives up: nothing can be done, and waiting did not help.
    GiveUp {
        /// Who.
        op: usize,
    },
    /// Everything goes on by itself.
    Tick,
    /// A fault of an operator's process.
    Befalls {
        /// Whom.
        op: usize,
        /// [`Fault::Kill`] or [`Fault::Sleep`].
        fault: Fault,
    },
    /// A fault of a host.
    Strikes {
        /// Which host.
        slot: usize,
        /// What.
        fault: Fault,
    },
    /// Power is back.
    PowerOn {
        /// Which host.
        slot: usize,
    },
    /// The network heals.
    Rejoin {
        /// Which host.
        slot: usize,
    },
    /// An operator goes on alone, without faults, to the end of its stage or of what comes before it. Leads only to states that the other
    /// actions lead to as well; it makes stories short.
    Stride {
        /// Who.
        op: usize,
    },
    /// Everything goes on by itself until nothing does.
    Settle,
}

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// An invariant of worlds, see [`crate::invariant::violations`].
    World,
    /// An effect took the quorum away.
    CostQuorum,
    /// A balancer got a backend that was not ready.
    BackendNotReady,
    /// A serving master was stopped or removed while a balancer still sent to it.
    NotDrained,
    /// The leader was removed while others could have led.
    LeaderRemoved,
    /// A healthy voter was removed that the cluster could not spare.
    Unspared,
    /// A host began something for an outranked token.
    Outranked,
    /// The membership had changed between permit and effect.
    StalePermit,
    /// A change began while another one was in flight.
    TwoChanges,
    /// A change began while an alarm was raised.
    AlarmIgnored,
    /// The data of a voter was taken away.
    LostVoter,
    /// A balancer was left without any master that serves.
    NobodyServes,
    /// The lint found something in a plan that was about to be approved.
    Lint,
    /// A run said that it was done, and the cluster is not as the file says.
    NotDone,
    /// With faults stopped, a run does not come to an end.
    NoEnd,
}
