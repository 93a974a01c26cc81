//! Runs Terraform where it may take long: what it tells is passed on as it comes, Ctrl-C asks it once to end, and it is waited for. Start at
//! [`drive`].

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    pin::Pin,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use quorate_exec::hostile;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::stream::{Counts, Lines, Said, Trouble};
use crate::interrupts::Interrupts;

/// What is wrong that is kept, of each run; more say nothing more.
const TROUBLES_MAX: usize = 20;

/// Lines that are no JSON and are passed on; a program that crashes writes thousands.
const OTHERS_MAX: usize = 20;

/// What it says on stderr that is kept, in bytes: its last words.
const LAST_WORDS_BYTES: usize = 8 << 10;

/// How long its output is still read when it has ended: something that it started may hold the pipe open.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What becomes of one that says nothing.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// It changes nothing: after so long without a word it is asked to end, and after the grace is killed.
    Until {
        /// Without a word.
        silent: Duration,
        /// To end when it was asked.
        grace: Duration,
    },
    /// It changes things, and only it knows what it has begun: it is never killed. Every so often its silence is told.
    Forever {
        /// How often.
        tell: Duration,
    },
}

/// What is heard of it, on the way.
#[derive(Debug)]
pub enum Heard<'a> {
    /// What it says.
    Said(&'a Said),
    /// It was asked to end.
    Asked,
    /// Somebody wants it to end again, and it is still waited for.
    AskedAgain {
        /// Its process.
        process: u32,
    },
    /// Nothing, for so long.
    Silence(Duration),
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// By what it says itself.
    pub status: ExitStatus,
    /// The operator asked it to.
    pub interrupted: bool,
    /// It said nothing for too long, and was asked to or killed.
    pub silent: bool,
    /// What it said is wrong.
    pub troubles: Vec<Trouble>,
    /// Resources, as it counted them last.
    pub counts: Option<Counts>,
    /// Its last words on stderr, harmless.
    pub last_words: String,
}

impl Ended {
    /// In words, for a message.
    pub fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("it ended with {code}"),
            (None, Some(number)) => format!("signal {number} ended it"),
            (None, None) => "it ended".to_owned(),
        }
    }
}

