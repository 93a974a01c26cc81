//! A Network Load Balancer as AWS has it, as far as Quorate speaks of one: the three calls about targets over HTTP on this machine, checks that ask each
//! target's `/readyz`, and a balancer on a host that leads to whom they find healthy. Start at [`Nlb::start`].
//!
//! What it does not have of AWS's: minutes. A target takes seconds to get traffic here, and a dead one is noticed sooner.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{bare::Bare, file_server::decoded, stage::Stage};

pub const GROUP: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/live-api/0123456789abcdef";
pub const BALANCER: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/live-api/0123456789abcdef";

/// How long a target is `initial`.
const INITIAL: Duration = Duration::from_secs(4);

/// How long one drains.
const DRAINS: Duration = Duration::from_secs(4);

/// From one round of checks to the next, and how long an answer may take.
const EVERY: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Checks in a row that make a target healthy.
const RISE: u32 = 2;

/// A request of Quorate's is short.
const BODY_BYTES_MAX: usize = 16 << 10;

struct Registered {
    since: Instant,
    leaving: Option<Instant>,
    good: u32,
}

impl Registered {
    fn state(&self) -> (&'static str, &'static str) {
        if self.leaving.is_some() {
            ("draining", "Target.DeregistrationInProgress")
        } else if self.since.elapsed() < INITIAL {
            ("initial", "Elb.RegistrationInProgress")
        } else if self.good >= RISE {
            ("healthy", "")
        } else {
            ("unhealthy", "Target.FailedHealthChecks")
        }
    }
}

#[derive(Default)]
struct State {
    targets: BTreeMap<String, Registered>,
    /// What was asked, but for questions.
    asked: Vec<String>,
    /// What went wrong behind.
    trouble: Option<String>,
}

/// What AWS knows of the cluster.
pub struct Account {
    /// The target group's ARN.
    pub group: String,
    /// Another stand-in, which has everything but targets' health and traffic: it is asked first, and has the last word. None: there is nothing else.
    pub behind: Option<SocketAddr>,
}

/// Until it is dropped.
pub struct Nlb {
    /// Where its API is.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    ends: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Nlb {
    /// Begins, without a target. `instances`: where each one's API server is.
    pub fn start(
        cluster: &str,
        at: Ipv4Addr,
        balancer: &'static str,
        instances: BTreeMap<String, SocketAddr>,
        account: Account,
    ) -> Result<Self> {
        let listener = TcpListener::bind((at, 0)).context("the hosts' bridge has that address")?;
        let address = listener.local_addr()?;
        let (state, ends) = (
            Arc::new(Mutex::new(State::default())),
            Arc::new(AtomicBool::new(false)),
        );
        let hosts = Bare::open(cluster)?;
        let asking = {
            let (state, ends) = (state.clone(), ends.clone());
            let known: BTreeSet<String> = instances.keys().cloned().collect();
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if ends.load(Ordering::SeqCst) {
                        return;
                    }
                    // A client that goes away in the middle asks again.
                    let _gone = answer(&client, &state, &known, &account);
                }
            })
        };
        let checking = {
            let (state, ends) = (state.clone(), ends.clone());
            thread::spawn(move || {
                let mut leads_to = BTreeSet::new();
                while !ends.load(Ordering::SeqCst) {
                    if let Err(error) = check(&state, &instances, &hosts, balancer, &mut leads_to) {
                        lock(&state).trouble = Some(format!("{error:#}"));
                    }
                    thread::sleep(EVERY);
                }
            })
        };
        Ok(Self {
            address,
            state,
            ends,
            threads: vec![asking, checking],
        })
    }

    /// Targets with their states.
    pub fn targets(&self) -> BTreeMap<String, &'static str> {
        let state = lock(&self.state);
        let targets = state.targets.iter();
        targets
            .map(|(instance, target)| (instance.clone(), target.state().0))
            .collect()
    }

    /// Every call that changed something, in order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state).asked.clone()
    }

    /// What went wrong behind it.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.state).trouble.clone()
    }
}

