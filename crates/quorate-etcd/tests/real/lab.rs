//! Real etcd processes on loopback, each on an address of its own, with certificates as kubeadm makes them.
//!
//! Everything lives in a temporary folder and ends with the [`Lab`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quorate_etcd::{Client, EtcdError, Member, Timeouts, Tls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Long enough for a call on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(5);

/// The etcd binary, or `None` after saying that and why the test is skipped.
///
/// Looked for in `QUORATE_ETCD`, then as `target/bundle*/bin/etcd`. Its version must be 3.6: the rules tested are that version's.
///
/// # Panics
/// When there is none and CI=true.
pub fn etcd_binary() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let bundles = fs::read_dir(target).into_iter().flatten().flatten();
    let bundled = bundles
        .filter(|e| e.file_name().to_string_lossy().starts_with("bundle"))
        .map(|e| e.path().join("bin/etcd"));
    let candidates = std::env::var_os("QUORATE_ETCD")
        .map(PathBuf::from)
        .into_iter()
        .chain(bundled);
    let mut reason = "no etcd: set QUORATE_ETCD to an etcd 3.6 binary".to_owned();
    for path in candidates {
        match Command::new(&path).arg("--version").output() {
            Ok(output)
                if String::from_utf8_lossy(&output.stdout).starts_with("etcd Version: 3.6.") =>
            {
                return Some(path);
            }
            Ok(output) => {
                reason = format!(
                    "{} is not etcd 3.6: {:?}",
                    path.display(),
                    String::from_utf8_lossy(&output.stdout).lines().next()
                )
            }
            Err(err) => reason = format!("{} does not run: {err}", path.display()),
        }
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
    eprintln!("SKIPPED: {reason}");
    None
}

/// An authority that signs the members' and the clients' certificates.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let cert = params.self_signed(&key).expect("a certificate");
        Authority {
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate with its key for the names given, good for both sides, as etcd's peers need.
    fn issue(&self, names: Vec<String>) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("valid names");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        (cert.pem(), key.serialize_pem())
    }

    /// What a client that trusts this authority, and was signed by `signer`, connects with.
    pub fn client(&self, signer: &Authority) -> Tls {
        let (cert, key) = signer.issue(Vec::new());
        Tls {
            ca_pem: self.pem.clone().into_bytes(),
            cert_pem: cert.into_bytes(),
            key_pem: key.into_bytes(),
        }
    }
}

pub struct Lab {
    etcd: PathBuf,
    folder: tempfile::TempDir,
    pub authority: Authority,
    net: [u8; 3],
    processes: BTreeMap<u8, Child>,
}

static LABS: AtomicU8 = AtomicU8::new(0);

