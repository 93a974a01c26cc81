//! An L4 balancer for kube-apiservers, as a library: `quorate lb` is its command line.
//!
//! Start at [`run()`] for a whole process, at [`Balancer`] for the parts put together, at
//! [`admin::request`] to speak to a running one.
//!
//! Two halves that share only atomics and mailboxes:
//! - *Control*, in tokio: `probe` keeps a TLS connection per backend for PINGs, `readyz` one more; [`health`] is the pure
//!   state machine its answers go through; `pool` compares backends and publishes the outcome;
//!   [`admin`] is how people and tools ask.
//! - *Forwarding*, in threads of its own: `worker` is an epoll loop that accepts, dials, hedges and
//!   relays. It never waits for control and knows nothing of TLS.
//!
//! Deliberately absent: TLS termination, HTTP routing, name resolution, any knowledge of plans or of
//! the rest of Quorate. It keeps forwarding when everything else is down.

pub mod admin;
mod admin_server;
mod backend;
mod balancer;
pub mod config;
mod handover;
pub mod health;
mod jitter;
mod link;
mod pool;
mod probe;
mod readyz;
mod run;
mod socket;
mod systemd;
mod tls;
mod worker;

pub use admin_server::SocketError;
pub use balancer::{Balancer, Reloaded, StartError};
pub use config::{BackendConfig, Config, ConfigError};
pub use handover::HandoverError;
pub use pool::DrainError;
pub use run::{RunError, run, terminated};
pub use systemd::{UnitError, unit};
