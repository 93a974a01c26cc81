//! Sockets as the data path wants them. Everything is non-blocking and closed on exec.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::config::Connections;

/// Connections the kernel keeps waiting for `accept`; it is cut to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket. `SO_REUSEPORT`: each worker has its own, the kernel spreads clients over them.
pub(crate) fn listen(address: SocketAddr, settings: &Connections) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit these on Linux: four system calls less for each connection.
    tune(&SockRef::from(&socket), settings)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The address a socket is bound to.
pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SockRef::from(socket)
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("the socket is not an internet socket"))
}

/// The options every proxied connection has, on both sides.
pub(crate) fn tune(socket: &SockRef<'_>, settings: &Connections) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(settings.user_timeout))?;
    let interval = (settings.keepalive / 3).max(Duration::from_secs(1));
    // How many probes may fail is not set: with a user timeout the kernel goes by that.
    let keepalive = TcpKeepalive::new()
        .with_time(settings.keepalive)
        .with_interval(interval);
    socket.set_tcp_keepalive(&keepalive)
}

/// The next waiting client, if there is one.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match SockRef::from(listener).accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
            Ok((socket, _)) => return Ok(Some(socket.into())),
            Err(err) => match err.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                // The client went away while it waited, or a signal came: the next one, please.
                Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
                _ => return Err(err),
            },
        }
    }
}

/// Begins to connect; true when that is already done.
pub(crate) fn dial(address: SocketAddr, settings: &Connections) -> io::Result<(OwnedFd, bool)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    tune(&SockRef::from(&socket), settings)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => Ok((socket.into(), true)),
        Err(err) if err.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket.into(), false)),
        Err(err) => Err(err),
    }
}

/// The error a socket has waiting.
pub(crate) fn pending_error(socket: &OwnedFd) -> Option<io::Error> {
    match SockRef::from(socket).take_error() {
        Ok(error) => error,
        Err(err) => Some(err),
    }
}

/// Makes closing this socket a reset.
pub(crate) fn reset_on_close(socket: &OwnedFd) {
    // Can only fail on a socket that is no longer one; closing it then needs no reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Reads what is there; `None` when nothing is.
pub(crate) fn read(socket: &impl AsFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    would_block(|| recv(socket.as_fd().as_raw_fd(), into, MsgFlags::empty()))
}

/// Writes what fits; `None` when nothing does.
pub(crate) fn write(socket: &impl AsFd, from: &[u8]) -> io::Result<Option<usize>> {
    would_block(|| send(socket.as_fd().as_raw_fd(), from, MsgFlags::MSG_NOSIGNAL))
}

/// Runs a non-blocking call through interruptions; `None` when it would block.
pub(crate) fn would_block(
    mut call: impl FnMut() -> nix::Result<usize>,
) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Tells the other side that nothing more comes.
pub(crate) fn finish(socket: &OwnedFd) -> io::Result<()> {
    match SockRef::from(socket).shutdown(std::net::Shutdown::Write) {
        // It is gone already: reading it says how.
        Err(err) if err.raw_os_error() == Some(libc::ENOTCONN) => Ok(()),
        other => other,
    }
}

/// Whether this is a listening socket: what is inherited is looked at before it is used.
pub(crate) fn is_listening(socket: &OwnedFd) -> bool {
    SockRef::from(socket).is_listener().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn pair() -> (OwnedFd, TcpStream) {
        let settings = Connections::default();
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), &settings).expect("listening");
        let client =
            TcpStream::connect(local_address(&listener).expect("bound")).expect("connected");
        let accepted = accept(&listener)
            .expect("accepted")
            .expect("a client waits");
        assert!(accept(&listener).expect("no error").is_none());
        (accepted, client)
    }

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        let (accepted, _client) = pair();
        let socket = SockRef::from(&accepted);
        let settings = Connections::default();
        assert!(socket.tcp_nodelay().expect("read"));
        assert!(socket.keepalive().expect("read"));
        assert_eq!(
            socket.tcp_user_timeout().expect("read"),
            Some(settings.user_timeout)
        );
        assert_eq!(
            socket.tcp_keepalive_time().expect("read"),
            settings.keepalive
        );
        assert!(socket.nonblocking().expect("read"));
    }

    #[test]
    fn a_reset_is_seen_as_one() {
        let (accepted, mut client) = pair();
        reset_on_close(&accepted);
        drop(accepted);
        let err = client.read(&mut [0; 1]).expect_err("reset");
        assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_finished_side_still_reads() {
        let (accepted, mut client) = pair();
        finish(&accepted).expect("shut");
        assert_eq!(client.read(&mut [0; 1]).expect("read"), 0);
        client.write_all(b"x").expect("written");
        SockRef::from(&accepted)
            .set_nonblocking(false)
            .expect("set");
        assert_eq!(read(&accepted, &mut [0; 8]).expect("read"), Some(1));
    }
}
