//! The configuration file: what it may say, and precise words when it says something else.
//! Start at [`Config::load`].

mod check;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most backends a configuration may name. The data path keeps "already tried" in 64 bits, half
/// of which are for backends that were removed and still end their connections.
pub const BACKENDS_MAX: usize = 32;

/// The largest configuration file read, in bytes. 32 backends need about 3 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything the balancer is told. Written as JSON, by another component, atomically (a rename).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect, for example `0.0.0.0:6443`.
    pub listen: SocketAddr,
    /// Where their connections go. May be empty: before the cluster exists there is nothing to name.
    #[serde(default)]
    pub backends: Vec<BackendConfig>,
    /// How backends are watched.
    #[serde(default)]
    pub health: Health,
    /// How connections are made, kept and ended.
    #[serde(default)]
    pub connections: Connections,
    /// The unix socket of `status`, `drain`, `reload` and `stop`; an absolute path.
    #[serde(default = "default_admin_socket")]
    pub admin_socket: PathBuf,
}

/// One kube-apiserver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// The name it has in `status`, `drain` and the log: letters, digits, `.`, `-`, `_`.
    pub name: String,
    /// `IP:PORT`. Names are not resolved: a balancer must not stop because a resolver did.
    pub address: SocketAddr,
}

/// How backends are watched. Every duration is in milliseconds in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// PEM file with the CA that signs the backends' certificates (`/etc/kubernetes/pki/ca.crt`).
    pub ca_file: Option<PathBuf>,
    /// The name a backend's certificate must carry. kubeadm puts `kubernetes` into every one.
    pub server_name: String,
    /// Watch without checking certificates. An impostor that answers would get connections; clients
    /// still check for themselves.
    pub insecure_skip_verify: bool,
    /// From one PING to the next on the kept connection.
    #[serde(rename = "ping_interval_ms", with = "millis")]
    pub ping_interval: Duration,
    /// A PING unanswered this long makes its backend *suspect*. A floor: jitter seen raises it.
    #[serde(rename = "suspect_after_ms", with = "millis")]
    pub suspect_after: Duration,
    /// A PING unanswered this long makes its backend *dead*. A floor as well.
    #[serde(rename = "dead_after_ms", with = "millis")]
    pub dead_after: Duration,
    /// No jitter raises `dead_after` above this.
    #[serde(rename = "dead_after_max_ms", with = "millis")]
    pub dead_after_max: Duration,
    /// After a backend came up, `dead_after` shrinks from `dead_after_max` to what it is over this time.
    #[serde(rename = "warm_up_ms", with = "millis")]
    pub warm_up: Duration,
    /// From one `GET /readyz` to the next.
    #[serde(rename = "readyz_interval_ms", with = "millis")]
    pub readyz_interval: Duration,
    /// `/readyz` unanswered this long, while PINGs are answered, means not ready.
    #[serde(rename = "readyz_timeout_ms", with = "millis")]
    pub readyz_timeout: Duration,
    /// TCP, TLS and HTTP/2 of the kept connection must stand within this.
    #[serde(rename = "dial_timeout_ms", with = "millis")]
    pub dial_timeout: Duration,
    /// The least time from one attempt at the kept connection to the next.
    #[serde(rename = "redial_interval_ms", with = "millis")]
    pub redial_interval: Duration,
    /// Good `/readyz` in a row before a backend that was away gets connections again.
    pub rise: u32,
    /// After coming back, the share of new connections grows to the full one over this time.
    #[serde(rename = "slow_start_ms", with = "millis")]
    pub slow_start: Duration,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            ca_file: None,
            server_name: "kubernetes".to_owned(),
            insecure_skip_verify: false,
            // 50 PINGs a second cost an apiserver about a thousandth of a core for each balancer.
            ping_interval: Duration::from_millis(20),
            // Loopback ping-pong on a busy machine stays below 22 ms at p99.999; a wrong suspicion
            // only sends new connections elsewhere.
            suspect_after: Duration::from_millis(20),
            // Twice that worst answer. With the interval: a silent backend is known in 45 to 65 ms.
            dead_after: Duration::from_millis(45),
            // A machine several times overloaded answers this late at times; past it, it is no use.
            dead_after_max: Duration::from_secs(1),
            warm_up: Duration::from_secs(10),
            readyz_interval: Duration::from_millis(500),
            readyz_timeout: Duration::from_secs(2),
            dial_timeout: Duration::from_secs(2),
            redial_interval: Duration::from_millis(250),
            // One good answer put half-ready masters back too early elsewhere; three ended that.
            rise: 3,
            slow_start: Duration::from_secs(10),
        }
    }
}

