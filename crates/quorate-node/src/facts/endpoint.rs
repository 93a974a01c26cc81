//! The stable name of the API, and the cluster's DNS, as seen from this host.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::{join_all, select_ok};
use quorate_plan::{
    Missing, Seen,
    observation::{EndpointAnswer, EndpointName, EndpointSight},
};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{PATIENCE, api::readyz_of, in_time};
use crate::{
    clients,
    command::{Command, CommandError, Tools},
    hosts_file,
    paths::Paths,
    random,
};

/// The name every cluster's DNS knows.
const NAME: &str = "kubernetes.default.svc.cluster.local";

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(600);

/// The query is sent again after this long: DNS over UDP loses a packet now and then.
const RESEND: Duration = Duration::from_millis(60);

/// Queries sent in all: that of two servers the dead one gets each of them is one in 32.
const QUERIES: u32 = 5;

pub(super) async fn look(
    paths: &Paths,
    tools: &Tools,
    endpoint: Option<&EndpointName>,
) -> Seen<Option<EndpointSight>> {
    let Some(endpoint) = endpoint else {
        return Seen::now(None);
    };
    let resolves = match timeout(PATIENCE, resolve(paths, tools, &endpoint.host)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(err)) => return Seen::Unknown(super::no_answer("the endpoint's name", &err)),
        // A resolver that is silent resolves nothing.
        Err(_) => BTreeSet::new(),
    };
    // Whoever comes by a name with several addresses tries one after the other.
    let answers = resolves.iter().map(|to| answer(paths, endpoint, *to));
    let answers = join_all(answers).await.into_iter();
    let answer = answers.max_by_key(worth).unwrap_or(EndpointAnswer::Nobody);
    Seen::now(Some(EndpointSight { resolves, answer }))
}

fn worth(answer: &EndpointAnswer) -> u8 {
    match answer {
        EndpointAnswer::Nobody => 0,
        EndpointAnswer::Somebody => 1,
        EndpointAnswer::Apiserver(readyz) => 2 + u8::from(readyz.ready),
    }
}

/// The first of several addresses behind a name that takes a connection; the first of all where none does, so that it is told why.
pub(crate) async fn first_that_answers(addresses: &BTreeSet<IpAddr>, port: u16) -> Option<IpAddr> {
    let connected = addresses.iter().map(|address| {
        let to = SocketAddr::new(*address, port);
        Box::pin(async move {
            match timeout(PATIENCE, TcpStream::connect(to)).await {
                Ok(Ok(_)) => Ok(to.ip()),
                Ok(Err(_)) | Err(_) => Err(()),
            }
        })
    });
    match addresses.len() {
        0 | 1 => addresses.first().copied(),
        _ => match select_ok(connected).await {
            Ok((address, _)) => Some(address),
            Err(()) => addresses.first().copied(),
        },
    }
}

/// The system's own resolver, asked through its own tool: a static binary has none, and what the kubelet will see is what counts.
pub(crate) async fn resolve(
    paths: &Paths,
    tools: &Tools,
    host: &str,
) -> Result<BTreeSet<IpAddr>, CommandError> {
    if let Ok(address) = host.parse() {
        return Ok([address].into());
    }
    // What it would look at first, where it does: starting a process takes longer than all else about a name.
    let listed = hosts_file::resolve(paths, host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let query = Command::new("getent", PATIENCE).args(["ahostsv4", host]);
    match tools.run(query).await {
        Ok(out) => Ok(out
            .text()
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect()),
        // getent has an exit code for "no such name".
        Err(CommandError::Ended { .. } | CommandError::Late { .. }) => Ok(BTreeSet::new()),
        Err(err) => Err(err),
    }
}

/// Without a CA here to know the right one by, all that can be told is whether somebody takes a connection.
async fn answer(paths: &Paths, endpoint: &EndpointName, address: IpAddr) -> EndpointAnswer {
    let address = SocketAddr::new(address, endpoint.port);
    let ca = ["/etc/kubernetes/pki/ca.crt", crate::ensure::BALANCER_CA]
        .map(|path| paths.at(path))
        .into_iter()
        .find(|path| path.exists());
    let Some(ca) = ca else {
        return match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => EndpointAnswer::Somebody,
            Ok(Err(_)) | Err(_) => EndpointAnswer::Nobody,
        };
    };
    let Ok(client) = clients::anonymous(ca, &format!("https://{endpoint}"), address) else {
        return EndpointAnswer::Nobody;
    };
    // Whoever comes by a balancer may be on a connection to one that ends just now, and comes again at once, as every client does.
    let asked = async {
        match client.readyz(PATIENCE).await {
            Ok(readyz) => Ok(readyz),
            Err(_) => client.readyz(PATIENCE).await,
        }
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(readyz)) => EndpointAnswer::Apiserver(readyz_of(readyz)),
        Ok(Err(_)) | Err(_) => EndpointAnswer::Nobody,
    }
}

