//! `quorate schema`: the JSON Schema of the cluster file, for editors.

use clap::Args;
use quorate_plan::spec;

use crate::{console::Console, failure::Failure};

/// Print the JSON Schema of the cluster file.
///
/// Editors complete and check keys while you type. Put this on the file's first line:
/// `# yaml-language-server: $schema=quorate.schema.json`
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  quorate schema > quorate.schema.json")]
pub struct Arguments {}

/// Runs it.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(_arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&spec::schema()).expect("a schema is plain data");
    console.line(text)
}
