//! Founders that lose everything in the middle of a founding. One of three joins once the others have founded; without two nothing was
//! served yet, and the founding begins again with what was left moved aside.

use std::time::Duration;

use anyhow::Result;
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::{Api, members, voters},
    killed::{Ended, Place, run_until},
    stage::{Stage, said},
};

const NAME: &str = "live-late";
const MASTERS: [&str; 3] = ["cp-1", "cp-2", "cp-3"];

/// All kubelets run: every founder's etcd may have written.
const ALL_START: Place = Place::standing(&["\"stepStands\"", "{\"kubelet\":"], 3);

/// The first kubelet runs.
const ONE_STARTS: Place = Place::standing(&["\"stepStands\"", "{\"kubelet\":"], 1);

/// A founder's etcd has a write-ahead log.
const WROTE: &str = "ls /var/lib/etcd/member/wal/*.wal";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let file = stage.local_cluster(NAME, "172.31.69.0/24", 3, 1)?;

    killed_at(stage, &file, &ALL_START)?;
    let hosts = Bare::open(NAME)?;
    wrote(stage, &hosts, &MASTERS);
    destroy(stage, &file, "cp-3")?;
    let applied = stage.succeed(&["apply", "--yes", "-f", &file])?;
    stage.check(
        "one of three founders was made anew: it joins",
        said(&applied).contains("Join cp-3: promote it"),
    );
    whole(stage, &file, &hosts)?;
    stage.succeed(&["destroy", "--yes", "-f", &file])?;
    stage.tell(NAME, Happened::AllDestroyed);

    killed_at(stage, &file, &ONE_STARTS)?;
    let hosts = Bare::open(NAME)?;
    wrote(stage, &hosts, &["cp-1"]);
    for host in ["cp-2", "cp-3"] {
        destroy(stage, &file, host)?;
    }
    let applied = stage.succeed(&["apply", "--yes", "-f", &file])?;
    let said = said(&applied);
    stage.check(
        "two of three founders were made anew: nobody joins, all found again",
        said.contains("Found the control plane") && !said.contains("Join cp-"),
    );
    stage.check(
        "what the first founding had written lies aside",
        hosts.holds(
            "cp-1",
            "ls -d /var/lib/quorate/aside/*/var/lib/etcd/member/wal",
        ),
    );
    whole(stage, &file, &hosts)
}

fn killed_at(stage: &mut Stage, file: &str, place: &Place) -> Result<()> {
    let ended = run_until(stage, &["apply", "--yes", "-f", file], place)?;
    stage.check_eq("apply was killed while it founded", &ended, &Ended::Killed);
    Ok(())
}

fn destroy(stage: &mut Stage, file: &str, host: &str) -> Result<()> {
    stage.succeed(&["local", "destroy", host, "--yes", "-f", file])?;
    stage.tell(NAME, Happened::Destroyed(host.parse()?));
    Ok(())
}

/// Waits until these have written: what a kubelet was told goes on without whoever told it.
fn wrote(stage: &mut Stage, hosts: &Bare, founders: &[&str]) {
    for founder in founders {
        stage.wait(
            &format!("{founder} has written"),
            Duration::from_secs(60),
            |_| hosts.holds(founder, WROTE),
        );
    }
}

/// The cluster of the file, as tools see it that are not ours.
fn whole(stage: &mut Stage, file: &str, hosts: &Bare) -> Result<()> {
    healthy(stage, file, Duration::from_secs(60))?;
    let api = Api::of(stage, file, None)?;
    api.whole(stage, hosts, &MASTERS, &["w-1"])?;
    stage.check_eq(
        "etcd has no other member, says etcdctl",
        &members(hosts, "cp-1")?.len(),
        &MASTERS.len(),
    );
    stage.check_eq(
        "and all of them vote",
        &voters(hosts, "cp-2")?.len(),
        &MASTERS.len(),
    );
    for master in MASTERS {
        stage.check(
            &format!("{master} founds nothing any more, and is guarded"),
            hosts.holds(
                master,
                "grep -q '\"done\": *true' /var/lib/quorate/founding.json || test ! -e /var/lib/quorate/founding.json; \
                 test -e /var/lib/quorate/etcd-member.json",
            ),
        );
    }
    let again = stage.succeed(&["apply", "--yes", "-f", file])?;
    stage.check(
        "another apply says that there is nothing to do",
        said(&again).contains("nothing to do"),
    );
    api.no_join_secrets(stage)
}
