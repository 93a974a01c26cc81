//! What a configuration must keep to, beyond its types.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{BACKENDS_MAX, Config, ConfigError};

impl Config {
    /// Refuses what cannot work; `path` is for the message.
    pub(super) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key: String, expected: &str, found: String| ConfigError::Value {
            path: path.to_owned(),
            key,
            expected: expected.to_owned(),
            found,
        };
        if self.backends.len() > BACKENDS_MAX {
            let found = format!("{}", self.backends.len());
            return Err(wrong(
                "backends".into(),
                &format!("at most {BACKENDS_MAX} backends"),
                found,
            ));
        }
        let mut names = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for (at, backend) in self.backends.iter().enumerate() {
            let key = |field: &str| format!("backends[{at}].{field}");
            if !is_name(&backend.name) {
                let expected = "1 to 63 letters, digits, `.`, `-` or `_`";
                return Err(wrong(key("name"), expected, format!("{:?}", backend.name)));
            }
            if !names.insert(&backend.name) {
                return Err(wrong(
                    key("name"),
                    "a name no other backend has",
                    format!("{:?} again", backend.name),
                ));
            }
            if backend.address.port() == 0 || backend.address.ip().is_unspecified() {
                return Err(wrong(
                    key("address"),
                    "an address to connect to",
                    backend.address.to_string(),
                ));
            }
            if backend.address == self.listen {
                let expected =
                    "another address than `listen`: the balancer would connect to itself";
                return Err(wrong(key("address"), expected, backend.address.to_string()));
            }
            if !addresses.insert(backend.address) {
                let expected = "an address no other backend has";
                return Err(wrong(
                    key("address"),
                    expected,
                    format!("{} again", backend.address),
                ));
            }
        }
        if !self.admin_socket.is_absolute() {
            return Err(wrong(
                "admin_socket".into(),
                "an absolute path",
                format!("{:?}", self.admin_socket),
            ));
        }
        self.check_trust(path)?;
        self.check_durations(path)?;
        let natural = [
            ("health.rise", Some(u64::from(self.health.rise))),
            ("connections.max", self.connections.max.map(u64::from)),
            (
                "connections.workers",
                self.connections.workers.map(|n| n as u64),
            ),
        ];
        for (key, value) in natural {
            if value == Some(0) {
                return Err(wrong(key.into(), "at least 1", "0".into()));
            }
        }
        if self.connections.workers.is_some_and(|n| n > 64) {
            let found = format!("{:?}", self.connections.workers.unwrap_or(0));
            return Err(wrong("connections.workers".into(), "at most 64", found));
        }
        Ok(())
    }

    fn check_trust(&self, path: &Path) -> Result<(), ConfigError> {
        let health = &self.health;
        match (&health.ca_file, health.insecure_skip_verify) {
            (Some(_), true) => Err(ConfigError::Value {
                path: path.to_owned(),
                key: "health.insecure_skip_verify".into(),
                expected: "false where `health.ca_file` is given: one of them is not meant".into(),
                found: "true".into(),
            }),
            (None, false) if !self.backends.is_empty() => Err(ConfigError::Value {
                path: path.to_owned(),
                key: "health.ca_file".into(),
                expected: "the cluster's CA certificate (`/etc/kubernetes/pki/ca.crt`) where there are backends, \
                           or `insecure_skip_verify: true`"
                    .into(),
                found: "neither".into(),
            }),
            (Some(ca_file), false) if !ca_file.is_absolute() => Err(ConfigError::Value {
                path: path.to_owned(),
                key: "health.ca_file".into(),
                expected: "an absolute path".into(),
                found: format!("{ca_file:?}"),
            }),
            // Built and dropped: what cannot be used must be refused before anything changes.
            (Some(_), false) | (None, true) => crate::tls::client_config(path, health).map(drop),
            (None, false) => Ok(()),
        }
    }

    fn check_durations(&self, path: &Path) -> Result<(), ConfigError> {
        let health = &self.health;
        let connections = &self.connections;
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        // Below 5 ms a timer's own resolution is a good part of the value.
        let ranges = [
            (
                "health.ping_interval_ms",
                health.ping_interval,
                ms(5),
                s(60),
            ),
            (
                "health.suspect_after_ms",
                health.suspect_after,
                ms(5),
                s(60),
            ),
            ("health.dead_after_ms", health.dead_after, ms(10), s(120)),
            (
                "health.dead_after_max_ms",
                health.dead_after_max,
                ms(10),
                s(300),
            ),
            ("health.warm_up_ms", health.warm_up, ms(0), s(3600)),
            (
                "health.readyz_interval_ms",
                health.readyz_interval,
                ms(50),
                s(60),
            ),
            (
                "health.readyz_timeout_ms",
                health.readyz_timeout,
                ms(50),
                s(60),
            ),
            ("health.dial_timeout_ms", health.dial_timeout, ms(50), s(60)),
            (
                "health.redial_interval_ms",
                health.redial_interval,
                ms(10),
                s(60),
            ),
            ("health.slow_start_ms", health.slow_start, ms(0), s(600)),
            (
                "connections.hedge_after_ms",
                connections.hedge_after,
                ms(1),
                s(60),
            ),
            (
                "connections.dial_timeout_ms",
                connections.dial_timeout,
                ms(50),
                s(60),
            ),
            (
                "connections.user_timeout_ms",
                connections.user_timeout,
                ms(500),
                s(3600),
            ),
            (
                "connections.keepalive_ms",
                connections.keepalive,
                s(1),
                s(3600),
            ),
            (
                "connections.drain_max_ms",
                connections.drain_max,
                ms(0),
                s(86_400),
            ),
            (
                "connections.stop_max_ms",
                connections.stop_max,
                ms(0),
                s(3600),
            ),
        ];
        for (key, value, least, most) in ranges {
            if value < least || value > most {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    key: key.to_owned(),
                    expected: format!("{} to {} milliseconds", least.as_millis(), most.as_millis()),
                    found: value.as_millis().to_string(),
                });
            }
        }
        let order = [
            (
                "health.dead_after_ms",
                health.dead_after,
                "health.suspect_after_ms",
                health.suspect_after,
            ),
            (
                "health.dead_after_max_ms",
                health.dead_after_max,
                "health.dead_after_ms",
                health.dead_after,
            ),
            // A dial is given up no sooner than a backend may be called dead for its silence.
            (
                "health.dial_timeout_ms",
                health.dial_timeout,
                "health.dead_after_max_ms",
                health.dead_after_max,
            ),
        ];
        for (key, value, other, floor) in order {
            if value < floor {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    key: key.to_owned(),
                    expected: format!("at least `{other}`, which is {}", floor.as_millis()),
                    found: value.as_millis().to_string(),
                });
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}
