//! What all clusters of a machine share, whoever made them and wherever their state lies: the [`registry`] of names,
//! bridges and subnets, the [`settings`] changed for them, and the [`network`] they must not collide with.

pub(crate) mod network;
pub(crate) mod registry;
pub(crate) mod settings;
