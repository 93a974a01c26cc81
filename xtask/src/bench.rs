//! `cargo xtask bench NAME`: figures, side by side with what others do, in one run on one machine. Start at [`run`].

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{
    build,
    machine::{self, Machine},
    progress::Progress,
};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Of what.
    #[arg(value_enum)]
    name: Name,
    /// Repetitions of each kind.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Name {
    /// A dead master replaced by hand, with kubeadm, and by Quorate.
    Replace,
    /// Three masters by `quorate apply` and by plays, with Ansible's connections and with Mitogen's.
    Orchestrate,
    /// A single master that becomes three under load: gaps, failed requests, and what each stage took.
    Convert,
}

/// An Ansible with Mitogen beside it.
const ANSIBLE: &str = "ansible-core==2.19.14 mitogen==0.3.54";

/// Runs it on hosts of its own, which are gone afterwards.
///
/// # Errors
/// When the machine cannot have local hosts, or a build fails.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut progress = Progress::new(5);
    machine::ensure_packages(&mut progress, true)?;
    if let Some(obstacle) = Machine::look().obstacle() {
        anyhow::bail!("there is nothing to measure on: {obstacle}");
    }
    let program = build::live_cases(&mut progress)?;
    let quorate = build::quorate(&mut progress)?;
    let bundle = build::bundle(&mut progress, &quorate, build::KUBERNETES)?;
    let case = match options.name {
        Name::Replace => "bench-replace",
        Name::Orchestrate => "bench-orchestrate",
        Name::Convert => "bench-convert",
    };
    let variables = match options.name {
        Name::Replace | Name::Convert => Vec::new(),
        Name::Orchestrate => plays(&mut progress)?,
    };
    let status = Command::new(program)
        .arg(case)
        .envs(variables)
        .current_dir(build::root())
        .env("QUORATE_BINARY", quorate)
        .env("QUORATE_BUNDLE", bundle)
        .env("QUORATE_ROUNDS", options.rounds.to_string())
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Installs what runs plays, and says where it is.
fn plays(progress: &mut Progress) -> Result<Vec<(&'static str, PathBuf)>> {
    let place = build::target_directory().join("ansible-bench");
    let shown_by = place.join("bin/ansible-playbook");
    let title = "Install ansible-core and Mitogen";
    if shown_by.is_file() {
        progress.skip(title, "there");
    } else {
        let script = format!(
            "python3 -m venv '{0}' && '{0}/bin/pip' install --quiet {ANSIBLE}",
            place.display()
        );
        progress.build(title, Command::new("sh").args(["-c", &script]))?;
    }
    let asked = Command::new(place.join("bin/python"))
        .args([
            "-c",
            "import ansible_mitogen, os; print(os.path.dirname(ansible_mitogen.__file__))",
        ])
        .output()?;
    anyhow::ensure!(asked.status.success(), "Mitogen is not installed");
    let mitogen = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
    Ok(vec![
        ("QUORATE_ANSIBLE", place.clone()),
        ("QUORATE_ANSIBLE_OLDEST", place),
        ("QUORATE_MITOGEN", mitogen.join("plugins/strategy")),
    ])
}
