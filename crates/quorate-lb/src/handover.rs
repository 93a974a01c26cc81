//! A new program without a lost connection: the process replaces its own image, every socket stays
//! open across the exec, and a memory file tells the new image which is which.
//!
//! Why not a second process that takes over: a connection is two sockets and what lies between them,
//! so the old process would have to live as long as its longest watch. Why not systemd's descriptor
//! store: it would keep the listener through a restart, but not the connections, and clients would
//! hang in a backlog nobody reads while the old process drains.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::balancer::Balancer;
use crate::pool::Standing;
use crate::socket;
use crate::worker::{AdoptedFlow, Command, Frozen, FrozenConnection, FrozenFlow, Pipe};

/// Names the memory file's descriptor to the new image.
const VARIABLE: &str = "QUORATE_LB_HANDOVER";
const MEMORY_NAME: &str = "quorate-lb-handover";

/// Changes when what is handed over changes its meaning: an image that does not know it starts afresh.
const FORMAT: u32 = 1;

/// How long workers have to stand still. They look between two turns: milliseconds.
const FREEZE_MAX: Duration = Duration::from_secs(5);

/// Why connections could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The program is not there, or no program.
    #[error("cannot run `{}`", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// A worker did not stand still.
    #[error("cannot hold a worker still")]
    Freeze(#[source] io::Error),
    /// The memory file failed.
    #[error("cannot write down what is handed over")]
    Write(#[source] io::Error),
    /// What the former image left is not readable.
    #[error(
        "cannot read what the former process left; starting afresh would reset its connections"
    )]
    Read(#[source] io::Error),
}

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    format: u32,
    listen: SocketAddr,
    listeners: Vec<RawFd>,
    connections: Vec<FrozenConnection>,
    standings: Vec<Standing>,
}

/// A connection left by the former image.
#[derive(Debug)]
pub(crate) struct InheritedConnection {
    pub client: OwnedFd,
    pub upstream: Option<(OwnedFd, SocketAddr)>,
    pub up: AdoptedFlow,
    pub down: AdoptedFlow,
}

/// What the former image left; empty at an ordinary start.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    listen: Option<SocketAddr>,
    listeners: std::sync::Mutex<Vec<OwnedFd>>,
    pub connections: Vec<InheritedConnection>,
    pub standings: Vec<Standing>,
}

impl Inherited {
    /// The former image's listening sockets, if they listen where this one is to.
    pub(crate) fn listeners_for(&self, wanted: SocketAddr) -> Option<(SocketAddr, Vec<OwnedFd>)> {
        let listen = self.listen?;
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let bound = socket::local_address(listeners.first()?).ok()?;
        (listen == wanted).then(|| (bound, std::mem::take(&mut *listeners)))
    }

    /// Takes what the environment announces; nothing at an ordinary start.
    pub(crate) fn take() -> Result<Inherited, HandoverError> {
        let Some(number) = std::env::var(VARIABLE)
            .ok()
            .and_then(|text| text.parse::<RawFd>().ok())
        else {
            return Ok(Inherited::default());
        };
        // The variable stays in the environment for the life of the process; the number may by now be
        // somebody else's descriptor. Only our own memory file is taken.
        let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        if !link
            .to_string_lossy()
            .starts_with(&format!("/memfd:{MEMORY_NAME}"))
        {
            return Ok(Inherited::default());
        }
        let mut text = String::new();
        let mut memory = File::from(take_descriptor(number).map_err(HandoverError::Read)?);
        memory.rewind().map_err(HandoverError::Read)?;
        memory
            .read_to_string(&mut text)
            .map_err(HandoverError::Read)?;
        Inherited::read(&text).map_err(HandoverError::Read)
    }

    fn read(text: &str) -> io::Result<Inherited> {
        let letter: Letter = serde_json::from_str(text)?;
        if letter.format != FORMAT {
            return Err(io::Error::other(format!(
                "format {}, this is {FORMAT}",
                letter.format
            )));
        }
        letter.check_unique()?;
        let listeners = letter
            .listeners
            .into_iter()
            .map(|number| {
                let socket = take_descriptor(number)?;
                if socket::is_listening(&socket) {
                    Ok(socket)
                } else {
                    Err(io::Error::other(format!(
                        "descriptor {number} is no listening socket"
                    )))
                }
            })
            .collect::<io::Result<Vec<OwnedFd>>>()?;
        let connections = letter
            .connections
            .into_iter()
            .map(|frozen| {
                let upstream = match frozen.upstream {
                    Some((number, address)) => Some((take_descriptor(number)?, address)),
                    None => None,
                };
                Ok(InheritedConnection {
                    client: take_descriptor(frozen.client)?,
                    upstream,
                    up: take_flow(frozen.up)?,
                    down: take_flow(frozen.down)?,
                })
            })
            .collect::<io::Result<Vec<InheritedConnection>>>()?;
        Ok(Inherited {
            listen: Some(letter.listen),
            listeners: std::sync::Mutex::new(listeners),
            connections,
            standings: letter.standings,
        })
    }
}

