//! Each master in turn boots with an emptied etcd directory: cut off from its peers, and with them in reach. It must start no etcd, take no
//! part in etcd, and get no traffic: kubeadm's manifest of a founder still says that it founds a cluster, and an etcd that started there
//! would be a new, empty, healthy looking one. With its data back the master is as before.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::{Api, members},
    stage::{Stage, said, tail},
};

const NAME: &str = "live-guard";
const SUBNET: &str = "172.31.64.0/24";
const MASTERS: [&str; 3] = ["cp-1", "cp-2", "cp-3"];

/// How long the guard may take to be seen refusing twice: the kubelet is tried again every ten seconds.
const REFUSED_MAX: Duration = Duration::from_secs(90);

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let file = stage.local_cluster(NAME, SUBNET, 3, 0)?;
    stage.succeed(&["apply", "--yes", "-f", &file])?;
    let hosts = Bare::open(NAME)?;
    let api = Api::of(stage, &file, None)?;
    api.whole(stage, &hosts, &MASTERS, &[])?;
    let guard = Guard { file, hosts, api };
    for master in MASTERS {
        guard.empties(stage, master)?;
    }
    guard.api.whole(stage, &guard.hosts, &MASTERS, &[])
}

struct Guard {
    file: String,
    hosts: Bare,
    api: Api,
}

impl Guard {
    fn empties(&self, stage: &mut Stage, master: &str) -> Result<()> {
        let other = MASTERS
            .into_iter()
            .find(|other| *other != master)
            .context("there are others")?;
        let before = members(&self.hosts, other)?;
        let disk = Disk::of(&self.hosts, master)?;
        self.hosts.power_off(master)?;
        disk.empty()?;
        // Also after a failure: what is looked at next should be about what happens next.
        let seen = self
            .alone(stage, master)
            .and_then(|()| self.among_peers(stage, master, other, &before));
        self.hosts.power_off(master)?;
        disk.restore()?;
        self.hosts.mend()?;
        self.hosts.power_on(master)?;
        seen?;
        healthy(stage, &self.file, Duration::from_secs(180))?;
        stage.check_eq(
            &format!("{master} is the member that it was"),
            &members(&self.hosts, other)?,
            &before,
        );
        Ok(())
    }

    fn alone(&self, stage: &mut Stage, master: &str) -> Result<()> {
        self.hosts.isolate(master)?;
        self.hosts.power_on(master)?;
        self.refuses(stage, master, "alone");
        self.hosts.mend()?;
        Ok(())
    }

    /// The guard said no, twice, and nothing listens.
    fn refuses(&self, stage: &mut Stage, master: &str, how: &str) {
        let what = format!("{master}, {how}");
        stage.wait(
            &format!("{what}: the kubelet is kept from starting, and kept again"),
            REFUSED_MAX,
            |_| {
                let refused = "test $(journalctl -b -u kubelet -o cat | grep -c 'holds no write-ahead log: not starting') -ge 2";
                self.hosts.holds(master, refused)
            },
        );
        for (about, condition) in [
            ("no etcd runs", "! pgrep -x etcd"),
            ("no apiserver runs", "! pgrep -x kube-apiserver"),
            (
                "nobody listens on etcd's ports and the API's",
                "! ss -Hltn | grep -qE ':(2379|2380|6443) '",
            ),
            (
                "nothing was written where the data was",
                "test -z \"$(ls -A /var/lib/etcd)\"",
            ),
        ] {
            stage.check(
                &format!("{what}: {about}"),
                self.hosts.holds(master, condition),
            );
        }
    }

    fn among_peers(
        &self,
        stage: &mut Stage,
        master: &str,
        other: &str,
        before: &std::collections::BTreeSet<crate::judge::Member>,
    ) -> Result<()> {
        self.hosts.power_off(master)?;
        self.hosts.power_on(master)?;
        self.refuses(stage, master, "with its peers in reach");
        stage.check_eq(
            &format!("{master}: its peers have the members they had"),
            &members(&self.hosts, other)?,
            before,
        );
        let address = self.hosts.address(master)?.to_string();
        stage.wait(
            &format!("{master}: it is none of the `kubernetes` service's addresses"),
            Duration::from_secs(60),
            |stage| {
                self.api
                    .serving(stage)
                    .is_ok_and(|all| !all.contains(&address))
            },
        );
        let backend = self.backend(master)?;
        stage.check(
            &format!("{master}: the balancer sends it nothing (it is {backend})"),
            backend != "up",
        );
        let status = stage.quorate(&["status", "-f", &self.file])?;
        stage.check_eq(
            &format!("{master}: `quorate status` says degraded"),
            &status.status.code(),
            &Some(10),
        );
        let refused = stage.quorate(&["apply", "--yes", "-f", &self.file])?;
        stage.check_eq(
            &format!("{master}: `quorate apply` refuses"),
            &refused.status.code(),
            &Some(3),
        );
        let text = said(&refused);
        stage.check(
            &format!("{master}: and says why"),
            text.contains("data-lost") && text.contains(&format!("{master} was member")),
        );
        if !text.contains("data-lost") {
            stage.say(&tail(&text, 20));
        }
        Ok(())
    }

    /// What the balancer thinks of a backend, asked on its own host.
    fn backend(&self, master: &str) -> Result<String> {
        let status = self.hosts.run(
            "lb-1",
            "$(readlink /proc/$(pgrep -o ^quorate-)/exe) lb status -o json",
        )?;
        let status: Value =
            serde_json::from_str(&status).context("the balancer tells its status")?;
        let backends = status["backends"].as_array().context("it has backends")?;
        let backend = backends
            .iter()
            .find(|backend| backend["name"] == master)
            .with_context(|| format!("{master} is one of them"))?;
        Ok(backend["state"].as_str().unwrap_or_default().to_owned())
    }
}

/// etcd's data on the disk of a host that is off.
struct Disk {
    data: PathBuf,
    aside: PathBuf,
}

impl Disk {
    fn of(hosts: &Bare, host: &str) -> Result<Self> {
        let folder = hosts.disk(host)?.join("var/lib");
        Ok(Self {
            data: folder.join("etcd"),
            aside: folder.join("etcd.aside"),
        })
    }

    fn empty(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::rename(&self.data, &self.aside).context("failed to move etcd's data aside")?;
        fs::create_dir(&self.data)?;
        Ok(fs::set_permissions(
            &self.data,
            fs::Permissions::from_mode(0o700),
        )?)
    }

    fn restore(&self) -> Result<()> {
        fs::remove_dir_all(&self.data)?;
        fs::rename(&self.aside, &self.data).context("failed to move etcd's data back")
    }
}
