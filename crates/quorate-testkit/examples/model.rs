//! Explores one procedure within bounds that are given: `model one-to-three runs=2,1 faults=2 kill=1 power-cut=1 [seconds=60]`. Words
//! that are left out mean none; `docs/design/model.md` says what they mean and how long which takes.

use std::{process::ExitCode, time::Duration};

use quorate_testkit::model::{Bounds, Decisions, Fault, Pace, Rules, Search, check, procedure};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let procedures = procedure::all();
    let Some(procedure) = procedures
        .iter()
        .find(|procedure| Some(&procedure.name.to_owned()) == words.first())
    else {
        let names: Vec<&str> = procedures.iter().map(|procedure| procedure.name).collect();
        eprintln!("expected a procedure first: {}", names.join(", "));
        return ExitCode::from(2);
    };
    let mut bounds = Bounds::none();
    let mut search = Search::wide();
    for word in &words[1..] {
        if let Err(error) = take(word, &mut bounds, &mut search) {
            eprintln!("`{word}`: {error}");
            return ExitCode::from(2);
        }
    }
    println!("{}: {bounds}", procedure.name);
    let report = check(Rules::new(procedure, bounds, Decisions::default()), search);
    println!("{report}");
    println!("kept: {}", report.sizes);
    for ((name, _), story) in report.failures.iter().zip(&report.stories) {
        println!("not so: {name}\n{story}");
    }
    if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn take(word: &str, bounds: &mut Bounds, search: &mut Search) -> Result<(), String> {
    let (key, value) = word.split_once('=').ok_or("expected key=value")?;
    let number = |text: &str| text.parse::<u8>().map_err(|error| error.to_string());
    match key {
        "runs" => {
            let (ada, bob) = value.split_once(',').unwrap_or((value, "0"));
            bounds.runs = [number(ada)?, number(bob)?];
        }
        "faults" => bounds.faults = number(value)?,
        "pace" => {
            bounds.pace = match value {
                "steps" => Pace::Steps,
                "strides" => Pace::Strides,
                "both" => Pace::Both,
                _ => return Err("expected steps, strides or both".into()),
            }
        }
        "threads" => search.threads = usize::from(number(value)?),
        "seconds" => {
            let seconds = value.parse().map_err(|_| "expected a number of seconds")?;
            search.time_max = Some(Duration::from_secs(seconds));
        }
        kind => {
            let fault = Fault::ALL.into_iter().find(|fault| fault.name() == kind);
            let fault = fault.ok_or("there is no such fault")?;
            bounds.each[fault as usize] = number(value)?;
        }
    }
    Ok(())
}
