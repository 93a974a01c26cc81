//! A cluster's place on the disk and what is done there to its hosts, blocking. [`Cluster`](crate::Cluster) is the
//! same for the outside, without blocking. Begin at [`Home::create_host`] and [`Home::power_on`].
//!
//! Every effect can be the last one before this program is killed: what is made in several steps is made under a
//! name that nothing reads (`.new-…`) and renamed, what is removed is renamed first (`.gone-…`), and each function
//! can be called again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::cgroup::{Cgroups, HostCgroup};
use crate::cuts::{self, Cut, Side};
use crate::error::{During, Error, Result};
use crate::launch::{self, Launch};
use crate::machine::network::{self, Owner};
use crate::machine::registry::{Claim, Registry};
use crate::names::{BridgeName, ClusterKey, ClusterName, HostName};
use crate::openings::{self, Opening};
use crate::spec::{HostSpec, Uplink, data_dir_name};
use crate::ssh::{self, SshAccess};
use crate::status::{HostStatus, Power};
use crate::store::{self, Lock};
use crate::subnet::Subnet;
use crate::{prepare, process, requirements};

/// What is remembered of a cluster, in its `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: ClusterName,
    pub(crate) key: ClusterKey,
    pub(crate) subnet: Subnet,
    pub(crate) bridge: BridgeName,
    pub(crate) uplink: Uplink,
    /// The directory of the base image its hosts lie on.
    pub(crate) base: PathBuf,
}

/// A cluster's place.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    /// The state directory.
    pub(crate) root: PathBuf,
    pub(crate) record: Record,
}

/// The directory of a cluster in a state directory.
pub(crate) fn cluster_dir(root: &Path, name: &ClusterName) -> PathBuf {
    root.join("clusters").join(name.as_str())
}

/// The lock of a cluster: alone to make and remove hosts, shared to use them.
pub(crate) fn cluster_lock(root: &Path, name: &ClusterName) -> PathBuf {
    root.join("locks").join(format!("{name}.cluster"))
}

impl Home {
    pub(crate) fn dir(&self) -> PathBuf {
        cluster_dir(&self.root, &self.record.name)
    }

    pub(crate) fn ssh_dir(&self) -> PathBuf {
        self.dir().join("ssh")
    }

    fn hosts_dir(&self) -> PathBuf {
        self.dir().join("hosts")
    }

    pub(crate) fn host_dir(&self, host: &HostName) -> PathBuf {
        self.hosts_dir().join(host.as_str())
    }

    /// Keeps every other command away from the cluster.
    fn lock(&self) -> Result<Lock> {
        let lock = Lock::exclusive(&cluster_lock(&self.root, &self.record.name))?;
        self.still_there().map(|()| lock)
    }

    /// Keeps the cluster from being removed, and other commands away from this host.
    fn lock_host(&self, host: &HostName) -> Result<(Lock, Lock)> {
        let shared = Lock::shared(&cluster_lock(&self.root, &self.record.name))?;
        let file = format!("{}.host.{host}", self.record.name);
        let alone = Lock::exclusive(&self.root.join("locks").join(file))?;
        self.still_there().map(|()| (shared, alone))
    }

    /// Refuses when the cluster was destroyed since this handle was made, even if one of its name was made again.
    fn still_there(&self) -> Result<()> {
        let name = &self.record.name;
        let known = store::read_json::<Record>(&self.dir().join("cluster.json"))?;
        match known.is_some_and(|known| known.key == self.record.key) {
            true => Ok(()),
            false => Err(Error::NoSuchCluster {
                name: name.clone(),
                root: self.root.clone(),
            }),
        }
    }

    fn claim(&self) -> Claim {
        let Record {
            key,
            subnet,
            bridge,
            ..
        } = &self.record;
        Claim {
            key: key.clone(),
            bridge: bridge.clone(),
            subnet: *subnet,
            root: self.root.clone(),
        }
    }

    fn cgroup(&self, host: &HostName) -> Result<HostCgroup> {
        Ok(Cgroups::of_this_machine()?.host(&self.record.key, host))
    }

