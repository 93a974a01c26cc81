//! Who may log in to hosts, and how a host proves itself: a key pair per cluster, a host key per host made before
//! its first boot, and a `known_hosts` that pins them. Begin at [`SshAccess`].

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::error::{During, Error, Result};
use crate::names::HostName;
use crate::{program, store};

/// Everything a client needs to log in to a host and to recognise it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAccess {
    /// The host's address.
    pub address: Ipv4Addr,
    /// The port its sshd listens on.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// The private key, readable by root alone.
    pub identity_file: PathBuf,
    /// The pinned host keys of the cluster, by address and by name.
    pub known_hosts: PathBuf,
}

impl SshAccess {
    /// Arguments for OpenSSH's client up to and including the destination: strict about the host key, independent of
    /// the user's own keys and known hosts.
    pub fn arguments(&self) -> Vec<String> {
        let option = |name: &str, value: &str| ["-o".to_owned(), format!("{name}={value}")];
        let mut args = vec!["-i".to_owned(), self.identity_file.display().to_string()];
        args.extend(option("IdentitiesOnly", "yes"));
        args.extend(option("BatchMode", "yes"));
        args.extend(option("StrictHostKeyChecking", "yes"));
        args.extend(option(
            "UserKnownHostsFile",
            &self.known_hosts.display().to_string(),
        ));
        args.extend(option("GlobalKnownHostsFile", "/dev/null"));
        args.extend([
            "-p".to_owned(),
            self.port.to_string(),
            format!("{}@{}", self.user, self.address),
        ]);
        args
    }
}

/// The key pair of a cluster, below `dir`.
pub(crate) fn identity(dir: &Path) -> PathBuf {
    dir.join("id_ed25519")
}

/// The pinned host keys of a cluster, below `dir`.
pub(crate) fn known_hosts(dir: &Path) -> PathBuf {
    dir.join("known_hosts")
}

/// Makes an ed25519 key pair at `path` unless there is one; the private half is for root alone.
pub(crate) fn ensure_key(path: &Path, comment: &str) -> Result<()> {
    let public = path.with_extension("pub");
    if path.exists() && public.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        store::public_dir(parent)?;
    }
    // A half of a pair is of no use, and ssh-keygen would ask before it overwrites one.
    store::remove_file(path)?;
    store::remove_file(&public)?;
    // A name of its own: what a killed command started may still be writing under another.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let fresh_public = path.with_extension(format!("new-{}.pub", std::process::id()));
    store::remove_file(&fresh)?;
    store::remove_file(&fresh_public)?;
    let args = ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"].map(OsStr::new);
    program::run("ssh-keygen", args.into_iter().chain([fresh.as_os_str()]))?;
    // The public half last: both are there exactly when it is.
    std::fs::rename(&fresh, path).during("rename into place", path)?;
    std::fs::rename(&fresh_public, &public).during("rename into place", &public)
}

/// The public half of a key, one line.
pub(crate) fn public_key(path: &Path) -> Result<String> {
    let public = path.with_extension("pub");
    let text = std::fs::read_to_string(&public).during("read", &public)?;
    Ok(text.trim().to_owned())
}

/// Writes the pinned keys of these hosts.
pub(crate) fn pin(file: &Path, hosts: &[(HostName, Ipv4Addr, String)]) -> Result<()> {
    let lines: Result<Vec<_>> = hosts
        .iter()
        .map(|(name, address, key)| pinned(name, *address, key))
        .collect();
    store::write(file, lines?.concat().as_bytes(), 0o600)
}

fn pinned(name: &HostName, address: Ipv4Addr, public: &str) -> Result<String> {
    let mut words = public.split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) => Ok(format!("{address},{name} {kind} {key}\n")),
        _ => Err(Error::Spec {
            host: name.clone(),
            problem: "its public host key is not one; destroy it and make it again".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pair_is_made_once_and_a_half_is_made_whole() {
        if program::run("ssh-keygen", ["-?"]).is_err_and(|e| matches!(e, Error::Io { .. })) {
            eprintln!("SKIPPED: no ssh-keygen on this machine");
            assert!(
                std::env::var_os("CI").is_none(),
                "ssh-keygen is where CI is"
            );
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = identity(&dir.path().join("ssh"));
        ensure_key(&path, "test").expect("made");
        let first = public_key(&path).expect("read");
        assert!(
            first.starts_with("ssh-ed25519 ") && first.ends_with(" test"),
            "{first}"
        );
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        ensure_key(&path, "test").expect("kept");
        assert_eq!(public_key(&path).expect("read"), first);
        std::fs::remove_file(path.with_extension("pub")).expect("removed");
        ensure_key(&path, "test").expect("made again");
        assert_ne!(public_key(&path).expect("read"), first);
    }

    #[test]
    fn host_keys_are_pinned_by_address_and_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = known_hosts(dir.path());
        let name: HostName = "cp-1".parse().expect("a name");
        let address = Ipv4Addr::new(172, 30, 7, 11);
        pin(
            &file,
            &[(
                name.clone(),
                address,
                "ssh-ed25519 AAAA root@cp-1\n".to_owned(),
            )],
        )
        .expect("written");
        assert_eq!(
            std::fs::read_to_string(&file).expect("read"),
            "172.30.7.11,cp-1 ssh-ed25519 AAAA\n"
        );
        assert!(pin(&file, &[(name, address, String::new())]).is_err());
    }

    #[test]
    fn the_client_is_strict() {
        let access = SshAccess {
            address: Ipv4Addr::new(172, 30, 7, 11),
            port: 22,
            user: "root".to_owned(),
            identity_file: "/k".into(),
            known_hosts: "/h".into(),
        };
        let expect = "-i /k -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
            -o UserKnownHostsFile=/h -o GlobalKnownHostsFile=/dev/null -p 22 root@172.30.7.11";
        assert_eq!(access.arguments().join(" "), expect);
    }
}
