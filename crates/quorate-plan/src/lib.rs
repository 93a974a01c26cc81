//! Decisions as data and pure functions: what is wanted ([`Spec`]), what was seen ([`Observation`]), what follows ([`plan`]), and
//! whether it may be done now ([`permit`], [`admit`]).
//!
//! Start at [`plan()`], then [`Step::standing`], then [`permit()`]. Nothing here does I/O, reads a clock or waits: time comes in as
//! ages measured by whoever looked, and what nobody saw is [`Missing`], which every guard refuses.
//!
//! The flow of one run: a [`Spec`] and a [`Goal`] make an [`Intent`]; an [`Observation`] turns it into a [`Planning`]; each [`Stage`]
//! of its [`Plan`] is permitted, acted on by hosts that [`admit`] it again, and observed until its steps stand.

pub mod admit;
pub mod adopted;
pub mod assessment;
pub mod change;
pub mod diagnostic;
pub mod event;
pub mod guard;
pub mod health;
pub mod intent;
pub mod interruption;
pub mod kubeadm;
pub mod lint;
pub mod name;
pub mod observation;
pub mod plan;
pub mod planner;
pub mod ports;
pub mod quorum;
pub mod refusal;
pub mod rehearsal;
pub mod seen;
pub mod spec;
pub mod standing;
pub mod step;
pub mod wire;

pub use admit::{Admitted, Request, Sealed, admit};
pub use change::{Change, Permit};
pub use diagnostic::Diagnostic;
pub use event::Event;
pub use guard::{permit, permit_infra};
pub use intent::{Acceptance, Claim, Fence, Goal, Intent, Operator};
pub use name::{ClusterName, MemberId, NodeName};
pub use observation::Observation;
pub use plan::{Plan, Planning, Stage, Waiting};
pub use planner::plan;
pub use quorum::Quorum;
pub use refusal::Refusal;
pub use seen::{Missing, Seen};
pub use spec::Spec;
pub use standing::{Evidence, Standing};
pub use step::{Ensure, Handover, HostEnsure, InfraEnsure, Place, Reason, Step};
