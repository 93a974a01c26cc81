//! All backends together: evidence goes into [`crate::health::step`], what comes out changes where
//! connections go. The only place that compares one backend with the others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::admin::{BackendStatus, ReadyzStatus};
use crate::backend::{Backend, RouteTable, Tier};
use crate::health::{Action, Event, Rules, State, Tracker, step};
use crate::jitter::Limits;

/// How much of a backend's own words is kept for `status`, in characters.
const SHOWN_MAX: usize = 200;

/// One backend's number: names may come back after a removal, numbers do not.
pub(crate) type MemberId = u64;

/// Once one backend is up, how long the others have to be seen too before clients are let in: all of
/// the first ones on one backend would be a bad spread for years of kept connections.
const OTHERS_MAX: Duration = Duration::from_millis(100);

/// What one process image tells the next about a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub name: String,
    pub up: bool,
    pub drained: bool,
}

/// Resets every established connection to a backend.
pub(crate) type Reset = Box<dyn Fn(&Arc<Backend>) + Send + Sync>;

/// Why a backend was not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no such backend.
    #[error("no backend is named `{name}`; there are {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Nothing good would be left.
    #[error(
        "draining `{name}` would leave no backend that is up; others: {others}. Ask with force to do it anyway"
    )]
    NothingLeft {
        /// The name asked for.
        name: String,
        /// The other backends with their states.
        others: String,
    },
}

struct Member {
    backend: Arc<Backend>,
    tracker: Tracker,
    drained: bool,
    /// Removed from the configuration; watched while its connections end.
    leaving: bool,
    looked: bool,
    last_answer: Option<Duration>,
    question: Question,
    readyz: Option<(ReadyzStatus, Duration)>,
    error: Option<String>,
    suspected: u64,
    ejected: u64,
}

impl Member {
    /// Whether clients reset elsewhere could go here. One that answers but is not let in yet proves
    /// that our link works, and still is no reason to empty the pool.
    fn takes_clients(&self) -> bool {
        let state = match self.tracker.state() {
            State::Up | State::Suspect | State::NotReady => true,
            State::Unknown | State::Closed | State::Dead => false,
        };
        state && !self.drained && !self.leaving
    }
}

/// A PING, or a dial, that a backend has yet to answer.
#[derive(Clone, Copy)]
struct Question {
    asked: Duration,
    /// When another backend first answered since. That our link works is known from then on.
    other_answered: Option<Duration>,
}

impl Question {
    fn asked(now: Duration) -> Question {
        Question {
            asked: now,
            other_answered: None,
        }
    }

    /// Whether a silence is this one's alone. Who was silent together with everybody else, as in a break of our own link,
    /// is given as long again: TCP backs off, and sends once more at most as long after a break as that lasted.
    fn is_silent_alone(self, now: Duration) -> bool {
        self.other_answered
            .is_some_and(|first| now.saturating_sub(first) >= first.saturating_sub(self.asked))
    }
}

struct Inner {
    rules: Rules,
    members: BTreeMap<MemberId, Member>,
    next: MemberId,
    fail_open: bool,
}

