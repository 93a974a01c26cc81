//! The client against services in this process that behave well, badly or not at all, in virtual time; against TLS on loopback; against moto,
//! where it is on the machine; and against every recorded output of the Terraform modules.

mod calls;
mod contract;
mod fake;
mod faults;
mod identity;
mod moto;
mod moto_server;
mod services;
mod targets;
mod tls;
