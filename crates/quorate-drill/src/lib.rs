//! Drills: a real failure, under load, measured, with a verdict. What a failure costs is reported, not promised.
//!
//! Start at [`power_loss::run`]. A drill is a fault, what clients see of it ([`probe`]: new connections, kept connections, writes, a
//! watch), and invariants that the recorded history must keep ([`history`]): above all, that no acknowledged write is lost.
//!
//! Clusters that do not carry the disposable mark are not touched unless they are named.

pub mod fault;
pub mod history;
pub mod power_loss;
pub mod probe;
pub mod report;
pub mod timeline;

pub use fault::{Fault, Faults};
pub use power_loss::{Drill, DrillError, Target, run};
pub use report::Report;