/// The backends, what is thought of them, and who is told when that changes.
pub(crate) struct Pool {
    started: Instant,
    table: Arc<RouteTable>,
    reset: Reset,
    inner: Mutex<Inner>,
    looked: Notify,
    stalls: AtomicU64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(rules: Rules, table: Arc<RouteTable>, reset: Reset) -> Pool {
        Pool {
            started: Instant::now(),
            table,
            reset,
            inner: Mutex::new(Inner {
                rules,
                members: BTreeMap::new(),
                next: 1,
                fail_open: false,
            }),
            looked: Notify::new(),
            stalls: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock evidence is dated by.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn set_rules(&self, rules: Rules) {
        self.lock().rules = rules;
    }

    /// Takes a backend in; it gets nothing before it is up (or nobody is). One that was up for the
    /// former process image a moment ago is taken to be so still.
    pub(crate) fn add(&self, backend: Arc<Backend>, former: Option<&Standing>) -> MemberId {
        let now = self.now();
        let up = former.is_some_and(|standing| standing.up);
        let drained = former.is_some_and(|standing| standing.drained);
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let member = Member {
            backend,
            tracker: if up {
                Tracker::resumed(now)
            } else {
                Tracker::new(now)
            },
            drained,
            leaving: false,
            looked: up,
            last_answer: None,
            question: Question::asked(now),
            readyz: None,
            error: None,
            suspected: 0,
            ejected: 0,
        };
        inner.members.insert(id, member);
        inner.publish(id);
        id
    }

    /// Takes a backend out of the choice; it stays watched until [`Pool::forget`].
    pub(crate) fn leave(&self, id: MemberId) {
        let mut inner = self.lock();
        if let Some(member) = inner.members.get_mut(&id) {
            member.leaving = true;
        }
        inner.judge_openness();
    }

    pub(crate) fn forget(&self, id: MemberId) {
        self.lock().members.remove(&id);
        self.looked.notify_waiters();
    }

    /// Waits until clients can be let in: every backend was looked at, or one is up and the others had
    /// a moment more.
    pub(crate) async fn first_look(&self) {
        let staying = |members: &BTreeMap<MemberId, Member>, so: fn(&Member) -> bool| {
            let mut staying = members.values().filter(|member| !member.leaving);
            (staying.clone().all(so), staying.any(so))
        };
        let all = self.until(|members| staying(members, |member| member.looked).0);
        let some = async {
            self.until(|members| staying(members, |m| m.tracker.state() == State::Up).1)
                .await;
            // In vain or not: either way it was long enough.
            let others = self.until(|members| staying(members, |member| member.looked).0);
            let _ = timeout(OTHERS_MAX, others).await;
        };
        tokio::select! {
            () = all => {}
            () = some => {}
        }
    }

    async fn until(&self, condition: impl Fn(&BTreeMap<MemberId, Member>) -> bool) {
        loop {
            let notified = self.looked.notified();
            tokio::pin!(notified);
            // Registered before the check: a look between the two must not be missed.
            notified.as_mut().enable();
            if condition(&self.lock().members) {
                return;
            }
            notified.await;
        }
    }

    /// How long a PING to this backend may stay unanswered now.
    pub(crate) fn limits(&self, id: MemberId) -> Limits {
        let now = self.now();
        let inner = self.lock();
        match inner.members.get(&id) {
            Some(member) => member.tracker.limits(&inner.rules, now),
            None => Limits {
                suspect: inner.rules.suspect_after,
                dead: inner.rules.dead_after,
            },
        }
    }

    /// A backend is asked something: a silence would begin here.
    pub(crate) fn asks(&self, id: MemberId) {
        let now = self.now();
        if let Some(member) = self.lock().members.get_mut(&id) {
            member.question = Question::asked(now);
        }
    }

    /// The last question has been unanswered for `lasted` of our own on-time waiting.
    pub(crate) fn silent(&self, id: MemberId, lasted: Duration) -> bool {
        let now = self.now();
        let inner = self.lock();
        let others_answer = inner.members.get(&id).is_some_and(|silent| {
            // An answer that was on its way when our link broke says nothing: one has to come when this one is late already.
            let late = silent.question.asked + silent.tracker.limits(&inner.rules, now).suspect;
            let answers = |(other, member): (&MemberId, &Member)| {
                *other != id
                    && member.takes_clients()
                    && member.last_answer.is_some_and(|at| at >= late)
            };
            silent.question.is_silent_alone(now) && inner.members.iter().any(answers)
        });
        drop(inner);
        self.event(
            id,
            Event::Silent {
                lasted,
                others_answer,
            },
        )
    }

    /// Takes evidence; true means the kept connection is to be given up.
    pub(crate) fn event(&self, id: MemberId, event: Event) -> bool {
        let now = self.now();
        let mut inner = self.lock();
        let rules = inner.rules;
        let Some(member) = inner.members.get_mut(&id) else {
            return true;
        };
        let before = member.tracker.state();
        let (tracker, actions) = step(member.tracker, event, now, &rules);
        member.tracker = tracker;
        let answered = match event {
            Event::Answered { .. } => true,
            Event::Ready => {
                member.error = None;
                true
            }
            Event::NotReady
            | Event::Silent { .. }
            | Event::Lost
            | Event::Left
            | Event::Refused
            | Event::Untrusted => false,
        };
        if answered {
            member.last_answer = Some(now);
        }
        let first_look = !member.looked && !matches!(event, Event::Answered { .. } | Event::Left);
        member.looked |= first_look;
        if actions.contains(&Action::SlowStart) {
            member.backend.begin_slow_start(self.table.now_ms());
        }
        let backend = Arc::clone(&member.backend);
        let after = tracker.state();
        if before != after {
            match after {
                State::Suspect => member.suspected += 1,
                State::Dead => member.ejected += 1,
                State::Unknown | State::Up | State::NotReady | State::Closed => {}
            }
            log_change(&backend, before, after, event, member.error.as_deref());
            inner.publish(id);
        }
        if answered {
            inner.answered_beside(id, now);
        }
        drop(inner);
        // After publishing: a reset client dials again at once and must not land here.
        if actions.contains(&Action::ResetEstablished) {
            (self.reset)(&backend);
        }
        if first_look || before != after {
            self.looked.notify_waiters();
        }
        actions.contains(&Action::Redial)
    }

    /// Keeps the backend's last `/readyz` for `status`.
    pub(crate) fn note_readyz(&self, id: MemberId, code: u16, body: &[u8]) {
        let now = self.now();
        let readyz = ReadyzStatus {
            code,
            text: shown(&String::from_utf8_lossy(body)),
            ago_ms: 0,
        };
        if let Some(member) = self.lock().members.get_mut(&id) {
            member.readyz = Some((readyz, now));
        }
    }

    /// Keeps why the kept connection does not stand.
    pub(crate) fn note_error(&self, id: MemberId, error: &str) {
        if let Some(member) = self.lock().members.get_mut(&id) {
            member.error = Some(shown(error));
        }
    }

    /// Counts a moment our own loop was late.
    pub(crate) fn note_stall(&self, late: Duration) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        debug!(
            late_ms = late.as_millis() as u64,
            "own loop was late; that time is not held against backends"
        );
    }

    pub(crate) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    pub(crate) fn fail_open(&self) -> bool {
        self.lock().fail_open
    }

    /// Drains a backend, or ends that. Refused when nothing that is up would be left, unless forced.
    pub(crate) fn set_drained(
        &self,
        name: &str,
        drained: bool,
        force: bool,
    ) -> Result<(), DrainError> {
        let mut inner = self.lock();
        let wanted = |member: &Member| !member.leaving && member.backend.name == name;
        let Some((&id, _)) = inner.members.iter().find(|(_, member)| wanted(member)) else {
            let known: Vec<&str> = inner
                .staying()
                .map(|(_, member)| member.backend.name.as_str())
                .collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(DrainError::Unknown {
                name: shown(name),
                known,
            });
        };
        let others = |member: &Member| member.backend.name != name;
        let good = |member: &Member| member.tracker.state() == State::Up && !member.drained;
        if drained
            && !force
            && !inner
                .staying()
                .any(|(_, member)| others(member) && good(member))
        {
            let others: Vec<String> = inner
                .staying()
                .filter(|(_, member)| others(member))
                .map(|(_, member)| {
                    let drained = if member.drained { ", drained" } else { "" };
                    format!(
                        "{} ({}{drained})",
                        member.backend.name,
                        member.tracker.state().word()
                    )
                })
                .collect();
            let others = if others.is_empty() {
                "none".to_owned()
            } else {
                others.join(", ")
            };
            return Err(DrainError::NothingLeft {
                name: name.to_owned(),
                others,
            });
        }
        if let Some(member) = inner.members.get_mut(&id) {
            member.drained = drained;
        }
        inner.publish(id);
        info!(backend = name, drained, "drain");
        Ok(())
    }

    /// What the next process image should know.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let standing = |member: &Member| Standing {
            name: member.backend.name.clone(),
            // One suspected a moment ago is judged afresh: suspicion is made of moments.
            up: matches!(member.tracker.state(), State::Up | State::Suspect),
            drained: member.drained,
        };
        self.lock()
            .staying()
            .map(|(_, member)| standing(member))
            .collect()
    }

    /// Every backend for `status`, those leaving last.
    pub(crate) fn status(&self) -> Vec<BackendStatus> {
        let now = self.now();
        let ms = |duration: Duration| duration.as_millis() as u64;
        let inner = self.lock();
        let mut all: Vec<BackendStatus> = inner
            .members
            .values()
            .map(|member| {
                let limits = member.tracker.limits(&inner.rules, now);
                BackendStatus {
                    name: member.backend.name.clone(),
                    address: member.backend.address,
                    state: member.tracker.state(),
                    state_for_ms: ms(now.saturating_sub(member.tracker.since())),
                    drained: member.drained,
                    leaving: member.leaving,
                    connections: member.backend.live(),
                    connections_total: member.backend.connections_total.load(Ordering::Relaxed),
                    dials_failed_total: member.backend.dials_failed_total.load(Ordering::Relaxed),
                    resets_total: member.backend.resets_total.load(Ordering::Relaxed),
                    suspected_total: member.suspected,
                    ejected_total: member.ejected,
                    rtt_us: member.tracker.rtt().map(|rtt| rtt.as_micros() as u64),
                    suspect_after_ms: ms(limits.suspect),
                    dead_after_ms: ms(limits.dead),
                    readyz: member.readyz.clone().map(|(readyz, at)| ReadyzStatus {
                        ago_ms: ms(now.saturating_sub(at)),
                        ..readyz
                    }),
                    error: member.error.clone(),
                }
            })
            .collect();
        all.sort_by(|a, b| (a.leaving, &a.name).cmp(&(b.leaving, &b.name)));
        all
    }
}

