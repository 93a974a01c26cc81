//! Drives a plan: observes, permits, acts through hosts, observes again, and tells what happened as events.
//!
//! Start at [`run()`]. The seams are [`Hosts`] and [`Infra`]; their adapters are over SSH here and in memory in the testkit.

pub mod carried;
pub mod fence;
pub mod hostile;
pub mod identity;
pub mod journal;
pub mod machines;
pub mod nlb;
pub mod observe;
mod pace;
pub mod run;
pub mod seam;
pub mod ssh;
mod stage;
pub mod stop;
mod target;

pub use journal::{Journal, JournalError, Recorder};
pub use machines::{LocalMachines, Machines};
pub use nlb::Nlb;
pub use observe::{consider, etcd_devices, look_for, observe};
pub use run::run;
pub use seam::{HostError, Hosts, Infra, InfraError, Look, Ticket, World};
pub use ssh::{Backups, Control, NodeBinary, SshAccess, SshFailure, SshHosts, SshSettings, Way};
pub use stop::{Stop, StopSignal};
