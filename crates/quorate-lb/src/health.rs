//! What a backend's answers make of it. Pure: time and evidence come in, a state and actions go out.
//! Start at [`step`]; the table of every state and event is in this module's tests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Health;
use crate::jitter::{Jitter, Limits};

/// What is thought of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Never seen ready. Gets no connections, unless nobody else can take them.
    Unknown,
    /// Answers, and `/readyz` says 200.
    Up,
    /// An answer is late, or the kept connection broke: new connections go elsewhere.
    Suspect,
    /// Answers, but `/readyz` says no (or its certificate is wrong): no new connections, established
    /// ones are kept. This is how an apiserver leaves gracefully.
    NotReady,
    /// Its port refuses. No new connections; established ones are left alone, because an apiserver
    /// that shuts down closes its port first and then finishes what it has.
    Closed,
    /// Silent while others answer: established connections were reset.
    Dead,
}

impl State {
    /// The word shown to people.
    pub fn word(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Suspect => "suspect",
            State::NotReady => "not ready",
            State::Closed => "closed",
            State::Dead => "dead",
        }
    }
}

/// One piece of evidence about one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A PING was answered.
    Answered {
        /// From sending it to the answer.
        rtt: Duration,
    },
    /// `/readyz` said 200.
    Ready,
    /// `/readyz` said something else, or nothing while PINGs were answered.
    NotReady,
    /// A PING, or a dial, is unanswered.
    Silent {
        /// How long, counting only time in which our own loop was not late.
        lasted: Duration,
        /// Whether another backend answered when this one was late already, and others have been heard again
        /// for as long as nobody was. Otherwise the fault may be ours: our link, our machine.
        others_answer: bool,
    },
    /// The kept connection ended without notice.
    Lost,
    /// The backend said goodbye (GOAWAY). Apiservers do that to spread connections too: no evidence
    /// about its health, the next dial is.
    Left,
    /// A dial was refused: the host answers, the port is closed.
    Refused,
    /// Something answers, but not with a certificate or protocol to trust.
    Untrusted,
}

/// What has to happen because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Reset every established connection to the backend.
    ResetEstablished,
    /// Give the kept connection up and dial afresh: TCP backs off for seconds after a silence.
    Redial,
    /// Let new connections come back slowly.
    SlowStart,
}

/// The numbers [`step`] judges by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// See [`Health::suspect_after`].
    pub suspect_after: Duration,
    /// See [`Health::dead_after`].
    pub dead_after: Duration,
    /// See [`Health::dead_after_max`].
    pub dead_after_max: Duration,
    /// See [`Health::warm_up`].
    pub warm_up: Duration,
    /// See [`Health::rise`].
    pub rise: u32,
}

impl Rules {
    /// The rules a configuration asks for.
    pub fn of(health: &Health) -> Rules {
        Rules {
            suspect_after: health.suspect_after,
            dead_after: health.dead_after,
            dead_after_max: health.dead_after_max,
            warm_up: health.warm_up,
            rise: health.rise,
        }
    }
}

/// What is remembered of one backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tracker {
    state: State,
    since: Duration,
    /// Whether it was ever up: the first start is let in at once, a return is not.
    seen: bool,
    /// When it last came up; a suspicion in between does not count.
    up_since: Option<Duration>,
    /// Whether the last `/readyz` on the present connection was 200.
    ready: bool,
    /// Good `/readyz` in a row.
    good: u32,
    jitter: Jitter,
}

impl Tracker {
    /// A backend nothing is known of.
    pub fn new(now: Duration) -> Tracker {
        Tracker {
            state: State::Unknown,
            since: now,
            seen: false,
            up_since: None,
            ready: false,
            good: 0,
            jitter: Jitter::default(),
        }
    }

    /// A backend that was up for the process image before this one.
    pub(crate) fn resumed(now: Duration) -> Tracker {
        Tracker {
            state: State::Up,
            seen: true,
            ready: true,
            ..Tracker::new(now)
        }
    }

    /// What is thought of it.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Its usual answer to PING; none before the first.
    pub fn rtt(&self) -> Option<Duration> {
        self.jitter.smoothed()
    }

