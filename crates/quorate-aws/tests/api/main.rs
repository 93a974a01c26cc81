//! The client against services in this process that behave well, badly or not at all, in virtual time; and against TLS on
//! loopback.

mod calls;
mod fake;
mod faults;
mod identity;
mod services;
mod targets;
mod tls;
