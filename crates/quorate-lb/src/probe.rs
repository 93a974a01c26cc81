//! The watch over one backend: a kept HTTP/2 connection that carries PINGs, and while it stands,
//! `/readyz` beside it. Start at [`watch`]; what it sees goes into the [`Pool`].
//!
//! Connection, answers and timers are polled by one task, in this order: an answer that already lies
//! in the socket is always seen before the timer that would call it missing, however late our own
//! loop comes round.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use crate::health::Event;
use crate::link::{NoConnection, Protocol, Target, dial};
use crate::pool::{MemberId, Pool};
use crate::readyz::{Asker, Readyz};

/// A timer this late means that our own loop stood still.
const STALL: Duration = Duration::from_millis(10);

/// Past the dead limit, how often to look whether another backend answers by now.
const RECHECK: Duration = Duration::from_millis(10);

/// How a kept connection ended.
enum End {
    /// The backend said goodbye.
    Left,
    /// It broke.
    Lost(String),
    /// It was given up after silence.
    Silent,
}

/// `/readyz`: resting, or a question under way.
enum Asking {
    Rests(Box<Asker>),
    Waits(Pin<Box<dyn Future<Output = (Box<Asker>, Readyz)> + Send>>),
    /// Only while one becomes the other.
    Between,
}

impl Asking {
    /// Asks, unless a question is under way: that one ends by its own timeout.
    fn ask(&mut self) {
        *self = match std::mem::replace(self, Asking::Between) {
            Asking::Rests(mut asker) => Asking::Waits(Box::pin(async move {
                let answer = asker.ask().await;
                (asker, answer)
            })),
            waits => waits,
        };
    }

    /// The answer under way; waits for ever when there is none.
    async fn answer(&mut self) -> Readyz {
        match self {
            Asking::Waits(under_way) => {
                let (asker, answer) = under_way.await;
                *self = Asking::Rests(asker);
                answer
            }
            Asking::Rests(_) | Asking::Between => std::future::pending().await,
        }
    }
}

/// Watches until dropped.
pub(crate) async fn watch(pool: Arc<Pool>, target: Target) {
    let (id, health) = (target.id, &target.health);
    loop {
        let dialled = Instant::now();
        pool.asks(id);
        let dial = pin!(dial(&target, Protocol::Http2));
        let outcome = tokio::select! {
            biased;
            outcome = dial => Some(outcome),
            () = sleep(health.dial_timeout) => None,
        };
        match outcome {
            Some(Ok(stream)) => match keep(&pool, &target, stream).await {
                End::Left => {
                    pool.event(id, Event::Left);
                }
                End::Lost(why) => {
                    pool.note_error(id, &why);
                    pool.event(id, Event::Lost);
                }
                End::Silent => pool.note_error(id, "PING is not answered"),
            },
            Some(Err(why)) => {
                pool.note_error(id, why.words());
                match why {
                    NoConnection::Refused => pool.event(id, Event::Refused),
                    NoConnection::Broken(_) => pool.event(id, Event::Lost),
                    NoConnection::Untrusted(_) => pool.event(id, Event::Untrusted),
                    NoConnection::Unreachable(_) => pool.silent(id, health.dial_timeout),
                };
            }
            None => {
                pool.note_error(id, "a dial is not answered");
                pool.silent(id, health.dial_timeout);
            }
        }
        // At once after a long-lived connection, paced otherwise.
        sleep_until(dialled + health.redial_interval).await;
    }
}

