//! Why a host cannot be reached, told from what `ssh` says. Start at [`SshFailure::of`].

use std::path::PathBuf;

use crate::hostile;

/// Why a host could not be asked. Every message says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshFailure {
    /// Nobody vouched for its key.
    #[error(
        "its host key is in none of {}: compare the fingerprint with the host's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there) and add the key",
        files(known_hosts)
    )]
    HostKeyUnknown {
        /// Where it was looked for.
        known_hosts: Vec<PathBuf>,
    },
    /// It has another key than the one that is believed. Nothing was sent to it.
    #[error(
        "its host key is not the one in {}: either the machine was made again and the old key has to be removed there, or somebody is in between; nothing was sent to it",
        files(known_hosts)
    )]
    HostKeyChanged {
        /// Where the believed one is.
        known_hosts: Vec<PathBuf>,
    },
    /// It does not let us in.
    #[error(
        "it does not let {user} in: {detail}; check the user and the identity in the cluster file with `ssh -v`"
    )]
    LoginRefused {
        /// The user.
        user: String,
        /// As `ssh` says it.
        detail: String,
    },
    /// It lets us in, and not become root.
    #[error(
        "{user} may not become root there without a password: {detail}; give it a NOPASSWD rule in sudoers"
    )]
    SudoRefused {
        /// The user.
        user: String,
        /// As `sudo` says it.
        detail: String,
    },
    /// The machine is there and nobody listens.
    #[error("nobody listens on its SSH port: {detail}")]
    ConnectionRefused {
        /// As `ssh` says it.
        detail: String,
    },
    /// Nobody answers.
    #[error("it does not answer: {detail}")]
    TimedOut {
        /// As `ssh` says it, or for how long we waited.
        detail: String,
    },
    /// There is no way there.
    #[error("there is no way to it: {detail}")]
    NoRoute {
        /// As `ssh` says it.
        detail: String,
    },
    /// A name on the way, such as a jump host's, does not resolve.
    #[error("a name does not resolve: {detail}")]
    NameUnknown {
        /// As `ssh` says it.
        detail: String,
    },
    /// The connection ended while it was in use.
    #[error("the connection was lost: {detail}")]
    Lost {
        /// As `ssh` says it, or what was going on.
        detail: String,
    },
    /// The host runs on another processor than the binary.
    #[error(
        "it is a {host} machine and the binary for it is built for {binary}: name a binary that fits with --node-binary; nothing was written there"
    )]
    WrongMachine {
        /// The host's, as `uname -sm` says it.
        host: String,
        /// The binary's.
        binary: String,
    },
    /// What arrived there is not what was sent.
    #[error("{what} arrived damaged: expected {expected}, seen {seen}")]
    Damaged {
        /// What was sent.
        what: String,
        /// Digest or size.
        expected: String,
        /// Digest or size on the host.
        seen: String,
    },
    /// Something else than our binary answers.
    #[error("expected the greeting of our binary, seen {seen}")]
    NotGreeted {
        /// What it said, escaped and capped.
        seen: String,
    },
    /// The binary answers something that cannot be understood.
    #[error("expected {expected}, seen {seen}")]
    NotUnderstood {
        /// What was expected.
        expected: &'static str,
        /// What came, escaped and capped.
        seen: String,
    },
    /// A command failed there.
    #[error("{doing} failed: {detail}")]
    Command {
        /// What was being done.
        doing: String,
        /// What it said, or how it ended.
        detail: String,
    },
    /// Here, on the operator's machine.
    #[error("on this machine: {detail}")]
    Here {
        /// What failed.
        detail: String,
    },
}

fn files(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    names.join(", ")
}

impl SshFailure {
    /// What `ssh` meant when it ended with `code` and this on its standard error, for a user and the files its keys are believed from.
    pub(crate) fn of(code: Option<i32>, stderr: &str, user: &str, known_hosts: &[PathBuf]) -> Self {
        let says = |text: &str| stderr.contains(text);
        // The last line is ssh's own verdict; before it come banners and warnings.
        let detail = stderr
            .lines()
            .rev()
            .map(hostile::line)
            .find(|line| !line.is_empty())
            .unwrap_or_else(|| match code {
                Some(code) => format!("ssh ended with code {code} and said nothing"),
                None => "ssh ended without saying why".into(),
            });
        if code != Some(255) {
            // The command ran: what it says is its own.
            return if says("sudo: a password is required")
                || says("sudo: a terminal is required")
                || says("sudo: sorry")
                || says("is not in the sudoers file")
                || says("sudo: command not found")
                || says("sudo: not found")
            {
                Self::SudoRefused {
                    user: hostile::line(user),
                    detail,
                }
            } else {
                Self::Lost { detail }
            };
        }
        let known_hosts = known_hosts.to_vec();
        if says("REMOTE HOST IDENTIFICATION HAS CHANGED")
            || says("has changed and you have requested strict checking")
            || says("REVOKED HOST KEY")
        {
            Self::HostKeyChanged { known_hosts }
        } else if says("host key is known for") || says("Host key verification failed") {
            Self::HostKeyUnknown { known_hosts }
        } else if says("Permission denied (") || says("Too many authentication failures") {
            Self::LoginRefused {
                user: hostile::line(user),
                detail,
            }
        } else if says("Could not resolve hostname") {
            Self::NameUnknown { detail }
        } else if says("Connection refused") {
            Self::ConnectionRefused { detail }
        } else if says("timed out") || says("Timeout, server") {
            Self::TimedOut { detail }
        } else if says("No route to host") || says("Network is unreachable") {
            Self::NoRoute { detail }
        } else {
            Self::Lost { detail }
        }
    }

