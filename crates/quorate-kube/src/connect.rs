//! Opening one connection: TCP, TLS and HTTP, each measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client::Timings;
use crate::{Credentials, KubeError, Kubeconfig, Phase, TlsReason};

/// How often a connection with open streams is pinged, and how long the answer may take. Calls have deadlines; this is for
/// watches, which would otherwise stay on a dead connection for as long as TCP does (15 minutes).
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(5);

pub(crate) type Body = Full<Bytes>;

/// One end of an open connection.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A connection that was just opened.
pub(crate) struct Opened {
    pub(crate) sender: Sender,
    pub(crate) timings: Timings,
    /// What the server showed for itself, as DER. `None` without TLS.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Where to connect and what to expect there.
pub(crate) struct Target {
    /// `host:port` as the kubeconfig has it, for the Host header and for messages.
    pub(crate) authority: String,
    pub(crate) scheme: &'static str,
    /// A path before the API's own, for servers behind a proxy; without a slash at its end.
    pub(crate) prefix: String,
    host: String,
    port: u16,
    address: Option<SocketAddr>,
    tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>)>,
}

/// How far a call has come, readable after it was given up.
#[derive(Default)]
pub(crate) struct Progress(AtomicU8);

impl Progress {
    pub(crate) fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Connect,
            1 => Phase::Tls,
            _ => Phase::Answer,
        }
    }
}

impl Target {
    pub(crate) fn new(
        config: &Kubeconfig,
        address: Option<SocketAddr>,
    ) -> Result<Target, KubeError> {
        let refused = |why: &str| KubeError::Request {
            why: format!(
                "the kubeconfig's server `{}` {why}",
                crate::error::shown(&config.server, 200)
            ),
        };
        let uri: http::Uri = config.server.parse().map_err(|_| refused("is not a URL"))?;
        let scheme = match uri.scheme_str() {
            Some("https") => "https",
            Some("http") => "http",
            _ => return Err(refused("starts with neither `https://` nor `http://`")),
        };
        let host = uri
            .host()
            .filter(|h| !h.is_empty())
            .ok_or_else(|| refused("names no host"))?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri
            .port_u16()
            .unwrap_or(if scheme == "https" { 443 } else { 80 });
        let tls = if scheme == "https" {
            let name = config
                .tls_server_name
                .clone()
                .unwrap_or_else(|| host.clone());
            let name = ServerName::try_from(name)
                .map_err(|_| refused("has no name that a certificate could hold"))?;
            Some((
                tokio_rustls::TlsConnector::from(Arc::new(tls_config(config)?)),
                name,
            ))
        } else {
            None
        };
        let authority = uri
            .authority()
            .expect("a URI with a host has an authority")
            .to_string();
        Ok(Target {
            authority,
            scheme,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host,
            port,
            address,
            tls,
        })
    }

    /// Where it is, for messages.
    pub(crate) fn peer(&self) -> String {
        match self.address {
            Some(address) => format!("{} ({address})", self.authority),
            None => self.authority.clone(),
        }
    }

    pub(crate) async fn open(&self, progress: &Progress) -> Result<Opened, KubeError> {
        let unreachable = |source| KubeError::Unreachable {
            peer: self.peer(),
            source,
        };
        progress.enter(Phase::Connect);
        let started = Instant::now();
        let tcp = match self.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((self.host.as_str(), self.port)).await,
        };
        let tcp = tcp.map_err(unreachable)?;
        // Small requests must not wait for an acknowledgement (Nagle).
        tcp.set_nodelay(true).map_err(unreachable)?;
        let peer = tcp.peer_addr().map_err(unreachable)?;
        let connect = started.elapsed();
        let Some((connector, name)) = &self.tls else {
            let sender = self.http1(TokioIo::new(tcp)).await?;
            return Ok(Opened {
                sender,
                timings: Timings {
                    connect,
                    tls: Duration::ZERO,
                    peer,
                },
                certificate: None,
            });
        };
        progress.enter(Phase::Tls);
        let started = Instant::now();
        let stream = connector
            .connect(name.clone(), tcp)
            .await
            .map_err(|source| KubeError::Tls {
                peer: self.peer(),
                reason: TlsReason::of(&source),
                source,
            })?;
        let timings = Timings {
            connect,
            tls: started.elapsed(),
            peer,
        };
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(|chain| Some(chain.first()?.to_vec()));
        let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let sender = if speaks_http2 {
            self.http2(io).await?
        } else {
            self.http1(io).await?
        };
        Ok(Opened {
            sender,
            timings,
            certificate,
        })
    }

    async fn http1<I>(&self, io: I) -> Result<Sender, KubeError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|source| self.broken(false, source))?;
        // What ends it is reported to whoever waits for an answer; the task ends when its senders are gone.
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }

    async fn http2<I>(&self, io: I) -> Result<Sender, KubeError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .handshake(io)
            .await
            .map_err(|source| self.broken(false, source))?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    }

    pub(crate) fn broken(&self, sent: bool, source: hyper::Error) -> KubeError {
        KubeError::Broken {
            peer: self.peer(),
            sent,
            source,
        }
    }
}

fn tls_config(config: &Kubeconfig) -> Result<rustls::ClientConfig, KubeError> {
    // Neither rustls' nor the PEM reader's message holds any of the text.
    let refused = |what: &str, err: &dyn std::fmt::Display| KubeError::Request {
        why: format!("the {what} in the kubeconfig is not usable: {err}"),
    };
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&config.ca_pem) {
        let cert = cert.map_err(|err| refused("certificate authority", &err))?;
        roots
            .add(cert)
            .map_err(|err| refused("certificate authority", &err))?;
    }
    if roots.is_empty() {
        return Err(refused(
            "certificate authority",
            &"there is none, and https needs one",
        ));
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("ring supports the default protocol versions")
    .with_root_certificates(roots);
    let mut tls = match &config.credentials {
        Credentials::Certificate { cert_pem, key_pem } => {
            let chain = CertificateDer::pem_slice_iter(cert_pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|err| refused("client certificate", &err))?;
            if chain.is_empty() {
                return Err(refused(
                    "client certificate",
                    &"there is no certificate in it",
                ));
            }
            let key = PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|err| refused("client key", &err))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|err| refused("client certificate with its key", &err))?
        }
        Credentials::None | Credentials::Token(_) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
