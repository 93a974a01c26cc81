//! Commands as values: the argument vectors of `ssh`, and the few lines of shell that run on a host. Nothing here starts anything.

use std::{
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Connecting takes no longer than this, or the host is not there.
const CONNECT_SECONDS_MAX: u32 = 10;

/// A silent peer is asked this often whether it is still there …
const ALIVE_SECONDS: u32 = 5;

/// … and given up after this many questions without an answer: 15 seconds.
const ALIVE_QUESTIONS: u32 = 3;

/// Longest path of a UNIX socket, in bytes, with its final zero.
const SOCKET_PATH_MAX: usize = 108;

/// What `ssh` appends to the directory: a slash, the hash that `%C` stands for, and a suffix while it makes the socket.
const SOCKET_NAME_LENGTH: usize = 1 + 40 + 17 + 1;

/// Longest directory for control sockets, in bytes.
pub const CONTROL_DIR_LENGTH_MAX: usize = SOCKET_PATH_MAX - SOCKET_NAME_LENGTH;

/// The way into one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAccess {
    /// Its address.
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Private key file. `None`: the agent and the user's own configuration decide.
    pub identity: Option<PathBuf>,
    /// Whether `sudo -n` is needed to become root.
    pub sudo: bool,
    /// Files with the host keys that are believed: the cluster's own first.
    pub known_hosts: Vec<PathBuf>,
    /// Whether the user's own configuration of `ssh` applies: their jump hosts and agents. Not for hosts on this machine, which no
    /// jump host leads to.
    pub own_configuration: bool,
}

/// Where the shared connections lie, and for how long they stay when nobody uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The `ssh` program.
    pub program: PathBuf,
    /// A directory that nobody else can enter. Its path is short: the sockets in it have a limit.
    pub dir: PathBuf,
    /// How long a connection stays open when nobody uses it, so that the next command is fast.
    pub persist: Duration,
}

