//! Terraform, or OpenTofu, which makes the machines of a cluster: the user's own program, run where its configuration is.
//!
//! [`inventory`] is what it says of a cluster that it made. For planning and applying, [`tool`] builds what is asked, [`drive`] runs it, and [`stream`]
//! reads what it tells meanwhile; `commands/infra.rs` has the order of things.

pub mod drive;
pub mod stream;
pub mod tool;

use std::{
    io,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use quorate_aws::{Balancer, Contract};
use quorate_plan::spec::{EtcdDevice, Inventory, Listed, TargetGroup};

use crate::{exit::Exit, failure::Failure};

/// How long it may take to tell an output. A state behind a slow backend takes seconds; one whose backend does not answer is tried for minutes.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What the output `quorate_cluster` of the configuration in a directory says.
///
/// # Errors
/// When there is no Terraform, no such directory, no such output, or it is not understood.
pub fn inventory(directory: &Path) -> Result<Inventory, Failure> {
    exists(directory)?;
    ask(&tool::program()?, directory, ANSWER_MAX)
}

/// There is such a directory.
///
/// # Errors
/// When there is none.
pub fn exists(directory: &Path) -> Result<(), Failure> {
    if !directory.is_dir() {
        return Err(Failure::usage(format!(
            "there is no directory `{}`",
            directory.display()
        ))
        .hint("`provider.directory` leads to a Terraform configuration, relative to the cluster file"));
    }
    Ok(())
}

/// What an output `quorate_cluster` says that came with a plan.
///
/// # Errors
/// When it is not understood.
pub fn inventory_of(output: &serde_json::Value) -> Result<Inventory, Failure> {
    let doing = "could not read the output `quorate_cluster` of the state";
    let contract = Contract::parse(&output.to_string())
        .map_err(|error| Failure::doing(Exit::Usage, doing, &error))?;
    Ok(read(contract))
}

fn ask(program: &Path, directory: &Path, within: Duration) -> Result<Inventory, Failure> {
    let doing = || {
        format!(
            "could not read the output `quorate_cluster` of `{}`",
            directory.display()
        )
    };
    let mut command = Command::new(program);
    command
        .arg("output")
        .args(["-no-color", "-json", "quorate_cluster"])
        .current_dir(directory);
    tool::as_asked(&mut command);
    let output = run_within(command, within)
        .map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?
        .ok_or_else(|| {
            Failure::new(Exit::Unseen, doing())
                .because(format!(
                    "expected an answer within {} s, seen none: `{}` was ended",
                    within.as_secs_f64(),
                    program.display()
                ))
                .hint("the state's backend may not answer: run `terraform output quorate_cluster` in that directory")
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(Exit::Usage, doing())
            .because(quorate_exec::hostile::text(said.trim()))
            .hint("`terraform init` and `terraform apply` come first, in that directory"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let contract =
        Contract::parse(&text).map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?;
    Ok(read(contract))
}

/// Runs a program to its end. `None`: it did not end in time, and was ended with all that it had started.
fn run_within(mut command: Command, within: Duration) -> io::Result<Option<Output>> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        // Nobody hears it when time was up.
        let _ = tell.send(child.wait_with_output());
    });
    match told.recv_timeout(within) {
        Ok(output) => output.map(Some),
        Err(_) => {
            if let Some(group) = group {
                // It may have ended just now.
                let _ = killpg(group, Signal::SIGKILL);
            }
            Ok(None)
        }
    }
}

fn read(contract: Contract) -> Inventory {
    let listed = |name: String, address: IpAddr, zone: String| Listed {
        name,
        address: address.to_string(),
        zone: Some(zone),
        etcd_device: None,
    };
    let Balancer::Nlb {
        target_group_arn, ..
    } = contract.endpoint.balancer;
    let instances = contract
        .masters
        .iter()
        .map(|master| (master.name.clone(), master.instance_id.clone()))
        .collect();
    Inventory {
        name: contract.name,
        target_group: TargetGroup {
            arn: target_group_arn.to_string(),
            instances,
        },
        host: contract.endpoint.host,
        port: contract.endpoint.port,
        masters: contract
            .masters
            .into_iter()
            .filter(|master| !master.leaving)
            .map(|master| Listed {
                etcd_device: master.etcd_volume_id.as_deref().map(EtcdDevice::of_ebs),
                ..listed(master.name, master.address, master.zone)
            })
            .collect(),
        workers: contract
            .workers
            .into_iter()
            .map(|worker| listed(worker.name, worker.address, worker.zone))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
        path::PathBuf,
    };

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    const RECORDED: &str = include_str!("../../../../terraform/tests/contract/v1.json");

    #[test]
    fn masters_that_leave_are_not_wanted() {
        let leaving = RECORDED.replacen("\"leaving\": false", "\"leaving\": true", 1);
        let names = |text: &str| -> Vec<String> {
            let contract = Contract::parse(text).expect("a recorded output");
            let masters = read(contract).masters;
            masters.into_iter().map(|master| master.name).collect()
        };
        assert_eq!(names(RECORDED), ["cp-1", "cp-2", "k8s-master"]);
        assert_eq!(names(&leaving), ["cp-2", "k8s-master"]);
    }

    /// A program that says what it was asked, or fails.
    fn program(directory: &Path, script: &str) -> PathBuf {
        let file = directory.join("terraform");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    #[test]
    fn the_output_is_asked_for_where_the_configuration_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("said.json"), RECORDED).unwrap();
        let script = "[ \"$*\" = 'output -no-color -json quorate_cluster' ] && exec cat said.json";
        let told = ask(
            &program(directory.path(), script),
            directory.path(),
            ANSWER_MAX,
        )
        .unwrap();
        assert_eq!((told.name.as_str(), told.port), ("demo", 6443));
        assert_eq!(told.host, "api.demo.internal");
        assert_eq!(told.workers[0].address, "10.0.0.101");
    }

    #[test]
    fn a_state_that_does_not_answer_is_given_up_with_all_that_was_started() {
        let directory = tempfile::tempdir().unwrap();
        let started = directory.path().join("started");
        nix::unistd::mkfifo(&started, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // What it starts holds the pipe open for as long as it lives.
        let script = "sleep 600 > started & wait";
        let asked = program(directory.path(), script);
        let mut reader = fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(started)
            .unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let failure = ask(&asked, directory.path(), Duration::from_millis(300)).unwrap_err();
        assert_eq!(failure.exit, Exit::Unseen);
        assert!(failure.causes[0].contains("within 0.3 s"), "{failure:?}");
        // It ends when nobody can write any more.
        reader.read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn what_terraform_says_of_its_failure_is_passed_on() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo 'Output \"quorate_cluster\" not found' >&2; exit 1";
        let failure = ask(
            &program(directory.path(), script),
            directory.path(),
            ANSWER_MAX,
        )
        .unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.causes, ["Output \"quorate_cluster\" not found"]);
        let failure = ask(
            &program(directory.path(), "echo '{}'"),
            directory.path(),
            ANSWER_MAX,
        )
        .unwrap_err();
        assert!(failure.causes[0].contains("version"), "{failure:?}");
        let failure = inventory(&directory.path().join("nowhere")).unwrap_err();
        assert!(failure.message.contains("nowhere"), "{failure:?}");
    }
}
