//! A thin client for one kube-apiserver.
//!
//! Start at [`Client`]: a [`Kubeconfig`], one kept connection, JSON in and out, a deadline on each call and no retries inside, so
//! that whoever calls knows exactly what was asked and how often. [`KubeError::definitely_not_applied`] separates "it was refused"
//! from "nobody knows", which a history checker needs. [`Client::open`] makes a connection of its own and says how long TCP and
//! TLS took, for a prober.
//!
//! Types of Kubernetes objects are deliberately absent: we read a handful of fields of a handful of kinds.

mod api;
mod apply;
mod client;
mod connect;
mod error;
mod kubeconfig;
mod watch;

pub use api::{List, PatchKind, Readyz};
pub use apply::{Applied, ApplyError, FieldManager};
pub use client::{Client, Connection, Request, Response, Timings};
pub use error::{KubeError, Phase, Reason, TlsReason};
pub use kubeconfig::{Credentials, Kubeconfig, KubeconfigError};
pub use watch::{Watch, WatchEvent, WatchKind};
