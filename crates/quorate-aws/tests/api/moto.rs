//! Against moto, which somebody else wrote after AWS's own descriptions: that requests are understood and answers read. moto probes nothing, takes
//! any key and is never slow; for that there are services of our own beside this.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use quorate_aws::{
    Arn, Aws, Direction, Environment, InstanceState, Options, Peer, Target, TargetState,
};
use serde_json::Value;

/// For one call, and for moto to start on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(120);

/// The Python that has moto: the one that is named, `python3`, or the one that `moto_server` begins with.
fn interpreter() -> Result<PathBuf, String> {
    let candidates = match std::env::var_os("QUORATE_MOTO_PYTHON") {
        Some(named) => vec![PathBuf::from(named)],
        None => [Some(PathBuf::from("python3")), of_script()]
            .into_iter()
            .flatten()
            .collect(),
    };
    for candidate in &candidates {
        let found = Command::new(candidate)
            .args(["-c", "import boto3, moto.server"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_ok_and(|status| status.success()) {
            return Ok(candidate.clone());
        }
    }
    let looked: Vec<String> = candidates
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(format!(
        "the AWS client against moto: no Python with moto's server and boto3 (looked at {}); `pip install 'moto[ec2,elbv2,server]==5.2.1'` brings them",
        looked.join(", ")
    ))
}

fn of_script() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let script = std::env::split_paths(&path)
        .map(|folder| folder.join("moto_server"))
        .find(|path| path.is_file())?;
    let mut line = String::new();
    // A script, so its first line is short; whatever else it may be is not read far.
    let mut start = BufReader::new(std::fs::File::open(script).ok()?.take(500));
    start.read_line(&mut line).ok()?;
    let interpreter = line.trim().strip_prefix("#!")?;
    (!interpreter.contains(' ')).then(|| PathBuf::from(interpreter))
}

/// Ends with the pipe to it, also where this process is killed.
struct Moto {
    child: Child,
    made: Value,
}

impl Moto {
    fn start(python: &Path) -> Moto {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/at_moto.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it ran a moment ago");
        let mut errors = child.stderr.take().expect("piped");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).ok();
            text
        });
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, line) = mpsc::channel();
        std::thread::spawn(move || sender.send(lines.next()));
        let line = line.recv_timeout(START_MAX);
        let mut moto = Moto {
            child,
            made: Value::Null,
        };
        match line {
            Ok(Some(Ok(line))) => moto.made = serde_json::from_str(&line).expect("a line of JSON"),
            other => {
                moto.end();
                panic!(
                    "moto did not start: {other:?}\n{}",
                    errors.join().unwrap_or_default()
                )
            }
        }
        moto
    }

    fn text(&self, name: &str) -> &str {
        self.made[name].as_str().expect("the script says it")
    }

    fn arn(&self, name: &str) -> Arn {
        self.text(name).parse().expect("an ARN")
    }

    fn end(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test]
async fn a_cluster_at_moto_is_seen_and_its_targets_moved() {
    let python = match interpreter() {
        Ok(python) => python,
        Err(reason) => {
            // Past the test runner, which keeps to itself what a test that passes prints.
            writeln!(std::io::stderr(), "SKIPPED: {reason}").expect("stderr is there");
            return;
        }
    };
    let moto = Moto::start(&python);
    let environment = Environment::of(
        [
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_ENDPOINT_URL", moto.text("url")),
        ],
        None,
    );
    let (balancer, group) = (moto.arn("balancer"), moto.arn("target_group"));
    let options = Options {
        region: Some(balancer.region().clone()),
        ..Options::of(environment)
    };
    let aws = Aws::open(options, SOON).await.unwrap();

    let found = aws
        .load_balancers(std::slice::from_ref(&balancer), SOON)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].internal && found[0].kind == "network" && found[0].state == "active");
    assert_eq!(found[0].security_groups, [moto.text("group")]);
    assert_eq!(found[0].zones.len(), 3);
    let attributes = aws.load_balancer_attributes(&balancer, SOON).await.unwrap();
    assert_eq!(attributes["load_balancing.cross_zone.enabled"], "true");
    let listeners = aws.listeners(&balancer, SOON).await.unwrap();
    assert_eq!(
        (listeners[0].port, &listeners[0].forwards_to[..]),
        (6443, &[group.clone()][..])
    );
    let groups = aws.target_groups_of(&balancer, SOON).await.unwrap();
    assert_eq!(
        groups,
        aws.target_groups(std::slice::from_ref(&group), SOON)
            .await
            .unwrap()
    );
    let check = &groups[0].health_check;
    assert_eq!(
        (check.protocol.as_str(), check.path.as_deref()),
        ("HTTPS", Some("/readyz"))
    );
    assert_eq!(check.interval, Duration::from_secs(5));
    let attributes = aws.target_group_attributes(&group, SOON).await.unwrap();
    assert_eq!(attributes["preserve_client_ip.enabled"], "false");

    let ids: Vec<&str> = moto.made["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let absent = "i-00000000000000000";
    let asked = [&ids[..], &[absent]].concat();
    let mut instances = aws.instances(&asked, SOON).await.unwrap();
    instances.sort_by(|a, b| a.zone.cmp(&b.zone));
    assert_eq!(instances.len(), 3, "one of the four does not exist");
    assert_eq!(instances[0].id, ids[0]);
    assert_eq!(instances[0].state, InstanceState::Running);
    assert_eq!(instances[0].tags["Name"], "cp-1");
    assert_eq!(instances[0].address, Some(Ipv4Addr::new(10, 0, 0, 4)));
    assert_eq!(instances[2].zone, "eu-central-1c");

    let rules = aws
        .security_group_rules(&[moto.text("group")], SOON)
        .await
        .unwrap();
    let mut admitted: Vec<_> = rules
        .iter()
        .filter(|rule| rule.direction == Direction::In)
        .map(|rule| (rule.ports, rule.peer.clone()))
        .collect();
    admitted.sort();
    assert_eq!(
        admitted,
        [
            (
                Some((2379, 2380)),
                Peer::Group(moto.text("group").to_owned())
            ),
            (Some((6443, 6443)), Peer::Ipv4("10.0.0.0/16".to_owned()))
        ]
    );

    let targets: Vec<Target> = ids
        .iter()
        .map(|id| Target {
            id: (*id).to_owned(),
            port: None,
        })
        .collect();
    let registered = async || {
        let health = aws.target_health(&group, SOON).await.unwrap();
        assert!(health.iter().all(|target| target.port == 6443));
        assert!(
            health
                .iter()
                .all(|target| target.state == TargetState::Healthy)
        );
        let mut ids: Vec<String> = health.into_iter().map(|target| target.id).collect();
        ids.sort();
        ids
    };
    assert!(registered().await.is_empty());
    for _ in 0..2 {
        aws.register_targets(&group, &targets, SOON).await.unwrap();
    }
    let mut all: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    all.sort();
    assert_eq!(registered().await, all);
    aws.deregister_targets(&group, &targets[..1], SOON)
        .await
        .unwrap();
    assert_eq!(registered().await.len(), 2);

    let nowhere: Arn = group.as_str().replace("demo-api", "other").parse().unwrap();
    let err = aws.target_health(&nowhere, SOON).await.unwrap_err();
    assert_eq!(err.code(), Some("TargetGroupNotFound"), "{err}");
}
