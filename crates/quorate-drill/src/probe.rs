//! Clients of the API, outside the cluster, through the endpoint: what a failure costs is what they see. Start at [`Probe::start`].
//!
//! Four streams, each on its own: a *new* connection for every request; one *kept* connection; *writes* on another kept one, each a new
//! object; one *watch* that sees all of them. Requests begin on schedule, whatever became of those before: one that hangs (etcd lets a
//! proposal that was forwarded to a leader just lost run into its time limit) is one slow or failed request, and does not hide when the
//! API served again. Nothing is retried by the client library: a failed request is tried once more, as the stream's own decision, and
//! both are recorded.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quorate_kube::{Client, KubeError, Kubeconfig, Request, WatchKind};
use serde_json::json;
use tokio::{
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    history::{Outcome, Write},
    timeline::{Sample, Timeline},
};

/// Time between the beginnings of two requests of a stream. Gaps below twice this cannot be told from none.
pub const PERIOD: Duration = Duration::from_millis(50);

/// How long one request may take: long enough not to be the cause of a gap, short enough to notice that nobody answers.
pub const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Everything the streams saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// A new connection each.
    pub new: Timeline,
    /// One kept connection.
    pub kept: Timeline,
    /// Writes.
    pub write: Timeline,
    /// The writes themselves.
    pub writes: Vec<Write>,
    /// What the watch told: creations in its order.
    pub watched: Vec<(String, u64)>,
    /// Times the watch was cut, and when.
    pub watch_cuts: Vec<Duration>,
}

/// Running streams.
#[derive(Debug)]
pub struct Probe {
    began: Instant,
    stop: watch::Sender<bool>,
    seen: Arc<Mutex<Seen>>,
    requests: Vec<JoinHandle<()>>,
    watch: JoinHandle<()>,
    client: Client,
    path: String,
}

impl Probe {
    /// Makes the namespace and starts all streams. `address` is the endpoint's, whatever the kubeconfig's name resolves to here.
    ///
    /// # Errors
    /// When the namespace cannot be made or listed: the cluster is not usable to begin with.
    pub async fn start(
        kubeconfig: &Kubeconfig,
        address: Option<SocketAddr>,
        namespace: &str,
    ) -> Result<Self, KubeError> {
        let client = Client::new(kubeconfig, address)?;
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        client
            .create("/api/v1/namespaces", &object, REQUEST_MAX)
            .await?;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let first = client.list(&path, REQUEST_MAX).await?;
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let began = Instant::now();
        let stream = Stream {
            began,
            stopped,
            seen: seen.clone(),
        };
        let fresh = || Client::new(kubeconfig, address);
        let (new, kept, write) = (fresh()?, fresh()?, fresh()?);
        let writes_to = path.clone();
        let requests = vec![
            tokio::spawn(stream.clone().on_schedule(move |stream, _| {
                let client = new.clone();
                async move { stream.new_connection(&client).await }
            })),
            tokio::spawn(stream.clone().on_schedule(move |stream, _| {
                let client = kept.clone();
                async move { stream.kept_connection(&client).await }
            })),
            tokio::spawn(stream.clone().on_schedule(move |stream, number| {
                let (client, path) = (write.clone(), writes_to.clone());
                async move { stream.write(&client, &path, number).await }
            })),
        ];
        let watch =
            tokio::spawn(stream.watch(fresh()?, path.clone(), Some(first.resource_version)));
        Ok(Self {
            began,
            stop,
            seen,
            requests,
            watch,
            client,
            path,
        })
    }

    /// Time since the streams began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Number of writes acknowledged up to now.
    pub async fn acknowledged(&self) -> usize {
        let seen = self.seen.lock().await;
        seen.writes
            .iter()
            .filter(|write| matches!(write.outcome, Outcome::Acknowledged { .. }))
            .count()
    }

    /// Whether every stream succeeded after that time: whatever was wrong is over for all of them.
    pub async fn all_succeeded_after(&self, after: Duration) -> bool {
        let seen = self.seen.lock().await;
        [&seen.new, &seen.kept, &seen.write].iter().all(|timeline| {
            timeline
                .0
                .iter()
                .rev()
                .any(|sample| sample.error.is_none() && sample.sent > after)
        })
    }

    /// Ends the writes, waits until the watch has told of them, ends everything, and reads back what is there by a consistent list.
    ///
    /// # Errors
    /// When the final list cannot be read.
    pub async fn finish(
        self,
    ) -> Result<(Seen, std::collections::BTreeMap<String, u64>), KubeError> {
        // Streams stop sending and wait for what is on its way, each request and its retry at most [`REQUEST_MAX`]; the watch goes on
        // until it has caught up with the list, or for a bounded while.
        self.stop.send_replace(true);
        for stream in self.requests {
            // One that panicked has shown why; what it saw until then is judged all the same.
            let _ = stream.await;
        }
        let list = self
            .client
            .list(&self.path, Duration::from_secs(30))
            .await?;
        let mut found = std::collections::BTreeMap::new();
        for object in &list.items {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            // The namespace's own certificate map is not ours.
            if name.starts_with(NAME_PREFIX) {
                found.insert(name.to_owned(), revision_of(object).unwrap_or(0));
            }
        }
        let caught_up = async {
            loop {
                let told = self.seen.lock().await.watched.len();
                if told >= found.len() {
                    break;
                }
                tokio::time::sleep(PERIOD).await;
            }
        };
        // What the watch has not told by then counts as not told.
        let _ = tokio::time::timeout(Duration::from_secs(10), caught_up).await;
        self.watch.abort();
        let seen = self.seen.lock().await.clone();
        Ok((seen, found))
    }

