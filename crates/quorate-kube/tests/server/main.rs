//! The client against a TLS server in this process that behaves well, badly or not at all.

mod applying;
mod calls;
mod fake;
mod losing;
mod watching;
