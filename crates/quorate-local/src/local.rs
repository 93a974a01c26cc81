//! The way in: [`Local`] is a state directory and all clusters in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::base::{self, Base, BaseProgress};
use crate::cgroup::Cgroups;
use crate::cluster::{Cluster, blocking};
use crate::cuts;
use crate::error::{During, Error, Result};
use crate::home::{Home, Record, cluster_dir, cluster_lock};
use crate::machine::network::{self, Owner};
use crate::machine::registry::{Claim, Registry, Wish};
use crate::machine::settings::{self, Change};
use crate::names::{ClusterKey, ClusterName};
use crate::openings;
use crate::requirements;
use crate::spec::{ClusterSpec, check_path};
use crate::status::HostStatus;
use crate::store::{self, Lock};
use crate::{ssh, subnet::Subnet};

/// The state directory unless another is asked for.
pub const DEFAULT_DIR: &str = "/var/lib/quorate/local";

/// The environment variable that names another state directory.
pub const DIR_VARIABLE: &str = "QUORATE_LOCAL_DIR";

/// The environment variable that names a finished base image, to be used instead of one in the state directory.
pub const BASE_VARIABLE: &str = "QUORATE_LOCAL_BASE";

/// The environment variable that names the Debian mirror a base image is made from.
pub const MIRROR_VARIABLE: &str = "QUORATE_LOCAL_MIRROR";

/// A state directory and the clusters in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    root: PathBuf,
    base: Option<PathBuf>,
    mirror: Option<String>,
}

/// What a destroy did beyond the cluster itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destroyed {
    /// Whether there was anything of that cluster.
    pub existed: bool,
    /// Settings of the machine put back to what they were before the first cluster; none while others remain.
    pub restored: Vec<Change>,
    /// Settings left alone, because somebody has changed them since and their value is no longer ours.
    pub left: Vec<Change>,
}

impl Local {
    /// The state directory `root`, or the one [`DIR_VARIABLE`] names, or [`DEFAULT_DIR`]; with the base image and the
    /// mirror the environment names. Nothing is made yet.
    ///
    /// # Errors
    /// [`Error::Path`] for a path that is relative or holds characters `mount` reads as something else.
    pub fn from_env(root: Option<&Path>) -> Result<Local> {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = root
            .map(Path::to_owned)
            .or_else(|| named(DIR_VARIABLE).map(PathBuf::from));
        let mut local = Local::at(&root.unwrap_or_else(|| PathBuf::from(DEFAULT_DIR)))?;
        local.base = named(BASE_VARIABLE).map(PathBuf::from);
        local.mirror = named(MIRROR_VARIABLE).map(|value| value.to_string_lossy().into_owned());
        Ok(local)
    }

    /// The state directory `root`, whatever the environment says.
    ///
    /// # Errors
    /// As [`Local::from_env`].
    pub fn at(root: &Path) -> Result<Local> {
        check_path(root)?;
        Ok(Local {
            root: root.to_owned(),
            base: None,
            mirror: None,
        })
    }

    /// The same with a finished base image, as [`BASE_VARIABLE`] gives one.
    #[must_use]
    pub fn with_base(self, path: &Path) -> Local {
        Local {
            base: Some(path.to_owned()),
            ..self
        }
    }

    /// The state directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Refuses a machine that cannot have local hosts: without root, a program, or overlays.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::Missing`], [`Error::NoOverlay`], [`Error::NoCgroups`].
    pub fn check(&self) -> Result<()> {
        requirements::check(&self.root)?;
        Cgroups::of_this_machine().map(drop)
    }

    /// The base image, if it is there: [`Local::base`] would not have to make it.
    pub fn ready_base(&self) -> Option<Base> {
        let path = self
            .base
            .clone()
            .unwrap_or_else(|| self.root.join(format!("base-{}", base::id())));
        Base::at(&path).ok()
    }

