//! Credentials that something beside this process hands out over HTTP: the endpoint of a container's role, and the metadata service of an
//! instance (version 2 alone: a session token is asked for first, so that a request somebody tricked another program into gets nothing).

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Chain, Credentials, CredentialsError, Source};
use crate::clock::parse_rfc3339;
use crate::endpoint::Region;
use crate::environment::Environment;
use crate::error::shown;
use crate::http::{Answer, Ask, Http, HttpError, Url};
use crate::profile::read_bounded;
use crate::secret::Secret;

/// Longest answer that is read, in bytes; session tokens are about a kilobyte.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where containers' roles are handed out.
const CONTAINER: &str = "http://169.254.170.2";

/// Hosts that may hand out credentials without TLS: this machine's own, and the link-local ones of AWS's container services.
const PLAIN_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

const METADATA: &str = "http://169.254.169.254";
const METADATA_V6: &str = "http://[fd00:ec2::254]";

/// How long the metadata service may take for its first answer. On an instance it takes milliseconds; elsewhere nobody answers, and every
/// command would wait that long.
const FIRST_MAX: Duration = Duration::from_secs(1);
const THEN_MAX: Duration = Duration::from_secs(5);

/// How long a session with the metadata service lasts, in seconds: one is used for a few requests.
const SESSION_SECONDS: &str = "60";

/// Credentials as both hand them out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Handed {
    code: Option<String>,
    message: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    token: Option<Secret>,
    expiration: Option<String>,
}

/// Reads what was handed out; says what is wrong with it. Its text is never part of that.
fn read(body: &[u8], source: Source) -> Result<Credentials, String> {
    let handed: Handed = serde_json::from_slice(body)
        .map_err(|_| "the answer is not the JSON expected".to_owned())?;
    if let Some(code) = handed.code.filter(|code| code != "Success") {
        let message = handed.message.unwrap_or_default();
        return Err(format!("{} {}", shown(&code, 100), shown(&message, 300)));
    }
    let (Some(key_id), Some(secret)) = (handed.access_key_id, handed.secret_access_key) else {
        return Err("the answer has no AccessKeyId or no SecretAccessKey".to_owned());
    };
    let expires = handed
        .expiration
        .map(|text| {
            parse_rfc3339(&text)
                .ok_or_else(|| format!("its Expiration `{}` is no time", shown(&text, 60)))
        })
        .transpose()?;
    Ok(Credentials {
        key_id,
        secret,
        token: handed.token,
        expires,
        source,
    })
}

/// What is left until the deadline, at most `max`.
pub(super) fn left(deadline: Instant, max: Duration) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(max)
}

