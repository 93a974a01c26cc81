//! Local hosts by hand: Debian systems that nobody has done anything to yet, as hosts are that somebody has. They are entered through
//! their namespaces, so that what is seen of a host does not depend on its sshd, its network or Quorate. Start at [`Bare::make`].

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use quorate_local::{Cluster, ClusterSpec, HostName, HostSpec, Local, Opening, Transport};
use tokio::runtime::{self, Runtime};

use crate::stage::Stage;

/// How long a host may take to boot on a machine that is busy with other things.
const BOOT_MAX: Duration = Duration::from_secs(120);

/// Hosts of one cluster.
pub struct Bare {
    runtime: Runtime,
    cluster: Cluster,
}

impl Bare {
    /// Makes hosts with these names and last numbers of their addresses, and waits until they answer. They are destroyed in the end.
    pub fn make(stage: &mut Stage, name: &str, subnet: &str, hosts: &[(&str, u8)]) -> Result<Self> {
        stage.bare(name);
        let runtime = runtime()?;
        let cluster = runtime.block_on(async {
            let local = Local::from_env(None)?;
            let base = local.base(|_| {}).await?;
            let mut spec = ClusterSpec::new(name.parse()?);
            spec.subnet = Some(subnet.parse()?);
            anyhow::Ok(local.create(&base, &spec).await?)
        })?;
        let bare = Self { runtime, cluster };
        for (host, number) in hosts {
            bare.add(host, *number)?;
        }
        for (host, _) in hosts {
            bare.ready(host)?;
        }
        stage.say(&format!("{} bare hosts in {subnet}", hosts.len()));
        Ok(bare)
    }

    /// The hosts of a cluster that Quorate made.
    pub fn open(name: &str) -> Result<Self> {
        let cluster = Local::from_env(None)?.open(&name.parse()?)?;
        Ok(Self {
            runtime: runtime()?,
            cluster,
        })
    }

    /// Makes one more, and waits until it answers.
    pub fn grow(&self, host: &str, number: u8) -> Result<()> {
        self.add(host, number)?;
        self.ready(host)
    }

    /// Waits until a host answers, and tells its kubelet, as an owner does, what is particular of it: the disk below is the machine's, and
    /// how full that is in percent says nothing about what is left.
    fn ready(&self, host: &str) -> Result<()> {
        self.booted(host)?;
        self.run(
            host,
            "echo 'KUBELET_EXTRA_ARGS=--eviction-hard=imagefs.available<1Gi,memory.available<100Mi,nodefs.available<1Gi' \
             >/etc/default/kubelet",
        )?;
        Ok(())
    }

    fn add(&self, host: &str, number: u8) -> Result<()> {
        self.create(host, number)?;
        Ok(self.runtime.block_on(self.cluster.power_on(&name(host)?))?)
    }

    /// Makes one more, which stays off.
    pub fn create(&self, host: &str, number: u8) -> Result<()> {
        let mut spec = HostSpec::new(host.parse()?, self.cluster.subnet().host(number));
        // containerd's overlays cannot lie on the host's own overlay.
        spec.data_dirs.push("/var/lib/containerd".into());
        self.runtime.block_on(self.cluster.create_host(&spec))?;
        Ok(())
    }

    /// Waits until a host answers by SSH.
    pub fn booted(&self, host: &str) -> Result<()> {
        let host = name(host)?;
        self.runtime
            .block_on(self.cluster.booted(&host, BOOT_MAX))?;
        Ok(())
    }

    /// A host's address.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr> {
        Ok(self.cluster.spec(&name(host)?)?.address)
    }

    /// The key that lets root in.
    pub fn identity(&self, host: &str) -> Result<PathBuf> {
        Ok(self.cluster.ssh(&name(host)?)?.identity_file)
    }

    /// Runs a shell script inside a host, as root, and returns what it printed.
    pub fn run(&self, host: &str, script: &str) -> Result<String> {
        let argv = ["sh", "-ec", script].map(str::to_owned);
        let entered = self
            .runtime
            .block_on(self.cluster.enter(&name(host)?, &argv))
            .with_context(|| format!("`{script}` on {host}"))?;
        if !entered.status.success() {
            bail!(
                "`{script}` on {host} failed ({}): {}{}",
                entered.status,
                String::from_utf8_lossy(&entered.stdout),
                String::from_utf8_lossy(&entered.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&entered.stdout).into_owned())
    }

    /// Whether a shell condition holds inside a host. One that cannot be entered does not fulfil any.
    pub fn holds(&self, host: &str, condition: &str) -> bool {
        self.run(host, condition).is_ok()
    }

    /// The fingerprint of a host's key as the host itself tells it, over another way than the network.
    pub fn fingerprint(&self, host: &str) -> Result<String> {
        let said = self.run(host, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")?;
        let word = said.split_whitespace().nth(1);
        Ok(word.context("ssh-keygen tells a fingerprint")?.to_owned())
    }

    /// Pulls the plug.
    pub fn power_off(&self, host: &str) -> Result<()> {
        Ok(self
            .runtime
            .block_on(self.cluster.power_off(&name(host)?))?)
    }

    /// Powers on, and waits until the host answers from inside. It may be cut off from everybody.
    pub fn power_on(&self, host: &str) -> Result<()> {
        self.runtime.block_on(self.cluster.power_on(&name(host)?))?;
        let until = std::time::Instant::now() + BOOT_MAX;
        while !self.holds(host, "systemctl is-active --quiet multi-user.target") {
            if std::time::Instant::now() > until {
                bail!("{host} has not booted within {} s", BOOT_MAX.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Stops every process where it is.
    pub fn freeze(&self, host: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.freeze(&name(host)?))?)
    }

    /// Lets them go on.
    pub fn thaw(&self, host: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.thaw(&name(host)?))?)
    }

    /// No packet passes between this host and the others.
    pub fn isolate(&self, host: &str) -> Result<()> {
        let host = name(host)?;
        self.runtime.block_on(async {
            let cuts = self.cluster.isolation(&host, false).await?;
            Ok(self.cluster.cut(cuts).await?)
        })
    }

    /// No packet passes between this host and anybody, this machine included.
    pub fn cut_off(&self, host: &str) -> Result<()> {
        let host = name(host)?;
        self.runtime.block_on(async {
            let cuts = self.cluster.isolation(&host, true).await?;
            Ok(self.cluster.cut(cuts).await?)
        })
    }

    /// Every host may open connections to every other, whatever its role in the cluster file.
    pub fn open_all(&self) -> Result<()> {
        self.runtime.block_on(async {
            let hosts = self.cluster.hosts().await?;
            let all: std::collections::BTreeSet<Ipv4Addr> =
                hosts.iter().map(|host| host.address).collect();
            let openings = [Transport::Tcp, Transport::Udp].map(|transport| Opening {
                from: all.clone(),
                to: all.clone(),
                transport,
                first: 1,
                last: u16::MAX,
            });
            Ok(self.cluster.open_only(&openings).await?)
        })
    }

    /// Every cut ends.
    pub fn mend(&self) -> Result<()> {
        Ok(self.runtime.block_on(self.cluster.mend_all())?)
    }

    /// Where this machine keeps what a host has written. To be changed only while the host is off.
    pub fn disk(&self, host: &str) -> Result<PathBuf> {
        Ok(self.cluster.upper_dir(&name(host)?)?)
    }
}

fn name(host: &str) -> Result<HostName> {
    Ok(host.parse()?)
}

fn runtime() -> Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("failed to start a runtime")
}
