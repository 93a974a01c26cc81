//! `quorate explain`: the page about a mistake in the cluster file (`Q0102`), about a refusal (`would-lose-quorum`) or about what a lint found
//! (`master-stopped`).

use clap::Args;
use quorate_infra::Code as Found;
use quorate_plan::{diagnostic::Code, refusal::RefusalCode};

use crate::{
    console::Console,
    failure::Failure,
    reference,
    show::{prose, table::Table},
};

/// Explain a mistake, a refusal or a finding: what it means, and the way on.
///
/// Without a code, lists all of them, and which refusals can be accepted for one node.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  quorate explain Q0204\n  quorate explain would-lose-quorum\n  quorate explain"
)]
pub struct Arguments {
    /// `Q0102`, or the name of a refusal or of a finding.
    code: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When there is no such code.
pub fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let Some(name) = &arguments.code else {
        return list(console);
    };
    if let Some(code) = Code::parse(name) {
        let page = prose(code.explanation(), console.columns());
        return console.data(&format!("{code}: {}\n\n{page}", code.title()));
    }
    if let Some(code) = RefusalCode::parse(name) {
        let page = reference::runbook(code);
        return console.data(&prose(page.trim_start_matches("# "), console.columns()));
    }
    if let Some(code) = Found::parse(name) {
        let page = prose(&code.page(), console.columns());
        return console.data(&format!("{code}: {}\n\n{page}", code.title()));
    }
    let shown = quorate_exec::hostile::line(name);
    Err(Failure::usage(format!("there is no code `{shown}`"))
        .hint("`quorate explain` lists all codes"))
}

fn list(console: &mut Console) -> Result<(), Failure> {
    let mut mistakes = Table::new(["CODE", "MISTAKE IN THE CLUSTER FILE"]);
    for code in Code::ALL {
        mistakes.row([code.to_string(), code.title().to_owned()]);
    }
    let mut refusals = Table::new(["REFUSAL", "CAN BE ACCEPTED", "MEANS"]);
    for code in RefusalCode::ALL {
        let accepted = if code.acceptable() {
            format!("--accept {code}=NODE")
        } else {
            "no".to_owned()
        };
        refusals.row([
            code.to_string(),
            accepted,
            reference::runbook_title(*code).to_owned(),
        ]);
    }
    let mut found = Table::new(["FINDING OF `quorate lint`", "MEANS"]);
    for code in Found::ALL {
        found.row([code.to_string(), code.title().to_owned()]);
    }
    console.data(&format!(
        "{}\n{}\n{}",
        mistakes.text(console.columns()),
        refusals.text(console.columns()),
        found.text(console.columns())
    ))
}
