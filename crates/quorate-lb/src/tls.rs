//! TLS of the kept health connections: against the cluster's CA, or openly unchecked.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::config::{ConfigError, Health};

/// The client side of both kept connections to a backend; they differ in the protocol they ask for.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    pub http2: Arc<ClientConfig>,
    pub http1: Arc<ClientConfig>,
}

/// Builds the client side of the health connections; `path` is the configuration's, for messages.
/// Without `ca_file` nothing is verified: the configuration's check has asked for that in words.
pub(crate) fn client_config(path: &Path, health: &Health) -> Result<Trust, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerName::try_from(health.server_name.as_str()).map_err(|_| ConfigError::Value {
        path: path.to_owned(),
        key: "health.server_name".into(),
        expected: "a DNS name or an IP address".into(),
        found: format!("{:?}", health.server_name),
    })?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3");
    let mut config = match &health.ca_file {
        Some(ca_file) => builder
            .with_root_certificates(roots(path, ca_file)?)
            .with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_no_client_auth(),
    };
    // Each new connection proves the certificate again: a resumed one would trust what was replaced.
    config.resumption = Resumption::disabled();
    let speaking = |protocol: &[u8]| {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    Ok(Trust {
        http2: speaking(b"h2"),
        http1: speaking(b"http/1.1"),
    })
}

fn roots(path: &Path, ca_file: &Path) -> Result<RootCertStore, ConfigError> {
    let ca = |err| ConfigError::Ca {
        path: path.to_owned(),
        ca_file: ca_file.to_owned(),
        err,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(ca)? {
        roots
            .add(certificate.map_err(ca)?)
            .map_err(|err| ConfigError::Root {
                path: path.to_owned(),
                ca_file: ca_file.to_owned(),
                err,
            })?;
    }
    if roots.is_empty() {
        return Err(ConfigError::Value {
            path: path.to_owned(),
            key: "health.ca_file".into(),
            expected: "at least one certificate (PEM)".into(),
            found: format!("none in {ca_file:?}"),
        });
    }
    Ok(roots)
}

/// Accepts any certificate whose key signs the handshake: `insecure_skip_verify`.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
