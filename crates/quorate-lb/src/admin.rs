//! The admin socket's words, and its client: start at [`request`]. One JSON object a line each way,
//! one request a connection.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::health::State;

/// The longest line either side accepts, in bytes. 32 backends make about 20 KiB of status.
const LINE_BYTES_MAX: u64 = 256 << 10;

/// How long either side waits for the other's line. A stop answers before it drains.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to know.
    Status,
    /// Send this backend no new connections. Established ones are kept.
    Drain {
        /// Its name.
        backend: String,
        /// Even when nothing that is up would be left.
        #[serde(default)]
        force: bool,
    },
    /// End a drain.
    Undrain {
        /// The backend's name.
        backend: String,
    },
    /// Read the configuration file again.
    Reload,
    /// Stop accepting, let connections end for a bounded time, and exit.
    Stop,
    /// Replace the process by the program now at its path, keeping every connection.
    Upgrade,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It was done, or has begun.
    Done {
        /// What exactly, for people.
        note: String,
    },
    /// It was not done.
    Refused {
        /// Why, for people.
        why: String,
    },
}

/// The balancer's state. Durations and counts are those of this process; an upgrade begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of this program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it runs, in milliseconds.
    pub uptime_ms: u64,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Whether it accepts connections (it does not before its first look, and while stopping).
    pub accepting: bool,
    /// Whether connections go to backends that are not ready, because none is.
    pub fail_open: bool,
    /// Client connections now.
    pub connections: u32,
    /// The most there may be.
    pub connections_max: u32,
    /// What was counted since the process began.
    pub totals: Totals,
    /// The backends; those that were removed and still end their connections come last.
    pub backends: Vec<BackendStatus>,
}

/// Counts since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Clients accepted.
    pub accepted: u64,
    /// Clients reset because no backend could be reached.
    pub unserved: u64,
    /// Dials made because one had failed.
    pub retried: u64,
    /// Dials made because one was slow.
    pub hedged: u64,
    /// Times a client could not be accepted (descriptors, memory).
    pub accept_failures: u64,
    /// Bytes from clients to backends.
    pub bytes_up: u64,
    /// Bytes from backends to clients.
    pub bytes_down: u64,
    /// Times our own loop was late; that time was not held against backends.
    pub stalls: u64,
    /// Configurations taken after the first.
    pub reloads: u64,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// What is thought of it.
    pub state: State,
    /// For how long, in milliseconds.
    pub state_for_ms: u64,
    /// Whether it was drained by request.
    pub drained: bool,
    /// Whether it was removed from the configuration and only ends its connections.
    pub leaving: bool,
    /// Connections and dials now.
    pub connections: u32,
    /// Connections, ever.
    pub connections_total: u64,
    /// Failed dials, ever.
    pub dials_failed_total: u64,
    /// Connections reset because it was dead or its drain ended, ever.
    pub resets_total: u64,
    /// How often it was suspect.
    pub suspected_total: u64,
    /// How often it was declared dead.
    pub ejected_total: u64,
    /// Its usual answer to PING, in microseconds.
    pub rtt_us: Option<u64>,
    /// When it would be suspect, in milliseconds of silence.
    pub suspect_after_ms: u64,
    /// When it would be dead, in milliseconds of silence.
    pub dead_after_ms: u64,
    /// The last answer of `/readyz`.
    pub readyz: Option<ReadyzStatus>,
    /// Why it is not up, where that is known.
    pub error: Option<String>,
}

/// An answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyzStatus {
    /// The HTTP status.
    pub code: u16,
    /// The beginning of its text, control characters escaped.
    pub text: String,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens there.
    #[error("no balancer answers at `{}`; is it running (`systemctl status quorate-lb`), and may you read the socket?", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// The conversation broke.
    #[error("the balancer at `{}` did not answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// It answered something else.
    #[error("the answer from `{}` is not one of this version", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What was wrong with it.
        #[source]
        err: serde_json::Error,
    },
}

/// Asks a running balancer.
///
/// # Errors
/// [`AdminError`] when there is none, or none that answers. A refusal is a [`Response`].
pub async fn request(path: &Path, request: &Request) -> Result<Response, AdminError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|err| AdminError::NotRunning {
            path: path.to_owned(),
            err,
        })?;
    let no_answer = |err| AdminError::NoAnswer {
        path: path.to_owned(),
        err,
    };
    let mut stream = BufReader::new(stream);
    let mut line = serde_json::to_vec(request).expect("requests are plain data");
    line.push(b'\n');
    stream.write_all(&line).await.map_err(no_answer)?;
    let answer = read_line(&mut stream).await.map_err(no_answer)?;
    serde_json::from_slice(&answer).map_err(|err| AdminError::Answer {
        path: path.to_owned(),
        err,
    })
}

/// Reads one line, bounded in length and time.
pub(crate) async fn read_line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut bounded = from.take(LINE_BYTES_MAX);
    match timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await {
        Ok(read) => read?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    match line.pop() {
        Some(b'\n') => Ok(line),
        Some(_) if line.len() as u64 + 1 >= LINE_BYTES_MAX => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the line is too long",
        )),
        Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_short_and_strict() {
        let check = |request: Request, text: &str| {
            assert_eq!(serde_json::to_string(&request).expect("plain data"), text);
            assert_eq!(
                serde_json::from_str::<Request>(text).expect("its own words"),
                request
            );
        };
        check(Request::Status, r#"{"do":"status"}"#);
        check(
            Request::Drain {
                backend: "cp-1".into(),
                force: false,
            },
            r#"{"do":"drain","backend":"cp-1","force":false}"#,
        );
        check(
            Request::Undrain {
                backend: "cp-1".into(),
            },
            r#"{"do":"undrain","backend":"cp-1"}"#,
        );
        check(Request::Upgrade, r#"{"do":"upgrade"}"#);
        let short: Request =
            serde_json::from_str(r#"{"do":"drain","backend":"cp-1"}"#).expect("force is optional");
        assert_eq!(
            short,
            Request::Drain {
                backend: "cp-1".into(),
                force: false
            }
        );
        serde_json::from_str::<Request>(r#"{"do":"drain","backend":"a","forse":true}"#)
            .expect_err("unknown key");
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        assert_eq!(
            read_line(&mut &b"{}\nrest"[..]).await.expect("a line"),
            b"{}"
        );
        let half = read_line(&mut &b"{}"[..]).await.expect_err("no end");
        assert_eq!(half.kind(), io::ErrorKind::UnexpectedEof);
        let long = vec![b'x'; LINE_BYTES_MAX as usize + 1];
        let long = read_line(&mut &long[..]).await.expect_err("too long");
        assert_eq!(long.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_path() {
        let err = request(Path::new("/nowhere/lb.sock"), &Request::Status)
            .await
            .expect_err("nobody");
        assert!(
            err.to_string()
                .starts_with("no balancer answers at `/nowhere/lb.sock`"),
            "{err}"
        );
    }
}