    /// The base image; made when it is not there, which takes about two minutes, the network and 350 MB, once.
    /// `report` is called with the progress meanwhile, not at all when it is there.
    ///
    /// # Errors
    /// What [`Local::check`] refuses, [`Error::DiskTooSmall`], [`Error::Debootstrap`], [`Error::NotABase`].
    pub async fn base(
        &self,
        mut report: impl FnMut(BaseProgress) + Send + 'static,
    ) -> Result<Base> {
        let local = self.clone();
        blocking(move || {
            if let Some(path) = &local.base {
                check_path(path)?;
                return Base::at(path);
            }
            local.check()?;
            store::private_dir(&local.root)?;
            base::ensure(&local.root, local.mirror.as_deref(), &mut report)
        })
        .await
    }

    /// The changes [`Local::create`] would make to the machine outside of what is the cluster's own; empty when they
    /// are in force already. To be shown before.
    ///
    /// # Errors
    /// When the machine's settings cannot be read.
    pub async fn machine_changes(&self, spec: &ClusterSpec) -> Result<Vec<Change>> {
        let uplink = spec.uplink;
        blocking(move || settings::planned(uplink)).await
    }

    /// The changes in force on the machine for the sake of all its clusters, which the last destroy puts back.
    ///
    /// # Errors
    /// When the machine's registry cannot be read, as without root.
    pub async fn changes_in_force(&self) -> Result<Vec<Change>> {
        blocking(|| Ok(Registry::open()?.changes().to_vec())).await
    }

    /// Makes a cluster without hosts: its place on the machine, its bridge, its SSH key. One that exists and agrees
    /// with `spec` is opened. Broken off at any point, calling it again completes it and [`Local::destroy`] removes it.
    ///
    /// # Errors
    /// What [`Local::check`] refuses, [`Error::NameTaken`], [`Error::BridgeTaken`], [`Error::SubnetTaken`],
    /// [`Error::ClusterDiffers`].
    pub async fn create(&self, base: &Base, spec: &ClusterSpec) -> Result<Cluster> {
        let (local, base, spec) = (self.clone(), base.clone(), spec.clone());
        blocking(move || local.create_now(&base, &spec)).await
    }

    fn create_now(&self, base: &Base, spec: &ClusterSpec) -> Result<Cluster> {
        self.check()?;
        check_path(base.path())?;
        store::private_dir(&self.root)?;
        let _lock = Lock::exclusive(&cluster_lock(&self.root, &spec.name))?;
        let dir = cluster_dir(&self.root, &spec.name);
        let record = match self.record(&spec.name)? {
            Some(record) => {
                agree(spec, &record.bridge, record.subnet)?;
                if spec.uplink != record.uplink {
                    let what = format!(
                        "uplink ({}, not {})",
                        record.uplink.as_str(),
                        spec.uplink.as_str()
                    );
                    return Err(Error::ClusterDiffers {
                        name: spec.name.clone(),
                        what,
                    });
                }
                record
            }
            None => {
                let mut registry = Registry::open()?;
                // A claim without a record: a create or destroy that was broken off. What it made has its marks.
                let held = registry
                    .claim_of(&spec.name)
                    .filter(|claim| claim.root == self.root)
                    .cloned();
                if let Some(held) = &held {
                    agree(spec, &held.bridge, held.subnet)?;
                }
                let key =
                    held.map_or_else(|| ClusterKey::random(&spec.name), |held| Ok(held.key))?;
                let (bridge, subnet) = (spec.bridge.as_ref(), spec.subnet);
                let claim = registry.claim(&Wish {
                    name: &spec.name,
                    key: &key,
                    root: &self.root,
                    bridge,
                    subnet,
                })?;
                let Claim {
                    key,
                    bridge,
                    subnet,
                    ..
                } = claim;
                let base = base.path().to_owned();
                Record {
                    name: spec.name.clone(),
                    key,
                    subnet,
                    bridge,
                    uplink: spec.uplink,
                    base,
                }
            }
        };
        let home = Home {
            root: self.root.clone(),
            record,
        };
        store::private_dir(&dir.join("hosts"))?;
        store::private_dir(&home.ssh_dir())?;
        ssh::ensure_key(
            &ssh::identity(&home.ssh_dir()),
            &format!("quorate local cluster {}", spec.name),
        )?;
        store::write_json(&dir.join("cluster.json"), &home.record)?;
        home.sweep()?;
        home.ensure_network()?;
        Ok(Cluster::of(home))
    }

