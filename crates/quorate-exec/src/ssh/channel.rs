//! One channel: an `ssh` that runs something on a host, its input and output ours. Frames go over it once the binary there has greeted.

use std::{
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quorate_plan::wire::{Answer, Call, FRAME_BYTES_MAX, GREETING};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use super::{
    command::{ABSENT, Control, SshAccess, serve_script},
    failure::SshFailure,
};
use crate::hostile;

/// From the start of `ssh` to the greeting: connecting alone may take ten seconds.
pub(crate) const GREETING_MAX: Duration = Duration::from_secs(30);

/// Lines that a host's shell may print before the greeting: a talkative `.bashrc`.
const LINES_BEFORE_MAX: usize = 20;

/// Longest such line in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// How much of what `ssh` and the host say on standard error is kept, in bytes: the last of it.
const STDERR_BYTES_MAX: usize = 16 << 10;

/// How long a process may take to end once its output has.
const END_MAX: Duration = Duration::from_secs(5);

/// How long its last words may take after that.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);

/// An `ssh` that runs. When it is dropped it is killed, and the command on the host sees the end of its input.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_end: JoinHandle<()>,
    access: SshAccess,
}

impl Process {
    /// Starts `script` on a host.
    pub(crate) fn start(
        control: &Control,
        access: &SshAccess,
        script: &str,
    ) -> Result<Self, SshFailure> {
        let here = |detail: String| SshFailure::Here { detail };
        let args = control
            .shell(access, script)
            .map_err(|error| here(error.to_string()))?;
        let mut child = Command::new(&control.program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal asks the run to stop; it must not cut the channels it stops by.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                here(format!(
                    "failed to start `{}`: {error}; install the OpenSSH client",
                    control.program.display()
                ))
            })?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let errors = child.stderr.take().expect("it was asked for");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stderr_end = tokio::spawn(keep_last(errors, stderr.clone()));
        Ok(Self {
            child,
            stdin,
            stdout,
            stderr,
            stderr_end,
            access: access.clone(),
        })
    }

    /// What was said on standard error so far.
    fn said(&self) -> String {
        let bytes = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for the end, which is near: the output has ended, or the input broke.
    async fn end(&mut self) -> Option<ExitStatus> {
        drop(self.stdin.take());
        let status = timeout(END_MAX, self.child.wait()).await.ok()?.ok();
        // The last words may still be on their way through the pipe; a shared connection that holds its other end open must not hold
        // us up.
        if !self.stderr_end.is_finished() {
            let _ = timeout(LAST_WORDS_MAX, &mut self.stderr_end).await;
        }
        status
    }

    /// Why it ended, as a failure.
    pub(crate) async fn failure(&mut self) -> SshFailure {
        let status = self.end().await;
        SshFailure::of(
            status.and_then(|status| status.code()),
            &self.said(),
            &self.access.user,
            &self.access.known_hosts,
        )
    }

    /// Waits until it ended well.
    pub(crate) async fn success(&mut self, doing: &str) -> Result<(), SshFailure> {
        let status = self.end().await;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) if status.code() != Some(255) => {
                let failure = self.failure().await;
                Err(match failure {
                    SshFailure::Lost { detail } => SshFailure::Command {
                        doing: doing.into(),
                        detail,
                    },
                    other => other,
                })
            }
            _ => Err(self.failure().await),
        }
    }

    /// The next line of output, without its end; `None` at the end. What is longer than a line can be is cut.
    pub(crate) async fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = Vec::new();
        let read = (&mut self.stdout)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await?;
        Ok((read > 0).then(|| String::from_utf8_lossy(&line).trim_end().to_owned()))
    }
}

async fn keep_last(mut from: impl AsyncRead + Unpin, to: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..read]);
        let over = kept.len().saturating_sub(STDERR_BYTES_MAX);
        kept.drain(..over);
    }
}

/// What answered when `node serve` was started.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Our binary.
    Greeted(Channel),
    /// The shell: the binary is not there. The machine, as `uname -sm` says it.
    Absent {
        /// `Linux x86_64`.
        machine: String,
    },
}

