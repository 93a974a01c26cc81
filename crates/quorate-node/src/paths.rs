//! Where everything lies on a host. All of it hangs off one root, so that a test has a machine of its own in a temporary folder.

use std::path::{Path, PathBuf};

/// The places of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// This machine.
    pub fn host() -> Self {
        Self::below("/")
    }

    /// Everything below `root`, as if that were a machine.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether this is the machine itself: only then does its kernel tell about it.
    pub fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The place of an absolute path of the machine.
    pub fn at(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let path = absolute.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What Quorate keeps over boots: binaries, bundles, the fence, marks.
    pub fn state(&self, name: &str) -> PathBuf {
        self.at("/var/lib/quorate").join(name)
    }

    /// What lasts until the next boot, in memory: locks and files with secrets. Mode 0700.
    pub fn run(&self, name: &str) -> PathBuf {
        self.at("/run/quorate").join(name)
    }

    /// Binaries of ours by hash.
    pub fn binaries(&self) -> PathBuf {
        self.state("bin")
    }

    /// A bundle by its ID.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.state("bundles").join(id)
    }

    /// Below `/etc/kubernetes`.
    pub fn kubernetes(&self, name: &str) -> PathBuf {
        self.at("/etc/kubernetes").join(name)
    }

    /// Below `/etc/kubernetes/pki`.
    pub fn pki(&self, name: &str) -> PathBuf {
        self.at("/etc/kubernetes/pki").join(name)
    }

    /// A static pod's manifest by its name without `.yaml`.
    pub fn manifest(&self, name: &str) -> PathBuf {
        self.at("/etc/kubernetes/manifests")
            .join(format!("{name}.yaml"))
    }

    /// A systemd unit or drop-in of the administrator's, which wins over a package's.
    pub fn unit(&self, name: &str) -> PathBuf {
        self.at("/etc/systemd/system").join(name)
    }

    /// The balancer's configuration.
    pub fn balancer(&self) -> PathBuf {
        self.at("/etc/quorate/lb.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_stays_below_the_root() {
        let paths = Paths::below("/tmp/x");
        assert_eq!(paths.at("/etc/hosts"), Path::new("/tmp/x/etc/hosts"));
        assert_eq!(
            paths.pki("etcd/ca.crt"),
            Path::new("/tmp/x/etc/kubernetes/pki/etcd/ca.crt")
        );
        assert_eq!(Paths::host().at("/proc/1"), Path::new("/proc/1"));
    }
}
