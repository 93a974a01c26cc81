//! A small HTTPS server that answers as it is told and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quorate_kube::{Client, Credentials, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use zeroize::Zeroizing;

/// Long enough for anything on loopback on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// What a server offers that speaks only one version of HTTP.
pub const HTTP2: &[&[u8]] = &[b"h2"];
pub const HTTP1: &[&[u8]] = &[b"http/1.1"];

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let cert = params.self_signed(&key).expect("a certificate");
        Authority {
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate and its key, valid for the years given.
    pub fn issue(&self, names: &[&str], years: std::ops::Range<i32>) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
                .expect("valid names");
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        (cert.pem(), key.serialize_pem())
    }
}

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub body: Value,
}

/// What to answer.
pub enum Reply {
    Json(u16, Value),
    Text(u16, String),
    /// 200 and whatever comes through the channel, until it is closed.
    Stream(mpsc::UnboundedReceiver<Bytes>),
    /// Nothing, ever.
    Silence,
    /// Nothing, and the end of the connection.
    Cut,
}

pub struct Server {
    pub address: SocketAddr,
    pub authority: Authority,
    pub connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Ends every connection.
    pub cut: Arc<Notify>,
}

/// How the server presents itself.
pub struct Manner {
    pub names: &'static [&'static str],
    pub years: std::ops::Range<i32>,
    pub alpn: &'static [&'static [u8]],
}

impl Default for Manner {
    fn default() -> Self {
        Manner {
            names: &["api.test", "127.0.0.1"],
            years: 2020..2120,
            alpn: &[b"h2", b"http/1.1"],
        }
    }
}

impl Server {
    pub async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::with(Manner::default(), answer).await
    }

    pub async fn with(
        manner: Manner,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let authority = Authority::new("kubernetes");
        let (cert, key) = authority.issue(manner.names, manner.years);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM"))
            .expect("a certificate");
        // As kube-apiserver: a client certificate is asked for, not demanded.
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider.clone(),
        )
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
            )
            .expect("a certificate with its key");
        config.alpn_protocols = manner.alpn.iter().map(|p| p.to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Server {
            address: listener.local_addr().expect("bound"),
            authority,
            connections: Arc::default(),
            seen: Arc::default(),
            cut: Arc::default(),
        };
        let (connections, seen, cut) = (
            server.connections.clone(),
            server.seen.clone(),
            server.cut.clone(),
        );
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, connections, seen, cut, answer) = (
                    acceptor.clone(),
                    connections.clone(),
                    seen.clone(),
                    cut.clone(),
                    answer.clone(),
                );
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    connections.fetch_add(1, Ordering::SeqCst);
                    let session = tls.get_ref().1;
                    let http2 = session.alpn_protocol() == Some(b"h2");
                    let known = session.peer_certificates().is_some();
                    let ended = cut.clone();
                    let service = hyper::service::service_fn(move |request| {
                        serve(request, known, seen.clone(), cut.clone(), answer.clone())
                    });
                    let io = TokioIo::new(tls);
                    // Created before the first request is read, so that no notice is missed.
                    let ended = ended.notified();
                    if http2 {
                        tokio::select! {
                            _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service) => {}
                            () = ended => {}
                        }
                    } else {
                        tokio::select! {
                            _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service) => {}
                            () = ended => {}
                        }
                    }
                });
            }
        });
        server
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn kubeconfig(&self, credentials: Credentials) -> Kubeconfig {
        Kubeconfig::new(
            &format!("https://api.test:{}", self.address.port()),
            self.authority.pem.clone().into_bytes(),
            credentials,
        )
    }

    /// A client without credentials for this server, found by its address and known by its name.
    pub fn client(&self) -> Client {
        Client::new(&self.kubeconfig(Credentials::None), Some(self.address))
            .expect("a usable configuration")
    }

    pub fn certificate(&self) -> Credentials {
        let (cert, key) = self.authority.issue(&[], 2020..2120);
        Credentials::Certificate {
            cert_pem: cert.into_bytes(),
            key_pem: Zeroizing::new(key.into_bytes()),
        }
    }
}

async fn serve(
    request: http::Request<Incoming>,
    known: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
    cut: Arc<Notify>,
    answer: Arc<impl Fn(&Seen) -> Reply>,
) -> Result<http::Response<BoxBody<Bytes, std::convert::Infallible>>, std::convert::Infallible> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let mut this = Seen {
        method: request.method().to_string(),
        path: request.uri().path_and_query().expect("a path").to_string(),
        authorization: header("authorization").or(known.then(|| "certificate".to_owned())),
        content_type: header("content-type"),
        body: Value::Null,
    };
    if let Ok(body) = request.into_body().collect().await {
        this.body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
    }
    seen.lock().expect("not poisoned").push(this.clone());
    let full = |text: String| Full::new(Bytes::from(text)).boxed();
    let (status, body) = match answer(&this) {
        Reply::Json(status, value) => (status, full(value.to_string())),
        Reply::Text(status, text) => (status, full(text)),
        Reply::Stream(parts) => {
            let parts = stream::unfold(parts, |mut parts| async {
                parts
                    .recv()
                    .await
                    .map(|part| (Ok(Frame::data(part)), parts))
            });
            (200, BodyExt::boxed(StreamBody::new(parts)))
        }
        Reply::Silence => std::future::pending().await,
        Reply::Cut => {
            cut.notify_waiters();
            std::future::pending().await
        }
    };
    Ok(http::Response::builder()
        .status(status)
        .body(body)
        .expect("a valid status"))
}

/// A `Status` as the API server sends it.
pub fn status(code: u16, reason: &str, message: &str) -> Reply {
    Reply::Json(
        code,
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code}),
    )
}
