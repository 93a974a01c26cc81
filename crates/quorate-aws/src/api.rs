//! One call of the query API: parameters as a form, signed, sent, tried again where that helps, its answer read as XML. Start at [`Aws`].

use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::clock::{Clock, stamp};
use crate::credentials::{Chain, Credentials, Keeper, region_of_machine};
use crate::endpoint::{Region, RegionError, Service};
use crate::environment::Environment;
use crate::error::{AwsError, request_id};
use crate::http::{Answer, Ask, Dial, Http, Url};
use crate::profile::{Files, Profile};
use crate::retry::{Recovery, Retries, recovery};
use crate::sign::{self, Scope, ToSign};
use crate::xml::{Unfit, Xml};

/// Longest answer that is read, in bytes. A page of two hundred instances is below a megabyte.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Pages of one list that are read; more than a control plane's accounts for is a service that does not come to an end.
const PAGES_MAX: usize = 100;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// What a client is made of. [`Options::of_process`] is what a command wants.
#[derive(Debug, Clone)]
pub struct Options {
    /// Variables and home directory.
    pub environment: Environment,
    /// The profile to use, whatever the environment says.
    pub profile: Option<String>,
    /// The region to use, whatever environment and profile say: that of the ARN that is asked for.
    pub region: Option<Region>,
    /// The time of day.
    pub clock: Clock,
    /// How connections are opened.
    pub dial: Dial,
    /// How often a call is made.
    pub retries: Retries,
}

impl Options {
    /// As this process was started.
    pub fn of_process() -> Options {
        Options::of(Environment::of_process())
    }

    /// With the environment given, and the rest as usual.
    pub fn of(environment: Environment) -> Options {
        Options {
            environment,
            profile: None,
            region: None,
            clock: Clock::default(),
            dial: Dial::default(),
            retries: Retries::default(),
        }
    }
}

/// A client for one region. Cheap to clone; clones share credentials.
///
/// Each call takes `within`, the longest time from now until its result: finding credentials, retries and pauses included.
#[derive(Clone)]
pub struct Aws {
    inner: Arc<Inner>,
}

struct Inner {
    region: Region,
    balancers: Url,
    ec2: Url,
    http: Http,
    keeper: Keeper,
    clock: Clock,
    retries: Retries,
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws")
            .field("region", &self.inner.region)
            .finish_non_exhaustive()
    }
}

impl Aws {
    /// A client for the region that options, environment, profile or this machine's own metadata name, in this order. Only the last is asked
    /// over the network. Credentials are looked for with the first call.
    ///
    /// # Errors
    /// [`AwsError::Region`], [`AwsError::Profile`].
    pub async fn open(options: Options, within: Duration) -> Result<Aws, AwsError> {
        let deadline = Instant::now() + within;
        let Options {
            environment,
            profile: asked,
            region,
            clock,
            dial,
            retries,
        } = options;
        let files = Files::read(&environment)?;
        let profile = files.profile(asked.as_deref(), &environment)?;
        let http = Http::new(dial, authorities(&environment, profile.as_ref()));
        let region = match region {
            Some(region) => region,
            None => find_region(&environment, profile.as_ref(), &http, deadline).await?,
        };
        let endpoint = |service| region.endpoint(service, &environment, profile.as_ref());
        let (balancers, ec2) = (endpoint(Service::Balancers)?, endpoint(Service::Ec2)?);
        let chain = Chain {
            environment,
            profile: asked,
            http: http.clone(),
            clock: clock.clone(),
        };
        Ok(Aws {
            inner: Arc::new(Inner {
                region,
                balancers,
                ec2,
                http,
                keeper: Keeper::new(chain),
                clock,
                retries,
            }),
        })
    }

    /// The region it asks.
    pub fn region(&self) -> &Region {
        &self.inner.region
    }

    /// As whom it asks: where the credentials come from, and the end of the key's id.
    ///
    /// # Errors
    /// [`AwsError::Credentials`].
    pub async fn identity(&self, within: Duration) -> Result<String, AwsError> {
        let found = self.inner.keeper.get(Instant::now() + within).await?;
        Ok(found.identity())
    }

    fn url(&self, service: Service) -> &Url {
        match service {
            Service::Balancers => &self.inner.balancers,
            Service::Ec2 => &self.inner.ec2,
        }
    }

