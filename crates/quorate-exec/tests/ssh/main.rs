//! Hosts over a real `ssh` and a real `sshd` on the loopback, in a mount namespace of its own so that what is written to the "host" stays
//! out of this machine. Needs root and OpenSSH.
//!
//! This program is also the `quorate` binary of that host: started as `node serve` it answers like one, see `serve`.

mod serve;
mod sshd;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use quorate_exec::{
    Backups, Control, HostError, Hosts as _, Look, NodeBinary, SshAccess, SshHosts, SshSettings,
};
use quorate_plan::{
    Change, Claim, Fence, Handover, HostEnsure, NodeName, Observation, Operator, Request, Sealed,
    Seen, observation::HostReport,
};
use sha2::{Digest as _, Sha256};
use sshd::Sshd;

/// The cases, by name.
const CASES: &[(&str, fn())] = &[
    ("an_unknown_host_key_is_refused", || run(unknown_key)),
    ("a_changed_host_key_is_refused", || run(changed_key)),
    ("a_foreign_identity_is_not_let_in", || run(foreign_identity)),
    ("nobody_listens", || run(nobody_listens)),
    ("a_host_that_hangs_is_given_up", || run(hangs)),
    ("the_binary_is_brought_once", || run(brought_once)),
    ("a_binary_for_another_machine_is_not_written", || {
        run(other_machine)
    }),
    ("calls_are_answered", || run(calls)),
    ("a_lost_channel_is_unreachable_and_then_open_again", || {
        run(lost_channel)
    }),
    ("a_restarted_sshd_is_found_again", || run(restarted)),
    ("a_host_that_acts_still_reports", || run(acts_and_reports)),
    ("a_backup_is_here_once_it_is_whole", || run(backup)),
    ("a_bundle_goes_on_where_it_was_interrupted", || run(bundle)),
];

fn run<F: Future<Output = ()>>(case: impl FnOnce() -> F) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(case());
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["node", "serve"] {
        serve::serve();
        return;
    }
    if let [node, backup, to, recipient] = args.as_slice()
        && [node, backup, to] == ["node", "backup", "--to"]
    {
        serve::give_backup(recipient);
        return;
    }
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in CASES {
            println!("{name}: test");
        }
        return;
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let exact = args.iter().any(|arg| arg == "--exact");
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| {
                if exact {
                    name == filter.as_str()
                } else {
                    name.contains(filter.as_str())
                }
            })
    };
    if let Some(reason) = sshd::missing() {
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let mut failed = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| chosen(name)) {
        let begun = Instant::now();
        let end = std::panic::catch_unwind(case);
        let verdict = if end.is_ok() { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {verdict} ({} ms)",
            begun.elapsed().as_millis()
        );
        failed += u32::from(end.is_err());
    }
    if failed > 0 {
        println!("{failed} failed");
        std::process::exit(101);
    }
}

fn node() -> NodeName {
    "cp-1".parse().expect("a name")
}

