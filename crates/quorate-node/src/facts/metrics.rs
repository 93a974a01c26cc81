//! What etcd counts about itself, which it tells in its metrics alone: who has a stream to whom, how long its disk takes.
//!
//! kubeadm has etcd serve them in plain HTTP on the loopback interface, for whoever is on the host.

use std::{collections::BTreeMap, net::SocketAddr};

use quorate_plan::{MemberId, Missing, Seen, observation::Manifest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, heard::Counted};
use crate::shown;

/// Longest answer that is read, in bytes. etcd's are below 300 KiB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// The histogram of the write-ahead log's syncs.
const FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds_bucket";

/// One for each member that this one ever had a stream with: 1 while it has.
const PEERS: &str = "etcd_network_active_peers";

/// One for each member that this one ever heard of.
const RECEIVED: &str = "etcd_network_peer_received_bytes_total";

/// Whether it knows a leader.
const HAS_LEADER: &str = "etcd_server_has_leader";

/// The index of the last entry that it applied.
const APPLIED: &str = "etcd_server_proposals_applied_total";

/// What the metrics tell.
pub(crate) struct Metrics {
    /// See [`quorate_plan::observation::EtcdView::fsync_p99_ms`].
    pub(crate) fsync_p99_ms: Seen<u64>,
    /// Its peers.
    pub(crate) peers: Seen<Counted>,
}

pub(super) async fn look(manifests: &BTreeMap<String, Manifest>) -> Metrics {
    let missing = |missing: Missing| Metrics {
        fsync_p99_ms: Seen::Unknown(missing.clone()),
        peers: Seen::Unknown(missing),
    };
    let Some(address) = manifests.get("etcd").and_then(address) else {
        return missing(Missing::unreadable(
            "etcd's metrics",
            "etcd.yaml has no http address in --listen-metrics-urls",
        ));
    };
    let text = match timeout(PATIENCE, get(address)).await {
        Ok(Ok(text)) => text,
        Ok(Err(err)) => {
            let why = shown::line(&err.to_string());
            return missing(Missing::no_answer("etcd's metrics", why));
        }
        Err(_) => {
            let why = format!("no answer within {} s", PATIENCE.as_secs());
            return missing(Missing::no_answer("etcd's metrics", why));
        }
    };
    Metrics {
        fsync_p99_ms: match fsync_p99_ms(&text) {
            Some(ms) => Seen::now(ms),
            None => Seen::Unknown(Missing::unreadable("etcd's metrics", format!("no {FSYNC}"))),
        },
        peers: match peers(&text) {
            Some(peers) => Seen::now(peers),
            None => Seen::Unknown(Missing::unreadable(
                "etcd's metrics",
                format!("a {PEERS} or {RECEIVED} without a member"),
            )),
        },
    }
}

/// How far etcd has applied its log, by its own count: 0 where it has just joined and nobody gave it data yet. `None`: it knows no leader, or
/// does not answer.
pub(crate) async fn applied(address: SocketAddr) -> Option<u64> {
    let text = timeout(PATIENCE, get(address)).await.ok()?.ok()?;
    let value = |name| samples(&text, name).next().map(|(_, value)| value);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it counts entries; beyond 2^53 of them the last ones do not matter"
    )]
    (value(HAS_LEADER)? > 0.0).then_some(value(APPLIED)? as u64)
}

/// Where an etcd with this manifest serves its metrics without a certificate.
pub(crate) fn address(etcd: &Manifest) -> Option<SocketAddr> {
    etcd.flag("listen-metrics-urls")?
        .split(',')
        .find_map(|url| url.strip_prefix("http://")?.parse().ok())
}

/// HTTP/1.0, so that the answer ends with the connection and comes in one piece.
async fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n")
        .await?;
    let mut bytes = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut bytes)
        .await?;
    let text = String::from_utf8_lossy(&bytes);
    let odd = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| odd("what answers there speaks no HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) != Some("200") {
        return Err(odd(status));
    }
    Ok(body.to_owned())
}

/// One sample: its labels as they are written, and its value.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}')?,
            None => ("", rest),
        };
        Some((labels, value.split_whitespace().next()?.parse().ok()?))
    })
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

/// What it counts of each of its peers. A member that is alone tells of nobody. `None`: one of them has no ID.
fn peers(text: &str) -> Option<Counted> {
    let of = |name, label_name| {
        samples(text, name).map(move |(labels, value)| {
            let id = u64::from_str_radix(label(labels, label_name)?, 16).ok()?;
            Some((MemberId(id), value))
        })
    };
    let streams: Option<Vec<_>> = of(PEERS, "Remote").collect();
    let received: Option<Vec<_>> = of(RECEIVED, "From").collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it counts bytes; beyond 2^53 of them the last ones do not matter"
    )]
    let bytes = |value: f64| value as u64;
    Some(Counted {
        streams: streams?
            .into_iter()
            .filter(|(_, value)| *value > 0.0)
            .map(|(id, _)| id)
            .collect(),
        received: received?
            .into_iter()
            .map(|(id, value)| (id, bytes(value)))
            .collect(),
    })
}

