//! Server-side apply of a manifest in the shape of Flannel's, and of kinds that only the server knows.

use quorate_kube::{ApplyError, FieldManager, Reason};
use serde_json::json;

use crate::fake::{Reply, SOON, Server, status};

const MANAGER: FieldManager<'static> = FieldManager {
    name: "quorate",
    force: true,
};

const MANIFEST: &str = r#"---
# A comment before the first document.
kind: Namespace
apiVersion: v1
metadata:
  name: kube-flannel
  labels:
    pod-security.kubernetes.io/enforce: privileged
---
kind: ClusterRole
apiVersion: rbac.authorization.k8s.io/v1
metadata:
  name: flannel
rules:
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
---
kind: ClusterRoleBinding
apiVersion: rbac.authorization.k8s.io/v1
metadata:
  name: flannel
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: flannel
  namespace: kube-flannel
---
kind: ConfigMap
apiVersion: v1
metadata:
  name: kube-flannel-cfg
  namespace: kube-flannel
data:
  cni-conf.json: |
    {
      "name": "cbr0"
    }
---
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: kube-flannel-ds
  namespace: kube-flannel
spec:
  template:
    spec:
      hostNetwork: true
      containers:
      - name: kube-flannel
        env:
        - name: EVENT_QUEUE_DEPTH
          value: "5000"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: without-namespace
---
"#;

#[tokio::test]
async fn a_manifest_is_applied_in_its_order() {
    let server = Server::start(|seen| Reply::Json(200, seen.body.clone())).await;
    let applied = server
        .client()
        .apply(MANIFEST, MANAGER, SOON)
        .await
        .unwrap();
    let seen = server.seen();
    let paths: Vec<&str> = seen
        .iter()
        .map(|s| {
            s.path
                .strip_suffix("?fieldManager=quorate&force=true")
                .expect("the manager is named")
        })
        .collect();
    assert_eq!(
        paths,
        [
            "/api/v1/namespaces/kube-flannel",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/flannel",
            "/api/v1/namespaces/kube-flannel/serviceaccounts/flannel",
            "/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg",
            "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds",
            "/apis/apps/v1/namespaces/default/deployments/without-namespace",
        ]
    );
    assert!(seen.iter().all(|s| s.method == "PATCH"
        && s.content_type.as_deref() == Some("application/apply-patch+yaml")));
    // What a quoted number, a boolean and a block of text mean in YAML survives as JSON.
    let pod = &seen[5].body["spec"]["template"]["spec"];
    assert_eq!(
        (
            &pod["containers"][0]["env"][0]["value"],
            &pod["hostNetwork"]
        ),
        (&json!("5000"), &json!(true))
    );
    assert_eq!(
        seen[4].body["data"]["cni-conf.json"],
        "{\n  \"name\": \"cbr0\"\n}\n"
    );
    assert_eq!(
        (
            applied[0].namespace.as_deref(),
            applied[6].namespace.as_deref()
        ),
        (None, Some("default"))
    );
    assert_eq!(
        (
            applied.len(),
            applied[5].kind.as_str(),
            applied[5].name.as_str()
        ),
        (7, "DaemonSet", "kube-flannel-ds")
    );
}

#[tokio::test]
async fn other_kinds_are_looked_up() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/apis/policy/v1" => Reply::Json(
            200,
            json!({"resources": [
                {"name": "poddisruptionbudgets/status", "kind": "PodDisruptionBudget", "namespaced": true},
                {"name": "poddisruptionbudgets", "kind": "PodDisruptionBudget", "namespaced": true},
            ]}),
        ),
        "/apis/none/v1" => status(404, "NotFound", "the server could not find the requested resource"),
        _ => Reply::Json(200, seen.body.clone()),
    })
    .await;
    let client = server.client();
    let budget = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: dns, namespace: kube-system}\n";
    client.apply(budget, MANAGER, SOON).await.unwrap();
    assert!(
        server.seen()[1]
            .path
            .starts_with("/apis/policy/v1/namespaces/kube-system/poddisruptionbudgets/dns?")
    );
    for unknown in [
        "apiVersion: policy/v1\nkind: Other\nmetadata: {name: a}\n",
        "apiVersion: none/v1\nkind: Other\nmetadata: {name: a}\n",
    ] {
        let err = client.apply(unknown, MANAGER, SOON).await.unwrap_err();
        assert!(
            matches!(err, ApplyError::UnknownKind { number: 1, .. }),
            "{err:?}"
        );
    }
}

#[tokio::test]
async fn what_stops_an_apply_is_named() {
    let server = Server::start(|seen| {
        if seen.path.contains("clusterrole") {
            status(409, "Conflict", "conflict with \"kubectl\"")
        } else {
            Reply::Json(200, json!({}))
        }
    })
    .await;
    let client = server.client();
    let err = client.apply(MANIFEST, MANAGER, SOON).await.unwrap_err();
    let ApplyError::Call {
        number: 2,
        kind,
        name,
        source,
    } = &err
    else {
        panic!("{err:?}")
    };
    assert_eq!(
        (kind.as_str(), name.as_str(), source.reason()),
        ("ClusterRole", "flannel", Some(&Reason::Conflict))
    );
    assert_eq!(server.seen().len(), 2, "nothing after it is sent");

    // A slip anywhere in the manifest sends nothing at all.
    let before = server.seen().len();
    for (manifest, field) in [
        (
            format!("{MANIFEST}kind: A\nmetadata: {{name: a}}\n"),
            "apiVersion",
        ),
        (
            format!("{MANIFEST}apiVersion: v1\nkind: A\n"),
            "metadata.name",
        ),
    ] {
        let err = client.apply(&manifest, MANAGER, SOON).await.unwrap_err();
        assert!(
            matches!(&err, ApplyError::Field { number: 8, field: f } if *f == field),
            "{err:?}"
        );
    }
    let err = client
        .apply(&format!("{MANIFEST}kind: [\n"), MANAGER, SOON)
        .await
        .unwrap_err();
    assert!(matches!(err, ApplyError::Syntax(_)), "{err:?}");
    assert_eq!(server.seen().len(), before);
}
