//! Watches: events however they are cut, and every way a watch ends.

use std::sync::Mutex;
use std::time::Duration;

use hyper::body::Bytes;
use quorate_kube::{KubeError, Phase, Reason, Watch, WatchKind};
use tokio::sync::mpsc;

use crate::fake::{HTTP1, HTTP2, Manner, Reply, SOON, Server, status};

const BRIEF: Duration = Duration::from_millis(200);

async fn watch(alpn: &'static [&'static [u8]]) -> (Server, mpsc::UnboundedSender<Bytes>, Watch) {
    let (send, receive) = mpsc::unbounded_channel();
    let receive = Mutex::new(Some(receive));
    let server = Server::with(
        Manner {
            alpn,
            ..Manner::default()
        },
        move |_| Reply::Stream(receive.lock().unwrap().take().expect("asked once")),
    )
    .await;
    let watch = server
        .client()
        .watch("/api/v1/nodes", Some("42"), SOON)
        .await
        .unwrap();
    assert_eq!(
        server.seen()[0].path,
        "/api/v1/nodes?watch=true&allowWatchBookmarks=true&resourceVersion=42"
    );
    (server, send, watch)
}

#[tokio::test]
async fn events_arrive_in_order_however_they_are_cut() {
    for alpn in [HTTP2, HTTP1] {
        let (_server, send, mut watch) = watch(alpn).await;
        let text = concat!(
            r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"43"}}}"#,
            "\n",
            r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"44"}}}"#,
            "\n\n",
            r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"45"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"46"}}}"#,
            "\n",
        );
        for part in text.as_bytes().chunks(7) {
            send.send(Bytes::copy_from_slice(part)).unwrap();
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            let event = watch.next(SOON).await.unwrap().unwrap();
            seen.push((event.kind, event.resource_version().unwrap().to_owned()));
        }
        let kinds = [
            WatchKind::Added,
            WatchKind::Modified,
            WatchKind::Deleted,
            WatchKind::Bookmark,
        ];
        assert!(
            seen.iter().map(|s| s.0).eq(kinds)
                && seen
                    .iter()
                    .map(|s| s.1.as_str())
                    .eq(["43", "44", "45", "46"]),
            "{seen:?}"
        );

        // Quiet is not the end, and nothing is lost when a wait is given up within an event.
        send.send(Bytes::from_static(br#"{"type":"ADDED","#))
            .unwrap();
        let err = watch.next(BRIEF).await.unwrap_err();
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
        send.send(Bytes::from_static(b"\"object\":{}}\n")).unwrap();
        assert_eq!(
            watch.next(SOON).await.unwrap().unwrap().kind,
            WatchKind::Added
        );
        drop(send);
        assert_eq!(watch.next(SOON).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_version_no_longer_kept_is_told() {
    let (_server, send, mut watch) = watch(HTTP2).await;
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version: 42 (99)"}}"#;
    send.send(Bytes::from(format!("{gone}\n"))).unwrap();
    let err = watch.next(SOON).await.unwrap_err();
    assert!(
        err.is_too_old() && err.reason() == Some(&Reason::Expired),
        "{err:?}"
    );

    let server = Server::start(|_| status(410, "Expired", "too old resource version")).await;
    let err = server
        .client()
        .watch("/api/v1/nodes", Some("1"), SOON)
        .await
        .unwrap_err();
    assert!(err.is_too_old(), "{err:?}");
}

#[tokio::test]
async fn a_cut_watch_is_not_an_orderly_end() {
    let (server, send, mut watch) = watch(HTTP2).await;
    send.send(Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":{}}\n"))
        .unwrap();
    assert!(watch.next(SOON).await.unwrap().is_some());
    server.cut.notify_waiters();
    let err = watch.next(SOON).await.unwrap_err();
    assert!(
        matches!(err, KubeError::Broken { sent: true, .. }),
        "{err:?}"
    );

    let (_server, send, mut torn) = self::watch(HTTP2).await;
    send.send(Bytes::from_static(b"{\"type\":\"ADDED\""))
        .unwrap();
    drop(send);
    let err = torn.next(SOON).await.unwrap_err();
    assert!(matches!(err, KubeError::NotJson { .. }), "{err:?}");
}

#[tokio::test]
async fn calls_go_on_beside_a_watch_that_outlives_its_client() {
    let (send, receive) = mpsc::unbounded_channel();
    let receive = Mutex::new(Some(receive));
    let server = Server::start(move |seen| match seen.path.starts_with("/watch") {
        true => Reply::Stream(receive.lock().unwrap().take().expect("asked once")),
        false => Reply::Json(200, serde_json::json!({})),
    })
    .await;
    let client = server.client();
    let mut watch = client.watch("/watch", None, SOON).await.unwrap();
    client.get("/version", SOON).await.unwrap();
    client.forget().await;
    drop(client);
    send.send(Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":{}}\n"))
        .unwrap();
    assert!(watch.next(SOON).await.unwrap().is_some());
    assert_eq!(server.connections(), 1);
}
