//! The one place where processes are started: a program and its arguments, never a shell; a cleared environment; an end in time; output
//! capped. Secrets go into files that only root can read, never into arguments.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command as Process},
    time::timeout,
};

use crate::shown;

/// Where programs are looked for.
pub(crate) const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Output that is kept of each stream, in bytes: the list of a node's images is a few KiB. More is read and dropped.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Read at once from a program, in bytes.
const CHUNK_BYTES: usize = 8 << 10;

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    program: String,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    within: Duration,
}

/// What a program that ended well said.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: Vec<u8>,
}

impl Output {
    /// Its standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A program that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` ended with {status}:\n{said}")]
    Ended {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// Its last lines, escaped and capped.
        said: String,
    },
    /// It did not end in time and was killed.
    #[error("`{command}` did not end within {within:?} and was killed")]
    Late {
        /// The program and its arguments.
        command: String,
        /// How long it was given.
        within: Duration,
    },
}

impl Command {
    /// A program by its name.
    pub(crate) fn new(program: impl Into<String>, within: Duration) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            within,
        }
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub(crate) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable of its environment, beside `PATH` and `LANG`.
    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    fn unstarted(&self, source: io::Error) -> CommandError {
        CommandError::Start {
            program: self.program.clone(),
            source,
        }
    }

    fn late(&self) -> CommandError {
        CommandError::Late {
            command: self.shown(),
            within: self.within,
        }
    }

    /// As a person would type it.
    fn shown(&self) -> String {
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        let words: Vec<_> = std::iter::once(self.program.as_str().into())
            .chain(args)
            .collect();
        shown::line(&words.join(" "))
    }
}

/// Runs commands for one action or look.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// The host lock. Programs get it as their standard input, which is an empty file to them: one that outlives us keeps the host
    /// locked until it has ended, so that nothing is started a second time beside it.
    lock: Option<File>,
    /// A folder that a test has programs in, before all others.
    #[cfg(test)]
    pub(crate) first: Option<std::path::PathBuf>,
}

impl Tools {
    /// Tools for an action under the host lock.
    pub(crate) fn under(lock: File) -> Self {
        Self {
            lock: Some(lock),
            #[cfg(test)]
            first: None,
        }
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it cannot be started, ends with an error, or does not end in time.
    pub(crate) async fn run(&self, command: Command) -> Result<Output, CommandError> {
        let (status, stdout, stderr) = Box::pin(self.finish(&command)).await?;
        if status.success() {
            return Ok(Output { stdout });
        }
        Err(CommandError::Ended {
            command: command.shown(),
            status: how(status),
            said: said(stdout, stderr),
        })
    }

    /// Runs a program that has no end of its own until `done` has ended, then ends it with all it started, at once.
    ///
    /// # Errors
    /// When it cannot be started, ends by itself, or `done` does not end in time.
    pub(crate) async fn run_until<T>(
        &self,
        command: Command,
        done: impl Future<Output = T>,
    ) -> Result<T, CommandError> {
        let mut running = self.start(&command)?;
        tokio::select! {
            done = timeout(command.within, done) => {
                running.kill().await;
                done.map_err(|_| command.late())
            }
            (status, stdout, stderr) = running.end() => Err(CommandError::Ended {
                command: command.shown(),
                status: how(status.map_err(|source| command.unstarted(source))?),
                said: said(stdout, stderr),
            }),
        }
    }

    async fn finish(
        &self,
        command: &Command,
    ) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), CommandError> {
        let mut running = self.start(command)?;
        match timeout(command.within, running.end()).await {
            Ok((Ok(status), stdout, stderr)) => Ok((status, stdout, stderr)),
            Ok((Err(source), ..)) => Err(command.unstarted(source)),
            Err(_) => {
                running.kill().await;
                Err(command.late())
            }
        }
    }

    fn search(&self) -> String {
        #[cfg(test)]
        if let Some(first) = &self.first {
            return format!("{}:{SEARCH}", first.display());
        }
        SEARCH.to_owned()
    }

    fn start(&self, command: &Command) -> Result<Running, CommandError> {
        let unstarted = |source| command.unstarted(source);
        let stdin = match &self.lock {
            Some(lock) => Stdio::from(lock.try_clone().map_err(unstarted)?),
            None => Stdio::null(),
        };
        let child = Process::new(&command.program)
            .args(&command.args)
            .env_clear()
            .env("PATH", self.search())
            .env("LANG", "C.UTF-8")
            .envs(command.env.iter().cloned())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it started is ended with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(unstarted)?;
        Ok(Running { child })
    }
}

/// A program that was started.
struct Running {
    child: Child,
}