/// The upper bound of the bucket that 99 of 100 syncs are in or below. A histogram's last bucket has no bound: its lower one is told then,
/// for it is far beyond every limit. `None`: there is no such histogram.
fn fsync_p99_ms(text: &str) -> Option<u64> {
    let buckets: Vec<(Option<f64>, f64)> = samples(text, FSYNC)
        .filter_map(|(labels, count)| {
            let bound = label(labels, "le")?;
            Some((bound.parse().ok().filter(|b: &f64| b.is_finite()), count))
        })
        .collect();
    let total = buckets.last()?.1;
    let mut largest = 0.0;
    for (bound, count) in buckets {
        match bound {
            Some(bound) => largest = bound,
            None => break,
        }
        if count >= total * 0.99 {
            break;
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "etcd's bounds are between a thousandth of a second and ten seconds"
    )]
    Some((largest * 1000.0).ceil() as u64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TEXT: &str =
        "# HELP etcd_network_active_peers The current number of active peer connections.
# TYPE etcd_network_active_peers gauge
etcd_network_active_peers{Local=\"8e9e05c52164694d\",Remote=\"91bc3c398fb3c146\"} 1
etcd_network_active_peers{Local=\"8e9e05c52164694d\",Remote=\"fd422379fda50e48\"} 0
etcd_network_peer_received_bytes_total{From=\"0\"} 4321
etcd_network_peer_received_bytes_total{From=\"91bc3c398fb3c146\"} 1.234567e+06
# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 900
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 980
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.016\"} 995
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 999
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 1000
etcd_disk_wal_fsync_duration_seconds_sum 0.9
etcd_disk_wal_fsync_duration_seconds_count 1000
";

    #[test]
    fn peers_are_known_by_the_whole_of_their_ids() {
        let counted = peers(TEXT).unwrap();
        let id = MemberId(0x91bc_3c39_8fb3_c146);
        assert_eq!(counted.streams, [id].into());
        assert_eq!(counted.received[&id], 1_234_567);
        assert!(peers("").unwrap().streams.is_empty());
        for odd in [
            "etcd_network_active_peers{Local=\"1\",Remote=\"x\"} 1\n",
            "etcd_network_peer_received_bytes_total 1\n",
        ] {
            assert_eq!(peers(odd), None, "{odd}");
        }
    }

    #[test]
    fn ninety_nine_of_a_hundred() {
        assert_eq!(fsync_p99_ms(TEXT), Some(16));
        assert_eq!(fsync_p99_ms("etcd_x 1\n"), None);
        let slow = TEXT.replace("} 995", "} 500").replace("} 999", "} 600");
        assert_eq!(fsync_p99_ms(&slow), Some(8192), "beyond the last bound");
        let none = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 0\n";
        assert_eq!(fsync_p99_ms(none), Some(1), "nothing was slow yet");
    }

    /// An etcd that serves its metrics there.
    pub(crate) fn etcd(urls: &str) -> BTreeMap<String, Manifest> {
        let flags = vec![format!("--listen-metrics-urls={urls}")];
        let manifest = Manifest {
            image: String::new(),
            flags,
            mounts: [].into(),
            files: BTreeMap::new(),
        };
        [("etcd".to_owned(), manifest)].into()
    }

    #[test]
    fn only_where_no_certificate_is_asked_for() {
        let urls = "https://10.0.0.1:2381,http://127.0.0.1:2381";
        let found = |urls| address(&etcd(urls)["etcd"]);
        assert_eq!(found(urls), Some("127.0.0.1:2381".parse().unwrap()));
        assert_eq!(found("https://10.0.0.1:2381"), None);
    }

    async fn answers(with: &'static str) -> Metrics {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            assert!(asked[..n].starts_with(b"GET /metrics HTTP/1.0\r\n"));
            stream.write_all(with.as_bytes()).await.unwrap();
        });
        look(&etcd(&url)).await
    }

    #[tokio::test]
    async fn what_is_no_answer_is_not_known() {
        let good = answers(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\netcd_network_active_peers{Local=\"1\",Remote=\"a\"} 1\n",
        )
        .await;
        assert_eq!(good.peers.get().unwrap().streams, [MemberId(10)].into());
        assert!(good.fsync_p99_ms.get().is_err());
        for bad in [
            "HTTP/1.0 500 Internal Server Error\r\n\r\n",
            "SSH-2.0-x\r\n",
            "",
        ] {
            let seen = answers(bad).await;
            assert!(seen.peers.get().is_err(), "{bad}");
        }
    }
}
