//! Why a call has no result, and whether a write happened all the same. Start at [`KubeError`].

use std::fmt;
use std::io;
use std::time::Duration;

/// Longest text of a peer that an error keeps, in characters.
const PEER_TEXT_MAX: usize = 1000;

/// How far a call had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Waiting for the connection to be free, or for TCP.
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

/// What TLS objected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsReason {
    /// The certificate does not lead to the authority in the kubeconfig.
    UnknownIssuer,
    /// The certificate is for other names.
    WrongName,
    /// The certificate's time is over.
    Expired,
    /// The certificate's time has not begun: look at the clocks.
    NotYetValid,
    /// The server refused us with an alert.
    Alert,
    /// What answered does not speak TLS.
    NotTls,
    /// The connection ended within the handshake.
    Ended,
    /// Anything else; the source says what.
    Other,
}

impl fmt::Display for TlsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsReason::UnknownIssuer => "its certificate was not issued by the expected authority",
            TlsReason::WrongName => "its certificate is for other names",
            TlsReason::Expired => "its certificate has expired",
            TlsReason::NotYetValid => "its certificate is not valid yet",
            TlsReason::Alert => "it refused the handshake",
            TlsReason::NotTls => "it does not speak TLS",
            TlsReason::Ended => "it ended the connection within the handshake",
            TlsReason::Other => "the handshake failed",
        })
    }
}

impl TlsReason {
    pub(crate) fn of(err: &io::Error) -> TlsReason {
        use rustls::{CertificateError as C, Error as E};
        match err.get_ref().and_then(|e| e.downcast_ref::<E>()) {
            Some(E::InvalidCertificate(c)) => match c {
                C::UnknownIssuer | C::BadSignature => TlsReason::UnknownIssuer,
                C::NotValidForName | C::NotValidForNameContext { .. } => TlsReason::WrongName,
                C::Expired | C::ExpiredContext { .. } => TlsReason::Expired,
                C::NotValidYet | C::NotValidYetContext { .. } => TlsReason::NotYetValid,
                _ => TlsReason::Other,
            },
            Some(E::AlertReceived(_)) => TlsReason::Alert,
            Some(E::InvalidMessage(_)) => TlsReason::NotTls,
            Some(_) => TlsReason::Other,
            None => TlsReason::Ended,
        }
    }
}

/// The `reason` of a Kubernetes `Status`, or what its code stands for where something else answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// 400.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 409 on create: the object is there already.
    AlreadyExists,
    /// 409 on update: somebody else wrote it since it was read, or owns a field that is applied.
    Conflict,
    /// 410: a watch or list from a resourceVersion that is no longer kept.
    Expired,
    /// 410 for other causes.
    Gone,
    /// 413.
    RequestEntityTooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 422.
    Invalid,
    /// 429.
    TooManyRequests,
    /// 500.
    InternalError,
    /// 503.
    ServiceUnavailable,
    /// 500 or 504: the server gave up on it but says to try again.
    ServerTimeout,
    /// 504.
    Timeout,
    /// Any other, with the server's word or `HTTP <code>`.
    Other(String),
}

