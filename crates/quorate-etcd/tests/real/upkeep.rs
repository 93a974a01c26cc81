//! Leadership, keys, alarms and snapshots.

use std::process::Command;
use std::time::Duration;

use quorate_etcd::{AlarmKind, EtcdError, MemberId};

use crate::lab::{Lab, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_only_from_the_leader_to_a_voter() {
    let Some(mut lab) = Lab::new() else { return };
    let all = [1, 2, 3];
    lab.found(&all, &[]).await;
    let leader = lab.leader(&all).await;
    let other = all
        .into_iter()
        .find(|n| *n != leader)
        .expect("three members");
    let target = lab.client(other).status(SOON).await.unwrap().member_id;
    let not_leader = lab
        .client(other)
        .move_leader(target, SOON)
        .await
        .unwrap_err();
    assert!(matches!(not_leader, EtcdError::NotLeader), "{not_leader:?}");
    let stranger = lab
        .client(leader)
        .move_leader(MemberId(7), SOON)
        .await
        .unwrap_err();
    assert!(matches!(stranger, EtcdError::BadTransferee), "{stranger:?}");
    lab.client(leader).move_leader(target, SOON).await.unwrap();
    assert_eq!(lab.leader(&all).await, other);
    assert!(lab.client(other).status(SOON).await.unwrap().is_leader());

    let before = lab.client(1).put(b"k", b"v", SOON).await.unwrap();
    let mut hashes = Vec::new();
    for n in all {
        let client = lab.client(n);
        hashes.push(
            eventually(SOON, "it has the revision", || async {
                client.hash_kv(before, SOON).await.ok()
            })
            .await,
        );
    }
    assert!(
        hashes.iter().all(|h| h.hash == hashes[0].hash
            && h.hash_revision == before
            && h.compact_revision == hashes[0].compact_revision),
        "{hashes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    assert_eq!(m1.get(b"/a/1", SOON).await.unwrap(), None);
    let mut revisions = Vec::new();
    for n in 1..=5 {
        revisions.push(
            m1.put(format!("/a/{n}").as_bytes(), b"v", SOON)
                .await
                .unwrap(),
        );
    }
    m1.put(b"/a0", b"outside", SOON).await.unwrap();
    let found = m1.get(b"/a/2", SOON).await.unwrap().unwrap();
    assert_eq!(
        (found.value.as_slice(), found.mod_revision, found.version),
        (&b"v"[..], revisions[1], 1)
    );
    let page = m1.get_prefix(b"/a/", 2, SOON).await.unwrap();
    assert_eq!((page.entries.len(), page.count, page.more), (2, 5, true));
    assert_eq!(m1.get_prefix(b"", 100, SOON).await.unwrap().count, 6);
    assert!(m1.delete(b"/a/1", SOON).await.unwrap());
    assert!(!m1.delete(b"/a/1", SOON).await.unwrap());
    assert_eq!(m1.delete_prefix(b"/a/", SOON).await.unwrap(), 4);
    assert_eq!(
        m1.get_prefix(b"/", 100, SOON).await.unwrap().entries[0].key,
        b"/a0"
    );
    // Just above the limit of 1.5 MiB etcd refuses, above 2 MiB gRPC does.
    for bytes in [(3 << 20) / 2 + 1000, 2 << 20, 3 << 20] {
        let large = m1.put(b"large", &vec![0; bytes], SOON).await.unwrap_err();
        assert!(
            matches!(large, EtcdError::RequestTooLarge),
            "{bytes} bytes: {large:?}"
        );
        assert!(!large.may_have_applied());
    }
    m1.put(b"large", &vec![0; 1 << 20], SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_rings_an_alarm_until_it_is_disarmed() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &["--quota-backend-bytes", "2000000"]).await;
    let m1 = lab.client(1);
    assert_eq!(m1.alarms(SOON).await.unwrap(), []);
    assert_eq!(m1.status(SOON).await.unwrap().db_size_quota, 2_000_000);
    let value = vec![7; 100_000];
    let mut written = 0;
    let full = loop {
        match m1
            .put(format!("/fill/{written}").as_bytes(), &value, SOON)
            .await
        {
            Ok(_) => written += 1,
            Err(err) => break err,
        }
        // The size is that of the last commit to disk, which is up to 100 ms old.
        assert!(written < 1000, "100 MB fit into 2 MB");
    };
    let crossing = format!("/fill/{written}").into_bytes();
    assert!(matches!(full, EtcdError::NoSpace), "{full:?}");
    eprintln!(
        "the write that was refused for space was applied: {}",
        m1.get(&crossing, SOON).await.unwrap().is_some()
    );
    let alarm = eventually(SOON, "the alarm rings", || async {
        m1.alarms(SOON).await.unwrap().first().copied()
    })
    .await;
    let status = m1.status(SOON).await.unwrap();
    assert_eq!(
        (alarm.member, alarm.kind),
        (status.member_id, AlarmKind::NoSpace)
    );
    assert_eq!(status.errors.len(), 1, "{:?}", status.errors);
    assert!(status.errors[0].contains("NOSPACE"), "{:?}", status.errors);
    let refused = m1.put(b"small", b"v", SOON).await.unwrap_err();
    assert!(matches!(refused, EtcdError::NoSpace), "{refused:?}");
    // Reading and deleting go on.
    assert!(m1.delete_prefix(b"/fill", SOON).await.unwrap() >= written);
    m1.alarm_disarm(alarm, SOON).await.unwrap();
    assert_eq!(m1.alarms(SOON).await.unwrap(), []);
    m1.defragment(Duration::from_secs(30)).await.unwrap();
    let after = m1.status(SOON).await.unwrap();
    assert!(
        after.errors.is_empty() && after.db_size_in_use <= after.db_size,
        "{after:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_proves_itself_and_restores() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    for n in 0..200 {
        m1.put(format!("/s/{n:03}").as_bytes(), &vec![b'x'; 5_000], SOON)
            .await
            .unwrap();
    }
    let mut bytes = Vec::new();
    let sum = m1
        .snapshot(SOON, SOON)
        .await
        .unwrap()
        .write_to(&mut bytes)
        .await
        .unwrap();
    assert_eq!(sum.bytes, bytes.len() as u64);
    assert_eq!(sum.sha256, bytes[bytes.len() - 32..]);
    assert!(sum.storage_version.starts_with("3.6"), "{sum:?}");
    let mut parts = m1.snapshot(SOON, SOON).await.unwrap();
    let mut seen = 0;
    while let Some(part) = parts.next().await.unwrap() {
        seen += part.len() as u64;
        assert!(seen <= parts.total().unwrap());
    }
    assert_eq!(parts.total(), Some(seen));
    assert_eq!(parts.sum().unwrap().bytes, seen);

    let etcdutl = lab.etcd_folder().join("etcdutl");
    if !etcdutl.exists() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "no etcdutl beside etcd"
        );
        eprintln!("SKIPPED: restoring the snapshot, for there is no etcdutl beside etcd");
        return;
    }
    std::fs::write(lab.path("snapshot.db"), &bytes).unwrap();
    let restored = Command::new(etcdutl)
        .args(["snapshot", "restore"])
        .arg(lab.path("snapshot.db"))
        .arg("--data-dir")
        .arg(lab.path("m2"))
        .args([
            "--name",
            "m2",
            "--initial-cluster",
            &lab.initial_cluster(&[2]),
            "--initial-advertise-peer-urls",
            &lab.peer_url(2),
        ])
        .output()
        .unwrap();
    assert!(
        restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );
    lab.found(&[2], &[]).await;
    assert_eq!(
        lab.client(2)
            .get_prefix(b"/s/", 1, SOON)
            .await
            .unwrap()
            .count,
        200
    );
}
