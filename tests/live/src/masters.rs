//! Masters come, go and are replaced, under load: what is left is judged by tools that are not ours, and so is the host that went.
//!
//! [`replaced`] replaces a dead master, the healthy one that leads etcd, and one that is cut off and comes back. [`counted`] has a join
//! killed half way and taken back, two operators at once, and goes from three masters to five and back. [`broken_off`] has every run killed
//! at its next step.

use std::{
    collections::BTreeSet,
    fs,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use quorate_testkit::conform::Happened;
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::{Api, leader, members},
    killed, leaver,
    load::Load,
    stage::{Stage, said, tail},
};

const SWAP: &str = "live-swap";

/// How long a verdict over a silent master may take: looks over ten seconds, a lease of twenty, and a busy machine.
const VERDICT_MAX: Duration = Duration::from_secs(120);

/// How long what follows a change may take to show: the `kubernetes` service, Node conditions.
const SHOWS_MAX: Duration = Duration::from_secs(60);

/// Replaces masters that are dead, healthy and cut off.
pub fn replaced(stage: &mut Stage) -> Result<()> {
    let masters = Masters::begin(stage, SWAP, "172.31.65.0/24")?;
    let load = Load::start(&stage.directory.join("kubeconfig"))?;
    let outcome = masters.replace_three(stage, &load);
    let parts = outcome?;
    load.finish(stage, &parts)?;
    masters.api.no_join_secrets(stage)?;
    masters.nothing_to_do(stage)
}

/// Goes from three masters to five and back, with a broken join and two operators on the way.
pub fn counted(stage: &mut Stage) -> Result<()> {
    let masters = Masters::begin(stage, "live-count", "172.31.66.0/24")?;
    let load = Load::start(&stage.directory.join("kubeconfig"))?;
    let parts = masters.grow_and_shrink(stage, &load)?;
    load.finish(stage, &parts)?;
    masters.api.no_join_secrets(stage)?;
    masters.nothing_to_do(stage)
}

/// Swaps a master, and goes to five and back, by runs of apply that are each killed at their next step.
pub fn broken_off(stage: &mut Stage) -> Result<()> {
    let masters = Masters::begin(stage, "live-break", "172.31.67.0/24")?;
    let load = Load::start(&stage.directory.join("kubeconfig"))?;
    let mut parts = Parts::new();
    let mut kills = 0;
    for (part, wanted) in [
        ("a master is swapped", &["cp-1", "cp-2", "cp-4"][..]),
        (
            "three become five",
            &["cp-1", "cp-2", "cp-4", "cp-5", "cp-6"],
        ),
        ("five become three", &["cp-4", "cp-5", "cp-6"]),
    ] {
        parts.push((part, load.now()));
        masters.want(stage, wanted)?;
        let killed = killed::until_done(stage, &["apply", "--yes", "-f", &masters.file])?;
        stage.say(&format!("{part}: {killed} runs were killed"));
        kills += killed;
        masters.judge(stage, wanted)?;
    }
    stage.check(
        &format!(
            "there were at least {} kills (seen {kills})",
            killed::KILLS_MIN
        ),
        kills >= killed::KILLS_MIN,
    );
    for gone in ["cp-1", "cp-2", "cp-3"] {
        masters.judge_leaver(stage, gone)?;
    }
    load.finish(stage, &parts)?;
    masters.api.no_join_secrets(stage)?;
    masters.nothing_to_do(stage)
}

