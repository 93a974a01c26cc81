//! What lies under a cluster at AWS, judged before it costs a cluster anything: plans of Terraform, and load balancers that are there.
//!
//! Start at [`terraform::lint`] and [`nlb::lint`]: pure functions from what was read to [`Finding`]s. [`TerraformPlan::parse`] and
//! [`nlb::look`] are how it is read. A finding has a [`Code`] with a page of its own.

mod code;
mod finding;
pub mod nlb;
pub mod terraform;
mod terraform_plan;

pub use code::Code;
pub use finding::{Finding, Severity};
pub use terraform_plan::{Action, PlanError, Resource, TerraformPlan};
