//! What systemd is told, and the unit it is given. Without systemd every call here does nothing.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// Messages waiting to be told at most; one more is dropped. systemd reads within milliseconds.
const WAITING_MAX: usize = 64;

/// Tells systemd, from a thread of its own: sending blocks while systemd does not read, and the watch
/// over the backends must not stand still for that.
#[derive(Debug)]
pub(crate) struct Herald {
    messages: Option<mpsc::SyncSender<Message>>,
}

/// What systemd can be told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Starting or reloading is done; with the status line.
    Ready(String),
    /// Reloading has begun.
    Reloading,
    /// Stopping has begun.
    Stopping,
    /// We live; with the status line.
    Alive(String),
}

impl Herald {
    /// A herald; one that says nothing where there is no systemd.
    pub(crate) fn new() -> Herald {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Herald { messages: None };
        }
        let (messages, waiting) = mpsc::sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("lb-herald".to_owned());
        match thread.spawn(move || waiting.iter().for_each(|message| send(&message))) {
            // It ends with the channel. Nobody waits for it: systemd may not be reading.
            Ok(_) => Herald {
                messages: Some(messages),
            },
            Err(err) => {
                warn!(%err, "cannot tell systemd");
                Herald { messages: None }
            }
        }
    }

    /// Tells systemd, soon.
    pub(crate) fn tell(&self, message: Message) {
        if let Some(messages) = &self.messages
            && messages.try_send(message).is_err()
        {
            debug!("systemd does not read; a message to it was dropped");
        }
    }
}

fn send(message: &Message) {
    let told = match message {
        Message::Ready(status) => {
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
        }
        Message::Reloading => sd_notify::notify(&[NotifyState::Reloading]),
        Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Message::Alive(status) => {
            sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(status)])
        }
    };
    if let Err(err) = told {
        debug!(%err, "cannot tell systemd");
    }
}

/// How often the watchdog wants to hear from us; none where there is no watchdog.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The unit that runs `BINARY lb run --config CONFIG`.
///
/// It uses nothing that a systemd 252 inside a container with cgroup v1 lacks: no resource control, no
/// device rules. `LimitNOFILE` is not set on purpose: the process raises its soft limit to whatever
/// hard limit exists, and asking for more than exists would be a failure in a container.
///
/// # Errors
/// [`UnitError`] for a path that no unit file can name.
pub fn unit(binary: &Path, config: &Path) -> Result<String, UnitError> {
    let (binary, config) = (quoted(binary)?, quoted(config)?);
    Ok(format!(
        "\
# Written by Quorate; changes are overwritten.
[Unit]
Description=Quorate load balancer for kube-apiservers
After=network-online.target
Wants=network-online.target
# Down is worse than restarting once more.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={binary} lb run --config {config}
# Reads the configuration again; connections stay. `quorate lb upgrade` replaces the program; they stay too.
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=100ms
WatchdogSec=10s
TimeoutStopSec=60s
RuntimeDirectory=quorate
# Others keep files there, and secrets among them.
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
UMask=0077
OOMScoreAdjust=-900

CapabilityBoundingSet=CAP_NET_BIND_SERVICE
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"
    ))
}

/// A path that a unit file cannot name: it is not UTF-8, or holds a control character.
#[derive(Debug, thiserror::Error)]
#[error("a unit file cannot name {path:?}: expected UTF-8 without control characters")]
pub struct UnitError {
    /// The path.
    pub path: PathBuf,
}

/// A path as one word of a unit file: quoted, with systemd's specifiers and variables made literal.
fn quoted(path: &Path) -> Result<String, UnitError> {
    let text = path
        .to_str()
        .filter(|text| !text.chars().any(char::is_control))
        .ok_or_else(|| UnitError { path: path.into() })?;
    let literal = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    Ok(if literal == text && !text.contains([' ', '\'', ';']) {
        literal
    } else {
        format!("\"{literal}\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_runs_the_binary_it_was_given() {
        let text = unit(
            Path::new("/opt/quorate/ab12/quorate"),
            Path::new("/etc/quorate/lb.json"),
        )
        .expect("a unit");
        assert!(text.contains(
            "\nExecStart=/opt/quorate/ab12/quorate lb run --config /etc/quorate/lb.json\n"
        ));
        assert!(text.contains("\nType=notify\n"));
    }

    #[test]
    fn paths_stay_single_words() {
        let text = unit(
            Path::new("/opt/my quorate/100%/$x"),
            Path::new("/etc/lb.json"),
        )
        .expect("a unit");
        assert!(
            text.contains("ExecStart=\"/opt/my quorate/100%%/$$x\" lb run --config /etc/lb.json\n"),
            "{text}"
        );
        let err = unit(Path::new("/opt/a\nb"), Path::new("/etc/lb.json")).expect_err("two lines");
        assert!(err.to_string().contains("\"/opt/a\\nb\""), "{err}");
    }

    /// A key systemd does not know is only a warning to it, and a protection that is not there.
    #[test]
    fn systemd_knows_every_key_of_the_unit() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("quorate-lb.service");
        std::fs::write(
            &file,
            unit(Path::new("/bin/true"), Path::new("/etc/quorate/lb.json")).expect("a unit"),
        )
        .expect("written");
        let verify = std::process::Command::new("systemd-analyze")
            .arg("verify")
            .arg(&file)
            .output();
        let output = match verify {
            Ok(output) => output,
            Err(err) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: systemd-analyze does not run ({err})");
                return;
            }
            Err(err) => panic!("systemd-analyze does not run: {err}"),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("quorate-lb.service"), "{said}");
    }
}
