//! The admin socket's side of the balancer: takes lines, passes requests on, writes answers.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::debug;

use crate::admin::{Request, Response, read_line};

/// Conversations at once; one more waits.
const CONVERSATIONS_MAX: usize = 16;

/// A request on its way to whoever can fulfil it.
pub(crate) type Asked = (Request, oneshot::Sender<Answer>);

/// The response, and what is dropped once it was written: a process that ends must wait for that.
pub(crate) type Answer = (Response, Option<oneshot::Sender<()>>);

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another balancer runs with this socket.
    #[error("another balancer already runs with the admin socket `{}`; see `quorate lb status`", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot make the admin socket `{}`", path.display())]
    Make {
        /// The socket, or its lock.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
}

/// The socket, and the lock that says there is one balancer with it.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    _lock: Flock<fs::File>,
}

impl AdminSocket {
    /// Takes the lock and listens. A socket left by a process that died is replaced.
    pub(crate) fn open(path: &Path) -> Result<AdminSocket, SocketError> {
        let make = |err: io::Error| SocketError::Make {
            path: path.to_owned(),
            err,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(make)?;
        }
        let lock_path = path.with_extension("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock_path)
            .map_err(make)?;
        // Also what keeps a second balancer from sharing the port: SO_REUSEPORT would let it in.
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EAGAIN)) => {
                return Err(SocketError::Taken {
                    path: path.to_owned(),
                });
            }
            Err((_, err)) => return Err(make(err.into())),
        };
        match fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(make(err)),
            Err(_) | Ok(()) => {}
        }
        let listener = private_listener(path).map_err(make)?;
        let listener = UnixListener::from_std(StdListener::from(listener)).map_err(make)?;
        Ok(AdminSocket {
            listener,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self: Arc<Self>, to: mpsc::Sender<Asked>) {
        let seats = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        loop {
            let seat = Arc::clone(&seats)
                .acquire_owned()
                .await
                .expect("never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let to = to.clone();
                    tokio::spawn(async move {
                        if let Err(err) = converse(stream, to).await {
                            debug!(%err, "an admin conversation broke");
                        }
                        drop(seat);
                    });
                }
                Err(err) => {
                    debug!(%err, "cannot accept on the admin socket");
                    // Descriptors ran out: let some connections end first.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // The next one replaces it anyway; this only keeps clients from a socket nobody reads.
        let _ = fs::remove_file(&self.path);
    }
}

/// A unix socket nobody else can connect to, at no moment: its mode is set before it has a name.
fn private_listener(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(listener.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(CONVERSATIONS_MAX as i32)?)?;
    Ok(listener)
}

async fn converse(stream: UnixStream, to: mpsc::Sender<Asked>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let line = read_line(&mut stream).await?;
    let (response, written) = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            match to.send((request, reply)).await {
                Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            }
        }
        Err(err) => {
            let why = format!("not a request of this version: {err}");
            (Response::Refused { why }, None)
        }
    };
    let mut line = serde_json::to_vec(&response).expect("answers are plain data");
    line.push(b'\n');
    stream.write_all(&line).await?;
    drop(written);
    Ok(())
}

fn stopping() -> Answer {
    (
        Response::Refused {
            why: "the balancer is stopping".to_owned(),
        },
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn one_balancer_a_socket_and_nobody_else_may_use_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/lb.sock");
        let first = AdminSocket::open(&path).expect("opened");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        match AdminSocket::open(&path) {
            Err(SocketError::Taken { .. }) => {}
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(!path.exists());
        // A socket left behind by a dead process is replaced.
        fs::write(&path, "").expect("written");
        AdminSocket::open(&path).expect("opened again");
    }

    #[tokio::test]
    async fn nonsense_is_answered_not_obeyed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lb.sock");
        let socket = Arc::new(AdminSocket::open(&path).expect("opened"));
        let (to, mut asked) = mpsc::channel(1);
        let serving = tokio::spawn(Arc::clone(&socket).serve(to));
        let mut stream = BufReader::new(UnixStream::connect(&path).await.expect("connected"));
        stream
            .write_all(b"{\"do\":\"explode\"}\n")
            .await
            .expect("written");
        let answer =
            String::from_utf8(read_line(&mut stream).await.expect("a line")).expect("text");
        assert!(
            answer.contains("refused") && answer.contains("unknown variant `explode`"),
            "{answer}"
        );
        assert!(asked.try_recv().is_err());
        serving.abort();
    }
}