    /// The limits in force: the configured ones, raised by the lateness seen lately, and while little
    /// was seen yet: a server that has just started is slow, and nobody knows yet what is usual here.
    pub(crate) fn limits(&self, rules: &Rules, now: Duration) -> Limits {
        let warm = match (self.state, self.up_since) {
            _ if rules.warm_up.is_zero() => 1.0,
            (State::Up | State::Suspect, Some(since)) => now
                .saturating_sub(since)
                .div_duration_f64(rules.warm_up)
                .min(1.0),
            // Not in use: nothing is won by a quick verdict, and one coming back must not fail for a
            // single late answer.
            (State::Up | State::Suspect, None)
            | (State::Unknown | State::NotReady | State::Closed | State::Dead, _) => 0.0,
        };
        let least = rules.dead_after_max.mul_f64(1.0 - warm);
        let dead = rules.dead_after.max(least);
        self.jitter
            .limits(rules.suspect_after, dead, rules.dead_after_max, now)
    }

    fn enter(&mut self, state: State, now: Duration) {
        if self.state != state {
            if state == State::Up && self.state != State::Suspect {
                self.up_since = Some(now);
            }
            self.state = state;
            self.since = now;
        }
    }
}

/// Judges one piece of evidence. Times are measured from any fixed point, never going back.
#[must_use]
pub fn step(
    mut tracker: Tracker,
    event: Event,
    now: Duration,
    rules: &Rules,
) -> (Tracker, Vec<Action>) {
    let mut actions = Vec::new();
    match event {
        Event::Answered { rtt } => {
            tracker.jitter.answered(rtt, now);
            match tracker.state {
                // After a broken connection only `/readyz` ends the suspicion: the process may be new.
                State::Suspect if tracker.ready => tracker.enter(State::Up, now),
                State::Suspect
                | State::Unknown
                | State::Up
                | State::NotReady
                | State::Closed
                | State::Dead => {}
            }
        }
        Event::Ready => {
            tracker.ready = true;
            tracker.good = tracker.good.saturating_add(1);
            match tracker.state {
                State::Up => {}
                State::Suspect => tracker.enter(State::Up, now),
                State::Unknown | State::NotReady | State::Closed | State::Dead if !tracker.seen => {
                    tracker.seen = true;
                    tracker.enter(State::Up, now);
                }
                State::Unknown | State::NotReady | State::Closed | State::Dead => {
                    if tracker.good >= rules.rise {
                        tracker.enter(State::Up, now);
                        actions.push(Action::SlowStart);
                    }
                }
            }
        }
        Event::NotReady | Event::Untrusted => {
            tracker.ready = false;
            tracker.good = 0;
            match tracker.state {
                State::Unknown
                | State::Up
                | State::Suspect
                | State::NotReady
                | State::Closed
                | State::Dead => tracker.enter(State::NotReady, now),
            }
        }
        Event::Silent {
            lasted,
            others_answer,
        } => {
            let limits = tracker.limits(rules, now);
            match tracker.state {
                State::Unknown | State::Up | State::Suspect | State::NotReady | State::Closed
                    if lasted >= limits.dead && others_answer =>
                {
                    tracker.ready = false;
                    tracker.good = 0;
                    tracker.enter(State::Dead, now);
                    actions.extend([Action::ResetEstablished, Action::Redial]);
                }
                State::Up if lasted >= limits.suspect => tracker.enter(State::Suspect, now),
                State::Dead if lasted >= limits.dead => {
                    tracker.good = 0;
                    actions.push(Action::Redial);
                }
                State::Unknown
                | State::Up
                | State::Suspect
                | State::NotReady
                | State::Closed
                | State::Dead => {}
            }
        }
        Event::Lost => {
            tracker.ready = false;
            tracker.good = 0;
            match tracker.state {
                State::Up => tracker.enter(State::Suspect, now),
                State::Unknown | State::Suspect | State::NotReady | State::Closed | State::Dead => {
                }
            }
        }
        Event::Left => {}
        Event::Refused => {
            tracker.ready = false;
            tracker.good = 0;
            match tracker.state {
                State::Unknown
                | State::Up
                | State::Suspect
                | State::NotReady
                | State::Closed
                | State::Dead => tracker.enter(State::Closed, now),
            }
        }
    }
    (tracker, actions)
}

#[cfg(test)]
mod tests;
