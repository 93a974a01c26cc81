//! containerd runs; kubelet, kubeadm, kubectl and the CNI plugins are installed, from the bundle or from packages ([`super::packages`]).
//!
//! `components.json` is written last: what it lists was whole and checked when it was written.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};
use quorate_plan::{kubeadm::RuntimeSettings, observation::Cgroup, spec::Packages};

use super::{TOOL_WITHIN, Work, packages};
use crate::{
    bundle::{BundleFile, Manifest, Role},
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    facts::{self, Installed, InstalledFile},
    paths::Paths,
};

const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

/// Settings of containerd's unit that its package cannot know.
const CONTAINERD_DROP_IN: &str = "/etc/systemd/system/containerd.service.d/10-quorate.conf";

/// What no package has: the pod network's plugin that the bundle brings, and etcd's tools.
const NOT_PACKAGED: [&str; 3] = ["flannel", "etcdctl", "etcdutl"];

/// Descriptors containerd asks for: one per container's output and more. Its own package asks for as many as there are.
const DESCRIPTORS: u64 = 1 << 20;

pub(super) async fn ensure(
    work: &Work<'_>,
    bundle: &str,
    runtime: &RuntimeSettings,
    packages: Option<&Packages>,
) -> Result<(), ActionError> {
    let before = Installed::read(work.paths)?;
    same_source(before.as_ref(), packages)?;
    if let Some(packages) = packages {
        // Before it is installed, and started by that.
        set_up_containerd(work.paths, runtime)?;
        packages::install(work, packages).await?;
    }
    if !facts::installed(work.paths, "runc") {
        return Err(ActionError::unexpected(
            "the program `runc`",
            "it is not installed",
            "install it with the system's packages (`apt install runc`)",
        ));
    }
    let (paths, id, settings) = (work.paths.clone(), bundle.to_owned(), runtime.clone());
    let packages = packages.cloned();
    let installed = tokio::task::spawn_blocking(move || match packages {
        None => install(&paths, &id, &settings),
        Some(packages) => beside_packages(&paths, &id, &settings, &packages),
    })
    .await
    .expect("copying files does not panic")?;
    let systemctl = |args: &[&str]| {
        work.tools
            .run(Command::new("systemctl", TOOL_WITHIN).args(args))
    };
    systemctl(&["daemon-reload"]).await?;
    // Compared with what the last action noted at its end: one that was killed halfway may have left the old program running.
    if restart_needed(before.as_ref(), &installed) {
        // Containers go on: each has a process of its own between it and containerd.
        systemctl(&["enable", "containerd.service"]).await?;
        systemctl(&["restart", "containerd.service"]).await?;
    } else {
        systemctl(&["enable", "--now", "containerd.service"]).await?;
    }
    // kubeadm starts it, once it has something to run with.
    systemctl(&["enable", "kubelet.service"]).await?;
    durable::write_json(&work.paths.state("components.json"), &installed)?;
    Ok(())
}

/// A host keeps the source that it was made from: two kubelets on one host, of which one runs, are nobody's plan.
fn same_source(before: Option<&Installed>, packages: Option<&Packages>) -> Result<(), ActionError> {
    let (wanted, seen) = match (packages, before.map(|before| before.from_packages)) {
        (Some(_), Some(false)) => ("packages", "a bundle"),
        (None, Some(true)) => ("a bundle", "packages"),
        (Some(_), Some(true)) | (None, Some(false)) | (_, None) => return Ok(()),
    };
    Err(ActionError::unexpected(
        format!("components from {wanted} on this host, or none"),
        format!("those that Quorate installed from {seen}"),
        "leave `components.source` as it was; a host whose system is made anew gets them from the other source",
    ))
}

/// Whether the containerd that runs may not be the one that is installed.
fn restart_needed(before: Option<&Installed>, after: &Installed) -> bool {
    [
        "/usr/local/bin/containerd",
        CONTAINERD_CONFIG,
        CONTAINERD_DROP_IN,
        "/etc/systemd/system/containerd.service",
    ]
    .into_iter()
    .map(Path::new)
    .any(|path| before.and_then(|before| before.files.get(path)) != after.files.get(path))
}

fn install(paths: &Paths, id: &str, runtime: &RuntimeSettings) -> Result<Installed, ActionError> {
    let manifest = Manifest::read(&paths.bundle(id), id)?;
    let mut files = place_files(paths, id, &manifest, |_| true)?;
    let hard_limit = hard_limit(paths)?;
    for (path, text) in [
        (CONTAINERD_CONFIG, containerd_config(runtime)),
        (
            "/etc/systemd/system/containerd.service",
            containerd_unit(runtime, hard_limit),
        ),
        (
            "/etc/systemd/system/kubelet.service",
            KUBELET_UNIT.to_owned(),
        ),
        (
            "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
            KUBELET_DROP_IN.to_owned(),
        ),
    ] {
        durable::write_if_different(&paths.at(path), text.as_bytes(), 0o644)?;
        note(paths, &mut files, path.into());
    }
    Ok(Installed {
        bundle: id.to_owned(),
        configuration: runtime.digest(None),
        from_packages: false,
        files,
    })
}