impl Letter {
    fn descriptors(&self) -> Vec<RawFd> {
        let mut all = self.listeners.clone();
        for connection in &self.connections {
            all.push(connection.client);
            all.extend(connection.upstream.map(|(socket, _)| socket));
            for flow in [&connection.up, &connection.down] {
                all.extend(
                    flow.held
                        .iter()
                        .flat_map(|(read, write, _)| [*read, *write]),
                );
            }
        }
        all
    }

    /// Two owners of one descriptor would close somebody else's later.
    fn check_unique(&self) -> io::Result<()> {
        let all = self.descriptors();
        let distinct: BTreeSet<RawFd> = all.iter().copied().collect();
        if distinct.len() == all.len() && distinct.iter().all(|number| *number > 2) {
            Ok(())
        } else {
            Err(io::Error::other("descriptors are named twice"))
        }
    }
}

/// Replaces this process by the program now at its own path, with the same arguments. Every
/// connection and the listening sockets go on; counters begin anew. Returns only if that failed, and
/// then everything goes on as before.
pub(crate) fn replace(balancer: &Balancer) -> Result<Infallible, HandoverError> {
    let program = own_program()?;
    let mut resumes = Vec::new();
    let outcome = hold(balancer, &mut resumes).and_then(|frozen| exec(balancer, &program, frozen));
    // Still here: it failed. The workers go on when their `resume` is dropped.
    drop(resumes);
    outcome
}

/// The path this process was started from, whatever is there now.
pub(crate) fn own_program() -> Result<PathBuf, HandoverError> {
    let wrong = |path: &Path, err| HandoverError::Program {
        path: path.to_owned(),
        err,
    };
    let link = Path::new("/proc/self/exe");
    let path = std::fs::read_link(link).map_err(|err| wrong(link, err))?;
    // The kernel says so when the file was replaced by a rename, which is how one installs programs.
    let path = match path
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"))
    {
        Some(stripped) => PathBuf::from(stripped),
        None => path,
    };
    nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK)
        .map_err(|err| wrong(&path, err.into()))?;
    Ok(path)
}

fn hold(
    balancer: &Balancer,
    resumes: &mut Vec<mpsc::Sender<()>>,
) -> Result<Vec<Frozen>, HandoverError> {
    let (reply, replies) = mpsc::channel();
    for mailbox in balancer.mailboxes() {
        let (resume, resumed) = mpsc::channel();
        resumes.push(resume);
        mailbox.send(Command::Freeze {
            reply: reply.clone(),
            resume: resumed,
        });
    }
    let mut frozen = Vec::new();
    for _ in balancer.mailboxes() {
        let one = replies
            .recv_timeout(FREEZE_MAX)
            .map_err(|err| HandoverError::Freeze(io::Error::new(io::ErrorKind::TimedOut, err)))?;
        frozen.push(one.map_err(HandoverError::Freeze)?);
    }
    Ok(frozen)
}

fn exec(
    balancer: &Balancer,
    program: &Path,
    frozen: Vec<Frozen>,
) -> Result<Infallible, HandoverError> {
    let mut letter = Letter {
        format: FORMAT,
        listen: balancer.config().listen,
        listeners: Vec::new(),
        connections: Vec::new(),
        standings: balancer.standings(),
    };
    for one in frozen {
        letter.listeners.extend(one.listeners);
        letter.connections.extend(one.connections);
    }
    letter.check_unique().map_err(HandoverError::Write)?;
    let text = serde_json::to_vec(&letter).expect("numbers and addresses are plain data");
    let memory = memfd_create(MEMORY_NAME, MFdFlags::MFD_CLOEXEC)
        .map_err(|err| HandoverError::Write(err.into()))?;
    let mut memory = File::from(memory);
    memory.write_all(&text).map_err(HandoverError::Write)?;

    let mut passed = letter.descriptors();
    passed.push(memory.as_raw_fd());
    let outcome = passed
        .iter()
        .try_for_each(|number| set_inherited(*number, true))
        .map(|()| {
            let mut arguments = std::env::args_os();
            let name = arguments.next().unwrap_or_else(|| OsString::from(program));
            let mut command = process::Command::new(program);
            command
                .arg0(name)
                .args(arguments)
                .env(VARIABLE, memory.as_raw_fd().to_string());
            command.exec()
        });
    // Still here. What was opened up is closed to children again.
    for number in passed {
        let _ = set_inherited(number, false);
    }
    let err = match outcome {
        Ok(err) | Err(err) => err,
    };
    Err(HandoverError::Program {
        path: program.to_owned(),
        err,
    })
}

