//! Drives a plan: observes, permits, acts through hosts, observes again, and tells what happened as events.
//!
//! Start at [`run`]. The seams are [`Hosts`] and [`Infra`]; their adapters are over SSH here and in memory in the testkit.

pub mod seam;

pub use seam::{HostError, Hosts, Infra, InfraError, Look, World};
