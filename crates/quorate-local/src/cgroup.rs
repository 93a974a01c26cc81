//! A host's cgroups: what makes its processes findable, limited, freezable and gone. Begin at [`Cgroups`], then
//! [`HostCgroup`].
//!
//! Every hierarchy of the machine gets `quorate-local/CLUSTER/HOST`, and everything a host runs is in there, because
//! its launcher enters before it starts anything and a host sees its own cgroup as the root. So who belongs to a
//! host is asked of the kernel, never of a remembered process number.
//!
//! With cgroup v1 the host's cgroup holds the launcher and the host side by side. With v2 a cgroup that passes
//! controllers on may not hold processes, hence `launcher` and `machine` below it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{During, Error, Result};
use crate::names::{ClusterKey, HostName};
use crate::store;

/// The directory of ours in every hierarchy.
const OURS: &str = "quorate-local";

/// How long frozen may mean freezing.
const SETTLE: Duration = Duration::from_secs(5);

/// How often making a cgroup is tried again when another cluster's removal got in between; once is seldom.
const TRIES: usize = 20;

/// Controllers passed on to hosts with cgroup v2, where the machine has them.
const PASSED_ON: [&str; 6] = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"];

/// Which interface the machine's cgroups have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// One mounted hierarchy and what it controls (`name=systemd` for that one, nothing for a bare v2).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    controls: Vec<String>,
}

/// The machine's cgroups.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    version: Version,
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Reads which hierarchies are mounted at `/sys/fs/cgroup`.
    pub(crate) fn of_this_machine() -> Result<Cgroups> {
        let table = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(table).during("read", table)?;
        Cgroups::in_mounts(&text).map_err(|why| Error::NoCgroups { why })
    }

    fn in_mounts(mountinfo: &str) -> Result<Cgroups, String> {
        let top = Path::new("/sys/fs/cgroup");
        let mut mounts = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let (Some(at), mut after) = (before.split(' ').nth(4), after.split(' ')) else {
                continue;
            };
            let (kind, options) = (
                after.next().unwrap_or_default(),
                after.nth(1).unwrap_or_default(),
            );
            mounts.push((PathBuf::from(at), kind.to_owned(), options.to_owned()));
        }
        // The last mount at a place is the one seen there.
        let seen = |at: &Path| mounts.iter().rev().find(|(mount, ..)| mount == at);
        if seen(top).is_some_and(|(_, kind, _)| kind == "cgroup2") {
            let hierarchies = vec![Hierarchy {
                mount: top.to_owned(),
                controls: Vec::new(),
            }];
            return Ok(Cgroups {
                version: Version::V2,
                hierarchies,
            });
        }
        let below: BTreeSet<_> = mounts
            .iter()
            .map(|(at, ..)| at)
            .filter(|at| at.parent() == Some(top))
            .collect();
        let mut hierarchies = Vec::new();
        for at in below {
            let Some((_, kind, options)) = seen(at) else {
                continue;
            };
            if kind == "cgroup" || kind == "cgroup2" {
                let controls = options
                    .split(',')
                    .filter(|o| !["rw", "ro", "xattr"].contains(o))
                    .map(str::to_owned);
                hierarchies.push(Hierarchy {
                    mount: at.clone(),
                    controls: controls.collect(),
                });
            }
        }
        let cgroups = Cgroups {
            version: Version::V1,
            hierarchies,
        };
        match ["freezer", "pids"]
            .into_iter()
            .find(|&needed| cgroups.controlling(needed).is_none())
        {
            None => Ok(cgroups),
            Some(missing) => Err(format!(
                "neither cgroup2 nor a v1 hierarchy with the controller `{missing}` is mounted there"
            )),
        }
    }

    fn controlling(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|h| h.controls.iter().any(|c| c == controller))
    }

    /// The cgroup of a host, whether it exists or not.
    pub(crate) fn host(&self, cluster: &ClusterKey, host: &HostName) -> HostCgroup {
        let path = PathBuf::from(OURS)
            .join(cluster.as_str())
            .join(host.as_str());
        HostCgroup {
            cgroups: self.clone(),
            host: host.clone(),
            path,
        }
    }

    /// The hosts that have a cgroup below the cluster's, running or left over.
    pub(crate) fn hosts(&self, cluster: &ClusterKey) -> Result<BTreeSet<HostName>> {
        let mut found = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mount.join(OURS).join(cluster.as_str());
            found.extend(
                store::entries(&dir)?
                    .iter()
                    .filter(|n| dir.join(n).is_dir())
                    .filter_map(|n| n.parse().ok()),
            );
        }
        Ok(found)
    }

    /// Removes the cluster's cgroup, and ours when it was the last; hosts' must be gone.
    pub(crate) fn remove_cluster(&self, cluster: &ClusterKey) -> Result<()> {
        for hierarchy in &self.hierarchies {
            for dir in [
                hierarchy.mount.join(OURS).join(cluster.as_str()),
                hierarchy.mount.join(OURS),
            ] {
                match fs::remove_dir(&dir) {
                    Err(err)
                        if [ErrorKind::NotFound, ErrorKind::ResourceBusy].contains(&err.kind()) => {
                    }
                    other => other.during("remove", &dir)?,
                }
            }
        }
        Ok(())
    }

    /// With cgroup v2: the controllers the machine has and does not pass on from its root, which hosts need.
    /// `None` with v1.
    pub(crate) fn not_passed_on(&self) -> Result<Option<(PathBuf, Vec<String>)>> {
        if self.version == Version::V1 {
            return Ok(None);
        }
        let root = &self.hierarchies[0].mount;
        let have = words(&root.join("cgroup.controllers"))?;
        let control = root.join("cgroup.subtree_control");
        let passed = words(&control)?;
        let wanted = PASSED_ON
            .iter()
            .filter(|c| have.iter().any(|h| h == *c) && !passed.iter().any(|p| p == *c));
        Ok(Some((control, wanted.map(|c| c.to_string()).collect())))
    }
}