/// Only nodes of the cluster reach its DNS, and only over a pod network: without one the question would wait for nothing.
pub(super) async fn dns(paths: &Paths, server: Option<IpAddr>) -> Seen<Option<BTreeSet<IpAddr>>> {
    let Some(server) = server.filter(|_| paths.kubernetes("kubelet.conf").exists()) else {
        return Seen::now(None);
    };
    let what = "the cluster's DNS";
    if !has_pod_network(paths) {
        let why = "there is no pod network on this host yet";
        return Seen::Unknown(Missing::no_answer(what, why));
    }
    in_time(what, async {
        match ask(SocketAddr::new(server, 53), NAME).await {
            Ok(addresses) => Seen::now(Some(addresses)),
            Err(err) => Seen::Unknown(Missing::no_answer(what, err)),
        }
    })
    .await
}

/// Whether a CNI plugin is configured: pod networks do that when they start on a host.
fn has_pod_network(paths: &Paths) -> bool {
    let configured = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
    };
    std::fs::read_dir(paths.at("/etc/cni/net.d")).is_ok_and(|mut dir| dir.any(configured))
}

/// The first answer counts. Each query comes from a socket of its own: packets of one are all led to the same server of the service, also
/// when that is dead.
async fn ask(server: SocketAddr, name: &str) -> Result<BTreeSet<IpAddr>, String> {
    let id = random::bytes::<2>().map_err(|err| err.to_string())?;
    let query = &query(id, name);
    let queries = (0..QUERIES).map(|nth| {
        Box::pin(async move {
            sleep(RESEND * nth).await;
            ask_once(server, query, id).await
        })
    });
    match timeout(ANSWER_WITHIN, select_ok(queries)).await {
        Ok(Ok((found, _))) => Ok(found),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err(format!("{server} does not answer")),
    }
}

async fn ask_once(
    server: SocketAddr,
    query: &[u8],
    id: [u8; 2],
) -> std::io::Result<BTreeSet<IpAddr>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = [0; 1500];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(found) = addresses(&answer[..length], id) {
            return Ok(found);
        }
    }
}

/// A query for IPv4 addresses with recursion desired.
fn query(id: [u8; 2], name: &str) -> Vec<u8> {
    let mut out = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).expect("labels of our name are short"));
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 1, 0, 1]);
    out
}

