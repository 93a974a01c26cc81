//! Sending one request and reading its answer, over a connection that is kept or over one of its own.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::sync::Mutex;

use crate::connect::{Body, Opened, Progress, Sender, Target};
use crate::{Credentials, KubeError, Kubeconfig, Phase};

/// Largest answer that is read unless a request says otherwise, in bytes: a list of some thousand pods is below it.
pub(crate) const ANSWER_BYTES_MAX: usize = 32 << 20;

/// A client for one API server. Cheap to clone; clones share the kept connection.
///
/// Each call takes `within`, the longest time from now until its result, connecting included. Nothing is retried: a request is sent
/// at most once. The connection opens with the first call and again after it broke or a deadline passed on it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) target: Target,
    authorization: Option<HeaderValue>,
    pub(crate) namespace: String,
    kept: Mutex<Option<Sender>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.inner.target.peer())
            .finish_non_exhaustive()
    }
}

/// One HTTP request to the API server.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: http::Method,
    /// Path and query, beginning with `/`, percent-encoded where needed.
    pub path: String,
    /// The type of `body`; none is sent without it.
    pub content_type: Option<&'static str>,
    /// The body; may be empty.
    pub body: Vec<u8>,
    /// Longest answer to read, in bytes.
    pub answer_bytes_max: usize,
}