    /// Whether asking again will give the same answer until somebody changes something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::LoginRefused { .. }
            | Self::SudoRefused { .. }
            | Self::NameUnknown { .. }
            | Self::WrongMachine { .. }
            | Self::NotGreeted { .. }
            | Self::NotUnderstood { .. }
            | Self::Here { .. } => true,
            Self::ConnectionRefused { .. }
            | Self::TimedOut { .. }
            | Self::NoRoute { .. }
            | Self::Lost { .. }
            | Self::Damaged { .. }
            | Self::Command { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: i32, stderr: &str, expected: SshFailure) {
        let known = [PathBuf::from("/c/known_hosts")];
        assert_eq!(
            SshFailure::of(Some(code), stderr, "admin", &known),
            expected
        );
    }

    #[test]
    fn what_ssh_says_is_told_apart() {
        let known_hosts = vec![PathBuf::from("/c/known_hosts")];
        check(
            255,
            "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\r\nHost key verification failed.\r\n",
            SshFailure::HostKeyUnknown {
                known_hosts: known_hosts.clone(),
            },
        );
        check(
            255,
            "@@@@@@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n@@@@@@@@@@\r\nHost key for [127.0.0.1]:2222 has changed and you have requested strict checking.\r\nHost key verification failed.\r\n",
            SshFailure::HostKeyChanged { known_hosts },
        );
        let detail = "admin@10.0.1.11: Permission denied (publickey).";
        check(
            255,
            &format!("Welcome!\r\n{detail}\r\n"),
            SshFailure::LoginRefused {
                user: "admin".into(),
                detail: detail.into(),
            },
        );
        let detail = "ssh: connect to host 10.0.1.11 port 22: Connection refused";
        check(
            255,
            detail,
            SshFailure::ConnectionRefused {
                detail: detail.into(),
            },
        );
        for detail in [
            "ssh: connect to host 10.0.1.11 port 22: Connection timed out",
            "Timeout, server 10.0.1.11 not responding.",
            "ssh: connect to host 10.0.1.11 port 22: Operation timed out",
            "Connection timed out during banner exchange",
        ] {
            check(
                255,
                detail,
                SshFailure::TimedOut {
                    detail: detail.into(),
                },
            );
        }
        let detail = "ssh: connect to host 10.0.1.11 port 22: No route to host";
        check(
            255,
            detail,
            SshFailure::NoRoute {
                detail: detail.into(),
            },
        );
        let detail = "ssh: Could not resolve hostname bastion: Name or service not known";
        check(
            255,
            detail,
            SshFailure::NameUnknown {
                detail: detail.into(),
            },
        );
        let detail = "kex_exchange_identification: Connection closed by remote host";
        check(
            255,
            detail,
            SshFailure::Lost {
                detail: detail.into(),
            },
        );
        let detail = "sudo: a password is required";
        check(
            1,
            detail,
            SshFailure::SudoRefused {
                user: "admin".into(),
                detail: detail.into(),
            },
        );
        check(
            255,
            "",
            SshFailure::Lost {
                detail: "ssh ended with code 255 and said nothing".into(),
            },
        );
        // A host's words never reach a terminal as they are.
        check(
            255,
            "evil\u{1b}]0;title\u{7}\r\n",
            SshFailure::Lost {
                detail: "evil\\u{1b}]0;title\\u{7}".into(),
            },
        );
    }

    #[test]
    fn a_changed_key_says_that_nothing_was_sent() {
        let failure = SshFailure::HostKeyChanged {
            known_hosts: vec!["/c/known_hosts".into()],
        };
        assert!(
            failure.to_string().contains("nothing was sent"),
            "{failure}"
        );
        assert!(failure.is_lasting());
    }
}
