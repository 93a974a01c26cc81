//! Servers that cannot be reached, are not who they should be, or stop in the middle.

use std::time::Duration;

use quorate_kube::{Client, Credentials, KubeError, Kubeconfig, Phase, Request, TlsReason};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fake::{Authority, HTTP1, HTTP2, Manner, Reply, SOON, Server};

const BRIEF: Duration = Duration::from_millis(300);

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = Kubeconfig::new(
        &format!("https://{address}"),
        Authority::new("kubernetes").pem.into_bytes(),
        Credentials::None,
    );
    let err = Client::new(&config, None)
        .unwrap()
        .create("/api", &json!({}), SOON)
        .await
        .unwrap_err();
    let KubeError::Unreachable { source, .. } = &err else {
        panic!("{err:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(err.definitely_not_applied());
}

#[tokio::test]
async fn the_reason_tls_fails_is_named() {
    let ok = |_: &_| Reply::Json(200, json!({}));
    let wrong_name = Server::with(
        Manner {
            names: &["other.test"],
            ..Manner::default()
        },
        ok,
    )
    .await;
    let expired = Server::with(
        Manner {
            years: 2019..2020,
            ..Manner::default()
        },
        ok,
    )
    .await;
    let early = Server::with(
        Manner {
            years: 2100..2120,
            ..Manner::default()
        },
        ok,
    )
    .await;
    let mut failures = Vec::new();
    for server in [&wrong_name, &expired, &early] {
        failures.push(server.client().get("/", SOON).await.unwrap_err());
    }
    let stranger = Kubeconfig::new(
        "https://api.test:6443",
        Authority::new("somebody-else").pem.into_bytes(),
        Credentials::None,
    );
    failures.push(
        Client::new(&stranger, Some(wrong_name.address))
            .unwrap()
            .get("/", SOON)
            .await
            .unwrap_err(),
    );
    let reasons: Vec<TlsReason> = failures
        .iter()
        .map(|err| {
            assert!(err.definitely_not_applied());
            match err {
                KubeError::Tls { reason, .. } => *reason,
                err => panic!("{err:?}"),
            }
        })
        .collect();
    assert_eq!(
        reasons,
        [
            TlsReason::WrongName,
            TlsReason::Expired,
            TlsReason::NotYetValid,
            TlsReason::UnknownIssuer
        ]
    );
    // The name to expect can be another than the one in the URL.
    let renamed = wrong_name
        .kubeconfig(Credentials::None)
        .with_tls_server_name("other.test");
    Client::new(&renamed, Some(wrong_name.address))
        .unwrap()
        .get("/", SOON)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_or_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = Kubeconfig::new(
        "https://api.test:6443",
        Authority::new("kubernetes").pem.into_bytes(),
        Credentials::None,
    );
    let client = Client::new(&config, Some(address)).unwrap();
    // The kernel completes TCP for a listener that never accepts, as for a stopped process.
    let err = client.create("/api", &json!({}), BRIEF).await.unwrap_err();
    assert!(
        matches!(
            err,
            KubeError::Deadline {
                phase: Phase::Tls,
                ..
            }
        ),
        "{err:?}"
    );
    assert!(err.definitely_not_applied());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .ok();
        }
    });
    let err = client.create("/api", &json!({}), SOON).await.unwrap_err();
    assert!(
        matches!(
            err,
            KubeError::Tls {
                reason: TlsReason::NotTls | TlsReason::Ended,
                ..
            }
        ),
        "{err:?}"
    );
    assert!(err.definitely_not_applied());
}

#[tokio::test]
async fn silence_after_the_request_leaves_it_open() {
    let server = Server::start(|seen| {
        if seen.method == "POST" {
            Reply::Silence
        } else {
            Reply::Json(200, json!({}))
        }
    })
    .await;
    let client = server.client();
    client.get("/version", SOON).await.unwrap();
    let err = client.create("/api", &json!({}), BRIEF).await.unwrap_err();
    assert!(
        matches!(
            err,
            KubeError::Deadline {
                phase: Phase::Answer,
                ..
            }
        ),
        "{err:?}"
    );
    assert!(!err.definitely_not_applied());
    // The connection that was silent is not used again.
    client.get("/version", SOON).await.unwrap();
    assert_eq!((server.connections(), server.seen().len()), (2, 3));
}

#[tokio::test]
async fn a_reset_after_the_request_leaves_it_open() {
    for alpn in [HTTP2, HTTP1] {
        let server = Server::with(
            Manner {
                alpn,
                ..Manner::default()
            },
            |seen| {
                if seen.method == "POST" {
                    Reply::Cut
                } else {
                    Reply::Json(200, json!({}))
                }
            },
        )
        .await;
        let client = server.client();
        client.get("/version", SOON).await.unwrap();
        let err = client.create("/api", &json!({}), SOON).await.unwrap_err();
        assert!(
            matches!(err, KubeError::Broken { sent: true, .. }),
            "{err:?}"
        );
        assert!(!err.definitely_not_applied());
        assert_eq!(
            server.seen().iter().filter(|s| s.method == "POST").count(),
            1,
            "nothing is retried"
        );
        client.get("/version", SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_is_replaced() {
    let server = Server::start(|_| Reply::Json(200, json!({}))).await;
    let client = server.client();
    client.get("/version", SOON).await.unwrap();
    server.cut.notify_waiters();
    // The end may be noticed before the call or by it; in the latter case nothing was sent, and the next call connects.
    if let Err(err) = client.get("/version", SOON).await {
        assert!(matches!(err, KubeError::Broken { .. }), "{err:?}");
        client.get("/version", SOON).await.unwrap();
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_probers_connections_are_measured_and_its_own() {
    let server = Server::start(|_| Reply::Text(200, "ok".to_owned())).await;
    let client = server.client();
    client.readyz(SOON).await.unwrap();
    let mut first = client.open(SOON).await.unwrap();
    let mut second = client.open(SOON).await.unwrap();
    assert_eq!(first.timings().peer, server.address);
    assert!(first.timings().tls > Duration::ZERO);
    assert_eq!(
        first
            .raw(Request::get("/readyz"), SOON)
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        second
            .raw(Request::get("/readyz"), SOON)
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(server.connections(), 3);
    // It is not reopened behind the prober's back.
    server.cut.notify_waiters();
    let err = first.raw(Request::get("/readyz"), SOON).await.unwrap_err();
    assert!(matches!(err, KubeError::Broken { .. }), "{err:?}");
    assert_eq!(server.connections(), 3);
}
