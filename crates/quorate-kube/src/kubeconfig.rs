//! Reading the part of a kubeconfig file that says where the API server is and who we are.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Largest kubeconfig or certificate file that is read, in bytes; kubeadm's are below 10 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who we are to the API server. Debug output shows only which kind.
#[derive(Clone)]
pub enum Credentials {
    /// Nobody: enough for `/readyz`, `/livez` and `/version`.
    None,
    /// A client certificate.
    Certificate {
        /// The chain, leaf first, as PEM.
        cert_pem: Vec<u8>,
        /// The leaf's private key, as PEM.
        key_pem: Zeroizing<Vec<u8>>,
    },
    /// A bearer token.
    Token(Zeroizing<String>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "Credentials::None",
            Credentials::Certificate { .. } => "Credentials::Certificate(..)",
            Credentials::Token(_) => "Credentials::Token(..)",
        })
    }
}

/// Where one API server is, how to know it, and who we are.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    pub(crate) server: String,
    pub(crate) ca_pem: Vec<u8>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) credentials: Credentials,
    pub(crate) namespace: String,
}

/// A kubeconfig that cannot be used. File contents are never part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigError {
    /// The file, or one it names, cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is longer than a kubeconfig is.
    #[error("`{}` is longer than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It is not YAML, or a field has another type. The line is named, not shown: it may hold a key.
    #[error("not a kubeconfig: line {line}, column {column} is not what was expected there")]
    Syntax {
        /// Counted from 1; 0 when unknown.
        line: u64,
        /// Counted from 1; 0 when unknown.
        column: u64,
    },
    /// Something it should have is not there.
    #[error("the kubeconfig has no {what}")]
    Missing {
        /// What.
        what: String,
    },
    /// A value that cannot be used.
    #[error("the kubeconfig's {field} is not usable: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Something this client does not do.
    #[error(
        "the kubeconfig uses `{field}`, which is not supported here; use one with a client certificate or a token"
    )]
    Unsupported {
        /// Which field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<SecretText>,
    token: Option<SecretText>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
    username: Option<serde::de::IgnoredAny>,
}

/// Text that is wiped when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct SecretText(Zeroizing<String>);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        SecretText(Zeroizing::new(text))
    }
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

impl Kubeconfig {
    /// One made of its parts instead of a file. `server` is `https://host:port`, with a path where a proxy wants one.
    pub fn new(server: &str, ca_pem: Vec<u8>, credentials: Credentials) -> Kubeconfig {
        Kubeconfig {
            server: server.to_owned(),
            ca_pem,
            tls_server_name: None,
            credentials,
            namespace: "default".to_owned(),
        }
    }

    /// The same server and authority, without credentials.
    #[must_use]
    pub fn anonymous(&self) -> Kubeconfig {
        Kubeconfig {
            credentials: Credentials::None,
            ..self.clone()
        }
    }

    /// The same with another name expected in the server's certificate.
    #[must_use]
    pub fn with_tls_server_name(self, name: &str) -> Kubeconfig {
        Kubeconfig {
            tls_server_name: Some(name.to_owned()),
            ..self
        }
    }

    /// Reads the file's current context. Files it names are read too, relative to its folder.
    ///
    /// # Errors
    /// See [`KubeconfigError`].
    pub fn load(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text = read(path)?;
        let text = std::str::from_utf8(&text)
            .map_err(|_| KubeconfigError::Syntax { line: 0, column: 0 })?;
        Kubeconfig::parse(text, path.parent().unwrap_or(Path::new(".")))
    }

