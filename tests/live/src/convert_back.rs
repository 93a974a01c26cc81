//! A conversion is taken back from every landmark, and then done by runs that are each killed at their next step. The cluster that is
//! converted has a name for its endpoint already.

use std::fs;

use anyhow::Result;

use crate::{
    bring_up::healthy,
    conversion::{
        Before, MASTERS, STRAGGLER, alone, api, cluster_file, kept, nothing_to_undo, refused,
        trusted,
    },
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::{members, same},
    killed,
    load::Load,
    stage::{Stage, said},
};

const NAME: &str = "live-back";
const SUBNET: &str = "172.31.70.0/24";
/// This machine, as the hosts see it.
const OPERATOR: &str = "172.31.70.1";

/// What its API was called before. The new masters never hear of it.
const OLD_NAME: &str = "kube.live-back.internal";

/// Where a conversion can be stopped.
const LANDMARKS: [&str; 6] = [
    "backup",
    "certificate",
    "configuration",
    "cluster-info",
    "kube-proxy",
    "kubeconfigs",
];

/// Fewer kills than this leave steps out: a conversion of prepared hosts has about forty, its way back about a dozen.
const KILLS_MIN: usize = 40;

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let shape = Shape {
        endpoint: Some(OLD_NAME),
        ..Shape::default()
    };
    let foreign = Foreign::make(stage, NAME, SUBNET, &shape)?;
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;

    // This machine does not resolve the old name: the master's address is in the certificate, too.
    let old = stage.directory.join("old.conf");
    let text = hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?;
    fs::write(
        &old,
        text.replace(OLD_NAME, &hosts.address(MASTER)?.to_string()),
    )?;
    let load = Load::start_at(&old, None, "quorate-live-old")?;
    let before = Before::look(&foreign)?;
    let back = load.now();
    let was = kept(&foreign)?;
    for landmark in LANDMARKS {
        stage.succeed(&["convert", "--pause-after", landmark, "--yes", "-f", file])?;
        stage.succeed(&["convert", "--undo", "--yes", "-f", file])?;
        let what = format!("taken back after `{landmark}`, everything is as it was");
        same(stage, &what, &kept(&foreign)?, &was);
        before.unharmed(stage, &foreign)?;
    }
    nothing_to_undo(stage, file)?;

    let words = refused(stage, file, &["old-address-in-use"])?;
    stage.check(
        "who uses the old address is named by address",
        words.contains(OPERATOR),
    );
    alone(stage, hosts)?;
    // Everything but the joins is done by now: taken back by runs that are killed, and done again by others.
    let killed_back = load.now();
    let mut kills = killed::until_done(stage, &["convert", "--undo", "--yes", "-f", file])?;
    let what = "taken back by runs that were killed, everything is as it was";
    same(stage, what, &kept(&foreign)?, &was);
    let through = load.now();
    let verb = ["convert", "--accept", STRAGGLER, "--yes", "-f", file];
    kills += killed::until_done(stage, &verb)?;
    stage.check(
        &format!("there were at least {KILLS_MIN} kills (seen {kills})"),
        kills >= KILLS_MIN,
    );
    healthy(stage, file, std::time::Duration::from_secs(120))?;
    let api = api(stage, hosts, file, NAME)?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, &foreign)?;
    let past = stage.quorate(&["convert", "--undo", "--yes", "-f", file])?;
    stage.check_eq(
        "three masters are not taken back to one",
        &past.status.code(),
        &Some(3),
    );
    stage.check("and it is said why", said(&past).contains("past-return"));
    stage.check_eq(
        "nobody left etcd, says etcdctl",
        &members(hosts, MASTER)?.len(),
        &MASTERS.len(),
    );
    load.finish_unharmed(
        stage,
        &[
            ("there and back six times", back),
            ("killed at every step of the way back", killed_back),
            ("killed at every step", through),
        ],
    )
}
