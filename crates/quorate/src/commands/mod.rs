//! One file per command: its arguments and what it does.

pub mod apply;
pub mod bundle;
pub mod completion;
pub mod destroy;
pub mod drill;
pub mod explain;
pub mod init;
pub mod journal;
pub mod kubeconfig;
pub mod lb;
pub mod local;
pub mod lock;
pub mod node;
pub mod plan;
pub mod schema;
pub mod status;
pub mod trust;
pub mod version;
