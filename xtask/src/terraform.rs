//! The Terraform modules and examples, checked by their own scripts in `terraform/tests`: what needs no AWS, and the examples applied with the
//! real provider against a stand-in on the loopback address. The stand-in and checkov are installed below the target directory. Terraform,
//! OpenTofu and the provider are nothing that this machine can be given: where they are not there the scripts say so and exit with 77, and that
//! is a skip.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    build, machine,
    progress::{self, Progress},
    pypi::Tool,
};

const MINUTE: Duration = Duration::from_secs(60);

/// How the scripts say that nothing could be tested.
const NOTHING_TESTED: i32 = 77;

/// What the scripts need besides, with the variable that tells them where it is and what it is there.
const TOOLS: [(Tool, &str, &str); 2] = [
    (
        Tool {
            folder: "moto",
            packages: "moto[ec2,elbv2,iam,route53,server]==5.2.1",
        },
        "QUORATE_MOTO_PYTHON",
        "bin/python3",
    ),
    (
        Tool {
            folder: "checkov",
            packages: "checkov==3.3.30",
        },
        "QUORATE_CHECKOV_BIN",
        "bin/checkov",
    ),
];

/// How many steps [`for_live`] has.
pub const STEPS_FOR_LIVE: usize = 2;

/// What the live case needs that runs Terraform.
const FOR_LIVE: &str = "terraform/tests/adopted.py";

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Format and tables: seconds, without the provider.
    Quick,
    /// Everything, with every example applied, by Terraform and by OpenTofu: about half an hour each.
    Whole,
}

/// Who reads the modules: the variable by which a person names his, and the name that is looked for otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Program(&'static str, &'static str);

const TERRAFORM: Program = Program("QUORATE_TERRAFORM_BIN", "terraform");
const OPEN_TOFU: Program = Program("QUORATE_TOFU_BIN", "tofu");

/// One of the scripts.
struct Suite {
    title: &'static str,
    script: &'static str,
    arguments: &'static [&'static str],
    /// With this program. Otherwise the one that the script finds.
    program: Option<Program>,
    /// After that it hangs.
    within: Duration,
}

/// What a script counted, and what it could not test.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Checks that held.
    pub passed: usize,
    /// Checks that did not.
    pub failed: usize,
    /// What the scripts said of them, in one line each.
    pub failures: Vec<String>,
    /// Each with its reason.
    pub skipped: Vec<String>,
}