    fn record(&self, name: &ClusterName) -> Result<Option<Record>> {
        store::read_json(&cluster_dir(&self.root, name).join("cluster.json"))
    }

    /// A cluster made earlier, by whichever command.
    ///
    /// # Errors
    /// [`Error::NoSuchCluster`].
    pub fn open(&self, name: &ClusterName) -> Result<Cluster> {
        match self.record(name)? {
            Some(record) => Ok(Cluster::of(Home {
                root: self.root.clone(),
                record,
            })),
            None => Err(Error::NoSuchCluster {
                name: name.clone(),
                root: self.root.clone(),
            }),
        }
    }

    /// The clusters of this state directory, by name; those half made or half removed are not among them.
    ///
    /// # Errors
    /// When the directory cannot be read, as without root.
    pub fn clusters(&self) -> Result<Vec<ClusterName>> {
        let names = store::entries(&self.root.join("clusters"))?;
        let names = names
            .into_iter()
            .filter_map(|name| name.parse::<ClusterName>().ok());
        Ok(names
            .filter(|name| cluster_dir(&self.root, name).join("cluster.json").exists())
            .collect())
    }

    /// Clusters that were broken off while being made or removed: [`Local::destroy`] them, or create them again.
    ///
    /// # Errors
    /// When the state directory or the machine's registry cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<ClusterName>> {
        let local = self.clone();
        blocking(move || {
            let whole: BTreeSet<_> = local.clusters()?.into_iter().collect();
            let entries = store::entries(&local.root.join("clusters"))?;
            let mut seen: BTreeSet<ClusterName> = entries
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect();
            seen.extend(Registry::open()?.clusters_of(&local.root));
            Ok(seen.difference(&whole).cloned().collect())
        })
        .await
    }

    /// Every host of every cluster of this state directory, as seen now: by cluster, then by name.
    ///
    /// # Errors
    /// When state or machine cannot be read.
    pub async fn list(&self) -> Result<Vec<HostStatus>> {
        let local = self.clone();
        blocking(move || {
            let mut all = Vec::new();
            for name in local.clusters()? {
                if let Some(record) = local.record(&name)? {
                    all.extend(
                        Home {
                            root: local.root.clone(),
                            record,
                        }
                        .statuses()?,
                    );
                }
            }
            Ok(all)
        })
        .await
    }

    /// Removes a cluster with its hosts, their disks, its bridge, packet rules, cgroups and keys; with the last
    /// cluster of the machine, puts the machine's settings back. Also removes what is left of a half-made or
    /// half-removed one, so it can be called again after anything.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::Lingering`], [`Error::Mounted`], and what the system refuses. What was removed
    /// until then is gone; calling it again goes on.
    pub async fn destroy(&self, name: &ClusterName) -> Result<Destroyed> {
        let (local, name) = (self.clone(), name.clone());
        blocking(move || local.destroy_now(&name)).await
    }

    fn destroy_now(&self, name: &ClusterName) -> Result<Destroyed> {
        requirements::root()?;
        let _lock = Lock::exclusive(&cluster_lock(&self.root, name))?;
        let dir = cluster_dir(&self.root, name);
        let gone = dir.with_file_name(format!(".gone-{name}"));
        let claim = Registry::open()?
            .claim_of(name)
            .filter(|claim| claim.root == self.root)
            .cloned();
        // A record that cannot be read must not keep its cluster alive: the claim says as much.
        let home = match (self.record(name), &claim) {
            (Ok(Some(record)), _) => Some(Home {
                root: self.root.clone(),
                record,
            }),
            (Ok(None) | Err(_), Some(claim)) => Some(Home {
                root: self.root.clone(),
                record: stand_in(name, claim),
            }),
            (Ok(None), None) => None,
            (Err(err), None) => return Err(err),
        };
        let existed = home.is_some() || dir.exists() || gone.exists();
        if let Some(home) = &home {
            remove_from_machine(home, claim.as_ref())?;
        }
        store::remove_tree(&gone)?;
        if dir.exists() {
            std::fs::rename(&dir, &gone).during("move aside", &dir)?;
        }
        store::remove_tree(&gone)?;
        // Its place is given back last: until then it is known that something may be left.
        let restored = match claim {
            Some(_) => Registry::open()?.release(name)?,
            None => settings::Restored::default(),
        };
        Ok(Destroyed {
            existed,
            restored: restored.restored,
            left: restored.left,
        })
    }
}

