//! Which authorities a service's certificate may lead to: this machine's, or those of a file that is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::http::HttpError;

/// Where the systems that Quorate runs on keep their list of certificate authorities.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// A connector that trusts `named`, or the machine's authorities.
pub(crate) fn connector(named: Option<&Path>) -> Result<tokio_rustls::TlsConnector, HttpError> {
    let path: PathBuf = match named {
        Some(path) => path.to_owned(),
        None => SYSTEM
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .ok_or(HttpError::NoAuthorities {
                looked: SYSTEM.join(", "),
            })?,
    };
    let unusable = |why: String| HttpError::Authorities {
        path: path.clone(),
        why,
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(&path).map_err(|err| unusable(err.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|err| unusable(err.to_string()))?;
        // Every system ships a few that rustls does not read: they vouch for nobody.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate in PEM form".to_owned()));
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("ring supports the default protocol versions")
    .with_root_certificates(roots)
    .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}