impl Running {
    /// Waits until it has ended by itself.
    async fn end(&mut self) -> (io::Result<ExitStatus>, Vec<u8>, Vec<u8>) {
        let stdout = self.child.stdout.take().expect("it is piped");
        let stderr = self.child.stderr.take().expect("it is piped");
        tokio::join!(self.child.wait(), capped(stdout), capped(stderr))
    }

    /// Ends it with what it started, and waits until it has ended.
    async fn kill(&mut self) {
        self.signal();
        let _ = self.child.wait().await;
    }

    fn signal(&self) {
        // One that has ended and was waited for has no ID any more.
        if let Some(group) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended in this very moment.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    /// Whoever waited for it gave up: what it started must not go on either.
    fn drop(&mut self) {
        self.signal();
    }
}

/// Tools disagree about where they say what was wrong.
fn said(stdout: Vec<u8>, stderr: Vec<u8>) -> String {
    let any = stderr.iter().any(|b| !b.is_ascii_whitespace());
    shown::tail(if any { &stderr } else { &stdout })
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

async fn capped(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return kept,
            Ok(n) => {
                let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
                kept.extend_from_slice(&chunk[..n.min(room)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn output_and_a_clean_environment() {
        let out = Tools::default()
            .run(Command::new("env", SOON).env("EXTRA", "1"))
            .await
            .unwrap();
        let mut names: Vec<String> = out
            .text()
            .lines()
            .filter_map(|l| Some(l.split_once('=')?.0.to_owned()))
            .collect();
        names.sort();
        assert_eq!(names, ["EXTRA", "LANG", "PATH"]);
    }

    #[tokio::test]
    async fn failures_say_what_the_tool_said() {
        let err = Tools::default()
            .run(Command::new("ls", SOON).arg("/nowhere-\u{1b}at-all"))
            .await
            .unwrap_err();
        let text = err.to_string();
        assert!(
            text.contains("`ls /nowhere-\\u{1b}at-all` ended with exit code 2"),
            "{text}"
        );
        assert!(text.contains("No such file"), "{text}");
        let err = Tools::default()
            .run(Command::new("no-such-program-here", SOON))
            .await
            .unwrap_err();
        assert!(matches!(err, CommandError::Start { .. }), "{err}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_what_it_started() {
        let command = Command::new("sh", Duration::from_millis(200))
            .args(["-c", "sleep 98765 & echo $!; wait"]);
        let started = tokio::time::Instant::now();
        let err = Tools::default().run(command).await.unwrap_err();
        assert!(matches!(err, CommandError::Late { .. }), "{err}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    /// What a program started was reparented; whoever reaps it may take a moment.
    async fn ended(pid: &str) {
        let stat = format!("/proc/{pid}/stat");
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        for _ in 0..1000 {
            if !runs() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{pid} runs on");
    }

    #[tokio::test]
    async fn a_program_without_an_end_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let script = format!(
            "sleep 98765 & echo $! > {0}.new; mv {0}.new {0}; wait",
            path.display()
        );
        let endless = |within| Command::new("sh", within).args(["-c", &script]);
        let there = || async {
            loop {
                if let Ok(pid) = std::fs::read_to_string(&path) {
                    return pid.trim().to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let pid = Tools::default()
            .run_until(endless(SOON), there())
            .await
            .unwrap();
        ended(&pid).await;

        std::fs::remove_file(&path).unwrap();
        let tools = Tools::default();
        let pid = tokio::select! {
            pid = there() => pid,
            never = tools.run_until(endless(SOON), std::future::pending::<()>()) => panic!("{never:?}"),
        };
        ended(&pid).await;

        let never = std::future::pending::<()>();
        let soon = Duration::from_millis(50);
        let err = Tools::default()
            .run_until(endless(soon), never)
            .await
            .unwrap_err();
        assert!(matches!(err, CommandError::Late { .. }), "{err}");

        let never = std::future::pending::<()>();
        let ends = Command::new("ls", SOON).arg("/nowhere-at-all");
        let err = Tools::default().run_until(ends, never).await.unwrap_err();
        assert!(
            matches!(&err, CommandError::Ended { said, .. } if said.contains("No such file")),
            "{err}"
        );
    }

    #[tokio::test]
    async fn the_lock_stays_with_a_program_that_runs_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let lock = open();
        lock.try_lock().unwrap();
        let tools = Tools::under(lock);
        tools
            .run(Command::new("sh", SOON).args(["-c", "exec 3<&0; sleep 1 >/dev/null 2>&1 &"]))
            .await
            .unwrap();
        // As if our process had died.
        drop(tools);
        assert!(
            open().try_lock().is_err(),
            "the program that runs on holds the lock"
        );
        open().lock().unwrap();
    }
}
