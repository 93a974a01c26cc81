//! One member, one channel: making a [`Client`] and calling through it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::connect::{Connector, tls_config};
use crate::{EndpointError, EtcdError, Tls};

/// Largest answer that is read, in bytes. A member list or a range of a few thousand Kubernetes objects stays below it; a peer
/// that sends more is not believed.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// How long a connection may take and how a dead one is noticed. Calls have deadlines of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// How often an HTTP/2 ping is sent while calls are open. etcd ends connections that ping more often than its
    /// `--grpc-keepalive-min-time` (5 s).
    pub ping_every: Duration,
    /// How long a ping may stay unanswered before the connection is given up.
    pub ping_answer: Duration,
}

impl Default for Timeouts {
    /// 2 s to connect (a reachable member takes milliseconds), pings every 10 s with 5 s to answer.
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(2),
            ping_every: Duration::from_secs(10),
            ping_answer: Duration::from_secs(5),
        }
    }
}

/// A client for one member. Cheap to clone; clones share the connection, which opens with the first call and again after it broke.
///
/// Nothing is retried: each call is sent at most once. Each takes `within`, the longest time from now until its result, which
/// the member is told as well; then the call ends with [`EtcdError::Deadline`].
#[derive(Clone)]
pub struct Client {
    pub(crate) endpoint: Arc<str>,
    channel: Channel,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for the member at `endpoint`, for example `https://127.0.0.1:2379`. Sends nothing yet; must be called inside a
    /// tokio runtime.
    ///
    /// The member's certificate must name the endpoint's host or address (kubeadm's names 127.0.0.1, localhost, the host and its
    /// address). `tls` is required for `https` and refused for `http`, which is for tests.
    ///
    /// # Errors
    /// When the endpoint or the PEM cannot be used.
    pub fn connect(
        endpoint: &str,
        tls: Option<&Tls>,
        timeouts: Timeouts,
    ) -> Result<Client, EndpointError> {
        let refused = |why| EndpointError::Address {
            found: endpoint
                .chars()
                .take(200)
                .flat_map(char::escape_default)
                .collect(),
            why,
        };
        let uri: http::Uri = endpoint.parse().map_err(|_| refused("it is not a URL"))?;
        let scheme = |why| EndpointError::Scheme {
            endpoint: endpoint.to_owned(),
            why,
        };
        let tls = match (uri.scheme_str(), tls) {
            (Some("https"), Some(tls)) => Some(tls_config(tls)?),
            (Some("http"), None) => None,
            (Some("https"), None) => return Err(scheme("needs certificates")),
            (Some("http"), Some(_)) => {
                return Err(scheme(
                    "would not use the certificates given; write `https`",
                ));
            }
            _ => return Err(refused("it starts with neither `https://` nor `http://`")),
        };
        if uri.path_and_query().is_some_and(|p| p.as_str() != "/") {
            return Err(refused("it has a path"));
        }
        let host = uri
            .host()
            .filter(|h| !h.is_empty())
            .ok_or_else(|| refused("it names no host"))?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().ok_or_else(|| refused("it names no port"))?;
        let tls = match tls {
            Some(config) => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| refused("its host is no name a certificate could hold"))?;
                Some((tokio_rustls::TlsConnector::from(Arc::new(config)), name))
            }
            None => None,
        };
        // tonic would insist on a TLS setup of its own for an https target; ours is in the connector. The origin keeps the scheme true.
        let target = format!(
            "http://{}",
            uri.authority().expect("a URI with a host has an authority")
        );
        let channel = Endpoint::from_shared(target)
            .map_err(|_| refused("it is not a URL"))?
            .origin(uri)
            .user_agent(concat!("quorate/", env!("CARGO_PKG_VERSION")))
            .expect("our own name is a valid header")
            .http2_keep_alive_interval(timeouts.ping_every)
            .keep_alive_timeout(timeouts.ping_answer)
            .connect_with_connector_lazy(Connector {
                host,
                port,
                tls,
                within: timeouts.connect,
            });
        Ok(Client {
            endpoint: endpoint.into(),
            channel,
        })
    }

    /// The endpoint this client was made for.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One request, one answer. `call` is the method's path, which errors name as well.
    pub(crate) async fn unary<Q, A>(
        &self,
        call: &'static str,
        request: Q,
        within: Duration,
    ) -> Result<A, EtcdError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let started = Instant::now();
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        let mut grpc = self.grpc();
        let answer = async {
            grpc.ready()
                .await
                .map_err(|err| tonic::Status::from_error(err.into()))?;
            grpc.unary(
                request,
                PathAndQuery::from_static(call),
                tonic_prost::ProstCodec::<Q, A>::default(),
            )
            .await
        };
        match tokio::time::timeout(within, answer).await {
            Err(_) => Err(EtcdError::deadline(&self.endpoint, call, within)),
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(EtcdError::from_status(
                &self.endpoint,
                call,
                started.elapsed(),
                &status,
            )),
        }
    }

    /// One request, a stream of answers. `within` is for the stream to begin.
    pub(crate) async fn streaming<Q, A>(
        &self,
        call: &'static str,
        request: Q,
        within: Duration,
    ) -> Result<tonic::Streaming<A>, EtcdError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let started = Instant::now();
        let mut grpc = self.grpc();
        let answer = async {
            grpc.ready()
                .await
                .map_err(|err| tonic::Status::from_error(err.into()))?;
            grpc.server_streaming(
                tonic::Request::new(request),
                PathAndQuery::from_static(call),
                tonic_prost::ProstCodec::<Q, A>::default(),
            )
            .await
        };
        match tokio::time::timeout(within, answer).await {
            Err(_) => Err(EtcdError::deadline(&self.endpoint, call, within)),
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(EtcdError::from_status(
                &self.endpoint,
                call,
                started.elapsed(),
                &status,
            )),
        }
    }

    fn grpc(&self) -> tonic::client::Grpc<Channel> {
        tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn malformed(&self, call: &'static str, why: &'static str) -> EtcdError {
        EtcdError::Malformed {
            endpoint: self.endpoint.to_string(),
            call,
            why,
        }
    }
}