    /// Makes a call and reads its result with `read`.
    pub(crate) async fn call<T>(
        &self,
        call: &Call,
        within: Duration,
        read: impl FnOnce(&Xml) -> Result<T, Unfit>,
    ) -> Result<T, AwsError> {
        self.call_until(call, &Limit::new(within), read).await
    }

    /// Reads a list page by page.
    pub(crate) async fn pages<T>(
        &self,
        call: Call,
        paging: &Paging,
        within: Duration,
        read: impl Fn(&Xml) -> Result<Vec<T>, Unfit>,
    ) -> Result<Vec<T>, AwsError> {
        let limit = Limit::new(within);
        let mut all = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        loop {
            let mut page = call.clone();
            if let Some(token) = seen.last() {
                page = page.with(paging.parameter, token);
            }
            let (items, next) = self
                .call_until(&page, &limit, |xml| {
                    let next = xml.optional(paging.element);
                    if next.as_ref().is_some_and(|next| seen.contains(next)) {
                        return Err(Unfit(format!(
                            "`{}` leads back to a page that was read already",
                            paging.element
                        )));
                    }
                    if next.is_some() && seen.len() + 1 == PAGES_MAX {
                        return Err(Unfit(format!("there are more than {PAGES_MAX} pages")));
                    }
                    Ok((read(xml)?, next))
                })
                .await?;
            all.extend(items);
            match next {
                Some(next) => seen.push(next),
                None => return Ok(all),
            }
        }
    }

    async fn call_until<T>(
        &self,
        call: &Call,
        limit: &Limit,
        read: impl FnOnce(&Xml) -> Result<T, Unfit>,
    ) -> Result<T, AwsError> {
        let answer = self.answer(call, limit).await?;
        let unfit = |why, xml: Option<&Xml>| {
            AwsError::unfit(
                call.name(),
                self.url(call.service).to_string(),
                why,
                request_id(&answer, xml),
            )
        };
        let root = Xml::parse(&answer.body).map_err(|why| unfit(why, None))?;
        let result = call.result(&root).and_then(read);
        result.map_err(|why| unfit(why, Some(&root)))
    }

    /// Makes a call until it succeeds, is refused for good, or has been tried often or long enough.
    async fn answer(&self, call: &Call, limit: &Limit) -> Result<Answer, AwsError> {
        let inner = &self.inner;
        let began = Instant::now();
        let mut attempts = 0;
        let mut renewed = false;
        let mut credentials = inner.keeper.get(limit.at).await?;
        loop {
            let left = limit.left();
            if left.is_zero() {
                return Err(AwsError::Deadline {
                    call: call.name(),
                    within: limit.within,
                    doing: "before it was sent",
                });
            }
            attempts += 1;
            let within = left.min(inner.retries.attempt_max);
            let error = match self.once(call, &credentials, within).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let gave_up = |last: AwsError| match attempts {
                1 => last,
                _ => AwsError::GaveUp {
                    call: call.name(),
                    attempts,
                    took: began.elapsed(),
                    last: Box::new(last),
                },
            };
            match recovery(&error) {
                Recovery::None => return Err(error),
                Recovery::Again if attempts < inner.retries.attempts_max => {
                    let pause = inner.retries.pause(attempts);
                    if pause >= limit.left() {
                        return Err(gave_up(error));
                    }
                    tokio::time::sleep(pause).await;
                }
                Recovery::Renew if !renewed => {
                    renewed = true;
                    match inner.keeper.renew(&credentials, limit.at).await? {
                        Some(others) => credentials = others,
                        None => return Err(error),
                    }
                }
                Recovery::Again | Recovery::Renew => return Err(gave_up(error)),
            }
        }
    }