impl Request {
    /// A GET that accepts answers of up to 32 MiB.
    pub fn get(path: impl Into<String>) -> Request {
        Request {
            method: http::Method::GET,
            path: path.into(),
            content_type: None,
            body: Vec::new(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }
}

/// One HTTP answer, whatever its code.
#[derive(Debug, Clone)]
pub struct Response {
    /// The code.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// How long opening a connection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Name resolution and TCP.
    pub connect: Duration,
    /// The TLS handshake; zero without TLS.
    pub tls: Duration,
    /// The address that answered.
    pub peer: SocketAddr,
}

/// A connection of its own, for a prober: never shared and never reopened. Dropping it closes it.
pub struct Connection {
    inner: Arc<Inner>,
    sender: Sender,
    timings: Timings,
    certificate: Option<Vec<u8>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for the server in `config`. With `address`, TCP goes there, whatever the server's name resolves to, and the name is
    /// verified all the same: this is how one of several API servers behind an endpoint is asked. Sends nothing yet.
    ///
    /// # Errors
    /// [`KubeError::Request`] when the URL or the certificates cannot be used.
    pub fn new(config: &Kubeconfig, address: Option<SocketAddr>) -> Result<Client, KubeError> {
        let authorization = match &config.credentials {
            Credentials::Token(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {}", token.as_str()))
                    .map_err(|_| KubeError::Request {
                        why:
                            "the token in the kubeconfig has characters that a header cannot carry"
                                .to_owned(),
                    })?;
                value.set_sensitive(true);
                Some(value)
            }
            Credentials::None | Credentials::Certificate { .. } => None,
        };
        let target = Target::new(config, address)?;
        Ok(Client {
            inner: Arc::new(Inner {
                target,
                authorization,
                namespace: config.namespace.clone(),
                kept: Mutex::new(None),
            }),
        })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Sends a request over the kept connection and reads the answer, whatever its code.
    ///
    /// # Errors
    /// See [`KubeError`]; never [`KubeError::Status`].
    pub async fn raw(&self, request: Request, within: Duration) -> Result<Response, KubeError> {
        let progress = Progress::default();
        let call = async {
            let prepared = self.inner.prepare(&request)?;
            let mut sender = self.inner.take_kept(&progress).await?;
            let answer = self
                .inner
                .exchange(&mut sender, prepared, &progress)
                .await?;
            let answer = self.inner.read(answer, request.answer_bytes_max).await?;
            // An HTTP/1.1 connection is free again only now; an HTTP/2 one was never taken away.
            if let Sender::Http1(_) = sender {
                *self.inner.kept.lock().await = Some(sender);
            }
            Ok(answer)
        };
        let result = self.inner.limit(within, &progress, call).await;
        if matches!(
            result,
            Err(KubeError::Deadline { .. } | KubeError::Broken { .. })
        ) {
            self.inner.drop_kept();
        }
        result
    }

    /// Gives up the kept connection, so that the next call opens another. Calls and watches under way are not disturbed.
    pub async fn forget(&self) {
        *self.inner.kept.lock().await = None;
    }

    /// Opens a connection of its own.
    ///
    /// # Errors
    /// [`KubeError::Unreachable`], [`KubeError::Tls`], [`KubeError::Deadline`], [`KubeError::Broken`].
    pub async fn open(&self, within: Duration) -> Result<Connection, KubeError> {
        let progress = Progress::default();
        let Opened {
            sender,
            timings,
            certificate,
        } = self
            .inner
            .limit(within, &progress, self.inner.target.open(&progress))
            .await?;
        Ok(Connection {
            inner: self.inner.clone(),
            sender,
            timings,
            certificate,
        })
    }

    /// Sends a request over the kept connection and returns its answer unread. `within` is for the headers.
    pub(crate) async fn begin(
        &self,
        request: Request,
        within: Duration,
    ) -> Result<(http::Response<Incoming>, Sender), KubeError> {
        let progress = Progress::default();
        let call = async {
            let prepared = self.inner.prepare(&request)?;
            let mut sender = self.inner.take_kept(&progress).await?;
            let answer = self
                .inner
                .exchange(&mut sender, prepared, &progress)
                .await?;
            Ok((answer, sender))
        };
        let result = self.inner.limit(within, &progress, call).await;
        if matches!(
            result,
            Err(KubeError::Deadline { .. } | KubeError::Broken { .. })
        ) {
            self.inner.drop_kept();
        }
        result
    }
}

impl Connection {
    /// How long opening it took.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The certificate that the server showed for itself, as DER; `None` without TLS. Nothing else tells which one is served: a file that was
    /// replaced says nothing about it.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Sends a request and reads the answer, whatever its code.
    ///
    /// # Errors
    /// See [`KubeError`]; never [`KubeError::Status`].
    pub async fn raw(&mut self, request: Request, within: Duration) -> Result<Response, KubeError> {
        let progress = Progress::default();
        let inner = &self.inner;
        let sender = &mut self.sender;
        let call = async {
            let answer = inner
                .exchange(sender, inner.prepare(&request)?, &progress)
                .await?;
            inner.read(answer, request.answer_bytes_max).await
        };
        inner.limit(within, &progress, call).await
    }
}

impl Inner {
    async fn limit<T>(
        &self,
        within: Duration,
        progress: &Progress,
        call: impl Future<Output = Result<T, KubeError>>,
    ) -> Result<T, KubeError> {
        match tokio::time::timeout(within, call).await {
            Ok(result) => result,
            Err(_) => Err(KubeError::Deadline {
                peer: self.target.peer(),
                within,
                phase: progress.phase(),
            }),
        }
    }

    /// Gives up the kept connection without waiting: who holds the lock is opening another already, and a deadline is a deadline.
    fn drop_kept(&self) {
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = None;
        }
    }

    fn prepare(&self, request: &Request) -> Result<http::Request<Body>, KubeError> {
        let refused = |why: &str| KubeError::Request {
            why: format!("path `{}` {why}", crate::error::shown(&request.path, 200)),
        };
        if !request.path.starts_with('/') {
            return Err(refused("does not begin with `/`"));
        }
        let uri = http::Uri::builder()
            .scheme(self.target.scheme)
            .authority(self.target.authority.as_str())
            .path_and_query(format!("{}{}", self.target.prefix, request.path))
            .build()
            .map_err(|_| refused("is no path"))?;
        let mut prepared = http::Request::new(Body::new(Bytes::copy_from_slice(&request.body)));
        *prepared.method_mut() = request.method.clone();
        *prepared.uri_mut() = uri;
        let headers = prepared.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("quorate/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(content_type) = request.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(prepared)
    }

    /// The kept connection, or a new one where there is none or it has ended. An HTTP/1.1 connection is taken out of the slot.
    async fn take_kept(&self, progress: &Progress) -> Result<Sender, KubeError> {
        let mut kept = self.kept.lock().await;
        match kept.take() {
            Some(Sender::Http2(sender)) if !sender.is_closed() => {
                *kept = Some(Sender::Http2(sender.clone()));
                return Ok(Sender::Http2(sender));
            }
            Some(Sender::Http1(mut sender)) => {
                if sender.ready().await.is_ok() {
                    return Ok(Sender::Http1(sender));
                }
            }
            Some(Sender::Http2(_)) | None => {}
        }
        // Still under the lock: callers that come meanwhile share the new connection instead of opening one each.
        let Opened { sender, .. } = self.target.open(progress).await?;
        if let Sender::Http2(sender) = &sender {
            *kept = Some(Sender::Http2(sender.clone()));
        }
        Ok(sender)
    }

    async fn exchange(
        &self,
        sender: &mut Sender,
        mut request: http::Request<Body>,
        progress: &Progress,
    ) -> Result<http::Response<Incoming>, KubeError> {
        let unsent = |source| self.target.broken(false, source);
        let result = match sender {
            Sender::Http1(sender) => {
                // HTTP/1.1 wants the path alone and the authority in a header.
                let path = request
                    .uri()
                    .path_and_query()
                    .cloned()
                    .expect("built with a path");
                *request.uri_mut() = path.into();
                let host = HeaderValue::try_from(self.target.authority.as_str())
                    .expect("an authority is a valid header");
                request.headers_mut().insert(HOST, host);
                sender.ready().await.map_err(unsent)?;
                progress.enter(Phase::Answer);
                sender.try_send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(unsent)?;
                progress.enter(Phase::Answer);
                sender.try_send_request(request).await
            }
        };
        result.map_err(|mut err| {
            // hyper hands the request back when none of it was written.
            let sent = err.take_message().is_none();
            self.target.broken(sent, err.into_error())
        })
    }

    pub(crate) async fn read(
        &self,
        answer: http::Response<Incoming>,
        bytes_max: usize,
    ) -> Result<Response, KubeError> {
        let (parts, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| self.target.broken(true, source))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > bytes_max {
                    return Err(KubeError::TooLarge {
                        peer: self.target.peer(),
                        bytes_max,
                    });
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(Response {
            status: parts.status,
            headers: parts.headers,
            body: bytes.into(),
        })
    }
}
