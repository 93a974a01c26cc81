//! Certificates, keys and kubeconfigs: what is public of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use base64::Engine as _;
use quorate_plan::observation::{Certificate, Pki};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::X509Certificate,
};

use crate::{
    durable::{self, FileError},
    paths::Paths,
    seal::CA_FILES,
};

/// The public halves of the CA set.
const PUBLIC: [&str; 4] = ["ca.crt", "front-proxy-ca.crt", "etcd/ca.crt", "sa.pub"];

/// Leaf certificates below `pki`.
pub(crate) const LEAVES: [&str; 7] = [
    "apiserver",
    "apiserver-etcd-client",
    "apiserver-kubelet-client",
    "front-proxy-client",
    "etcd/server",
    "etcd/peer",
    "etcd/healthcheck-client",
];

/// Kubeconfigs below `/etc/kubernetes`.
const KUBECONFIGS: [&str; 5] = [
    "admin.conf",
    "super-admin.conf",
    "kubelet.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

pub(super) fn look(paths: &Paths) -> Result<Pki, FileError> {
    let there: BTreeSet<&str> = CA_FILES
        .into_iter()
        .filter(|name| paths.pki(name).exists())
        .collect();
    // A worker has the cluster's CA certificate and nothing else of the set.
    let missing = if there.is_empty() || there == ["ca.crt"].into() {
        BTreeSet::new()
    } else {
        CA_FILES
            .into_iter()
            .filter(|name| !there.contains(name))
            .map(|name| format!("pki/{name}"))
            .collect()
    };
    let mut certificates = BTreeMap::new();
    for leaf in LEAVES {
        let name = format!("{leaf}.crt");
        if let Some(certificate) = read_certificate(&paths.pki(&name))? {
            certificates.insert(format!("pki/{name}"), certificate);
        }
    }
    for name in KUBECONFIGS {
        if let Some(pem) = kubeconfig_certificate(paths, name)? {
            let certificate = parse_certificate(&paths.kubernetes(name), &pem)?;
            certificates.insert(name.to_owned(), certificate);
        }
    }
    Ok(Pki {
        authority: authority_digest(paths)?,
        missing,
        cluster_ca: certificate_digest(&paths.pki("ca.crt"))?,
        certificates,
    })
}

/// Digest over the public halves of the CA set; `None` unless the set is whole, with its private keys.
pub(crate) fn authority_digest(paths: &Paths) -> Result<Option<String>, FileError> {
    if CA_FILES.iter().any(|name| !paths.pki(name).exists()) {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    for name in PUBLIC {
        let path = paths.pki(name);
        let bytes = durable::read(&path)?.unwrap_or_default();
        let pem = pem(&path, &bytes)?;
        digest.update(name);
        digest.update([0]);
        digest.update((pem.contents.len() as u64).to_be_bytes());
        digest.update(&pem.contents);
    }
    Ok(Some(hex(&digest.finalize())))
}

/// SHA-256 of a certificate in DER, hex; `None` when there is no such file.
pub(crate) fn certificate_digest(path: &Path) -> Result<Option<String>, FileError> {
    let Some(bytes) = durable::read(path)? else {
        return Ok(None);
    };
    Ok(Some(hex(&Sha256::digest(&pem(path, &bytes)?.contents))))
}

/// How kubeadm names a CA: the hash of its public key.
pub(crate) fn public_key_hash(path: &Path, bytes: &[u8]) -> Result<String, FileError> {
    let pem = pem(path, bytes)?;
    let certificate = x509(path, &pem)?;
    Ok(format!(
        "sha256:{}",
        hex(&Sha256::digest(certificate.public_key().raw))
    ))
}

/// A leaf certificate's end and names; `None` when there is no such file.
pub(crate) fn read_certificate(path: &Path) -> Result<Option<Certificate>, FileError> {
    durable::read(path)?
        .map(|bytes| parse_certificate(path, &bytes))
        .transpose()
}

fn parse_certificate(path: &Path, bytes: &[u8]) -> Result<Certificate, FileError> {
    let pem = pem(path, bytes)?;
    let certificate = x509(path, &pem)?;
    let mut sans = BTreeSet::new();
    let names = certificate
        .subject_alternative_name()
        .map_err(|err| FileError::senseless(path, err))?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                sans.insert(crate::shown::line(name));
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                if let Ok(address) = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                {
                    sans.insert(address.to_string());
                }
            }
            // kubeadm writes none of the other kinds and no client asks for them.
            _ => {}
        }
    }
    Ok(Certificate {
        not_after: certificate.validity().not_after.timestamp(),
        sans,
    })
}

