//! The kernel's connection tracking: TCP connections by the destination that was meant. Start at [`established`].
//!
//! Asked over netlink (`nf_conntrack_netlink`), since its table in `/proc` is left out of many kernels and its tool of many machines.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::{durable, paths::Paths};

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) from: IpAddr,
    pub(super) to: SocketAddr,
}

/// Established connections over TCP and IPv4.
pub(super) fn established(paths: &Paths) -> io::Result<Vec<Flow>> {
    if paths.is_host() {
        match ask_kernel() {
            Ok(flows) => return Ok(flows),
            Err(err) if !paths.at(TABLE).exists() => return Err(err.into()),
            Err(_) => {}
        }
    }
    match durable::read_text(&paths.at(TABLE)).map_err(io::Error::other)? {
        Some(text) => Ok(text.lines().filter_map(line).collect()),
        None => Err(io::Error::other("this kernel does not tell them")),
    }
}

const TABLE: &str = "/proc/net/nf_conntrack";

/// A line of the kernel's table: the first of two addresses is the one that was meant.
fn line(text: &str) -> Option<Flow> {
    let mut words = text.split_whitespace();
    let is = |wanted: &'static str| move |word: &&str| *word == wanted;
    words.clone().find(is("tcp"))?;
    words.find(is("ESTABLISHED"))?;
    let value = |key: &str| words.clone().find_map(|word| word.strip_prefix(key));
    let to = value("dst=")?.parse().ok()?;
    Some(Flow {
        from: value("src=")?.parse().ok()?,
        to: SocketAddr::new(to, value("dport=")?.parse().ok()?),
    })
}

/// Lengths of a netlink header and of an `nfgenmsg`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Subsystem conntrack, message get and new.
const GET: u16 = 0x101;
const NEW: u16 = 0x100;

fn ask_kernel() -> nix::Result<Vec<Flow>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    send(socket.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut flows = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !take_messages(&buffer[..length], &mut flows)? {
            return Ok(flows);
        }
    }
}

fn request() -> Vec<u8> {
    const LENGTH: u32 = 20;
    const REQUEST_AND_DUMP: u16 = 0x301;
    const INET: u8 = 2;
    let mut out = Vec::with_capacity(LENGTH as usize);
    out.extend_from_slice(&LENGTH.to_ne_bytes());
    out.extend_from_slice(&GET.to_ne_bytes());
    out.extend_from_slice(&REQUEST_AND_DUMP.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[INET, 0, 0, 0]);
    out
}