/// A container's role, where the environment says that there is one.
pub(super) async fn of_container(
    chain: &Chain,
    deadline: Instant,
) -> Result<Option<Credentials>, CredentialsError> {
    const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
    const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let environment = &chain.environment;
    let (variable, text) = match (environment.get(RELATIVE), environment.get(FULL)) {
        (Some(path), _) => (RELATIVE, format!("{CONTAINER}{path}")),
        (None, Some(url)) => (FULL, url.to_owned()),
        (None, None) => return Ok(None),
    };
    let of_variable = format!("the container's role ({variable})");
    let url = Url::parse(&text).map_err(|source| CredentialsError::Http {
        place: of_variable.clone(),
        source,
    })?;
    let place = format!("the container's role at {url} ({variable})");
    let remote = |why: String| CredentialsError::Remote {
        place: place.clone(),
        why,
    };
    let loopback = url.host == "localhost"
        || url
            .host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if !url.https && !loopback && !PLAIN_HOSTS.contains(&url.host.as_str()) {
        return Err(remote(
            "without TLS only this machine and AWS's own link-local addresses are asked".to_owned(),
        ));
    }
    let mut headers = Vec::new();
    if let Some(token) = container_token(environment).map_err(remote)? {
        headers.push(("authorization", token.expose().to_owned()));
    }
    let ask = Ask {
        method: Method::GET,
        url: &url,
        headers,
        body: Vec::new(),
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let answer = chain.http.ask(ask, left(deadline, THEN_MAX)).await;
    let answer = answer.map_err(|source| CredentialsError::Http {
        place: place.clone(),
        source,
    })?;
    if answer.status != StatusCode::OK {
        return Err(remote(format!("it answered {}", answer.status)));
    }
    let source = Source::Container {
        url: url.to_string(),
    };
    read(&answer.body, source).map(Some).map_err(remote)
}

/// What the endpoint wants to see first; a file's content goes before the variable's.
fn container_token(environment: &Environment) -> Result<Option<Secret>, String> {
    const FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    let Some(path) = environment.get(FILE) else {
        let token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN");
        return Ok(token.map(|token| Secret::from(token.to_owned())));
    };
    let bytes = read_bounded(&environment.path(path))
        .map_err(|err| format!("cannot read {path} ({FILE}): {err}"))?
        .ok_or_else(|| format!("{path} ({FILE}) is too long for a token"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{path} ({FILE}) is not text"))?;
    Ok(Some(Secret::from(text.trim().to_owned())))
}

/// The metadata service of the instance that this runs on.
struct Metadata<'a> {
    http: &'a Http,
    url: Url,
    deadline: Instant,
    session: String,
}

impl<'a> Metadata<'a> {
    fn url(environment: &Environment) -> Result<Url, String> {
        if environment.is_true("AWS_EC2_METADATA_DISABLED") {
            return Err("AWS_EC2_METADATA_DISABLED is set".to_owned());
        }
        let v6 = environment
            .get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        let text = environment
            .get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            .unwrap_or(if v6 { METADATA_V6 } else { METADATA });
        Url::parse(text).map_err(|err| format!("AWS_EC2_METADATA_SERVICE_ENDPOINT: {err}"))
    }

    /// Opens a session.
    async fn open(http: &'a Http, url: Url, deadline: Instant) -> Result<Metadata<'a>, String> {
        let mut metadata = Metadata {
            http,
            url,
            deadline,
            session: String::new(),
        };
        let answer = metadata
            .ask(
                Method::PUT,
                "/latest/api/token",
                (
                    "x-aws-ec2-metadata-token-ttl-seconds",
                    SESSION_SECONDS.to_owned(),
                ),
                FIRST_MAX,
            )
            .await
            .map_err(|err| match err {
                HttpError::Deadline { within, .. } => format!("no answer within {within:?}"),
                err => error_text(&err),
            })?;
        if answer.status != StatusCode::OK {
            return Err(format!("no session: it answered {}", answer.status));
        }
        metadata.session = String::from_utf8(answer.body)
            .map_err(|_| "no session: it answered something that is not text".to_owned())?
            .trim()
            .to_owned();
        Ok(metadata)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        header: (&'static str, String),
        within: Duration,
    ) -> Result<Answer, HttpError> {
        let url = self.url.with_path(path);
        let ask = Ask {
            method,
            url: &url,
            headers: vec![header],
            body: Vec::new(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        self.http.ask(ask, left(self.deadline, within)).await
    }

    async fn get(&self, path: &str) -> Result<Answer, String> {
        let header = ("x-aws-ec2-metadata-token", self.session.clone());
        self.ask(Method::GET, path, header, THEN_MAX)
            .await
            .map_err(|err| error_text(&err))
    }
}

fn error_text(err: &HttpError) -> String {
    match std::error::Error::source(err) {
        Some(source) => format!("{err}: {source}"),
        None => err.to_string(),
    }
}

/// The role of the instance that this runs on. The error is the place and what was there instead.
pub(super) async fn of_instance(
    chain: &Chain,
    deadline: Instant,
) -> Result<Credentials, (String, String)> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let nowhere = |found| ("instance metadata".to_owned(), found);
    let url = Metadata::url(&chain.environment).map_err(nowhere)?;
    let place = format!("instance metadata at {url}");
    let role = async {
        let metadata = Metadata::open(&chain.http, url, deadline).await?;
        let answer = metadata.get(ROLES).await?;
        let roles = match answer.status {
            StatusCode::OK => String::from_utf8_lossy(&answer.body).into_owned(),
            StatusCode::NOT_FOUND => return Err("this instance has no role".to_owned()),
            status => return Err(format!("it answered {status} to the question for the role")),
        };
        let role = roles.lines().next().unwrap_or_default().trim();
        // It becomes part of a path.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        if role.is_empty() || role.len() > 64 || !role.bytes().all(plain) {
            return Err(format!("`{}` is no name of a role", shown(role, 100)));
        }
        let answer = metadata.get(&format!("{ROLES}{role}")).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("it answered {} for role `{role}`", answer.status));
        }
        let source = Source::Instance {
            role: role.to_owned(),
        };
        read(&answer.body, source)
    };
    role.await.map_err(|found| (place, found))
}

/// The region of the instance that this runs on. The error is what was there instead.
pub(crate) async fn region_of_machine(
    environment: &Environment,
    http: &Http,
    deadline: Instant,
) -> Result<Region, String> {
    let url = Metadata::url(environment)?;
    let place = format!("instance metadata at {url}");
    let region = async {
        let metadata = Metadata::open(http, url, deadline).await?;
        let answer = metadata.get("/latest/meta-data/placement/region").await?;
        match answer.status {
            StatusCode::OK => String::from_utf8_lossy(&answer.body)
                .trim()
                .parse::<Region>()
                .map_err(|err| err.to_string()),
            status => Err(format!("it answered {status}")),
        }
    };
    region.await.map_err(|why| format!("{place}: {why}"))
}