/// The IPv4 addresses of an answer; `None` when it is no answer to our query.
fn addresses(answer: &[u8], id: [u8; 2]) -> Option<BTreeSet<IpAddr>> {
    let number = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if answer.get(..2)? != id || answer.get(2)? & 0x80 == 0 {
        return None;
    }
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(answer, at)? + 4;
    }
    let mut found = BTreeSet::new();
    for _ in 0..answers {
        at = after_name(answer, at)?;
        let (kind, class, length) = (number(at)?, number(at + 2)?, usize::from(number(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        if let (1, 1, Ok(address)) = (kind, class, <[u8; 4]>::try_from(data)) {
            found.insert(IpAddr::from(address));
        }
        at += 10 + length;
    }
    Some(found)
}

/// Where a name ends: after its last label, or after the pointer that stands for the rest of it.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(query: &[u8], records: &[&[u8]]) -> Vec<u8> {
        let mut out = query.to_vec();
        out[2] |= 0x80;
        out[7] = u8::try_from(records.len()).unwrap();
        for record in records {
            out.extend_from_slice(record);
        }
        out
    }

    const A: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\x60\0\x01";
    const CNAME: &[u8] = b"\x01a\0\0\x05\0\x01\0\0\0\x05\0\x02\xc0\x0c";

    #[test]
    fn answers_are_read_and_others_not() {
        let query = query([7, 9], NAME);
        let good = answer(&query, &[CNAME, A]);
        let expected = Some(["10.96.0.1".parse().unwrap()].into());
        assert_eq!(addresses(&good, [7, 9]), expected);
        assert_eq!(addresses(&good, [7, 8]), None, "another query's");
        assert_eq!(addresses(&query, [7, 9]), None, "a query is no answer");
        assert_eq!(addresses(&answer(&query, &[]), [7, 9]), Some([].into()));
        for length in 0..good.len() {
            assert_eq!(addresses(&good[..length], [7, 9]), None, "cut at {length}");
        }
    }

    #[tokio::test]
    async fn a_lost_packet_is_asked_again() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (_, lost) = server.recv_from(&mut buffer).await.unwrap();
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_ne!(
                from, lost,
                "packets of one socket are all led to one server"
            );
            server
                .send_to(&answer(&buffer[..length], &[A]), from)
                .await
                .unwrap();
        });
        let found = ask(address, NAME).await.unwrap();
        assert_eq!(found, ["10.96.0.1".parse().unwrap()].into());
        answering.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_pod_network_nothing_is_asked() {
        let machine = crate::testing::machine();
        // Nobody answers there, ever.
        let server = Some("192.0.2.1".parse().unwrap());
        assert_eq!(dns(&machine.paths, server).await.get().unwrap(), &None);
        machine.write("/etc/kubernetes/kubelet.conf", "");
        machine.write("/etc/cni/net.d/.kubernetes-cni-keep", "");
        let started = std::time::Instant::now();
        let missing = dns(&machine.paths, server)
            .await
            .get()
            .cloned()
            .unwrap_err();
        assert!(missing.to_string().contains("no pod network"), "{missing}");
        assert!(started.elapsed() < RESEND);
    }

    /// A host that has not joined cannot tell an apiserver from anybody else, and must not take that for silence.
    #[tokio::test]
    async fn without_an_authority_only_connections_count() {
        let machine = crate::testing::machine();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = EndpointName {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
        };
        let answers = async || {
            let sight = look(&machine.paths, &Tools::default(), Some(&endpoint)).await;
            sight.get().unwrap().clone().unwrap().answer
        };
        assert_eq!(answers().await, EndpointAnswer::Somebody);
        drop(listener);
        assert_eq!(answers().await, EndpointAnswer::Nobody);
    }

    /// One that breaks says nothing about who answers the next one.
    #[tokio::test]
    async fn a_connection_that_breaks_is_made_once_more() {
        let machine = crate::testing::machine();
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key);
        machine.write("/etc/kubernetes/pki/ca.crt", authority.unwrap().pem());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = EndpointName {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
        };
        let mut dials = 0;
        let tools = Tools::default();
        let sight = look(&machine.paths, &tools, Some(&endpoint));
        let mut sight = std::pin::pin!(sight);
        let sight = loop {
            tokio::select! {
                sight = &mut sight => break sight,
                accepted = listener.accept() => {
                    drop(accepted.unwrap());
                    dials += 1;
                }
            }
        };
        let answer = sight.get().unwrap().clone().unwrap().answer;
        assert_eq!((answer, dials), (EndpointAnswer::Nobody, 2));
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let found = resolve(&Paths::host(), &Tools::default(), "10.0.0.9")
            .await
            .unwrap();
        assert_eq!(found, ["10.0.0.9".parse().unwrap()].into());
    }
}