/// Takes the connections of one datagram; `false` when the dump is over.
fn take_messages(mut datagram: &[u8], flows: &mut Vec<Flow>) -> nix::Result<bool> {
    while datagram.len() >= HEADER {
        let length =
            u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        if length < HEADER || length > datagram.len() {
            return Err(nix::errno::Errno::EBADMSG);
        }
        match u16::from_ne_bytes([datagram[4], datagram[5]]) {
            DONE => return Ok(false),
            ERROR => return Err(nix::errno::Errno::EOPNOTSUPP),
            NEW => flows.extend(datagram.get(HEADER + GENERIC..length).and_then(flow)),
            _ => {}
        }
        // Messages begin at multiples of four.
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(true)
}

/// Attribute numbers of `nfnetlink_conntrack.h`.
mod attribute {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const PROTOCOL_STATE: u16 = 4;
    pub(super) const IP: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const V4_FROM: u16 = 1;
    pub(super) const V4_TO: u16 = 2;
    pub(super) const NUMBER: u16 = 1;
    pub(super) const PORT_TO: u16 = 3;
    pub(super) const OF_TCP: u16 = 1;
    pub(super) const STATE: u16 = 1;
}

const TCP: u8 = 6;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;

fn flow(message: &[u8]) -> Option<Flow> {
    use attribute::*;
    let state = find(find(find(message, PROTOCOL_STATE)?, OF_TCP)?, STATE)?;
    if *state.first()? != ESTABLISHED {
        return None;
    }
    let original = find(message, ORIGINAL)?;
    let (ip, protocol) = (find(original, IP)?, find(original, PROTOCOL)?);
    if *find(protocol, NUMBER)?.first()? != TCP {
        return None;
    }
    let address = |number| {
        let bytes = <[u8; 4]>::try_from(find(ip, number)?.get(..4)?).ok()?;
        Some(IpAddr::from(bytes))
    };
    let port = find(protocol, PORT_TO)?.get(..2)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    Some(Flow {
        from: address(V4_FROM)?,
        to: SocketAddr::new(address(V4_TO)?, port),
    })
}

/// The value of an attribute among others.
fn find(mut attributes: &[u8], number: u16) -> Option<&[u8]> {
    // The two highest bits say that it is nested, or of which byte order.
    const NUMBER: u16 = 0x3fff;
    const PREFIX: usize = 4;
    loop {
        let length = usize::from(u16::from_ne_bytes([
            *attributes.first()?,
            *attributes.get(1)?,
        ]));
        let kind = u16::from_ne_bytes([*attributes.get(2)?, *attributes.get(3)?]) & NUMBER;
        let value = attributes.get(PREFIX..length)?;
        if kind == number {
            return Some(value);
        }
        attributes = attributes.get(length.max(PREFIX).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn nested(number: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut out = length.to_ne_bytes().to_vec();
        out.extend_from_slice(&(number | 0x8000).to_ne_bytes());
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(state: u8) -> Vec<u8> {
        let ip = [nested(1, &[10, 244, 1, 5]), nested(2, &[10, 0, 0, 11])].concat();
        let ports = [
            nested(1, &[6]),
            nested(2, &[0, 9]),
            nested(3, &[0x19, 0x2b]),
        ]
        .concat();
        let original = [nested(1, &ip), nested(2, &ports)].concat();
        let reply = nested(2, &[0; 8]);
        let protocol = nested(4, &nested(1, &nested(1, &[state])));
        let attributes = [nested(1, &original), reply, protocol].concat();
        let length = u32::try_from(HEADER + GENERIC + attributes.len()).unwrap();
        let mut out = length.to_ne_bytes().to_vec();
        out.extend_from_slice(&NEW.to_ne_bytes());
        out.resize(HEADER + GENERIC, 0);
        out.extend(attributes);
        out
    }

    fn pods() -> Flow {
        Flow {
            from: "10.244.1.5".parse().unwrap(),
            to: "10.0.0.11:6443".parse().unwrap(),
        }
    }

    #[test]
    fn established_connections_by_where_they_meant_to_go() {
        let mut flows = Vec::new();
        let two = [message(ESTABLISHED), message(7)].concat();
        assert_eq!(take_messages(&two, &mut flows), Ok(true));
        assert_eq!(flows, [pods()], "one that waits to end is over");
    }

    #[test]
    fn damaged_answers_are_none() {
        let whole = message(ESTABLISHED);
        for length in 0..whole.len() {
            let mut flows = Vec::new();
            let _ = take_messages(&whole[..length], &mut flows);
            assert!(flows.is_empty(), "cut at {length}");
        }
        let body = &whole[HEADER + GENERIC..];
        for at in 0..body.len() {
            let mut other = body.to_vec();
            other[at] = 0xff;
            let _no_panic = flow(&other);
        }
        assert_eq!(find(&[0; 64], 1), None, "an attribute without a length");
    }

    #[test]
    fn the_kernels_table() {
        let machine = testing::machine();
        assert!(
            established(&machine.paths).is_err(),
            "unknown is not nobody"
        );
        machine.write(
            TABLE,
            "ipv4     2 tcp      6 86390 ESTABLISHED src=10.244.1.5 dst=10.0.0.11 sport=4 dport=6443 src=10.0.0.11 dst=10.0.0.12 sport=6443 dport=4 [ASSURED]\n\
             ipv4     2 tcp      6 9 TIME_WAIT src=10.244.1.6 dst=10.0.0.11 sport=4 dport=6443\n\
             ipv4     2 udp      17 9 src=10.244.1.6 dst=10.0.0.11 sport=4 dport=6443\ngarbage\n",
        );
        assert_eq!(established(&machine.paths).unwrap(), [pods()]);
    }
}
