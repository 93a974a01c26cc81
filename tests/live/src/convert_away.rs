//! A conversion between two operators, with a worker away: a second one is refused while the first is there, goes on when it is gone, and the
//! first wakes to nothing that it may do. The worker is left over by name, and led when it is back.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{MASTERS, api, cluster_file, endpoint, trusted},
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::{listings, members, same},
    killed::journals_tell,
    stage::{Stage, said, tail},
};

const NAME: &str = "live-away";
const SUBNET: &str = "172.31.74.0/24";

/// The worker that is off while its cluster is converted.
const AWAY: &str = WORKERS[1];
const LEFT_OVER: &str = "worker-away=w-2";

/// What the first operator begins when the second comes: something is changed from then on, and most is to do.
const BEGUN: [&str; 2] = ["\"stageStarted\"", "Serve a certificate with the new names"];

/// How long a run may take until then.
const BEGUN_MAX: Duration = Duration::from_secs(120);

/// How long an operator who was outranked may take to notice it.
const NOTICED_MAX: Duration = Duration::from_secs(120);

/// How a verb ends when the cluster serves and something is missing.
const DEGRADED: i32 = 10;

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    let convert = ["convert", "--accept", LEFT_OVER, "--yes", "-f", file];

    hosts.power_off(AWAY)?;
    let refused = stage.quorate(&["convert", "--yes", "-f", file])?;
    let words = said(&refused);
    stage.check_eq(
        "a worker that is away is refused by name",
        &(
            refused.status.code(),
            words.contains("worker-away") && words.contains(AWAY),
        ),
        &(Some(3), true),
    );
    stage.check(
        "and nothing was changed",
        hosts.holds(MASTER, "! test -e /var/lib/quorate/conversion"),
    );
    two_operators(stage, hosts, file, &convert)?;
    returned(stage, hosts, file)
}

/// The worker is back: a later `convert` leads it, too.
fn returned(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    hosts.power_on(AWAY)?;
    let api = api(stage, hosts, file, NAME)?;
    stage.wait(
        "the worker that was away is Ready at the old address",
        Duration::from_secs(120),
        |stage| api.ready(stage).is_ok_and(|ready| ready.contains(AWAY)),
    );
    let status = stage.quorate(&["status", "-f", file])?;
    let words = said(&status);
    let told = words
        .lines()
        .any(|line| line.contains(AWAY) && line.contains("`quorate convert` leads it"));
    stage.check_eq(
        "`quorate status` tells of the one that was left over",
        &(status.status.code(), told),
        &(Some(DEGRADED), true),
    );
    if !told {
        stage.say(&tail(&words, 30));
    }
    stage.succeed(&["convert", "--yes", "-f", file])?;
    stage.check(
        "it leads to the endpoint",
        hosts.holds(
            AWAY,
            &format!(
                "grep -q 'server: https://{}:6443' /etc/kubernetes/kubelet.conf",
                endpoint(NAME)
            ),
        ),
    );
    for verb in ["convert", "apply"] {
        let again = stage.succeed(&[verb, "--yes", "-f", file])?;
        stage.check(
            &format!("`{verb}` has nothing to do"),
            said(&again).to_lowercase().contains("nothing to do"),
        );
    }
    healthy(stage, file, Duration::from_secs(120))?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)
}

/// Another operator, with a state directory of its own, comes in the middle.
fn two_operators(stage: &mut Stage, hosts: &Bare, file: &str, convert: &[&str]) -> Result<()> {
    let mut first = begun(stage, convert)?;
    let own = stage.directory.join("state");
    let others = stage.directory.join("state-of-another");
    stage.set("XDG_STATE_HOME", others.as_os_str());
    let outcome = taken_over(stage, hosts, file, convert, &mut first);
    if outcome.is_err() {
        // One that is stopped ends by nothing else.
        let _it_may_have_ended = first.kill();
        let _nothing_more_to_do = first.wait();
    }
    stage.set("XDG_STATE_HOME", own.as_os_str());
    // The journals of the other are on the other's machine: from those here nobody can tell what it did.
    stage.tell(NAME, Happened::ByHand);
    outcome
}

