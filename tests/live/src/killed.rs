//! `quorate apply` is killed without warning at every step, and started again each time. Nothing is repeated that is not idempotent, and
//! the cluster in the end is the one that an undisturbed run makes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{bare::Bare, bring_up, judge::members, stage::Stage};

/// Kills before the case gives up: a plan has about fifty steps, and a run that is killed before its first effect makes no progress.
const KILLS_MAX: usize = 200;

/// Fewer kills than this leave places out: about one for every step of the plan.
pub const KILLS_MIN: usize = 40;

/// Where a run is killed, relative to events that its journal tells of.
pub struct Place {
    /// Words that one line of the journal has.
    words: &'static [&'static str],
    /// How many such lines there are by then.
    times: usize,
    /// How long after that, or when another step stands, whichever comes first: a fast machine makes several of them in that time, and the
    /// kills between them would be left out.
    after_max: Duration,
}

impl Place {
    const fn new(event: &'static [&'static str], after_max_ms: u64) -> Self {
        Self {
            words: event,
            times: 1,
            after_max: Duration::from_millis(after_max_ms),
        }
    }

    /// When that many steps stand that have this word in the journal.
    pub const fn standing(words: &'static [&'static str], times: usize) -> Self {
        Self {
            words,
            times,
            after_max: Duration::ZERO,
        }
    }

    fn is_in(&self, journal: &str) -> bool {
        let met = journal
            .lines()
            .filter(|line| self.words.iter().all(|word| line.contains(word)));
        met.count() >= self.times
    }
}

/// Before an effect, in the middle of it, when it stands, and in the middle of what comes next; also when nothing but a yes was said, when
/// nothing but the fence is taken, and when a stage was permitted: met in turn, and the plan's steps drift past them.
const PLACES: [Place; 12] = [
    Place::new(&["\"stepStarted\""], 0),
    Place::new(&["\"stepStarted\""], 60),
    Place::new(&["\"stepStands\""], 0),
    Place::new(&["\"stepStarted\""], 0),
    Place::new(&["\"fenced\""], 0),
    Place::new(&["\"stepStarted\""], 20),
    Place::new(&["\"stepStarted\""], 0),
    Place::new(&["\"stageStarted\""], 0),
    Place::new(&["\"stepStarted\""], 60),
    Place::new(&["\"started\""], 0),
    Place::new(&["\"stepStarted\""], 150),
    Place::new(&["\"stepStarted\""], 400),
];

/// How long a run may take until its first join.
const LEARNER_MAX: Duration = Duration::from_secs(240);

/// How long one run may go on without a new step.
const STEP_MAX: Duration = Duration::from_secs(180);

/// Between two looks at a journal: less than the shortest step takes.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let file = stage.cluster("live.yaml").display().to_string();
    let bundle = stage.bundle.display().to_string();
    stage.succeed(&[
        "init",
        "--name",
        "live-kill",
        "--masters",
        "3",
        "--workers",
        "1",
        "--bundle",
        &bundle,
        &file,
    ])?;
    stage.settle_in("172.31.61.0/24", &file)?;
    let kills = until_done(stage, &["apply", "--yes", "-f", &file])?;
    stage.check(
        &format!("there were at least {KILLS_MIN} kills (seen {kills})"),
        kills >= KILLS_MIN,
    );
    bring_up::healthy(stage, &file, Duration::from_secs(120))?;
    let kubeconfig = stage.directory.join("kubeconfig");
    stage.succeed(&[
        "kubeconfig",
        "-f",
        &file,
        "--out",
        &kubeconfig.display().to_string(),
    ])?;
    bring_up::judge(stage, &file, &kubeconfig)?;
    bring_up::nothing_to_do(stage, &file)
}

/// Runs a verb again and again, each time killed at the next place, until a run ends by itself. Returns how many were killed.
pub fn until_done(stage: &mut Stage, verb: &[&str]) -> Result<usize> {
    let mut kills = 0;
    for place in PLACES.iter().cycle() {
        match run_until(stage, verb, place)? {
            Ended::Killed => kills += 1,
            Ended::ByItself(code) => {
                stage.check_eq("the last run ends well", &code, &Some(0));
                break;
            }
        }
        if kills > KILLS_MAX {
            bail!("no end after {KILLS_MAX} kills: the runs make no progress");
        }
    }
    Ok(kills)
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the signal.
    Killed,
    /// With this exit code, before its place came.
    ByItself(Option<i32>),
}

/// Runs a verb, waits for that place in this run's journal, and kills it.
pub fn run_until(stage: &Stage, verb: &[&str], place: &Place) -> Result<Ended> {
    let before = journals(stage);
    let log = fs::File::create(stage.directory.join("killed.log"))?;
    let mut child = stage
        .command(verb)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                let said =
                    fs::read_to_string(stage.directory.join("killed.log")).unwrap_or_default();
                stage.say(&crate::stage::tail(&said, 40));
            }
            return Ok(Ended::ByItself(status.code()));
        }
        let mut fresh = journals(stage)
            .into_iter()
            .filter(|journal| !before.contains(journal));
        let met =
            |journal: &PathBuf| fs::read_to_string(journal).is_ok_and(|text| place.is_in(&text));
        if let Some(journal) = fresh.find(met) {
            until_another_stands(&journal, place.after_max);
            kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
            child.wait()?;
            return Ok(Ended::Killed);
        }
        if began.elapsed() > STEP_MAX {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
            child.wait()?;
            let said = fs::read_to_string(stage.directory.join("killed.log")).unwrap_or_default();
            bail!(
                "no step stood within {} s:\n{}",
                STEP_MAX.as_secs(),
                crate::stage::tail(&said, 40)
            );
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Returns when a journal tells of one more step that stands, or after that time.
fn until_another_stands(journal: &Path, after_max: Duration) {
    let standing = || {
        let text = fs::read_to_string(journal).unwrap_or_default();
        text.matches("\"stepStands\"").count()
    };
    let (began, before) = (Instant::now(), standing());
    while began.elapsed() < after_max && standing() == before {
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Runs a verb and kills it as soon as etcd has a learner.
pub fn when_learner(stage: &Stage, hosts: &Bare, verb: &[&str]) -> Result<()> {
    let log = fs::File::create(stage.directory.join("killed.log"))?;
    let mut child = stage
        .command(verb)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let until = Instant::now() + LEARNER_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(stage.directory.join("killed.log")).unwrap_or_default();
            stage.say(&crate::stage::tail(&said, 40));
            bail!("it ended with {status} before there was a learner");
        }
        let listed = members(hosts, "cp-1");
        if listed.is_ok_and(|all| all.iter().any(|member| member.learner)) {
            break;
        }
        if Instant::now() > until {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
            bail!("there was no learner within {} s", LEARNER_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
    child.wait()?;
    stage.say("it was killed while its join was half way");
    Ok(())
}

/// Whether a line of any journal that this operator has holds all these words.
pub fn journals_tell(stage: &Stage, words: &[&str]) -> bool {
    let tells = |line: &str| words.iter().all(|word| line.contains(word));
    journals(stage)
        .iter()
        .any(|journal| fs::read_to_string(journal).is_ok_and(|text| text.lines().any(tells)))
}

fn journals(stage: &Stage) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![stage.directory.join("state")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.file_name().is_some_and(|name| name == "events.jsonl") {
                found.push(path);
            }
        }
    }
    found
}