impl Lab {
    /// `None` when there is no etcd; the reason has been said.
    pub fn new() -> Option<Lab> {
        let etcd = etcd_binary()?;
        let authority = Authority::new("etcd-ca");
        let folder = tempfile::tempdir().expect("a temporary folder");
        // 127.<process>.<process>.<lab and member>: nobody else's ports, and nobody's ephemeral ones.
        let pid = std::process::id().to_be_bytes();
        let first = LABS.fetch_add(1, Ordering::Relaxed) * 8;
        let net = [64 | (pid[2] & 63), pid[3], first];
        let lab = Lab {
            etcd,
            folder,
            authority,
            net,
            processes: BTreeMap::new(),
        };
        let mut names: Vec<String> = (1..=6).map(|n| lab.ip(n).to_string()).collect();
        names.extend(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let (cert, key) = lab.authority.issue(names);
        fs::write(lab.path("ca.pem"), &lab.authority.pem).expect("written");
        fs::write(lab.path("cert.pem"), cert).expect("written");
        fs::write(lab.path("key.pem"), key).expect("written");
        Some(lab)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn etcd_folder(&self) -> &Path {
        self.etcd.parent().unwrap_or(Path::new("."))
    }

    pub fn ip(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net[0], self.net[1], self.net[2] + n)
    }

    pub fn peer_url(&self, n: u8) -> String {
        format!("https://{}:2380", self.ip(n))
    }

    pub fn client_url(&self, n: u8) -> String {
        format!("https://{}:2379", self.ip(n))
    }

    pub fn tls(&self) -> Tls {
        self.authority.client(&self.authority)
    }

    /// A client for member `n`.
    pub fn client(&self, n: u8) -> Client {
        Client::connect(&self.client_url(n), Some(&self.tls()), Timeouts::default())
            .expect("a usable endpoint")
    }

    pub fn initial_cluster(&self, members: &[u8]) -> String {
        members
            .iter()
            .map(|n| format!("m{n}={}", self.peer_url(*n)))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The flags of member `n`; `state` is `new` or `existing`, `members` are all of its cluster.
    pub fn flags(&self, n: u8, state: &str, members: &[u8]) -> Vec<String> {
        let (client, peer) = (self.client_url(n), self.peer_url(n));
        let file = |name: &str| self.path(name).display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
        [
            ("name", format!("m{n}")),
            ("data-dir", file(&format!("m{n}"))),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client),
            ("listen-peer-urls", peer.clone()),
            ("initial-advertise-peer-urls", peer),
            ("initial-cluster", self.initial_cluster(members)),
            ("initial-cluster-state", state.to_owned()),
            ("cert-file", cert.clone()),
            ("key-file", key.clone()),
            ("trusted-ca-file", ca.clone()),
            ("client-cert-auth", "true".to_owned()),
            ("peer-cert-file", cert),
            ("peer-key-file", key),
            ("peer-trusted-ca-file", ca),
            ("peer-client-cert-auth", "true".to_owned()),
            ("unsafe-no-fsync", "true".to_owned()),
            ("log-level", "warn".to_owned()),
        ]
        .map(|(name, value)| format!("--{name}={value}"))
        .into()
    }

    /// Starts member `n` with its [`Lab::flags`] and more.
    pub fn start(&mut self, n: u8, state: &str, members: &[u8], more: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("m{n}.log")))
            .expect("a log");
        let mut command = Command::new(&self.etcd);
        command
            .args(self.flags(n, state, members))
            .args(more)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: prctl is async-signal-safe. A test run that is killed must not leave an etcd behind.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
            });
        }
        self.processes
            .insert(n, command.spawn().expect("etcd starts"));
    }

    /// A new cluster of these members, once they agree on a leader.
    pub async fn found(&mut self, members: &[u8], more: &[&str]) {
        for n in members {
            self.start(*n, "new", members, more);
        }
        for n in members {
            self.ready(*n).await;
        }
    }

    /// Waits until member `n` knows a leader.
    pub async fn ready(&self, n: u8) {
        let client = self.client(n);
        eventually(
            Duration::from_secs(30),
            &format!("m{n} knows a leader"),
            || async { client.status(SOON).await.ok()?.leader.map(drop) },
        )
        .await;
    }

    pub fn signal(&self, n: u8, signal: Signal) {
        let pid = self.processes[&n].id();
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("our own child");
    }

    /// Ends member `n` abruptly.
    pub fn kill(&mut self, n: u8) {
        let mut child = self.processes.remove(&n).expect("it was started");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// Waits until member `n` ends by itself.
    pub async fn ended(&mut self, n: u8, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self
                .processes
                .get_mut(&n)
                .expect("it was started")
                .try_wait()
                .expect("our own child")
            {
                self.processes.remove(&n);
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "m{n} still runs after {within:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn log(&self, n: u8) -> String {
        fs::read_to_string(self.path(&format!("m{n}.log"))).unwrap_or_default()
    }

    /// Adds `n` as a learner by way of `via`, starts it among `members`, and promotes it as soon as etcd lets us.
    pub async fn join(&mut self, via: u8, n: u8, members: &[u8]) {
        let client = self.client(via);
        let url = self.peer_url(n);
        let added = eventually(Duration::from_secs(20), "a learner is accepted", || async {
            match client.member_add_learner(&url, SOON).await {
                Ok(member) => Some(member),
                Err(EtcdError::UnhealthyCluster) => None,
                Err(err) => panic!("adding m{n}: {err:?}"),
            }
        })
        .await;
        self.start(n, "existing", members, &[]);
        self.promote(via, &added).await;
    }

    pub async fn promote(&self, via: u8, member: &Member) {
        let client = self.client(via);
        eventually(
            Duration::from_secs(30),
            "the learner is promoted",
            || async {
                match client.member_promote(member.id, SOON).await {
                    Ok(_) => Some(()),
                    Err(EtcdError::LearnerNotReady) => None,
                    Err(err) => panic!("promoting {member:?}: {err:?}"),
                }
            },
        )
        .await;
    }

    /// Makes `n` the leader.
    pub async fn lead(&self, n: u8, members: &[u8]) {
        let target = self
            .client(n)
            .status(SOON)
            .await
            .expect("it runs")
            .member_id;
        eventually(Duration::from_secs(20), "leadership is moved", || async {
            let leader = self.leader(members).await;
            if leader == n {
                return Some(());
            }
            self.client(leader).move_leader(target, SOON).await.ok()
        })
        .await;
    }

    /// The member that leads, as all of `members` see it.
    pub async fn leader(&self, members: &[u8]) -> u8 {
        eventually(Duration::from_secs(20), "all agree on a leader", || async {
            let mut leader = None;
            let mut seen = BTreeMap::new();
            for n in members {
                let status = self.client(*n).status(SOON).await.ok()?;
                seen.insert(status.member_id, *n);
                if *leader.get_or_insert(status.leader?) != status.leader? {
                    return None;
                }
            }
            seen.get(&leader?).copied()
        })
        .await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (n, child) in &mut self.processes {
            // A stopped process dies of SIGKILL as well.
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let log = fs::read_to_string(self.folder.path().join(format!("m{n}.log")))
                    .unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- the end of m{n}'s log\n{}",
                    lines[lines.len().saturating_sub(12)..].join("\n")
                );
            }
        }
    }
}

/// Asks again every 20 ms until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    within: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {within:?} in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
