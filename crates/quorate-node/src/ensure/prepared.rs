//! The host carries the cluster's mark, kernel settings and managed lines of `/etc/hosts`.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::IpAddr};

use quorate_plan::{observation::HostMark, refusal::Refusal};

use super::{TOOL_WITHIN, Work};
use crate::{
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    facts::{
        self,
        machine::{SYSCTL_FILE, parse_sysctls, sysctl, sysctl_path},
    },
    hosts_file,
    paths::Paths,
};

/// Kernel modules that are loaded at boot because a setting lives in them.
const MODULES_FILE: &str = "/etc/modules-load.d/90-quorate.conf";

pub(super) async fn ensure(
    work: &Work<'_>,
    mark: &HostMark,
    sysctls: &BTreeMap<String, String>,
    names: &BTreeMap<String, IpAddr>,
) -> Result<(), ActionError> {
    // The mark first: from here on no other cluster's operator touches this host.
    place_mark(work.paths, mark)?;
    modules(work, sysctls).await?;
    settings(work.paths, sysctls)?;
    hosts_file::ensure(work.paths, names)?;
    Ok(())
}

fn place_mark(paths: &Paths, mark: &HostMark) -> Result<(), ActionError> {
    match facts::mark(paths)? {
        Some(there) if there == *mark => Ok(()),
        Some(there) if there.cluster != mark.cluster || there.node != mark.node => {
            Err(Refusal::ForeignHost {
                node: mark.node.clone(),
                mark: format!("cluster `{}` as `{}`", there.cluster, there.node),
                expected: format!("cluster `{}` as `{}`", mark.cluster, mark.node),
            }
            .into())
        }
        _ => Ok(durable::write_json(&paths.state("mark.json"), mark)?),
    }
}

/// Bridge settings exist only once their module is there.
async fn modules(work: &Work<'_>, sysctls: &BTreeMap<String, String>) -> Result<(), ActionError> {
    let missing = |name: &str| !sysctl_path(work.paths, name).exists();
    if sysctls
        .keys()
        .any(|name| name.starts_with("net.bridge.") && missing(name))
    {
        let load = Command::new("modprobe", TOOL_WITHIN).arg("br_netfilter");
        work.tools.run(load).await?;
        durable::write_if_different(&work.paths.at(MODULES_FILE), b"br_netfilter\n", 0o644)?;
    }
    Ok(())
}

/// Sets what is lower or other than wanted, now and for the next boot.
fn settings(paths: &Paths, wanted: &BTreeMap<String, String>) -> Result<(), ActionError> {
    if wanted.is_empty() {
        return Ok(());
    }
    for (name, value) in wanted {
        let path = sysctl_path(paths, name);
        match sysctl(paths, name)? {
            Some(seen) if at_least(&seen, value) => {}
            Some(_) => fs::write(&path, value).map_err(FileError::new("write", &path))?,
            None => {
                return Err(ActionError::unexpected(
                    format!("the kernel setting {name}"),
                    "this kernel has no such setting",
                    "load the module it belongs to",
                ));
            }
        }
    }
    let file = paths.at(SYSCTL_FILE);
    let mut kept = parse_sysctls(&durable::read_text(&file)?.unwrap_or_default());
    kept.extend(wanted.iter().map(|(n, v)| (n.clone(), v.clone())));
    let mut text =
        String::from("# Quorate sets these; see its documentation on changes to hosts.\n");
    for (name, value) in &kept {
        writeln!(text, "{name} = {value}").expect("a String takes everything");
    }
    durable::write_if_different(&file, text.as_bytes(), 0o644)?;
    Ok(())
}

/// A limit that is already higher is left alone.
fn at_least(seen: &str, wanted: &str) -> bool {
    match (seen.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(seen), Ok(wanted)) => seen >= wanted,
        _ => seen == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn mark(cluster: &str, node: &str, disposable: bool) -> HostMark {
        HostMark {
            cluster: cluster.parse().unwrap(),
            node: node.parse().unwrap(),
            disposable,
        }
    }

    #[test]
    fn a_mark_is_never_another_clusters() {
        let machine = testing::machine();
        place_mark(&machine.paths, &mark("demo", "cp-1", true)).unwrap();
        place_mark(&machine.paths, &mark("demo", "cp-1", false)).unwrap();
        for other in [mark("prod", "cp-1", true), mark("demo", "cp-2", true)] {
            let err = place_mark(&machine.paths, &other).unwrap_err();
            assert!(matches!(err, ActionError::Refused(_)), "{err}");
        }
        let kept = facts::mark(&machine.paths).unwrap().unwrap();
        assert_eq!(kept, mark("demo", "cp-1", false));
    }

    #[test]
    fn settings_are_raised_never_lowered_and_kept() {
        let machine = testing::machine();
        for (name, value) in [
            ("net/ipv4/ip_forward", "0\n"),
            ("fs/inotify/max_user_instances", "9000\n"),
        ] {
            machine.write(&format!("/proc/sys/{name}"), value);
        }
        machine.write(SYSCTL_FILE, "kernel.panic = 10\n");
        let wanted: BTreeMap<String, String> = [
            ("net.ipv4.ip_forward".to_owned(), "1".to_owned()),
            (
                "fs.inotify.max_user_instances".to_owned(),
                "8192".to_owned(),
            ),
        ]
        .into();
        settings(&machine.paths, &wanted).unwrap();
        assert_eq!(machine.read("/proc/sys/net/ipv4/ip_forward"), "1");
        assert_eq!(
            machine.read("/proc/sys/fs/inotify/max_user_instances"),
            "9000\n"
        );
        let kept = machine.read(SYSCTL_FILE);
        for line in [
            "kernel.panic = 10",
            "net.ipv4.ip_forward = 1",
            "fs.inotify.max_user_instances = 8192",
        ] {
            assert!(kept.contains(line), "{kept}");
        }
        settings(&machine.paths, &wanted).unwrap();
        assert_eq!(machine.read(SYSCTL_FILE), kept);
        let err = settings(
            &machine.paths,
            &[("no.such".to_owned(), "1".to_owned())].into(),
        )
        .unwrap_err();
        assert!(err.to_string().contains("no.such"), "{err}");
    }
}
