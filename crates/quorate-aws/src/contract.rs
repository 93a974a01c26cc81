//! The output `quorate_cluster` of the Terraform modules: all that they say to Quorate. Start at [`Contract::parse`].
//!
//! Its `version` changes when a key changes its meaning or goes; keys may come without, so unknown ones are no fault.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use crate::endpoint::{Arn, Region};
use crate::error::shown;

/// The version that is read.
const VERSION: u64 = 1;

/// Longest text that is read, in bytes; a cluster of a hundred workers is below 100 KiB.
const BYTES_MAX: usize = 4 << 20;

const OUTPUT: &str = "quorate_cluster";

/// A cluster as Terraform made it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Contract {
    /// Its name.
    pub name: String,
    /// Where its API is to be reached.
    pub endpoint: Endpoint,
    /// Its masters.
    pub masters: Vec<Master>,
    /// Its workers.
    pub workers: Vec<Worker>,
}

/// Where the API is to be reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// The name that kubeconfigs and certificates have.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What answers there.
    pub balancer: Balancer,
}

/// What answers at the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Balancer {
    /// A Network Load Balancer.
    Nlb {
        /// Its ARN.
        #[serde(deserialize_with = "arn")]
        arn: Arn,
        /// The group that masters are registered in.
        #[serde(deserialize_with = "arn")]
        target_group_arn: Arn,
        /// AWS's own name for it; for a record to point to, never for certificates.
        dns_name: String,
        /// Route 53's zone of that name.
        zone_id: String,
        /// Whether it can be reached from outside the VPC.
        public: bool,
        /// Fixed addresses by zone, where they were asked for.
        addresses: BTreeMap<String, IpAddr>,
    },
}

/// A master.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Master {
    /// Its node's name.
    pub name: String,
    /// Its instance.
    pub instance_id: String,
    /// Its address in the VPC.
    pub address: IpAddr,
    /// Its zone.
    pub zone: String,
    /// etcd's volume; `None` where etcd is on the root volume.
    pub etcd_volume_id: Option<String>,
    /// Whether it was there before the modules.
    pub adopted: bool,
    /// Whether it is to leave.
    pub leaving: bool,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Worker {
    /// Its node's name.
    pub name: String,
    /// Its instance.
    pub instance_id: String,
    /// Its address in the VPC.
    pub address: IpAddr,
    /// Its zone.
    pub zone: String,
}

/// Why an output cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// It is longer than any cluster.
    #[error("the output {OUTPUT} is longer than {BYTES_MAX} bytes")]
    TooLarge,
    /// It is no JSON object, or there is no such output in it.
    #[error(
        "expected the output {OUTPUT} as JSON, {found}\nhint: `terraform output -json {OUTPUT}` writes it; `terraform apply` must have run"
    )]
    NotOne {
        /// What was there instead.
        found: String,
    },
    /// A version that is not known.
    #[error(
        "the output {OUTPUT} has version {found}, and this Quorate reads version {VERSION}\nhint: use the Quorate that came with these modules, or the modules that came with this Quorate"
    )]
    Version {
        /// Its version.
        found: String,
    },
    /// A key is missing or has another type.
    #[error("the output {OUTPUT} is not what version {VERSION} is: {why}")]
    Shape {
        /// What is wrong.
        why: String,
    },
    /// A value that cannot be.
    #[error("the output {OUTPUT} cannot be: {why}")]
    Value {
        /// What is wrong.
        why: String,
    },
}

impl Contract {
    /// Reads what `terraform output -json quorate_cluster` or `terraform output -json` writes.
    ///
    /// # Errors
    /// See [`ContractError`].
    pub fn parse(text: &str) -> Result<Contract, ContractError> {
        if text.len() > BYTES_MAX {
            return Err(ContractError::TooLarge);
        }
        let not_one = |found: &str| ContractError::NotOne {
            found: found.to_owned(),
        };
        let all: serde_json::Value = serde_json::from_str(text)
            .map_err(|err| not_one(&format!("found something that is not JSON: {err}")))?;
        let all = all
            .as_object()
            .ok_or_else(|| not_one("found JSON that is not an object"))?;
        // Among all outputs each is wrapped, with its type beside it.
        let one = match all.get(OUTPUT) {
            Some(wrapped) => wrapped
                .get("value")
                .ok_or_else(|| not_one("found it without a `value`"))?,
            None => &serde_json::Value::Object(all.clone()),
        };
        match one.get("version") {
            Some(version) if version.as_u64() == Some(VERSION) => {}
            Some(version) => {
                return Err(ContractError::Version {
                    found: shown(&version.to_string(), 60),
                });
            }
            None => return Err(not_one("found an object without `version`")),
        }
        let contract = Contract::deserialize(one).map_err(|err| ContractError::Shape {
            why: shown(&err.to_string(), 300),
        })?;
        contract.check()?;
        Ok(contract)
    }

    /// The region that everything is in.
    pub fn region(&self) -> &Region {
        let Balancer::Nlb { arn, .. } = &self.endpoint.balancer;
        arn.region()
    }

    fn check(&self) -> Result<(), ContractError> {
        let fault = |why: String| Err(ContractError::Value { why });
        let Balancer::Nlb {
            arn,
            target_group_arn,
            ..
        } = &self.endpoint.balancer;
        if arn.region() != target_group_arn.region() {
            return fault(format!(
                "its balancer is in {} and its target group in {}",
                arn.region(),
                target_group_arn.region()
            ));
        }
        if self.masters.is_empty() {
            return fault("it has no masters".to_owned());
        }
        for master in &self.masters {
            if let Some(volume) = &master.etcd_volume_id
                && !volume.strip_prefix("vol-").is_some_and(hexadecimal)
            {
                let name = shown(&master.name, 100);
                return fault(format!("`{}` of {name} is no volume", shown(volume, 60)));
            }
        }
        let machines = self
            .masters
            .iter()
            .map(|each| (&each.name, &each.instance_id, each.address))
            .chain(
                self.workers
                    .iter()
                    .map(|each| (&each.name, &each.instance_id, each.address)),
            );
        let (mut names, mut ids, mut addresses) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (name, id, address) in machines {
            if name.is_empty() {
                return fault(format!("machine {} has no name", shown(id, 60)));
            }
            let name = shown(name, 100);
            if !id.strip_prefix("i-").is_some_and(hexadecimal) {
                return fault(format!("`{}` of {name} is no instance", shown(id, 60)));
            }
            if !ids.insert(id) {
                return fault(format!("instance {id} is there twice, also as {name}"));
            }
            if !addresses.insert(address) {
                return fault(format!("address {address} is there twice, also at {name}"));
            }
            if !names.insert(name.clone()) {
                return fault(format!("there are two machines {name}"));
            }
        }
        Ok(())
    }
}

fn hexadecimal(rest: &str) -> bool {
    !rest.is_empty() && rest.len() <= 32 && rest.bytes().all(|b| b.is_ascii_hexdigit())
}

fn arn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arn, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
