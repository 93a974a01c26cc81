//! Running the Go toolchain so that the machine it runs on does not show in what it makes. Start at [`Go::find`].

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;
use thiserror::Error;

use crate::version::Arch;

/// Which Go toolchain builds the components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Toolchain {
    /// The one named in the sources' file `toolchain`; `go` fetches it when another one is installed.
    #[default]
    Pinned,
    /// The installed one, whichever it is. Its version is recorded, and other bytes come out than with the pinned one.
    Installed,
}

/// Lines of a failed command's output that an error keeps: enough for a compiler's error and its cause.
const TAIL_LINES: usize = 30;
/// Characters of one kept line.
const LINE_CHARS_MAX: usize = 400;
/// Bytes of standard output kept: answers of `go env` and `go mod download` are a few hundred.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why a `go` command did not do its work.
#[derive(Debug, Error)]
pub enum GoError {
    /// There is no `go`.
    #[error(
        "the program `go` is needed to build a bundle and cannot be started\nhint: install Go (https://go.dev/dl), any version since 1.21: it fetches {wanted} by itself"
    )]
    Absent {
        /// The toolchain the sources pin.
        wanted: String,
        /// Why it cannot be started.
        #[source]
        err: io::Error,
    },
    /// The toolchain that answers is not the pinned one.
    #[error(
        "the sources pin Go toolchain {wanted}, but {got} answers\nhint: install {wanted}, or build with the installed one and accept other bytes"
    )]
    Other {
        /// The toolchain the sources pin.
        wanted: String,
        /// The one that answered.
        got: String,
    },
    /// A command failed.
    #[error("`{command}` failed ({status}) in {dir}; the end of its output:\n{tail}")]
    Failed {
        /// The command as one could type it.
        command: String,
        /// The folder it ran in.
        dir: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote, control characters escaped.
        tail: String,
    },
    /// A command's output could not be read.
    #[error("cannot read the output of `{command}`")]
    Output {
        /// The command as one could type it.
        command: String,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// A command's answer is not what it was asked for.
    #[error("`{command}` answered something else than the JSON it was asked for")]
    Answer {
        /// The command as one could type it.
        command: String,
        /// What is wrong with it.
        #[source]
        err: serde_json::Error,
    },
}

/// A toolchain that answered.
#[derive(Debug)]
pub(crate) struct Go {
    /// Such as `go1.26.8`.
    pub(crate) version: String,
    environment: Vec<(&'static str, OsString)>,
}

/// What `go build` is told for one component.
#[derive(Debug)]
pub(crate) struct GoBuild<'a> {
    pub(crate) tags: &'a str,
    pub(crate) linker_flags: &'a str,
    pub(crate) packages: Vec<&'a str>,
}

impl GoBuild<'_> {
    /// The arguments but for the output folder: what a manifest says about how a program was built.
    fn arguments(&self) -> Vec<&str> {
        let mut arguments = vec!["build", "-trimpath", "-buildvcs=false"];
        if !self.tags.is_empty() {
            arguments.extend(["-tags", self.tags]);
        }
        arguments.extend(["-ldflags", self.linker_flags]);
        arguments
    }

    /// The command without packages and folders.
    pub(crate) fn describe(&self) -> String {
        shown("go", self.arguments())
    }
}

/// Settings of `go` that are about where modules come from: the user's own, kept.
const KEPT: [&str; 10] = [
    "GOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GOPRIVATE",
    "GONOPROXY",
    "GOINSECURE",
    "GOAUTH",
    "GOMODCACHE",
    "GOCACHE",
    "GOPATH",
];

impl Go {
    /// Asks `go` who it is, and settles the environment of all further commands.
    ///
    /// # Errors
    /// When there is no `go`, or not the wanted toolchain.
    pub(crate) fn find(choice: Toolchain, pinned: &str, arch: Arch) -> Result<Self, GoError> {
        let selected = match choice {
            Toolchain::Pinned => pinned,
            Toolchain::Installed => "local",
        };
        let mut ask = Command::new("go");
        // Outside any module, so that no go.mod's own toolchain line has a say.
        ask.args(["env", "-json", "GOVERSION"])
            .args(KEPT)
            .current_dir("/")
            .env("GOTOOLCHAIN", selected)
            .env("GOWORK", "off");
        let answer = match run(&mut ask) {
            Err(GoError::Output { err, .. }) if err.kind() == io::ErrorKind::NotFound => {
                return Err(GoError::Absent {
                    wanted: pinned.to_owned(),
                    err,
                });
            }
            other => other?,
        };
        let settings: std::collections::BTreeMap<String, String> = serde_json::from_slice(&answer)
            .map_err(|err| GoError::Answer {
                command: show(&ask),
                err,
            })?;
        let version = settings.get("GOVERSION").cloned().unwrap_or_default();
        accept(choice, pinned, &version)?;
        let mut environment: Vec<(&'static str, OsString)> = KEPT
            .iter()
            .filter_map(|&name| Some((name, settings.get(name)?.into())))
            .collect();
        environment.extend(
            [
                // From here on the user's `go env -w` settings have no say: flags and experiments there change the bytes.
                ("GOENV", "off"),
                ("GOFLAGS", "-mod=readonly"),
                ("GOTOOLCHAIN", selected),
                ("GOWORK", "off"),
                ("GO111MODULE", "on"),
                ("GOOS", "linux"),
                ("GOARCH", arch.name()),
                // The oldest processor of each kind, whatever this machine's default is.
                ("GOAMD64", "v1"),
                ("GOARM64", "v8.0"),
                // Static programs, and no C compiler whose version would show.
                ("CGO_ENABLED", "0"),
            ]
            .map(|(name, value)| (name, value.into())),
        );
        Ok(Self {
            version,
            environment,
        })
    }

    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new("go");
        for name in [
            "GOEXPERIMENT",
            "GODEBUG",
            "GOFIPS140",
            "GO_EXTLINK_ENABLED",
            "GOGCCFLAGS",
        ] {
            command.env_remove(name);
        }
        command
            .current_dir(dir)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Builds main packages of the module in `dir` into the folder `out`.
    ///
    /// # Errors
    /// When the command fails; the error has the end of its output.
    pub(crate) fn build(&self, dir: &Path, out: &Path, what: &GoBuild<'_>) -> Result<(), GoError> {
        let mut target = out.as_os_str().to_owned();
        target.push("/");
        let mut command = self.command(dir);
        command
            .args(what.arguments())
            .arg("-o")
            .arg(target)
            .args(&what.packages);
        run(&mut command).map(drop)
    }

    /// The folder with the source of a module that the module in `dir` requires; checked against its `go.sum`.
    ///
    /// # Errors
    /// When it cannot be downloaded or its content is not the pinned one.
    pub(crate) fn source(&self, dir: &Path, module: &str) -> Result<PathBuf, GoError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            dir: PathBuf,
        }
        let mut command = self.command(dir);
        command.args(["mod", "download", "-json", module]);
        let answer = run(&mut command)?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|err| GoError::Answer {
            command: show(&command),
            err,
        })?;
        Ok(answer.dir)
    }
}

