//! A real etcd 3.6 is held to the rules in `docs/design/etcd-rules.md`, and this client to its answers.
//!
//! Needs an etcd: see [`lab::etcd_binary`].

mod growing;
mod lab;
mod leaving;
mod silence;
mod upkeep;
