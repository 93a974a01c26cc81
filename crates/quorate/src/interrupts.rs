//! Ctrl-C, from the first look to the last: what it means depends on what is going on. Start at [`Interrupts::listen`].
//!
//! One listener for all of a command: between two of them a Ctrl-C would be nobody's, and lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_exec::{Stop, StopSignal};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{exit::Exit, failure::Failure, show::progress::Between};

/// Listens for Ctrl-C. Clones are the same listener, which goes on to the end of the process.
#[derive(Clone, Debug)]
pub struct Interrupts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    doing: Mutex<Doing>,
    /// Somebody interrupted what can be left at any moment.
    interrupted: watch::Sender<bool>,
}

/// What is going on.
#[derive(Debug)]
enum Doing {
    /// Looking, waiting, printing: it can be left.
    Nothing,
    /// A question is open, and a thread is reading for its answer.
    Asking,
    /// A run acts on hosts.
    Running {
        stop: StopSignal,
        voice: Between,
        asked: bool,
    },
}

impl Interrupts {
    /// Takes Ctrl-C over from here on. Inside a tokio runtime.
    ///
    /// # Errors
    /// When the system does not let us listen.
    pub fn listen() -> Result<Self, Failure> {
        let signals = signal(SignalKind::interrupt()).map_err(|error| {
            Failure::doing(Exit::Unexpected, "could not listen for Ctrl-C", &error)
        })?;
        let listener = Self(Arc::new(Shared {
            doing: Mutex::new(Doing::Nothing),
            interrupted: watch::Sender::new(false),
        }));
        tokio::spawn(hear(signals, listener.0.clone()));
        Ok(listener)
    }

    /// Waits until somebody interrupts what can be left; at once when that has happened.
    pub async fn interrupted(&self) {
        let mut heard = self.0.interrupted.subscribe();
        heard
            .wait_for(|interrupted| *interrupted)
            .await
            .expect("the sender lives in self");
    }

    /// Somebody has interrupted what can be left at any moment.
    pub fn heard(&self) -> bool {
        *self.0.interrupted.borrow()
    }

    /// Changes with every Ctrl-C that comes while something can be left at any moment, or ends by itself when it is asked to.
    pub fn presses(&self) -> watch::Receiver<bool> {
        self.0.interrupted.subscribe()
    }

    /// Asks a question: Ctrl-C ends the process until it was answered, since a thread that reads cannot be called back.
    ///
    /// # Errors
    /// When somebody had interrupted before it was asked.
    pub fn asking<T>(&self, ask: impl FnOnce() -> T) -> Result<T, Failure> {
        self.0.begin(Doing::Asking)?;
        let answer = ask();
        *self.0.doing() = Doing::Nothing;
        Ok(answer)
    }

    /// Until what is returned is dropped, Ctrl-C once asks the run to stop where the cluster may rest, and twice to stop at once.
    ///
    /// # Errors
    /// When somebody had interrupted before it began.
    pub fn stopping(&self, stop: StopSignal, voice: Between) -> Result<Stopping<'_>, Failure> {
        self.0.begin(Doing::Running {
            stop,
            voice,
            asked: false,
        })?;
        Ok(Stopping(self))
    }
}

/// See [`Interrupts::stopping`].
#[derive(Debug)]
#[must_use = "dropped, it is over"]
pub struct Stopping<'a>(&'a Interrupts);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        *self.0.0.doing() = Doing::Nothing;
    }
}

impl Shared {
    /// Unless somebody had interrupted what was before.
    fn begin(&self, what: Doing) -> Result<(), Failure> {
        let mut doing = self.doing();
        if *self.interrupted.borrow() {
            return Err(Failure::silent(Exit::Interrupted));
        }
        *doing = what;
        Ok(())
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn hear(mut signals: Signal, shared: Arc<Shared>) {
    while signals.recv().await.is_some() {
        match &mut *shared.doing() {
            Doing::Nothing => {
                shared.interrupted.send_replace(true);
            }
            Doing::Asking => std::process::exit(Exit::Interrupted.code().into()),
            Doing::Running {
                stop,
                voice,
                asked: true,
            } => {
                voice.say("Stopping now. Hosts finish the action they are at.");
                stop.ask(Stop::Now);
            }
            Doing::Running { stop, voice, asked } => {
                voice.say("Stopping at the next safe point. Ctrl-C again stops at once.");
                stop.ask(Stop::AtSafePoint);
                *asked = true;
            }
        }
    }
}