/// The cgroups of one host, in every hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct HostCgroup {
    cgroups: Cgroups,
    host: HostName,
    path: PathBuf,
}

impl HostCgroup {
    fn dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.cgroups
            .hierarchies
            .iter()
            .map(|h| h.mount.join(&self.path))
    }

    /// The directory whose processes are the host's. Any hierarchy would do; the freezer is never missing.
    fn tracking(&self) -> PathBuf {
        let hierarchy = match self.cgroups.version {
            Version::V1 => self
                .cgroups
                .controlling("freezer")
                .expect("checked when the hierarchies were read"),
            Version::V2 => &self.cgroups.hierarchies[0],
        };
        hierarchy.mount.join(&self.path)
    }

    /// Every process of the host, the launcher among them; empty when it is off.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        let mut open = vec![self.tracking()];
        while let Some(dir) = open.pop() {
            // A cgroup can vanish while we look at it, and reading a threaded one is refused: neither holds processes.
            let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) else {
                continue;
            };
            found.extend(
                text.lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    .filter(|&pid| pid > 0),
            );
            if let Ok(children) = store::entries(&dir) {
                open.extend(
                    children
                        .into_iter()
                        .map(|name| dir.join(name))
                        .filter(|path| path.is_dir()),
                );
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Whether a process belongs to the host, by what the kernel says of the process.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        lists(&text, &format!("/{}", self.path.display()))
    }

    /// Makes the cgroups and sets the limits. They must not exist: what a killed host left behind slows down the
    /// next one, so [`remove`](HostCgroup::remove) comes first.
    pub(crate) fn create(&self, cpu_millis: Option<u32>, memory_bytes: Option<u64>) -> Result<()> {
        let make = || {
            self.make()
                .and_then(|()| self.limit(cpu_millis, memory_bytes))
        };
        // The last host of another cluster can take the directory of all clusters away between two steps.
        for _ in 0..TRIES {
            match make() {
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
        }
        make()
    }

    fn make(&self) -> Result<()> {
        for hierarchy in &self.cgroups.hierarchies {
            let mut dir = hierarchy.mount.clone();
            for part in self.path.components() {
                if self.cgroups.version == Version::V2 {
                    pass_on(&dir)?;
                }
                let above = dir.clone();
                dir.push(part);
                directory(&dir)?;
                if hierarchy.controls.iter().any(|c| c == "cpuset") {
                    inherit_cpuset(&above, &dir)?;
                }
            }
            if self.cgroups.version == Version::V2 {
                pass_on(&dir)?;
                directory(&dir.join("launcher"))?;
                directory(&dir.join("machine"))?;
            }
        }
        Ok(())
    }

    fn limit(&self, cpu_millis: Option<u32>, memory_bytes: Option<u64>) -> Result<()> {
        // 100 ms is the kernel's default period: a thousandth of a processor is 100 µs of it.
        let quota = cpu_millis.map(|millis| u64::from(millis) * 100);
        let (cpu, memory) = match self.cgroups.version {
            Version::V1 => {
                let dir = |c| {
                    self.cgroups
                        .controlling(c)
                        .map(|h| h.mount.join(&self.path))
                };
                let quota = quota.map(|quota| (dir("cpu"), "cpu.cfs_quota_us", quota.to_string()));
                (
                    quota,
                    memory_bytes
                        .map(|bytes| (dir("memory"), "memory.limit_in_bytes", bytes.to_string())),
                )
            }
            Version::V2 => {
                let dir = Some(self.tracking());
                let quota = quota.map(|quota| (dir.clone(), "cpu.max", format!("{quota} 100000")));
                (
                    quota,
                    memory_bytes.map(|bytes| (dir, "memory.max", bytes.to_string())),
                )
            }
        };
        for (dir, file, value) in [cpu, memory].into_iter().flatten() {
            let dir = dir.ok_or_else(|| Error::NoCgroups {
                why: format!("no hierarchy has `{file}`, which a limit of this host needs"),
            })?;
            let file = dir.join(file);
            fs::write(&file, value).during("set the limit", &file)?;
        }
        Ok(())
    }

    /// The files by which the launcher enters. The hierarchy that is asked who belongs to the host comes first: a
    /// launcher that is in any is found.
    pub(crate) fn launcher_entries(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<_> = self.dirs().collect();
        let tracking = self.tracking();
        dirs.sort_by_key(|dir| *dir != tracking);
        let dirs = dirs.into_iter();
        dirs.map(|dir| self.inner(dir, "launcher").join("cgroup.procs"))
            .collect()
    }

    /// The files by which the host itself enters, when that is another place.
    pub(crate) fn machine_entries(&self) -> Vec<PathBuf> {
        match self.cgroups.version {
            Version::V1 => Vec::new(),
            Version::V2 => self
                .dirs()
                .map(|dir| dir.join("machine/cgroup.procs"))
                .collect(),
        }
    }

    /// The directories below which a host leaves cgroups behind when it reboots by itself.
    pub(crate) fn swept_on_reboot(&self) -> Vec<PathBuf> {
        self.dirs().map(|dir| self.inner(dir, "machine")).collect()
    }

    fn inner(&self, dir: PathBuf, name: &str) -> PathBuf {
        match self.cgroups.version {
            Version::V1 => dir,
            Version::V2 => dir.join(name),
        }
    }

    /// Whether the kernel keeps the host's processes from running, or is about to.
    pub(crate) fn frozen(&self) -> Result<bool> {
        let (file, yes): (_, &[&str]) = match self.cgroups.version {
            Version::V1 => ("freezer.state", &["FROZEN", "FREEZING"]),
            Version::V2 => ("cgroup.freeze", &["1"]),
        };
        let state = store::read_optional(&self.tracking().join(file))?.unwrap_or_default();
        Ok(yes.contains(&state.trim()))
    }

    /// Stops all processes where they are, and waits until every one has stopped.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.set_frozen(true)?;
        // The kernel tells of the change only with v2; so both are looked at, often.
        let settled = until(SETTLE, || {
            let dir = self.tracking();
            Ok(match self.cgroups.version {
                Version::V1 => {
                    store::read_optional(&dir.join("freezer.state"))?
                        .unwrap_or_default()
                        .trim()
                        == "FROZEN"
                }
                Version::V2 => words(&dir.join("cgroup.events"))?
                    .windows(2)
                    .any(|pair| pair == ["frozen", "1"]),
            })
        })?;
        match settled {
            true => Ok(()),
            false => {
                self.set_frozen(false)?;
                let what = "processes that cannot be stopped (thawed again)".to_owned();
                Err(Error::Lingering {
                    host: self.host.clone(),
                    what,
                    waited: SETTLE,
                })
            }
        }
    }

    /// Lets all processes go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let (file, value) = match (self.cgroups.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        let file = self.tracking().join(file);
        match fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|mut f| std::io::Write::write_all(&mut f, value.as_bytes()))
        {
            Err(err) if err.kind() == ErrorKind::NotFound && !frozen => Ok(()),
            other => other.during("write", &file),
        }
    }

    /// Removes the cgroups with all below them; whether they are gone. A process keeps its cgroup, and one that has
    /// just died keeps it busy for a moment.
    pub(crate) fn remove(&self) -> bool {
        // All of them, whichever fails: then nothing new can enter every hierarchy.
        let kept = self.dirs().filter(|dir| !remove_below(dir)).count();
        kept == 0
    }
}