/// An `sshd` and what is needed to reach it.
struct Rig {
    // Dropped first: it ends the shared connection while the server still runs.
    hosts: SshHosts,
    sshd: Sshd,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut SshAccess, &mut SshSettings)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("qx")
            .tempdir_in("/tmp")
            .expect("a directory");
        let sshd = Sshd::start(dir.path());
        let mut access = SshAccess {
            address: [127, 0, 0, 1].into(),
            port: sshd.port(),
            user: "root".into(),
            identity: Some(dir.path().join("identity")),
            sudo: false,
            known_hosts: vec![dir.path().join("known_hosts")],
            own_configuration: false,
        };
        let mut settings = SshSettings {
            control: Control::new(dir.path().join("c")),
            binary: NodeBinary::open(&own_program()).expect("this program"),
            bundle: None,
            backups: None,
            look: Look {
                cluster: "demo".parse().expect("a name"),
                endpoint: None,
                dns: None,
                etcd_device: None,
                conversion: None,
            },
            etcd_devices: BTreeMap::new(),
        };
        change(&mut access, &mut settings);
        let hosts = SshHosts::new(settings, BTreeMap::from([(node(), access)]))
            .expect("the directory is ours");
        Self { hosts, sshd, dir }
    }

    /// A path on the host.
    fn on_host(&self, path: &str) -> PathBuf {
        self.sshd.root().join(path.trim_start_matches('/'))
    }

    async fn report(&self) -> Seen<HostReport> {
        self.hosts.report(&node()).await
    }

    async fn ensure(&self, ensure: HostEnsure) -> (Result<usize, HostError>, Vec<String>) {
        self.ensure_with(ensure, Vec::new()).await
    }

    async fn ensure_with(
        &self,
        ensure: HostEnsure,
        sealed: Vec<Sealed>,
    ) -> (Result<usize, HostError>, Vec<String>) {
        let mut lines = Vec::new();
        let request = Request {
            fence: Fence(1),
            ensure,
            change: Some(Change::AddVoter { node: node() }),
            sealed,
            receipt: None,
            accepted: Default::default(),
            testimony: Observation::default(),
        };
        let end = self
            .hosts
            .ensure(&node(), request, &mut |line| lines.push(line))
            .await;
        (end.map(|outcome| outcome.changed.len()), lines)
    }

    async fn end(self) {
        self.hosts.close(true).await;
    }
}

fn own_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

fn why(seen: Seen<HostReport>) -> String {
    match seen {
        Seen::Known { .. } => panic!("expected that the host is not seen"),
        Seen::Unknown(missing) => missing.to_string(),
    }
}

#[track_caller]
fn known(seen: Seen<HostReport>) -> HostReport {
    match seen {
        Seen::Known { value, .. } => value,
        Seen::Unknown(missing) => panic!("{missing}"),
    }
}

async fn backup() {
    let step = || HostEnsure::BackupOffHost {
        node: quorate_plan::kubeadm::Peer {
            name: node(),
            address: [10, 0, 0, 1].into(),
        },
    };
    let folder = tempfile::tempdir().expect("a directory");
    let into = folder.path().join("made/for it");
    for (recipient, whole) in [("age1cut", false), ("age1whole", true)] {
        let rig = Rig::with(|_, settings| {
            settings.backups = Some(Backups {
                folder: into.clone(),
                recipients: std::sync::Arc::new(move || Ok(vec![recipient.to_owned()])),
            });
        });
        known(rig.report().await);
        let (end, lines) = rig.ensure(step()).await;
        let names = || -> Vec<String> {
            let entries = std::fs::read_dir(&into).expect("it was made");
            let names = entries.map(|entry| entry.expect("it can be read").file_name());
            names
                .map(|name| name.into_string().expect("UTF-8"))
                .collect()
        };
        let there: Vec<String> = names()
            .into_iter()
            .filter(|name| name.ends_with(".age"))
            .collect();
        if whole {
            // Answered by how many recipients and bytes the receipt has.
            assert_eq!(end.expect("made"), 1 + serve::BACKUP.len());
            let [name] = there.as_slice() else {
                panic!("{there:?}");
            };
            let file = into.join(name);
            assert_eq!(std::fs::read(&file).expect("there"), serve::BACKUP);
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| {
                let meta = std::fs::metadata(path).expect("there");
                meta.permissions().mode() & 0o777
            };
            assert_eq!((mode(&file), mode(&into)), (0o600, 0o700));
            assert_eq!(names().len(), 1, "nothing of the attempt before is left");
            assert!(lines.iter().any(|line| line.contains(name)), "{lines:?}");
        } else {
            let Err(HostError::Failed { error, .. }) = end else {
                panic!("{end:?}");
            };
            assert!(error.contains("the disk is broken"), "{error}");
            assert!(there.is_empty(), "{there:?}");
        }
        rig.end().await;
    }
}

