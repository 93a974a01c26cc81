//! Just enough of an HTTP client: GET with redirections, byte ranges, deadlines and limits. Start at [`Client::get`].

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HOST, HeaderMap, HeaderName, LOCATION,
    RANGE, USER_AGENT,
};
use http::uri::{Scheme, Uri};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::FetchError;
use crate::digest::{Content, Sha256, hash_file};
use crate::folder::at;

/// A mirror on the other side of the world answers a connection well within this.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest silence; registries fetch from their own store first, which takes seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Redirections followed; registries use one or two.
const REDIRECTS_MAX: usize = 5;
/// The largest file of a release is about 150 MB; this only keeps a broken server from filling the disk.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 30;

/// Where the systems that Quorate runs on keep their list of certificate authorities.
const SYSTEM_CA: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// An address with scheme and host, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url(Uri);

impl Url {
    /// Reads an `http` or `https` address. A name and password in it are refused: they would show in messages.
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        let wrong = || FetchError::Url(text.chars().take(200).collect());
        let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let known = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
        let plain = uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@'));
        if known && plain && uri.query().is_none() {
            Ok(Self(uri))
        } else {
            Err(wrong())
        }
    }

    /// The path, without a `/` at the end.
    pub(super) fn path(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    /// The same server with another path (and query).
    pub(super) fn with_path(&self, path: &str) -> Result<Self, FetchError> {
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(
            path.parse()
                .map_err(|_| FetchError::Url(path.chars().take(200).collect()))?,
        );
        Uri::from_parts(parts)
            .map(Self)
            .map_err(|_| FetchError::Url(path.chars().take(200).collect()))
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    fn same_server(&self, other: &Self) -> bool {
        self.0.scheme() == other.0.scheme() && self.0.authority() == other.0.authority()
    }

    /// Where a `Location` leads from here.
    fn follow(&self, location: &str) -> Result<Self, FetchError> {
        let refuse = |why| FetchError::Redirect {
            url: self.to_string(),
            why,
        };
        let next = match location.starts_with('/') && !location.starts_with("//") {
            true => self.with_path(location)?,
            false => {
                let uri: Uri = location
                    .parse()
                    .map_err(|_| refuse("to something that is not an address"))?;
                if uri.authority().is_none() {
                    return Err(refuse("to something that is not a full address"));
                }
                Self(uri)
            }
        };
        match self.is_https() && !next.is_https() {
            true => Err(refuse("from https to http")),
            false => Ok(next),
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the query: storage servers put signatures there.
        let host = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(
            f,
            "{}://{host}{}",
            self.0.scheme_str().unwrap_or("http"),
            self.0.path()
        )
    }
}

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    ca: Option<PathBuf>,
    tls: Arc<tokio::sync::OnceCell<TlsConnector>>,
}

impl Client {
    /// A client that trusts the authorities in `ca`, or the system's.
    pub(super) fn new(ca: Option<&Path>) -> Self {
        Self {
            ca: ca.map(Path::to_owned),
            tls: Arc::default(),
        }
    }

    /// Gets an address; follows redirections; a status other than success is an error.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut here = url.clone();
        let mut headers = headers.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.get_once(&here, &headers).await?;
            let status = response.status();
            if status.is_redirection() {
                let location = response
                    .headers()
                    .get(LOCATION)
                    .and_then(|value| value.to_str().ok());
                let next = here.follow(location.unwrap_or_default())?;
                if !next.same_server(&here) {
                    // What one server is to know is not for the next.
                    headers.remove(AUTHORIZATION);
                }
                here = next;
            } else if status.is_success() {
                return Ok(response);
            } else {
                return Err(FetchError::Status {
                    url: here.to_string(),
                    status,
                });
            }
        }
        Err(FetchError::Redirect {
            url: url.to_string(),
            why: "too often",
        })
    }

    /// One request, whatever comes back.
    pub(super) async fn get_once(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, FetchError> {
        let authority = url.0.authority().expect("an address has a host").clone();
        let connect = |err: io::Error| FetchError::Connect {
            url: url.to_string(),
            err,
        };
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = authority
            .port_u16()
            .unwrap_or(if url.is_https() { 443 } else { 80 });
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {CONNECT_MAX:?}"),
            )
        };
        let tcp = timeout(CONNECT_MAX, TcpStream::connect((host.as_str(), port)));
        let tcp = tcp.await.unwrap_or_else(|_| Err(late())).map_err(connect)?;
        let path = url.0.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path)
            .body(Empty::<Bytes>::new())
            .expect("the path was part of an address");
        request.headers_mut().extend(headers.clone());
        let host_header =
            HeaderValue::from_str(authority.as_str()).expect("an authority is a header value");
        request.headers_mut().insert(HOST, host_header);
        request.headers_mut().insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("quorate/", env!("CARGO_PKG_VERSION"))),
        );
        if url.is_https() {
            let name = ServerName::try_from(host)
                .map_err(|err| connect(io::Error::new(io::ErrorKind::InvalidInput, err)))?;
            let tls = self.tls().await?.connect(name, tcp);
            let tls = timeout(CONNECT_MAX, tls)
                .await
                .unwrap_or_else(|_| Err(late()))
                .map_err(connect)?;
            exchange(url, tls, request).await
        } else {
            exchange(url, tcp, request).await
        }
    }

    /// Read when first needed: a plain mirror needs no authorities.
    async fn tls(&self) -> Result<&TlsConnector, FetchError> {
        self.tls
            .get_or_try_init(|| async { connector(self.ca.as_deref()) })
            .await
    }

    /// Gets a small thing whole.
    pub(super) async fn bytes(
        &self,
        url: &Url,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<(HeaderMap, Vec<u8>), FetchError> {
        let response = self.get(url, headers).await?;
        let (head, body) = response.into_parts();
        let mut bytes = Vec::new();
        let expected = content_length(&head.headers);
        read_body(url, body, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            if bytes.len() as u64 > limit {
                Err(FetchError::TooLong {
                    url: url.to_string(),
                    limit,
                })
            } else {
                Ok(())
            }
        })
        .await
        .or_else(|err| cut_short(url, err, bytes.len() as u64, expected))?;
        Ok((head.headers, bytes))
    }

    /// Gets a large thing into `partial`, going on from what an interrupted run left there, and verifies it whole.
    /// What does not verify is removed; what is merely incomplete stays for the next run.
    pub(super) async fn file(
        &self,
        url: &Url,
        headers: &HeaderMap,
        partial: &Path,
        expected: Expected,
        seen: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<Content, FetchError> {
        let limit = expected.size.unwrap_or(FILE_BYTES_MAX);
        let mut have = std::fs::metadata(partial).map_or(0, |meta| meta.len());
        if have > limit {
            have = 0;
        }
        if expected.size.is_none_or(|size| have < size) {
            self.rest(url, headers, partial, have, limit, expected.size, seen)
                .await?;
        }
        let path = partial.to_owned();
        let content = tokio::task::spawn_blocking(move || hash_file(&path, &mut |_| {}))
            .await
            .expect("hashing does not panic")
            .map_err(at("read", partial))?;
        if content.sha256 != expected.sha256 {
            std::fs::remove_file(partial).map_err(at("remove", partial))?;
            let url = url.to_string();
            return Err(FetchError::Digest {
                url,
                expected: expected.sha256,
                found: content.sha256,
            });
        }
        Ok(content)
    }

    #[expect(clippy::too_many_arguments, reason = "the private half of `file`")]
    async fn rest(
        &self,
        url: &Url,
        headers: &HeaderMap,
        partial: &Path,
        have: u64,
        limit: u64,
        size: Option<u64>,
        seen: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let mut headers = headers.clone();
        if have > 0 {
            headers.insert(
                RANGE,
                HeaderValue::from_str(&format!("bytes={have}-"))
                    .expect("digits are a header value"),
            );
        }
        let response = match self.get(url, &headers).await {
            // The file there is now shorter than what we have: from the start.
            Err(FetchError::Status {
                status: StatusCode::RANGE_NOT_SATISFIABLE,
                ..
            }) => {
                headers.remove(RANGE);
                self.get(url, &headers).await?
            }
            other => other?,
        };
        let from = match response.status() == StatusCode::PARTIAL_CONTENT
            && range_start(response.headers()) == Some(have)
        {
            true => have,
            // A server that ignores ranges sends all of it.
            false if response.status() == StatusCode::OK => 0,
            false => {
                return Err(FetchError::Status {
                    url: url.to_string(),
                    status: response.status(),
                });
            }
        };
        let total = size.or_else(|| {
            content_length(response.headers()).map(|length| from.saturating_add(length))
        });
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(partial)
            .map_err(at("open", partial))?;
        file.set_len(from).map_err(at("shorten", partial))?;
        let mut done = from;
        read_body(url, response.into_body(), &mut |chunk| {
            done += chunk.len() as u64;
            if done > limit {
                return Err(FetchError::TooLong {
                    url: url.to_string(),
                    limit,
                });
            }
            file.write_all(chunk).map_err(at("write", partial))?;
            seen(done, total);
            Ok(())
        })
        .await
        .or_else(|err| cut_short(url, err, done, total))?;
        match total {
            Some(total) if done < total => Err(FetchError::Truncated {
                url: url.to_string(),
                expected: total,
                found: done,
            }),
            _ => Ok(()),
        }
    }
}