/// Whether the toolchain that answered is the one asked for.
fn accept(choice: Toolchain, pinned: &str, version: &str) -> Result<(), GoError> {
    match choice {
        Toolchain::Pinned if version != pinned => Err(GoError::Other {
            wanted: pinned.to_owned(),
            got: version.to_owned(),
        }),
        Toolchain::Pinned | Toolchain::Installed => Ok(()),
    }
}

/// Runs a command to its end and returns its standard output.
fn run(command: &mut Command) -> Result<Vec<u8>, GoError> {
    let unread = |command: &Command, err| GoError::Output {
        command: show(command),
        err,
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|err| unread(command, err))?;
    let stdout = child.stdout.take().expect("standard output was piped");
    let stderr = child.stderr.take().expect("standard error was piped");
    let (answer, tail) = std::thread::scope(|scope| {
        let tail = scope.spawn(|| tail(stderr));
        let mut answer = Vec::new();
        let mut stdout = stdout;
        let read = (&mut stdout)
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer);
        // What is beyond is not kept, but read, so that the command does not block on a full pipe.
        let read = read.and_then(|_| io::copy(&mut stdout, &mut io::sink()));
        (
            read.map(|_| answer),
            tail.join().expect("reading lines does not panic"),
        )
    });
    let status = child.wait().map_err(|err| unread(command, err))?;
    if !status.success() {
        let dir = command
            .get_current_dir()
            .unwrap_or(Path::new("."))
            .to_owned();
        return Err(GoError::Failed {
            command: show(command),
            dir,
            status,
            tail,
        });
    }
    answer.map_err(|err| unread(command, err))
}

/// The last lines of an output, indented, fit to be shown.
fn tail(output: impl Read) -> String {
    let mut lines = VecDeque::new();
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    // A line longer than the limit is cut into several; its end is what matters least.
    while reader
        .by_ref()
        .take(64 << 10)
        .read_until(b'\n', &mut line)
        .is_ok_and(|n| n > 0)
    {
        let text = String::from_utf8_lossy(&line);
        // Progress of module downloads says nothing about a failure.
        if !text.starts_with("go: downloading ") {
            lines.push_back(shown_line(text.trim_end()));
        }
        if lines.len() > TAIL_LINES {
            lines.pop_front();
        }
        line.clear();
    }
    lines
        .into_iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn shown_line(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(LINE_CHARS_MAX) {
        match c {
            '\t' => out.push_str("    "),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

fn show(command: &Command) -> String {
    let arguments: Vec<String> = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    shown(
        &command.get_program().to_string_lossy(),
        arguments.iter().map(String::as_str),
    )
}

fn shown<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=@:,+%".contains(c);
    let quoted = arguments.into_iter().map(|argument| {
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.to_owned()
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    std::iter::once(program.to_owned())
        .chain(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_keeps_the_end_of_its_output() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for i in $(seq 50); do echo line $i >&2; done; printf 'a\\033[31mb\\n' >&2; exit 3",
        ]);
        let err = run(&mut command).unwrap_err().to_string();
        assert!(err.contains("line 50"), "{err}");
        assert!(!err.contains("line 10\n"), "{err}");
        assert!(err.contains("a\\u{1b}[31mb"), "{err}");
        assert!(err.contains("exit status: 3"), "{err}");
    }

    #[test]
    fn an_output_without_end_does_not_block() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2",
        ]);
        assert_eq!(run(&mut command).unwrap().len() as u64, ANSWER_BYTES_MAX);
    }

    #[test]
    fn another_toolchain_than_the_pinned_one_is_refused() {
        let err = accept(Toolchain::Pinned, "go1.26.8", "go1.26.7")
            .unwrap_err()
            .to_string();
        assert!(
            err.contains("pin Go toolchain go1.26.8, but go1.26.7 answers"),
            "{err}"
        );
        assert!(accept(Toolchain::Pinned, "go1.26.8", "go1.26.8").is_ok());
        assert!(accept(Toolchain::Installed, "go1.26.8", "go1.26.7").is_ok());
    }

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let build = GoBuild {
            tags: "no_a no_b",
            linker_flags: "-s -w",
            packages: vec![],
        };
        assert_eq!(
            build.describe(),
            "go build -trimpath -buildvcs=false -tags 'no_a no_b' -ldflags '-s -w'"
        );
    }
}