    /// Makes a call once.
    async fn once(
        &self,
        call: &Call,
        credentials: &Credentials,
        within: Duration,
    ) -> Result<Answer, AwsError> {
        let inner = &self.inner;
        let url = self.url(call.service);
        let at = inner.clock.now();
        let (host, time, body) = (url.authority(), stamp(at), call.body());
        let mut signed = vec![
            ("content-type", FORM),
            ("host", host.as_str()),
            ("x-amz-date", time.as_str()),
        ];
        if let Some(token) = &credentials.token {
            signed.push(("x-amz-security-token", token.expose()));
        }
        let authorization = sign::authorization(
            &ToSign {
                method: "POST",
                path: "/",
                query: "",
                headers: &signed,
                body: body.as_bytes(),
            },
            &credentials.key_id,
            &credentials.secret,
            &Scope {
                region: inner.region.as_str(),
                service: call.service.name(),
                at,
            },
        );
        let mut headers: Vec<(&'static str, String)> = signed
            .iter()
            .filter(|(name, _)| *name != "host")
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        headers.push(("authorization", authorization));
        let ask = Ask {
            method: Method::POST,
            url,
            headers,
            body: body.into_bytes(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = inner
            .http
            .ask(ask, within)
            .await
            .map_err(|source| AwsError::Http {
                call: call.name(),
                source,
            })?;
        if answer.status == http::StatusCode::OK {
            return Ok(answer);
        }
        Err(AwsError::refused(
            call.name(),
            url.to_string(),
            &answer,
            credentials.identity(),
            inner.clock.now(),
        ))
    }
}

/// The file of authorities that environment or profile name.
fn authorities(environment: &Environment, profile: Option<&Profile<'_>>) -> Option<PathBuf> {
    environment
        .get("AWS_CA_BUNDLE")
        .or_else(|| profile?.get("ca_bundle"))
        .map(|path| environment.path(path))
}

async fn find_region(
    environment: &Environment,
    profile: Option<&Profile<'_>>,
    http: &Http,
    deadline: Instant,
) -> Result<Region, RegionError> {
    let said = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .find_map(|name| environment.get(name))
        .or_else(|| profile?.get("region"));
    if let Some(said) = said {
        return said.parse();
    }
    let of_profile = match profile {
        Some(profile) => format!("{profile}: no `region`"),
        None => "no profile".to_owned(),
    };
    region_of_machine(environment, http, deadline)
        .await
        .map_err(|found| RegionError::None {
            looked: format!("AWS_REGION and AWS_DEFAULT_REGION: not set; {of_profile}; {found}"),
        })
}

/// The time for a call with all its pages and attempts.
struct Limit {
    at: Instant,
    within: Duration,
}

impl Limit {
    fn new(within: Duration) -> Limit {
        Limit {
            at: Instant::now() + within,
            within,
        }
    }

    fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// How a list says that it goes on.
pub(crate) struct Paging {
    /// The parameter that asks for the next page.
    pub(crate) parameter: &'static str,
    /// The element that names it.
    pub(crate) element: &'static str,
}

/// An action with its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    service: Service,
    action: &'static str,
    parameters: Vec<(String, String)>,
}

impl Call {
    pub(crate) fn new(service: Service, action: &'static str) -> Call {
        Call {
            service,
            action,
            parameters: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Call {
        self.parameters.push((name.into(), value.to_string()));
        self
    }

    /// As IAM policies write it.
    fn name(&self) -> String {
        format!("{}:{}", self.service.name(), self.action)
    }

    fn body(&self) -> String {
        let mut body = format!("Action={}&Version={}", self.action, self.service.version());
        for (name, value) in &self.parameters {
            write!(body, "&{}={}", encoded(name), encoded(value)).expect("writing to a string");
        }
        body
    }

    /// The element with the result. ELBv2 wraps it once more than EC2 does.
    fn result<'x>(&self, root: &'x Xml) -> Result<&'x Xml, Unfit> {
        let name = format!("{}Response", self.action);
        if root.name != name {
            return Err(Unfit(format!("it is `{}` instead of `{name}`", root.name)));
        }
        match self.service {
            Service::Balancers => root.has(&format!("{}Result", self.action)),
            Service::Ec2 => Ok(root),
        }
    }
}

/// Percent-encoded as a form that is signed has to be: everything but RFC 3986's unreserved characters.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("writing to a string"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_form() {
        let call = Call::new(Service::Ec2, "DescribeInstances")
            .with("Filter.1.Name", "tag:a b")
            .with("MaxResults", 5);
        assert_eq!(
            call.body(),
            "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3Aa%20b&MaxResults=5"
        );
        assert_eq!(encoded("aZ09-._~/é+"), "aZ09-._~%2F%C3%A9%2B");
    }
}