/// What a downloaded file must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) sha256: Sha256,
    pub(super) size: Option<u64>,
}

/// One header as a map.
pub(super) fn accept(types: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(types))])
}

/// A header's text.
pub(super) fn text(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<&str> {
    headers
        .get(name.into())
        .and_then(|value| value.to_str().ok())
}

async fn exchange<S>(
    url: &Url,
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |err| FetchError::Exchange {
        url: url.to_string(),
        err,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // It ends with the response's body, or when that is dropped.
    tokio::spawn(connection);
    match timeout(SILENCE_MAX, sender.send_request(request)).await {
        Ok(response) => response.map_err(failed),
        Err(_) => Err(FetchError::Stalled {
            url: url.to_string(),
            after: SILENCE_MAX,
        }),
    }
}

async fn read_body(
    url: &Url,
    mut body: Incoming,
    take: &mut dyn FnMut(&[u8]) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    loop {
        match timeout(SILENCE_MAX, body.frame()).await {
            Err(_) => {
                return Err(FetchError::Stalled {
                    url: url.to_string(),
                    after: SILENCE_MAX,
                });
            }
            Ok(None) => return Ok(()),
            Ok(Some(Err(err))) => {
                return Err(FetchError::Exchange {
                    url: url.to_string(),
                    err,
                });
            }
            Ok(Some(Ok(frame))) => {
                if let Some(chunk) = frame.data_ref() {
                    take(chunk)?;
                }
            }
        }
    }
}

/// A connection that closed before the announced end is told in bytes rather than in HTTP's terms.
fn cut_short(
    url: &Url,
    err: FetchError,
    found: u64,
    expected: Option<u64>,
) -> Result<(), FetchError> {
    match (&err, expected) {
        (FetchError::Exchange { err, .. }, Some(expected))
            if err.is_incomplete_message() || found < expected =>
        {
            Err(FetchError::Truncated {
                url: url.to_string(),
                expected,
                found,
            })
        }
        _ => Err(err),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}

/// The first number of `Content-Range: bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

fn connector(ca: Option<&Path>) -> Result<TlsConnector, FetchError> {
    let path = match ca {
        Some(path) => path,
        None => SYSTEM_CA
            .iter()
            .map(Path::new)
            .find(|path| path.is_file())
            .ok_or(FetchError::NoCa)?,
    };
    let unusable = |why: String| FetchError::Ca {
        path: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(|err| unusable(err.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
        let certificate = certificate.map_err(|err| unusable(err.to_string()))?;
        match roots.add(certificate) {
            Ok(()) => {}
            // Systems ship a few that rustls does not read; a file named by the user must be right.
            Err(_) if ca.is_none() => {}
            Err(err) => return Err(unusable(err.to_string())),
        }
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate in PEM form".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        for (text, shown) in [
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080/")),
            (
                "https://mirror.example/k8s/",
                Some("https://mirror.example/k8s"),
            ),
            ("ftp://mirror.example", None),
            ("mirror.example", None),
            ("https://user:secret@mirror.example", None),
            ("https://mirror.example/?token=1", None),
            ("", None),
        ] {
            assert_eq!(
                Url::parse(text).ok().map(|url| url.to_string()).as_deref(),
                shown,
                "{text}"
            );
        }
    }

    #[test]
    fn follows_only_where_it_may() {
        let from = Url::parse("https://a.example/x").unwrap();
        assert_eq!(
            from.follow("/y?signature=1").unwrap().to_string(),
            "https://a.example/y"
        );
        assert_eq!(
            from.follow("https://b.example/z").unwrap().to_string(),
            "https://b.example/z"
        );
        for refused in ["http://a.example/x", "", "y", "//b.example/z", ":"] {
            assert!(
                matches!(from.follow(refused), Err(FetchError::Redirect { .. })),
                "{refused}"
            );
        }
    }
}
