//! Handing connections over: to the process image that replaces this one, and from the one before.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc;

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::backend::Lease;
use crate::worker::conn::{Conn, Leg, Phase};
use crate::worker::flow::{Flow, Held};
use crate::worker::pipes::Pipe;
use crate::worker::{ROLE_CLIENT, Worker};

/// One direction, as numbers that survive an exec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrozenFlow {
    /// Bytes read and not yet written: the two ends of the pipe they are in, and how many.
    pub held: Option<(RawFd, RawFd, usize)>,
    pub ended: bool,
    pub finished: bool,
}

/// One connection, as numbers that survive an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrozenConnection {
    pub client: RawFd,
    /// None while it was still looking for a backend.
    pub upstream: Option<(RawFd, std::net::SocketAddr)>,
    pub up: FrozenFlow,
    pub down: FrozenFlow,
}

/// What one worker has.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    pub listeners: Vec<RawFd>,
    pub connections: Vec<FrozenConnection>,
}

/// One direction of a connection taken over.
#[derive(Debug, Default)]
pub(crate) struct AdoptedFlow {
    pub held: Option<(Pipe, usize)>,
    pub ended: bool,
    pub finished: bool,
}

/// A connection taken over.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub client: OwnedFd,
    pub upstream: Option<(OwnedFd, Lease)>,
    pub up: AdoptedFlow,
    pub down: AdoptedFlow,
}

impl Worker {
    /// Answers with everything there is and stands still until resumed.
    pub(super) fn freeze(
        &mut self,
        reply: &mpsc::Sender<io::Result<Frozen>>,
        resume: &mpsc::Receiver<()>,
    ) {
        let frozen = self.frozen();
        if reply.send(frozen).is_ok() {
            // Returns when told to go on, and when nobody is left to tell.
            let _ = resume.recv();
        }
    }

    fn frozen(&mut self) -> io::Result<Frozen> {
        let mut frozen = Frozen {
            listeners: self
                .listeners
                .iter()
                .map(|listener| listener.socket.as_raw_fd())
                .collect(),
            connections: Vec::new(),
        };
        for (_, conn) in self.conns.iter_mut() {
            let up = freeze_flow(&mut conn.up, &mut self.tools.pipes)?;
            let down = freeze_flow(&mut conn.down, &mut self.tools.pipes)?;
            let upstream = conn
                .upstream()
                .map(|leg| (leg.socket.as_raw_fd(), leg.lease.backend().address));
            frozen.connections.push(FrozenConnection {
                client: conn.client.as_raw_fd(),
                upstream,
                up,
                down,
            });
        }
        Ok(frozen)
    }

    /// Goes on with connections another process began. Whoever sent them has counted them.
    pub(super) fn adopt(&mut self, connections: Vec<Adopted>) {
        for adopted in connections {
            let Some((socket, lease)) = adopted.upstream else {
                self.begin(adopted.client);
                continue;
            };
            let fds = (adopted.client.as_raw_fd(), socket.as_raw_fd());
            let mut conn = Conn::new(adopted.client);
            conn.legs[0] = Some(Leg { socket, lease });
            conn.phase = Phase::Relaying(0);
            conn.up = adopt_flow(adopted.up, &mut self.tools.pipes);
            conn.down = adopt_flow(adopted.down, &mut self.tools.pipes);
            let key = self.conns.insert(conn);
            // Registering reports what is ready now; nothing that came in between is missed.
            let registered = self
                .register(fds.0, key, ROLE_CLIENT)
                .and_then(|()| self.register(fds.1, key, ROLE_CLIENT + 1));
            if let Err(err) = registered {
                warn!(%err, "cannot watch a connection taken over");
                self.close(key, true);
            }
        }
    }
}

fn freeze_flow(flow: &mut Flow, pipes: &mut crate::worker::pipes::Pipes) -> io::Result<FrozenFlow> {
    // Copied bytes go into a pipe: a descriptor survives an exec, memory does not. A read is never
    // larger than what the smallest pipe of the system holds, but memory for it may be short.
    if let Some(Held::Bytes { bytes, at }) = flow.held.as_deref() {
        let rest = &bytes[*at..];
        let pipe = pipes.take_another()?;
        let written = nix::unistd::write(&pipe.write, rest)?;
        if written < rest.len() {
            return Err(io::Error::other("a pipe did not take what one read gave"));
        }
        flow.held = Some(Box::new(Held::Piped {
            pipe,
            left: written,
        }));
    }
    let held = match flow.held.as_deref() {
        Some(Held::Piped { pipe, left }) => {
            Some((pipe.read.as_raw_fd(), pipe.write.as_raw_fd(), *left))
        }
        Some(Held::Bytes { .. }) | None => None,
    };
    Ok(FrozenFlow {
        held,
        ended: flow.ended,
        finished: flow.finished,
    })
}

fn adopt_flow(adopted: AdoptedFlow, pipes: &mut crate::worker::pipes::Pipes) -> Flow {
    let held = adopted.held.map(|(pipe, left)| {
        pipes.count_another();
        Box::new(Held::Piped { pipe, left })
    });
    Flow::resumed(held, adopted.ended, adopted.finished)
}
