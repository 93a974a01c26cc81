//! Which of etcd's ports on the masters' hosts something in between keeps from this one. Start at [`look`].
//!
//! A host without etcd refuses a connection, and so tells that the way to it is open. Whoever drops what is sent there tells nothing. The
//! apiserver's port is left out: who is connected there is what a conversion counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quorate_plan::Seen;
use tokio::{net::TcpStream, time::timeout};

use crate::paths::Paths;

/// A refusal comes at once; one lost packet is sent anew after a second.
const PATIENCE: Duration = Duration::from_millis(1300);

/// etcd's ports, for clients and for peers.
const ETCD: [u16; 2] = [2379, 2380];

pub(super) async fn look(
    paths: &Paths,
    watched: &BTreeSet<SocketAddr>,
) -> Seen<BTreeMap<SocketAddr, String>> {
    // A worker has no business there, and a careful network keeps it out.
    let is_worker =
        paths.kubernetes("kubelet.conf").exists() && !paths.manifest("kube-apiserver").exists();
    if is_worker {
        return Seen::now(BTreeMap::new());
    }
    let own: BTreeSet<IpAddr> = super::machine::addresses();
    let ports = watched
        .iter()
        .flat_map(|watched| ETCD.map(|port| SocketAddr::new(watched.ip(), port)));
    let mut looks = tokio::task::JoinSet::new();
    for address in ports.filter(|address| !own.contains(&address.ip())) {
        looks.spawn(async move { (address, blocked(address).await) });
    }
    let mut found = BTreeMap::new();
    while let Some(look) = looks.join_next().await {
        if let Ok((address, Some(why))) = look {
            found.insert(address, why);
        }
    }
    Seen::now(found)
}

async fn blocked(address: SocketAddr) -> Option<String> {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => None,
        Ok(Err(err)) if err.kind() == io::ErrorKind::ConnectionRefused => None,
        Ok(Err(err)) => Some(crate::shown::line(&err.to_string())),
        Err(_) => Some("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_worker_does_not_look() {
        let machine = testing::machine();
        // There is no way to a broadcast address.
        let watched = ["255.255.255.255:6443".parse().unwrap()].into();
        let seen = look(&machine.paths, &watched).await;
        let ports: Vec<u16> = seen.get().unwrap().keys().map(SocketAddr::port).collect();
        assert_eq!(ports, ETCD);
        machine.write("/etc/kubernetes/kubelet.conf", "");
        let seen = look(&machine.paths, &watched).await;
        assert!(seen.get().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_refusal_is_an_open_way() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(blocked(taken.local_addr().unwrap()).await, None);
        let free = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        assert_eq!(blocked(free).await, None, "refused");
        // The kernel itself says that there is no way to a broadcast address.
        let nowhere = "255.255.255.255:6443".parse().unwrap();
        assert!(blocked(nowhere).await.is_some());
    }
}
