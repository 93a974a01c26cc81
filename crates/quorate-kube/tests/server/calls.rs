//! Requests as they arrive and answers as they are read.

use quorate_kube::{Client, Credentials, FieldManager, KubeError, PatchKind, Reason, Request};
use serde_json::json;
use zeroize::Zeroizing;

use crate::fake::{HTTP1, Manner, Reply, SOON, Server, status};

#[tokio::test]
async fn each_verb_is_the_request_that_kubernetes_expects() {
    let server = Server::start(|_| Reply::Json(200, json!({"metadata": {"name": "x"}}))).await;
    let client = server.client();
    let object = json!({"kind": "ConfigMap"});
    let one = "/api/v1/namespaces/default/configmaps/x";
    let all = "/api/v1/namespaces/default/configmaps";
    assert_eq!(
        client.get(one, SOON).await.unwrap()["metadata"]["name"],
        "x"
    );
    client.create(all, &object, SOON).await.unwrap();
    client.replace(one, &object, SOON).await.unwrap();
    client
        .patch(one, PatchKind::Json, &json!([]), SOON)
        .await
        .unwrap();
    client
        .patch(one, PatchKind::Merge, &object, SOON)
        .await
        .unwrap();
    client
        .patch(one, PatchKind::Strategic, &object, SOON)
        .await
        .unwrap();
    client
        .patch(
            one,
            PatchKind::Apply(FieldManager {
                name: "a b",
                force: false,
            }),
            &object,
            SOON,
        )
        .await
        .unwrap();
    client.delete(one, SOON).await.unwrap();
    let seen: Vec<_> = server
        .seen()
        .into_iter()
        .map(|s| (s.method, s.path, s.content_type))
        .collect();
    let expected = [
        ("GET", one.to_owned(), None),
        ("POST", all.to_owned(), Some("application/json")),
        ("PUT", one.to_owned(), Some("application/json")),
        ("PATCH", one.to_owned(), Some("application/json-patch+json")),
        (
            "PATCH",
            one.to_owned(),
            Some("application/merge-patch+json"),
        ),
        (
            "PATCH",
            one.to_owned(),
            Some("application/strategic-merge-patch+json"),
        ),
        (
            "PATCH",
            format!("{one}?fieldManager=a%20b&force=false"),
            Some("application/apply-patch+yaml"),
        ),
        ("DELETE", one.to_owned(), None),
    ];
    assert_eq!(
        seen,
        expected.map(|(m, p, c)| (m.to_owned(), p, c.map(str::to_owned)))
    );
    assert_eq!(server.seen()[2].body, object);
    assert_eq!(server.connections(), 1, "one connection serves all calls");
}

#[tokio::test]
async fn http1_keeps_its_connection_too() {
    let manner = Manner {
        alpn: HTTP1,
        ..Manner::default()
    };
    let server = Server::with(manner, |_| Reply::Json(200, json!({}))).await;
    let client = server.client();
    for _ in 0..3 {
        client.get("/version", SOON).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    let (a, b) = tokio::join!(client.get("/a", SOON), client.get("/b", SOON));
    assert!(a.is_ok() && b.is_ok());
}

#[tokio::test]
async fn callers_at_the_same_time_share_a_connection() {
    let server = Server::start(|_| Reply::Json(200, json!({}))).await;
    let client = server.client();
    let calls = (0..20).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.get(&format!("/{n}"), SOON).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.connections(), server.seen().len()), (1, 20));
}

#[tokio::test]
async fn credentials_are_shown_to_the_server_and_nobody_else() {
    let server = Server::start(|_| Reply::Text(200, "ok".to_owned())).await;
    let token = server.kubeconfig(Credentials::Token(Zeroizing::new("s3cret".to_owned())));
    let client = Client::new(&token, Some(server.address)).unwrap();
    assert!(client.readyz(SOON).await.unwrap().is_ready());
    let certificate = server.kubeconfig(server.certificate());
    Client::new(&certificate, Some(server.address))
        .unwrap()
        .readyz(SOON)
        .await
        .unwrap();
    Client::new(&certificate.anonymous(), Some(server.address))
        .unwrap()
        .readyz(SOON)
        .await
        .unwrap();
    let seen: Vec<_> = server.seen().into_iter().map(|s| s.authorization).collect();
    assert_eq!(
        seen,
        [
            Some("Bearer s3cret".to_owned()),
            Some("certificate".to_owned()),
            None
        ]
    );
    let shown = format!("{token:?} {certificate:?} {client:?}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("PRIVATE"),
        "{shown}"
    );
}

