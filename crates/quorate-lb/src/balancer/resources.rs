//! What the machine gives: listening sockets, threads, descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use super::StartError;
use crate::config::Config;
use crate::socket;
use crate::worker::{Command, Mailbox, PIPES_MAX, Shared, Worker};

/// Descriptors left for everything that is not a client's connection.
const DESCRIPTORS_APART: u64 = 128;

/// Workers by default, whatever the machine has: four forward more than its network.
const WORKERS_MAX: usize = 4;

/// How many workers a configuration asks for.
pub(super) fn worker_count(config: &Config) -> usize {
    config.connections.workers.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(WORKERS_MAX)
    })
}

/// Listening sockets, one for each worker, and the address they have.
pub(super) fn bind(
    address: SocketAddr,
    config: &Config,
    count: usize,
) -> Result<(SocketAddr, Vec<OwnedFd>), StartError> {
    let listen = |address| {
        socket::listen(address, &config.connections)
            .map_err(|err| StartError::Listen { address, err })
    };
    let first = listen(address)?;
    let bound = socket::local_address(&first).map_err(|err| StartError::Listen { address, err })?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(listen(bound)?);
    }
    Ok((bound, listeners))
}

/// How to reach the workers, and their threads.
pub(super) type Workers = (Vec<Arc<Mailbox>>, Vec<JoinHandle<()>>);

/// Starts the forwarding threads.
pub(super) fn workers(shared: &Arc<Shared>, count: usize) -> io::Result<Workers> {
    let mut prepared = Vec::new();
    for at in 0..count {
        let seed = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |at| at.as_nanos() as u64);
        let seed = seed.wrapping_mul(2 * at as u64 + 1);
        prepared.push(Worker::new(Arc::clone(shared), seed)?);
    }
    let (mut mailboxes, mut threads) = (Vec::new(), Vec::new());
    for (at, (worker, mailbox)) in prepared.into_iter().enumerate() {
        let thread = std::thread::Builder::new().name(format!("lb-worker-{at}"));
        match thread.spawn(move || worker.run()) {
            Ok(thread) => {
                mailboxes.push(mailbox);
                threads.push(thread);
            }
            Err(err) => {
                mailboxes
                    .iter()
                    .for_each(|mailbox: &Arc<Mailbox>| mailbox.send(Command::Quit));
                return Err(err);
            }
        }
    }
    Ok((mailboxes, threads))
}

/// How many clients there may be: what is configured, and never more than descriptors allow. Raises
/// the soft limit on those to the hard one.
pub(super) fn connections_max(config: &Config, workers: usize) -> u32 {
    let descriptors = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(err) => {
                warn!(%err, soft, hard, "cannot raise the limit on descriptors");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(err) => {
            warn!(%err, "cannot read the limit on descriptors");
            1024
        }
    };
    let apart = DESCRIPTORS_APART + workers as u64 * 2 * PIPES_MAX as u64;
    // A client and a backend each; a second dial borrows from what is set apart.
    let possible = u32::try_from(descriptors.saturating_sub(apart) / 2)
        .unwrap_or(u32::MAX)
        .max(16);
    config
        .connections
        .max
        .map_or(possible, |max| max.min(possible))
}