async fn unknown_key() {
    let rig = Rig::with(|access, _| {
        std::fs::write(&access.known_hosts[0], "").expect("written");
    });
    let why = why(rig.report().await);
    assert!(
        why.contains("its host key is in none of") && why.contains("ssh-keygen -lf"),
        "{why}"
    );
    assert!(
        !rig.on_host("/var/lib/quorate").exists(),
        "nothing was written"
    );
    rig.end().await;
}

async fn changed_key() {
    let rig = Rig::with(|access, _| {
        let known = std::fs::read_to_string(&access.known_hosts[0]).expect("read");
        let other = sshd::new_key(&access.known_hosts[0].with_file_name("other"));
        let host = known.split_whitespace().next().expect("a host");
        std::fs::write(&access.known_hosts[0], format!("{host} {other}\n")).expect("written");
    });
    let why = why(rig.report().await);
    assert!(
        why.contains("its host key is not the one in") && why.contains("nothing was sent to it"),
        "{why}"
    );
    // For whoever wants to act it is an answer that waiting does not change.
    let claimed = rig.hosts.release(&node(), Fence(1)).await;
    assert!(
        matches!(claimed, Err(HostError::Failed { .. })),
        "{claimed:?}"
    );
    assert!(
        !rig.on_host("/var/lib/quorate").exists(),
        "nothing was written"
    );
    rig.end().await;
}

async fn foreign_identity() {
    let rig = Rig::with(|access, _| {
        let other = access.known_hosts[0].with_file_name("foreign");
        sshd::new_key(&other);
        access.identity = Some(other);
    });
    let why = why(rig.report().await);
    assert!(
        why.contains("it does not let root in") && why.contains("Permission denied (publickey)"),
        "{why}"
    );
    rig.end().await;
}

async fn nobody_listens() {
    let rig = Rig::with(|access, _| {
        // A port that was free a moment ago.
        access.port = sshd::free_port();
    });
    let why = why(rig.report().await);
    assert!(why.contains("nobody listens on its SSH port"), "{why}");
    let released = rig.hosts.release(&node(), Fence(1)).await;
    assert!(
        matches!(released, Err(HostError::Unreachable { .. })),
        "{released:?}"
    );
    rig.end().await;
}

async fn hangs() {
    let rig = Rig::new();
    rig.sshd.freeze();
    let begun = Instant::now();
    let why = why(rig.report().await);
    assert!(why.contains("it does not answer"), "{why}");
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    rig.end().await;
}

async fn brought_once() {
    let rig = Rig::new();
    let binary = NodeBinary::open(&own_program()).expect("this program");
    let there = rig.on_host(&format!("/var/lib/quorate/bin/quorate-{}", binary.hash()));
    assert!(!there.exists());
    for (node, end) in rig.hosts.connect().await {
        end.unwrap_or_else(|failure| panic!("{node}: {failure}"));
    }
    use std::os::unix::fs::MetadataExt as _;
    let first = std::fs::metadata(&there).expect("it was brought");
    assert_eq!(
        (first.len(), first.mode() & 0o7777),
        (binary.bytes(), 0o755)
    );
    rig.hosts.close(true).await;
    let cold = Instant::now();
    known(rig.report().await);
    let cold = cold.elapsed();
    rig.hosts.close(false).await;
    let warm = Instant::now();
    known(rig.report().await);
    let warm = warm.elapsed();
    let again = Instant::now();
    known(rig.report().await);
    println!(
        "  report: {} ms with a new connection, {} ms over a shared one, {} ms over an open channel",
        cold.as_millis(),
        warm.as_millis(),
        again.elapsed().as_millis()
    );
    let second = std::fs::metadata(&there).expect("it is there");
    assert_eq!(
        (first.ino(), first.mtime_nsec()),
        (second.ino(), second.mtime_nsec())
    );
    let names: Vec<_> = std::fs::read_dir(there.parent().expect("a directory"))
        .expect("read")
        .flatten()
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    rig.end().await;
}