    /// The hosts that exist, by name.
    pub(crate) fn hosts(&self) -> Result<Vec<HostSpec>> {
        let names = store::entries(&self.hosts_dir())?
            .into_iter()
            .filter_map(|name| name.parse::<HostName>().ok());
        let specs: Result<Vec<_>> = names
            .map(|name| store::read_json(&self.host_dir(&name).join("host.json")))
            .collect();
        // One without the file is being removed at this moment.
        Ok(specs?.into_iter().flatten().collect())
    }

    /// A host's specification.
    pub(crate) fn spec(&self, host: &HostName) -> Result<HostSpec> {
        store::read_json(&self.host_dir(host).join("host.json"))?.ok_or_else(|| Error::NoSuchHost {
            host: host.clone(),
            cluster: self.record.name.clone(),
        })
    }

    /// Whether the bridge is there and this cluster's. After a reboot of the machine another may have its name.
    pub(crate) fn owns_bridge(&self) -> Result<bool> {
        Ok(network::owner(&self.record.bridge)? == Owner::Cluster(self.record.key.clone()))
    }

    /// Makes the cluster's place on the machine what it should be: its claim, the machine's settings, its bridge and
    /// its packet rules. Does nothing when all that stands, as it does from the cluster's making to the next reboot.
    pub(crate) fn ensure_network(&self) -> Result<()> {
        let Record {
            name,
            key,
            subnet,
            bridge,
            uplink,
            ..
        } = &self.record;
        let mut registry = Registry::open()?;
        if registry.claim_of(name) == Some(&self.claim()) && network::is_up(bridge) {
            return Ok(());
        }
        registry.claim_again(name, &self.claim())?;
        registry.make_changes(*uplink)?;
        // The bridge last: while it is not up, all of this is done again.
        cuts::set_uplink(bridge, *subnet, *uplink)?;
        if let Some(known) = store::read_json::<Vec<Opening>>(&self.openings_file())? {
            openings::set(bridge, &known)?;
        }
        network::ensure_bridge(key, bridge, *subnet)
    }

    /// Makes a host, powered off. One that exists with the same specification is left as it is.
    pub(crate) fn create_host(&self, spec: &HostSpec) -> Result<()> {
        spec.check()?;
        let subnet = self.record.subnet;
        if !subnet.takes(spec.address) {
            return Err(Error::AddressOutside {
                address: spec.address,
                subnet,
            });
        }
        requirements::disk(&self.root, requirements::HOST_DISK, "make a host")?;
        let _locks = self.lock_host(&spec.name)?;
        if self.exists_already(spec)? {
            let _names = self.lock_names()?;
            return self.pin_keys();
        }
        let fresh = self.hosts_dir().join(format!(".new-{}", spec.name));
        store::remove_tree(&fresh)?;
        let upper = fresh.join("upper");
        ssh::ensure_key(
            &upper.join("etc/ssh/ssh_host_ed25519_key"),
            &format!("root@{}", spec.name),
        )?;
        let mut keys = vec![ssh::public_key(&ssh::identity(&self.ssh_dir()))?];
        keys.extend(spec.authorized_keys.iter().cloned());
        prepare::lay_out(&upper, spec, subnet, self.record.uplink, &keys)?;
        for dir in &spec.data_dirs {
            store::public_dir(&fresh.join("data").join(data_dir_name(dir)))?;
        }
        store::write_json(&fresh.join("host.json"), spec)?;
        let _names = self.lock_names()?;
        // Hosts are made side by side: the address may have gone to another meanwhile.
        self.exists_already(spec)?;
        let place = self.host_dir(&spec.name);
        // Left by a removal that was broken off after it had begun.
        store::remove_tree(&place)?;
        std::fs::rename(&fresh, &place).during("rename into place", &place)?;
        self.pin_keys()
    }

    /// Whether there is this very host; another with its name or its address is refused.
    fn exists_already(&self, spec: &HostSpec) -> Result<bool> {
        for known in self.hosts()? {
            if known.name == spec.name {
                return match known.difference(spec) {
                    None => Ok(true),
                    Some(what) => Err(Error::HostDiffers {
                        name: known.name,
                        what,
                    }),
                };
            }
            if known.address == spec.address {
                return Err(Error::AddressTaken {
                    address: spec.address,
                    by: known.name,
                });
            }
        }
        Ok(false)
    }

