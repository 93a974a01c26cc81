//! What the balancer on this host says of itself, over its admin socket.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// Longest line of the balancer that is read, in bytes: its status with every backend it can have is a tenth of this.
const LINE_BYTES_MAX: u64 = 256 << 10;

/// Where the socket is unless the balancer's configuration names another place.
pub(crate) const SOCKET: &str = "/run/quorate/lb.sock";

/// The backends of a running balancer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Status {
    /// Those of its configuration, and those that were taken out of it and still end their connections.
    pub(crate) backends: Vec<Backend>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Backend {
    /// Its name.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What the balancer thinks of it.
    pub(crate) state: String,
    /// It was drained by hand.
    #[serde(default)]
    pub(crate) drained: bool,
    /// It is no longer in the configuration.
    #[serde(default)]
    pub(crate) leaving: bool,
    /// Connections it has now.
    #[serde(default)]
    pub(crate) connections: u32,
}

impl Backend {
    /// Whether it gets its share of new connections.
    pub(crate) fn serves(&self) -> bool {
        self.state == "up" && !self.drained && !self.leaving
    }

    /// Whether it is only suspected: a single late answer makes it that, new connections go elsewhere for the moment, and whether it is
    /// dead is decided within a second.
    pub(crate) fn suspected(&self) -> bool {
        self.state == "suspect" && !self.drained && !self.leaving
    }
}

/// Asks the balancer behind that socket.
///
/// # Errors
/// When nobody answers within that time, or something that is no status.
pub(crate) async fn status(socket: &Path, within: Duration) -> io::Result<Status> {
    timeout(within, ask(socket))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn ask(socket: &Path) -> io::Result<Status> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"{\"do\":\"status\"}\n").await?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    parse(&line)
}

fn parse(line: &str) -> io::Result<Status> {
    serde_json::from_str(line).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A balancer's socket that tells what it is given, until this is dropped.
    pub(crate) struct Answering {
        pub(crate) status: Arc<Mutex<String>>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Answering {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    pub(crate) fn answering(socket: &Path, status: &str) -> Answering {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let status = Arc::new(Mutex::new(status.to_owned()));
        let told = status.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut asked = String::new();
                if stream.read_line(&mut asked).await.is_ok() {
                    assert_eq!(asked, "{\"do\":\"status\"}\n");
                    let answer = told.lock().unwrap().clone();
                    let _ = stream.write_all(format!("{answer}\n").as_bytes()).await;
                }
            }
        });
        Answering { status, task }
    }

    pub(crate) const STATUS: &str = r#"{"answer":"status","version":"1","backends":[
        {"name":"cp-1","address":"10.0.0.1:6443","state":"up","drained":false,"connections":7},
        {"name":"cp-2","address":"10.0.0.2:6443","state":"dead"},
        {"name":"cp-5","address":"10.0.0.5:6443","state":"suspect"},
        {"name":"cp-4","address":"10.0.0.4:6443","state":"up","drained":true},
        {"name":"cp-3","address":"10.0.0.3:6443","state":"up","leaving":true,"connections":2}]}"#;

    #[tokio::test]
    async fn what_is_told_and_by_whom_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lb.sock");
        let soon = Duration::from_secs(5);
        let err = status(&socket, soon).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
        let balancer = answering(&socket, &STATUS.replace('\n', ""));
        let told = status(&socket, soon).await.unwrap();
        let serving: Vec<&str> = told
            .backends
            .iter()
            .filter(|backend| backend.serves())
            .map(|backend| backend.name.as_str())
            .collect();
        assert_eq!(serving, ["cp-1"]);
        assert_eq!(told.backends[4].connections, 2);
        *balancer.status.lock().unwrap() = r#"{"answer":"refused","why":"x"}"#.into();
        let err = status(&socket, soon).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidData);
    }
}
