//! A joiner's etcd runs once before the kubelet starts it, until its leader has given it the cluster's data.
//!
//! A member serves its clients once it has published its name through the log. The leader makes the snapshot for a new learner when it next
//! applies an entry, and often that entry is this very publication: it comes with the snapshot, the learner never hears that its request was
//! applied, and asks again after 7 s (`publishV3` and `applyAll` in etcd 3.6.16). Started again with its data it needs no snapshot, and serves
//! within a tenth of a second. See `docs/design/0003-what-a-join-waits-for.md`.

use std::{net::SocketAddr, path::Path, time::Duration};

use quorate_plan::observation::Manifest;
use tokio::time::sleep;

use super::Work;
use crate::{
    bundle::{self, Role},
    command::{Command, Tools},
    error::ActionError,
    facts, shown,
};

/// How long the data may take to come. What has not come by then comes to the etcd that the kubelet starts.
const WITHIN: Duration = Duration::from_secs(30);

/// How often etcd is asked how far it is.
const POLL: Duration = Duration::from_millis(20);

/// Runs etcd as the manifest has it, from the bundle, until it has data; nothing of it runs when this returns. Where no data
/// comes, the kubelet's start is the first one.
///
/// # Errors
/// When the bundle on the host is not what it is said to be.
pub(super) async fn ensure(work: &Work<'_>, manifest: &Manifest) -> Result<(), ActionError> {
    // One that runs already starts etcd by itself as soon as it sees the manifest.
    let kubelet = work.seen.host(work.node)?.units.get()?.get("kubelet");
    if kubelet.is_some_and(|unit| unit.kept_running()) {
        return Ok(());
    }
    let id = &work.claim.intent.bundle.id;
    let folder = work.paths.bundle(id);
    let manifest_of_bundle = bundle::Manifest::read(&folder, id)?;
    let etcd = manifest_of_bundle
        .of(Role::Binary)
        .find(|file| file.name() == "etcd");
    let (Some(etcd), Some(metrics)) = (etcd, facts::metrics_address(manifest)) else {
        return Ok(());
    };
    etcd.check(&folder, &mut std::io::sink())?;
    if let Err(why) = run(work.tools, &etcd.under(&folder), &manifest.flags, metrics).await {
        work.progress.say(format!(
            "etcd's data was not fetched before the kubelet starts it: {why}"
        ));
    }
    Ok(())
}

/// Runs this etcd until it has applied something of the cluster's log.
///
/// # Errors
/// What was seen instead, for people.
pub(super) async fn run(
    tools: &Tools,
    etcd: &Path,
    flags: &[String],
    metrics: SocketAddr,
) -> Result<(), String> {
    // Through timeout(1), so that it ends in time also when this process is killed; the host lock is held until then.
    let seconds = (WITHIN + Duration::from_secs(5)).as_secs().to_string();
    let command = Command::new("timeout", WITHIN)
        .args(["--signal=KILL", &seconds])
        .arg(etcd)
        .args(flags);
    let fetched = async {
        while !matches!(facts::etcd_applied(metrics).await, Some(1..)) {
            sleep(POLL).await;
        }
    };
    // It may be killed at any moment, as etcd may by every power cut: what it has is on the disk.
    let ran = tools.run_until(command, fetched).await;
    ran.map_err(|err| shown::chain(&err))
}