async fn other_machine() {
    let rig = Rig::with(|access, settings| {
        // The same program, said to be for another processor.
        let other = access.known_hosts[0].with_file_name("arm");
        let mut bytes = std::fs::read(own_program()).expect("read");
        bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
        std::fs::write(&other, bytes).expect("written");
        settings.binary = NodeBinary::open(&other).expect("an ELF file");
    });
    let why = why(rig.report().await);
    assert!(
        why.contains(
            "it is a Linux x86_64 machine and the binary for it is built for Linux aarch64"
        ),
        "{why}"
    );
    assert!(
        !rig.on_host("/var/lib/quorate").exists(),
        "nothing was written"
    );
    rig.end().await;
}

fn claim(intent: quorate_plan::Intent) -> Claim {
    Claim {
        fence: Fence(7),
        operator: Operator {
            user: "u".into(),
            machine: "m".into(),
            pid: 1,
            run: "r".into(),
        },
        since: 0,
        intent,
    }
}

async fn calls() {
    let rig = Rig::new();
    let report = known(rig.report().await);
    assert!(report.facts.machine.get().is_err(), "a blank host");
    let claim = claim(serve::intent());
    let fencing = rig.hosts.claim(&node(), &claim).await.expect("claimed");
    assert_eq!((fencing.highest, fencing.claim), (Fence(7), Some(claim)));
    rig.hosts
        .release(&node(), Fence(7))
        .await
        .expect("released");
    // Nobody else holds that token.
    let error = rig
        .hosts
        .release(&node(), Fence(6))
        .await
        .expect_err("refused");
    assert!(matches!(error, HostError::Refused { .. }), "{error:?}");
    let recipient = rig.hosts.recipient(&node()).await.expect("a recipient");
    let what = Handover::CaSet { from: node() };
    let sealed = rig
        .hosts
        .seal(Fence(7), &what, &recipient)
        .await
        .expect("sealed");
    assert_eq!(sealed.0, format!("to {}", recipient.0));
    let (end, lines) = rig.ensure(HostEnsure::TokensGone {}).await;
    assert_eq!(end.expect("done"), 0);
    // What a host says is escaped before anybody sees it.
    assert_eq!(lines, ["halfway \\u{1b}[2J"]);
    let (end, _) = rig
        .ensure(HostEnsure::Bundle {
            id: "nowhere".into(),
        })
        .await;
    let error = end.expect_err("failed").to_string();
    assert_eq!(error, "cp-1: no bundle\\u{7} here");
    rig.end().await;
}

