//! A small client for the parts of AWS that Quorate asks: load balancers and their targets (ELBv2), instances and security group rules (EC2).
//!
//! Start at [`Aws`]: a region, an identity found by the usual chain, and one method for each call. Each call has a deadline for all of it,
//! retries included. Retried is what AWS asks to be tried again (throttling, 5xx) and what broke on the way; every call here is a question
//! or an end state, so asking twice is asking once. [`Contract`] reads what the Terraform modules say of a cluster.
//!
//! Making and ending things is deliberately absent: that is Terraform's.

mod api;
mod clock;
mod contract;
mod credentials;
mod ec2;
mod elb;
mod endpoint;
mod environment;
mod error;
mod http;
mod profile;
mod retry;
mod roots;
mod secret;
mod sign;
mod xml;

pub use api::{Aws, Options};
pub use clock::Clock;
pub use contract::{Balancer, Contract, ContractError, Endpoint, Master, Worker};
pub use credentials::{CredentialsError, Looked, Source};
pub use ec2::{Direction, Instance, InstanceState, Peer, Rule};
pub use elb::{
    HealthCheck, Listener, LoadBalancer, Target, TargetGroup, TargetHealth, TargetState, Zone,
    ZoneAddress,
};
pub use endpoint::{Arn, Region, RegionError, Service};
pub use environment::Environment;
pub use error::AwsError;
pub use http::{Dial, HttpError, Phase, Stream};
pub use profile::ProfileError;
pub use retry::Retries;