/// How connections are made, kept and ended. Every duration is in milliseconds in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// The most client connections at once. Never more than the descriptors allow, which is the
    /// default.
    pub max: Option<u32>,
    /// Threads that forward. By default one a core, four at most.
    pub workers: Option<usize>,
    /// A dial unanswered this long is joined by one to another backend; the first answer wins.
    #[serde(rename = "hedge_after_ms", with = "millis")]
    pub hedge_after: Duration,
    /// No backend reached within this: the client's connection is reset.
    #[serde(rename = "dial_timeout_ms", with = "millis")]
    pub dial_timeout: Duration,
    /// `TCP_USER_TIMEOUT` on both sides: sent bytes unacknowledged this long end a connection.
    #[serde(rename = "user_timeout_ms", with = "millis")]
    pub user_timeout: Duration,
    /// TCP keepalive starts after this much silence, on both sides.
    #[serde(rename = "keepalive_ms", with = "millis")]
    pub keepalive: Duration,
    /// Connections on a backend removed from the file are kept at most this long.
    #[serde(rename = "drain_max_ms", with = "millis")]
    pub drain_max: Duration,
    /// On stop, connections are kept at most this long.
    #[serde(rename = "stop_max_ms", with = "millis")]
    pub stop_max: Duration,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections {
            max: None,
            workers: None,
            // Ten times the round trip of a local network and more.
            hedge_after: Duration::from_millis(15),
            dial_timeout: Duration::from_secs(4),
            user_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            drain_max: Duration::from_secs(300),
            stop_max: Duration::from_secs(5),
        }
    }
}

fn default_admin_socket() -> PathBuf {
    PathBuf::from("/run/quorate/lb.sock")
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the balancer's configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// The file is far too large to be one.
    #[error("`{}` has {bytes} bytes; a configuration has at most {FILE_BYTES_MAX}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Not JSON, an unknown key, a missing key or a wrong type.
    #[error("`{}` is not a balancer configuration", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where, with line and column.
        #[source]
        err: serde_json::Error,
    },
    /// A value that cannot work.
    #[error("{}: `{key}`: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with the backend's position where it is one of several.
        key: String,
        /// What would do.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The CA file could not be used.
    #[error("{}: `health.ca_file`: cannot read CA certificates from `{}`", path.display(), ca_file.display())]
    Ca {
        /// The configuration.
        path: PathBuf,
        /// The CA file it names.
        ca_file: PathBuf,
        /// Why.
        #[source]
        err: rustls_pki_types::pem::Error,
    },
    /// The certificates in the CA file are not usable as roots.
    #[error("{}: `health.ca_file`: `{}` holds a certificate that cannot be a root", path.display(), ca_file.display())]
    Root {
        /// The configuration.
        path: PathBuf,
        /// The CA file it names.
        ca_file: PathBuf,
        /// Why.
        #[source]
        err: rustls::Error,
    },
}

impl Config {
    /// Reads and checks a configuration file, and the CA file it names.
    ///
    /// # Errors
    /// [`ConfigError`] says what was expected and what was found; nothing half-read is returned.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = |err| ConfigError::Read {
            path: path.to_owned(),
            err,
        };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge {
                path: path.to_owned(),
                bytes,
            });
        }
        let text = std::fs::read(path).map_err(read)?;
        Config::parse(path, &text)
    }

    /// Checks a configuration's text; `path` is for the messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &[u8]) -> Result<Config, ConfigError> {
        let config: Config = serde_json::from_slice(text).map_err(|err| ConfigError::Parse {
            path: path.to_owned(),
            err,
        })?;
        config.check(path)?;
        Ok(config)
    }
}

