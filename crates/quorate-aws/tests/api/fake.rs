//! A network in this process: each host is a function, each connection a pipe, and time is tokio's, so that a test can make minutes pass in
//! none. Faults are queued by the test and happen to the next requests, one each.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::TokioIo;
use quorate_aws::{Aws, AwsError, Clock, Dial, Environment, Options, Stream};
use tokio::time::Instant;

/// Enough for anything that is not about deadlines.
pub const SOON: Duration = Duration::from_secs(120);

/// The time of day at which every test begins: 2026-11-26 06:00 UTC.
pub fn morning() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_672_800)
}

/// One request as a host saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub host: String,
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    /// The body as a form.
    pub fn form(&self) -> BTreeMap<String, String> {
        let text = std::str::from_utf8(&self.body).expect("a form is text");
        text.split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex: Vec<u8> = rest.by_ref().take(2).collect();
            let hex = std::str::from_utf8(&hex).expect("digits");
            bytes.push(u8::from_str_radix(hex, 16).expect("hexadecimal"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("text")
}

/// What a host answers.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<String>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }
}

/// What happens to a request instead of its answer, or before it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// No connection.
    Unreachable,
    /// The connection ends without an answer.
    Cut,
    /// Half of the answer, and the end of the connection.
    Truncated,
    /// The answer, after that long.
    Slow(Duration),
    /// Nothing, ever.
    Silence,
    /// Another answer.
    Instead(u16, String),
    /// An answer without end.
    Endless,
}

type Host = dyn Fn(&Seen) -> Reply + Send + Sync;

/// Hosts, what they were asked, and what is to go wrong.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    began: Instant,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<VecDeque<Fault>>,
}

impl Network {
    pub fn new() -> Network {
        Network {
            inner: Arc::new(Inner {
                began: Instant::now(),
                hosts: Mutex::default(),
                seen: Mutex::default(),
                faults: Mutex::default(),
            }),
        }
    }

    pub fn host(&self, name: &str, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        let mut hosts = self.inner.hosts.lock().expect("not poisoned");
        hosts.insert(name.to_owned(), Arc::new(answer));
    }

    /// The next requests meet these, one each.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner
            .faults
            .lock()
            .expect("not poisoned")
            .extend(faults);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().expect("not poisoned").clone()
    }

    /// What was asked since, and forgets it.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.inner.seen.lock().expect("not poisoned"))
    }

    pub fn now(&self) -> SystemTime {
        morning() + self.inner.began.elapsed()
    }

    pub fn clock(&self) -> Clock {
        let network = self.clone();
        Clock::of(move || network.now())
    }

    pub fn dial(&self) -> Dial {
        let network = self.clone();
        Dial::of(move |host, _| {
            let network = network.clone();
            Box::pin(async move { network.connect(host) })
        })
    }

    pub fn options(&self, variables: &[(&str, &str)]) -> Options {
        Options {
            clock: self.clock(),
            dial: self.dial(),
            ..Options::of(Environment::of(variables.iter().copied(), None))
        }
    }

    pub async fn open(&self, variables: &[(&str, &str)]) -> Result<Aws, AwsError> {
        Aws::open(self.options(variables), SOON).await
    }

    fn connect(&self, host: String) -> io::Result<Box<dyn Stream>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let hosts = self.inner.hosts.lock().expect("not poisoned");
        let answer = hosts.get(&host).cloned().ok_or_else(refused)?;
        let fault = self.inner.faults.lock().expect("not poisoned").pop_front();
        if let Some(Fault::Unreachable) = fault {
            return Err(refused());
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let network = self.clone();
        let service = hyper::service::service_fn(move |request| {
            network
                .clone()
                .serve(host.clone(), answer.clone(), fault.clone(), request)
        });
        tokio::spawn(async move {
            // It would tell the real time.
            hyper::server::conn::http1::Builder::new()
                .auto_date_header(false)
                .serve_connection(TokioIo::new(theirs), service)
                .await
                .ok();
        });
        Ok(Box::new(ours))
    }

    async fn serve(
        self,
        host: String,
        answer: Arc<Host>,
        fault: Option<Fault>,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<BoxBody<Bytes, io::Error>>, io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let seen = Seen {
            host,
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| {
                    let value = value.to_str().expect("headers are text");
                    (name.to_string(), value.to_owned())
                })
                .collect(),
            body: body.to_vec(),
        };
        self.inner
            .seen
            .lock()
            .expect("not poisoned")
            .push(seen.clone());
        let never = |_: Infallible| unreachable!("a whole body does not fail");
        let (status, headers, body) = match fault {
            None | Some(Fault::Unreachable) => whole(answer(&seen)),
            Some(Fault::Slow(pause)) => {
                tokio::time::sleep(pause).await;
                whole(answer(&seen))
            }
            Some(Fault::Instead(status, text)) => whole(Reply::new(status, text)),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Cut) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(Fault::Truncated) => {
                let (status, mut headers, body) = whole(answer(&seen));
                let Ok(body) = body.collect().await;
                let body = body.to_bytes();
                headers.push(("content-length", body.len().to_string()));
                let half = body.slice(..body.len() / 2);
                let parts = stream::iter([
                    Ok(Frame::data(half)),
                    Err(io::ErrorKind::ConnectionReset.into()),
                ]);
                return Ok(response(status, headers, StreamBody::new(parts).boxed()));
            }
            Some(Fault::Endless) => {
                let blanks =
                    stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b' '; 32 << 10]))));
                return Ok(response(200, Vec::new(), StreamBody::new(blanks).boxed()));
            }
        };
        Ok(response(status, headers, body.map_err(never).boxed()))
    }
}

fn whole(reply: Reply) -> (u16, Vec<(&'static str, String)>, Full<Bytes>) {
    (reply.status, reply.headers, Full::new(reply.body.into()))
}

fn response(
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: BoxBody<Bytes, io::Error>,
) -> http::Response<BoxBody<Bytes, io::Error>> {
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(body).expect("a valid answer")
}
