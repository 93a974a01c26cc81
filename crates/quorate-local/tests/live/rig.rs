//! What every live test stands on: a state directory of its own with the machine's base image, and a look at the
//! machine before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use quorate_local::{Base, Cluster, ClusterSpec, HostName, HostSpec, Local};

/// Settings of the machine that hosts may change, or that what runs in hosts would like to.
const SETTINGS: [&str; 6] = [
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "net.ipv4.ip_forward",
    "net.bridge.bridge-nf-call-iptables",
    "vm.overcommit_memory",
    "kernel.panic",
];

/// One live test at a time: they look at the whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// How long a host may take to boot on a machine that is busy with other things.
pub const BOOT: Duration = Duration::from_secs(60);

pub struct Rig {
    pub local: Local,
    /// Another user's state directory.
    pub elsewhere: Local,
    pub base: Base,
    before: Machine,
    // Dropped last, in this order.
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// The machine as far as hosts could touch it: facts by kind.
type Machine = BTreeMap<&'static str, BTreeSet<String>>;

impl Rig {
    /// `None` when this machine cannot have hosts, having said so; a failure where CI is.
    pub async fn new() -> Option<Rig> {
        let turn = ONE_AT_A_TIME.lock().await;
        let standard = Local::from_env(None).expect("a state directory");
        if let Err(err) = standard.check() {
            eprintln!("SKIPPED: {err}");
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "this machine has to have local hosts: {err}"
            );
            return None;
        }
        let base = standard
            .base(|p| eprintln!("base image: {}% {} {}", p.percent, p.phase.as_str(), p.item))
            .await;
        let base = base.expect("a base image");
        let dir = tempfile::Builder::new()
            .prefix("qr-live-")
            .tempdir()
            .expect("a temporary directory");
        let at = |name: &str| {
            Local::at(&dir.path().join(name))
                .expect("a path")
                .with_base(base.path())
        };
        let (local, elsewhere) = (at("here"), at("elsewhere"));
        let before = seen();
        Some(Rig {
            local,
            elsewhere,
            base,
            before,
            dir,
            _turn: turn,
        })
    }

    /// A cluster specification unlike those of other tests and users: its name says which test it is.
    pub fn spec(&self, name: &str) -> ClusterSpec {
        ClusterSpec::new(
            format!("live-{name}-{}", std::process::id())
                .parse()
                .expect("a name"),
        )
    }

