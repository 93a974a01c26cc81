//! Follows journals of real runs through the model: `replay-journal DIRECTORY…`, each the `runs` of one cluster below the operator's state.

use std::{path::PathBuf, process::ExitCode};

use quorate_testkit::conform::{Found, follow_runs};

fn main() -> ExitCode {
    let directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if directories.is_empty() {
        eprintln!("expected directories of runs: …/clusters/NAME/runs");
        return ExitCode::from(2);
    }
    let mut departed = false;
    for directory in directories {
        let told = match follow_runs(&directory, &[]) {
            Ok(told) => told,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        };
        for run in &told {
            println!("{run}");
            departed |= matches!(run.found, Found::Departed(_));
        }
    }
    if departed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
