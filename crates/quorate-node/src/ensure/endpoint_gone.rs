//! The `kubernetes` service does not lead to these addresses. Every apiserver renews a lease on its own address, and the living ones put
//! into the service what has one: a lease that is gone is an address that is gone at their next round, ten seconds later at most.

use std::{collections::BTreeSet, net::IpAddr};

use super::{ANSWER_WITHIN, Work, own_api};
use crate::{
    clients,
    error::ActionError,
    facts::{self, flag_of},
    shown,
};

/// Where an apiserver keeps everything, unless it is told otherwise.
const ETCD_PREFIX: &str = "/registry";

pub(super) async fn ensure(
    work: &Work<'_>,
    addresses: &BTreeSet<IpAddr>,
) -> Result<(), ActionError> {
    let facts = work.seen.host(work.node)?;
    if let Some(own) = facts
        .machine
        .get()?
        .addresses
        .intersection(addresses)
        .next()
    {
        return Err(ActionError::unexpected(
            "addresses of other hosts",
            format!("{own} is this host's own"),
            "plan again",
        ));
    }
    let prefix = flag_of(facts.manifests.get()?, "kube-apiserver", "etcd-prefix");
    let etcd = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    for address in addresses {
        let key = lease_key(prefix.unwrap_or(ETCD_PREFIX), address);
        // One that renews it all the same is alive, and is found below.
        etcd.delete(key.as_bytes(), ANSWER_WITHIN)
            .await
            .map_err(ActionError::etcd("deleting the lease of an apiserver"))?;
    }
    let api = own_api(work)?;
    work.wait("the `kubernetes` service to lead elsewhere", || async {
        let listed = facts::endpoints(&api)
            .await
            .map_err(|err| shown::line(&shown::chain(&err)))?;
        let left: Vec<String> = listed
            .intersection(addresses)
            .map(IpAddr::to_string)
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("it leads to {}", left.join(", ")))
        }
    })
    .await
}

fn lease_key(prefix: &str, address: &IpAddr) -> String {
    let prefix = prefix.trim_matches('/');
    format!("/{prefix}/masterleases/{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_apiservers_own() {
        let address = "172.30.1.11".parse().unwrap();
        assert_eq!(
            lease_key(ETCD_PREFIX, &address),
            "/registry/masterleases/172.30.1.11"
        );
        assert_eq!(lease_key("x/", &address), "/x/masterleases/172.30.1.11");
    }
}