impl Drop for Nlb {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // It waits for somebody to come.
        drop(TcpStream::connect(self.address));
        for thread in self.threads.drain(..) {
            let _it_panicked = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks every target, and leads to those that are healthy, or to all where none is.
fn check(
    state: &Mutex<State>,
    instances: &BTreeMap<String, SocketAddr>,
    hosts: &Bare,
    balancer: &str,
    leads_to: &mut BTreeSet<String>,
) -> Result<()> {
    let registered: Vec<String> = lock(state).targets.keys().cloned().collect();
    let ready = ready(hosts, balancer, instances, &registered)?;
    for instance in registered {
        if let Some(target) = lock(state).targets.get_mut(&instance) {
            target.good = match ready.contains(&instance) {
                true => target.good + 1,
                false => 0,
            };
        }
    }
    let wanted: BTreeSet<String> = {
        let mut state = lock(state);
        state
            .targets
            .retain(|_, target| target.leaving.is_none_or(|since| since.elapsed() < DRAINS));
        let of = |wanted: &[&str]| -> BTreeSet<String> {
            let targets = state.targets.iter();
            targets
                .filter(|(_, target)| wanted.contains(&target.state().0))
                .map(|(instance, _)| instance.clone())
                .collect()
        };
        let healthy = of(&["healthy"]);
        if healthy.is_empty() {
            of(&["unhealthy", "initial"])
        } else {
            healthy
        }
    };
    if wanted != *leads_to {
        let servers: BTreeMap<String, SocketAddr> = wanted
            .iter()
            .map(|instance| (instance.clone(), instances[instance]))
            .collect();
        lead(hosts, balancer, &servers)?;
        *leads_to = wanted;
    }
    Ok(())
}

/// The targets that are ready, asked all at once from the balancer's own host: AWS's checks come from the balancer's addresses, too, and verify no
/// certificate.
fn ready(
    hosts: &Bare,
    balancer: &str,
    instances: &BTreeMap<String, SocketAddr>,
    targets: &[String],
) -> Result<BTreeSet<String>> {
    let asking: String = targets
        .iter()
        .map(|target| {
            format!(
                "curl -sk -m {} -o /dev/null -w '{target} %{{http_code}}\\n' https://{}/readyz &\n",
                ANSWER_WITHIN.as_secs(),
                instances[target]
            )
        })
        .collect();
    let said = hosts.run(balancer, &format!("{asking}wait"))?;
    let ready = said.lines().filter_map(|line| line.strip_suffix(" 200"));
    Ok(ready.map(str::to_owned).collect())
}

fn answer(
    client: &TcpStream,
    state: &Mutex<State>,
    known: &BTreeSet<String>,
    account: &Account,
) -> Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut length, mut authorization) = (0, String::new());
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>()?,
                "authorization" => authorization = value.trim().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length.min(BODY_BYTES_MAX)];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let signed = authorization.starts_with("AWS4-HMAC-SHA256 Credential=")
            && authorization.contains("/eu-central-1/elasticloadbalancing/aws4_request");
        let theirs = account
            .behind
            .map(|behind| asked_behind(behind, &authorization, &body))
            .transpose()?;
        let (status, text) = match theirs {
            None if !signed => (403, refusal("MissingAuthenticationToken", "unsigned")),
            None => call(&body, state, known, &account.group),
            Some((200, theirs)) => match call(&body, state, known, &account.group) {
                (200, ours) => (200, ours),
                _ => (200, theirs),
            },
            Some(refused) => refused,
        };
        let mut client = client;
        write!(
            client,
            "HTTP/1.1 {status} x\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )?;
    }
}

/// What the other stand-in says to a request.
fn asked_behind(behind: SocketAddr, authorization: &str, body: &str) -> Result<(u16, String)> {
    let mut server = TcpStream::connect(behind)?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        server,
        "POST / HTTP/1.0\r\nHost: {behind}\r\nContent-Type: application/x-www-form-urlencoded\r\nAuthorization: {authorization}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut said = String::new();
    server.read_to_string(&mut said)?;
    let (head, text) = said.split_once("\r\n\r\n").context("it ended early")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, text.to_owned()))
}

fn refusal(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error><RequestId>live</RequestId></ErrorResponse>"
    )
}