/// Whether a certificate says that it was issued by that CA. True where either of them does not say: then only its use can tell.
pub(crate) fn issued_by(
    leaf: (&Path, &[u8]),
    authority: (&Path, &[u8]),
) -> Result<bool, FileError> {
    let (leaf_pem, ca_pem) = (pem(leaf.0, leaf.1)?, pem(authority.0, authority.1)?);
    let (leaf, ca) = (x509(leaf.0, &leaf_pem)?, x509(authority.0, &ca_pem)?);
    let issuer =
        leaf.extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0),
                _ => None,
            });
    let own = ca
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
    Ok(match (issuer, own) {
        (Some(issuer), Some(own)) => issuer == own,
        (None, _) | (_, None) => true,
    })
}

/// The client certificate that a kubeconfig holds or names, as PEM. `None`: there is no such file, or it has none.
pub(crate) fn kubeconfig_certificate(
    paths: &Paths,
    name: &str,
) -> Result<Option<Vec<u8>>, FileError> {
    let path = paths.kubernetes(name);
    match Config::read(&path)? {
        Some(config) => config.client_certificate(paths, &path),
        None => Ok(None),
    }
}

/// The first PEM block. A file may hold a certificate and its key, in this order: the kubelet's rotated ones do.
fn pem(path: &Path, bytes: &[u8]) -> Result<Pem, FileError> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(bytes)
        .map_err(|err| FileError::senseless(path, err.to_string()))?;
    Ok(pem)
}

fn x509<'a>(path: &Path, pem: &'a Pem) -> Result<X509Certificate<'a>, FileError> {
    pem.parse_x509()
        .map_err(|err| FileError::senseless(path, err.to_string()))
}

pub(super) fn kubeconfigs(paths: &Paths) -> Result<BTreeMap<String, String>, FileError> {
    let mut found = BTreeMap::new();
    for name in KUBECONFIGS {
        if let Some(config) = Config::read(&paths.kubernetes(name))? {
            found.insert(name.to_owned(), crate::shown::line(config.server()));
        }
    }
    Ok(found)
}

/// All servers that a kubeconfig names; `None` when there is no such file.
pub(super) fn servers(path: &Path) -> Result<Option<BTreeSet<String>>, FileError> {
    Ok(Config::read(path)?.map(|config| config.servers()))
}

/// The servers that a kubeconfig's text names; `None` when it is none.
pub(super) fn servers_of(text: &str) -> Option<BTreeSet<String>> {
    let config: Config = serde_saphyr::from_str(text).ok()?;
    Some(config.servers())
}

/// The server a kubeconfig's text points at; `None` when it names none.
pub(crate) fn server_of(text: &str) -> Option<String> {
    let config: Config = serde_saphyr::from_str(text).ok()?;
    let server = config.server();
    (!server.is_empty()).then(|| server.to_owned())
}

/// The public part of a kubeconfig.
#[derive(Deserialize)]
struct Config {
    #[serde(default, deserialize_with = "null_is_empty")]
    clusters: Vec<NamedCluster>,
    #[serde(default, deserialize_with = "null_is_empty")]
    users: Vec<NamedUser>,
}

/// `cluster-info` has no users, and kubeadm writes that as `users: null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    server: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_certificate: Option<std::path::PathBuf>,
}

impl Config {
    fn read(path: &Path) -> Result<Option<Self>, FileError> {
        let Some(text) = durable::read_text(path)? else {
            return Ok(None);
        };
        // The parser's own message would quote the lines around the fault, which may be a key.
        serde_saphyr::from_str(&text)
            .map(Some)
            .map_err(|_| FileError::senseless(path, "it is not a kubeconfig"))
    }

    fn servers(&self) -> BTreeSet<String> {
        let servers = self.clusters.iter().map(|named| &named.cluster.server);
        servers
            .filter(|server| !server.is_empty())
            .map(|server| crate::shown::line(server))
            .collect()
    }

