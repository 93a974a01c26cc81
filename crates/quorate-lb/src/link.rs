//! The kept connections to a backend: how they are dialled, and why one may not stand.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Health;
use crate::pool::MemberId;
use crate::tls::Trust;

/// Whom to watch, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub id: MemberId,
    pub address: SocketAddr,
    pub trust: Trust,
    pub health: Health,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// PING.
    Http2,
    /// `/readyz`. kube-apiserver ends an HTTP/2 connection after one request that is not authenticated
    /// (its defence against rapid resets), so that PINGs and requests cannot share one.
    Http1,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// The host answers, the port is closed.
    Refused,
    /// It ended while it was made.
    Broken(String),
    /// No route, no answer to ARP, a timeout: nobody is there, or we are not.
    Unreachable(String),
    /// Not a certificate or protocol to trust.
    Untrusted(String),
}

impl NoConnection {
    /// For people.
    pub(crate) fn words(&self) -> &str {
        match self {
            NoConnection::Refused => "connection refused",
            NoConnection::Broken(why)
            | NoConnection::Unreachable(why)
            | NoConnection::Untrusted(why) => why,
        }
    }
}

/// Connects and shakes hands. Takes as long as it takes: whoever asks sets the limit.
pub(crate) async fn dial(
    target: &Target,
    protocol: Protocol,
) -> Result<TlsStream<TcpStream>, NoConnection> {
    let stream = TcpStream::connect(target.address)
        .await
        .map_err(|err| match err.kind() {
            io::ErrorKind::ConnectionRefused => NoConnection::Refused,
            io::ErrorKind::ConnectionReset => NoConnection::Broken(err.to_string()),
            _ => NoConnection::Unreachable(err.to_string()),
        })?;
    // A PING is a small write that must not wait for the acknowledgement of the one before.
    stream
        .set_nodelay(true)
        .map_err(|err| NoConnection::Broken(err.to_string()))?;
    let name = ServerName::try_from(target.health.server_name.clone())
        .map_err(|err| NoConnection::Untrusted(err.to_string()))?;
    let config = match protocol {
        Protocol::Http2 => &target.trust.http2,
        Protocol::Http1 => &target.trust.http1,
    };
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|err| match err.kind() {
            io::ErrorKind::InvalidData => NoConnection::Untrusted(format!("TLS: {err}")),
            _ => NoConnection::Broken(format!("TLS: {err}")),
        })?;
    match (protocol, stream.get_ref().1.alpn_protocol()) {
        (Protocol::Http2, Some(b"h2")) => Ok(stream),
        // A server that does not negotiate speaks HTTP/1.1.
        (Protocol::Http1, Some(b"http/1.1") | None) => Ok(stream),
        (Protocol::Http2, _) => Err(NoConnection::Untrusted(
            "it does not speak HTTP/2".to_owned(),
        )),
        (Protocol::Http1, _) => Err(NoConnection::Untrusted(
            "it does not speak HTTP/1.1".to_owned(),
        )),
    }
}
