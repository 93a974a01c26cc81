//! `docs/reference/cli.md`: the help of every command.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use crate::args::Cli;

/// The page.
pub fn reference() -> String {
    let mut out = String::from(
        "# Commands\n\nThe help of every command, as `quorate COMMAND --help` prints it. Data goes to stdout, everything else to stderr; \
         see [exit codes](exit-codes.md).\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    page(&mut out, &mut root, "quorate");
    out
}

fn page(out: &mut String, command: &mut Command, path: &str) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(
        out,
        "\n## {path}\n\n```text\n{}\n```\n",
        help.join("\n").trim_end()
    )
    .expect("a String takes everything");
    for sub in command.get_subcommands_mut() {
        if sub.is_hide_set() || sub.get_name() == "help" {
            continue;
        }
        let path = format!("{path} {}", sub.get_name());
        page(out, sub, &path);
    }
}
