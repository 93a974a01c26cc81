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

/// Columns of a line that is not on a terminal.
const COLUMNS: usize = 118;

/// Shows the steps of a task.
#[derive(Debug)]
pub struct Progress {
    step: usize,
    /// `None` until somebody knows how many there are.
    steps: Option<usize>,
    began: Instant,
    built: Duration,
    terminal: bool,
}

impl Progress {
    /// For a task of that many steps.
    pub fn new(steps: usize) -> Self {
        Self {
            steps: Some(steps),
            ..Self::open()
        }
    }

    /// For a task whose number of steps is not known yet.
    pub fn open() -> Self {
        Self {
            step: 0,
            steps: None,
            began: Instant::now(),
            built: Duration::ZERO,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// So many more steps follow, and no others.
    pub fn expect(&mut self, more: usize) {
        self.steps = Some(self.step + more);
    }

    fn prefix(&self, title: &str) -> String {
        match self.steps {
            Some(steps) => format!("[{}/{steps}] {title}", self.step),
            None => format!("[{}] {title}", self.step),
        }
    }

    /// Runs a command as the next step; its output goes to a log file, its last line is shown while it runs.
    ///
    /// # Errors
    /// When it cannot be started or fails; the end of its output is printed first.
    pub fn run(&mut self, title: &str, command: &mut Command) -> Result<()> {
        self.run_within(title, command, Duration::MAX)
    }

    /// The same for a build: its time counts apart, because a warm one takes none. See [`Progress::built`].
    ///
    /// # Errors
    /// As [`Progress::run`].
    pub fn build(&mut self, title: &str, command: &mut Command) -> Result<()> {
        let began = Instant::now();
        let outcome = self.run(title, command);
        self.built += began.elapsed();
        outcome
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
        self.run_unless(title, command, within, None).map(drop)
    }

    /// The same for a command that says with an exit code of its own that there was nothing it could do: that is `false`, and no failure.
    ///
    /// # Errors
    /// As [`Progress::run_within`].
    pub fn run_unless(
        &mut self,
        title: &str,
        command: &mut Command,
        within: Duration,
        nothing: Option<i32>,
    ) -> Result<bool> {
        self.step += 1;
        let prefix = self.prefix(title);
        let log_path = log_path(title)?;
        let mut log = File::create(&log_path)
            .with_context(|| format!("failed to create {}", log_path.display()))?;
        let line = shown(command);
        writeln!(log, "$ {line}")?;
        let began = Instant::now();
        // On a terminal the line moves, and the one that says how it ended takes its place.
        if self.terminal {
            self.heartbeat(&prefix, began, "");
        } else {
            eprintln!("{prefix}");
        }
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
                self.clear();
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
            return Ok(true);
        }
        if nothing.is_some() && status.code() == nothing {
            eprintln!("{prefix}: skipped");
            return Ok(false);
        }
        if self.terminal {
            eprintln!("{prefix}");
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
        let prefix = self.prefix(title);
        eprintln!("{prefix}");
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
        eprintln!("{prefix}: done in {}", seconds(began.elapsed()));
        Ok(())
    }

    /// The same for a build, see [`Progress::build`].
    ///
    /// # Errors
    /// As [`Progress::run_open`].
    pub fn build_open(&mut self, title: &str, command: &mut Command) -> Result<()> {
        let began = Instant::now();
        let outcome = self.run_open(title, command);
        self.built += began.elapsed();
        outcome
    }

    /// A step that needed nothing.
    pub fn skip(&mut self, title: &str, why: &str) {
        self.step += 1;
        eprintln!("{}: {why}", self.prefix(title));
    }

    /// Time since the task began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Time that went into builds.
    pub fn built(&self) -> Duration {
        self.built
    }

    fn heartbeat(&self, prefix: &str, began: Instant, last: &str) {
        let line = beat(prefix, &seconds(began.elapsed()), last, columns());
        if self.terminal {
            eprint!("\r\x1b[K{line}");
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

/// Columns of a line that does not wrap. Asked each time: windows change.
fn columns() -> usize {
    match terminal_size::terminal_size_of(std::io::stderr()) {
        // One that is as wide as the terminal would be followed by an empty one, and could not be cleared again.
        Some((columns, _)) => usize::from(columns.0).saturating_sub(1),
        None => COLUMNS,
    }
}

/// A text for people, wrapped between words for the terminal, at most 100 columns wide. All lines but the first are indented by as many
/// blanks.
pub fn wrapped(text: &str, indent: usize) -> String {
    wrap(text, indent, columns().min(100))
}

fn wrap(text: &str, indent: usize, columns: usize) -> String {
    let begins = text.len() - text.trim_start().len();
    let mut lines = vec![" ".repeat(begins)];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        let empty = line.trim().is_empty();
        if !empty && line.chars().count() + 1 + word.chars().count() > columns {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        } else {
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// What is running, for how long, and its last words, in so many columns. What does not fit is cut: its last words first, then the
/// title; the time is what shows that something lives.
fn beat(prefix: &str, took: &str, last: &str, columns: usize) -> String {
    let last = last.trim();
    let words: String = last.chars().filter(|c| !c.is_control()).collect();
    let fits = |text: &str| text.chars().count() <= columns;
    let bare = format!("{prefix}: {took}");
    let line = if words.is_empty() {
        bare
    } else {
        format!("{bare} … {words}")
    };
    if fits(&line) {
        return line;
    }
    let room = columns.saturating_sub(took.chars().count() + 2);
    if prefix.chars().count() > room {
        let cut: String = prefix.chars().take(room.saturating_sub(1)).collect();
        return format!("{cut}…: {took}").chars().take(columns).collect();
    }
    line.chars().take(columns).collect()
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

/// A duration as people say it: `42.0 s`, `3 min 05 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::{Progress, beat, wrap};

    #[test]
    fn nothing_to_do_is_neither_done_nor_a_failure() {
        let run = |code: i32, nothing: Option<i32>| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exit {code}")]);
            Progress::new(1)
                .run_unless("Exit codes", &mut command, Duration::MAX, nothing)
                .ok()
        };
        assert_eq!(run(0, Some(77)), Some(true));
        assert_eq!(run(77, Some(77)), Some(false));
        assert_eq!(run(1, Some(77)), None);
        assert_eq!(run(77, None), None);
    }

    #[test]
    fn texts_wrap_between_words() {
        let text = "  2. build quorate: about five minutes";
        assert_eq!(wrap(text, 5, 80), text);
        assert_eq!(
            wrap(text, 5, 24),
            "  2. build quorate:\n     about five minutes"
        );
        assert_eq!(wrap("averylongword b", 1, 4), "averylongword\n b");
    }

    #[test]
    fn a_moving_line_fits_the_terminal() {
        let check = |columns, expected: &str| {
            let line = beat(
                "[2/6] Build quorate",
                "17.0 s",
                "  Compiling tokio v1",
                columns,
            );
            assert_eq!(line, expected);
            assert!(line.chars().count() <= columns);
        };
        check(80, "[2/6] Build quorate: 17.0 s … Compiling tokio v1");
        check(39, "[2/6] Build quorate: 17.0 s … Compiling");
        check(27, "[2/6] Build quorate: 17.0 s");
        check(20, "[2/6] Build…: 17.0 s");
        check(5, "…: 17");
        assert_eq!(beat("[1] x", "1.0 s", "", 80), "[1] x: 1.0 s");
    }
}
