//! Pipes for `splice`: taken while data is in flight, given back empty.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use crate::socket::would_block;

/// How much one pipe holds, if the system lets it: fewer, larger turns cost less.
pub(crate) const PIPE_BYTES: usize = 1 << 20;

/// Pipes one worker has at most; two descriptors each. Connections beyond copy instead.
pub(crate) const PIPES_MAX: usize = 128;

/// Pipes kept for the next use.
const PIPES_IDLE_MAX: usize = 16;

/// A pipe between two sockets.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub read: OwnedFd,
    pub write: OwnedFd,
}

impl Pipe {
    pub(crate) fn open() -> io::Result<Pipe> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Refused past the user's share of pipe memory: a small pipe works too.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        Ok(Pipe { read, write })
    }

    /// Moves what a socket has into the pipe; `None` when it has nothing, 0 at its end.
    pub(crate) fn fill(&self, from: &OwnedFd) -> io::Result<Option<usize>> {
        would_block(|| splice(from, None, &self.write, None, PIPE_BYTES, flags()))
    }

    /// Moves at most `left` bytes on to a socket; `None` when it takes nothing.
    pub(crate) fn drain(&self, to: &impl AsFd, left: usize) -> io::Result<Option<usize>> {
        would_block(|| splice(&self.read, None, to, None, left, flags()))
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    out: usize,
}

impl Pipes {
    /// A pipe, empty; none when there are enough or the system has no more.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if self.out >= PIPES_MAX {
            return None;
        }
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None => Pipe::open().ok()?,
        };
        self.out += 1;
        Some(pipe)
    }

    /// A pipe even past the limit, for bytes that must not be lost.
    pub(crate) fn take_another(&mut self) -> io::Result<Pipe> {
        let pipe = Pipe::open()?;
        self.out += 1;
        Ok(pipe)
    }

    /// A pipe came from another process.
    pub(crate) fn count_another(&mut self) {
        self.out += 1;
    }

    /// An emptied pipe comes back.
    pub(crate) fn give(&mut self, pipe: Pipe) {
        self.lost();
        if self.idle.len() < PIPES_IDLE_MAX {
            self.idle.push(pipe);
        }
    }

    /// A pipe was dropped with what it held.
    pub(crate) fn lost(&mut self) {
        self.out = self.out.saturating_sub(1);
    }
}
