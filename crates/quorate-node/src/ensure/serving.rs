//! etcd and the apiserver of this host serve: etcd reaches a quorum, and `/readyz` says ok.

use std::{fs, path::PathBuf, time::SystemTime};

use quorate_plan::kubeadm::Peer;

use super::{ANSWER_WITHIN, Work, apiserver};
use crate::{clients, error::ActionError, paths::Paths, shown};

/// Lines of a container's log that are shown when it does not come up.
const LOG_BYTES: u64 = 4096;

pub(super) async fn ensure(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
    let etcd = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let api = clients::api(work.paths, "admin.conf", apiserver(node))?;
    let serving = work
        .wait("etcd and the apiserver to serve", || async {
            let (members, readyz) =
                tokio::join!(etcd.members(true, ANSWER_WITHIN), api.readyz(ANSWER_WITHIN));
            let etcd = match members {
                Ok(_) => None,
                Err(err) => Some(format!("etcd: {}", shown::chain(&err))),
            };
            let api = match readyz {
                Ok(readyz) if readyz.is_ready() => None,
                Ok(readyz) => Some(format!("/readyz: {}", readyz_line(&readyz.body))),
                Err(err) => Some(format!("apiserver: {}", shown::chain(&err))),
            };
            let missing: Vec<String> = [etcd, api].into_iter().flatten().collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(shown::line(&missing.join("; ")))
            }
        })
        .await;
    serving.map_err(|err| with_logs(work.paths, err))
}

/// The checks that fail.
fn readyz_line(body: &str) -> String {
    let failing: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .collect();
    failing.join(", ")
}

/// Adds what the containers said last.
fn with_logs(paths: &Paths, err: ActionError) -> ActionError {
    let ActionError::Late {
        what,
        waited_s,
        mut seen,
    } = err
    else {
        return err;
    };
    for component in ["etcd", "kube-apiserver"] {
        match log(paths, component) {
            Some(log) => seen.push_str(&format!("\nlast lines of {component}:\n{log}")),
            None => seen.push_str(&format!(
                "\n{component} was never started; look at `journalctl -u kubelet` there"
            )),
        }
    }
    ActionError::Late {
        what,
        waited_s,
        seen,
    }
}

/// The last lines of the newest log of a static pod's container.
fn log(paths: &Paths, component: &str) -> Option<String> {
    let pods = fs::read_dir(paths.at("/var/log/pods")).ok()?.flatten();
    let newest = pods
        .filter(|pod| {
            let prefix = format!("kube-system_{component}-");
            pod.file_name().to_string_lossy().starts_with(&prefix)
        })
        .filter_map(|pod| fs::read_dir(pod.path().join(component)).ok())
        .flat_map(|logs| logs.flatten())
        .filter_map(|log| Some((log.metadata().ok()?.modified().ok()?, log.path())))
        .max_by_key(|(modified, _): &(SystemTime, PathBuf)| *modified)?;
    let file = fs::File::open(&newest.1).ok()?;
    let length = file.metadata().ok()?.len();
    let mut tail = vec![0; usize::try_from(length.min(LOG_BYTES)).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut tail, length.saturating_sub(LOG_BYTES))
        .ok()?;
    Some(shown::tail(&tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn evidence_is_the_newest_log() {
        let machine = testing::machine();
        let late = || ActionError::Late {
            what: "x".into(),
            waited_s: 1,
            seen: "nothing".into(),
        };
        let text = with_logs(&machine.paths, late()).to_string();
        assert!(text.contains("etcd was never started"), "{text}");
        let pod = "/var/log/pods/kube-system_etcd-cp-1_abc/etcd";
        machine.write(&format!("{pod}/0.log"), "old\n");
        let old = fs::File::open(machine.paths.at(format!("{pod}/0.log"))).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let long = format!(
            "{}\nfatal: \u{1b}member count is unequal\n",
            "x".repeat(9000)
        );
        machine.write(&format!("{pod}/1.log"), long);
        let text = with_logs(&machine.paths, late()).to_string();
        assert!(
            text.contains("fatal: \\u{1b}member count is unequal"),
            "{text}"
        );
        assert!(!text.contains("old"), "{text}");
    }

    #[test]
    fn failing_checks() {
        assert_eq!(
            readyz_line("[+]ping ok\n[-]etcd failed: x\nreadyz check failed"),
            "etcd failed: x"
        );
    }
}