fn set_inherited(number: RawFd, inherited: bool) -> io::Result<()> {
    let flags = if inherited {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    // SAFETY: the workers stand still while this runs, so every descriptor they named is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Owns a descriptor the former image left, and closes it to children.
fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other(format!(
            "descriptor {number} is not one to hand over"
        )));
    }
    // SAFETY: only looked at; an unused number makes the call fail.
    let looked = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(looked, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|err| io::Error::other(format!("descriptor {number} is not open ({err})")))?;
    // SAFETY: the number is open, was named in a letter only the former image could write, is named
    // there once, and nothing in this image has opened it: it was open before the image began.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn take_flow(frozen: FrozenFlow) -> io::Result<AdoptedFlow> {
    let held = match frozen.held {
        Some((read, write, left)) => Some((
            Pipe {
                read: take_descriptor(read)?,
                write: take_descriptor(write)?,
            },
            left,
        )),
        None => None,
    };
    Ok(AdoptedFlow {
        held,
        ended: frozen.ended,
        finished: frozen.finished,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::Config;

    /// A worker that is busy elsewhere takes nothing away from what is told, nor from what a stop waits for.
    #[tokio::test]
    async fn connections_count_before_a_worker_gets_to_them() {
        let path = Path::new("lb.json");
        let config = Config::parse(path, br#"{"listen":"127.0.0.1:0","backends":[]}"#);
        let balancer = Balancer::start(config.expect("a configuration"), path)
            .await
            .expect("started");
        let mut resumes = Vec::new();
        hold(&balancer, &mut resumes).expect("every worker stands still");

        let mut far = Vec::new();
        let mut socket = || {
            let (near, end) = UnixStream::pair().expect("a pair of sockets");
            near.set_nonblocking(true).expect("a socket");
            far.push(end);
            OwnedFd::from(near)
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 6443));
        let connections = (0..5).map(|_| InheritedConnection {
            client: socket(),
            upstream: Some((socket(), address)),
            up: AdoptedFlow::default(),
            down: AdoptedFlow::default(),
        });
        balancer.adopt(Inherited {
            connections: connections.collect(),
            ..Inherited::default()
        });
        assert_eq!(balancer.status().connections, 5);
        // The workers go on, and are asked to end before they can have looked around.
        drop(resumes);
        let cut = balancer.stop(Duration::from_millis(50)).await;
        assert_eq!(cut, 5, "the stop waited for them, and cut them in the end");
    }

    #[test]
    fn a_letter_that_names_a_descriptor_twice_is_refused() {
        let text = r#"{"format":1,"listen":"0.0.0.0:6443","listeners":[700,700],"connections":[],"standings":[]}"#;
        let err = Inherited::read(text).expect_err("refused").to_string();
        assert_eq!(err, "descriptors are named twice");
        let text = r#"{"format":1,"listen":"0.0.0.0:6443","listeners":[1],"connections":[],"standings":[]}"#;
        Inherited::read(text).expect_err("standard output is nobody's listener");
    }

    #[test]
    fn a_letter_from_another_time_is_refused() {
        let text = r#"{"format":9,"listen":"0.0.0.0:6443","listeners":[],"connections":[],"standings":[]}"#;
        assert_eq!(
            Inherited::read(text).expect_err("refused").to_string(),
            "format 9, this is 1"
        );
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        let text = r#"{"format":1,"listen":"0.0.0.0:6443","listeners":[19999],"connections":[],"standings":[]}"#;
        let err = Inherited::read(text).expect_err("refused").to_string();
        assert!(err.starts_with("descriptor 19999 is not open"), "{err}");
    }
}