    fn server(&self) -> &str {
        self.clusters
            .first()
            .map_or("", |named| named.cluster.server.as_str())
    }

    fn client_certificate(&self, paths: &Paths, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
        let Some(user) = self.users.first().map(|named| &named.user) else {
            return Ok(None);
        };
        if let Some(data) = &user.client_certificate_data {
            return base64::engine::general_purpose::STANDARD
                .decode(data.trim())
                .map(Some)
                .map_err(|_| FileError::senseless(path, "its certificate is not base64"));
        }
        match &user.client_certificate {
            Some(file) => durable::read(&paths.at(file)),
            None => Ok(None),
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes everything");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn certificate(names: &[&str]) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn kubeconfig(server: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n\
             users:\n- name: u\n  user:\n    {user}\n"
        )
    }

    #[test]
    fn a_whole_set_and_a_part_of_one() {
        let machine = testing::machine();
        assert_eq!(look(&machine.paths).unwrap(), Pki::default());
        machine.write("/etc/kubernetes/pki/ca.crt", certificate(&[]));
        let worker = look(&machine.paths).unwrap();
        assert!(worker.missing.is_empty() && worker.authority.is_none());
        assert!(worker.cluster_ca.is_some());
        machine.write("/etc/kubernetes/pki/ca.key", "key");
        assert_eq!(look(&machine.paths).unwrap().missing.len(), 6);
        for name in CA_FILES {
            machine.write(&format!("/etc/kubernetes/pki/{name}"), certificate(&[]));
        }
        let whole = look(&machine.paths).unwrap();
        assert!(whole.missing.is_empty());
        let digest = whole.authority.unwrap();
        machine.write("/etc/kubernetes/pki/sa.pub", certificate(&[]));
        let other = look(&machine.paths).unwrap().authority.unwrap();
        assert_ne!(digest, other, "another key is another authority");
        machine.write("/etc/kubernetes/pki/ca.crt", "not PEM");
        assert!(look(&machine.paths).is_err());
    }

    #[test]
    fn certificates_know_their_issuer() {
        let authority = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            (pem, rcgen::Issuer::new(params, key))
        };
        let ((ours, issuer), (other, _)) = (authority(), authority());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        let path = Path::new("x.crt");
        let by = |ca: &str| issued_by((path, leaf.as_bytes()), (path, ca.as_bytes())).unwrap();
        assert!(by(&ours) && !by(&other));
        assert!(by(&certificate(&[])), "one that does not say who it is");
    }

    #[test]
    fn leaves_with_their_names_and_kubeconfigs_with_their_servers() {
        let machine = testing::machine();
        machine.write(
            "/etc/kubernetes/pki/apiserver.crt",
            certificate(&["api.demo.internal", "10.0.0.1"]),
        );
        let data = base64::engine::general_purpose::STANDARD.encode(certificate(&["x"]));
        machine.write(
            "/etc/kubernetes/admin.conf",
            kubeconfig(
                "https://api:6443",
                &format!("client-certificate-data: {data}"),
            ),
        );
        machine.write("/var/lib/kubelet/pki/current.pem", certificate(&["y"]));
        machine.write(
            "/etc/kubernetes/kubelet.conf",
            kubeconfig(
                "https://10.0.0.1:6443",
                "client-certificate: /var/lib/kubelet/pki/current.pem",
            ),
        );
        let seen = look(&machine.paths).unwrap();
        let names: Vec<_> = seen.certificates.keys().map(String::as_str).collect();
        assert_eq!(names, ["admin.conf", "kubelet.conf", "pki/apiserver.crt"]);
        let serving = &seen.certificates["pki/apiserver.crt"];
        assert_eq!(
            serving.sans,
            ["10.0.0.1", "api.demo.internal"].map(str::to_owned).into()
        );
        assert!(serving.not_after > 0);
        let servers = kubeconfigs(&machine.paths).unwrap();
        assert_eq!(servers["admin.conf"], "https://api:6443");
        assert_eq!(servers["kubelet.conf"], "https://10.0.0.1:6443");
        machine.write("/etc/kubernetes/admin.conf", "a: [");
        let err = kubeconfigs(&machine.paths).unwrap_err();
        assert!(err.to_string().contains("admin.conf"), "{err}");
    }
}