impl Reason {
    pub(crate) fn new(word: Option<&str>, code: u16) -> Reason {
        match word.filter(|w| !w.is_empty()) {
            Some("BadRequest") => Reason::BadRequest,
            Some("Unauthorized") => Reason::Unauthorized,
            Some("Forbidden") => Reason::Forbidden,
            Some("NotFound") => Reason::NotFound,
            Some("MethodNotAllowed") => Reason::MethodNotAllowed,
            Some("AlreadyExists") => Reason::AlreadyExists,
            Some("Conflict") => Reason::Conflict,
            Some("Expired") => Reason::Expired,
            Some("Gone") => Reason::Gone,
            Some("RequestEntityTooLarge") => Reason::RequestEntityTooLarge,
            Some("UnsupportedMediaType") => Reason::UnsupportedMediaType,
            Some("Invalid") => Reason::Invalid,
            Some("TooManyRequests") => Reason::TooManyRequests,
            Some("InternalError") => Reason::InternalError,
            Some("ServiceUnavailable") => Reason::ServiceUnavailable,
            Some("ServerTimeout") => Reason::ServerTimeout,
            Some("Timeout") => Reason::Timeout,
            Some(other) => Reason::Other(shown(other, 60)),
            None => match code {
                400 => Reason::BadRequest,
                401 => Reason::Unauthorized,
                403 => Reason::Forbidden,
                404 => Reason::NotFound,
                405 => Reason::MethodNotAllowed,
                409 => Reason::Conflict,
                410 => Reason::Gone,
                413 => Reason::RequestEntityTooLarge,
                415 => Reason::UnsupportedMediaType,
                422 => Reason::Invalid,
                429 => Reason::TooManyRequests,
                500 => Reason::InternalError,
                503 => Reason::ServiceUnavailable,
                504 => Reason::Timeout,
                code => Reason::Other(format!("HTTP {code}")),
            },
        }
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeError {
    /// No TCP connection: the name did not resolve, nobody listens, no way there. Nothing was sent.
    #[error("the API server at {peer} cannot be reached")]
    Unreachable {
        /// Where it was looked for.
        peer: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS session. Nothing was sent.
    #[error("no TLS session with the API server at {peer}: {reason}")]
    Tls {
        /// Where it is.
        peer: String,
        /// What was objected to.
        reason: TlsReason,
        /// The details.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the API server at {peer} broke{}", if *.sent { "" } else { " before the request was sent" })]
    Broken {
        /// Where it is.
        peer: String,
        /// Whether the request may have been sent.
        sent: bool,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// The time given for the call was over.
    #[error("the API server at {peer} did not answer within {within:?}; the time ended in {phase}")]
    Deadline {
        /// Where it is.
        peer: String,
        /// The time given.
        within: Duration,
        /// How far the call had come.
        phase: Phase,
    },
    /// The server answered, with something other than success.
    #[error("the API server answered {code} {reason:?}: {message}")]
    Status {
        /// The HTTP status code; in a watch, that of the error event.
        code: u16,
        /// What it means.
        reason: Reason,
        /// The server's words, shortened, control characters escaped.
        message: String,
    },
    /// The server said success and sent something that is not the JSON it should be. A write took place.
    #[error(
        "the API server at {peer} answered with something that is not the JSON expected: {why}"
    )]
    NotJson {
        /// Where it is.
        peer: String,
        /// What is wrong.
        why: String,
    },
    /// The answer is longer than is read. A write took place if the code said so.
    #[error("the answer of the API server at {peer} is longer than {bytes_max} bytes")]
    TooLarge {
        /// Where it is.
        peer: String,
        /// The limit that applied.
        bytes_max: usize,
    },
    /// The request cannot be made; nothing was sent.
    #[error("the request cannot be made: {why}")]
    Request {
        /// Why.
        why: String,
    },
}

impl KubeError {
    /// Whether a write that ended with this error certainly did not and will not take effect.
    ///
    /// `false` means nobody knows: no answer after it may have been sent, or an answer that a server also gives when its storage
    /// did not confirm in time (5xx).
    pub fn definitely_not_applied(&self) -> bool {
        match self {
            KubeError::Unreachable { .. } | KubeError::Tls { .. } | KubeError::Request { .. } => {
                true
            }
            KubeError::Broken { sent, .. } => !sent,
            KubeError::Deadline { phase, .. } => *phase < Phase::Answer,
            // 408 is a proxy's or server's time-out, the only 4xx that is not a refusal.
            KubeError::Status { code, .. } => (400..500).contains(code) && *code != 408,
            KubeError::NotJson { .. } | KubeError::TooLarge { .. } => false,
        }
    }

    /// Whether the resourceVersion of a list or watch is no longer kept (410): list again.
    pub fn is_too_old(&self) -> bool {
        matches!(
            self,
            KubeError::Status { code: 410, .. }
                | KubeError::Status {
                    reason: Reason::Expired | Reason::Gone,
                    ..
                }
        )
    }

    /// The reason the server gave, if it answered.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            KubeError::Status { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Reads an answer that is not success: a `Status` object, or whatever a proxy in between wrote.
    pub(crate) fn status(code: u16, body: &[u8]) -> KubeError {
        let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        match status.as_ref().filter(|s| s["kind"] == "Status") {
            Some(status) => KubeError::from_status_object(code, status),
            None => KubeError::Status {
                code,
                reason: Reason::new(None, code),
                message: shown(&String::from_utf8_lossy(body), PEER_TEXT_MAX),
            },
        }
    }

    /// Reads a `Status` object; `code` is for one that names none.
    pub(crate) fn from_status_object(code: u16, status: &serde_json::Value) -> KubeError {
        let code = status["code"]
            .as_u64()
            .and_then(|c| u16::try_from(c).ok())
            .unwrap_or(code);
        let message = status["message"].as_str().unwrap_or_default();
        KubeError::Status {
            code,
            reason: Reason::new(status["reason"].as_str(), code),
            message: shown(message, PEER_TEXT_MAX),
        }
    }
}

/// Peer's text as it may be shown: at most `chars_max` characters, control characters escaped.
pub(crate) fn shown(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    for c in text.trim_end().chars().take(chars_max) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if text.trim_end().chars().nth(chars_max).is_some() {
        out.push('…');
    }
    out
}
