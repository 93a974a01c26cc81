//! Packages on a machine in a folder, whose apt and dpkg are scripts that keep what they were asked.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::{
    command::Tools,
    ensure::Progress,
    seal::Identity,
    testing::{self, Machine},
};

/// Keeps its arguments, and does what the machine's `script/NAME` says.
const PROGRAM: &str =
    "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>@/asked\n. @/script/$(basename \"$0\")\n";

fn packages() -> Packages {
    Packages {
        repository: "http://packages.example.org/deb/".into(),
        key_file: "kubernetes.asc".into(),
        key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n".into(),
        version: "1.35.4-1.1".into(),
    }
}

/// A machine whose repository has these versions of every package.
fn machine(versions: &[&str]) -> Machine {
    let machine = testing::machine();
    let root = machine.paths.at("/");
    let madison: String = Packages::NAMES
        .into_iter()
        .flat_map(|name| {
            let line = move |version: &&str| format!("echo '{name} | {version} | where'\n");
            versions.iter().map(line)
        })
        .collect();
    let installed = |version: &str| -> String {
        Packages::NAMES
            .into_iter()
            .map(|name| {
                format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n")
            })
            .collect()
    };
    machine.write("/installed", installed("1.35.4-1.1"));
    machine.write("/var/lib/dpkg/status", "");
    let status = machine.paths.at("/var/lib/dpkg/status");
    for (name, script) in [
        (
            "apt-get",
            format!(
                "case \"$*\" in *' install '*) cp {0}/installed {1};; esac\n",
                root.display(),
                status.display()
            ),
        ),
        (
            "apt-cache",
            format!(
                "case \"$*\" in *containerd) echo 'containerd | 1.6 | x';; *) {madison} ;; esac\n"
            ),
        ),
        (
            "apt-mark",
            format!("sed -i s/install.ok/hold\\ ok/ {}\n", status.display()),
        ),
        ("dpkg", String::new()),
        ("kubeadm", "echo v1.35.4\n".to_owned()),
    ] {
        machine.write(&format!("/script/{name}"), script);
        let program = format!("/bin/{name}");
        machine.write(&program, PROGRAM.replace('@', &root.display().to_string()));
        fs::set_permissions(machine.paths.at(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    machine
}

async fn installed_on(machine: &Machine, packages: &Packages) -> Result<(), ActionError> {
    let mut tools = Tools::default();
    tools.first = Some(machine.paths.at("/bin"));
    testing::with_work_async(machine, "cp-1", async |work: &Work<'_>| {
        let work = Work {
            paths: work.paths,
            node: work.node,
            seen: work.seen,
            claim: work.claim,
            tools: &tools,
            identity: &Identity::generate(),
            sealed: Vec::new(),
            receipt: None,
            progress: &Progress(tokio::sync::mpsc::unbounded_channel().0),
            patience: work.patience,
        };
        install(&work, packages).await
    })
    .await
}

#[tokio::test]
async fn installed_once_and_held() {
    let machine = machine(&["1.35.3-1.1", "1.35.4-1.1"]);
    installed_on(&machine, &packages()).await.unwrap();
    assert_eq!(machine.read(KEY), packages().key);
    let list = machine.read(SOURCE);
    let line = format!("deb [signed-by={KEY}] http://packages.example.org/deb/ /\n");
    assert!(list.ends_with(&line), "{list}");
    let asked = machine.read("/asked");
    let install = asked
        .lines()
        .find(|line| line.contains(" install "))
        .unwrap();
    assert!(
        install.ends_with("kubeadm=1.35.4-1.1 kubectl=1.35.4-1.1 kubelet=1.35.4-1.1 containerd"),
        "{install}"
    );
    for never in ["allow-downgrades", "allow-change-held", "unauthenticated"] {
        assert!(!asked.contains(never), "{asked}");
    }
    let there = installed_packages(&machine.paths, &Packages::NAMES).unwrap();
    assert!(there.len() == 3 && there.values().all(|package| package.held));

    // Again: nobody is asked for anything but the version.
    machine.write("/asked", "");
    machine.write("/usr/bin/containerd", "");
    installed_on(&machine, &packages()).await.unwrap();
    let asked = "dpkg --audit\nkubeadm version --output short\n";
    assert_eq!(machine.read("/asked"), asked);
    // One that somebody let go is held again, and nothing is installed for it.
    let status = machine.read("/var/lib/dpkg/status");
    machine.write(
        "/var/lib/dpkg/status",
        status.replacen("hold", "install", 1),
    );
    installed_on(&machine, &packages()).await.unwrap();
    let asked = machine.read("/asked");
    assert!(asked.contains("apt-mark hold kubeadm\n"), "{asked}");
    assert!(!asked.contains("apt-get"), "{asked}");
}

/// What is wrong is said with what to do, and nothing was installed.
#[tokio::test]
async fn what_cannot_be_installed() {
    let fails = |said: &str| format!("echo '{said}' >&2; exit 100\n");
    for (program, script, expected) in [
        (
            "apt-get",
            fails("E: The following signatures were invalid: BADSIG 1234 kubernetes"),
            "signed by the key in kubernetes.asc",
        ),
        (
            "apt-get",
            fails("E: The following signatures cannot be verified: NO_PUBKEY 234654DA9A296436"),
            "signed by the key in kubernetes.asc",
        ),
        (
            "apt-get",
            fails(
                "E: Failed to fetch http://packages.example.org/deb/InRelease  Could not connect",
            ),
            "look on this host whether it is reached",
        ),
        (
            "apt-cache",
            "echo 'kubeadm | 1.35.3-1.1 | x'\n".to_owned(),
            "expected kubeadm 1.35.4-1.1 in http://packages.example.org/deb/, seen 1.35.3-1.1;",
        ),
        ("apt-cache", "true\n".to_owned(), "seen no version of it;"),
        (
            "kubeadm",
            "echo v1.35.3\n".to_owned(),
            "expected kubeadm 1.35.4 in the package kubeadm 1.35.4-1.1, seen 1.35.3;",
        ),
    ] {
        let machine = machine(&["1.35.4-1.1"]);
        machine.write(&format!("/script/{program}"), script);
        let err = installed_on(&machine, &packages())
            .await
            .unwrap_err()
            .to_string();
        assert!(err.contains(expected), "{err}");
        let asked = machine.read("/asked");
        assert!(
            program == "kubeadm" || !asked.contains(" install "),
            "{asked}"
        );
    }
}

/// What was broken off is ended first, and another apt is waited for.
#[tokio::test]
async fn after_a_power_loss_and_beside_another_apt() {
    let machine = machine(&["1.35.4-1.1"]);
    machine.write(
        "/script/dpkg",
        "test \"$1\" != --audit || echo 'kubelet: unpacked'\n",
    );
    installed_on(&machine, &packages()).await.unwrap();
    let asked = machine.read("/asked");
    let mut lines = asked.lines();
    assert_eq!(lines.next(), Some("dpkg --audit"));
    assert_eq!(
        lines.next(),
        Some("dpkg --force-confdef --force-confold --configure -a")
    );
    let locked = "echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7' >&2; exit 100\n";
    let machine = self::machine(&["1.35.4-1.1"]);
    machine.write("/script/apt-get", locked);
    let err = installed_on(&machine, &packages()).await.unwrap_err();
    assert!(matches!(err, ActionError::Late { .. }), "{err}");
    assert!(err.to_string().contains("held by process 7"), "{err}");
}

/// A program that would be run in the place of the package's.
#[tokio::test]
async fn another_kubeadm_in_the_way() {
    let machine = machine(&["1.35.4-1.1"]);
    machine.write("/usr/local/bin/kubeadm", "");
    let err = installed_on(&machine, &packages())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        err.contains("another one at /usr/local/bin/kubeadm"),
        "{err}"
    );
    assert!(!machine.paths.at("/asked").exists());
    fs::remove_file(machine.paths.at("/usr/local/bin/kubeadm")).unwrap();
    fs::remove_file(machine.paths.at("/bin/apt-get")).unwrap();
    let err = installed_on(&machine, &packages())
        .await
        .unwrap_err()
        .to_string();
    assert!(err.contains("`apt-get`"), "{err}");
}
