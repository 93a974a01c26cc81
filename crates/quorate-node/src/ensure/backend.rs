//! The balancer forwards to that apiserver, and knows it by the cluster's CA.

use std::net::SocketAddr;

use quorate_plan::kubeadm::Peer;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{TOOL_WITHIN, Work};
use crate::{
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    facts::certificate_digest,
    paths::Paths,
    seal::ClusterCa,
};

/// Where the balancer's host keeps the cluster's CA certificate.
pub(crate) const BALANCER_CA: &str = "/etc/quorate/ca.crt";

pub(super) async fn ensure(
    work: &Work<'_>,
    backend: &Peer,
    address: SocketAddr,
) -> Result<(), ActionError> {
    let own = durable::read(&work.paths.pki("ca.crt"))?;
    match own {
        // A master that balances itself, and nobody hands it anything over.
        Some(pem) if work.sealed.is_empty() => {
            let pem = Zeroizing::new(pem);
            place_ca(work.paths, &ClusterCa { pem })?;
        }
        Some(_) | None => {
            if !work.paths.at(BALANCER_CA).exists() || !work.sealed.is_empty() {
                place_ca(work.paths, &work.open::<ClusterCa>()?)?;
            }
        }
    }
    configure(work.paths, backend, address)?;
    // Also when the file was right: whoever wrote it may have been killed before this. Connections stay.
    let reload = ["reload-or-restart", "quorate-lb.service"];
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(reload))
        .await?;
    Ok(())
}

/// A balancer that has backends has a cluster: its CA is not replaced by another one.
fn place_ca(paths: &Paths, ca: &ClusterCa) -> Result<(), ActionError> {
    let path = paths.at(BALANCER_CA);
    let there = durable::read(&path)?;
    if there.as_deref() == Some(ca.pem.as_slice()) {
        return Ok(());
    }
    let config: Option<Value> = durable::read_json(&paths.balancer())?;
    let backends = config
        .as_ref()
        .and_then(|config| config["backends"].as_array());
    if let Some(digest) = certificate_digest(&path)?
        && backends.is_some_and(|backends| !backends.is_empty())
    {
        return Err(ActionError::unexpected(
            "the CA that the balancer already knows its backends by",
            format!("another one; the balancer's is {digest}"),
            format!(
                "look which cluster this balancer serves; to begin anew remove `{}` and its backends",
                path.display()
            ),
        ));
    }
    // A certificate is public.
    Ok(durable::write(&path, &ca.pem, 0o644)?)
}

/// Says whether the file was changed.
fn configure(paths: &Paths, backend: &Peer, address: SocketAddr) -> Result<bool, ActionError> {
    let path = paths.balancer();
    let mut config: Value = durable::read_json(&path)?.ok_or_else(|| {
        ActionError::unexpected(
            "a balancer on this host",
            "none is configured",
            "run `quorate apply` to set it up",
        )
    })?;
    let before = config.clone();
    let senseless = || FileError::senseless(&path, "it is not a balancer's configuration");
    let object = config.as_object_mut().ok_or_else(senseless)?;
    let backends = object.entry("backends").or_insert_with(|| json!([]));
    let backends = backends.as_array_mut().ok_or_else(senseless)?;
    let name = backend.name.as_str();
    let wanted = json!({ "name": name, "address": address });
    match backends.iter_mut().find(|there| there["name"] == name) {
        Some(there) => *there = wanted,
        None => backends.push(wanted),
    }
    let health = object.entry("health").or_insert_with(|| json!({}));
    health
        .as_object_mut()
        .ok_or_else(senseless)?
        .insert("ca_file".to_owned(), json!(BALANCER_CA));
    if config == before {
        return Ok(false);
    }
    durable::write_json(&path, &config)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn peer(name: &str) -> Peer {
        Peer {
            name: name.parse().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
        }
    }

    fn ca() -> ClusterCa {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem();
        ClusterCa {
            pem: Zeroizing::new(pem.into_bytes()),
        }
    }

    #[test]
    fn backends_are_added_once_and_moved_with_their_address() {
        let machine = testing::machine();
        let address = "10.0.0.1:6443".parse().unwrap();
        assert!(
            configure(&machine.paths, &peer("cp-1"), address).is_err(),
            "no balancer here"
        );
        machine.write(
            "/etc/quorate/lb.json",
            r#"{"listen":"0.0.0.0:6443","health":{"rise":1}}"#,
        );
        assert!(configure(&machine.paths, &peer("cp-1"), address).unwrap());
        assert!(!configure(&machine.paths, &peer("cp-1"), address).unwrap());
        assert!(configure(&machine.paths, &peer("cp-2"), address).unwrap());
        assert!(
            configure(
                &machine.paths,
                &peer("cp-1"),
                "10.0.0.9:6443".parse().unwrap()
            )
            .unwrap()
        );
        let kept: Value = serde_json::from_str(&machine.read("/etc/quorate/lb.json")).unwrap();
        assert_eq!(kept["backends"].as_array().unwrap().len(), 2);
        assert_eq!(kept["backends"][0]["address"], "10.0.0.9:6443");
        assert_eq!(kept["health"], json!({ "rise": 1, "ca_file": BALANCER_CA }));
    }

    #[test]
    fn a_balancer_in_use_keeps_its_ca() {
        let machine = testing::machine();
        machine.write(
            "/etc/quorate/lb.json",
            r#"{"listen":"0.0.0.0:6443","backends":[]}"#,
        );
        place_ca(&machine.paths, &ca()).unwrap();
        let second = ca();
        place_ca(&machine.paths, &second).unwrap();
        configure(
            &machine.paths,
            &peer("cp-1"),
            "10.0.0.1:6443".parse().unwrap(),
        )
        .unwrap();
        place_ca(&machine.paths, &second).unwrap();
        let err = place_ca(&machine.paths, &ca()).unwrap_err();
        assert!(err.to_string().contains("another one"), "{err}");
        assert_eq!(machine.read(BALANCER_CA).as_bytes(), second.pem.as_slice());
    }
}