/// Makes one cgroup in one that exists.
fn directory(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.during("create", dir),
    }
}

/// Whether the text of a `/proc/PID/cgroup` puts the process at `path` or below it.
fn lists(text: &str, path: &str) -> bool {
    let at = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut inside = at.filter_map(|at| at.find(path).map(|start| &at[start + path.len()..]));
    inside.any(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn words(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).during("read", file)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Passes every controller that arrives in `dir` on to what is below it.
fn pass_on(dir: &Path) -> Result<()> {
    let control = dir.join("cgroup.subtree_control");
    let (have, passed) = (words(&dir.join("cgroup.controllers"))?, words(&control)?);
    let missing = have
        .iter()
        .filter(|c| PASSED_ON.contains(&c.as_str()) && !passed.contains(c));
    let text: Vec<_> = missing.map(|c| format!("+{c}")).collect();
    match text.is_empty() {
        true => Ok(()),
        false => fs::write(&control, text.join(" ")).during("pass controllers on in", &control),
    }
}

/// A v1 cpuset is born without processors or memory, and nothing can be moved into it until it has some.
fn inherit_cpuset(above: &Path, dir: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (above.join(name), dir.join(name));
        if fs::read_to_string(&to)
            .during("read", &to)?
            .trim()
            .is_empty()
        {
            let value = fs::read_to_string(&from).during("read", &from)?;
            fs::write(&to, value.trim()).during("write", &to)?;
        }
    }
    Ok(())
}

/// Removes a cgroup and all below; whether it is gone.
fn remove_below(dir: &Path) -> bool {
    for name in store::entries(dir).unwrap_or_default() {
        let child = dir.join(name);
        if child.is_dir() {
            remove_below(&child);
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(err) => err.kind() == ErrorKind::NotFound,
    }
}

/// Looks every 5 ms whether it is so, for what the kernel does not tell of. `false` when the time is over.
pub(crate) fn until(within: Duration, mut so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = Instant::now();
    loop {
        if so()? {
            return Ok(true);
        }
        if start.elapsed() >= within {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
        20 1 0:19 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        21 20 0:20 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        22 20 0:21 / /sys/fs/cgroup/freezer rw shared:1 - cgroup cgroup rw,freezer\n\
        23 20 0:22 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        24 20 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        25 20 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        26 1 0:24 / /mnt/other rw - cgroup cgroup rw,memory\n";

    #[test]
    fn v1_hierarchies_are_taken_from_the_mounts() {
        let cgroups = Cgroups::in_mounts(V1).expect("v1");
        assert_eq!(cgroups.version, Version::V1);
        let seen: Vec<_> = cgroups
            .hierarchies
            .iter()
            .map(|h| (h.mount.to_str(), h.controls.join("+")))
            .collect();
        let expect = [
            (Some("/sys/fs/cgroup/cpu,cpuacct"), "cpu+cpuacct".to_owned()),
            (Some("/sys/fs/cgroup/freezer"), "freezer".to_owned()),
            (Some("/sys/fs/cgroup/pids"), "pids".to_owned()),
            (Some("/sys/fs/cgroup/systemd"), "name=systemd".to_owned()),
            (Some("/sys/fs/cgroup/unified"), String::new()),
        ];
        assert_eq!(seen, expect);
    }

    #[test]
    fn what_is_mounted_last_counts() {
        let text = format!("{V1}30 20 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(Cgroups::in_mounts(&text).expect("v2").version, Version::V2);
    }

    #[test]
    fn without_a_freezer_there_are_no_hosts() {
        let text: String = V1
            .lines()
            .filter(|l| !l.contains("freezer"))
            .map(|l| format!("{l}\n"))
            .collect();
        let err = Cgroups::in_mounts(&text).expect_err("no freezer");
        assert_eq!(
            err,
            "neither cgroup2 nor a v1 hierarchy with the controller `freezer` is mounted there"
        );
    }

    #[test]
    fn a_process_belongs_to_a_host_by_its_whole_name() {
        let path = "/quorate-local/one-00000000/cp-1";
        assert!(lists("3:pids:/quorate-local/one-00000000/cp-1\n", path));
        assert!(lists(
            "0::/quorate-local/one-00000000/cp-1/machine/payload/init.scope\n",
            path
        ));
        assert!(lists("0::/user/quorate-local/one-00000000/cp-1\n", path));
        assert!(!lists("3:pids:/quorate-local/one-00000000/cp-11\n", path));
        assert!(!lists("3:pids:/\n0::/\n", path));
    }

    #[test]
    fn v2_has_a_place_for_the_launcher_and_one_for_the_host() {
        let v2 = Cgroups::in_mounts("30 20 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
            .expect("v2");
        let host = v2.host(
            &"one-00000000".parse().expect("a key"),
            &"cp-1".parse().expect("a name"),
        );
        let at = |part: &str| {
            vec![PathBuf::from(format!(
                "/sys/fs/cgroup/quorate-local/one-00000000/cp-1/{part}"
            ))]
        };
        assert_eq!(host.launcher_entries(), at("launcher/cgroup.procs"));
        assert_eq!(host.machine_entries(), at("machine/cgroup.procs"));
        assert_eq!(host.swept_on_reboot(), at("machine"));
        let v1 = Cgroups::in_mounts(V1).expect("v1").host(
            &"one-00000000".parse().expect("a key"),
            &"cp-1".parse().expect("a name"),
        );
        assert_eq!(v1.launcher_entries().len(), 5);
        let first =
            Path::new("/sys/fs/cgroup/freezer/quorate-local/one-00000000/cp-1/cgroup.procs");
        assert_eq!(v1.launcher_entries()[0], first);
        assert!(v1.machine_entries().is_empty());
    }
}