#[tokio::test]
async fn not_ready_is_an_answer() {
    let server = Server::start(|_| {
        Reply::Text(
            500,
            "[-]etcd failed: reason withheld\nreadyz check failed".to_owned(),
        )
    })
    .await;
    let readyz = server.client().readyz(SOON).await.unwrap();
    assert_eq!((readyz.status, readyz.is_ready()), (500, false));
    assert!(readyz.body.contains("[-]etcd failed"));
    assert_eq!(server.seen()[0].path, "/readyz?verbose");
}

#[tokio::test]
async fn a_list_follows_its_pages() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/api/v1/pods?labelSelector=a&limit=500" => {
            Reply::Json(200, json!({"metadata": {"resourceVersion": "10", "continue": "next/page=="}, "items": [{"n": 1}, {"n": 2}]}))
        }
        "/api/v1/pods?labelSelector=a&limit=500&continue=next%2Fpage%3D%3D" => Reply::Json(200, json!({"metadata": {"resourceVersion": "10"}, "items": [{"n": 3}]})),
        _ => status(400, "BadRequest", "unexpected"),
    })
    .await;
    let list = server
        .client()
        .list("/api/v1/pods?labelSelector=a", SOON)
        .await
        .unwrap();
    assert_eq!(
        (list.items.len(), list.resource_version.as_str()),
        (3, "10")
    );
}

#[tokio::test]
async fn refusals_are_told_apart_and_never_applied() {
    for (code, word, reason) in [
        (400, "BadRequest", Reason::BadRequest),
        (401, "Unauthorized", Reason::Unauthorized),
        (403, "Forbidden", Reason::Forbidden),
        (404, "NotFound", Reason::NotFound),
        (409, "AlreadyExists", Reason::AlreadyExists),
        (409, "Conflict", Reason::Conflict),
        (410, "Expired", Reason::Expired),
        (422, "Invalid", Reason::Invalid),
        (429, "TooManyRequests", Reason::TooManyRequests),
    ] {
        let server = Server::start(move |_| status(code, word, "no\u{1b}[2J")).await;
        let err = server
            .client()
            .create("/api/v1/namespaces", &json!({}), SOON)
            .await
            .unwrap_err();
        assert_eq!(err.reason(), Some(&reason));
        assert!(err.definitely_not_applied(), "{err}");
        assert_eq!(err.is_too_old(), code == 410);
        assert!(!err.to_string().contains('\u{1b}'), "{err}");
    }
}

#[tokio::test]
async fn after_a_servers_own_failure_nobody_knows() {
    for (code, word) in [
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (504, "Timeout"),
        (500, "ServerTimeout"),
    ] {
        let server =
            Server::start(move |_| status(code, word, "etcdserver: request timed out")).await;
        let err = server
            .client()
            .create("/api/v1/namespaces", &json!({}), SOON)
            .await
            .unwrap_err();
        assert!(matches!(err, KubeError::Status { .. }), "{err:?}");
        assert!(!err.definitely_not_applied(), "{err}");
    }
    // Something in between that is no API server.
    let server = Server::start(|_| Reply::Text(503, "<html>no backend".to_owned())).await;
    let err = server.client().get("/version", SOON).await.unwrap_err();
    assert_eq!(err.reason(), Some(&Reason::ServiceUnavailable));
    assert!(err.to_string().contains("<html>no backend"), "{err}");
}

#[tokio::test]
async fn answers_that_are_no_answers() {
    let server = Server::start(|_| Reply::Text(201, "OK".to_owned())).await;
    let err = server
        .client()
        .create("/api/v1/namespaces", &json!({}), SOON)
        .await
        .unwrap_err();
    assert!(matches!(err, KubeError::NotJson { .. }), "{err:?}");
    assert!(!err.definitely_not_applied());

    let server = Server::start(|_| Reply::Text(200, "x".repeat(100_000))).await;
    let client = server.client();
    let err = client
        .raw(
            Request {
                answer_bytes_max: 99_999,
                ..Request::get("/")
            },
            SOON,
        )
        .await
        .unwrap_err();
    assert!(
        matches!(
            err,
            KubeError::TooLarge {
                bytes_max: 99_999,
                ..
            }
        ),
        "{err:?}"
    );
    assert_eq!(
        client
            .raw(
                Request {
                    answer_bytes_max: 100_000,
                    ..Request::get("/")
                },
                SOON
            )
            .await
            .unwrap()
            .body
            .len(),
        100_000
    );

    for path in ["version", "", "/a b", "/\u{1b}"] {
        let err = client.get(path, SOON).await.unwrap_err();
        assert!(
            matches!(err, KubeError::Request { .. }) && err.definitely_not_applied(),
            "{path:?}: {err:?}"
        );
    }
}