    /// Held while the set of hosts changes.
    fn lock_names(&self) -> Result<Lock> {
        let file = format!("{}.names", self.record.name);
        Lock::exclusive(&self.root.join("locks").join(file))
    }

    /// Writes `known_hosts` from the keys of the hosts that exist.
    fn pin_keys(&self) -> Result<()> {
        let mut pinned = Vec::new();
        for host in self.hosts()? {
            let key = self
                .host_dir(&host.name)
                .join("upper/etc/ssh/ssh_host_ed25519_key");
            pinned.push((host.name, host.address, ssh::public_key(&key)?));
        }
        ssh::pin(&ssh::known_hosts(&self.ssh_dir()), &pinned)
    }

    /// Removes what a broken-off create or destroy left.
    pub(crate) fn sweep(&self) -> Result<()> {
        for name in store::entries(&self.hosts_dir())?
            .iter()
            .filter(|n| n.starts_with(".new-") || n.starts_with(".gone-"))
        {
            store::remove_tree(&self.hosts_dir().join(name))?;
        }
        Ok(())
    }

    /// Powers a host on; one that runs already is left running.
    pub(crate) fn power_on(&self, host: &HostName) -> Result<()> {
        let _locks = self.lock_host(host)?;
        let spec = self.spec(host)?;
        let cgroup = self.cgroup(host)?;
        match power(&cgroup)? {
            Power::Running => return Ok(()),
            Power::Frozen => {
                return Err(Error::WrongPower {
                    host: host.clone(),
                    power: Power::Frozen,
                    expected: "off or running",
                });
            }
            Power::Off => {}
        }
        // A making that was killed right after the host was there has not pinned its key, and nobody makes a host that runs.
        {
            let _names = self.lock_names()?;
            self.pin_keys()?;
        }
        let base = Base::at(&self.record.base).map_err(|_| Error::BaseGone {
            path: self.record.base.clone(),
        })?;
        if let Some(available_bytes) = requirements::memory_available()?
            && available_bytes < requirements::HOST_MEMORY
        {
            let needed_bytes = requirements::HOST_MEMORY;
            return Err(Error::MemoryTooSmall {
                host: host.clone(),
                available_bytes,
                needed_bytes,
            });
        }
        // Again, as it may have gone since the host was made: with a layer, unmounted; with a bind, so named.
        spec.check()?;
        self.ensure_network()?;
        let dir = self.host_dir(host);
        prepare::modules_dir(&dir.join("upper"))?;
        process::clear(&cgroup, host)?;
        cgroup.create(spec.cpu_millis, spec.memory_bytes)?;
        let launch = Launch {
            host,
            dir: &dir,
            lower: spec.layers.iter().cloned().chain([base.rootfs()]).collect(),
            machine: self.record.bridge.machine(spec.address),
            bridge: self.record.bridge.as_str(),
            binds: binds(&dir, &spec),
            cgroup: &cgroup,
        };
        let started = launch::start(&launch);
        if started.is_err() {
            // The first failure says more than a second one from cleaning up after it.
            let _ = self.unplug(host, spec.address, &cgroup);
        }
        started
    }

    /// Powers a host off at once, without telling it; one that is off already has its leftovers removed.
    pub(crate) fn power_off(&self, host: &HostName) -> Result<()> {
        let _locks = self.lock_host(host)?;
        let spec = self.spec(host)?;
        self.unplug(host, spec.address, &self.cgroup(host)?)
    }

    fn unplug(
        &self,
        host: &HostName,
        address: std::net::Ipv4Addr,
        cgroup: &HostCgroup,
    ) -> Result<()> {
        process::clear(cgroup, host)?;
        let port = self.record.bridge.port(address);
        // It goes with the host's network, which the kernel takes down a moment later.
        if self.owns_bridge()? && network::exists(&port) {
            network::remove_interface(&port)?;
        }
        Ok(())
    }

    pub(crate) fn freeze(&self, host: &HostName) -> Result<()> {
        let _locks = self.lock_host(host)?;
        self.spec(host)?;
        let cgroup = self.cgroup(host)?;
        match power(&cgroup)? {
            Power::Off => Err(Error::WrongPower {
                host: host.clone(),
                power: Power::Off,
                expected: "running",
            }),
            Power::Running | Power::Frozen => cgroup.freeze(),
        }
    }