    /// Reads a kubeconfig's current context from its text; files it names are looked for in `folder`.
    ///
    /// # Errors
    /// See [`KubeconfigError`].
    pub fn parse(text: &str, folder: &Path) -> Result<Kubeconfig, KubeconfigError> {
        // The parser's own message would quote the lines around the fault, which may be a key.
        let file: File = serde_saphyr::from_str(text).map_err(|err| {
            let (line, column) = err.location().map_or((0, 0), |l| (l.line(), l.column()));
            KubeconfigError::Syntax { line, column }
        })?;
        let missing = |what: &str| KubeconfigError::Missing {
            what: what.to_owned(),
        };
        if file.current_context.is_empty() {
            return Err(missing("current-context"));
        }
        let context = file
            .contexts
            .into_iter()
            .find(|c| c.name == file.current_context)
            .map(|c| c.context);
        let context = context.ok_or_else(|| missing("context of the name in current-context"))?;
        let cluster = file
            .clusters
            .into_iter()
            .find(|c| c.name == context.cluster)
            .map(|c| c.cluster);
        let cluster =
            cluster.ok_or_else(|| missing("cluster of the name in the current context"))?;
        let user = file
            .users
            .into_iter()
            .find(|u| u.name == context.user)
            .map(|u| u.user);
        let user = user.ok_or_else(|| missing("user of the name in the current context"))?;

        if cluster.insecure_skip_tls_verify {
            return Err(KubeconfigError::Unsupported {
                field: "insecure-skip-tls-verify",
            });
        }
        if cluster.proxy_url.is_some() {
            return Err(KubeconfigError::Unsupported { field: "proxy-url" });
        }
        let ca_pem = inline_or_file(
            "certificate-authority-data",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
            folder,
        )?;
        // Plain http has no authority; the client refuses https without one.
        let ca_pem = ca_pem.map(|pem| pem.to_vec()).unwrap_or_default();
        Ok(Kubeconfig {
            server: cluster.server,
            ca_pem,
            tls_server_name: cluster.tls_server_name,
            credentials: user.credentials(folder)?,
            namespace: context.namespace.unwrap_or_else(|| "default".to_owned()),
        })
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The authority's certificates, as PEM.
    pub fn ca_pem(&self) -> &[u8] {
        &self.ca_pem
    }

    /// Who we are to the server.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The namespace of objects that name none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl User {
    fn credentials(&self, folder: &Path) -> Result<Credentials, KubeconfigError> {
        for (field, used) in [
            ("exec", self.exec.is_some()),
            ("auth-provider", self.auth_provider.is_some()),
            ("username", self.username.is_some()),
        ] {
            if used {
                return Err(KubeconfigError::Unsupported { field });
            }
        }
        let cert = inline_or_file(
            "client-certificate-data",
            self.client_certificate_data.as_deref(),
            self.client_certificate.as_deref(),
            folder,
        )?;
        let key = inline_or_file(
            "client-key-data",
            self.client_key_data.as_ref().map(|k| k.0.as_str()),
            self.client_key.as_deref(),
            folder,
        )?;
        match (cert, key) {
            (Some(cert), Some(key)) => {
                return Ok(Credentials::Certificate {
                    cert_pem: cert.to_vec(),
                    key_pem: key,
                });
            }
            (Some(_), None) => {
                return Err(KubeconfigError::Missing {
                    what: "client-key for its client-certificate".to_owned(),
                });
            }
            (None, Some(_)) => {
                return Err(KubeconfigError::Missing {
                    what: "client-certificate for its client-key".to_owned(),
                });
            }
            (None, None) => {}
        }
        if let Some(token) = &self.token {
            return Ok(Credentials::Token(token.0.clone()));
        }
        if let Some(path) = &self.token_file {
            let bytes = read(&folder.join(path))?;
            let text = std::str::from_utf8(&bytes).map_err(|_| KubeconfigError::Invalid {
                field: "tokenFile",
                why: "it is not text",
            })?;
            return Ok(Credentials::Token(Zeroizing::new(text.trim().to_owned())));
        }
        Ok(Credentials::None)
    }
}

fn inline_or_file(
    field: &'static str,
    inline: Option<&str>,
    file: Option<&Path>,
    folder: &Path,
) -> Result<Option<Zeroizing<Vec<u8>>>, KubeconfigError> {
    // Inline wins over the file, as in kubectl.
    if let Some(text) = inline.filter(|t| !t.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .map_err(|_| KubeconfigError::Invalid {
                field,
                why: "it is not base64",
            })?;
        return Ok(Some(Zeroizing::new(bytes)));
    }
    file.filter(|p| !p.as_os_str().is_empty())
        .map(|p| read(&folder.join(p)))
        .transpose()
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KubeconfigError> {
    let failed = |source| KubeconfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(KubeconfigError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}
