//! The verbs: get, list, create, replace, patch, delete, and the server's own health.

use std::fmt::Write as _;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::client::{ANSWER_BYTES_MAX, Client, Request, Response};
use crate::{FieldManager, KubeError};

/// How many objects are asked for at once when listing, as kubectl does.
const PAGE: usize = 500;

/// Longest health report that is read, in bytes; `/readyz?verbose` is about 3 KiB.
const READYZ_BYTES_MAX: usize = 64 << 10;

/// What a patch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind<'a> {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7386: fields to set, `null` to remove.
    Merge,
    /// Kubernetes' own merge, which knows keys of lists.
    Strategic,
    /// Server-side apply: the fields that the manager wants to own.
    Apply(FieldManager<'a>),
}

/// The objects of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// The objects; like the API, without their `kind` and `apiVersion`.
    pub items: Vec<Value>,
    /// Where a watch that misses nothing begins.
    pub resource_version: String,
}

/// What `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readyz {
    /// The HTTP status code: 200 when ready, 500 with a failing check, 401 or 403 where anonymous requests are refused.
    pub status: u16,
    /// The report, at most 64 KiB, as sent: escape it before showing it.
    pub body: String,
}

impl Readyz {
    /// Whether it said ready.
    pub fn is_ready(&self) -> bool {
        self.status == 200
    }
}

impl Client {
    /// Reads one object, or anything else that is JSON, by its path, such as `/api/v1/namespaces/kube-system/configmaps/kubeadm-config`.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn get(&self, path: &str, within: Duration) -> Result<Value, KubeError> {
        self.call(Request::get(path), within).await
    }

    /// Reads all objects under a path, page by page; `within` is for all pages together. The path may have a query.
    ///
    /// # Errors
    /// See [`KubeError`]; [`KubeError::is_too_old`] when the pages took so long that the list was no longer kept.
    pub async fn list(&self, path: &str, within: Duration) -> Result<List, KubeError> {
        let deadline = tokio::time::Instant::now() + within;
        let mut list = List {
            items: Vec::new(),
            resource_version: String::new(),
        };
        let mut token = String::new();
        loop {
            let mut page_path = with_query(path, &[("limit", &PAGE.to_string())]);
            if !token.is_empty() {
                page_path = with_query(&page_path, &[("continue", &token)]);
            }
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let mut page = self.get(&page_path, left).await?;
            let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else {
                return Err(self.not_json("there is no `items`"));
            };
            list.items.extend(items);
            list.resource_version = page["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            match page["metadata"]["continue"]
                .as_str()
                .filter(|t| !t.is_empty())
            {
                Some(next) => token = next.to_owned(),
                None => return Ok(list),
            }
        }
    }

    /// Creates an object; `path` is that of its kind and namespace. Returns it as stored.
    ///
    /// # Errors
    /// See [`KubeError`], [`KubeError::definitely_not_applied`] above all.
    pub async fn create(
        &self,
        path: &str,
        object: &Value,
        within: Duration,
    ) -> Result<Value, KubeError> {
        self.call(
            write(Method::POST, path, "application/json", object),
            within,
        )
        .await
    }

    /// Replaces an object; with a `resourceVersion` in it only if nobody wrote it since. Returns it as stored.
    ///
    /// # Errors
    /// See [`KubeError`], [`KubeError::definitely_not_applied`] above all.
    pub async fn replace(
        &self,
        path: &str,
        object: &Value,
        within: Duration,
    ) -> Result<Value, KubeError> {
        self.call(write(Method::PUT, path, "application/json", object), within)
            .await
    }

    /// Changes parts of an object. Returns it as stored.
    ///
    /// # Errors
    /// See [`KubeError`], [`KubeError::definitely_not_applied`] above all.
    pub async fn patch(
        &self,
        path: &str,
        kind: PatchKind<'_>,
        patch: &Value,
        within: Duration,
    ) -> Result<Value, KubeError> {
        let request = match kind {
            PatchKind::Json => write(Method::PATCH, path, "application/json-patch+json", patch),
            PatchKind::Merge => write(Method::PATCH, path, "application/merge-patch+json", patch),
            PatchKind::Strategic => write(
                Method::PATCH,
                path,
                "application/strategic-merge-patch+json",
                patch,
            ),
            PatchKind::Apply(manager) => {
                let force = if manager.force { "true" } else { "false" };
                let path = with_query(path, &[("fieldManager", manager.name), ("force", force)]);
                write(Method::PATCH, &path, "application/apply-patch+yaml", patch)
            }
        };
        self.call(request, within).await
    }

    /// Deletes an object. Returns the object, if it stays for finalizers or a grace period, or a `Status`.
    ///
    /// # Errors
    /// See [`KubeError`], [`KubeError::definitely_not_applied`] above all.
    pub async fn delete(&self, path: &str, within: Duration) -> Result<Value, KubeError> {
        self.call(
            Request {
                method: Method::DELETE,
                ..Request::get(path)
            },
            within,
        )
        .await
    }

    /// Asks the server whether it is ready. Needs no credentials: see [`crate::Kubeconfig::anonymous`].
    ///
    /// # Errors
    /// Only when there is no answer at all; one that says "not ready" is a result.
    pub async fn readyz(&self, within: Duration) -> Result<Readyz, KubeError> {
        let request = Request {
            answer_bytes_max: READYZ_BYTES_MAX,
            ..Request::get("/readyz?verbose")
        };
        let answer = self.raw(request, within).await?;
        Ok(Readyz {
            status: answer.status.as_u16(),
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        })
    }

    async fn call(&self, request: Request, within: Duration) -> Result<Value, KubeError> {
        let answer = self.raw(request, within).await?;
        self.json(&answer)
    }

    fn json(&self, answer: &Response) -> Result<Value, KubeError> {
        if !answer.status.is_success() {
            return Err(KubeError::status(answer.status.as_u16(), &answer.body));
        }
        serde_json::from_slice(&answer.body).map_err(|err| self.not_json(&err.to_string()))
    }

    pub(crate) fn not_json(&self, why: &str) -> KubeError {
        KubeError::NotJson {
            peer: self.inner().target.peer(),
            why: crate::error::shown(why, 200),
        }
    }
}

fn write(method: Method, path: &str, content_type: &'static str, body: &Value) -> Request {
    Request {
        method,
        path: path.to_owned(),
        content_type: Some(content_type),
        body: body.to_string().into_bytes(),
        answer_bytes_max: ANSWER_BYTES_MAX,
    }
}

/// The path with more in its query, values percent-encoded.
pub(crate) fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (key, value) in pairs {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(key);
        out.push('=');
        out.push_str(&encoded(value));
    }
    out
}

/// Percent-encodes everything but letters, digits and `-._~`.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    out
}
