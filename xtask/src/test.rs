//! `cargo xtask test`: everything that checks the project, in tiers. What cannot run here is skipped loudly and counted; in CI it fails.
//! Start at [`run`].

mod checks;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    live::{self, Case, Shard},
    machine::{self, Machine},
    progress::{Progress, seconds},
    runs::Runs,
    terraform,
};

/// What the main tier may take on a machine of two cores when nothing has to be built.
const MAIN_MAX: Duration = Duration::from_secs(40 * 60);

/// What it may take with every build from nothing.
const COLD_MAX: Duration = Duration::from_secs(75 * 60);

/// Seeds of the simulation.
const SEEDS: &str = "20000";

/// The crate of the in-memory cluster.
const MODEL: &str = "quorate-testkit";

/// The live cases that need Ansible.
const PLAYS: [&str; 3] = ["ansible", "ansible-convert", "ansible-packages"];

/// The live case that needs Terraform.
const TERRAFORM: &str = "convert-terraform";

/// What to test.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Every live case, also the slow variants: hours. Without it: every verb's main path, at most 40 minutes with warm builds.
    #[arg(long)]
    full: bool,
    /// Of `--full`, one part of several, about equally long: `2/4`. What is no live case belongs to the first part.
    #[arg(long, value_name = "K/N", requires = "full")]
    shard: Option<Shard>,
    /// Leave out live cases that were green on this very commit already. Each is named, and counted as skipped.
    #[arg(long)]
    resume: bool,
    /// Only the live case of that name. `list` shows them.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["full", "resume"])]
    only: Option<String>,
    /// Do not install missing Debian packages: name them and stop.
    #[arg(long)]
    no_install: bool,
}

