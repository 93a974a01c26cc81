//! All automation: `cargo xtask test`, `cargo xtask quickstart`, `cargo xtask bench`, `cargo xtask terraform`, `cargo xtask tidy`.
//!
//! Start at [`Task`]; each task has a file. What needs the machine (packages, toolchains) is in [`machine`], how commands are run and
//! shown in [`progress`].

mod bench;
mod build;
mod fences;
mod live;
mod machine;
mod progress;
mod promises;
mod pypi;
mod quickstart;
mod runs;
mod terraform;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Quorate's own chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring up a real highly available cluster on this machine, take a master's power away, and print what that cost.
    Quickstart(quickstart::Options),
    /// Everything that checks the project: format, lints, unit, snapshot, simulation and live tests.
    Test(test::Options),
    /// Measure something side by side with what others do, on real hosts, and print ratios.
    Bench(bench::Options),
    /// The Terraform modules and examples, applied against a stand-in for AWS; part of `test --full` too.
    Terraform,
    /// Rules of this repository that a program can check.
    Tidy,
    /// Build the statically linked `quorate` that nodes run, and print where it is.
    Build,
    /// Build the bundle of components for one Kubernetes version, and print where it is.
    Bundle {
        /// Kubernetes version.
        #[arg(default_value = build::KUBERNETES)]
        kubernetes: String,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Quickstart(options) => quickstart::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Terraform => terraform::run(),
        Task::Tidy => tidy::run(),
        Task::Build => build::quorate(&mut progress::Progress::new(1)).map(|path| {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }),
        Task::Bundle { kubernetes } => build_bundle(&kubernetes),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn build_bundle(kubernetes: &str) -> anyhow::Result<ExitCode> {
    let mut progress = progress::Progress::new(2);
    let quorate = build::quorate(&mut progress)?;
    let bundle = build::bundle(&mut progress, &quorate, kubernetes)?;
    println!("{}", bundle.display());
    Ok(ExitCode::SUCCESS)
}
