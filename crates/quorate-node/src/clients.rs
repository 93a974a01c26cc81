//! The ways to this cluster's etcd and API, with the certificates that lie on this host.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use quorate_etcd::{Client as Etcd, Timeouts, Tls};
use quorate_kube::{Client as Kube, Kubeconfig};
use quorate_plan::observation::Manifest;

use crate::{
    command::Tools,
    durable::{self, FileError},
    error::ActionError,
    facts::{self, flag_of},
    paths::Paths,
};

/// Where this host's own etcd listens besides its address, by kubeadm's rule.
pub(crate) const LOCAL_ETCD: &str = "https://127.0.0.1:2379";

/// A name that kubeadm puts into every apiserver's certificate, whatever the endpoint is called at the moment.
const SERVER_NAME: &str = "kubernetes";

/// A client for the member at `url`.
///
/// # Errors
/// When there are no etcd certificates here, or they cannot be used.
pub(crate) fn etcd(paths: &Paths, url: &str) -> Result<Etcd, ActionError> {
    let tls = Tls {
        ca_pem: needed(paths.pki("etcd/ca.crt"))?,
        cert_pem: needed(paths.pki("etcd/healthcheck-client.crt"))?,
        key_pem: needed(paths.pki("etcd/healthcheck-client.key"))?,
    };
    Ok(Etcd::connect(url, Some(&tls), Timeouts::default())?)
}

/// A client for this host's own apiserver with a kubeconfig of this host.
///
/// # Errors
/// When the kubeconfig is not there or cannot be used.
pub(crate) fn api(
    paths: &Paths,
    kubeconfig: &str,
    address: SocketAddr,
) -> Result<Kube, ActionError> {
    api_with(&paths.kubernetes(kubeconfig), address)
}

/// A client for an apiserver with any kubeconfig.
///
/// # Errors
/// When the kubeconfig is not there or cannot be used.
pub(crate) fn api_with(kubeconfig: &Path, address: SocketAddr) -> Result<Kube, ActionError> {
    let config = Kubeconfig::load(kubeconfig)?.with_tls_server_name(SERVER_NAME);
    Kube::new(&config, Some(address)).map_err(ActionError::kube("its client cannot be made"))
}

/// A client for whatever stands behind the server of a kubeconfig of this host, by the name in it.
///
/// # Errors
/// When the kubeconfig is not there or cannot be used, or its server's name does not resolve.
pub(crate) async fn through_endpoint(
    paths: &Paths,
    tools: &Tools,
    kubeconfig: &str,
) -> Result<Kube, ActionError> {
    let config = Kubeconfig::load(&paths.kubernetes(kubeconfig))?;
    let server = config.server().to_owned();
    let (host, port) = server
        .strip_prefix("https://")
        .and_then(|rest| rest.trim_end_matches('/').rsplit_once(':'))
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| {
            ActionError::unexpected(
                "a server like https://NAME:PORT",
                &server,
                "look at the kubeconfig",
            )
        })?;
    let addresses = facts::resolve(paths, tools, host).await?;
    let address = facts::first_that_answers(&addresses, port).await;
    let address = address.ok_or_else(|| {
        ActionError::unexpected(
            format!("`{host}` to resolve on this host"),
            "it does not",
            "set up the name, or let Quorate manage /etc/hosts",
        )
    })?;
    Kube::new(&config, Some(SocketAddr::new(address, port)))
        .map_err(ActionError::kube("its client cannot be made"))
}

/// A client for an apiserver that only asks what anybody may ask.
///
/// # Errors
/// When the CA is not there or cannot be used.
pub(crate) fn anonymous(
    ca: PathBuf,
    server: &str,
    address: SocketAddr,
) -> Result<Kube, ActionError> {
    let config = Kubeconfig::new(server, needed(ca)?, quorate_kube::Credentials::None);
    Kube::new(&config, Some(address)).map_err(ActionError::kube("its client cannot be made"))
}

/// A client for an apiserver of the cluster that only asks what anybody may ask, whatever names its certificate has by now.
///
/// # Errors
/// When the CA is not there or cannot be used.
pub(crate) fn of_any_name(ca: PathBuf, address: SocketAddr) -> Result<Kube, ActionError> {
    let server = format!("https://{address}");
    let config = Kubeconfig::new(&server, needed(ca)?, quorate_kube::Credentials::None);
    Kube::new(&config.with_tls_server_name(SERVER_NAME), Some(address))
        .map_err(ActionError::kube("its client cannot be made"))
}

/// Where this host's apiserver listens, as its manifest says. `None`: there is no such manifest, or it does not say.
pub(crate) fn apiserver_address(manifests: &BTreeMap<String, Manifest>) -> Option<SocketAddr> {
    let address = flag_of(manifests, "kube-apiserver", "advertise-address")?
        .parse()
        .ok()?;
    let port = match flag_of(manifests, "kube-apiserver", "secure-port") {
        Some(port) => port.parse().ok()?,
        None => 6443,
    };
    Some(SocketAddr::new(address, port))
}

fn needed(path: PathBuf) -> Result<Vec<u8>, FileError> {
    durable::read(&path)?
        .ok_or_else(|| FileError::new("read", &path)(std::io::ErrorKind::NotFound.into()))
}