/// A channel to `quorate node serve`.
#[derive(Debug)]
pub(crate) struct Channel {
    process: Box<Process>,
}

impl Channel {
    /// Starts the binary of that hash on a host.
    pub(crate) async fn open(
        control: &Control,
        access: &SshAccess,
        hash: &str,
    ) -> Result<Opened, SshFailure> {
        let mut process = Process::start(control, access, &serve_script(hash))?;
        let greeting = timeout(GREETING_MAX, greeting(&mut process, hash)).await;
        match greeting {
            Ok(Ok(None)) => Ok(Opened::Greeted(Self {
                process: Box::new(process),
            })),
            Ok(Ok(Some(machine))) => Ok(Opened::Absent { machine }),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(SshFailure::TimedOut {
                detail: format!("no greeting within {} s", GREETING_MAX.as_secs()),
            }),
        }
    }

    /// Asks.
    pub(crate) async fn ask(&mut self, call: &Call) -> Result<(), SshFailure> {
        let json = serde_json::to_vec(call).expect("calls are plain data");
        let length = u32::try_from(json.len())
            .ok()
            .filter(|length| *length <= FRAME_BYTES_MAX)
            .ok_or_else(|| SshFailure::Here {
                detail: format!(
                    "a request of {} bytes, at most {FRAME_BYTES_MAX} are possible",
                    json.len()
                ),
            })?;
        let mut frame = Vec::with_capacity(4 + json.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&json);
        let written = match &mut self.process.stdin {
            Some(stdin) => match stdin.write_all(&frame).await {
                Ok(()) => stdin.flush().await,
                Err(error) => Err(error),
            },
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        match written {
            Ok(()) => Ok(()),
            Err(_) => Err(self.process.failure().await),
        }
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Result<Answer, SshFailure> {
        let mut length = [0; 4];
        if self.process.stdout.read_exact(&mut length).await.is_err() {
            return Err(self.process.failure().await);
        }
        let length = u32::from_be_bytes(length);
        if length > FRAME_BYTES_MAX {
            return Err(SshFailure::NotUnderstood {
                expected: "a frame of at most 8 MiB",
                seen: format!("one of {length} bytes"),
            });
        }
        // Read as it comes: a length alone does not make us set memory aside.
        let mut json = Vec::new();
        let read = (&mut self.process.stdout)
            .take(u64::from(length))
            .read_to_end(&mut json)
            .await;
        match read {
            Ok(read) if read == length as usize => {}
            Ok(_) | Err(_) => return Err(self.process.failure().await),
        }
        serde_json::from_slice(&json).map_err(|error| SshFailure::NotUnderstood {
            expected: "an answer",
            seen: hostile::line(&format!("{error}: {}", String::from_utf8_lossy(&json))),
        })
    }
}

/// Reads up to the greeting. `Some`: the binary is not there, and this is the machine.
pub(crate) async fn greeting(
    process: &mut Process,
    hash: &str,
) -> Result<Option<String>, SshFailure> {
    let mut before = String::new();
    for _ in 0..LINES_BEFORE_MAX {
        let line = match process.line().await {
            Ok(Some(line)) => line,
            Ok(None) | Err(_) => return Err(process.failure().await),
        };
        let mut words = line.split_whitespace();
        match words.next() {
            Some(GREETING) => {
                let answering = words.next().unwrap_or_default();
                return if answering == hash {
                    Ok(None)
                } else {
                    Err(SshFailure::NotGreeted {
                        seen: hostile::line(&format!("that of `{answering}` instead of `{hash}`")),
                    })
                };
            }
            Some(ABSENT) => {
                let machine: Vec<&str> = words.collect();
                return Ok(Some(hostile::line(&machine.join(" "))));
            }
            _ => before = line,
        }
    }
    Err(SshFailure::NotGreeted {
        seen: format!(
            "{LINES_BEFORE_MAX} other lines, the last one `{}`",
            hostile::line(&before)
        ),
    })
}
