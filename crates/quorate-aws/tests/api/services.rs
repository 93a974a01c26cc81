//! ELBv2 and EC2 as one host, `aws.test`: what they know, how they prove callers, and targets that take as long as AWS's do. Signatures are
//! checked over what came in, by a way of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use quorate_aws::{Arn, Aws};
use ring::{digest, hmac};
use tokio::time::Instant;

use crate::fake::{Network, Reply, Seen};

pub const GROUP: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/demo-api/0123456789abcdef";
pub const BALANCER: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/demo-api/0123456789abcdef";

pub fn group() -> Arn {
    GROUP.parse().expect("an ARN")
}

pub fn balancer() -> Arn {
    BALANCER.parse().expect("an ARN")
}

/// A key that the services know.
#[derive(Debug, Clone)]
pub struct Key {
    pub secret: String,
    pub token: Option<String>,
    pub ends: Option<SystemTime>,
}

/// A target, as the balancer sees it.
#[derive(Debug, Clone)]
pub struct Registered {
    since: Instant,
    leaving: Option<Instant>,
    pub sick: bool,
}

/// What there is at AWS.
pub struct State {
    pub keys: BTreeMap<String, Key>,
    /// How long each instance takes to get traffic once it is registered; also which instances there are.
    pub takes: BTreeMap<String, Duration>,
    /// How long connections are given when a target leaves.
    pub drains: Duration,
    pub targets: BTreeMap<String, Registered>,
    /// Answers to other actions: the inner part of the result, page by page.
    pub pages: BTreeMap<String, Vec<String>>,
    /// How far the services' clock is from the client's, in seconds.
    pub ahead: i64,
}

#[derive(Clone)]
pub struct Services {
    pub network: Network,
    pub state: Arc<Mutex<State>>,
}

impl Services {
    pub fn new() -> Services {
        let network = Network::new();
        let key = Key {
            secret: "wJalrXUtnFEMI".to_owned(),
            token: None,
            ends: None,
        };
        let seconds = |of: u64| Duration::from_secs(of);
        let state = Arc::new(Mutex::new(State {
            keys: BTreeMap::from([("AKIDEXAMPLE".to_owned(), key)]),
            takes: BTreeMap::from([
                ("i-01".to_owned(), seconds(180)),
                ("i-02".to_owned(), seconds(240)),
                ("i-03".to_owned(), seconds(300)),
            ]),
            drains: seconds(300),
            targets: BTreeMap::new(),
            pages: BTreeMap::new(),
            ahead: 0,
        }));
        let services = Services { network, state };
        let host = services.clone();
        services
            .network
            .host("aws.test", move |seen| host.answer(seen));
        services
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// A client with a key from the environment.
    pub async fn client(&self) -> Aws {
        self.network
            .open(&ENVIRONMENT)
            .await
            .expect("a usable environment")
    }

    fn now(&self, ahead: i64) -> SystemTime {
        let apart = Duration::from_secs(ahead.unsigned_abs());
        match ahead < 0 {
            true => self.network.now() - apart,
            false => self.network.now() + apart,
        }
    }

    fn answer(&self, seen: &Seen) -> Reply {
        let mut state = self.state.lock().expect("not poisoned");
        let now = self.now(state.ahead);
        let form = seen.form();
        let ec2 = form["Version"] == "2016-11-15";
        if let Err((status, code, message)) = state.prove(seen, now) {
            let mut reply = refusal(ec2, status, code, message);
            let time = stamp(now);
            let (hour, minute, second) = (&time[9..11], &time[11..13], &time[13..15]);
            let date = format!("Thu, 26 Nov 2026 {hour}:{minute}:{second} GMT");
            reply.headers.push(("date", date));
            return reply;
        }
        let action = form["Action"].as_str();
        let inner = match action {
            "RegisterTargets" => match state.register(&form) {
                Ok(()) => String::new(),
                Err(message) => return refusal(false, 400, "InvalidTarget", &message),
            },
            "DeregisterTargets" => {
                state.deregister(&form);
                String::new()
            }
            "DescribeTargetHealth" => state.health(),
            other => {
                let Some(pages) = state.pages.get(other) else {
                    return refusal(ec2, 400, "InvalidAction", "nobody has written that one");
                };
                let (parameter, element) = match ec2 {
                    true => ("NextToken", "nextToken"),
                    false => ("Marker", "NextMarker"),
                };
                // A token is the number of the page it leads to.
                let page: usize = form
                    .get(parameter)
                    .map_or(0, |token| token.parse().expect("one of ours"));
                let more = match page + 1 < pages.len() {
                    true => format!("<{element}>{}</{element}>", page + 1),
                    false => String::new(),
                };
                format!("{}{more}", pages[page])
            }
        };
        Reply::new(
            200,
            match ec2 {
                true => format!(
                    "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-1</requestId>{inner}</{action}Response>"
                ),
                false => format!(
                    "<{action}Response><{action}Result>{inner}</{action}Result><ResponseMetadata><RequestId>req-1</RequestId></ResponseMetadata></{action}Response>"
                ),
            },
        )
    }
}

/// How the tests' client is told where to go and who it is.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_REGION", "eu-central-1"),
    ("AWS_ENDPOINT_URL", "http://aws.test"),
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
];

/// An error in the form of the service.
pub fn refusal(ec2: bool, status: u16, code: &str, message: &str) -> Reply {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Reply::new(
        status,
        match ec2 {
            true => format!(
                "<?xml version=\"1.0\"?><Response><Errors>{error}</Errors><RequestID>req-err</RequestID></Response>"
            ),
            false => {
                format!("<ErrorResponse>{error}<RequestId>req-err</RequestId></ErrorResponse>")
            }
        },
    )
}