    pub(crate) fn thaw(&self, host: &HostName) -> Result<()> {
        let _locks = self.lock_host(host)?;
        self.spec(host)?;
        let cgroup = self.cgroup(host)?;
        match power(&cgroup)? {
            Power::Off => Err(Error::WrongPower {
                host: host.clone(),
                power: Power::Off,
                expected: "frozen",
            }),
            Power::Running | Power::Frozen => cgroup.thaw(),
        }
    }

    /// Removes a host and everything of it, also what is left of a half-removed one.
    pub(crate) fn destroy_host(&self, host: &HostName) -> Result<()> {
        let _lock = self.lock()?;
        self.remove_host(host)?;
        self.pin_keys()
    }

    /// As [`destroy_host`](Home::destroy_host), for those who hold the lock.
    pub(crate) fn remove_host(&self, host: &HostName) -> Result<()> {
        let cgroup = self.cgroup(host)?;
        process::clear(&cgroup, host)?;
        let dir = self.host_dir(host);
        if let Some(spec) = store::read_json::<HostSpec>(&dir.join("host.json"))? {
            self.unplug(host, spec.address, &cgroup)?;
            self.change_cuts(|cuts| cuts.retain(|cut| !cut.concerns(host)))?;
        }
        let gone = self.hosts_dir().join(format!(".gone-{host}"));
        store::remove_tree(&gone)?;
        if dir.exists() {
            std::fs::rename(&dir, &gone).during("move aside", &dir)?;
        }
        store::remove_tree(&gone)
    }

    fn lock_cuts(&self) -> Result<Lock> {
        Lock::exclusive(
            &self
                .root
                .join("locks")
                .join(format!("{}.cuts", self.record.name)),
        )
    }

    /// The cuts in force.
    pub(crate) fn cuts(&self) -> Result<BTreeSet<Cut>> {
        match self.owns_bridge()? {
            true => cuts::seen(&self.record.bridge),
            false => Ok(BTreeSet::new()),
        }
    }

    /// Puts cuts in force, besides those that are.
    pub(crate) fn cut(&self, more: &BTreeSet<Cut>) -> Result<()> {
        for side in more.iter().flat_map(|cut| [&cut.from, &cut.to]) {
            if let Side::Host(host) = side {
                self.spec(host)?;
            }
        }
        if !self.owns_bridge()? {
            self.ensure_network()?;
        }
        self.change_cuts(|cuts| cuts.extend(more.iter().cloned()))
    }

    /// Replaces the cuts in force by what `change` makes of them.
    pub(crate) fn change_cuts(&self, change: impl FnOnce(&mut BTreeSet<Cut>)) -> Result<()> {
        let _lock = self.lock_cuts()?;
        let before = self.cuts()?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let hosts = self.hosts()?;
        let ports: BTreeMap<_, _> = hosts
            .into_iter()
            .map(|h| (h.name, self.record.bridge.port(h.address)))
            .collect();
        cuts::set(&self.record.bridge, &ports, &after)
    }

    fn openings_file(&self) -> PathBuf {
        self.dir().join("openings.json")
    }

    /// Makes these the only connections that hosts can open to each other. Remembered, since the kernel forgets its rules when the machine
    /// reboots, and hosts are powered on again then by whoever comes.
    pub(crate) fn open_only(&self, openings: &[Opening]) -> Result<()> {
        let _lock = self.lock_cuts()?;
        store::write_json(&self.openings_file(), &openings)?;
        match self.owns_bridge()? {
            true => openings::set(&self.record.bridge, openings),
            false => Ok(()),
        }
    }

    /// What is seen of the hosts now.
    pub(crate) fn statuses(&self) -> Result<Vec<HostStatus>> {
        let cuts = self.cuts()?;
        self.hosts()?
            .into_iter()
            .map(|spec| self.status(spec, &cuts))
            .collect()
    }

    fn status(&self, spec: HostSpec, cuts: &BTreeSet<Cut>) -> Result<HostStatus> {
        let cgroup = self.cgroup(&spec.name)?;
        let init = process::init(&cgroup.processes()?).and_then(process::describe);
        Ok(HostStatus {
            cluster: self.record.name.clone(),
            power: power(&cgroup)?,
            init,
            cuts: cuts
                .iter()
                .filter(|cut| cut.concerns(&spec.name))
                .cloned()
                .collect(),
            name: spec.name,
            address: spec.address,
        })
    }