fn call(body: &str, state: &Mutex<State>, known: &BTreeSet<String>, group: &str) -> (u16, String) {
    let form: BTreeMap<String, String> = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    let of = |name: &str| form.get(name).map_or("", String::as_str);
    let (action, mut state) = (of("Action"), lock(state));
    if of("TargetGroupArn") != group {
        return (400, refusal("TargetGroupNotFound", "no such target group"));
    }
    let instances: Vec<&String> = form
        .iter()
        .filter(|(name, _)| name.starts_with("Targets.member.") && name.ends_with(".Id"))
        .map(|(_, instance)| instance)
        .collect();
    if instances.iter().any(|instance| !known.contains(*instance)) {
        return (400, refusal("InvalidTarget", "no such instance"));
    }
    let inner = match action {
        "DescribeTargetHealth" => {
            let members = state.targets.iter().map(|(instance, target)| {
                let (state, reason) = target.state();
                format!(
                    "<member><HealthCheckPort>6443</HealthCheckPort><Target><Id>{instance}</Id><Port>6443</Port></Target>\
                     <TargetHealth><State>{state}</State><Reason>{reason}</Reason></TargetHealth></member>"
                )
            });
            let members: String = members.collect();
            format!("<TargetHealthDescriptions>{members}</TargetHealthDescriptions>")
        }
        "RegisterTargets" => {
            for instance in instances {
                state.asked.push(format!("{action} {instance}"));
                let again = state
                    .targets
                    .get(instance)
                    .is_none_or(|t| t.leaving.is_some());
                if again {
                    let target = Registered {
                        since: Instant::now(),
                        leaving: None,
                        good: 0,
                    };
                    state.targets.insert(instance.clone(), target);
                }
            }
            String::new()
        }
        "DeregisterTargets" => {
            for instance in instances {
                state.asked.push(format!("{action} {instance}"));
                if let Some(target) = state.targets.get_mut(instance) {
                    target.leaving.get_or_insert_with(Instant::now);
                }
            }
            String::new()
        }
        other => return (400, refusal("InvalidAction", other)),
    };
    let text = format!(
        "<{action}Response><{action}Result>{inner}</{action}Result><ResponseMetadata><RequestId>live</RequestId></ResponseMetadata></{action}Response>"
    );
    (200, text)
}

/// Where the balancer of a host reads to whom it leads.
const CONFIG: &str = "/etc/balancer/lb.json";

/// Makes a host a balancer that is its owner's, with nobody behind it: nothing of Quorate's but the program, which others would have another one for.
pub fn balancer_of_its_owner(stage: &Stage, hosts: &Bare, host: &str, ca: &str) -> Result<()> {
    hosts.power_off(host)?;
    let disk = hosts.disk(host)?;
    for folder in ["usr/local/bin", "etc/balancer", "etc/systemd/system"] {
        fs::create_dir_all(disk.join(folder))?;
    }
    fs::copy(&stage.quorate, disk.join("usr/local/bin/quorate"))?;
    fs::write(disk.join("etc/balancer/ca.crt"), ca)?;
    fs::write(disk.join(&CONFIG[1..]), config(&BTreeMap::new()))?;
    let unit = format!(
        "[Unit]\nAfter=network.target\n[Service]\nType=notify\nExecStart=/usr/local/bin/quorate lb run --config {CONFIG}\n\
         ExecReload=/bin/kill -HUP $MAINPID\nRestart=always\n"
    );
    fs::write(disk.join("etc/systemd/system/balancer.service"), unit)?;
    hosts.power_on(host)?;
    hosts.booted(host)?;
    hosts.run(host, "systemctl start balancer")?;
    Ok(())
}

/// From now on it leads there.
pub fn lead(hosts: &Bare, host: &str, servers: &BTreeMap<String, SocketAddr>) -> Result<()> {
    let text = config(servers);
    hosts.run(
        host,
        &format!("cat >{CONFIG}.new <<'END'\n{text}\nEND\nmv {CONFIG}.new {CONFIG}; systemctl reload balancer"),
    )?;
    Ok(())
}

fn config(servers: &BTreeMap<String, SocketAddr>) -> String {
    let backends: Vec<_> = servers
        .iter()
        .map(|(name, address)| serde_json::json!({ "name": name, "address": address }))
        .collect();
    serde_json::json!({
        "listen": "0.0.0.0:6443",
        "backends": backends,
        "health": { "ca_file": "/etc/balancer/ca.crt" },
        "admin_socket": "/run/balancer.sock",
    })
    .to_string()
}
