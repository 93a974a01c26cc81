//! An `sshd` of our own: on a free port of the loopback, with its own host key, in a mount namespace where `/var/lib` and `/run` are empty.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SSHD: &str = "/usr/sbin/sshd";

/// Why there cannot be one here.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("an sshd in a namespace of its own needs root".into());
    }
    for program in [
        SSHD,
        "/usr/bin/ssh",
        "/usr/bin/ssh-keygen",
        "/usr/bin/unshare",
    ] {
        if !Path::new(program).exists() {
            return Some(format!(
                "`{program}` is missing: install OpenSSH and util-linux"
            ));
        }
    }
    None
}

/// A port nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Makes a key pair and returns its public half: kind and key.
pub fn new_key(path: &Path) -> String {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .expect("ssh-keygen runs");
    assert!(made.success());
    let public = std::fs::read_to_string(path.with_extension("pub")).expect("the public half");
    let words: Vec<&str> = public.split_whitespace().take(2).collect();
    words.join(" ")
}

pub struct Sshd {
    child: Child,
    config: PathBuf,
    port: u16,
}

impl Sshd {
    /// Starts one with `identity` and `known_hosts` for it in `dir`.
    pub fn start(dir: &Path) -> Self {
        let host_key = new_key(&dir.join("host_key"));
        let identity = new_key(&dir.join("identity"));
        let port = free_port();
        std::fs::write(dir.join("authorized_keys"), format!("{identity}\n")).expect("written");
        std::fs::write(
            dir.join("known_hosts"),
            format!("[127.0.0.1]:{port} {host_key}\n"),
        )
        .expect("written");
        let config = dir.join("sshd_config");
        let place = dir.display();
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host_key\nAuthorizedKeysFile {place}/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\n"
        );
        std::fs::write(&config, text).expect("written");
        let mut sshd = Self {
            child: spawn(&config),
            config,
            port,
        };
        sshd.wait();
        sshd
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file tree it sees.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.child.id()))
    }

    /// Ends it with all its sessions and starts another one.
    pub fn restart(&mut self) {
        self.end();
        self.child = spawn(&self.config);
        self.wait();
    }

    /// Stops it where it is: connections are accepted by the kernel and never answered.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    fn signal(&self, signal: Signal) {
        // Our child is `unshare`; its only child is the server, the first process of its namespace.
        let parent = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
            .expect("our own child");
        let id: i32 = children.trim().parse().expect("one child");
        kill(Pid::from_raw(id), signal).expect("our own grandchild");
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "sshd ended: {ended:?}");
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "sshd does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first process of its namespace takes all its sessions with it, and `unshare` ends when it has.
    fn end(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("our own child");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn spawn(config: &Path) -> Child {
    let script = format!(
        "mount -t tmpfs -o size=256m tmpfs /var/lib && mount -t tmpfs -o size=16m tmpfs /run && mkdir /run/sshd && \
         exec {SSHD} -D -e -f {}",
        config.display()
    );
    // `--kill-child` and the process ID namespace: what runs in it ends with it.
    Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
        ])
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("unshare runs")
}
