//! Thirty-odd bugs are seeded into what decides, and the model finds each of them, by a way that a person can read.
//!
//! `QUORATE_BUG=NAME` looks for one of them and tells its story.

use quorate_testkit::model::bugs::{Bug, Found, all};

/// Longest way to a bug, in actions.
const ACTIONS_MAX: usize = 25;

/// At least that many bugs.
const BUGS_MIN: usize = 30;

/// Looks for a bug, and says what is wrong with how it was found.
fn look(bug: &Bug) -> (String, usize, Option<String>) {
    let Found { by_lint, report } = bug.look();
    let lint = if by_lint { ", and by the lint" } else { "" };
    let Some(((_, way), story)) = report.failures.first().zip(report.stories.first()) else {
        let line = format!("{:<28} NOT FOUND: {report}{lint}", bug.name);
        return (line, 0, Some("it was not found".into()));
    };
    let actions = way.len() - 1;
    let end = story.lines().last().unwrap_or_default().trim();
    let line = format!(
        "{:<28} {actions:>2} actions, {:>7} states, {:>5.1} s{lint} {end}",
        bug.name,
        report.unique,
        report.took.as_secs_f64()
    );
    let long = (actions > ACTIONS_MAX).then(|| format!("the way to it has {actions} actions"));
    (line, actions, long)
}

#[test]
fn the_model_finds_every_seeded_bug() {
    let bugs = all();
    if let Ok(name) = std::env::var("QUORATE_BUG") {
        let bug = bugs.iter().find(|bug| bug.name == name);
        let bug = bug.unwrap_or_else(|| panic!("no bug `{name}`: {bugs:?}"));
        let found = bug.look();
        println!("{}: {}\n{}", bug.name, bug.does, found.report);
        for story in &found.report.stories {
            println!("{story}");
        }
        assert!(!found.report.failures.is_empty(), "it was not found");
        return;
    }
    let mut wrong = Vec::new();
    let mut longest = 0;
    for bug in &bugs {
        let (line, actions, trouble) = look(bug);
        println!("{line}");
        longest = longest.max(actions);
        wrong.extend(trouble.map(|trouble| format!("{}: {trouble}", bug.name)));
    }
    println!(
        "COUNTED: {} of {} seeded bugs found, by ways of at most {longest} actions",
        bugs.len() - wrong.len(),
        bugs.len()
    );
    assert!(bugs.len() >= BUGS_MIN, "{} bugs", bugs.len());
    assert_eq!(wrong, Vec::<String>::new());
}
