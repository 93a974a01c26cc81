//! containerd runs; kubelet, kubeadm, kubectl and the CNI plugins are installed, from the bundle.
//!
//! `components.json` is written last: what it lists was whole and checked when it was written.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};
use quorate_plan::{kubeadm::RuntimeSettings, observation::Cgroup};

use super::{TOOL_WITHIN, Work};
use crate::{
    bundle::{BundleFile, Manifest, Role},
    command::Command,
    durable::{self, FileError},
    error::ActionError,
    facts::{Installed, InstalledFile, installed},
    paths::Paths,
};

const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

/// Descriptors containerd asks for: one per container's output and more. Its own package asks for as many as there are.
const DESCRIPTORS: u64 = 1 << 20;

pub(super) async fn ensure(
    work: &Work<'_>,
    bundle: &str,
    runtime: &RuntimeSettings,
) -> Result<(), ActionError> {
    if !installed(work.paths, "runc") {
        return Err(ActionError::unexpected(
            "the program `runc`",
            "it is not installed",
            "install it with the system's packages (`apt install runc`)",
        ));
    }
    let (paths, id, settings) = (work.paths.clone(), bundle.to_owned(), runtime.clone());
    let before = Installed::read(work.paths)?;
    let installed = tokio::task::spawn_blocking(move || install(&paths, &id, &settings))
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

/// Whether the containerd that runs may not be the one that is installed.
fn restart_needed(before: Option<&Installed>, after: &Installed) -> bool {
    [
        "/usr/local/bin/containerd",
        CONTAINERD_CONFIG,
        "/etc/systemd/system/containerd.service",
    ]
    .into_iter()
    .map(Path::new)
    .any(|path| before.and_then(|before| before.files.get(path)) != after.files.get(path))
}

fn install(paths: &Paths, id: &str, runtime: &RuntimeSettings) -> Result<Installed, ActionError> {
    let folder = paths.bundle(id);
    let manifest = Manifest::read(&folder, id)?;
    // A file that is as it was installed from this very bundle needs no second look.
    let known = Installed::read(paths)?.filter(|installed| installed.bundle == id);
    let mut files = BTreeMap::new();
    for (role, place) in [
        (Role::Binary, "/usr/local/bin"),
        (Role::CniPlugin, "/opt/cni/bin"),
    ] {
        for file in manifest.of(role) {
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
        configuration: runtime.digest(),
        files,
    })
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
    Ok(parse_hard_limit(&limits).unwrap_or(DESCRIPTORS))
}

fn parse_hard_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn containerd_config(runtime: &RuntimeSettings) -> String {
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
        assert_eq!(parse_hard_limit(limits), Some(20000));
        assert_eq!(parse_hard_limit("Max open files 1 unlimited files\n"), None);
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
