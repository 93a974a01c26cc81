//! Over real TCP and TLS on loopback: whom the client trusts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use quorate_aws::{Aws, AwsError, Environment, HttpError, Options};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

use crate::services::group;

const SOON: Duration = Duration::from_secs(10);

const HEALTH: &str = "<DescribeTargetHealthResponse><DescribeTargetHealthResult><TargetHealthDescriptions/>\
                      </DescribeTargetHealthResult></DescribeTargetHealthResponse>";

struct Server {
    address: SocketAddr,
    authority: String,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Server {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.pem().as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            authority,
            connections: Arc::default(),
        };
        let connections = server.connections.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = hyper::service::service_fn(async |_| {
                        Ok::<_, std::convert::Infallible>(http::Response::new(HEALTH.to_owned()))
                    });
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await
                        .ok();
                });
            }
        });
        server
    }

    async fn client(&self, host: &str, authorities: &str) -> Aws {
        let url = format!("https://{host}:{}", self.address.port());
        let environment = Environment::of(
            [
                ("AWS_REGION", "eu-central-1"),
                ("AWS_ACCESS_KEY_ID", "AKID"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_ENDPOINT_URL", url.as_str()),
                ("AWS_CA_BUNDLE", authorities),
            ],
            None,
        );
        Aws::open(Options::of(environment), SOON).await.unwrap()
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn failure(aws: &Aws) -> HttpError {
    match aws.target_health(&group(), SOON).await.unwrap_err() {
        AwsError::Http { source, .. } => source,
        err => panic!("{err:?}"),
    }
}

#[tokio::test]
async fn only_the_authorities_that_are_named_are_trusted() {
    let (server, stranger) = (Server::start().await, Server::start().await);
    let ours = file(&server.authority);
    let ours = ours.path().to_str().unwrap();
    let aws = server.client("localhost", ours).await;
    assert!(aws.target_health(&group(), SOON).await.unwrap().is_empty());
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    // Another authority, and another name: the request is not sent, and not tried again.
    let aws = stranger.client("localhost", ours).await;
    let err = failure(&aws).await;
    assert!(matches!(err, HttpError::Tls { .. }), "{err:?}");
    assert_eq!(stranger.connections.load(Ordering::SeqCst), 1);
    let aws = server.client("127.0.0.1", ours).await;
    let err = failure(&aws).await;
    assert!(matches!(err, HttpError::Tls { .. }), "{err:?}");
}

#[tokio::test]
async fn a_list_of_authorities_that_is_none_is_named() {
    let server = Server::start().await;
    let empty = file("nothing\n");
    for (path, expected) in [
        (empty.path().to_str().unwrap(), "it holds no certificate"),
        ("/nonexistent/ca.pem", "cannot use /nonexistent/ca.pem"),
    ] {
        let err = failure(&server.client("localhost", path).await).await;
        assert!(matches!(err, HttpError::Authorities { .. }), "{err:?}");
        assert!(err.to_string().contains(expected), "{err}");
        assert!(err.to_string().contains("AWS_CA_BUNDLE"), "{err}");
    }
}