/// Why the ways in cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A socket's path has a limit.
    #[error(
        "the directory for SSH control sockets, `{}`, is {} bytes long, at most {CONTROL_DIR_LENGTH_MAX} are possible: set XDG_RUNTIME_DIR to a shorter one",
        dir.display(), dir.as_os_str().len()
    )]
    ControlDirLong {
        /// The directory.
        dir: PathBuf,
    },
    /// Whoever can enter it can use the connections.
    #[error(
        "the directory for SSH control sockets, `{}`, must belong to user {uid} with mode 0700, it belongs to user {owner} with mode {mode:04o}",
        dir.display()
    )]
    ControlDirOpen {
        /// The directory.
        dir: PathBuf,
        /// Who we are.
        uid: u32,
        /// Who owns it.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// A file operation failed.
    #[error("failed to {doing} `{}`", path.display())]
    Io {
        /// What was being done: `make`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A user or path that `ssh` would read as something else.
    #[error("{what} `{value}` cannot be given to ssh: it {rule}")]
    Unusable {
        /// What it is: `the user`.
        what: &'static str,
        /// What it is, escaped.
        value: String,
        /// Which rule it breaks.
        rule: &'static str,
    },
    /// The binary for the hosts is none.
    #[error("`{}` cannot be run on a host: expected a 64-bit ELF program for Linux, seen {seen}", path.display())]
    NoBinary {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        seen: String,
    },
}

impl Control {
    /// Connections of the `ssh` in PATH that stay for a minute.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            program: "ssh".into(),
            dir: dir.into(),
            persist: Duration::from_secs(60),
        }
    }

    /// Makes the directory where it is missing, and refuses one that others can enter.
    ///
    /// # Errors
    /// When its path is too long for a socket, or it is not ours alone.
    pub fn prepare(&self) -> Result<(), SetupError> {
        let dir = &self.dir;
        if dir.as_os_str().len() > CONTROL_DIR_LENGTH_MAX {
            return Err(SetupError::ControlDirLong { dir: dir.clone() });
        }
        let io = |doing| {
            move |source| SetupError::Io {
                doing,
                path: dir.clone(),
                source,
            }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("make"))?;
        let metadata = std::fs::symlink_metadata(dir).map_err(io("look at"))?;
        let (uid, owner) = (nix::unistd::geteuid().as_raw(), metadata.uid());
        let mode = metadata.permissions().mode() & 0o7777;
        if !metadata.is_dir() || owner != uid || mode & 0o077 != 0 {
            return Err(SetupError::ControlDirOpen {
                dir: dir.clone(),
                uid,
                owner,
                mode,
            });
        }
        Ok(())
    }

    /// Options of every connection to `access`: nothing is asked, unknown keys are refused, nothing is forwarded.
    fn options(&self, access: &SshAccess) -> Result<Vec<String>, SetupError> {
        let mut options = Vec::new();
        if !access.own_configuration {
            options.extend(["-F".into(), "none".into()]);
        }
        let mut set = |option: String| options.extend(["-o".into(), option]);
        set("BatchMode=yes".into());
        set("StrictHostKeyChecking=yes".into());
        let known: Result<Vec<String>, _> = access
            .known_hosts
            .iter()
            .map(|path| quoted("a known hosts file", path))
            .collect();
        let known = known?;
        set(if known.is_empty() {
            "UserKnownHostsFile=/dev/null".into()
        } else {
            format!("UserKnownHostsFile={}", known.join(" "))
        });
        // A key that was rotated in over the wire is not one that somebody compared.
        set("UpdateHostKeys=no".into());
        set(format!("ConnectTimeout={CONNECT_SECONDS_MAX}"));
        set(format!("ServerAliveInterval={ALIVE_SECONDS}"));
        set(format!("ServerAliveCountMax={ALIVE_QUESTIONS}"));
        set("ForwardAgent=no".into());
        set("ForwardX11=no".into());
        set("ClearAllForwardings=yes".into());
        set("PermitLocalCommand=no".into());
        set("LogLevel=ERROR".into());
        set("ControlMaster=auto".into());
        set(format!(
            "ControlPath={}",
            quoted("the control directory", &self.dir.join("SOCKET"))?.replace("SOCKET", "%C")
        ));
        set(format!("ControlPersist={}", self.persist.as_secs()));
        if let Some(identity) = &access.identity {
            set(format!(
                "IdentityFile={}",
                quoted("the identity", identity)?
            ));
            // An agent with many keys would use up the tries before it comes to this one.
            set("IdentitiesOnly=yes".into());
        }
        if !access.own_configuration {
            set("GlobalKnownHostsFile=/dev/null".into());
            set("IdentityAgent=none".into());
        }
        if access.user.is_empty()
            || access.user.starts_with('-')
            || !access.user.chars().all(|c| c.is_ascii_graphic())
        {
            return Err(SetupError::Unusable {
                what: "the user",
                value: crate::hostile::line(&access.user),
                rule: "has to be of visible ASCII characters and not begin with `-`",
            });
        }
        options.extend([
            "-p".into(),
            access.port.to_string(),
            "-l".into(),
            access.user.clone(),
        ]);
        Ok(options)
    }

    /// Arguments that run `script` with `sh` on a host, as root, its standard input being ours.
    ///
    /// # Errors
    /// When a path or the user cannot be given to `ssh`.
    pub fn shell(&self, access: &SshAccess, script: &str) -> Result<Vec<String>, SetupError> {
        let mut args = self.options(access)?;
        let sudo = if access.sudo { "sudo -n " } else { "" };
        args.extend([
            "-T".into(),
            "--".into(),
            access.address.to_string(),
            format!("{sudo}sh -c {}", single_quoted(script)),
        ]);
        Ok(args)
    }

    /// Arguments that end the shared connection to a host.
    ///
    /// # Errors
    /// When a path or the user cannot be given to `ssh`.
    pub fn exit(&self, access: &SshAccess) -> Result<Vec<String>, SetupError> {
        let mut args = self.options(access)?;
        args.extend([
            "-O".into(),
            "exit".into(),
            "--".into(),
            access.address.to_string(),
        ]);
        Ok(args)
    }
}

