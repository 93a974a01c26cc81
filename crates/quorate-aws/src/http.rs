//! One HTTP request over a connection of its own, with a deadline and a limit for the answer. No redirection is followed: a signature is for
//! one host, and so are tokens.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::roots;

/// Most headers that an answer may have; AWS sends about ten.
const HEADERS_MAX: usize = 64;

/// One end of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type DialFn = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync;

/// How a connection to a host and port is opened, below TLS. The default is TCP.
#[derive(Clone)]
pub struct Dial(Arc<DialFn>);

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial(..)")
    }
}

impl Default for Dial {
    fn default() -> Self {
        Dial::of(|host, port| {
            Box::pin(async move {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                // Small requests must not wait for an acknowledgement (Nagle).
                tcp.set_nodelay(true)?;
                Ok(Box::new(tcp) as Box<dyn Stream>)
            })
        })
    }
}

impl Dial {
    /// Another way than TCP: to a server in this process, or through a tunnel.
    pub fn of(
        open: impl Fn(String, u16) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>
        + Send
        + Sync
        + 'static,
    ) -> Dial {
        Dial(Arc::new(open))
    }
}

/// How far a request had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Name resolution and TCP.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The request may have been sent.
    Answer,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connecting",
            Phase::Tls => "the TLS handshake",
            Phase::Answer => "waiting for the answer",
        })
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// An address that is none.
    #[error("`{url}` is not an address like https://ec2.example:443")]
    Url {
        /// What was given, shortened.
        url: String,
    },
    /// A header that cannot be sent: a key or token with characters that no header can carry.
    #[error("the header `{name}` for {peer} would have characters that a header cannot carry")]
    Header {
        /// Its name; never its value.
        name: &'static str,
        /// Where it would have gone.
        peer: String,
    },
    /// No connection: the name did not resolve, nobody listens, no way there. Nothing was sent.
    #[error("{peer} cannot be reached")]
    Unreachable {
        /// Where it was looked for.
        peer: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No list of certificate authorities on this machine.
    #[error(
        "no list of certificate authorities on this machine (looked at {looked})\nhint: install the package ca-certificates, or name a file with AWS_CA_BUNDLE"
    )]
    NoAuthorities {
        /// Where it was looked for.
        looked: String,
    },
    /// The list of certificate authorities cannot be used.
    #[error(
        "cannot use {path} as a list of certificate authorities: {why}\nhint: AWS_CA_BUNDLE names the file; without it the machine's own list is used"
    )]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No TLS session. Nothing was sent.
    #[error("no TLS session with {peer}")]
    Tls {
        /// Where it is.
        peer: String,
        /// The details.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or the answer ended before its announced end.
    #[error("the connection to {peer} broke")]
    Broken {
        /// Where it is.
        peer: String,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// The time for it was over.
    #[error("{peer} did not answer within {within:?}; the time ended in {phase}")]
    Deadline {
        /// Where it is.
        peer: String,
        /// The time given.
        within: Duration,
        /// How far it had come.
        phase: Phase,
    },
    /// The answer is longer than any of its kind.
    #[error("the answer of {peer} is longer than {bytes_max} bytes")]
    TooLarge {
        /// Where it is.
        peer: String,
        /// The limit.
        bytes_max: usize,
    },
}

/// An address with scheme, host and path; nothing secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) https: bool,
    pub(crate) host: String,
    port: Option<u16>,
    /// From `/`, with a query where there is one.
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Url, HttpError> {
        let wrong = || HttpError::Url {
            url: crate::error::shown(text, 200),
        };
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        // A name and password would show in messages.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        Ok(Url {
            https,
            host: authority
                .host()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: authority.port_u16(),
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned()),
        })
    }

    /// The same server with another path.
    pub(crate) fn with_path(&self, path: &str) -> Url {
        Url {
            path: path.to_owned(),
            ..self.clone()
        }
    }

    /// As the header `Host` has it, which is signed.
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// The address without the path, for messages.
    fn server(&self) -> String {
        self.with_path("/").to_string()
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        // Without the query: who is asked for what is nobody's business in a message.
        let path = self.path.split('?').next().unwrap_or("/");
        let path = if path == "/" { "" } else { path };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

/// One request.
pub(crate) struct Ask<'a> {
    pub(crate) method: http::Method,
    pub(crate) url: &'a Url,
    /// Without `host`. Values are never shown.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) answer_bytes_max: usize,
}

