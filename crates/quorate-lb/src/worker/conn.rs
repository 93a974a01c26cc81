//! The record of one connection: a client, one or two dials, then one relay.

use std::io;
use std::os::fd::OwnedFd;

use crate::backend::Lease;
use crate::worker::flow::{Flow, Ready, Tools, Turn};

/// One dial, or the connection that came of it.
#[derive(Debug)]
pub(crate) struct Leg {
    pub socket: OwnedFd,
    pub lease: Lease,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Looking for a backend. The client's bytes wait in the kernel.
    Dialling,
    /// Forwarding, over this leg.
    Relaying(u8),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub client: OwnedFd,
    pub legs: [Option<Leg>; 2],
    pub phase: Phase,
    /// The leg dialled last; when both are busy the other one is given up.
    pub newest: u8,
    /// Whether a deadline is set on the dialling.
    pub limited: bool,
    /// Whether it waits in the queue of those that could go on.
    pub queued: bool,
    /// Backends tried, by their slots.
    pub tried: u64,
    pub client_ready: Ready,
    pub upstream_ready: Ready,
    /// Client to backend.
    pub up: Flow,
    /// Backend to client.
    pub down: Flow,
}

/// How a turn of relaying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// Waits for an event.
    Waits,
    /// Could go on.
    More,
    /// Both sides have ended, in peace.
    Finished,
}

impl Conn {
    pub(crate) fn new(client: OwnedFd) -> Conn {
        Conn {
            client,
            legs: [None, None],
            phase: Phase::Dialling,
            newest: 0,
            limited: false,
            queued: false,
            tried: 0,
            // It was just accepted: there is room to write.
            client_ready: Ready {
                writable: true,
                ..Ready::default()
            },
            upstream_ready: Ready::default(),
            up: Flow::default(),
            down: Flow::default(),
        }
    }

    /// The leg that forwards, once one does.
    pub(crate) fn upstream(&self) -> Option<&Leg> {
        match self.phase {
            Phase::Dialling => None,
            Phase::Relaying(leg) => self.legs[leg as usize].as_ref(),
        }
    }

    /// Moves what can be moved in both directions; `moved` are the bytes up and down.
    ///
    /// # Errors
    /// Either side failed: the other is to be told with a reset.
    pub(crate) fn relay(&mut self, tools: &mut Tools, moved: &mut [u64; 2]) -> io::Result<Relayed> {
        let Phase::Relaying(leg) = self.phase else {
            return Ok(Relayed::Waits);
        };
        let upstream = &self.legs[leg as usize]
            .as_ref()
            .expect("the leg that relays is there")
            .socket;
        let up = self.up.pump(
            (&self.client, &mut self.client_ready),
            (upstream, &mut self.upstream_ready),
            tools,
            &mut moved[0],
            self.down.finished,
        )?;
        let down = self.down.pump(
            (upstream, &mut self.upstream_ready),
            (&self.client, &mut self.client_ready),
            tools,
            &mut moved[1],
            self.up.finished,
        )?;
        match (up, down) {
            (Turn::Finished, Turn::Finished) => Ok(Relayed::Finished),
            (Turn::More, _) | (_, Turn::More) => Ok(Relayed::More),
            // What a failed side still had was passed on above, as far as the other took it.
            _ if self.client_ready.failed => Err(error_of(&self.client)),
            _ if self.upstream_ready.failed => Err(error_of(upstream)),
            (Turn::Waits | Turn::Finished, Turn::Waits | Turn::Finished) => Ok(Relayed::Waits),
        }
    }
}

fn error_of(socket: &OwnedFd) -> io::Error {
    crate::socket::pending_error(socket).unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}
