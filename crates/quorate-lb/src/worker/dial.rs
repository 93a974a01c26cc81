//! Finding a backend for a client: a refused dial goes to the next one before the client notices, an
//! unanswered one is joined by a second.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::event::Event;
use nix::libc;

use crate::backend::{Lease, pick};
use crate::socket;
use crate::worker::conn::{Leg, Phase};
use crate::worker::slots::Key;
use crate::worker::{ROLE_CLIENT, Worker};

impl Worker {
    /// Starts one more dial, to a backend this connection has not tried; false when there is none.
    pub(super) fn dial(&mut self, key: Key) -> bool {
        let generation = self.shared.table.generation();
        if generation != self.routes_generation {
            self.routes = self.shared.table.current();
            self.routes_generation = generation;
        }
        let routes = Arc::clone(&self.routes);
        loop {
            let Some(conn) = self.conns.get_mut(key) else {
                return false;
            };
            let now_ms = self.shared.table.now_ms();
            let Some(backend) = pick(&routes, conn.tried, now_ms, &mut self.dice) else {
                return false;
            };
            conn.tried |= 1 << backend.slot;
            let dialled = socket::dial(backend.address, &routes.settings);
            let socket = match dialled {
                Ok((socket, _)) => socket,
                Err(err) => {
                    // Our own want is no fault of the backend, and no other would fare better.
                    if matches!(
                        err.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS)
                    ) {
                        return false;
                    }
                    backend.dials_failed_total.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            // With both legs busy the older gives way: three silent backends must not stop the fourth.
            let leg = match &conn.legs {
                [None, _] => 0,
                [_, None] => 1,
                [Some(_), Some(_)] => 1 - conn.newest,
            };
            let fd = socket.as_raw_fd();
            conn.legs[leg as usize] = Some(Leg {
                socket,
                lease: Lease::new(backend),
            });
            conn.newest = leg;
            if self
                .register(fd, key, ROLE_CLIENT + 1 + leg as usize)
                .is_err()
            {
                return false;
            }
            self.hedges
                .push_back((Instant::now() + routes.settings.hedge_after, key));
            return true;
        }
    }

    /// An event of a dial under way.
    pub(super) fn dial_event(&mut self, key: Key, leg: u8, event: &Event) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Some(dialled) = &conn.legs[leg as usize] else {
            return;
        };
        if event.is_error() || (event.is_read_closed() && event.is_write_closed()) {
            return self.dial_failed(key, leg);
        }
        if !event.is_writable() {
            return;
        }
        dialled
            .lease
            .backend()
            .connections_total
            .fetch_add(1, Ordering::Relaxed);
        conn.legs[1 - leg as usize] = None;
        conn.phase = Phase::Relaying(leg);
        super::note(&mut conn.upstream_ready, event);
        self.relay(key);
    }

    /// A dial came to nothing: the next one.
    pub(super) fn dial_failed(&mut self, key: Key, leg: u8) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Some(failed) = conn.legs[leg as usize].take() else {
            return;
        };
        failed
            .lease
            .backend()
            .dials_failed_total
            .fetch_add(1, Ordering::Relaxed);
        drop(failed);
        if self.dial(key) {
            self.mailbox
                .counters
                .retried
                .fetch_add(1, Ordering::Relaxed);
        } else if self
            .conns
            .get_mut(key)
            .is_some_and(|conn| conn.legs.iter().all(Option::is_none))
        {
            self.give_up(key);
        }
    }

    /// No backend takes this client.
    pub(super) fn give_up(&mut self, key: Key) {
        self.mailbox
            .counters
            .unserved
            .fetch_add(1, Ordering::Relaxed);
        self.close(key, true);
    }

    /// When the next timer is due, past those that no longer matter.
    pub(super) fn next_timer(&mut self) -> Option<Instant> {
        for timers in [&mut self.hedges, &mut self.deadlines] {
            while let Some((_, key)) = timers.front() {
                if self
                    .conns
                    .get_mut(*key)
                    .is_some_and(|conn| conn.phase == Phase::Dialling)
                {
                    break;
                }
                timers.pop_front();
            }
        }
        [self.hedges.front(), self.deadlines.front()]
            .into_iter()
            .flatten()
            .map(|(due, _)| *due)
            .min()
    }

    pub(super) fn timers(&mut self) {
        if self.hedges.is_empty() && self.deadlines.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.hedges.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = self.hedges.pop_front() else {
                return;
            };
            let Some(conn) = self.conns.get_mut(key) else {
                continue;
            };
            if conn.phase != Phase::Dialling {
                continue;
            }
            if !conn.limited {
                conn.limited = true;
                self.deadlines
                    .push_back((now + self.routes.settings.dial_timeout, key));
            }
            if self.dial(key) {
                self.mailbox.counters.hedged.fetch_add(1, Ordering::Relaxed);
            }
        }
        while self.deadlines.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = self.deadlines.pop_front() else {
                return;
            };
            if self
                .conns
                .get_mut(key)
                .is_some_and(|conn| conn.phase == Phase::Dialling)
            {
                self.give_up(key);
            }
        }
    }
}