/// One answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: http::StatusCode,
    headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Sends requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Http {
    dial: Dial,
    authorities: Option<PathBuf>,
    tls: Arc<OnceCell<tokio_rustls::TlsConnector>>,
}

impl Http {
    pub(crate) fn new(dial: Dial, authorities: Option<PathBuf>) -> Http {
        Http {
            dial,
            authorities,
            tls: Arc::default(),
        }
    }

    /// Sends one request and reads its answer.
    pub(crate) async fn ask(&self, ask: Ask<'_>, within: Duration) -> Result<Answer, HttpError> {
        let phase = AtomicU8::new(0);
        let url = ask.url.clone();
        match tokio::time::timeout(within, self.exchange(ask, &phase)).await {
            Ok(result) => result,
            Err(_) => Err(HttpError::Deadline {
                peer: url.server(),
                within,
                phase: match phase.load(Ordering::Relaxed) {
                    0 => Phase::Connect,
                    1 => Phase::Tls,
                    _ => Phase::Answer,
                },
            }),
        }
    }

    async fn exchange(&self, ask: Ask<'_>, phase: &AtomicU8) -> Result<Answer, HttpError> {
        let url = ask.url;
        let peer = || url.server();
        let request = prepare(&ask)?;
        let stream = (self.dial.0)(url.host.clone(), url.port())
            .await
            .map_err(|source| HttpError::Unreachable {
                peer: peer(),
                source,
            })?;
        if !url.https {
            phase.store(2, Ordering::Relaxed);
            return speak(stream, request, url, ask.answer_bytes_max).await;
        }
        phase.store(1, Ordering::Relaxed);
        // Read when first needed: an endpoint without TLS needs no authorities.
        let connector = self
            .tls
            .get_or_try_init(|| async { roots::connector(self.authorities.as_deref()) })
            .await?;
        let name =
            ServerName::try_from(url.host.clone()).map_err(|_| HttpError::Url { url: peer() })?;
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|source| HttpError::Tls {
                peer: peer(),
                source,
            })?;
        phase.store(2, Ordering::Relaxed);
        speak(stream, request, url, ask.answer_bytes_max).await
    }
}

fn prepare(ask: &Ask<'_>) -> Result<http::Request<Full<Bytes>>, HttpError> {
    let mut request = http::Request::new(Full::new(Bytes::copy_from_slice(&ask.body)));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = ask.url.path.parse().map_err(|_| HttpError::Url {
        url: ask.url.to_string(),
    })?;
    let headers = request.headers_mut();
    headers.insert(
        HOST,
        HeaderValue::try_from(ask.url.authority()).map_err(|_| HttpError::Url {
            url: ask.url.to_string(),
        })?,
    );
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("quorate/", env!("CARGO_PKG_VERSION"))),
    );
    for (name, value) in &ask.headers {
        let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| HttpError::Header {
            name,
            peer: ask.url.server(),
        })?;
        value.set_sensitive(true);
        headers.insert(*name, value);
    }
    Ok(request)
}

async fn speak(
    stream: impl Stream + 'static,
    request: http::Request<Full<Bytes>>,
    url: &Url,
    bytes_max: usize,
) -> Result<Answer, HttpError> {
    let broken = |source| HttpError::Broken {
        peer: url.server(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // What ends it is reported to whoever waits for the answer; it ends with the answer, or when that is dropped.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (parts, mut incoming) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if body.len() + data.len() > bytes_max {
                return Err(HttpError::TooLarge {
                    peer: url.server(),
                    bytes_max,
                });
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            (
                "https://ec2.eu-central-1.amazonaws.com",
                Some("https://ec2.eu-central-1.amazonaws.com"),
            ),
            (
                "http://127.0.0.1:5566/x?token=1",
                Some("http://127.0.0.1:5566/x"),
            ),
            ("http://[fd00:ec2::254]/", Some("http://[fd00:ec2::254]")),
            ("ftp://a", None),
            ("ec2.example", None),
            ("https://user:secret@ec2.example", None),
            ("", None),
        ] {
            assert_eq!(
                Url::parse(text).ok().map(|url| url.to_string()).as_deref(),
                shown,
                "{text}"
            );
        }
    }
}