/// Runs it to its end. It has a process group of its own: a Ctrl-C that a terminal sends to everybody would be a second one for it, and makes it
/// end at once and forget what is on its way.
///
/// # Errors
/// When it cannot be started or waited for.
pub async fn drive(
    command: Command,
    patience: Patience,
    interrupts: &Interrupts,
    tell: &mut dyn FnMut(Heard<'_>),
) -> io::Result<Ended> {
    let mut presses = interrupts.presses();
    let mut command = tokio::process::Command::from(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let process = child.id().unwrap_or_default();
    let pid = i32::try_from(process).ok().map(Pid::from_raw);
    let (lines_to, mut lines) = mpsc::channel(256);
    let out = child.stdout.take().expect("stdout is a pipe");
    let reading = tokio::spawn(read_lines(out, lines_to));
    let err = child.stderr.take().expect("stderr is a pipe");
    let mut last_words = tokio::spawn(read_end(err));
    // A terminal that is closed, or a service that is stopped, is no reason to lose what is on its way either.
    let mut others = match patience {
        Patience::Forever { .. } => vec![
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ],
        Patience::Until { .. } => Vec::new(),
    };

    let mut heard = Hearing::default();
    let mut asked = false;
    let mut silent = false;
    let mut last = Instant::now();
    let mut alarm: Pin<Box<Sleep>> = Box::pin(sleep(patience.first()));
    let mut open = true;
    let status = loop {
        tokio::select! {
            // Whoever wants an end is heard above any noise.
            biased;
            () = pressed(&mut presses, &mut others) => {
                if asked {
                    tell(Heard::AskedAgain { process });
                } else {
                    asked = true;
                    heard.interrupted = true;
                    tell(Heard::Asked);
                    // It may have ended just now.
                    let _ = pid.map(|pid| kill(pid, Signal::SIGINT));
                    if let Patience::Until { grace, .. } = patience {
                        silent = true;
                        alarm.as_mut().reset(Instant::now() + grace);
                    }
                }
            }
            line = lines.recv(), if open => match line {
                Some(line) => {
                    last = Instant::now();
                    if !silent {
                        alarm.as_mut().reset(last + patience.first());
                    }
                    heard.hear(&line, tell);
                }
                None => open = false,
            },
            status = child.wait() => break status?,
            () = &mut alarm => {
                let quiet = last.elapsed();
                match patience {
                    Patience::Forever { tell: every } => {
                        tell(Heard::Silence(quiet));
                        alarm.as_mut().reset(Instant::now() + every);
                    }
                    Patience::Until { grace, .. } if !silent => {
                        (silent, asked, heard.silent) = (true, true, true);
                        tell(Heard::Silence(quiet));
                        let _ = pid.map(|pid| kill(pid, Signal::SIGINT));
                        alarm.as_mut().reset(Instant::now() + grace);
                    }
                    Patience::Until { grace, .. } => {
                        let _ = pid.map(|pid| killpg(pid, Signal::SIGKILL));
                        alarm.as_mut().reset(Instant::now() + grace);
                    }
                }
            }
        }
    };
    // What it said last may still be on its way.
    let until = Instant::now() + DRAIN_MAX;
    while open {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => heard.hear(&line, tell),
                None => open = false,
            },
            () = sleep_until(until) => open = false,
        }
    }
    reading.abort();
    let last_words = tokio::select! {
        words = &mut last_words => words.unwrap_or_default(),
        () = sleep_until(until) => String::new(),
    };
    Ok(Ended {
        status,
        interrupted: heard.interrupted,
        silent: heard.silent,
        troubles: heard.troubles,
        counts: heard.counts,
        last_words,
    })
}

impl Patience {
    fn first(self) -> Duration {
        match self {
            Self::Until { silent, .. } => silent,
            Self::Forever { tell } => tell,
        }
    }
}

/// Waits for the next time that somebody wants an end.
async fn pressed(
    presses: &mut tokio::sync::watch::Receiver<bool>,
    others: &mut [tokio::signal::unix::Signal],
) {
    let (first, rest) = match others {
        [first, rest @ ..] => (Some(first), rest.first_mut()),
        [] => (None, None),
    };
    let heard = async |signal: Option<&mut tokio::signal::unix::Signal>| match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    };
    tokio::select! {
        changed = presses.changed() => {
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
        () = heard(first) => {}
        () = heard(rest) => {}
    }
}

#[derive(Default)]
struct Hearing {
    interrupted: bool,
    silent: bool,
    troubles: Vec<Trouble>,
    counts: Option<Counts>,
    others: usize,
}

impl Hearing {
    fn hear(&mut self, line: &[u8], tell: &mut dyn FnMut(Heard<'_>)) {
        let said = Said::of(line);
        match &said {
            Said::Wrong(trouble) => {
                if self.troubles.len() == TROUBLES_MAX {
                    return;
                }
                self.troubles.push(trouble.clone());
            }
            Said::Counts(counts) => self.counts = Some(*counts),
            Said::Other(_) => {
                self.others += 1;
                if self.others > OTHERS_MAX {
                    return;
                }
            }
            Said::Happens(_) => {}
            Said::Nothing => return,
        }
        tell(Heard::Said(&said));
    }
}

async fn read_lines(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Vec<u8>>) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        for line in lines.take(&buffer[..count]) {
            if to.send(line).await.is_err() {
                return;
            }
        }
    }
    if let Some(rest) = lines.rest() {
        // Nobody listens any more: it is late.
        let _ = to.send(rest).await;
    }
}

async fn read_end(mut from: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let over = kept.len().saturating_sub(LAST_WORDS_BYTES);
        kept.drain(..over);
    }
    hostile::text(String::from_utf8_lossy(&kept).trim())
}
