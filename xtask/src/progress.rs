//! Runs commands one after another and shows all the time what is running, for how long and how far: a line when it begins, a line now
//! and then with its last words, a line when it ends. Whole outputs go to `target/xtask/*.log`; of a failure the end is shown.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader, IsTerminal, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Lines of a failed command's output that are shown.
const TAIL_LINES: usize = 60;

/// Shows the steps of a task.
#[derive(Debug)]
pub struct Progress {
    step: usize,
    steps: usize,
    began: Instant,
    terminal: bool,
}

impl Progress {
    /// For a task of that many steps.
    pub fn new(steps: usize) -> Self {
        Self {
            step: 0,
            steps,
            began: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Runs a command as the next step; its output goes to a log file, its last line is shown while it runs.
    ///
    /// # Errors
    /// When it cannot be started or fails; the end of its output is printed first.
    pub fn run(&mut self, title: &str, command: &mut Command) -> Result<()> {
        self.run_within(title, command, Duration::MAX)
    }

    /// The same, for at most that long: then it is asked to end, so that it can clean up, and that is a failure.
    ///
    /// # Errors
    /// As [`Progress::run`], and when it took too long.
    pub fn run_within(
        &mut self,
        title: &str,
        command: &mut Command,
        within: Duration,
    ) -> Result<()> {
        self.step += 1;
        let prefix = format!("[{}/{}] {title}", self.step, self.steps);
        let log_path = log_path(title)?;
        let mut log = File::create(&log_path)
            .with_context(|| format!("failed to create {}", log_path.display()))?;
        let line = shown(command);
        writeln!(log, "$ {line}")?;
        eprintln!("{prefix}");
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{line}`"))?;
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        let readers = [reader(out, sender.clone()), reader(err, sender)];
        let mut tail: VecDeque<String> = VecDeque::new();
        let every = if self.terminal {
            Duration::from_millis(500)
        } else {
            Duration::from_secs(15)
        };
        let mut shown_at = Instant::now();
        let mut overdue = false;
        loop {
            match lines.recv_timeout(every) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    tail.push_back(line);
                    if tail.len() > TAIL_LINES {
                        tail.pop_front();
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if !overdue && began.elapsed() > within {
                overdue = true;
                eprintln!("{prefix}: not done after {}: asked to end", seconds(within));
                // Through kill(1): ending our own child by its ID needs no further dependency here.
                let _ = Command::new("kill")
                    .args(["-TERM", &child.id().to_string()])
                    .status();
            }
            if shown_at.elapsed() >= every {
                shown_at = Instant::now();
                self.heartbeat(&prefix, began, tail.back().map_or("", String::as_str));
            }
        }
        for reader in readers {
            reader.join().expect("a reader only reads");
        }
        let status = child.wait()?;
        self.clear();
        if status.success() {
            eprintln!("{prefix}: done in {}", seconds(began.elapsed()));
            return Ok(());
        }
        for line in &tail {
            eprintln!("    {line}");
        }
        bail!(
            "`{line}` failed ({status}) after {}; its whole output is in {}",
            seconds(began.elapsed()),
            log_path.display()
        )
    }

    /// Runs a command as the next step with its output shown as it is: for tools that show progress of their own.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn run_open(&mut self, title: &str, command: &mut Command) -> Result<()> {
        self.step += 1;
        eprintln!("[{}/{}] {title}", self.step, self.steps);
        let began = Instant::now();
        let line = shown(command);
        let status = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("failed to start `{line}`"))?;
        if !status.success() {
            bail!(
                "`{line}` failed ({status}) after {}",
                seconds(began.elapsed())
            );
        }
        eprintln!(
            "[{}/{}] {title}: done in {}",
            self.step,
            self.steps,
            seconds(began.elapsed())
        );
        Ok(())
    }

    /// A step that needed nothing.
    pub fn skip(&mut self, title: &str, why: &str) {
        self.step += 1;
        eprintln!("[{}/{}] {title}: {why}", self.step, self.steps);
    }

    /// Time since the task began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn heartbeat(&self, prefix: &str, began: Instant, last: &str) {
        let last: String = last.chars().filter(|c| !c.is_control()).take(90).collect();
        let line = format!("{prefix}: {} … {last}", seconds(began.elapsed()));
        if self.terminal {
            eprint!("\r\x1b[K{}", line.chars().take(118).collect::<String>());
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn reader(
    stream: impl std::io::Read + Send + 'static,
    sender: mpsc::Sender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    })
}

/// Where a step's whole output is.
///
/// # Errors
/// When the directory cannot be made.
pub fn log_path(title: &str) -> Result<PathBuf> {
    let directory = crate::build::target_directory().join("xtask");
    fs::create_dir_all(&directory)
        .with_context(|| format!("failed to create {}", directory.display()))?;
    let name: String = title
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    Ok(directory.join(format!("{name}.log")))
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A duration as people say it: `42 s`, `3 min 05 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}
