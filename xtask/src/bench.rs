//! `cargo xtask bench NAME`: figures, side by side with what others do, in one run on one machine. Start at [`run`].

use std::process::{Command, ExitCode};

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
}

/// Runs it on hosts of its own, which are gone afterwards.
///
/// # Errors
/// When the machine cannot have local hosts, or a build fails.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut progress = Progress::new(4);
    machine::ensure_packages(&mut progress, true)?;
    if let Some(obstacle) = Machine::look().obstacle() {
        anyhow::bail!("there is nothing to measure on: {obstacle}");
    }
    let program = build::live_cases(&mut progress)?;
    let quorate = build::quorate(&mut progress)?;
    let bundle = build::bundle(&mut progress, &quorate, build::KUBERNETES)?;
    let case = match options.name {
        Name::Replace => "bench-replace",
    };
    let status = Command::new(program)
        .arg(case)
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
