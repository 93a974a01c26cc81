//! A client for one etcd member.
//!
//! Start at [`Client::connect`]: one client talks to one member over one channel and is never balanced over others, because
//! "what does *this* member think?" is the question that matters when membership changes. [`EtcdError`] says what an answer means
//! and whether a call may have taken effect nevertheless. The rules etcd follows when it accepts or refuses a membership change
//! are written down, with the texts it answers, in `docs/design/etcd-rules.md`; `tests/real.rs` holds a real etcd to them.

mod client;
mod cluster;
mod connect;
mod error;
mod id;
mod kv;
mod maintenance;
mod snapshot;
mod wire;

pub use client::{Client, Timeouts};
pub use cluster::Member;
pub use connect::{ConnectError, EndpointError, Tls};
pub use error::EtcdError;
pub use id::{ClusterId, IdParseError, MemberId};
pub use kv::{Entries, KeyValue};
pub use maintenance::{Alarm, AlarmKind, HashKv, Status};
pub use snapshot::{Snapshot, SnapshotSum, SnapshotWriteError};
