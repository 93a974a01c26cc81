//! Running a program of the machine to its end: the one place where `ip`, `nft` and `ssh-keygen` are called.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{During, Error, Result, tail};

/// Where programs are looked for, for us and for what we start. Never the caller's `PATH`, which under sudo may lack
/// the `sbin` directories and otherwise may hold anything.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of a program's complaint is kept, in bytes: enough for the message of any of the programs called here.
const SAID_MAX: usize = 2000;

/// A command with a clean environment.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

/// Lets the command end with the thread that starts it. What outlived a killed command of ours would work on beside
/// the next one, without its lock.
pub(crate) fn ends_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is a plain system call and safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
                .map_err(std::io::Error::from)
        })
    }
}

/// Lets the command have no files of ours but the three it is given. What was handed to us open, a pipe or a lock of whoever started
/// us, would stay so for as long as a host runs.
pub(crate) fn keeps_nothing_open(command: &mut Command) -> &mut Command {
    // SAFETY: close_range is a plain system call and safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let (first, last) = (3_u32, u32::MAX);
            // Marked, not closed: the standard library still has to tell how exec went. Kernels before 5.11 cannot, and then do not.
            let _ = nix::libc::syscall(
                nix::libc::SYS_close_range,
                first,
                last,
                nix::libc::CLOSE_RANGE_CLOEXEC,
            );
            Ok(())
        })
    }
}

/// Runs `program` to its end and returns its stdout; a status other than 0 is an error holding its stderr.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<String> {
    let mut command = command(program);
    command.args(args);
    finish(command, None)
}

/// As [`run`], with `input` on its stdin.
pub(crate) fn run_with_input(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut command = command(program);
    command.args(args).stdin(Stdio::piped());
    finish(command, Some(input))
}

fn finish(mut command: Command, input: Option<&str>) -> Result<String> {
    ends_with_us(&mut command);
    let program = command.get_program().to_owned();
    let path = Path::new(&program);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .during("run", path)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that refuses early closes its stdin: its own words say more than our broken pipe.
        match stdin.write_all(input.as_bytes()) {
            Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(err).during("write to", path);
            }
            _ => {}
        }
    }
    let output = child.wait_with_output().during("run", path)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    let command: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
    Err(Error::Program {
        command: command.join(" "),
        status: output.status.to_string(),
        said: tail(&output.stderr, SAID_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let err = run("sh", ["-c", "echo no >&2; exit 3"]).expect_err("exit 3");
        assert_eq!(
            err.to_string(),
            "`sh -c echo no >&2; exit 3` failed (exit status: 3): no"
        );
        assert_eq!(run("echo", ["yes"]).expect("echo"), "yes\n");
        assert_eq!(run_with_input("cat", &[], "in").expect("cat"), "in");
    }

    #[test]
    fn what_was_handed_to_us_open_goes_no_further() {
        use std::os::fd::AsRawFd;
        // Unlike what Rust opens, this is kept over exec, as what a shell hands down is.
        let (read, _write) = nix::unistd::pipe().expect("a pipe");
        let script = format!("test -e /proc/self/fd/{}", read.as_raw_fd());
        let finds = |keeps: bool| {
            let mut shell = command("sh");
            shell.args(["-c", &script]);
            if !keeps {
                keeps_nothing_open(&mut shell);
            }
            shell.status().expect("sh").success()
        };
        assert!(finds(true), "the test would notice");
        assert!(!finds(false));
    }
}
