//! A watch: changes to objects as the server tells them, one after the other.

use std::fmt;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::api::with_query;
use crate::client::{Client, Request};
use crate::connect::Sender;
use crate::{KubeError, Phase};

/// Longest event that is read, in bytes: objects are limited to 1.5 MiB by etcd, twice that as JSON with managed fields.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// Longest refusal that is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchKind {
    /// It is new, or was there when the watch began.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the object is its last state.
    Deleted,
    /// Nothing: the object has only a `resourceVersion` from which a later watch may begin.
    Bookmark,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// The object.
    pub object: Value,
}

impl WatchEvent {
    /// From where a watch that sees what comes after this event begins.
    pub fn resource_version(&self) -> Option<&str> {
        self.object["metadata"]["resourceVersion"].as_str()
    }
}

/// An open watch. Dropping it ends it.
pub struct Watch {
    client: Client,
    body: Incoming,
    buffer: Vec<u8>,
    /// Keeps the connection open while the watch is.
    _sender: Sender,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Watches the objects under a path. With a `resource_version`, usually a [`crate::List`]'s, nothing after it is missed; without,
    /// it begins with what is there. `within` is for the server to accept.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn watch(
        &self,
        path: &str,
        resource_version: Option<&str>,
        within: Duration,
    ) -> Result<Watch, KubeError> {
        let mut path = with_query(path, &[("watch", "true"), ("allowWatchBookmarks", "true")]);
        if let Some(version) = resource_version {
            path = with_query(&path, &[("resourceVersion", version)]);
        }
        let (answer, sender) = self.begin(Request::get(path), within).await?;
        if !answer.status().is_success() {
            let code = answer.status().as_u16();
            let read = self.inner().read(answer, REFUSAL_BYTES_MAX);
            let refusal =
                tokio::time::timeout(within, read)
                    .await
                    .map_err(|_| KubeError::Deadline {
                        peer: self.inner().target.peer(),
                        within,
                        phase: Phase::Answer,
                    })??;
            return Err(KubeError::status(code, &refusal.body));
        }
        Ok(Watch {
            client: self.clone(),
            body: answer.into_body(),
            buffer: Vec::new(),
            _sender: sender,
        })
    }
}

impl Watch {
    /// The next event; `None` when the server ended the watch in order, as it does after some minutes. After
    /// [`KubeError::Deadline`] the watch goes on where it was: nothing happened for `within`.
    ///
    /// # Errors
    /// [`KubeError::is_too_old`] when the resourceVersion is no longer kept; [`KubeError::Broken`] when the connection ended.
    pub async fn next(&mut self, within: Duration) -> Result<Option<WatchEvent>, KubeError> {
        let peer = self.client.inner().target.peer();
        match tokio::time::timeout(within, self.advance()).await {
            Ok(result) => result,
            Err(_) => Err(KubeError::Deadline {
                peer,
                within,
                phase: Phase::Answer,
            }),
        }
    }

    /// Loses nothing when dropped midway: the only await is for the next frame, and what arrived is in the buffer.
    async fn advance(&mut self) -> Result<Option<WatchEvent>, KubeError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + end).collect();
                searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return self.event(&line).map(Some);
            }
            searched = self.buffer.len();
            match self.body.frame().await {
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return Err(self.client.not_json("the watch ended within an event")),
                Some(Err(source)) => return Err(self.client.inner().target.broken(true, source)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if searched + data.len() > EVENT_BYTES_MAX {
                            return Err(KubeError::TooLarge {
                                peer: self.client.inner().target.peer(),
                                bytes_max: EVENT_BYTES_MAX,
                            });
                        }
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn event(&self, line: &[u8]) -> Result<WatchEvent, KubeError> {
        let mut event: Value =
            serde_json::from_slice(line).map_err(|err| self.client.not_json(&err.to_string()))?;
        let object = event["object"].take();
        let kind = match event["type"].as_str() {
            Some("ADDED") => WatchKind::Added,
            Some("MODIFIED") => WatchKind::Modified,
            Some("DELETED") => WatchKind::Deleted,
            Some("BOOKMARK") => WatchKind::Bookmark,
            // An event of its own in a stream that began with 200: mostly 410, a resourceVersion that is no longer kept.
            Some("ERROR") => return Err(KubeError::from_status_object(500, &object)),
            _ => return Err(self.client.not_json("an event has an unknown type")),
        };
        Ok(WatchEvent { kind, object })
    }
}