/// Checks all of them, and nothing else.
///
/// # Errors
/// When a script counts nothing.
pub fn run() -> Result<ExitCode> {
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let Counts {
        passed,
        failed,
        failures,
        skipped,
    } = check(&mut Progress::new(steps(Tier::Whole)), Tier::Whole, ci)?;
    for what in &skipped {
        eprintln!("SKIPPED: {what}");
    }
    for what in &failures {
        eprintln!("FAILED: {what}");
    }
    println!(
        "{passed} passed, {failed} failed, {} skipped",
        skipped.len()
    );
    // Nothing at all is no success.
    Ok(match failed == 0 && passed > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// How many steps a tier has.
pub fn steps(tier: Tier) -> usize {
    let built = match tier {
        Tier::Quick => 0,
        Tier::Whole => 1 + TOOLS.len(),
    };
    suites(tier).len() + built
}

/// The steps of a tier. Python can be had everywhere, so in CI it may not be missing; what else the scripts need they look for themselves,
/// and where that is not there it is a skip, in CI too.
///
/// # Errors
/// When a script counts nothing.
pub fn check(progress: &mut Progress, tier: Tier, ci: bool) -> Result<Counts> {
    let mut all = Counts::default();
    // Terraform is also run by `quorate infra`.
    let quorate = match tier {
        Tier::Quick => None,
        Tier::Whole => Some(build::quorate_for_tests(progress)?),
    };
    let tools = match tier {
        Tier::Quick => Vec::new(),
        Tier::Whole => tools(progress, &TOOLS, ci)?,
    };
    for suite in suites(tier) {
        if !machine::on_path("python3") {
            let why = format!("{}: the program `python3` is absent", suite.title);
            if ci {
                bail!("CI runs everything, but {why}");
            }
            progress.skip(suite.title, "skipped");
            all.skipped.push(why);
            continue;
        }
        let mut command = suite.command();
        command.envs(quorate.iter().map(|quorate| ("QUORATE_BINARY", quorate)));
        command.envs(tools.iter().map(|(variable, place)| (variable, place)));
        let nothing = Some(NOTHING_TESTED);
        let outcome = progress.run_unless(suite.title, &mut command, suite.within, nothing);
        let failed = match outcome {
            Ok(_) => 0,
            Err(error) => {
                eprintln!("{error:#}");
                all.failures.push(format!("{}: {error:#}", suite.title));
                1
            }
        };
        match suite.counts() {
            Ok(counts) => {
                all.passed += counts.passed;
                all.failed += counts.failed.max(failed);
                all.failures.extend(counts.failures);
                all.skipped.extend(counts.skipped);
            }
            Err(error) if failed == 0 => return Err(error),
            // Why it ended before it counted was said above.
            Err(_) => all.failed += failed,
        }
    }
    Ok(all)
}

/// What a live case is told that runs Terraform, or why it cannot run here.
///
/// # Errors
/// When in CI what can be had everywhere cannot be had.
pub fn for_live(
    progress: &mut Progress,
    ci: bool,
) -> Result<Result<Vec<(&'static str, PathBuf)>, String>> {
    if !machine::on_path("python3") {
        return Ok(Err("the program `python3` is absent".to_owned()));
    }
    let (title, moto) = ("Look for Terraform", &TOOLS[..1]);
    let found = tools(progress, moto, ci)?;
    let mut look = Command::new("python3");
    look.current_dir(build::root())
        .args([FOR_LIVE, "--look"])
        .envs(found.iter().map(|(variable, place)| (variable, place)));
    progress.run_unless(title, &mut look, MINUTE, Some(NOTHING_TESTED))?;
    let log = progress::log_path(title)?;
    let text = std::fs::read_to_string(&log)
        .with_context(|| format!("failed to read {}", log.display()))?;
    let missing = text.lines().find_map(|line| line.strip_prefix("SKIPPED: "));
    Ok(match missing {
        Some(missing) => Err(missing.to_owned()),
        None => Ok(found),
    })
}

/// Installs what can be installed, but for what whoever runs this has named. Where it cannot be had the scripts look on the PATH, and say what
/// they do not find.
fn tools(
    progress: &mut Progress,
    which: &[(Tool, &'static str, &str)],
    ci: bool,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut found = Vec::new();
    for (tool, variable, shown) in which {
        if std::env::var_os(variable).is_some() {
            progress.skip(&format!("Install {}", tool.name()), "named already");
            continue;
        }
        match tool.install(progress) {
            Ok(()) => found.push((*variable, tool.place().join(shown))),
            Err(error) if ci => return Err(error),
            Err(error) => eprintln!("{} is not installed: {error:#}", tool.name()),
        }
    }
    Ok(found)
}

/// The scripts of a tier.
fn suites(tier: Tier) -> Vec<Suite> {
    let minutes = |minutes: u32| MINUTE * minutes;
    let suite = |title, script, arguments, program, within| Suite {
        title,
        script,
        arguments,
        program,
        within: minutes(within),
    };
    let modules = "terraform/tests/static.py";
    let applied = "terraform/tests/against_moto.py";
    let (terraform, tofu) = (Some(TERRAFORM), Some(OPEN_TOFU));
    match tier {
        Tier::Quick => vec![suite(
            "Terraform modules, format and tables",
            modules,
            &["--quick"],
            None,
            2,
        )],
        Tier::Whole => vec![
            suite("Terraform modules", modules, &[], terraform, 15),
            suite("Terraform examples, applied", applied, &[], terraform, 60),
            suite("Modules with OpenTofu", modules, &["--modules"], tofu, 15),
            suite("Examples applied with OpenTofu", applied, &[], tofu, 60),
        ],
    }
}

impl Suite {
    fn command(&self) -> Command {
        let mut command = Command::new("python3");
        command
            .current_dir(build::root())
            // The log is to have everything also when the script is ended.
            .env("PYTHONUNBUFFERED", "1")
            .arg(self.script)
            .args(self.arguments);
        if let Some(Program(variable, name)) = self.program {
            let named = std::env::var_os(variable).unwrap_or_else(|| name.into());
            command.env(TERRAFORM.0, named);
        }
        command
    }

    /// What it counted, by its log.
    fn counts(&self) -> Result<Counts> {
        let log = progress::log_path(self.title)?;
        let text = std::fs::read_to_string(&log)
            .with_context(|| format!("failed to read {}", log.display()))?;
        counts(&text).with_context(|| {
            format!(
                "{} counted nothing; its whole output is in {}",
                self.script,
                log.display()
            )
        })
    }
}

/// Reads the line `3 passed, 0 failed, 1 skipped`, the last of its kind, and every line that says what failed or was skipped.
fn counts(text: &str) -> Option<Counts> {
    let (passed, failed) = text.lines().rev().find_map(|line| {
        let mut parts = line.split(", ");
        let mut number = |what: &str| parts.next()?.strip_suffix(what)?.parse::<usize>().ok();
        let counted = (number(" passed")?, number(" failed")?);
        number(" skipped").map(|_| counted)
    })?;
    let said = |prefix: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    };
    Some(Counts {
        passed,
        failed,
        failures: said("FAILED: "),
        skipped: said("SKIPPED: "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scripts_say_is_counted() {
        let text = "ok: format\nSKIPPED: checkov: not on the PATH\nok: checkov 3: 5 passed, 0 failed, 2 suppressed\n\
                    FAILED: validate examples/complete\nwhy\n12 passed, 1 failed, 1 skipped\n";
        assert_eq!(
            counts(text),
            Some(Counts {
                passed: 12,
                failed: 1,
                failures: vec!["validate examples/complete".to_owned()],
                skipped: vec!["checkov: not on the PATH".to_owned()],
            })
        );
        assert_eq!(counts("Traceback (most recent call last):\n"), None);
        assert_eq!(counts("3 passed\n"), None);
    }

    #[test]
    fn the_scripts_are_there() {
        for suite in [Tier::Quick, Tier::Whole].into_iter().flat_map(suites) {
            let script = build::root().join(suite.script);
            let text = std::fs::read_to_string(&script).expect("a script that can be read");
            assert!(!text.is_empty());
        }
        assert!(build::root().join(FOR_LIVE).is_file());
        // The number that both of them mean by it.
        let script = build::root().join("terraform/tests/against_moto.py");
        let text = std::fs::read_to_string(script).expect("a script that can be read");
        assert!(text.contains(&format!("\nSKIPPED = {NOTHING_TESTED}\n")));
    }

    #[test]
    fn what_is_missing_is_named_at_the_version_that_is_installed() {
        for (tool, variable, _) in &TOOLS {
            let named = suites(Tier::Whole).iter().any(|suite| {
                let script = build::root().join(suite.script);
                let text = std::fs::read_to_string(script).expect("a script that can be read");
                let named =
                    |quote| text.contains(&format!("pip install {quote}{}{quote}", tool.packages));
                text.contains(variable) && (named("") || named("'"))
            });
            assert!(named, "{}", tool.packages);
        }
    }
}
