//! A learner that was just started gets to serve its clients without a wait of etcd's own. Start at [`help`].
//!
//! A member serves its clients once its name and addresses, which it publishes through the log, were applied. The leader makes the snapshot
//! for a new learner when it next applies an entry, whichever that is: in a cluster with little to do it is that very publication. The
//! learner then has it with the snapshot, never hears that it was applied, and tries again after 7 s (`publishV3` and `applyAll` in etcd
//! 3.6.16). So while it starts the log gets other entries, which change nothing. How often that is enough:
//! `docs/design/0003-what-a-join-waits-for.md`.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use quorate_etcd::Client;
use quorate_plan::observation::Manifest;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Work, voter::NOTHING};
use crate::{clients, durable, error::ActionError, facts};

/// How long it is helped: longer than the wait that it is to be spared.
const HELP_MAX: Duration = Duration::from_secs(10);

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long it is written: the leader sends its snapshot within the first moments, or it is too late.
const WRITES_MAX: Duration = Duration::from_secs(1);

/// Writes under way to each member.
const WRITERS: usize = 8;

/// How often a port that nobody listens on is tried.
const POLL: Duration = Duration::from_millis(10);

/// Helps the etcd of this host, if it joins a cluster that there is and has written nothing yet. Whether it serves in the end is for others
/// to see.
pub(super) async fn help(work: &Work<'_>) -> Result<(), ActionError> {
    if facts::has_wal(work.paths, facts::ETCD_DATA) {
        return Ok(());
    }
    let path = work.paths.manifest("etcd");
    let Some(text) = durable::read_text(&path)? else {
        return Ok(());
    };
    let manifest = facts::parse_manifest(&path, &text)?;
    let Some(joining) = Joining::of(&manifest) else {
        return Ok(());
    };
    let own = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let mut others = Vec::new();
    for peer in &joining.others {
        let url = format!("https://{}:2379", peer.ip());
        others.push(clients::etcd(work.paths, &url)?);
    }
    until_it_serves(&own, joining.own, &others).await;
    Ok(())
}

/// Who joins whom, by the addresses of peers.
#[derive(Debug, PartialEq, Eq)]
struct Joining {
    own: SocketAddr,
    others: Vec<SocketAddr>,
}

impl Joining {
    /// `None` for a founder, and for what cannot be told.
    fn of(etcd: &Manifest) -> Option<Self> {
        if etcd.flag("initial-cluster-state") != Some("existing") {
            return None;
        }
        let address = |url: &str| url.strip_prefix("https://")?.parse::<SocketAddr>().ok();
        let own = address(etcd.flag("initial-advertise-peer-urls")?)?;
        let others = etcd
            .flag("initial-cluster")?
            .split(',')
            .filter_map(|member| address(member.split_once('=')?.1))
            .filter(|peer| *peer != own)
            .collect();
        Some(Self { own, others })
    }
}

/// Writes nothing, again and again, for a moment from when the learner listens to its peers, and waits until it serves its clients.
pub(super) async fn until_it_serves(own: &Client, own_peer: SocketAddr, others: &[Client]) {
    let serves = async {
        while own.status(ANSWER_WITHIN).await.is_err() {
            sleep(POLL).await;
        }
    };
    let writes = async {
        while TcpStream::connect(own_peer).await.is_err() {
            sleep(POLL).await;
        }
        let writers = others
            .iter()
            .flat_map(|other| std::iter::repeat_n(other, WRITERS))
            .map(async |other| {
                loop {
                    while other.delete(NOTHING, ANSWER_WITHIN).await.is_ok() {}
                    sleep(POLL).await;
                }
            });
        let _ = timeout(WRITES_MAX, join_all(writers)).await;
        std::future::pending::<()>().await;
    };
    let helped = async {
        tokio::select! {
            () = serves => {}
            () = writes => {}
        }
    };
    // A member that takes longer is not waited for here.
    let _ = timeout(HELP_MAX, helped).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(flags: &[&str]) -> Manifest {
        Manifest {
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            image: String::new(),
            mounts: [].into(),
        }
    }

    #[test]
    fn whoever_joins_is_helped() {
        let flags = [
            "--initial-advertise-peer-urls=https://10.0.0.3:2380",
            "--initial-cluster=a=https://10.0.0.1:2380,c=https://10.0.0.3:2380,b=https://10.0.0.2:2380",
            "--initial-cluster-state=existing",
        ];
        let peer = |last: u8| SocketAddr::from(([10, 0, 0, last], 2380));
        assert_eq!(
            Joining::of(&manifest(&flags)),
            Some(Joining {
                own: peer(3),
                others: vec![peer(1), peer(2)],
            })
        );
        assert_eq!(Joining::of(&manifest(&flags[..2])), None, "a founder");
        assert_eq!(Joining::of(&manifest(&flags[1..])), None);
        assert_eq!(Joining::of(&manifest(&[])), None);
    }
}
