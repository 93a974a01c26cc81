//! Local hosts: real Debian machines, each booted in namespaces of its own by `systemd-nspawn`, on one Linux machine.
//! They have systemd, sshd, disks that stay and a network cable each; they can lose power, freeze and be cut off.
//! This crate knows nothing of what runs in them.
//!
//! Begin at [`Local`], a state directory; it gives the [`Base`] image, and with it a [`Cluster`], which has the hosts.
//! What a user should know is in `docs/reference/local-hosts.md`.
//!
//! ```no_run
//! # async fn example() -> quorate_local::Result<()> {
//! use quorate_local::{ClusterSpec, Cut, HostSpec, Local};
//! use std::time::Duration;
//!
//! let local = Local::from_env(None)?;
//! let base = local.base(|progress| eprintln!("{}% {}", progress.percent, progress.item)).await?;
//! let spec = ClusterSpec::new("demo".parse()?);
//! for change in local.machine_changes(&spec).await? {
//!     eprintln!("{change}"); // listed before it is made
//! }
//! let cluster = local.create(&base, &spec).await?;
//! let host = HostSpec::new("cp-1".parse()?, cluster.subnet().host(11));
//! cluster.create_host(&host).await?;
//! cluster.power_on(&host.name).await?;
//! cluster.booted(&host.name, Duration::from_secs(60)).await?;
//! println!("ssh {}", cluster.ssh(&host.name)?.arguments().join(" "));
//! cluster.destroy().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Inside: `home` is what is done to a cluster, on one state directory; `launch`, `cgroup` and `process` are a running
//! host; `prepare` and `ssh` a host before it runs; `cuts` its cable; `machine` is what all clusters share; `base` the
//! image.
//!
//! Invariants. Who belongs to a host is asked of its cgroup, never of a number in a file. What is in force (power,
//! cuts) is in no file at all. Mounts of hosts are never in the machine's mount table. Every change of the machine
//! outside of a cluster's own names goes through `machine::settings`.

mod base;
mod cgroup;
mod cluster;
mod cuts;
mod error;
mod home;
mod launch;
mod local;
mod machine;
mod names;
mod openings;
mod prepare;
mod process;
mod program;
mod requirements;
mod spec;
mod ssh;
mod status;
mod store;
mod subnet;

pub use base::{Base, BaseFacts, BaseProgress, Phase};
pub use cluster::{Cluster, Entered};
pub use cuts::{Cut, Side};
pub use error::{Error, Result};
pub use local::{BASE_VARIABLE, DEFAULT_DIR, DIR_VARIABLE, Destroyed, Local, MIRROR_VARIABLE};
pub use machine::settings::{Change, Setting};
pub use names::{BRIDGE_NAME_MAX, BadName, BridgeName, ClusterName, HostName, INTERFACE_NAME_MAX};
pub use openings::{Opening, Transport};
pub use requirements::{MissingPackage, missing_packages};
pub use spec::{Bind, ClusterSpec, HostSpec, Uplink};
pub use ssh::SshAccess;
pub use status::{HostStatus, Init, Power};
pub use subnet::{BadSubnet, Subnet};