impl fmt::Display for BackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// Durations as whole milliseconds.
mod millis {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("lb.json"), text.as_bytes()).map_err(|err| {
            let mut shown = err.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&err);
            while let Some(err) = cause {
                shown.push_str(": ");
                shown.push_str(&err.to_string());
                cause = err.source();
            }
            shown
        })
    }

    fn refused(text: &str, expected: &str) {
        match check(text) {
            Ok(config) => panic!("accepted {config:?}, expected: {expected}"),
            Err(shown) => assert!(
                shown.contains(expected),
                "said: {shown}\nexpected: {expected}"
            ),
        }
    }

    #[test]
    fn a_listener_alone_is_enough_before_the_cluster_exists() {
        let config = check(r#"{"listen": "0.0.0.0:6443"}"#).expect("accepted");
        assert_eq!(config.admin_socket, Path::new("/run/quorate/lb.sock"));
        assert_eq!(config.health, Health::default());
        assert!(config.backends.is_empty());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = r#"{"listen": "0.0.0.0:6443", "backends": [{"name": "cp-1", "address": "10.0.0.1:6443"}],
            "health": {"insecure_skip_verify": true, "ping_interval_ms": 50}, "connections": {"max": 100}}"#;
        let config = check(text).expect("accepted");
        assert_eq!(config.health.ping_interval, Duration::from_millis(50));
        let written = serde_json::to_string(&config).expect("a configuration is JSON");
        assert_eq!(check(&written).expect("accepted"), config);
    }

    #[test]
    fn refusals_say_what_and_where() {
        let with = |backends: &str| {
            format!(
                r#"{{"listen": "0.0.0.0:6443", "health": {{"insecure_skip_verify": true}}, "backends": [{backends}]}}"#
            )
        };
        refused("{", "lb.json` is not a balancer configuration: EOF");
        refused(r#"{"backends": []}"#, "missing field `listen`");
        refused(
            r#"{"listen": "0.0.0.0:6443", "listne": 1}"#,
            "unknown field `listne`, expected one of `listen`",
        );
        refused(r#"{"listen": "0.0.0.0"}"#, "invalid socket address");
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"ping_interval": 5}}"#,
            "unknown field `ping_interval`, expected one of",
        );
        refused(
            &with(r#"{"name": "a", "address": "cp-1:6443"}"#),
            "invalid socket address",
        );
        refused(
            &with(r#"{"name": "a b", "address": "10.0.0.1:1"}"#),
            "`backends[0].name`: expected 1 to 63 letters",
        );
        refused(
            &with(
                r#"{"name": "a", "address": "10.0.0.1:1"}, {"name": "a", "address": "10.0.0.2:1"}"#,
            ),
            "`backends[1].name`: expected a name no other backend has, found \"a\" again",
        );
        refused(
            &with(
                r#"{"name": "a", "address": "10.0.0.1:1"}, {"name": "b", "address": "10.0.0.1:1"}"#,
            ),
            "`backends[1].address`: expected an address no other backend has, found 10.0.0.1:1 again",
        );
        refused(
            &with(r#"{"name": "a", "address": "0.0.0.0:6443"}"#),
            "expected an address to connect to",
        );
        refused(
            r#"{"listen": "127.0.0.1:9", "health": {"insecure_skip_verify": true},
                "backends": [{"name": "a", "address": "127.0.0.1:9"}]}"#,
            "the balancer would connect to itself",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "backends": [{"name": "a", "address": "10.0.0.1:1"}]}"#,
            "`health.ca_file`: expected the cluster's CA certificate",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"ca_file": "/x", "insecure_skip_verify": true}}"#,
            "one of them is not meant",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"ca_file": "/nowhere/ca.crt"}}"#,
            "cannot read CA certificates from `/nowhere/ca.crt`",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"ca_file": "ca.crt"}}"#,
            "expected an absolute path",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "admin_socket": "lb.sock"}"#,
            "`admin_socket`: expected an absolute path",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"ping_interval_ms": 1}}"#,
            "`health.ping_interval_ms`: expected 5 to 60000 milliseconds, found 1",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"suspect_after_ms": 80}}"#,
            "`health.dead_after_ms`: expected at least `health.suspect_after_ms`, which is 80, found 45",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "health": {"rise": 0}}"#,
            "`health.rise`: expected at least 1, found 0",
        );
        refused(
            r#"{"listen": "0.0.0.0:1", "connections": {"workers": 65}}"#,
            "expected at most 64",
        );
    }

    #[test]
    fn an_empty_ca_file_is_no_ca() {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = dir.path().join("ca.crt");
        std::fs::write(&ca, "nothing here\n").expect("written");
        let text = format!(r#"{{"listen": "0.0.0.0:1", "health": {{"ca_file": {ca:?}}}}}"#);
        refused(&text, "expected at least one certificate");
    }
}
