//! Server-side apply of a manifest: several YAML documents, in the order they are written.

use std::time::Duration;

use serde_json::Value;

use crate::api::encoded;
use crate::{Client, KubeError, PatchKind};

/// Who applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldManager<'a> {
    /// The name that will own the applied fields.
    pub name: &'a str,
    /// Whether to take fields that another manager owns; otherwise they are a [`crate::Reason::Conflict`].
    pub force: bool,
}

/// One object that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its kind.
    pub kind: String,
    /// Its namespace; `None` for a kind without.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The object as stored.
    pub object: Value,
}

/// Why a manifest was not applied, or not all of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// It is not YAML. Nothing was sent.
    #[error("the manifest is not YAML")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A document is not an object. Nothing was sent.
    #[error("document {number} of the manifest has no `{field}`")]
    Field {
        /// Counted from 1, empty documents left out.
        number: usize,
        /// What it has not.
        field: &'static str,
    },
    /// The server does not know the kind. The documents before it were applied.
    #[error("document {number} of the manifest: the server knows no `{kind}` in `{api_version}`")]
    UnknownKind {
        /// Counted from 1, empty documents left out.
        number: usize,
        /// Its apiVersion.
        api_version: String,
        /// Its kind.
        kind: String,
    },
    /// The server refused one, or did not answer. The documents before it were applied.
    #[error("document {number} of the manifest, {kind} `{name}`, was not applied")]
    Call {
        /// Counted from 1, empty documents left out.
        number: usize,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: KubeError,
    },
}

/// Where objects of a kind live.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resource {
    plural: String,
    namespaced: bool,
}

/// The kinds in the manifests we apply, which need no question to the server.
const KNOWN: &[(&str, &str, &str, bool)] = &[
    ("v1", "Namespace", "namespaces", false),
    ("v1", "ServiceAccount", "serviceaccounts", true),
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Secret", "secrets", true),
    ("v1", "Service", "services", true),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("apps/v1", "Deployment", "deployments", true),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        "clusterroles",
        false,
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        false,
    ),
    ("rbac.authorization.k8s.io/v1", "Role", "roles", true),
    (
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        "rolebindings",
        true,
    ),
];

struct Document {
    number: usize,
    api_version: String,
    kind: String,
    name: String,
    namespace: Option<String>,
    object: Value,
}

impl Client {
    /// Applies every document of `manifest` in order and stops at the first that is not accepted. `within` is for each request.
    /// Applying the same again changes nothing.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(
        &self,
        manifest: &str,
        manager: FieldManager<'_>,
        within: Duration,
    ) -> Result<Vec<Applied>, ApplyError> {
        let mut applied = Vec::new();
        // All are read before the first is sent: a slip in the last one leaves nothing half done.
        for document in documents(manifest)? {
            let call = |source| ApplyError::Call {
                number: document.number,
                kind: document.kind.clone(),
                name: document.name.clone(),
                source,
            };
            let Some(resource) = self
                .resource(&document.api_version, &document.kind, within)
                .await
                .map_err(call)?
            else {
                return Err(ApplyError::UnknownKind {
                    number: document.number,
                    api_version: document.api_version,
                    kind: document.kind,
                });
            };
            let namespace = resource.namespaced.then(|| {
                document
                    .namespace
                    .clone()
                    .unwrap_or_else(|| self.inner().namespace.clone())
            });
            let path = object_path(
                &document.api_version,
                &resource.plural,
                namespace.as_deref(),
                &document.name,
            );
            let object = self
                .patch(&path, PatchKind::Apply(manager), &document.object, within)
                .await
                .map_err(call)?;
            applied.push(Applied {
                kind: document.kind,
                namespace,
                name: document.name,
                object,
            });
        }
        Ok(applied)
    }

    async fn resource(
        &self,
        api_version: &str,
        kind: &str,
        within: Duration,
    ) -> Result<Option<Resource>, KubeError> {
        if let Some((_, _, plural, namespaced)) = KNOWN
            .iter()
            .find(|(v, k, _, _)| *v == api_version && *k == kind)
        {
            return Ok(Some(Resource {
                plural: (*plural).to_owned(),
                namespaced: *namespaced,
            }));
        }
        let found = match self.get(&group_path(api_version), within).await {
            Ok(found) => found,
            Err(KubeError::Status { code: 404, .. }) => return Ok(None),
            Err(err) => return Err(err),
        };
        let resources = found["resources"]
            .as_array()
            .ok_or_else(|| self.not_json("there is no `resources`"))?;
        // Subresources such as `pods/status` carry their parent's kind; they have a slash in the name.
        Ok(resources
            .iter()
            .filter(|r| r["kind"] == kind)
            .find_map(|r| {
                let plural = r["name"].as_str().filter(|n| !n.contains('/'))?.to_owned();
                Some(Resource {
                    plural,
                    namespaced: r["namespaced"].as_bool()?,
                })
            }))
    }
}

/// The core group is the only one under `/api` and the only one whose apiVersion has no slash.
fn group_path(api_version: &str) -> String {
    match api_version.split_once('/') {
        Some((group, version)) => format!("/apis/{}/{}", encoded(group), encoded(version)),
        None => format!("/api/{}", encoded(api_version)),
    }
}

fn object_path(api_version: &str, plural: &str, namespace: Option<&str>, name: &str) -> String {
    let group = group_path(api_version);
    let (plural, name) = (encoded(plural), encoded(name));
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{}/{plural}/{name}", encoded(namespace)),
        None => format!("{group}/{plural}/{name}"),
    }
}

fn documents(manifest: &str) -> Result<Vec<Document>, ApplyError> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(manifest).map_err(|err| ApplyError::Syntax(Box::new(err)))?;
    objects
        .into_iter()
        .filter(|o| !o.is_null())
        .enumerate()
        .map(|(index, object)| document(index + 1, object))
        .collect()
}

fn document(number: usize, object: Value) -> Result<Document, ApplyError> {
    let text = |value: &Value, field| {
        value
            .as_str()
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .ok_or(ApplyError::Field { number, field })
    };
    Ok(Document {
        number,
        api_version: text(&object["apiVersion"], "apiVersion")?,
        kind: text(&object["kind"], "kind")?,
        name: text(&object["metadata"]["name"], "metadata.name")?,
        namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
        object,
    })
}
