//! A repository with a single master that adopts Quorate's module, with the real Terraform: `terraform/tests/adopted.py`, step by step. Start at
//! [`Repository::begin`].

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{pages, stage::Stage};

/// The longest step begins with an empty folder, applies forty resources, and looks at them again.
const STEP_MAX: Duration = Duration::from_secs(600);

/// For moto and Terraform to end.
const END_MAX: Duration = Duration::from_secs(30);

/// Until it is dropped.
pub struct Repository {
    script: Child,
    goes_on: Option<ChildStdin>,
    steps: Receiver<String>,
}

impl Repository {
    /// The repository as it was is applied in that network, while the caller does something else: [`Repository::step`] waits for it.
    pub fn begin(subnet: &str) -> Result<Self> {
        let mut script = Command::new("python3")
            .arg(pages::root().join("terraform/tests/adopted.py"))
            .arg(subnet)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start python3")?;
        let lines = BufReader::new(script.stdout.take().context("it was asked for")?).lines();
        let (sender, steps) = channel();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Ok(Self {
            goes_on: script.stdin.take(),
            script,
            steps,
        })
    }

    /// Begins the next step.
    pub fn go_on(&mut self) -> Result<()> {
        let goes_on = self.goes_on.as_mut().context("it has not ended")?;
        goes_on.write_all(b"\n").context("the script has ended")
    }

    /// What the step in hand says when it is done; every check of it has to hold.
    pub fn step<T: DeserializeOwned>(&self, stage: &mut Stage, what: &str) -> Result<T> {
        let began = Instant::now();
        let line = self
            .steps
            .recv_timeout(STEP_MAX)
            .with_context(|| format!("Terraform's script ended early: {what}"))?;
        let said: Value = serde_json::from_str(&line).context("it tells JSON")?;
        stage.check_eq(
            &format!("{what} (waited for {} s)", began.elapsed().as_secs()),
            &said["failed"],
            &Value::Array(Vec::new()),
        );
        serde_json::from_value(said).context("it tells what it says that it tells")
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        // It ends when nobody can tell it to go on.
        drop(self.goes_on.take());
        let until = Instant::now() + END_MAX;
        while matches!(self.script.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _it_ended_by_itself = self.script.kill();
                let _nobody_else_waits = self.script.wait();
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
