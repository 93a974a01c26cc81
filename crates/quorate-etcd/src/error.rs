//! What a member's answer, or its silence, means. Start at [`EtcdError`].

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};

use crate::ConnectError;

/// Longest text of a peer that an error keeps, in characters: etcd's own texts are below 100.
const PEER_TEXT_MAX: usize = 300;

/// Why a call has no result.
///
/// Each variant but `Unreachable`, `Broken`, `Deadline`, `SnapshotDamaged` and `Malformed` is an answer of etcd 3.6.16; `docs/design/etcd-rules.md` lists when it gives which.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// No connection to the member. Nothing was sent.
    #[error("etcd at {endpoint} cannot be reached")]
    Unreachable {
        /// Where the member was looked for.
        endpoint: String,
        /// How far it got.
        #[source]
        source: ConnectError,
    },
    /// The connection broke after the request may have been sent.
    #[error("the connection to etcd at {endpoint} broke during `{call}`: {why}")]
    Broken {
        /// Where the member is.
        endpoint: String,
        /// The etcd method.
        call: &'static str,
        /// The transport's words.
        why: String,
    },
    /// No answer in time: ours ran out, or the member gave up on its quorum (then `answer` has its words).
    #[error("etcd at {endpoint} did not finish `{call}` within {waited:?}{}", said(.answer))]
    Deadline {
        /// Where the member is.
        endpoint: String,
        /// The etcd method.
        call: &'static str,
        /// How long we waited.
        waited: Duration,
        /// etcd's words, when it was the member that gave up: it could not get the request agreed upon.
        answer: Option<String>,
    },
    /// `etcdserver: no leader`: the member sees no leader; the request was not proposed.
    #[error("etcd has no leader: {message}")]
    NoLeader {
        /// etcd's words.
        message: String,
    },
    /// `etcdserver: leader changed`: in the middle of the request. Asked again it will be answered.
    #[error("etcd's leader changed during the request")]
    LeaderChanged,
    /// `etcdserver: not leader`: only the leader does this (moving leadership); ask the member that [`crate::Status::leader`] names.
    #[error("this etcd member is not the leader")]
    NotLeader,
    /// `etcdserver: rpc not supported for learner`: a learner answers only `status`, `snapshot` and serializable reads.
    #[error("this etcd member is a learner, which does not answer `{call}`")]
    IsLearner {
        /// The etcd method.
        call: &'static str,
    },
    /// `etcdserver: too many learner members in cluster`: there is one already (`--max-learners`, 1 unless set).
    #[error("etcd already has as many learners as it allows")]
    TooManyLearners,
    /// `etcdserver: unhealthy cluster`: the strict reconfiguration check refuses, because the member we asked has not been
    /// connected to enough voters for 5 s.
    #[error("etcd refuses the membership change: too few voters connected for 5 s")]
    UnhealthyCluster,
    /// `etcdserver: re-configuration failed due to not enough started members`: after the change too few voters would be ones
    /// that ever started.
    #[error("etcd refuses the membership change: too few started voters would be left")]
    NotEnoughStarted,
    /// `etcdserver: can only promote a learner member which is in sync with leader`: below 90 % of the leader's log.
    #[error("the learner is not in sync with the leader yet")]
    LearnerNotReady,
    /// `etcdserver: can only promote a learner member`: it is a voter already.
    #[error("the member is a voter already")]
    NotALearner,
    /// `etcdserver: member not found`: no such id, or it was removed before.
    ///
    /// From adding a member it means that the same peer URL was added and removed within this second: its id, the same again, is
    /// one that was removed. Added a second later it is accepted.
    #[error("etcd has no member with that id")]
    MemberNotFound,
    /// `etcdserver: Peer URLs already exists`: another member has that peer URL.
    ///
    /// Also `etcdserver: member ID already exist`: a new member's id is a hash of its peer URLs and the second in which it is added,
    /// so adding the same URL twice within a second meets its own id first.
    #[error("another etcd member has that peer URL")]
    PeerUrlExists,
    /// `etcdserver: bad leader transferee`: the target of a move is not a voter.
    #[error("leadership cannot be moved to that member")]
    BadTransferee,
    /// `etcdserver: request is too large` (1.5 MiB unless `--max-request-bytes` is set).
    ///
    /// Or, 512 KiB above that limit, `grpc: received message larger than max (… vs. …)`.
    #[error("etcd refuses the request as too large")]
    RequestTooLarge,
    /// `etcdserver: mvcc: database space exceeded`: the quota is used up and the NOSPACE alarm rings, or this write rang it.
    #[error("etcd's database has used up its quota")]
    NoSpace,
    /// `etcdserver: corrupt cluster`: the CORRUPT alarm rings.
    #[error("etcd found its data corrupt")]
    Corrupt,
    /// Authentication is on and refuses us.
    #[error("etcd denies the request: {message}")]
    Denied {
        /// etcd's words.
        message: String,
    },
    /// A snapshot that is not what the member meant to send: cut short, or its SHA-256 differs.
    #[error("the snapshot from etcd at {endpoint} is damaged: {why}")]
    SnapshotDamaged {
        /// Where it came from.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// An answer that makes no sense, for example a status without a header.
    #[error("etcd at {endpoint} answered `{call}` with something that is not an answer: {why}")]
    Malformed {
        /// Where the member is.
        endpoint: String,
        /// The etcd method.
        call: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Any other answer.
    #[error("etcd answered {code:?}: {message}")]
    Other {
        /// The gRPC code.
        code: Code,
        /// etcd's words, shortened, control characters escaped.
        message: String,
    },
}

fn said(answer: &Option<String>) -> String {
    answer
        .as_ref()
        .map(|a| format!(" (it says: {a})"))
        .unwrap_or_default()
}

impl EtcdError {
    /// Whether a write that ended with this error may have taken effect all the same.
    ///
    /// `false` is certain. `true` is "look again before deciding", also for answers that are not listed here.
    pub fn may_have_applied(&self) -> bool {
        match self {
            EtcdError::Broken { .. }
            | EtcdError::Deadline { .. }
            | EtcdError::Malformed { .. }
            | EtcdError::LeaderChanged
            | EtcdError::Other { .. } => true,
            // The write that crosses the quota is applied *and* answered with this error, on every member that sees the quota crossed.
            EtcdError::NoSpace => true,
            EtcdError::Unreachable { .. }
            | EtcdError::NoLeader { .. }
            | EtcdError::NotLeader
            | EtcdError::IsLearner { .. }
            | EtcdError::TooManyLearners
            | EtcdError::UnhealthyCluster
            | EtcdError::NotEnoughStarted
            | EtcdError::LearnerNotReady
            | EtcdError::NotALearner
            | EtcdError::MemberNotFound
            | EtcdError::PeerUrlExists
            | EtcdError::BadTransferee
            | EtcdError::RequestTooLarge
            | EtcdError::Corrupt
            | EtcdError::Denied { .. }
            | EtcdError::SnapshotDamaged { .. } => false,
        }
    }

    /// The error for a call that was not answered when its time was over.
    pub(crate) fn deadline(endpoint: &str, call: &'static str, waited: Duration) -> EtcdError {
        EtcdError::Deadline {
            endpoint: endpoint.to_owned(),
            call,
            waited,
            answer: None,
        }
    }

    /// Reads a gRPC status. `waited` is how long the call took until it came.
    pub(crate) fn from_status(
        endpoint: &str,
        call: &'static str,
        waited: Duration,
        status: &Status,
    ) -> EtcdError {
        let endpoint = endpoint.to_owned();
        if let Some(transport) = transport_error(status) {
            return match transport {
                Transport::Connect(source) => EtcdError::Unreachable { endpoint, source },
                Transport::TimeIsOver => EtcdError::Deadline {
                    endpoint,
                    call,
                    waited,
                    answer: None,
                },
                Transport::Other(why) => EtcdError::Broken {
                    endpoint,
                    call,
                    why,
                },
            };
        }
        let message = escaped(status.message());
        // The texts are etcd's API: its own clients map errors by them. Codes alone are ambiguous, and one error has lost its code
        // on the way (`re-configuration failed due to not enough started members` arrives as Unknown).
        match status
            .message()
            .strip_prefix("etcdserver: ")
            .unwrap_or(status.message())
        {
            "no leader" => EtcdError::NoLeader { message },
            "leader changed" => EtcdError::LeaderChanged,
            "not leader" => EtcdError::NotLeader,
            "rpc not supported for learner" => EtcdError::IsLearner { call },
            "too many learner members in cluster" => EtcdError::TooManyLearners,
            "unhealthy cluster" => EtcdError::UnhealthyCluster,
            "re-configuration failed due to not enough started members" => {
                EtcdError::NotEnoughStarted
            }
            "can only promote a learner member which is in sync with leader" => {
                EtcdError::LearnerNotReady
            }
            "can only promote a learner member" => EtcdError::NotALearner,
            "member not found" => EtcdError::MemberNotFound,
            "Peer URLs already exists" | "member ID already exist" => EtcdError::PeerUrlExists,
            "bad leader transferee" => EtcdError::BadTransferee,
            "request is too large" => EtcdError::RequestTooLarge,
            "mvcc: database space exceeded" => EtcdError::NoSpace,
            "corrupt cluster" => EtcdError::Corrupt,
            // 512 KiB above etcd's own limit it is gRPC that refuses, before etcd sees it.
            text if text.starts_with("grpc: received message larger than max") => {
                EtcdError::RequestTooLarge
            }
            text if text.starts_with("request timed out") => EtcdError::Deadline {
                endpoint,
                call,
                waited,
                answer: Some(message),
            },
            _ => match status.code() {
                Code::DeadlineExceeded => EtcdError::Deadline {
                    endpoint,
                    call,
                    waited,
                    answer: Some(message),
                },
                Code::PermissionDenied | Code::Unauthenticated => EtcdError::Denied { message },
                Code::DataLoss => EtcdError::Corrupt,
                code => EtcdError::Other { code, message },
            },
        }
    }
}

/// What our side of the connection has to say.
enum Transport {
    Connect(ConnectError),
    TimeIsOver,
    Other(String),
}

/// Tells an error of our side of the connection from an answer: only the former has a source.
fn transport_error(status: &Status) -> Option<Transport> {
    let mut next = status.source();
    let mut last = next?.to_string();
    while let Some(err) = next {
        if let Some(connect) = err.downcast_ref::<ConnectError>() {
            return Some(Transport::Connect(copy(connect)));
        }
        // tonic ends a call at the deadline that is sent along, at about the same moment as we do.
        if err.is::<tonic::TimeoutExpired>() {
            return Some(Transport::TimeIsOver);
        }
        last = err.to_string();
        next = err.source();
    }
    Some(Transport::Other(escaped(&last)))
}

/// The status owns its source; ours must own it too, and `io::Error` cannot be cloned.
fn copy(err: &ConnectError) -> ConnectError {
    let io_copy = |e: &io::Error| match (
        e.raw_os_error(),
        e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()),
    ) {
        (Some(code), _) => io::Error::from_raw_os_error(code),
        (None, Some(tls)) => io::Error::new(e.kind(), tls.clone()),
        (None, None) => io::Error::new(e.kind(), e.to_string()),
    };
    match err {
        ConnectError::Tcp(e) => ConnectError::Tcp(io_copy(e)),
        ConnectError::Tls(e) => ConnectError::Tls(io_copy(e)),
        ConnectError::Silent { phase, after } => ConnectError::Silent {
            phase,
            after: *after,
        },
    }
}

