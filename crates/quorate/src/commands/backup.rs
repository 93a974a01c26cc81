//! `quorate backup`: looks into the sealed backup that `quorate convert` carried off the master. `age -d` and `tar` do the same.

use std::{
    fmt::Write as _,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use quorate_node::BackupContents;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    args::{Output, OutputArgument},
    cluster::read_text,
    console::Console,
    exit::Exit,
    failure::Failure,
    show::{harmless, json},
    state::Directories,
};

/// Look into the backup that a conversion carried off its master, sealed.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate backup show ~/.local/state/quorate/clusters/demo/backups/cp-1-0123456789ab.age
  quorate backup unpack cp-1-0123456789ab.age restored --identity key.txt
  etcdutl snapshot status restored/etcd.snapshot
  age -d -i key.txt cp-1-0123456789ab.age | tar -tv     the same without quorate")]
pub enum Command {
    /// List what is in it, having read and verified all of it.
    Show(ShowArguments),
    /// Put all of it into a new folder that only you can enter. Private keys are among it.
    Unpack(UnpackArguments),
}

/// Which backup, and what opens it.
#[derive(Debug, Args)]
struct SealedArguments {
    /// The sealed file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file with the age identity that opens it. Default: the one that `quorate convert` made on this machine.
    #[arg(short, long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// Which backup, and how to write what is in it.
#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    sealed: SealedArguments,
    #[command(flatten)]
    output: OutputArgument,
}

/// Which backup, and where to.
#[derive(Debug, Args)]
pub struct UnpackArguments {
    #[command(flatten)]
    sealed: SealedArguments,
    /// The folder. It must not be there yet.
    #[arg(value_name = "DIR")]
    into: PathBuf,
}

#[derive(Serialize)]
struct Object<'a> {
    file: String,
    #[serde(flatten)]
    contents: &'a BackupContents,
}

/// Runs it.
///
/// # Errors
/// When it cannot be read or opened, or is not whole.
pub fn run(command: &Command, console: &mut Console) -> Result<(), Failure> {
    match command {
        Command::Show(arguments) => show(arguments, console),
        Command::Unpack(arguments) => {
            let contents = open(&arguments.sealed, Some(&arguments.into))?;
            let into = arguments.into.display();
            console.say(format!(
                "{} entries are in `{into}`, verified. Private keys of the cluster are among them.",
                contents.entries.len()
            ));
            Ok(())
        }
    }
}

fn show(arguments: &ShowArguments, console: &mut Console) -> Result<(), Failure> {
    let contents = open(&arguments.sealed, None)?;
    let file = arguments.sealed.file.display().to_string();
    if let Output::Json = arguments.output.output {
        let contents = &contents;
        return console.data(&json::text("Backup", &Object { file, contents }));
    }
    let mut text = String::new();
    for entry in &contents.entries {
        let path = harmless(&entry.path);
        writeln!(text, "{:04o} {:>12}  {path}", entry.mode, entry.bytes)
            .expect("a String takes everything");
    }
    console.data(&text)?;
    console.say(match &contents.snapshot {
        Some((bytes, sha256)) => format!(
            "Whole. etcd's snapshot of {bytes} bytes has the hash at its end and the one its host noted: {sha256}"
        ),
        None => "Whole. There is no snapshot of etcd in it: its host is no master.".to_owned(),
    });
    Ok(())
}

fn open(arguments: &SealedArguments, into: Option<&Path>) -> Result<BackupContents, Failure> {
    let identity = match &arguments.identity {
        Some(path) => path.clone(),
        None => Directories::of_process()?.backup_identity(),
    };
    let text = read_text("the age identity", &identity).map_err(|failure| {
        failure
            .hint("--identity names the one that opens it: that of the recipient it was sealed to")
    })?;
    let text = Zeroizing::new(text);
    let doing = || format!("could not open the backup `{}`", arguments.file.display());
    let file = File::open(&arguments.file)
        .map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?;
    quorate_node::read_backup(BufReader::new(file), &identity, &text, into)
        .map_err(|error| Failure::doing(Exit::Unexpected, doing(), &error))
}