    /// Whether a host runs.
    pub(crate) fn power_of(&self, host: &HostName) -> Result<Power> {
        power(&self.cgroup(host)?)
    }

    /// The first process of a host that runs.
    pub(crate) fn init_of(&self, host: &HostName) -> Result<i32> {
        self.spec(host)?;
        let cgroup = self.cgroup(host)?;
        process::init(&cgroup.processes()?).ok_or(Error::WrongPower {
            host: host.clone(),
            power: power(&cgroup)?,
            expected: "running",
        })
    }

    pub(crate) fn access(&self, host: &HostName) -> Result<SshAccess> {
        let dir = self.ssh_dir();
        Ok(SshAccess {
            address: self.spec(host)?.address,
            port: 22,
            user: "root".to_owned(),
            identity_file: ssh::identity(&dir),
            known_hosts: ssh::known_hosts(&dir),
        })
    }

    /// The directory on the machine behind one of a host's data directories.
    pub(crate) fn data_dir(&self, host: &HostName, inside: &Path) -> Result<PathBuf> {
        match self.spec(host)?.data_dirs.iter().any(|dir| dir == inside) {
            true => Ok(self.host_dir(host).join("data").join(data_dir_name(inside))),
            false => Err(Error::Spec {
                host: host.clone(),
                problem: format!("{} is none of its data directories", inside.display()),
            }),
        }
    }
}

fn power(cgroup: &HostCgroup) -> Result<Power> {
    Ok(match (cgroup.processes()?.is_empty(), cgroup.frozen()?) {
        (true, _) => Power::Off,
        (false, true) => Power::Frozen,
        (false, false) => Power::Running,
    })
}

fn binds(dir: &Path, spec: &HostSpec) -> Vec<(String, bool)> {
    let pair = |from: &Path, to: &Path| format!("{}:{}", from.display(), to.display());
    let mut binds = Vec::new();
    // The kernel's log: some services follow it.
    if Path::new("/dev/kmsg").exists() {
        binds.push(("/dev/kmsg".to_owned(), true));
    }
    for inside in &spec.data_dirs {
        binds.push((
            pair(&dir.join("data").join(data_dir_name(inside)), inside),
            true,
        ));
    }
    binds.extend(
        spec.binds
            .iter()
            .map(|bind| (pair(&bind.machine, &bind.inside), bind.writable)),
    );
    binds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Bind;

    #[test]
    fn data_directories_and_binds_become_arguments() {
        let mut spec = HostSpec::new(
            "cp-1".parse().expect("a name"),
            std::net::Ipv4Addr::new(172, 30, 7, 11),
        );
        spec.data_dirs.push("/var/lib/containerd".into());
        spec.binds = vec![
            Bind::read_only("/srv/a", "/a"),
            Bind::writable("/srv/b", "/b"),
        ];
        let got: Vec<_> = binds(Path::new("/h"), &spec)
            .into_iter()
            .filter(|(b, _)| b != "/dev/kmsg")
            .collect();
        let expect = [
            (
                "/h/data/var-lib-containerd:/var/lib/containerd".to_owned(),
                true,
            ),
            ("/srv/a:/a".to_owned(), false),
            ("/srv/b:/b".to_owned(), true),
        ];
        assert_eq!(got, expect);
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let record = Record {
            name: "demo".parse().expect("a name"),
            key: "demo-0123abcd".parse().expect("a key"),
            subnet: "172.30.7.0/24".parse().expect("a subnet"),
            bridge: "qr0".parse().expect("a name"),
            uplink: Uplink::Nat,
            base: "/var/base".into(),
        };
        let text = serde_json::to_string(&record).expect("JSON");
        let expect = r#"{"name":"demo","key":"demo-0123abcd","subnet":"172.30.7.0/24","bridge":"qr0","uplink":"nat","base":"/var/base"}"#;
        assert_eq!(text, expect);
        assert_eq!(serde_json::from_str::<Record>(&text).expect("read"), record);
        assert!(serde_json::from_str::<Record>(&text.replace("qr0", "../x")).is_err());
    }
}