fn escaped(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(PEER_TEXT_MAX)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if text.chars().nth(PEER_TEXT_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(code: Code, message: &str) -> EtcdError {
        EtcdError::from_status(
            "https://127.0.0.1:2379",
            "/Call",
            Duration::ZERO,
            &Status::new(code, message),
        )
    }

    #[test]
    fn answers_that_are_hard_to_provoke_are_read_too() {
        assert!(matches!(
            read(Code::Unavailable, "etcdserver: no leader"),
            EtcdError::NoLeader { .. }
        ));
        assert!(matches!(
            read(Code::DataLoss, "etcdserver: corrupt cluster"),
            EtcdError::Corrupt
        ));
        assert!(matches!(
            read(Code::PermissionDenied, "etcdserver: permission denied"),
            EtcdError::Denied { .. }
        ));
        let reconfiguration =
            "etcdserver: re-configuration failed due to not enough started members";
        for code in [Code::Unknown, Code::FailedPrecondition] {
            assert!(matches!(
                read(code, reconfiguration),
                EtcdError::NotEnoughStarted
            ));
        }
        for timeout in [
            "",
            ", possibly due to previous leader failure",
            ", waiting for the applied index took too long",
        ] {
            let err = read(
                Code::Unavailable,
                &format!("etcdserver: request timed out{timeout}"),
            );
            assert!(
                matches!(
                    err,
                    EtcdError::Deadline {
                        answer: Some(_),
                        ..
                    }
                ),
                "{err:?}"
            );
            assert!(err.may_have_applied());
        }
        // A leader that changes in the middle leaves the write's fate open.
        let changed = read(Code::Unavailable, "etcdserver: leader changed");
        assert!(matches!(changed, EtcdError::LeaderChanged));
        assert!(changed.may_have_applied());
    }

    #[test]
    fn a_peers_text_is_cut_and_cannot_move_the_cursor() {
        let shown = read(Code::Internal, &format!("\u{1b}[2J{}", "x".repeat(10_000))).to_string();
        assert!(!shown.contains('\u{1b}') && shown.len() < 400, "{shown}");
    }
}