    /// Deletes the namespace and everything in it; the cluster does that on its own time.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn clean_up(
        kubeconfig: &Kubeconfig,
        address: Option<SocketAddr>,
        namespace: &str,
    ) -> Result<(), KubeError> {
        let client = Client::new(kubeconfig, address)?;
        client
            .delete(
                &format!("/api/v1/namespaces/{namespace}"),
                Duration::from_secs(20),
            )
            .await
            .map(drop)
    }
}

/// Names of written objects begin with this.
const NAME_PREFIX: &str = "write-";

fn revision_of(object: &serde_json::Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

#[derive(Clone, Debug)]
struct Stream {
    began: Instant,
    stopped: watch::Receiver<bool>,
    seen: Arc<Mutex<Seen>>,
}

impl Stream {
    fn stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Begins a request every [`PERIOD`] until it is told to stop, then waits for those on their way: at most as many as begin in twice
    /// [`REQUEST_MAX`].
    async fn on_schedule<F>(self, request: impl Fn(Self, u64) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut on_their_way = JoinSet::new();
        let mut next = Instant::now();
        let mut number = 0_u64;
        while !self.stopped() {
            number += 1;
            on_their_way.spawn(request(self.clone(), number));
            while on_their_way.try_join_next().is_some() {}
            // A machine that was too busy to be in time has less load to make up for, not more.
            next = (next + PERIOD).max(Instant::now());
            tokio::time::sleep_until(next).await;
        }
        while on_their_way.join_next().await.is_some() {}
    }

    fn sample(&self, sent: Duration, error: Option<&KubeError>, retry: bool) -> Sample {
        Sample {
            sent,
            ended: self.began.elapsed(),
            error: error.map(ToString::to_string),
            retry,
        }
    }

    async fn new_connection(&self, client: &Client) {
        for retry in [false, true] {
            let sent = self.began.elapsed();
            let answer = async {
                let mut connection = client.open(REQUEST_MAX).await?;
                let response = connection
                    .raw(Request::get("/api/v1/namespaces/default"), REQUEST_MAX)
                    .await?;
                ok(response.status.as_u16())
            };
            let error = answer.await.err();
            let sample = self.sample(sent, error.as_ref(), retry);
            self.seen.lock().await.new.0.push(sample);
            if error.is_none() {
                break;
            }
        }
    }

    async fn kept_connection(&self, client: &Client) {
        for retry in [false, true] {
            let sent = self.began.elapsed();
            let error = client
                .get("/api/v1/namespaces/default", REQUEST_MAX)
                .await
                .err();
            let sample = self.sample(sent, error.as_ref(), retry);
            self.seen.lock().await.kept.0.push(sample);
            if error.is_none() {
                break;
            }
        }
    }

    async fn write(&self, client: &Client, path: &str, number: u64) {
        let name = format!("{NAME_PREFIX}{number:06}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": number.to_string()}});
        let first_sent = self.began.elapsed();
        let mut outcome = Outcome::Unknown;
        for retry in [false, true] {
            let sent = self.began.elapsed();
            let answer = client.create(path, &object, REQUEST_MAX).await;
            let there_already = retry
                && matches!(&answer, Err(error) if error.reason() == Some(&quorate_kube::Reason::AlreadyExists));
            let error = if there_already {
                None
            } else {
                answer.as_ref().err()
            };
            let sample = self.sample(sent, error, retry);
            self.seen.lock().await.write.0.push(sample);
            match &answer {
                Ok(stored) => {
                    outcome = revision_of(stored).map_or(Outcome::Unknown, |revision| {
                        Outcome::Acknowledged { revision }
                    });
                    break;
                }
                Err(_) if there_already => {
                    outcome = Outcome::FoundThere;
                    break;
                }
                // Only what was refused both times is known not to be there.
                Err(error)
                    if error.definitely_not_applied()
                        && (!retry || outcome == Outcome::NotWritten) =>
                {
                    outcome = Outcome::NotWritten;
                }
                Err(_) => outcome = Outcome::Unknown,
            }
        }
        let write = Write {
            name,
            sent: first_sent,
            ended: self.began.elapsed(),
            outcome,
        };
        self.seen.lock().await.writes.push(write);
    }

    /// Ended only from outside: it goes on while the other streams have stopped, to tell of their last writes.
    async fn watch(self, client: Client, path: String, resource_version: Option<String>) {
        let mut from = resource_version;
        loop {
            match client.watch(&path, from.as_deref(), REQUEST_MAX).await {
                Ok(mut watch) => {
                    // An ordered end and a quiet while are not cuts; bookmarks come about once a minute.
                    loop {
                        match watch.next(Duration::from_secs(90)).await {
                            Ok(Some(event)) => {
                                if let Some(version) = event.resource_version() {
                                    from = Some(version.to_owned());
                                }
                                let name = event.object["metadata"]["name"]
                                    .as_str()
                                    .unwrap_or_default()
                                    .to_owned();
                                if event.kind == WatchKind::Added
                                    && name.starts_with(NAME_PREFIX)
                                    && let Some(revision) = revision_of(&event.object)
                                {
                                    self.seen.lock().await.watched.push((name, revision));
                                }
                            }
                            Ok(None) => break,
                            Err(_) => {
                                let now = self.began.elapsed();
                                self.seen.lock().await.watch_cuts.push(now);
                                break;
                            }
                        }
                    }
                }
                Err(_) => tokio::time::sleep(PERIOD).await,
            }
        }
    }
}

fn ok(status: u16) -> Result<(), KubeError> {
    if (200..300).contains(&status) {
        Ok(())
    } else {
        Err(KubeError::Request {
            why: format!("the server answered {status}"),
        })
    }
}
