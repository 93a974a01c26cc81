//! Live cases: real hosts, real Kubernetes, the real `quorate` binary as a person would run it, and checks that do not trust it.
//!
//! `quorate-live CASE` runs one; `cargo xtask test` runs them in their tiers. Start at [`CASES`]; what a case has at hand is in
//! [`stage`]. Every case makes its own hosts and removes them again, also after a failure, and compares the machine before and after.

mod bring_up;
mod killed;
mod stage;

use std::process::ExitCode;

use stage::Stage;

/// A case by name. `list` prints these for xtask: name, tier, budget in seconds, sentence.
const CASES: &[Case] = &[
    Case {
        name: "bring-up",
        full: true,
        budget_s: 420,
        about: "three masters founded together, second apply, power-loss drills, everything off and on again",
        run: bring_up::run,
    },
    Case {
        name: "killed",
        full: true,
        budget_s: 420,
        about: "apply killed at every step, started again each time, ends in the same cluster",
        run: killed::run,
    },
];

struct Case {
    name: &'static str,
    full: bool,
    budget_s: u64,
    about: &'static str,
    run: fn(&mut Stage) -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        for case in CASES {
            println!(
                "{}\t{}\t{}\t{}",
                case.name,
                if case.full { "full" } else { "main" },
                case.budget_s,
                case.about
            );
        }
        return ExitCode::SUCCESS;
    }
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        eprintln!("no live case is called `{name}`; `list` shows them");
        return ExitCode::from(2);
    };
    match stage::perform(case.name, case.run) {
        Ok((passed, failed)) => {
            println!("{passed} passed, {failed} failed");
            if failed == 0 && passed > 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
