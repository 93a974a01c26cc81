//! Opening one TCP and TLS connection to one member, with errors that say how far it got.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How much of the member's first bytes is read before the connection is used: a SETTINGS frame is below it.
const GREETING_BYTES: usize = 256;

/// The client's certificate and the authority that signed the member's, as PEM.
///
/// For a kubeadm cluster: `etcd/ca.crt` with `etcd/healthcheck-client.crt` or `apiserver-etcd-client.crt` and their keys.
#[derive(Clone)]
pub struct Tls {
    /// The certificates that the member's certificate must lead to; at least one.
    pub ca_pem: Vec<u8>,
    /// The client's certificate chain, leaf first.
    pub cert_pem: Vec<u8>,
    /// The private key of the leaf.
    pub key_pem: Vec<u8>,
}

// The key must not reach a log by way of `{:?}`.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// What was given to reach a member cannot be used; nothing was sent anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not `http(s)://host:port`.
    #[error("expected an etcd endpoint like `https://127.0.0.1:2379`, found `{found}`: {why}")]
    Address {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `https` without certificates, or `http` with them.
    #[error("the endpoint `{endpoint}` {why}")]
    Scheme {
        /// What was given.
        endpoint: String,
        /// Which of the two it is.
        why: &'static str,
    },
    /// PEM that cannot be read. The text of the file is never part of the message.
    #[error("the {what} is not usable PEM")]
    Pem {
        /// Which of the three parts of [`Tls`].
        what: &'static str,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificates that rustls refuses, for example a key that does not belong to the certificate.
    #[error("the {what} is not usable")]
    Certificate {
        /// Which part of [`Tls`].
        what: &'static str,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Why no connection came to be. No byte of a request was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name did not resolve, nobody listens, or there is no way there.
    #[error("no TCP connection")]
    Tcp(#[source] io::Error),
    /// The handshake failed: wrong authority, wrong name, expired, not a TLS server, or the member refused our certificate (then
    /// [`ConnectError::tls`] is an alert, or the connection just ended).
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The peer stayed silent, as a stopped process or a dropping firewall does.
    #[error("{phase} did not finish within {after:?}")]
    Silent {
        /// `TCP connect`, `TLS handshake` or `HTTP/2 greeting`.
        phase: &'static str,
        /// [`crate::Timeouts::connect`].
        after: Duration,
    },
}

impl ConnectError {
    /// What TLS objected to, if that is the reason.
    pub fn tls(&self) -> Option<&rustls::Error> {
        match self {
            ConnectError::Tls(source) => source.get_ref()?.downcast_ref(),
            ConnectError::Tcp(_) | ConnectError::Silent { .. } => None,
        }
    }
}

pub(crate) fn tls_config(tls: &Tls) -> Result<rustls::ClientConfig, EndpointError> {
    let pem = |what| move |source| EndpointError::Pem { what, source };
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&tls.ca_pem) {
        let cert = cert.map_err(pem("CA certificate"))?;
        roots
            .add(cert)
            .map_err(|source| EndpointError::Certificate {
                what: "CA certificate",
                source,
            })?;
    }
    if roots.is_empty() {
        return Err(EndpointError::Pem {
            what: "CA certificate",
            source: rustls_pki_types::pem::Error::NoItemsFound,
        });
    }
    let chain = CertificateDer::pem_slice_iter(&tls.cert_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem("client certificate"))?;
    if chain.is_empty() {
        return Err(EndpointError::Pem {
            what: "client certificate",
            source: rustls_pki_types::pem::Error::NoItemsFound,
        });
    }
    let key = PrivateKeyDer::from_pem_slice(&tls.key_pem).map_err(pem("client key"))?;
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("ring supports the default protocol versions")
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)
    .map_err(|source| EndpointError::Certificate {
        what: "client certificate with its key",
        source,
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Dials the one address it was made for, whatever URI it is asked for: a channel that cannot be balanced.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>)>,
    pub(crate) within: Duration,
}

impl Connector {
    async fn dial(self) -> Result<TokioIo<Stream>, ConnectError> {
        let started = tokio::time::Instant::now();
        let silent = |phase| {
            move |_| ConnectError::Silent {
                phase,
                after: self.within,
            }
        };
        let tcp = tokio::time::timeout(
            self.within,
            TcpStream::connect((self.host.as_str(), self.port)),
        )
        .await
        .map_err(silent("TCP connect"))?
        .map_err(ConnectError::Tcp)?;
        // Small requests must not wait for an acknowledgement (Nagle).
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let Some((connector, name)) = self.tls else {
            return Ok(TokioIo::new(Stream::Plain(tcp)));
        };
        let left = || self.within.saturating_sub(started.elapsed());
        let mut stream = tokio::time::timeout(left(), connector.connect(name, tcp))
            .await
            .map_err(silent("TLS handshake"))?
            .map_err(ConnectError::Tls)?;
        // Under TLS 1.3 our side of the handshake ends before the member has judged our certificate; its refusal would end a call
        // as a broken connection, and nobody would know whether the call was carried out. An HTTP/2 server greets first, so its
        // first bytes are the proof that it took us.
        let mut greeting = vec![0; GREETING_BYTES];
        let read = tokio::time::timeout(left(), stream.read(&mut greeting))
            .await
            .map_err(silent("HTTP/2 greeting"))?
            .map_err(ConnectError::Tls)?;
        if read == 0 {
            return Err(ConnectError::Tls(io::ErrorKind::UnexpectedEof.into()));
        }
        greeting.truncate(read);
        Ok(TokioIo::new(Stream::Tls {
            greeting,
            stream: Box::new(stream),
        }))
    }
}

impl tonic::codegen::Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

/// A connection with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls {
        /// What was read before the connection was handed over; it is read again first.
        greeting: Vec<u8>,
        stream: Box<TlsStream<TcpStream>>,
    },
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls { greeting, .. } if !greeting.is_empty() => {
                let part = greeting.len().min(buf.remaining());
                buf.put_slice(&greeting[..part]);
                greeting.drain(..part);
                Poll::Ready(Ok(()))
            }
            Stream::Tls { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls { stream, .. } => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
