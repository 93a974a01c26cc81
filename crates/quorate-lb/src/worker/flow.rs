//! One direction of a connection. Nothing is kept between turns but bytes the other side would not
//! take: an idle connection owns no buffer and no pipe.

use std::io;
use std::os::fd::OwnedFd;

use crate::socket::{finish, read, write};
use crate::worker::pipes::{Pipe, Pipes};

/// Reads at most this much at once when copying. Also what a default pipe holds.
pub(crate) const SCRATCH_BYTES: usize = 64 << 10;

/// A read this large is bulk: from here `splice` is cheaper than copying.
const BULK_BYTES: usize = 32 << 10;

/// A splice this small is not; after so many in a row copying is cheaper again.
const SMALL_BYTES: usize = 16 << 10;
const SMALL_TURNS_MAX: u8 = 4;

/// Bytes one direction moves before others get their turn.
const TURN_BYTES: usize = 2 << 20;

/// What epoll has said of a socket and no call has contradicted since.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// Its other end will send nothing more: read to the end without waiting for another event.
    pub closing: bool,
    /// It has failed; reading it says how.
    pub failed: bool,
}

/// What one worker's directions share.
#[derive(Debug)]
pub(crate) struct Tools {
    pub scratch: Box<[u8]>,
    pub pipes: Pipes,
}

impl Tools {
    pub(crate) fn new() -> Tools {
        Tools {
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            pipes: Pipes::default(),
        }
    }
}

/// Bytes read and not yet written.
#[derive(Debug)]
pub(crate) enum Held {
    /// Copied.
    Bytes { bytes: Vec<u8>, at: usize },
    /// Spliced.
    Piped { pipe: Pipe, left: usize },
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub held: Option<Box<Held>>,
    bulk: bool,
    small_turns: u8,
    /// The source has ended.
    pub ended: bool,
    /// The end was passed on.
    pub finished: bool,
}

/// Where a turn left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Waits for an event.
    Waits,
    /// Could go on; others first.
    More,
    /// Nothing will come any more.
    Finished,
}

impl Flow {
    /// A direction another process began.
    pub(crate) fn resumed(held: Option<Box<Held>>, ended: bool, finished: bool) -> Flow {
        Flow {
            held,
            ended,
            finished,
            ..Flow::default()
        }
    }

    /// Moves what can be moved. Adds the bytes written to `moved`. With `last` the end is not passed
    /// on: the other direction is finished too, closing says it.
    pub(crate) fn pump(
        &mut self,
        (from, from_ready): (&OwnedFd, &mut Ready),
        (to, to_ready): (&OwnedFd, &mut Ready),
        tools: &mut Tools,
        moved: &mut u64,
        last: bool,
    ) -> io::Result<Turn> {
        let start = *moved;
        loop {
            if self.held.is_some() && !self.flush(to, to_ready, tools, moved)? {
                return Ok(Turn::Waits);
            }
            if self.ended {
                if !self.finished {
                    self.finished = true;
                    if !last {
                        finish(to)?;
                    }
                }
                return Ok(Turn::Finished);
            }
            if !from_ready.readable {
                return Ok(Turn::Waits);
            }
            if *moved - start >= TURN_BYTES as u64 {
                return Ok(Turn::More);
            }
            if self.bulk {
                self.splice(from, from_ready, tools)?;
            } else {
                self.copy((from, from_ready), (to, to_ready), tools, moved)?;
            }
        }
    }

    /// Writes what is held; true when nothing is left.
    fn flush(
        &mut self,
        to: &OwnedFd,
        to_ready: &mut Ready,
        tools: &mut Tools,
        moved: &mut u64,
    ) -> io::Result<bool> {
        while to_ready.writable {
            let Some(held) = self.held.as_deref_mut() else {
                return Ok(true);
            };
            let (written, emptied) = match held {
                Held::Bytes { bytes, at } => {
                    let written = write(to, &bytes[*at..])?;
                    *at += written.unwrap_or(0);
                    (written, *at == bytes.len())
                }
                Held::Piped { pipe, left } => {
                    let written = pipe.drain(to, *left)?;
                    *left -= written.unwrap_or(0);
                    (written, *left == 0)
                }
            };
            match written {
                Some(written) => *moved += written as u64,
                None => to_ready.writable = false,
            }
            if emptied && let Some(held) = self.held.take() {
                match *held {
                    Held::Bytes { .. } => {}
                    Held::Piped { pipe, .. } => tools.pipes.give(pipe),
                }
                return Ok(true);
            }
        }
        Ok(self.held.is_none())
    }

    fn copy(
        &mut self,
        (from, from_ready): (&OwnedFd, &mut Ready),
        (to, to_ready): (&OwnedFd, &mut Ready),
        tools: &mut Tools,
        moved: &mut u64,
    ) -> io::Result<()> {
        let Some(count) = read(from, &mut tools.scratch)? else {
            from_ready.readable = false;
            return Ok(());
        };
        if count == 0 {
            self.ended = true;
            return Ok(());
        }
        if count < SCRATCH_BYTES && !from_ready.closing {
            // Epoll tells of whatever comes after a short read; asking again would cost a call.
            from_ready.readable = false;
        }
        self.bulk = count >= BULK_BYTES;
        self.small_turns = 0;
        let bytes = &tools.scratch[..count];
        let mut at = 0;
        while at < count && to_ready.writable {
            match write(to, &bytes[at..])? {
                Some(written) => {
                    at += written;
                    *moved += written as u64;
                }
                None => to_ready.writable = false,
            }
        }
        if at < count {
            self.held = Some(Box::new(Held::Bytes {
                bytes: bytes[at..].to_vec(),
                at: 0,
            }));
        }
        Ok(())
    }

    /// Fills a pipe; [`Flow::flush`] empties it.
    fn splice(
        &mut self,
        from: &OwnedFd,
        from_ready: &mut Ready,
        tools: &mut Tools,
    ) -> io::Result<()> {
        let Some(pipe) = tools.pipes.take() else {
            self.bulk = false;
            return Ok(());
        };
        match pipe.fill(from) {
            Ok(Some(count)) if count > 0 => {
                self.small_turns = if count < SMALL_BYTES {
                    self.small_turns + 1
                } else {
                    0
                };
                self.bulk = self.small_turns < SMALL_TURNS_MAX;
                self.held = Some(Box::new(Held::Piped { pipe, left: count }));
            }
            Ok(Some(_)) => {
                self.ended = true;
                tools.pipes.give(pipe);
            }
            Ok(None) => {
                from_ready.readable = false;
                tools.pipes.give(pipe);
            }
            Err(err) => {
                tools.pipes.give(pipe);
                return Err(err);
            }
        }
        Ok(())
    }

    /// Lets go of what is held, unwritten.
    pub(crate) fn discard(&mut self, tools: &mut Tools) {
        if let Some(held) = self.held.take() {
            match *held {
                Held::Bytes { .. } => {}
                Held::Piped { .. } => tools.pipes.lost(),
            }
        }
    }
}