/// A path as a value in `ssh`'s configuration: quoted, its percent signs doubled.
fn quoted(what: &'static str, path: &Path) -> Result<String, SetupError> {
    let unusable = |rule| SetupError::Unusable {
        what,
        value: crate::hostile::line(&path.to_string_lossy()),
        rule,
    };
    let text = path
        .to_str()
        .ok_or_else(|| unusable("has to be of UTF-8 characters"))?;
    if text.chars().any(|c| c.is_control() || "\"\\$".contains(c)) {
        return Err(unusable(
            "must not hold quotes, `\\`, `$` or control characters",
        ));
    }
    if !path.is_absolute() {
        return Err(unusable("has to be absolute"));
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

/// A text as one word for any shell.
fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Where the binary of that hash lies on a host.
pub fn binary_path(hash: &str) -> String {
    format!("/var/lib/quorate/bin/quorate-{hash}")
}

/// The first word of a host's answer when the binary is not there; system and machine follow, as `uname -sm` says them.
pub(crate) const ABSENT: &str = "quorate-absent";

/// The first word of a host's answer when what arrived is not what was sent; its digest or size follows.
pub(crate) const DIFFERS: &str = "quorate-differs";

/// Starts the binary of that hash, or says that it is not there.
pub(crate) fn serve_script(hash: &str) -> String {
    let path = binary_path(hash);
    format!("[ -x {path} ] || {{ echo {ABSENT} $(uname -sm); exit 0; }}; exec {path} node serve")
}

/// Has the binary of that hash give its host's backup, sealed to these recipients, which are plain words.
pub(crate) fn backup_script(hash: &str, recipients: &[String]) -> String {
    let path = binary_path(hash);
    let to: Vec<String> = recipients.iter().map(|to| format!(" --to {to}")).collect();
    format!(
        "[ -x {path} ] || {{ echo {ABSENT} $(uname -sm); exit 0; }}; exec {path} node backup{}",
        to.concat()
    )
}

/// Puts the binary of that hash in place from standard input: whole and verified, or not at all.
pub(crate) fn upload_script(hash: &str) -> String {
    let path = binary_path(hash);
    format!(
        "set -eu; umask 022; mkdir -p /var/lib/quorate/bin; t={path}.$$; trap \"rm -f $t\" EXIT; \
         cat >$t; s=$(sha256sum $t); s=${{s%% *}}; [ $s = {hash} ] || {{ echo {DIFFERS} $s; exit 1; }}; \
         chmod 0755 $t; sync $t; mv -f $t {path}; sync /var/lib/quorate/bin"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> SshAccess {
        SshAccess {
            address: "10.0.1.11".parse().unwrap(),
            port: 22,
            user: "admin".into(),
            identity: None,
            sudo: true,
            known_hosts: vec!["/c/known_hosts".into(), "/home/u/.ssh/known_hosts".into()],
            own_configuration: true,
        }
    }

    #[test]
    fn a_given_host_with_the_users_own_configuration() {
        let control = Control::new("/run/user/1000/quorate");
        assert_eq!(
            control.shell(&given(), "echo hello").unwrap(),
            [
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "UserKnownHostsFile=\"/c/known_hosts\" \"/home/u/.ssh/known_hosts\"",
                "-o",
                "UpdateHostKeys=no",
                "-o",
                "ConnectTimeout=10",
                "-o",
                "ServerAliveInterval=5",
                "-o",
                "ServerAliveCountMax=3",
                "-o",
                "ForwardAgent=no",
                "-o",
                "ForwardX11=no",
                "-o",
                "ClearAllForwardings=yes",
                "-o",
                "PermitLocalCommand=no",
                "-o",
                "LogLevel=ERROR",
                "-o",
                "ControlMaster=auto",
                "-o",
                "ControlPath=\"/run/user/1000/quorate/%C\"",
                "-o",
                "ControlPersist=60",
                "-p",
                "22",
                "-l",
                "admin",
                "-T",
                "--",
                "10.0.1.11",
                "sudo -n sh -c 'echo hello'",
            ]
        );
    }

    #[test]
    fn a_local_host_with_nothing_of_the_users() {
        let control = Control::new("/run/q");
        let access = SshAccess {
            address: "fd00::7".parse().unwrap(),
            port: 2222,
            user: "root".into(),
            identity: Some("/c/100% mine/key".into()),
            sudo: false,
            known_hosts: vec!["/c/100% mine/known_hosts".into()],
            own_configuration: false,
        };
        let args = control.shell(&access, "echo 'a b'").unwrap();
        assert_eq!(args[..2], ["-F", "none"]);
        for option in [
            "UserKnownHostsFile=\"/c/100%% mine/known_hosts\"",
            "IdentityFile=\"/c/100%% mine/key\"",
            "IdentitiesOnly=yes",
            "GlobalKnownHostsFile=/dev/null",
            "IdentityAgent=none",
        ] {
            let at = args.iter().position(|arg| arg == option);
            assert!(
                at.is_some_and(|at| args[at - 1] == "-o"),
                "{option}: {args:?}"
            );
        }
        assert_eq!(
            args[args.len() - 8..],
            [
                "-p",
                "2222",
                "-l",
                "root",
                "-T",
                "--",
                "fd00::7",
                r"sh -c 'echo '\''a b'\'''"
            ]
        );
        let args = control.exit(&access).unwrap();
        assert_eq!(args[args.len() - 4..], ["-O", "exit", "--", "fd00::7"]);
    }

    #[test]
    fn what_ssh_would_misread_is_refused() {
        let control = Control::new("/run/q");
        for user in ["", "-oProxyCommand=x", "a b", "a\n"] {
            let access = SshAccess {
                user: user.into(),
                ..given()
            };
            assert!(control.shell(&access, "true").is_err(), "{user:?}");
        }
        for path in ["relative", "/a\"b", "/a\\b", "/a\nb", "/${HOME}"] {
            let access = SshAccess {
                identity: Some(path.into()),
                ..given()
            };
            assert!(control.shell(&access, "true").is_err(), "{path:?}");
        }
    }

    #[test]
    fn control_sockets_have_a_place_of_their_own() {
        let dir = tempfile::Builder::new()
            .prefix("q")
            .tempdir_in("/tmp")
            .unwrap();
        let control = Control::new(dir.path().join("c"));
        control.prepare().unwrap();
        control.prepare().unwrap();
        std::fs::set_permissions(&control.dir, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(
            control.prepare(),
            Err(SetupError::ControlDirOpen { mode: 0o750, .. })
        ));
        let long = Control::new(dir.path().join("x".repeat(60)));
        assert!(matches!(
            long.prepare(),
            Err(SetupError::ControlDirLong { .. })
        ));
        assert!(!long.dir.exists());
    }

    #[test]
    fn scripts() {
        assert_eq!(
            serve_script("abc"),
            "[ -x /var/lib/quorate/bin/quorate-abc ] || { echo quorate-absent $(uname -sm); exit 0; }; \
             exec /var/lib/quorate/bin/quorate-abc node serve"
        );
        assert_eq!(
            upload_script("abc"),
            "set -eu; umask 022; mkdir -p /var/lib/quorate/bin; t=/var/lib/quorate/bin/quorate-abc.$$; trap \"rm -f $t\" EXIT; \
             cat >$t; s=$(sha256sum $t); s=${s%% *}; [ $s = abc ] || { echo quorate-differs $s; exit 1; }; \
             chmod 0755 $t; sync $t; mv -f $t /var/lib/quorate/bin/quorate-abc; sync /var/lib/quorate/bin"
        );
    }
}
