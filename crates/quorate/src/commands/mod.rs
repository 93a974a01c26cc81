//! One file per command: its arguments and what it does.

pub mod apply;
pub mod bundle;
mod carry_out;
pub mod completion;
pub mod destroy;
pub mod drill;
mod edit;
pub mod explain;
pub mod init;
pub mod journal;
pub mod kubeconfig;
pub mod lb;
pub mod lint;
pub mod local;
pub mod lock;
pub mod node;
pub mod plan;
pub mod remove;
pub mod repair;
pub mod replace;
pub mod schema;
pub mod status;
pub mod trust;
mod verb;
pub mod version;
