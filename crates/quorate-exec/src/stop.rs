//! How a run is asked to stop: by an operator who pressed Ctrl-C, or by a journal that cannot be written any more.

use std::sync::Arc;

use tokio::sync::watch;

/// How soon a run shall stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// When the steps in flight have ended and the cluster may be left like that: never in the middle of a change, never at two voters.
    AtSafePoint,
    /// When the steps in flight have ended. No further effect is made.
    BeforeNextEffect,
    /// Without waiting for the steps in flight. Hosts finish the action they are at.
    Now,
}

/// A handle that asks a run to stop; clones are the same signal. It only ever gets more urgent.
#[derive(Clone, Debug)]
pub struct StopSignal {
    asked: Arc<watch::Sender<Stop>>,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self {
            asked: Arc::new(watch::Sender::new(Stop::No)),
        }
    }
}

impl StopSignal {
    /// Nobody asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop at least that soon.
    pub fn ask(&self, stop: Stop) {
        self.asked.send_if_modified(|asked| {
            let more = stop > *asked;
            if more {
                *asked = stop;
            }
            more
        });
    }

    /// What was asked so far.
    pub fn asked(&self) -> Stop {
        *self.asked.borrow()
    }

    /// Waits until somebody asks to stop at least that soon; forever when nobody does.
    pub async fn reached(&self, stop: Stop) {
        let mut asked = self.asked.subscribe();
        asked
            .wait_for(|asked| *asked >= stop)
            .await
            .expect("the sender lives in self");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_only_gets_more_urgent() {
        let signal = StopSignal::new();
        let other = signal.clone();
        assert_eq!(signal.asked(), Stop::No);
        other.ask(Stop::BeforeNextEffect);
        other.ask(Stop::AtSafePoint);
        assert_eq!(signal.asked(), Stop::BeforeNextEffect);
        signal.reached(Stop::AtSafePoint).await;
        assert!(
            futures_util::FutureExt::now_or_never(signal.reached(Stop::Now)).is_none(),
            "nobody asked for that"
        );
    }
}
