//! With which servers the kubelet and kube-proxy began: each reads its kubeconfig once, when it starts. Start at [`look`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{connections::processes, pki};
use crate::{
    durable::{self, FileError},
    paths::Paths,
};

/// Ticks of a process's start in a second: the kernel tells user space no other number on this architecture.
const TICKS: f64 = 100.0;

/// By process: the servers of its kubeconfig, or `None` when that was changed after it began.
type Began = BTreeMap<String, Option<BTreeSet<String>>>;

/// Several processes of one name that disagree have begun with nothing that could be told.
pub(super) fn look(paths: &Paths) -> Result<Began, FileError> {
    let mut found = Began::new();
    for process in processes(paths)? {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let file: PathBuf = match name.trim_end() {
            "kubelet" => paths.kubernetes("kubelet.conf"),
            // Where kubeadm's DaemonSet mounts its ConfigMap: a folder that is made anew with each of its texts.
            "kube-proxy" => process.join("root/var/lib/kube-proxy/kubeconfig.conf"),
            _ => continue,
        };
        // What lies in a pod is what somebody put there.
        if !fs::metadata(&file).is_ok_and(|about| about.is_file()) {
            continue;
        }
        let Some(servers) = pki::servers(&file).ok().flatten() else {
            continue;
        };
        let before = matches!(
            (changed(&file), started(paths, &process)?),
            (Some(changed), Some(started)) if changed <= started
        );
        let servers = before.then_some(servers);
        found
            .entry(name.trim_end().to_owned())
            .and_modify(|other| {
                if *other != servers {
                    *other = None;
                }
            })
            .or_insert(servers);
    }
    Ok(found)
}

/// Since 1970. A file that is renamed into its place keeps the time of its last byte and gets this one.
fn changed(file: &Path) -> Option<Duration> {
    let about = fs::metadata(file).ok()?;
    let seconds = u64::try_from(about.ctime()).ok()?;
    Some(Duration::new(
        seconds,
        u32::try_from(about.ctime_nsec()).ok()?,
    ))
}

/// When a process started, since 1970, to a few hundredths of a second. `None`: it ended meanwhile.
fn started(paths: &Paths, process: &Path) -> Result<Option<Duration>, FileError> {
    let up = durable::read_text(&paths.at("/proc/uptime"))?.unwrap_or_default();
    let up: Option<f64> = up.split(' ').next().and_then(|word| word.parse().ok());
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Its name is in brackets, and may hold anything.
    let start = stat.rsplit_once(')').and_then(|(_, rest)| {
        let word = rest.split_whitespace().nth(19)?;
        word.parse::<f64>().ok()
    });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let (Some(up), Some(start), Ok(now)) = (up, start, now) else {
        return Ok(None);
    };
    let age = Duration::try_from_secs_f64((up - start / TICKS).max(0.0));
    Ok(age.ok().and_then(|age| now.checked_sub(age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const CONF: &str = "clusters:\n- name: a\n  cluster:\n    server: https://api.demo.internal:6443\nusers: null\n";

    /// A process that started so many seconds ago.
    fn process(machine: &testing::Machine, pid: u32, name: &str, ago: f64) {
        machine.write(&format!("/proc/{pid}/comm"), format!("{name}\n"));
        let before: String = (3..22).map(|_| " 0").collect();
        let start = ((10_000.0 - ago) * TICKS) as u64;
        let stat = format!("{pid} (a) b) S{} {start} 0 0\n", &before[2..]);
        machine.write(&format!("/proc/{pid}/stat"), stat);
    }

    #[test]
    fn whoever_began_before_the_change_has_not_read_it() {
        let machine = testing::machine();
        machine.write("/proc/uptime", "10000.00 5.00\n");
        machine.write("/etc/kubernetes/kubelet.conf", CONF);
        let mounted = "root/var/lib/kube-proxy/kubeconfig.conf";
        machine.write(&format!("/proc/8/{mounted}"), CONF);
        let server: BTreeSet<String> = ["https://api.demo.internal:6443".to_owned()].into();
        let began = || look(&machine.paths).unwrap();
        assert!(began().is_empty(), "nobody runs");
        // The files are of now.
        process(&machine, 7, "kubelet", 60.0);
        process(&machine, 8, "kube-proxy", -60.0);
        let seen = began();
        assert_eq!(seen["kubelet"], None);
        assert_eq!(seen["kube-proxy"], Some(server.clone()));
        process(&machine, 7, "kubelet", -60.0);
        assert_eq!(began()["kubelet"], Some(server));
        // One that ends while another begins.
        process(&machine, 9, "kube-proxy", -60.0);
        let old = CONF.replace("api.demo.internal", "10.0.0.11");
        machine.write(&format!("/proc/9/{mounted}"), old);
        assert_eq!(began()["kube-proxy"], None);
    }
}