/// Refuses when the specification asks for another place than the cluster has.
fn agree(spec: &ClusterSpec, bridge: &crate::names::BridgeName, subnet: Subnet) -> Result<()> {
    let differ = |what| {
        Err(Error::ClusterDiffers {
            name: spec.name.clone(),
            what,
        })
    };
    if let Some(wanted) = spec.subnet.filter(|&wanted| wanted != subnet) {
        return differ(format!("subnet ({subnet}, not {wanted})"));
    }
    match spec.bridge.as_ref().filter(|&wanted| wanted != bridge) {
        Some(wanted) => differ(format!("bridge ({bridge}, not {wanted})")),
        None => Ok(()),
    }
}

/// Enough of a record to remove its cluster.
fn stand_in(name: &ClusterName, claim: &Claim) -> Record {
    Record {
        name: name.clone(),
        key: claim.key.clone(),
        subnet: claim.subnet,
        bridge: claim.bridge.clone(),
        uplink: crate::spec::Uplink::None,
        base: PathBuf::new(),
    }
}

/// Ends the hosts and removes cgroups, packet rules and bridge, as far as they are this cluster's.
fn remove_from_machine(home: &Home, claim: Option<&Claim>) -> Result<()> {
    let Record { key, bridge, .. } = &home.record;
    let claimed = claim.is_some_and(|claim| claim.key == *key && claim.bridge == *bridge);
    let ours = match network::owner(bridge)? {
        Owner::Cluster(owner) => owner == *key,
        // Not made yet or removed already; or made and not yet marked. The claim says whose it was to be.
        Owner::Nobody | Owner::Unmarked => claimed,
    };
    let cgroups = Cgroups::of_this_machine()?;
    let mut hosts = cgroups.hosts(key)?;
    hosts.extend(
        store::entries(&home.dir().join("hosts"))?
            .iter()
            .filter_map(|name| name.parse().ok()),
    );
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| home.remove_host(host)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    if ours {
        cuts::remove_tables(bridge)?;
        openings::remove(bridge)?;
        if network::exists(bridge.as_str()) {
            network::remove_interface(bridge.as_str())?;
        }
    }
    cgroups.remove_cluster(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_a_plain_absolute_path() {
        assert!(Local::at(Path::new("/var/lib/x")).is_ok());
        assert!(matches!(Local::at(Path::new("x")), Err(Error::Path { .. })));
        assert!(matches!(
            Local::at(Path::new("/a:b")),
            Err(Error::Path { .. })
        ));
    }

    #[test]
    fn clusters_are_those_with_a_record() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let local = Local::at(dir.path()).expect("a path");
        assert!(local.clusters().expect("listed").is_empty());
        for name in ["b", "a", ".gone-c", "half"] {
            std::fs::create_dir_all(dir.path().join("clusters").join(name)).expect("created");
            if name != "half" {
                std::fs::write(
                    dir.path().join("clusters").join(name).join("cluster.json"),
                    "{}",
                )
                .expect("written");
            }
        }
        let names: Vec<_> = local
            .clusters()
            .expect("listed")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["a", "b"]);
        let missing = local.open(&"half".parse().expect("a name"));
        assert!(
            matches!(missing, Err(Error::NoSuchCluster { .. })),
            "{missing:?}"
        );
    }

    #[test]
    fn another_place_is_a_difference() {
        let mut spec = ClusterSpec::new("demo".parse().expect("a name"));
        let (bridge, subnet) = (
            "qr0".parse().expect("a name"),
            "172.30.7.0/24".parse().expect("a subnet"),
        );
        agree(&spec, &bridge, subnet).expect("left open");
        spec.subnet = Some("172.30.8.0/24".parse().expect("a subnet"));
        let err = agree(&spec, &bridge, subnet).expect_err("another");
        let expect = "cluster `demo` exists with another subnet (172.30.7.0/24, not 172.30.8.0/24); \
                      destroy it first or choose another name";
        assert_eq!(err.to_string(), expect);
    }
}