/// Counts over everything that ran.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Adds counts.
    pub fn add(&mut self, passed: usize, failed: usize, skipped: usize) {
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

/// A run of the tests.
struct Test<'a> {
    options: &'a Options,
    /// Nothing may be missing.
    ci: bool,
    progress: Progress,
    tally: Tally,
    /// What is left out and why, said again at the end.
    skipped: Vec<String>,
    /// What failed and how, said again at the end: what is kept of a long run is often its end alone.
    failures: Vec<String>,
    /// Cases among them that were green on this commit before.
    green_before: usize,
    /// Where each Ansible is, by the variable that tells live cases. None: it was not looked for, or cannot be had here.
    plays: Vec<(&'static str, PathBuf)>,
    /// Where Terraform's stand-in for AWS is, alike; or why Terraform cannot run here.
    terraform: Result<Vec<(&'static str, PathBuf)>, String>,
}

/// What live cases run.
struct Ready {
    quorate: PathBuf,
    /// By Kubernetes version.
    bundles: BTreeMap<String, PathBuf>,
}

impl Ready {
    fn bundle(&self, kubernetes: &str) -> Result<&Path> {
        let bundle = self.bundles.get(kubernetes);
        Ok(bundle.with_context(|| format!("no bundle of {kubernetes} was built"))?)
    }
}

/// Runs the tests.
///
/// # Errors
/// When something that is not a test fails: a build, a package.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut progress = Progress::open();
    let program = build::live_cases(&mut progress)?;
    let all = live::cases(&program)?;
    if options.only.as_deref() == Some("list") {
        list(&all);
        return Ok(ExitCode::SUCCESS);
    }
    let shard = options.shard.unwrap_or(Shard::WHOLE);
    let cases = shard.of(&live::choose(&all, options.full, options.only.as_deref())?);
    let mut test = Test {
        options,
        ci: std::env::var_os("CI").is_some_and(|value| value == "true"),
        progress,
        tally: Tally::default(),
        skipped: Vec::new(),
        failures: Vec::new(),
        green_before: 0,
        plays: Vec::new(),
        terraform: Err("it was not looked for".to_owned()),
    };
    test.announce(&cases);
    // Packages; quorate and the bundle; format, lints, licences with their tool, the collection with Ansible, tests and the model built and
    // run; Terraform's.
    let rest = options.only.is_none() && shard.number == 1;
    let plays = cases.iter().any(|case| PLAYS.contains(&case.name.as_str()));
    let modules = cases.iter().any(|case| case.name == TERRAFORM);
    let tier = if options.full {
        terraform::Tier::Whole
    } else {
        terraform::Tier::Quick
    };
    // What is no live case needs one bundle, too.
    let versions: BTreeSet<&str> = cases
        .iter()
        .map(|case| case.kubernetes.as_str())
        .chain(rest.then_some(build::KUBERNETES))
        .collect();
    let steps = 15 + terraform::steps(tier);
    test.progress.expect(
        2 + versions.len()
            + if rest { steps } else { 2 * usize::from(plays) }
            + terraform::STEPS_FOR_LIVE * usize::from(modules)
            + cases.len(),
    );
    test.packages()?;
    if rest {
        test.checks()?;
    } else if plays {
        test.ansible()?;
    }
    if modules {
        test.terraform = terraform::for_live(&mut test.progress, test.ci)?;
    }
    let ready = test.ready(&cases, &versions)?;
    if rest {
        test.workspace(ready.as_ref())?;
        test.model()?;
        test.terraform(tier)?;
    }
    if let Some(ready) = &ready {
        test.live(&program, &cases, ready, &all)?;
    }
    Ok(test.end())
}

fn list(cases: &[Case]) {
    for case in cases {
        let tier = if case.full { "full" } else { "main" };
        println!(
            "{:<16} {tier} {:>5} s  {}  {}",
            case.name,
            case.budget.as_secs(),
            case.kubernetes,
            case.about
        );
    }
}

impl Test<'_> {
    fn announce(&self, cases: &[Case]) {
        let sum: Duration = cases.iter().map(|case| case.budget).sum();
        eprintln!(
            "{} live cases, expected within {} together, after the builds:",
            cases.len(),
            seconds(sum)
        );
        for case in cases {
            eprintln!(
                "    {:<16} {:>12}  {}",
                case.name,
                seconds(case.budget),
                case.about
            );
        }
        if self.main() {
            eprintln!(
                "All of it within {} and the builds, or {} with them: a live case that would not fit is cut, and said.",
                seconds(MAIN_MAX),
                seconds(COLD_MAX)
            );
        }
        eprintln!(
            "CI is {}.",
            if self.ci {
                "on: what is missing on the machine is a failure"
            } else {
                "off"
            }
        );
    }

    /// The tier that has a time to keep.
    fn main(&self) -> bool {
        !self.options.full && self.options.only.is_none()
    }

    fn skip(&mut self, what: String) {
        eprintln!("SKIPPED: {what}");
        self.skipped.push(what);
        self.tally.add(0, 0, 1);
    }

    fn packages(&mut self) -> Result<()> {
        let installed = machine::ensure_packages(&mut self.progress, !self.options.no_install);
        match installed {
            Err(error) if self.ci || self.options.no_install => Err(error),
            // Where they cannot be installed the live part says so below; the rest does not need them.
            Err(error) => {
                eprintln!("{error:#}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What live cases run, built, with a bundle of each of these Kubernetes versions. `None` where they cannot run.
    fn ready(&mut self, cases: &[Case], versions: &BTreeSet<&str>) -> Result<Option<Ready>> {
        match Machine::look().obstacle() {
            None => {
                let quorate = if cases.is_empty() {
                    build::quorate_for_tests(&mut self.progress)?
                } else {
                    build::quorate(&mut self.progress)?
                };
                let mut bundles = BTreeMap::new();
                for &version in versions {
                    let bundle = build::bundle(&mut self.progress, &quorate, version)?;
                    bundles.insert(version.to_owned(), bundle);
                }
                Ok(Some(Ready { quorate, bundles }))
            }
            Some(obstacle) if self.ci => bail!("CI runs everything, but {obstacle}"),
            Some(obstacle) => {
                eprintln!("Nothing that needs real hosts can run here: {obstacle}");
                for case in cases {
                    self.skip(format!("live case {}: {obstacle}", case.name));
                }
                Ok(None)
            }
        }
    }

    /// The tests of all crates but the one whose tests are played optimised, in a step of their own.
    fn workspace(&mut self, ready: Option<&Ready>) -> Result<()> {
        let arguments = [
            "test",
            "--workspace",
            "--exclude",
            MODEL,
            "--locked",
            "--no-fail-fast",
        ];
        let mut environment = Vec::new();
        if let Some(ready) = ready {
            let bundle = ready.bundle(build::KUBERNETES)?;
            environment = vec![
                ("QUORATE_BUNDLE", bundle.to_path_buf()),
                ("QUORATE_ETCD", bundle.join("bin/etcd")),
                ("QUORATE_BINARY", ready.quorate.clone()),
            ];
        }
        self.cargo_tests(
            "Build the tests",
            "Unit and snapshot tests",
            &arguments,
            // A test that passes because it is skipped says so, and that counts.
            &["--", "--show-output"],
            &environment,
        )
    }

    /// Everything that is played over the in-memory cluster, optimised: the tests of plans and of whole runs, the model to the end of its
    /// bounds, the simulation over thousands of seeds. What was counted is said below the step.
    fn model(&mut self) -> Result<()> {
        let arguments = [
            "test",
            "--profile",
            "model",
            "--package",
            MODEL,
            "--tests",
            "--locked",
            "--no-fail-fast",
        ];
        let environment = [
            ("QUORATE_MODEL", PathBuf::from("whole")),
            ("QUORATE_SEEDS", PathBuf::from(SEEDS)),
            // A simulation is made of small allocations: kept at hand by their thread, they take a fifth of its time less.
            (
                "GLIBC_TUNABLES",
                PathBuf::from("glibc.malloc.tcache_count=1000:glibc.malloc.tcache_max=65536"),
            ),
        ];
        self.cargo_tests(
            "Build the model",
            "Model, simulation and runs in memory",
            &arguments,
            &["--", "--show-output"],
            &environment,
        )
    }

    fn terraform(&mut self, tier: terraform::Tier) -> Result<()> {
        let counts = terraform::check(&mut self.progress, tier, self.ci)?;
        self.tally.add(counts.passed, counts.failed, 0);
        self.failures.extend(counts.failures);
        for what in counts.skipped {
            self.skip(what);
        }
        Ok(())
    }

    /// Builds tests, runs them, and counts what cargo's test runner says. `more` is for the runner alone.
    fn cargo_tests(
        &mut self,
        build_title: &str,
        title: &str,
        arguments: &[&str],
        more: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Result<()> {
        let mut building = build::cargo(arguments);
        self.progress.build(build_title, building.arg("--no-run"))?;
        let mut tests = build::cargo(arguments);
        tests.args(more);
        tests.envs(environment.iter().map(|(name, value)| (name, value)));
        let outcome = self.progress.run(title, &mut tests);
        let log = crate::progress::log_path(title)?;
        let text = std::fs::read_to_string(&log)
            .with_context(|| format!("failed to read {}", log.display()))?;
        let (passed, failed, ignored) = count(&text);
        self.tally.add(passed, failed, ignored);
        self.failures.extend(failures(&text));
        for what in text
            .lines()
            .filter_map(|line| line.strip_prefix("SKIPPED: "))
        {
            self.skip(what.to_owned());
        }
        for what in text
            .lines()
            .filter_map(|line| line.strip_prefix("COUNTED: "))
        {
            eprintln!("    {what}");
        }
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            self.failures.push(format!("{title}: {error:#}"));
            self.tally.failed = self.tally.failed.max(1);
        }
        Ok(())
    }

    fn live(&mut self, program: &Path, cases: &[Case], ready: &Ready, all: &[Case]) -> Result<()> {
        let mut runs = Runs::open()?;
        if runs.commit().is_none() {
            eprintln!("Files differ from the last commit: what is green now is nobody's promise.");
        }
        for case in cases {
            if let Some(run) = runs.passed(&case.name).filter(|_| self.options.resume) {
                let why = format!(
                    "live case {} was green on this commit on {}, with {} checks",
                    case.name, run.date, run.checks
                );
                self.leave_out(case, "green already", why);
                self.green_before += 1;
                continue;
            }
            if PLAYS.contains(&case.name.as_str()) && self.plays.is_empty() {
                let why = format!("live case {}: there is no Ansible here", case.name);
                self.leave_out(case, "skipped", why);
                continue;
            }
            let terraform = match &self.terraform {
                Err(why) if case.name == TERRAFORM => {
                    let why = format!("live case {}: {why}", case.name);
                    self.leave_out(case, "skipped", why);
                    continue;
                }
                Err(_) => &[][..],
                Ok(terraform) => terraform,
            };
            let tools = [&self.plays, terraform].concat();
            if let Some(why) = self.does_not_fit(case) {
                self.leave_out(case, "cut", why);
                continue;
            }
            let began = self.progress.elapsed();
            let live::Outcome { counts, failures } = live::run(
                &mut self.progress,
                program,
                case,
                &ready.quorate,
                ready.bundle(&case.kubernetes)?,
                &tools,
            )?;
            self.failures.extend(failures);
            let took = self.progress.elapsed() - began;
            eprintln!(
                "    {} passed, {} failed; {} of {} expected",
                counts.0,
                counts.1,
                seconds(took),
                seconds(case.budget)
            );
            self.tally.add(counts.0, counts.1, 0);
            runs.record(&case.name, counts, took)?;
        }
        if self.options.full && !self.ci {
            let names: Vec<String> = all.iter().map(|case| case.name.clone()).collect();
            if runs.publish(&names)? {
                eprintln!("docs/promises.md has the new runs: commit it.");
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, case: &Case, short: &str, why: String) {
        self.progress.skip(&format!("Live: {}", case.name), short);
        self.skip(why);
    }

    /// Why a case of the main tier cannot run in the time that is left.
    fn does_not_fit(&self, case: &Case) -> Option<String> {
        if !self.main() {
            return None;
        }
        let (all, built) = (self.progress.elapsed(), self.progress.built());
        does_not_fit(all, built, case.budget).map(|why| {
            format!(
                "live case {} is cut: {why}; run `cargo xtask test --only {}`",
                case.name, case.name
            )
        })
    }

    fn end(self) -> ExitCode {
        if !self.skipped.is_empty() {
            eprintln!("\nSkipped:");
            for what in &self.skipped {
                eprintln!("    {what}");
            }
        }
        if !self.failures.is_empty() {
            eprintln!("\nFailed:");
            for what in &self.failures {
                eprintln!("    {}", what.replace('\n', "\n        "));
            }
        }
        eprintln!(
            "all of it took {}, {} of it builds",
            seconds(self.progress.elapsed()),
            seconds(self.progress.built())
        );
        let Tally {
            passed,
            failed,
            skipped,
        } = self.tally;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        // Nothing at all is no success; what was green on this very commit is something.
        if failed == 0 && passed + self.green_before > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn does_not_fit(all: Duration, built: Duration, budget: Duration) -> Option<String> {
    let tested = all.saturating_sub(built);
    for (what, gone, max) in [("tests", tested, MAIN_MAX), ("all", all, COLD_MAX)] {
        if gone + budget > max {
            return Some(format!(
                "{what} may take {}, {} are gone, and it is expected to take {}",
                seconds(max),
                seconds(gone),
                seconds(budget)
            ));
        }
    }
    None
}

/// Sums up what cargo's test runner said: passed, failed, ignored.
fn count(text: &str) -> (usize, usize, usize) {
    let mut sum = (0, 0, 0);
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        let count = |what: &str| -> usize {
            line.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or(0)
        };
        sum.0 += count("passed");
        sum.1 += count("failed");
        sum.2 += count("ignored");
    }
    sum
}

/// Lines of what a failed test said that are said again.
const SAID_LINES: usize = 12;

/// The failed tests in what cargo's test runner said, each with the beginning of its own words.
fn failures(text: &str) -> Vec<String> {
    let mut failures = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // Programs that are their own test runner just end.
        if line.starts_with("thread 'main'") && line.contains("panicked at") {
            let said = lines.peek().copied().unwrap_or_default();
            failures.push(format!("{line}\n{said}"));
        }
        let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"))
        else {
            continue;
        };
        let mut said = Vec::new();
        while let Some(line) =
            lines.next_if(|line| !line.starts_with("---- ") && *line != "failures:")
        {
            if !line.trim().is_empty() && said.len() < SAID_LINES {
                said.push(line);
            }
        }
        // With `--show-output` tests that passed have such a part too.
        if text.contains(&format!("test {name} ... FAILED")) {
            said.insert(0, name);
            failures.push(said.join("\n"));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_named_with_what_they_said() {
        let text = "test well ... ok\ntest badly ... FAILED\n\nsuccesses:\n\n---- well stdout ----\nfine\n\n\nfailures:\n\n\
                    ---- badly stdout ----\n\nthread 'badly' panicked at a.rs:1:1:\nno\n\n\nfailures:\n    badly\n\n\
                    test result: FAILED. 1 passed; 1 failed;\n\
                    thread 'main' (7) panicked at b.rs:1:1:\nneither\n";
        assert_eq!(
            failures(text),
            [
                "badly\nthread 'badly' panicked at a.rs:1:1:\nno",
                "thread 'main' (7) panicked at b.rs:1:1:\nneither"
            ]
        );
    }

    #[test]
    fn what_the_test_runner_says_is_counted() {
        let text = "running 3 tests\n\
                    test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        assert_eq!(count(text), (13, 2, 1));
    }

    #[test]
    fn a_case_is_cut_when_the_time_is_over() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let fits = |all, built, budget| {
            does_not_fit(minutes(all), minutes(built), minutes(budget)).is_none()
        };
        assert!(fits(30, 0, 10));
        assert!(!fits(31, 0, 10), "40 minutes of tests");
        assert!(fits(60, 30, 10), "builds count apart");
        assert!(!fits(66, 40, 10), "75 minutes of everything");
    }
}