type Parts = Vec<(&'static str, crate::load::Moment)>;

/// A cluster of local hosts whose masters change.
pub struct Masters {
    file: String,
    hosts: Bare,
    api: Api,
}

impl Masters {
    /// Three masters and a worker.
    pub fn begin(stage: &mut Stage, name: &str, subnet: &str) -> Result<Self> {
        let file = stage.local_cluster(name, subnet, 3, 1)?;
        stage.succeed(&["apply", "--yes", "-f", &file])?;
        let masters = Self {
            hosts: Bare::open(name)?,
            api: Api::of(stage, &file, None)?,
            file,
        };
        masters.judge(stage, &["cp-1", "cp-2", "cp-3"])?;
        Ok(masters)
    }

    pub fn hosts(&self) -> &Bare {
        &self.hosts
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// Replaces a master by one that the file names.
    pub fn replace(&self, stage: &mut Stage, node: &str, with: &str) -> Result<()> {
        stage.succeed(&["replace", node, "--with", with, "--yes", "-f", &self.file])?;
        Ok(())
    }

    fn replace_three(&self, stage: &mut Stage, load: &Load) -> Result<Parts> {
        let mut parts = Parts::new();
        let mut there = vec!["cp-1", "cp-2", "cp-3"];

        // One that does not lead dies for good.
        let leading = leader(&self.hosts, &there)?;
        let dead = *there.iter().find(|one| **one != leading).context("three")?;
        parts.push(("a dead master is replaced", load.now()));
        self.hosts.power_off(dead)?;
        swap(&mut there, dead, "cp-4");
        self.want(stage, &there)?;
        self.await_verdict(stage, dead, "cp-4");
        let began = Instant::now();
        let file = &self.file;
        stage.succeed(&["replace", dead, "--with", "cp-4", "--yes", "-f", file])?;
        stage.say(&format!(
            "{dead} was replaced in {:.1} s, machine, images and all looks included; from the removal to a serving successor {:.1} s",
            began.elapsed().as_secs_f64(),
            self.exchange_s(stage)?
        ));
        self.judge(stage, &there)?;

        // A healthy one that leads etcd.
        let leading = leader(&self.hosts, &there)?;
        let leads = *there
            .iter()
            .find(|one| **one == leading)
            .context("it is one of them")?;
        parts.push(("the healthy leader is replaced", load.now()));
        swap(&mut there, leads, "cp-5");
        self.want(stage, &there)?;
        stage.succeed(&["replace", leads, "--with", "cp-5", "--yes", "-f", file])?;
        self.judge(stage, &there)?;
        self.judge_leaver(stage, leads)?;

        // One that nobody reaches, and that comes back.
        let leading = leader(&self.hosts, &there)?;
        let cut = *there.iter().find(|one| **one != leading).context("three")?;
        parts.push(("a master that is cut off is replaced", load.now()));
        self.hosts.cut_off(cut)?;
        stage.tell(SWAP, Happened::CutOff(cut.parse()?));
        swap(&mut there, cut, "cp-6");
        self.want(stage, &there)?;
        self.await_verdict(stage, cut, "cp-6");
        stage.succeed(&["replace", cut, "--with", "cp-6", "--yes", "-f", file])?;
        self.judge(stage, &there)?;
        parts.push(("it comes back", load.now()));
        self.hosts.mend()?;
        stage.tell(SWAP, Happened::Mended);
        stage.wait(
            &format!("{cut} is back, and its etcd has ended"),
            SHOWS_MAX,
            |_| self.hosts.holds(cut, "! pgrep -x etcd"),
        );
        self.judge(stage, &there)?;
        stage.succeed(&["repair", "--yes", "-f", file])?;
        self.judge(stage, &there)?;
        self.judge_leaver(stage, cut)?;
        Ok(parts)
    }

    fn grow_and_shrink(&self, stage: &mut Stage, load: &Load) -> Result<Parts> {
        let mut parts = Parts::new();
        let three = ["cp-1", "cp-2", "cp-3"];
        let five = ["cp-1", "cp-2", "cp-3", "cp-4", "cp-5"];
        let file = self.file.as_str();

        parts.push(("a join is killed half way and taken back", load.now()));
        self.want(stage, &five)?;
        killed::when_learner(stage, &self.hosts, &["apply", "--yes", "-f", &self.file])?;
        let learners = members(&self.hosts, "cp-1")?;
        stage.check_eq(
            "the killed join has left a learner, says etcdctl",
            &learners.iter().filter(|member| member.learner).count(),
            &1,
        );
        self.want(stage, &three)?;
        let refused = stage.quorate(&["apply", "--yes", "-f", file])?;
        stage.check_eq("apply refuses beside it", &refused.status.code(), &Some(3));
        stage.check(
            "and says why",
            said(&refused).contains("learner-present")
                || said(&refused).contains("member-unstarted"),
        );
        stage.succeed(&["repair", "--yes", "-f", file])?;
        self.judge(stage, &three)?;

        parts.push(("three become five, with two operators", load.now()));
        self.want(stage, &five)?;
        self.two_at_once(stage)?;
        self.judge(stage, &five)?;

        parts.push(("five become three", load.now()));
        self.want(stage, &three)?;
        stage.succeed(&["apply", "--yes", "-f", file])?;
        self.judge(stage, &three)?;
        for gone in ["cp-4", "cp-5"] {
            self.judge_leaver(stage, gone)?;
            stage.succeed(&["local", "destroy", gone, "--yes", "-f", file])?;
        }
        Ok(parts)
    }

    /// The file names these masters from now on.
    pub fn want(&self, stage: &Stage, masters: &[&str]) -> Result<()> {
        let path = stage.directory.join(&self.file);
        let hosts: Vec<String> = masters
            .iter()
            .map(|name| format!("{{ name: {name} }}"))
            .collect();
        let wanted = format!("controlPlane: {{ hosts: [{}] }}", hosts.join(", "));
        let text: String = fs::read_to_string(&path)?
            .lines()
            .map(|line| {
                let line = if line.starts_with("controlPlane:") {
                    wanted.as_str()
                } else {
                    line
                };
                format!("{line}\n")
            })
            .collect();
        Ok(fs::write(&path, text)?)
    }

    /// Waits until the verdict over a silent master is made: a plan alone says so.
    pub fn await_verdict(&self, stage: &mut Stage, node: &str, with: &str) {
        let file = &self.file;
        let mut last = String::new();
        let made = stage.wait(
            &format!("there is a plan to replace {node}, which does not answer"),
            VERDICT_MAX,
            |stage| {
                let plan = ["replace", node, "--with", with, "-n", "-f", file];
                stage.quorate(&plan).is_ok_and(|output| {
                    last = said(&output);
                    output.status.success()
                })
            },
        );
        if !made {
            stage.say(&tail(&last, 20));
        }
    }

    /// Everything there is, and nothing else.
    pub fn judge(&self, stage: &mut Stage, masters: &[&str]) -> Result<()> {
        let names: BTreeSet<String> = masters.iter().map(|name| (*name).to_owned()).collect();
        let addresses = masters
            .iter()
            .map(|host| Ok(self.hosts.address(host)?.to_string()))
            .collect::<Result<BTreeSet<_>>>()?;
        stage.wait("the `kubernetes` service follows", SHOWS_MAX, |stage| {
            self.api
                .serving(stage)
                .is_ok_and(|serving| serving == addresses)
        });
        healthy(stage, &self.file, SHOWS_MAX)?;
        self.api.whole(stage, &self.hosts, masters, &["w-1"])?;
        let all = members(&self.hosts, masters[0])?;
        stage.check_eq(
            "etcd has no other member, says etcdctl",
            &all.len(),
            &masters.len(),
        );
        let nodes = self.api.kubectl(stage, &["get", "nodes", "-o", "name"])?;
        stage.check_eq(
            "there is no other node, says kubectl",
            &nodes.lines().count(),
            &(masters.len() + 1),
        );
        // One look of the balancer's may be late on a machine that does too much: it tells for itself when it sees everybody.
        let mut backends = BTreeSet::new();
        stage.wait("the balancer sees every master", SHOWS_MAX, |_| {
            backends = self.backends().unwrap_or_default();
            backends.is_superset(&names)
        });
        stage.check_eq(
            "the balancer sends to every master and to nobody else",
            &backends,
            &names,
        );
        let unbound = self.api.kubectl(
            stage,
            &[
                "get",
                "pods",
                "-A",
                "-o",
                "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}",
            ],
        )?;
        let strangers: Vec<&str> = unbound
            .lines()
            .filter(|node| !node.is_empty() && *node != "w-1" && !names.contains(*node))
            .collect();
        stage.check_eq(
            "no pod is bound to a node that is gone",
            &strangers,
            &Vec::new(),
        );
        Ok(())
    }

    /// Who is sent to, as the balancer tells.
    fn backends(&self) -> Result<BTreeSet<String>> {
        let status = self.hosts.run(
            "lb-1",
            "$(readlink /proc/$(pgrep -o ^quorate-)/exe) lb status -o json",
        )?;
        let status: Value = serde_json::from_str(&status)?;
        let backends = status["backends"].as_array().into_iter().flatten();
        let sent_to = backends.filter(|one| one["leaving"] != true && one["state"] == "up");
        Ok(sent_to
            .filter_map(|one| Some(one["name"].as_str()?.to_owned()))
            .collect())
    }

    /// The machine was stopped, and nothing of the cluster is left on it.
    fn judge_leaver(&self, stage: &mut Stage, host: &str) -> Result<()> {
        stage.check(
            &format!("{host} has left: its machine is off"),
            !self.hosts.holds(host, "true"),
        );
        self.hosts.power_on(host)?;
        leaver::judge(stage, &self.hosts, host);
        self.hosts.power_off(host)
    }

    /// Two operators apply the same file at the same moment: one does it, the other is refused or finds nothing left to do.
    fn two_at_once(&self, stage: &mut Stage) -> Result<()> {
        let mut both = [self.apply(stage, "one")?, self.apply(stage, "two")?];
        let mut codes = Vec::new();
        for child in &mut both {
            codes.push(child.wait()?.code());
        }
        codes.sort_unstable();
        let said: Vec<String> = ["one", "two"]
            .iter()
            .map(|name| fs::read_to_string(log(stage, name)).unwrap_or_default())
            .collect();
        stage.check(
            &format!("of two operators at once one succeeds and one is refused (seen {codes:?})"),
            codes == [Some(0), Some(3)],
        );
        // The second code is for two who came for the fence at the same moment.
        let told = ["operation-in-force", "fenced"]
            .iter()
            .any(|code| said.iter().any(|text| text.contains(code)));
        stage.check("the refused one is told by whom", told);
        if codes != [Some(0), Some(3)] || !told {
            for text in said {
                stage.say(&tail(&text, 20));
            }
        }
        Ok(())
    }

    fn apply(&self, stage: &Stage, name: &str) -> Result<Child> {
        let log = fs::File::create(log(stage, name))?;
        Ok(stage
            .command(&["apply", "--yes", "-f", &self.file])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?)
    }

    /// Seconds from the removal of a member to the moment in which its successor served, by the last run's journal.
    pub fn exchange_s(&self, stage: &Stage) -> Result<f64> {
        let output = stage.quorate(&["journal", "show", "-o", "json", "-f", &self.file])?;
        let journal: Value = serde_json::from_slice(&output.stdout)?;
        let entries = journal["items"].as_array().context("it has entries")?;
        let at = |event: &str, what: &str| {
            let is_it = |entry: &&Value| {
                let told = &entry["event"];
                told["event"] == event && told["step"]["ensure"]["host"].get(what).is_some()
            };
            entries
                .iter()
                .find(is_it)
                .and_then(|entry| entry["at"].as_u64())
        };
        let begin = at("stepStarted", "memberGone").context("a member was removed")?;
        let end = at("stepStands", "serving").context("somebody served")?;
        Ok(end.saturating_sub(begin) as f64 / 1000.0)
    }

    fn nothing_to_do(&self, stage: &mut Stage) -> Result<()> {
        let again = stage.succeed(&["apply", "--yes", "-f", &self.file])?;
        stage.check(
            "apply has nothing to do",
            said(&again).to_lowercase().contains("nothing to do"),
        );
        Ok(())
    }
}

fn log(stage: &Stage, name: &str) -> std::path::PathBuf {
    stage.directory.join(format!("apply-{name}.log"))
}

fn swap<'a>(masters: &mut [&'a str], old: &str, new: &'a str) {
    for master in masters.iter_mut() {
        if *master == old {
            *master = new;
        }
    }
}