fn taken_over(
    stage: &mut Stage,
    hosts: &Bare,
    file: &str,
    convert: &[&str],
    first: &mut Child,
) -> Result<()> {
    // Somebody who knows the hosts as well as the first does.
    let pinned = format!("quorate/clusters/{NAME}");
    let (own, others) = (
        stage.directory.join("state").join(&pinned),
        stage.directory.join("state-of-another").join(&pinned),
    );
    fs::create_dir_all(&others)?;
    fs::copy(own.join("known_hosts"), others.join("known_hosts"))?;

    let refused = stage.quorate(convert)?;
    let words = said(&refused);
    stage.check_eq(
        "a second operator is refused while the first is there",
        &(
            refused.status.code(),
            words.contains("operation-in-force") || words.contains("fenced"),
        ),
        &(Some(3), true),
    );
    stage.check("the first is at work still", first.try_wait()?.is_none());

    let process = Pid::from_raw(i32::try_from(first.id())?);
    kill(process, Signal::SIGSTOP)?;
    for channel in children(process)? {
        let _it_may_have_ended = kill(channel, Signal::SIGKILL);
    }
    stage.say("the first operator is stopped, and its connections are gone");
    // What it asked of a host last may go on there for as long as that takes.
    stage.wait(
        "no host serves it any more",
        Duration::from_secs(120),
        |stage| {
            let shown = stage.quorate(&["lock", "show", "-f", file]);
            shown.is_ok_and(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.contains("convert") && !text.contains(" yes")
            })
        },
    );
    let went_on = stage.quorate(convert)?;
    stage.check_eq(
        "the second goes on to the end, and says that somebody is missing",
        &went_on.status.code(),
        &Some(DEGRADED),
    );
    stage.check(
        "and waits in vain for nobody",
        !said(&went_on).contains("waiting: host w-2"),
    );
    let there = [MASTERS.as_slice(), &[WORKERS[0], "lb-1"]].concat();
    let before = listings(hosts, &there)?;
    let members_before = members(hosts, MASTER)?;
    stage.check_eq(
        "there are three members, says etcdctl",
        &members_before.len(),
        &MASTERS.len(),
    );
    kill(process, Signal::SIGCONT)?;
    let until = Instant::now() + NOTICED_MAX;
    let code = loop {
        if let Some(status) = first.try_wait()? {
            break status.code();
        }
        if Instant::now() > until {
            bail!(
                "the first operator has not ended {} s after it woke",
                NOTICED_MAX.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let words = fs::read_to_string(stage.directory.join("first.log"))?;
    stage.say(&tail(&words, 5));
    stage.check(
        &format!("the first wakes and ends without success (seen {code:?})"),
        code.is_some_and(|code| code != 0),
    );
    let after = listings(hosts, &there)?;
    same(stage, "it changed no file on any host", &after, &before);
    stage.check_eq(
        "and no member of etcd",
        &members(hosts, MASTER)?,
        &members_before,
    );
    Ok(())
}

/// A run of the first operator, so far that it changes the cluster.
fn begun(stage: &Stage, verb: &[&str]) -> Result<Child> {
    let log = fs::File::create(stage.directory.join("first.log"))?;
    let mut child = stage
        .command(verb)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let until = Instant::now() + BEGUN_MAX;
    while !journals_tell(stage, &BEGUN) {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > until {
            let _it_may_have_ended = child.kill();
            child.wait()?;
            let words = fs::read_to_string(stage.directory.join("first.log"))?;
            bail!(
                "it never came to `{}` ({ended:?}):\n{}",
                BEGUN[1],
                tail(&words, 40)
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// Processes that a process has started and not waited for.
fn children(of: Pid) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else {
            continue;
        };
        // One that ended meanwhile is nobody's.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if parent.and_then(|parent| parent.trim().parse().ok()) == Some(of.as_raw()) {
            found.push(Pid::from_raw(id));
        }
    }
    Ok(found)
}