    /// A cluster with these hosts running and greeting, made side by side.
    pub async fn cluster(&self, name: &str, hosts: u8) -> (Cluster, Vec<HostName>) {
        let cluster = self
            .local
            .create(&self.base, &self.spec(name))
            .await
            .expect("a cluster");
        let mut tasks = Vec::new();
        for n in 1..=hosts {
            let mut spec = HostSpec::new(host(&format!("cp-{n}")), cluster.subnet().host(10 + n));
            spec.data_dirs.push("/var/lib/containerd".into());
            let cluster = cluster.clone();
            tasks.push(tokio::spawn(async move {
                cluster.create_host(&spec).await.expect("a host");
                cluster.power_on(&spec.name).await.expect("power");
                cluster
                    .booted(&spec.name, BOOT)
                    .await
                    .expect("an answer by SSH");
                spec.name
            }));
        }
        let mut names = Vec::new();
        for task in tasks {
            names.push(task.await.expect("a host task"));
        }
        (cluster, names)
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Runs one test of this program again, in new namespaces and with a registry of its own, after `enter` has run
    /// there; `marker` is set in its environment. Fails when that test does.
    ///
    /// The settings all of the machine shares are meanwhile kept by a cluster in the machine's registry, so that the
    /// inner test finds them in force and leaves them alone.
    pub async fn again(&self, test: &str, marker: &str, flags: &[&str], enter: &str) {
        let holder = self
            .local
            .create(&self.base, &self.spec("holder"))
            .await
            .expect("a cluster");
        let script =
            format!("set -e\nmount -t tmpfs tmpfs /run/quorate-local\n{enter}\nexec \"$@\"");
        let inner = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(flags)
            .args(["sh", "-c", &script, "sh"])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture"])
            .env("SCRATCH", self.root())
            .env(marker, "1")
            .output()
            .expect("unshare");
        let (said, told) = (&inner.stdout, &inner.stderr);
        assert!(
            inner.status.success(),
            "{}\n{}\n{}",
            inner.status,
            String::from_utf8_lossy(said),
            String::from_utf8_lossy(told)
        );
        holder.destroy().await.expect("destroyed");
        self.assert_untouched();
    }

    /// Fails unless the machine is as it was.
    ///
    /// Where CI is, nobody else has hosts and everything has to be equal, but for mounts and cgroups without a name of ours: whoever runs CI
    /// makes and removes some of its own. Elsewhere others may come and go with hosts of their own: there, only what can be told to be a
    /// test's is compared.
    pub fn assert_untouched(&self) {
        let after = seen();
        let mut differences = Vec::new();
        for (kind, before) in &self.before {
            for fact in before
                .symmetric_difference(&after[kind])
                .filter(|fact| self.is_mine(kind, fact))
            {
                let when = if before.contains(fact) { "gone" } else { "new" };
                differences.push(format!("{when}: {kind}: {fact}"));
            }
        }
        assert!(
            differences.is_empty(),
            "the machine is not as it was:\n{}",
            differences.join("\n")
        );
    }

    fn is_mine(&self, kind: &str, fact: &str) -> bool {
        let ci = std::env::var("CI").as_deref() == Ok("true");
        match kind {
            _ if ci && kind != "mount" && kind != "cgroup" => true,
            // Those we change, while nobody else wants them changed.
            "setting" => fact.starts_with("fs.inotify") && !others_have_clusters(),
            _ => {
                let others = bridges_of_others();
                let named = |part: &str| {
                    part.contains("live-")
                        || numbered_bridge(part)
                        || (ci && part.contains("quorate"))
                };
                fact.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                    .any(|part| {
                        named(part) && !others.iter().any(|bridge| part.contains(bridge.as_str()))
                    })
            }
        }
    }
}

/// Whether a word names a bridge that a cluster has been given, or an interface or table of one.
fn numbered_bridge(word: &str) -> bool {
    let word = word.trim_start_matches("vb-");
    word.strip_prefix("qr")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

impl Drop for Rig {
    /// Whatever a failed test left, so that it disturbs nobody.
    fn drop(&mut self) {
        let places = [self.local.clone(), self.elsewhere.clone()];
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                for local in places {
                    let mut names = local.clusters().unwrap_or_default();
                    names.extend(local.unfinished().await.unwrap_or_default());
                    for name in names {
                        eprintln!("destroying what the test left: {name}");
                        if let Err(err) = local.destroy(&name).await {
                            eprintln!("not destroyed: {err}");
                        }
                    }
                }
            });
        });
        cleaning.join().expect("cleaning does not panic");
    }
}

