//! Members that cannot be reached, do not answer, or have no quorum.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use quorate_etcd::{Client, ConnectError, EtcdError, Timeouts};

use crate::lab::{Authority, Lab, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_apart_from_silence() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let stranger = Authority::new("somebody-else");

    // We do not know the member's authority.
    let client = Client::connect(
        &lab.client_url(1),
        Some(&stranger.client(&lab.authority)),
        Timeouts::default(),
    )
    .unwrap();
    let err = client.status(SOON).await.unwrap_err();
    let EtcdError::Unreachable { source, .. } = &err else {
        panic!("{err:?}")
    };
    assert!(
        matches!(
            source.tls(),
            Some(rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer
            ))
        ),
        "{err:?}"
    );
    assert!(!err.may_have_applied());

    // The member does not know ours.
    let client = Client::connect(
        &lab.client_url(1),
        Some(&lab.authority.client(&stranger)),
        Timeouts::default(),
    )
    .unwrap();
    let err = client.put(b"a", b"1", SOON).await.unwrap_err();
    let EtcdError::Unreachable { source, .. } = &err else {
        panic!("{err:?}")
    };
    assert!(matches!(source, ConnectError::Tls(_)), "{err:?}");
    assert!(!err.may_have_applied());
    eprintln!("a stranger's certificate: {source:?}");

    // The member's certificate is for other addresses.
    lab.start(7, "new", &[7], &[]);
    let m7 = lab.client(7);
    let wrong_name = eventually(Duration::from_secs(20), "m7 listens", || async {
        match m7.status(SOON).await.unwrap_err() {
            EtcdError::Unreachable {
                source: ConnectError::Tcp(_),
                ..
            } => None,
            err => Some(err),
        }
    })
    .await;
    let EtcdError::Unreachable { source, .. } = &wrong_name else {
        panic!("{wrong_name:?}")
    };
    assert!(
        matches!(
            source.tls(),
            Some(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForNameContext { .. }
            ))
        ),
        "{wrong_name:?}"
    );

    // Nobody listens.
    let err = lab.client(2).status(SOON).await.unwrap_err();
    let EtcdError::Unreachable {
        source: ConnectError::Tcp(source),
        ..
    } = &err
    else {
        panic!("{err:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!err.may_have_applied());

    // Without TLS a member that wants it is not understood.
    let plain = lab.client_url(1).replace("https", "http");
    let err = Client::connect(&plain, None, Timeouts::default())
        .unwrap()
        .status(SOON)
        .await
        .unwrap_err();
    assert!(matches!(err, EtcdError::Broken { .. }), "{err:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_member_is_a_deadline() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1], &[]).await;
    let m1 = lab.client(1);
    m1.status(SOON).await.unwrap();
    lab.signal(1, Signal::SIGSTOP);
    let started = Instant::now();
    let err = m1
        .put(b"a", b"1", Duration::from_millis(700))
        .await
        .unwrap_err();
    assert!(
        matches!(err, EtcdError::Deadline { answer: None, .. }),
        "{err:?}"
    );
    assert!(err.may_have_applied());
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    // A new connection gets no further than the kernel, which answers TCP for a stopped process.
    let impatient = Timeouts {
        connect: Duration::from_millis(500),
        ..Timeouts::default()
    };
    let fresh = Client::connect(&lab.client_url(1), Some(&lab.tls()), impatient).unwrap();
    let err = fresh.put(b"b", b"1", SOON).await.unwrap_err();
    assert!(
        matches!(
            err,
            EtcdError::Unreachable {
                source: ConnectError::Silent {
                    phase: "TLS handshake",
                    ..
                },
                ..
            }
        ),
        "{err:?}"
    );
    assert!(!err.may_have_applied());
    lab.signal(1, Signal::SIGCONT);
    m1.put(b"c", b"1", SOON).await.unwrap();
    eprintln!(
        "the write that timed out was applied: {}",
        m1.get(b"a", SOON).await.unwrap().is_some()
    );
    assert_eq!(m1.get(b"b", SOON).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_member_still_says_so() {
    let Some(mut lab) = Lab::new() else { return };
    lab.found(&[1, 2, 3], &[]).await;
    lab.leader(&[1, 2, 3]).await;
    let m1 = lab.client(1);
    lab.kill(2);
    lab.kill(3);
    let status = eventually(Duration::from_secs(20), "m1 sees no leader", || async {
        m1.status(SOON).await.ok().filter(|s| s.leader.is_none())
    })
    .await;
    assert_eq!(status.errors, ["etcdserver: no leader"]);
    assert_eq!(m1.members(false, SOON).await.unwrap().len(), 3);
    assert_eq!(m1.get_local(b"a", SOON).await.unwrap(), None);
    // Waiting long enough, we hear etcd's own words. It gives up after 5 s and two election timeouts, 7 s by default; a linearizable
    // read that arrives while another is under way waits for that one first, 14 s together.
    let patient = Duration::from_secs(20);
    let (read, write, list, remove) = tokio::join!(
        m1.get(b"a", patient),
        m1.put(b"a", b"1", patient),
        m1.members(true, patient),
        m1.member_remove(status.member_id, patient),
    );
    for (what, err) in [
        ("read", read.unwrap_err()),
        ("write", write.unwrap_err()),
        ("list", list.unwrap_err()),
        ("remove", remove.unwrap_err()),
    ] {
        eprintln!("{what}: {err} may_have_applied={}", err.may_have_applied());
        if what == "remove" {
            assert!(matches!(err, EtcdError::UnhealthyCluster), "{err:?}");
        } else {
            assert!(
                matches!(
                    err,
                    EtcdError::Deadline {
                        answer: Some(_),
                        ..
                    }
                ),
                "{what}: {err:?}"
            );
        }
    }
}