/// Carries PINGs, and asks for `/readyz` beside them, until the connection ends.
async fn keep(pool: &Pool, target: &Target, stream: TlsStream<TcpStream>) -> End {
    let (id, health) = (target.id, &target.health);
    // The handle is kept: without one the connection would end itself.
    let (requests, mut connection) = match h2::client::handshake(stream).await {
        Ok(pair) => pair,
        Err(err) => return End::Lost(format!("HTTP/2: {err}")),
    };
    let mut pings = connection
        .ping_pong()
        .expect("taken once from a new connection");
    let mut connection = pin!(connection);
    let mut readyz = Asking::Rests(Box::new(Asker::new(target.clone())));
    readyz.ask();
    let mut broken = 0;
    let mut readyz_next = Instant::now() + health.readyz_interval;
    let mut ping_next = Instant::now();
    loop {
        // Until the next PING is due.
        let mut alarm = pin!(sleep_until(ping_next.min(readyz_next)));
        loop {
            tokio::select! {
                biased;
                end = &mut connection => return ended(end, requests.clone().ready()).await,
                answer = readyz.answer() => heard(pool, id, answer, &mut broken),
                () = &mut alarm => {
                    note_lateness(pool, alarm.deadline());
                    let now = Instant::now();
                    if now >= readyz_next {
                        readyz_next = now + health.readyz_interval;
                        readyz.ask();
                    }
                    if now >= ping_next {
                        break;
                    }
                    alarm.as_mut().reset(ping_next.min(readyz_next));
                }
            }
        }
        // The PING, and what its silence means.
        let sent = Instant::now();
        pool.asks(id);
        ping_next = sent + health.ping_interval;
        let mut pong = pin!(pings.ping(h2::Ping::opaque()));
        let mut waited = Duration::ZERO;
        let mut look = pool.limits(id).suspect;
        let mut alarm = pin!(sleep(look));
        loop {
            tokio::select! {
                biased;
                end = &mut connection => return ended(end, requests.clone().ready()).await,
                outcome = &mut pong => match outcome {
                    Ok(_) => {
                        pool.event(id, Event::Answered { rtt: sent.elapsed() });
                        break;
                    }
                    Err(_) => return ended(connection.await, requests.clone().ready()).await,
                },
                answer = readyz.answer() => heard(pool, id, answer, &mut broken),
                () = &mut alarm => {
                    note_lateness(pool, alarm.deadline());
                    // Only what was planned counts, so that our own lateness is nobody's fault.
                    waited = waited.max(look);
                    if pool.silent(id, waited) || waited >= health.dial_timeout {
                        return End::Silent;
                    }
                    let limits = pool.limits(id);
                    look = if waited < limits.suspect {
                        limits.suspect
                    } else if waited < limits.dead {
                        limits.dead
                    } else {
                        waited + RECHECK
                    };
                    alarm.as_mut().reset(Instant::now() + (look - waited));
                }
            }
        }
    }
}

/// What an end means. After a goodbye the other side may close before our own goodbye is out, which
/// looks like a break; `next`, the readiness for another request, then still knows of the goodbye.
async fn ended<T>(
    end: Result<(), h2::Error>,
    next: impl Future<Output = Result<T, h2::Error>>,
) -> End {
    let goodbye = |err: &h2::Error| err.is_go_away() && err.is_remote();
    let err = match end {
        Ok(()) => return End::Left,
        Err(err) => err,
    };
    let next = tokio::select! {
        biased;
        next = next => next.err(),
        () = std::future::ready(()) => None,
    };
    if goodbye(&err) || next.as_ref().is_some_and(goodbye) {
        End::Left
    } else {
        End::Lost(format!("HTTP/2: {err}"))
    }
}

fn heard(pool: &Pool, id: MemberId, answer: Readyz, broken: &mut u32) {
    match answer {
        Readyz::Said(200, body) => {
            *broken = 0;
            pool.note_readyz(id, 200, &body);
            pool.event(id, Event::Ready);
        }
        Readyz::Said(code, body) => {
            *broken = 0;
            pool.note_readyz(id, code, &body);
            pool.note_error(id, &format!("/readyz says {code}"));
            pool.event(id, Event::NotReady);
        }
        Readyz::Unanswered => {
            pool.note_error(id, "/readyz is not answered, PING is");
            pool.event(id, Event::NotReady);
        }
        Readyz::Broken(why) => {
            *broken += 1;
            pool.note_error(id, &why);
            // Once may be the first sign of a backend that ends; again while it answers PINGs is a no.
            if *broken >= 2 {
                pool.event(id, Event::NotReady);
            }
        }
    }
}

fn note_lateness(pool: &Pool, deadline: Instant) {
    let late = deadline.elapsed();
    if late >= STALL {
        pool.note_stall(late);
    }
}