async fn lost_channel() {
    let rig = Rig::new();
    let begun = Instant::now();
    // The fake dies in the middle of this one.
    let (end, _) = rig.ensure(HostEnsure::Guarded {}).await;
    let error = end.expect_err("lost");
    assert!(matches!(error, HostError::Unreachable { .. }), "{error:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let (end, _) = rig.ensure(HostEnsure::TokensGone {}).await;
    assert!(end.is_ok(), "{end:?}");
    // Whoever stops waiting in the middle leaves no half-read answer behind.
    let waited = tokio::time::timeout(
        Duration::from_millis(300),
        rig.ensure(HostEnsure::Network {
            network: quorate_plan::step::Network::Manifest {
                digest: "slow".into(),
                text: String::new(),
            },
        }),
    )
    .await;
    assert!(waited.is_err(), "it takes two seconds there");
    let (end, lines) = rig.ensure(HostEnsure::TokensGone {}).await;
    assert!(end.is_ok() && lines.len() == 1, "{end:?} {lines:?}");
    rig.end().await;
}

async fn restarted() {
    let mut rig = Rig::new();
    known(rig.report().await);
    let (end, _) = rig.ensure(HostEnsure::TokensGone {}).await;
    assert!(end.is_ok(), "{end:?}");
    rig.hosts.recipient(&node()).await.expect("a recipient");
    rig.sshd.restart();
    // What was sealed to the session that is gone cannot be opened by another one: whoever runs this seals again.
    let sealed = vec![Sealed("sealed".into())];
    let (end, _) = rig.ensure_with(HostEnsure::TokensGone {}, sealed).await;
    let error = end.expect_err("the session is gone");
    assert!(matches!(error, HostError::Unreachable { .. }), "{error:?}");
    // Both channels were idle when they were cut.
    known(rig.report().await);
    let (end, _) = rig.ensure(HostEnsure::TokensGone {}).await;
    assert!(end.is_ok(), "{end:?}");
    rig.end().await;
}

async fn acts_and_reports() {
    let rig = Rig::new();
    known(rig.report().await);
    let slow = HostEnsure::Network {
        network: quorate_plan::step::Network::Manifest {
            digest: "slow".into(),
            text: String::new(),
        },
    };
    let begun = Instant::now();
    let look = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        known(rig.report().await);
        begun.elapsed()
    };
    let ((end, _), looked) = futures_util::future::join(rig.ensure(slow), look).await;
    assert!(end.is_ok(), "{end:?}");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(looked < Duration::from_secs(1), "{looked:?}");
    rig.end().await;
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn make_bundle(dir: &Path) -> String {
    let large = vec![7; 3 << 20];
    let files: BTreeMap<&str, &[u8]> = [
        ("bin/kubelet", large.as_slice()),
        ("bin/kubeadm", b"kubeadm"),
        ("images/etcd.tar", b"tar"),
    ]
    .into();
    let mut entries = Vec::new();
    for (path, bytes) in files {
        let full = dir.join(path);
        std::fs::create_dir_all(full.parent().expect("a directory")).expect("made");
        std::fs::write(&full, bytes).expect("written");
        entries.push(
            serde_json::json!({"path": path, "size": bytes.len(), "sha256": hex(bytes), "role": "binary"}),
        );
    }
    use std::os::unix::fs::PermissionsExt as _;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.join("bin/kubelet"), executable).expect("changed");
    let manifest = serde_json::json!({"format": 1, "files": entries}).to_string();
    std::fs::write(dir.join("manifest.json"), &manifest).expect("written");
    hex(manifest.as_bytes())
}

async fn bundle() {
    let rig = Rig::with(|_, settings| {
        let dir = settings.control.dir.with_file_name("bundle");
        settings.bundle = Some(dir);
    });
    let dir = rig.dir.path().join("bundle");
    let id = make_bundle(&dir);
    let deliver = || rig.ensure(HostEnsure::Bundle { id: id.clone() });
    let (end, _) = deliver().await;
    assert_eq!(end.expect("delivered"), 1);
    let there = rig.on_host(&format!("/var/lib/quorate/bundles/{id}.partial"));
    use std::os::unix::fs::MetadataExt as _;
    let look = |path: &str| {
        let metadata = std::fs::metadata(there.join(path)).expect(path);
        (metadata.ino(), metadata.len(), metadata.mode() & 0o777)
    };
    let kubelet = look("bin/kubelet");
    assert_eq!((kubelet.1, kubelet.2), (3 << 20, 0o755));
    assert_eq!(look("bin/kubeadm").2, 0o644);
    // One file is missing, one is damaged with the same length: both are sent again, the others are not.
    std::fs::remove_file(there.join("images/etcd.tar")).expect("removed");
    std::fs::write(there.join("bin/kubeadm"), "kubeadX").expect("written");
    let (end, _) = deliver().await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(look("bin/kubelet"), kubelet, "left alone");
    assert_eq!(
        std::fs::read_to_string(there.join("bin/kubeadm")).expect("read"),
        "kubeadm"
    );
    assert_eq!(look("images/etcd.tar").1, 3);
    // What the manifest does not say is not sent at all.
    std::fs::write(dir.join("bin/kubeadm"), "other").expect("written");
    let (end, _) = deliver().await;
    let error = end.expect_err("refused here").to_string();
    assert!(error.contains("not what the manifest says"), "{error}");
    rig.end().await;
}