type Refusal = (u16, &'static str, &'static str);

impl State {
    /// Whether the request was signed, now, by a key that holds.
    fn prove(&self, seen: &Seen, now: SystemTime) -> Result<(), Refusal> {
        let header = |name: &str| seen.headers.get(name).map(String::as_str);
        let authorization = header("authorization").ok_or((403, "MissingAuth", "unsigned"))?;
        let part = |name: &str| {
            let (_, rest) = authorization.split_once(&format!("{name}="))?;
            Some(rest.split(',').next().unwrap_or(rest).trim())
        };
        let malformed = (400, "IncompleteSignature", "a part is missing");
        let credential = part("Credential").ok_or(malformed)?;
        let scope: Vec<&str> = credential.split('/').collect();
        let [id, day, region, service, "aws4_request"] = scope[..] else {
            return Err(malformed);
        };
        let key = self
            .keys
            .get(id)
            .ok_or((403, "InvalidClientTokenId", "no such key"))?;
        if key.token.as_deref() != header("x-amz-security-token") {
            return Err((403, "InvalidClientTokenId", "another token"));
        }
        if key.ends.is_some_and(|ends| ends <= now) {
            return Err((403, "ExpiredToken", "The security token is expired"));
        }
        let time = header("x-amz-date").ok_or(malformed)?;
        let window = Duration::from_secs(300);
        let in_time = [now - window, now + window].map(stamp);
        if *time < *in_time[0] || *time > *in_time[1] {
            return Err((403, "SignatureDoesNotMatch", "Signature expired"));
        }
        let mut text = format!("{}\n{}\n\n", seen.method, seen.path);
        for name in part("SignedHeaders").ok_or(malformed)?.split(';') {
            text += &format!("{name}:{}\n", header(name).unwrap_or_default());
        }
        text += &format!(
            "\n{}\n{}",
            part("SignedHeaders").ok_or(malformed)?,
            hex(digest::digest(&digest::SHA256, &seen.body).as_ref())
        );
        let mut signing = format!("AWS4{}", key.secret).into_bytes();
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{time}\n{day}/{region}/{service}/aws4_request\n{}",
            hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
        );
        for part in [day, region, service, "aws4_request", &to_sign] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &signing);
            signing = hmac::sign(&key, part.as_bytes()).as_ref().to_vec();
        }
        let scoped = region == "eu-central-1" && ["ec2", "elasticloadbalancing"].contains(&service);
        match part("Signature") == Some(hex(&signing).as_str()) && scoped {
            true => Ok(()),
            false => Err((403, "SignatureDoesNotMatch", "another signature")),
        }
    }

    fn register(&mut self, form: &BTreeMap<String, String>) -> Result<(), String> {
        for id in ids(form) {
            if !self.takes.contains_key(&id) {
                return Err(format!(
                    "The following targets are not in a running state: {id}"
                ));
            }
            let stays = self
                .targets
                .get(&id)
                .is_some_and(|target| target.leaving.is_none());
            if !stays {
                let fresh = Registered {
                    since: Instant::now(),
                    leaving: None,
                    sick: false,
                };
                self.targets.insert(id, fresh);
            }
        }
        Ok(())
    }

    fn deregister(&mut self, form: &BTreeMap<String, String>) {
        for id in ids(form) {
            if let Some(target) = self.targets.get_mut(&id) {
                target.leaving.get_or_insert_with(Instant::now);
            }
        }
    }

    fn health(&mut self) -> String {
        let drains = self.drains;
        self.targets.retain(|_, target| {
            target
                .leaving
                .is_none_or(|leaving| leaving.elapsed() < drains)
        });
        let mut members = String::new();
        for (id, target) in &self.targets {
            let takes = self.takes[id];
            let (state, reason) = match target {
                Registered {
                    leaving: Some(_), ..
                } => ("draining", "Target.DeregistrationInProgress"),
                target if target.since.elapsed() + Duration::from_secs(10) < takes => {
                    ("initial", "Elb.RegistrationInProgress")
                }
                target if target.since.elapsed() < takes => {
                    ("initial", "Elb.InitialHealthChecking")
                }
                Registered { sick: true, .. } => ("unhealthy", "Target.FailedHealthChecks"),
                Registered { .. } => ("healthy", ""),
            };
            members += &format!(
                "<member><HealthCheckPort>6443</HealthCheckPort><Target><Id>{id}</Id><Port>6443</Port></Target>\
                 <TargetHealth><State>{state}</State><Reason>{reason}</Reason></TargetHealth></member>"
            );
        }
        format!("<TargetHealthDescriptions>{members}</TargetHealthDescriptions>")
    }
}

fn ids(form: &BTreeMap<String, String>) -> Vec<String> {
    form.iter()
        .filter(|(name, _)| name.starts_with("Targets.member.") && name.ends_with(".Id"))
        .map(|(_, id)| id.clone())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20261126T060000Z` for times on the morning that every test begins at.
fn stamp(at: SystemTime) -> String {
    let midnight = crate::fake::morning() - Duration::from_secs(6 * 3600);
    let seconds = at
        .duration_since(midnight)
        .expect("not before that day")
        .as_secs();
    assert!(seconds < 86_400, "not after that day");
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("20261126T{hour:02}{minute:02}{second:02}Z")
}
