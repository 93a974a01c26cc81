//! `GET /readyz`, over a connection of its own that is kept between questions. Start at
//! [`Asker::ask`].

use http::Request;
use http::header::{HOST, USER_AGENT};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::link::{Protocol, Target, dial};

/// How much of an answer is read, in bytes; a failing one names its checks.
const BODY_MAX: usize = 1024;

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Readyz {
    /// The HTTP status, and the beginning of the text.
    Said(u16, Vec<u8>),
    /// No answer in time.
    Unanswered,
    /// There was no connection, or it broke.
    Broken(String),
}

/// Asks one backend, again and again.
#[derive(Debug)]
pub(crate) struct Asker {
    target: Target,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    requests: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Asker {
    pub(crate) fn new(target: Target) -> Asker {
        Asker { target, kept: None }
    }

    /// Asks once; `readyz_timeout` bounds everything, a new connection included.
    pub(crate) async fn ask(&mut self) -> Readyz {
        match timeout(self.target.health.readyz_timeout, self.attempt()).await {
            Ok(Ok((code, body))) => Readyz::Said(code, body),
            Ok(Err(why)) => Readyz::Broken(why),
            Err(_) => Readyz::Unanswered,
        }
    }

    async fn attempt(&mut self) -> Result<(u16, Vec<u8>), String> {
        // A kept connection may have been closed meanwhile, which says nothing: once more, afresh.
        if let Some(kept) = self.kept.take()
            && let Ok(answer) = self.over(kept).await
        {
            return Ok(answer);
        }
        let kept = self.open().await?;
        self.over(kept).await
    }

    async fn open(&self) -> Result<Kept, String> {
        let stream = dial(&self.target, Protocol::Http1)
            .await
            .map_err(|err| err.words().to_owned())?;
        let (requests, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|err| format!("HTTP: {err}"))?;
        // Whether it ended is seen when the next question is asked.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Kept { requests, driver })
    }

    async fn over(&mut self, mut kept: Kept) -> Result<(u16, Vec<u8>), String> {
        let text = |err: hyper::Error| format!("HTTP: {err}");
        kept.requests.ready().await.map_err(text)?;
        let request = Request::get("/readyz")
            .header(HOST, authority(&self.target.health.server_name))
            .header(
                USER_AGENT,
                concat!("quorate-lb/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|err| format!("HTTP: {err}"))?;
        let response = kept.requests.send_request(request).await.map_err(text)?;
        let code = response.status().as_u16();
        let mut body = response.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(text)?.into_data() else {
                continue;
            };
            let room = BODY_MAX - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                // Too long to be worth reading to its end: the connection is given up instead.
                return Ok((code, read));
            }
        }
        self.kept = Some(kept);
        Ok((code, read))
    }
}

/// A server name as a `Host`: IPv6 addresses need brackets.
fn authority(server_name: &str) -> String {
    if server_name.contains(':') {
        format!("[{server_name}]")
    } else {
        server_name.to_owned()
    }
}
