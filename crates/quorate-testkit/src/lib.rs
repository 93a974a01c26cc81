//! A cluster in memory that keeps the rules of etcd and kubeadm: what the planner, the guards and the runner are tried on, thousands of
//! times a minute, before a real host is.
//!
//! Start at [`World`]: one value that can be cloned, hashed and compared. Hosts are asked through [`World::report`] and act through
//! [`World::apply`], which passes [`quorate_plan::admit()`] like every host; what happens by itself (processes start, learners catch up)
//! happens in [`World::tick`]; what happens *to* it (power, disks, the network) has a method each. [`memory`] puts a world behind the
//! runner's seams, in virtual time and with scripted faults; [`story`] drives it by lines that people write.
//!
//! Seeded bugs are wrappers here, never switches in production code.

pub mod conform;
pub mod drive;
pub mod fixture;
pub mod invariant;
pub mod memory;
pub mod model;
pub mod render;
pub mod rng;
pub mod story;
pub mod walk;

pub mod world;

pub use world::World;