fn seen() -> Machine {
    let lines = |text: String| {
        text.lines()
            .map(|line| line.trim().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let links = said("ip", &["-oneline", "link", "show"]);
    let links = links
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(str::to_owned);
    BTreeMap::from([
        ("mount", lines(mounts)),
        ("interface", links.collect()),
        ("packet rule", lines(said("nft", &["list", "ruleset"]))),
        (
            "route",
            lines(said("ip", &["-4", "route", "show", "table", "all"])),
        ),
        (
            "cgroup",
            lines(said("find", &["/sys/fs/cgroup", "-type", "d"])),
        ),
        (
            "process",
            processes(|cgroups| cgroups.contains("quorate-local/")),
        ),
        (
            "run",
            lines(said(
                "find",
                &["/run", "-path", "*nspawn*", "-o", "-path", "*quorate*json"],
            )),
        ),
        (
            "setting",
            SETTINGS
                .iter()
                .map(|name| format!("{name} = {}", setting(name)))
                .collect(),
        ),
    ])
}

/// Every process whose cgroups are such, by number, command and cgroup. One that has ended and whose end nobody has
/// asked for yet is none.
pub fn processes(such: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let dir = entry.path();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let (cgroups, status) = (read("cgroup"), read("status"));
        let ended =
            status.is_empty() || status.contains("State:\tZ") || status.contains("State:\tX");
        if !ended && such(&cgroups) {
            let last = cgroups.lines().last().unwrap_or_default();
            found.insert(format!("{} {} {last}", dir.display(), read("comm").trim()));
        }
    }
    found
}

pub fn setting(name: &str) -> String {
    let file = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(file)
        .map(|value| value.trim().to_owned())
        .unwrap_or_else(|_| "none".to_owned())
}

fn claims() -> serde_json::Value {
    let text = std::fs::read_to_string("/run/quorate-local/registry.json")
        .unwrap_or_else(|_| "{}".to_owned());
    serde_json::from_str::<serde_json::Value>(&text).expect("the registry is JSON")["claims"]
        .clone()
}

fn others() -> Vec<serde_json::Value> {
    let claims = claims();
    let claims = claims.as_object().into_iter().flatten();
    let others = claims.filter(|(_, claim)| {
        !claim["root"]
            .as_str()
            .unwrap_or_default()
            .contains("/qr-live-")
    });
    others.map(|(_, claim)| claim.clone()).collect()
}

pub fn others_have_clusters() -> bool {
    !others().is_empty()
}

fn bridges_of_others() -> Vec<String> {
    others()
        .iter()
        .filter_map(|claim| claim["bridge"].as_str().map(str::to_owned))
        .collect()
}

pub fn host(name: &str) -> HostName {
    name.parse().expect("a host name")
}

pub fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect(program);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command on a host by the machine's own SSH client.
pub fn ssh(
    cluster: &Cluster,
    host: &HostName,
    known_hosts: Option<&Path>,
    command: &str,
) -> Output {
    let mut access = cluster.ssh(host).expect("access");
    if let Some(other) = known_hosts {
        access.known_hosts = other.to_owned();
    }
    Command::new("ssh")
        .args(["-F", "none", "-o", "ConnectTimeout=5"])
        .args(access.arguments())
        .arg(command)
        .output()
        .expect("ssh")
}

/// Runs a shell command inside a host and returns what it printed.
pub async fn sh(cluster: &Cluster, host: &HostName, script: &str) -> String {
    let argv = ["sh", "-ec", script].map(str::to_owned);
    let entered = cluster.enter(host, &argv).await.expect("entered");
    let said = String::from_utf8_lossy(&entered.stdout).into_owned();
    assert!(
        entered.status.success(),
        "{script}: {said} {}",
        String::from_utf8_lossy(&entered.stderr)
    );
    said.trim().to_owned()
}

/// Whether a datagram from one host reaches another.
pub async fn reaches(cluster: &Cluster, from: &HostName, to: &HostName, word: &str) -> bool {
    let address: Ipv4Addr = cluster.spec(to).expect("a host").address;
    sh(
        cluster,
        from,
        &format!("echo {word} | socat -u - UDP4-SENDTO:{address}:9999"),
    )
    .await;
    // Delivery on one machine takes microseconds; what is not there after this long was dropped.
    for _ in 0..30 {
        if sh(cluster, to, "cat /tmp/heard")
            .await
            .lines()
            .any(|line| line == word)
        {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Lets a host write every datagram it gets into a file.
pub async fn listen(cluster: &Cluster, host: &HostName) {
    sh(cluster, host, "touch /tmp/heard; setsid -f socat -u UDP4-RECV:9999 OPEN:/tmp/heard,append >/dev/null 2>&1").await;
    for _ in 0..200 {
        if sh(cluster, host, "cat /proc/net/udp")
            .await
            .contains(":270F ")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody listens on {host}");
}
