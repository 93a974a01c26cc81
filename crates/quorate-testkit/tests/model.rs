//! Every order in which operators, hosts and faults get into each other's way, within bounds, explored to the end: every effect is safe,
//! and from every state a run comes to an end when the faults stop.
//!
//! `QUORATE_MODEL=whole` takes the wide bounds, which want an optimised build (`cargo test --profile model`); without it they are narrow.
//! `cargo run --profile model -p quorate-testkit --example model -- PROCEDURE …` takes any others.

use quorate_testkit::model::{
    Bounds, Decisions, Fault, Procedure, Rules, Search, check,
    procedure::{
        five_to_three, one_to_three, repair, replace_anew, replace_dead, replace_healthy,
        replace_leader, three_to_five,
    },
};

/// Unique states that the wide bounds have together, at least.
const WHOLE_MIN: usize = 5_000_000;

struct Exploration {
    procedure: fn() -> Procedure,
    bounds: Bounds,
}

fn explore(procedure: fn() -> Procedure, bounds: Bounds) -> Exploration {
    Exploration { procedure, bounds }
}

/// Killed at any moment, with one answer lost.
fn narrow() -> Vec<Exploration> {
    let bounds = || {
        Bounds::none()
            .runs(2, 0)
            .faults(1, &[(Fault::Kill, 1), (Fault::LoseReply, 1)])
    };
    [five_to_three as fn() -> Procedure, replace_dead, repair]
        .into_iter()
        .map(|procedure| explore(procedure, bounds()))
        .chain([explore(one_to_three, Bounds::none())])
        .collect()
}

/// What goes wrong with operators and their looks.
const OPERATORS: [(Fault, u8); 5] = [
    (Fault::Kill, 1),
    (Fault::Sleep, 1),
    (Fault::LoseReply, 1),
    (Fault::StaleLook, 1),
    (Fault::Silence, 1),
];

/// What goes wrong with hosts.
const HOSTS: [(Fault, u8); 7] = [
    (Fault::PowerCut, 1),
    (Fault::Isolate, 1),
    (Fault::Cut, 1),
    (Fault::Hide, 1),
    (Fault::LoseData, 1),
    (Fault::LoseDisk, 1),
    (Fault::Alarm, 1),
];

fn wide() -> Vec<Exploration> {
    let both: Vec<(Fault, u8)> = OPERATORS.into_iter().chain(HOSTS).collect();
    let procedures = [
        one_to_three as fn() -> Procedure,
        three_to_five,
        five_to_three,
        replace_healthy,
        replace_leader,
        replace_dead,
        replace_anew,
        repair,
    ];
    // One operator who may go on once after being broken off, and one fault of any kind.
    let faulty =
        procedures.map(|procedure| explore(procedure, Bounds::none().runs(2, 0).faults(1, &both)));
    // Two operators at once, one of whom may be killed; and, where that does not make too many, may sleep instead, or miss an answer.
    let two = |procedure, faults: &[(Fault, u8)]| {
        explore(procedure, Bounds::none().runs(1, 1).faults(1, faults))
    };
    let killed = [
        one_to_three as fn() -> Procedure,
        three_to_five,
        replace_healthy,
        repair,
    ]
    .map(|procedure| two(procedure, &OPERATORS[..1]));
    let asleep = [
        five_to_three as fn() -> Procedure,
        replace_leader,
        replace_dead,
        replace_anew,
    ]
    .map(|procedure| two(procedure, &OPERATORS[..3]));
    faulty.into_iter().chain(killed).chain(asleep).collect()
}

#[test]
fn every_order_within_the_bounds_is_safe_and_comes_to_an_end() {
    let whole = std::env::var("QUORATE_MODEL").is_ok_and(|size| size == "whole");
    let explorations = if whole { wide() } else { narrow() };
    let mut unique = 0;
    let mut wrong = Vec::new();
    for Exploration { procedure, bounds } in explorations {
        let procedure = procedure();
        let title = format!("{}: {bounds}", procedure.name);
        let rules = Rules::new(&procedure, bounds, Decisions::default());
        let report = check(rules, Search::wide());
        println!("COUNTED: {title}: {report}");
        unique += report.unique;
        for ((what, _), story) in report.failures.iter().zip(&report.stories) {
            println!("not so: {what}\n{story}");
            wrong.push(format!("{title}: not so: {what}"));
        }
        if report.failures.is_empty() && !(report.exhausted && report.done) {
            wrong.push(format!(
                "{title}: {report}, the goal is reached: {}",
                report.done
            ));
        }
    }
    println!("COUNTED: {unique} unique states in all");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if whole {
        assert!(unique >= WHOLE_MIN, "{unique} states, {WHOLE_MIN} at least");
    }
}