/// What packages lack, and the files that make them what the cluster needs. dpkg knows their own: an upgrade of containerd, which is not
/// held, is nothing that differs.
fn beside_packages(
    paths: &Paths,
    id: &str,
    runtime: &RuntimeSettings,
    packages: &Packages,
) -> Result<Installed, ActionError> {
    let manifest = Manifest::read(&paths.bundle(id), id)?;
    let mut files = place_files(paths, id, &manifest, |name| NOT_PACKAGED.contains(&name))?;
    set_up_containerd(paths, runtime)?;
    for path in [
        CONTAINERD_CONFIG,
        CONTAINERD_DROP_IN,
        packages::KEY,
        packages::SOURCE,
    ] {
        note(paths, &mut files, path.into());
    }
    Ok(Installed {
        bundle: id.to_owned(),
        configuration: runtime.digest(Some(packages)),
        from_packages: true,
        files,
    })
}

/// The files that the distribution's containerd reads.
fn set_up_containerd(paths: &Paths, runtime: &RuntimeSettings) -> Result<(), ActionError> {
    let config = packaged_config(runtime);
    durable::write_if_different(&paths.at(CONTAINERD_CONFIG), config.as_bytes(), 0o644)?;
    if !runtime.kind.oom_score_adjustable {
        let limits = durable::read_text(&paths.at("/proc/1/limits"))?.unwrap_or_default();
        let drop_in = nested_drop_in(&limits);
        durable::write_if_different(&paths.at(CONTAINERD_DROP_IN), drop_in.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Puts programs and CNI plugins of a bundle into their places: those whose names are `wanted`.
fn place_files(
    paths: &Paths,
    id: &str,
    manifest: &Manifest,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<PathBuf, InstalledFile>, ActionError> {
    let folder = paths.bundle(id);
    // A file that is as it was installed from this very bundle needs no second look.
    let known = Installed::read(paths)?.filter(|installed| installed.bundle == id);
    let mut files = BTreeMap::new();
    for (role, place) in [
        (Role::Binary, "/usr/local/bin"),
        (Role::CniPlugin, "/opt/cni/bin"),
    ] {
        for file in manifest.of(role).filter(|file| wanted(file.name())) {
            let at = Path::new(place).join(file.name());
            let as_known = known
                .as_ref()
                .and_then(|known| known.files.get(&at))
                .is_some_and(|known| InstalledFile::of(&paths.at(&at)).as_ref() == Some(known));
            if !as_known {
                place_file(file, &folder, &paths.at(&at))?;
            }
            note(paths, &mut files, at);
        }
    }
    Ok(files)
}

fn note(paths: &Paths, files: &mut BTreeMap<PathBuf, InstalledFile>, at: PathBuf) {
    if let Some(file) = InstalledFile::of(&paths.at(&at)) {
        files.insert(at, file);
    }
}

/// Copies a file, or links to it where the bundle lies on a file system that cannot change under us, as on local hosts.
fn place_file(file: &BundleFile, folder: &Path, to: &Path) -> Result<(), ActionError> {
    let parent = to.parent().expect("a program lies in a folder");
    fs::create_dir_all(parent).map_err(FileError::new("make the folder", parent))?;
    let new = to.with_file_name(format!(".{}.quorate-new", file.name()));
    durable::remove(&new)?;
    let read_only = statvfs(folder).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
    if read_only {
        file.check(folder, &mut std::io::sink())?;
        symlink(file.under(folder), &new).map_err(FileError::new("link", &new))?;
    } else {
        let mut out = File::create_new(&new).map_err(FileError::new("create", &new))?;
        file.check(folder, &mut out)?;
        out.set_permissions(Permissions::from_mode(0o755))
            .and_then(|()| out.sync_all())
            .map_err(FileError::new("write", &new))?;
    }
    // Renamed: the old program may be running.
    Ok(durable::rename(&new, to)?)
}

/// Descriptors that systemd's own processes may have at most: without CAP_SYS_RESOURCE a unit cannot ask for more.
fn hard_limit(paths: &Paths) -> Result<u64, FileError> {
    let limits = durable::read_text(&paths.at("/proc/1/limits"))?.unwrap_or_default();
    Ok(parse_hard_limit(&limits, "Max open files").unwrap_or(DESCRIPTORS))
}

/// One line of `/proc/PID/limits`. `None`: there is no limit.
fn parse_hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The package's unit asks for more than a machine inside another one may have.
fn nested_drop_in(limits: &str) -> String {
    let limit = |name, least: Option<u64>| match (parse_hard_limit(limits, name), least) {
        (Some(hard), Some(least)) => hard.min(least).to_string(),
        (Some(hard), None) => hard.to_string(),
        (None, Some(least)) => least.to_string(),
        (None, None) => "infinity".to_owned(),
    };
    format!(
        "# Written by Quorate; changes are overwritten.\n[Service]\nOOMScoreAdjust=\nLimitNOFILE={}\nLimitNPROC={}\nLimitCORE={}\n",
        limit("Max open files", Some(DESCRIPTORS)),
        limit("Max processes", None),
        limit("Max core file size", None),
    )
}

/// What containerd is told because of the machine it runs on: whether systemd keeps the control groups, and a line about OOM scores.
fn of_the_machine(runtime: &RuntimeSettings) -> (bool, &'static str) {
    let systemd = match runtime.kind.cgroup {
        Cgroup::V1 => false,
        Cgroup::V2 => true,
    };
    let restrict = if runtime.kind.oom_score_adjustable {
        ""
    } else {
        // Without CAP_SYS_RESOURCE every sandbox would die when its OOM score is lowered.
        "restrict_oom_score_adj = true\n"
    };
    (systemd, restrict)
}

/// In the version of its language that every containerd of a distribution understands, from 1.6 on.
fn packaged_config(runtime: &RuntimeSettings) -> String {
    let (systemd, restrict) = of_the_machine(runtime);
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         version = 2\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{}\"\n\
         {restrict}\n\
         # Where Kubernetes' packages put the plugins; the distribution's would be looked for elsewhere.\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/opt/cni/bin\"\n\
         conf_dir = \"/etc/cni/net.d\"\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n\
         SystemdCgroup = {systemd}\n",
        runtime.pause_image
    )
}

fn containerd_config(runtime: &RuntimeSettings) -> String {
    let (systemd, restrict) = of_the_machine(runtime);
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         version = 3\n\n\
         [plugins.\"io.containerd.cri.v1.images\".pinned_images]\n\
         sandbox = \"{}\"\n\n\
         [plugins.\"io.containerd.cri.v1.runtime\"]\n\
         {restrict}\n\
         [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\n\
         [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options]\n\
         SystemdCgroup = {systemd}\n",
        runtime.pause_image
    )
}

fn containerd_unit(runtime: &RuntimeSettings, hard_limit: u64) -> String {
    let limits = if runtime.kind.oom_score_adjustable {
        format!(
            "LimitNOFILE={DESCRIPTORS}\nLimitNPROC=infinity\nLimitCORE=infinity\nOOMScoreAdjust=-999\n"
        )
    } else {
        // More than the hard limit would be a unit that does not start.
        format!("LimitNOFILE={}\n", DESCRIPTORS.min(hard_limit))
    };
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         [Unit]\nDescription=containerd container runtime\nAfter=network.target local-fs.target\n\n\
         [Service]\nType=notify\nExecStartPre=-/sbin/modprobe overlay\nExecStart=/usr/local/bin/containerd\n\
         # Containers outlive it, and manage control groups of their own.\n\
         KillMode=process\nDelegate=yes\nTasksMax=infinity\n\
         Restart=always\nRestartSec=2\n{limits}\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// What kubeadm expects of the kubelet's package.
const KUBELET_UNIT: &str = "\
# Written by Quorate; changes are overwritten.
[Unit]
Description=kubelet: the Kubernetes node agent
Wants=network-online.target
After=network-online.target containerd.service

[Service]
ExecStart=/usr/local/bin/kubelet
# Until kubeadm has written its configuration it ends at once: it is tried again for as long as that takes.
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
";

/// Which files kubeadm writes and the kubelet reads.
const KUBELET_DROP_IN: &str = "\
# Written by Quorate; changes are overwritten. Settings of this host go to KUBELET_EXTRA_ARGS in /etc/default/kubelet.
[Service]
Environment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf\"
Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"
# Flags that kubeadm derives from its configuration.
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
";

#[cfg(test)]
mod tests {
    use quorate_plan::observation::MachineKind;

    use super::*;
    use crate::{bundle::tests::write, testing};

    fn runtime(cgroup: Cgroup, oom_score_adjustable: bool) -> RuntimeSettings {
        RuntimeSettings {
            pause_image: "quorate.local/pause:3.10.1".into(),
            kind: MachineKind {
                cgroup,
                oom_score_adjustable,
                swap: false,
                shared_disk: false,
            },
        }
    }

    #[test]
    fn settings_follow_the_machine() {
        let nested = runtime(Cgroup::V1, false);
        let config = containerd_config(&nested);
        assert!(config.contains("SystemdCgroup = false"), "{config}");
        assert!(config.contains("restrict_oom_score_adj = true"), "{config}");
        assert!(containerd_unit(&nested, 20000).contains("LimitNOFILE=20000\n"));
        let real = runtime(Cgroup::V2, true);
        let config = containerd_config(&real);
        assert!(config.contains("SystemdCgroup = true"), "{config}");
        assert!(!config.contains("restrict"), "{config}");
        assert!(config.contains("sandbox = \"quorate.local/pause:3.10.1\""));
        assert!(containerd_unit(&real, 20000).contains("LimitNOFILE=1048576\n"));
    }

    #[test]
    fn hard_limits() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 20000                files\n";
        let files = |limits| parse_hard_limit(limits, "Max open files");
        assert_eq!(files(limits), Some(20000));
        assert_eq!(files("Max open files 1 unlimited files\n"), None);
        let drop_in = nested_drop_in(limits);
        for line in [
            "OOMScoreAdjust=",
            "LimitNOFILE=20000",
            "LimitNPROC=infinity",
        ] {
            assert!(drop_in.lines().any(|one| one == line), "{drop_in}");
        }
    }

    #[test]
    fn beside_packages_lies_what_they_lack() {
        let machine = testing::machine();
        let id = write(
            &machine,
            "",
            &[
                ("bin/kubeadm", "binary", "k"),
                ("bin/etcdctl", "binary", "e"),
                ("cni/bridge", "cni-plugin", "b"),
                ("cni/flannel", "cni-plugin", "f"),
            ],
        );
        machine.write("/proc/1/limits", "Max open files 1024 20000 files\n");
        let from = Packages {
            repository: "http://packages.example.org/deb/".into(),
            key_file: "k".into(),
            key: "k".into(),
            version: "1.35.4-1.1".into(),
        };
        let settings = runtime(Cgroup::V1, false);
        let installed = beside_packages(&machine.paths, &id, &settings, &from).unwrap();
        let places: Vec<_> = installed
            .files
            .keys()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(
            places,
            [
                CONTAINERD_CONFIG,
                CONTAINERD_DROP_IN,
                "/opt/cni/bin/flannel",
                "/usr/local/bin/etcdctl"
            ]
        );
        let config = machine.read(CONTAINERD_CONFIG);
        for line in [
            "version = 2",
            "sandbox_image = \"quorate.local/pause:3.10.1\"",
            "restrict_oom_score_adj = true",
            "SystemdCgroup = false",
        ] {
            assert!(config.lines().any(|one| one == line), "{config}");
        }
        assert!(!packaged_config(&runtime(Cgroup::V2, true)).contains("restrict"));
        // A host keeps its source.
        durable::write_json(&machine.paths.state("components.json"), &installed).unwrap();
        let before = Installed::read(&machine.paths).unwrap();
        assert!(same_source(before.as_ref(), Some(&from)).is_ok());
        assert!(same_source(None, Some(&from)).is_ok() && same_source(None, None).is_ok());
        let err = same_source(before.as_ref(), None).unwrap_err();
        assert!(
            err.to_string().contains("from a bundle on this host"),
            "{err}"
        );
    }

    #[test]
    fn installed_twice_is_installed_once() {
        let machine = testing::machine();
        let id = write(
            &machine,
            "",
            &[
                ("bin/kubeadm", "binary", "k"),
                ("cni/bridge", "cni-plugin", "b"),
                ("images/x.tar", "image", "x"),
            ],
        );
        let settings = runtime(Cgroup::V2, true);
        let first = install(&machine.paths, &id, &settings).unwrap();
        assert_eq!(first.files.len(), 6);
        assert_eq!(machine.read("/usr/local/bin/kubeadm"), "k");
        assert_eq!(machine.read("/opt/cni/bin/bridge"), "b");
        let mode = fs::metadata(machine.paths.at("/usr/local/bin/kubeadm")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o755);
        durable::write_json(&machine.paths.state("components.json"), &first).unwrap();
        assert_eq!(install(&machine.paths, &id, &settings).unwrap(), first);

        // What was changed by hand is put right; a bundle that was damaged meanwhile is noticed.
        machine.write("/usr/local/bin/kubeadm", "changed");
        let again = install(&machine.paths, &id, &settings).unwrap();
        assert_ne!(again, first);
        assert!(
            !restart_needed(Some(&first), &again),
            "kubeadm is not containerd"
        );
        assert!(restart_needed(None, &again));
        assert_eq!(machine.read("/usr/local/bin/kubeadm"), "k");
        machine.write(&format!("/var/lib/quorate/bundles/{id}/bin/kubeadm"), "K");
        machine.write("/usr/local/bin/kubeadm", "changed");
        assert!(install(&machine.paths, &id, &settings).is_err());
        assert_eq!(
            machine.read("/usr/local/bin/kubeadm"),
            "changed",
            "not replaced by a damaged one"
        );
    }
}