impl Inner {
    fn staying(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter().filter(|(_, member)| !member.leaving)
    }

    /// Everybody else has yet to answer while this one did.
    fn answered_beside(&mut self, id: MemberId, now: Duration) {
        let others = self.members.iter_mut().filter(|(other, _)| **other != id);
        for (_, member) in others {
            member.question.other_answered.get_or_insert(now);
        }
    }

    /// Shows one member's state to the data path.
    fn publish(&mut self, id: MemberId) {
        if let Some(member) = self.members.get(&id) {
            member
                .backend
                .set_tier(Tier::of(member.tracker.state(), member.drained));
        }
        self.judge_openness();
    }

    fn judge_openness(&mut self) {
        let best = self
            .staying()
            .map(|(_, member)| member.backend.tier())
            .min();
        let open = best.is_some_and(Tier::is_open);
        // Before the first look nobody was judged yet: no news.
        let judged = self.staying().all(|(_, member)| member.looked);
        if open != self.fail_open && (judged || !open) {
            self.fail_open = open;
            if open {
                warn!(
                    "no backend answers and is ready: failing open, connections go to any of them"
                );
            } else {
                info!("no longer failing open");
            }
        }
    }
}

fn log_change(backend: &Backend, before: State, after: State, event: Event, error: Option<&str>) {
    let (name, from, to) = (backend.name.as_str(), before.word(), after.word());
    let error = error.unwrap_or("");
    match (before, after) {
        // Suspicion comes and goes with every hiccup.
        (_, State::Suspect) | (State::Suspect, State::Up) => {
            debug!(backend = name, from, to, ?event, error, "backend changed")
        }
        (_, State::Dead) => warn!(
            backend = name,
            from,
            to,
            ?event,
            connections = backend.live(),
            "backend is silent while others answer: its connections are reset"
        ),
        (_, State::Unknown | State::Up | State::NotReady | State::Closed) => {
            info!(backend = name, from, to, ?event, error, "backend changed")
        }
    }
}

/// A stranger's words, short and harmless to a terminal.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars().take(SHOWN_MAX) {
        match c {
            '\n' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
