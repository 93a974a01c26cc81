//! `quorate version`.

use clap::Args;
use serde::Serialize;

use crate::{
    args::{Output, OutputArgument},
    cluster,
    console::Console,
    failure::Failure,
    show::json,
};

/// Print the version, and the hash by which hosts know this binary.
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  quorate version -o json")]
pub struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    binary: String,
}

/// Runs it.
///
/// # Errors
/// When our own binary cannot be read.
pub fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        binary: cluster::own_binary()?.hash().to_owned(),
    };
    match arguments.output.output {
        Output::Text => console.line(format!(
            "quorate {} (sha256 {})",
            version.version, version.binary
        )),
        Output::Json => console.data(&json::text("Version", &version)),
    }
}
