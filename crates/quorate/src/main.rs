//! Starts the command line; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate::run(std::env::args_os())
}
