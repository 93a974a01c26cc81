//! The watch over one backend: one kept TLS connection that carries PING and `GET /readyz`.
//! Start at [`watch`]; what it sees goes into the [`Pool`].
//!
//! Connection, answers and timers are polled by one task, in this order: an answer that already lies
//! in the socket is always seen before the timer that would call it missing, however late our own
//! loop comes round.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Health;
use crate::health::Event;
use crate::pool::{MemberId, Pool};

/// A timer this late means that our own loop stood still.
const STALL: Duration = Duration::from_millis(10);

/// Past the dead limit, how often to look whether another backend answers by now.
const RECHECK: Duration = Duration::from_millis(10);

/// How much of a `/readyz` answer is read, in bytes; the failing one names its checks.
const BODY_MAX: usize = 1024;

/// Whom to watch, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub id: MemberId,
    pub address: SocketAddr,
    pub tls: Arc<ClientConfig>,
    pub health: Health,
}

/// How a kept connection ended.
enum End {
    /// The backend said goodbye.
    Left,
    /// It broke.
    Lost(String),
    /// It was given up after silence.
    Silent,
}

/// Why there is no connection.
enum NoConnection {
    Refused,
    Broken(String),
    Unreachable(String),
    Untrusted(String),
}

/// What became of a `GET /readyz`.
enum Readyz {
    Said(u16, Vec<u8>),
    /// No answer in time, though the connection stands.
    Unanswered,
    /// The stream broke: perhaps with its connection, perhaps alone.
    Broken(String),
}

type Answer = Pin<Box<dyn Future<Output = Readyz> + Send>>;

/// Watches until dropped.
pub(crate) async fn watch(pool: Arc<Pool>, target: Target) {
    let (id, health) = (target.id, &target.health);
    loop {
        let dialled = Instant::now();
        let began = pool.now();
        let dial = pin!(dial(&target));
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
            Some(Err(NoConnection::Refused)) => {
                pool.note_error(id, "connection refused");
                pool.event(id, Event::Refused);
            }
            Some(Err(NoConnection::Broken(why))) => {
                pool.note_error(id, &why);
                pool.event(id, Event::Lost);
            }
            Some(Err(NoConnection::Untrusted(why))) => {
                pool.note_error(id, &why);
                pool.event(id, Event::Untrusted);
            }
            Some(Err(NoConnection::Unreachable(why))) => {
                pool.note_error(id, &why);
                pool.silent(id, health.dial_timeout, began);
            }
            None => {
                pool.note_error(id, "a dial is not answered");
                pool.silent(id, health.dial_timeout, began);
            }
        }
        // At once after a long-lived connection, paced otherwise.
        sleep_until(dialled + health.redial_interval).await;
    }
}

async fn dial(target: &Target) -> Result<TlsStream<TcpStream>, NoConnection> {
    let stream = TcpStream::connect(target.address)
        .await
        .map_err(|err| match err.kind() {
            io::ErrorKind::ConnectionRefused => NoConnection::Refused,
            io::ErrorKind::ConnectionReset => NoConnection::Broken(err.to_string()),
            // No route, no ARP answer, a timeout: nobody is there, or we are not.
            _ => NoConnection::Unreachable(err.to_string()),
        })?;
    // A PING is a small write that must not wait for the acknowledgement of the one before.
    stream
        .set_nodelay(true)
        .map_err(|err| NoConnection::Broken(err.to_string()))?;
    let name = ServerName::try_from(target.health.server_name.clone())
        .map_err(|err| NoConnection::Untrusted(err.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(&target.tls));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|err| match err.kind() {
            io::ErrorKind::InvalidData => NoConnection::Untrusted(format!("TLS: {err}")),
            _ => NoConnection::Broken(format!("TLS: {err}")),
        })?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(NoConnection::Untrusted(
            "it does not speak HTTP/2".to_owned(),
        ));
    }
    Ok(stream)
}

/// Carries PING and `/readyz` until the connection ends.
async fn keep(pool: &Pool, target: &Target, stream: TlsStream<TcpStream>) -> End {
    let (id, health) = (target.id, &target.health);
    let (requests, mut connection) = match h2::client::handshake(stream).await {
        Ok(pair) => pair,
        Err(err) => return End::Lost(format!("HTTP/2: {err}")),
    };
    let mut pings = connection
        .ping_pong()
        .expect("taken once from a new connection");
    let mut connection = pin!(connection);
    let uri = format!("https://{}/readyz", authority(&health.server_name));
    let ask = || -> Answer {
        let mut requests = requests.clone();
        let request = Request::get(&uri)
            .body(())
            .expect("a checked server name makes a URI");
        let ask = async move {
            requests = requests.ready().await.map_err(text)?;
            let (response, _) = requests.send_request(request, true).map_err(text)?;
            let response = response.await.map_err(text)?;
            let code = response.status().as_u16();
            let mut body = response.into_body();
            let mut read = Vec::new();
            while read.len() < BODY_MAX {
                let Some(chunk) = body.data().await else {
                    break;
                };
                let chunk = chunk.map_err(text)?;
                // Without this the connection's window would be used up after some thousand answers.
                body.flow_control()
                    .release_capacity(chunk.len())
                    .map_err(text)?;
                read.extend_from_slice(&chunk[..chunk.len().min(BODY_MAX - read.len())]);
            }
            Ok::<_, String>((code, read))
        };
        let limit = health.readyz_timeout;
        Box::pin(async move {
            match timeout(limit, ask).await {
                Ok(Ok((code, body))) => Readyz::Said(code, body),
                Ok(Err(why)) => Readyz::Broken(why),
                Err(_) => Readyz::Unanswered,
            }
        })
    };
    let mut readyz: Option<Answer> = Some(ask());
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
                answer = answer(&mut readyz) => heard(pool, id, answer, &mut broken),
                () = &mut alarm => {
                    note_lateness(pool, alarm.deadline());
                    let now = Instant::now();
                    if now >= readyz_next {
                        readyz_next = now + health.readyz_interval;
                        // One at a time; an unanswered one ends by its own timeout.
                        readyz.get_or_insert_with(&ask);
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
        let began = pool.now();
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
                answer = answer(&mut readyz) => heard(pool, id, answer, &mut broken),
                () = &mut alarm => {
                    note_lateness(pool, alarm.deadline());
                    // Only what was planned counts, so that our own lateness is nobody's fault.
                    waited = waited.max(look);
                    if pool.silent(id, waited, began) || waited >= health.dial_timeout {
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

/// The answer under way, taken out once it is there; waits for ever when there is none.
async fn answer(readyz: &mut Option<Answer>) -> Readyz {
    match readyz {
        Some(under_way) => {
            let answer = under_way.await;
            *readyz = None;
            answer
        }
        None => std::future::pending().await,
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
            // Once may be the first sign of a connection that ends; again on a standing one is no.
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

fn text(err: h2::Error) -> String {
    err.to_string()
}

/// A server name as the host of a URI: IPv6 addresses need brackets.
fn authority(server_name: &str) -> String {
    if server_name.contains(':') {
        format!("[{server_name}]")
    } else {
        server_name.to_owned()
    }
}
