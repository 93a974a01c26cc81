//! What runs on a machine: its facts, its actions, and the answers it gives an operator's machine.
//!
//! Start at [`serve()`], then `session`: one operator's session with one action at a time. `facts` is how a host describes itself;
//! `ensure` has a file for each end state. What is wanted, and whether it may be done now, is decided in `quorate-plan`; nothing here
//! talks to other machines than this cluster's etcd and API.
//!
//! Processes are started in `command` only, files replaced in `durable` only, and plaintext secrets live in `seal` and `token` only.

mod aside;
mod balancer;
mod binary;
mod bundle;
mod clients;
mod command;
mod containers;
mod durable;
mod ensure;
mod error;
mod facts;
mod fence;
pub mod frame;
mod give;
mod hosts_file;
mod kubeadm;
mod off_host;
mod old_address;
mod packets;
mod paths;
mod random;
mod seal;
mod serve;
mod servers;
mod session;
mod shared_address;
mod shown;
mod ticket;
mod token;
mod utc;

#[cfg(test)]
mod testing;

pub use durable::FileError;
pub use frame::FrameError;
pub use off_host::{
    BackupContents, BackupEntry, BackupError, backup_recipients, check_backup_recipient,
    new_backup_identity, read_backup, send_backup,
};
pub use paths::Paths;
pub use serve::{ServeError, run, serve};
pub use servers::lead as lead_kubeconfig;
