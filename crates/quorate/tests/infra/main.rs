//! `quorate infra` with a Terraform that says what a test wants (`terraform.sh`): what it is asked, what is made of what it says, and what becomes
//! of it. Clusters are in memory, or there is none yet. The real Terraform is in `terraform/tests/against_moto.py`.

#[path = "../lab/mod.rs"]
mod lab;
mod made;
mod over_a_cluster;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quorate::{
    interrupts::Interrupts,
    terraform::drive::{Heard, Patience, drive},
};
use serde_json::{Value, json};

use made::{CREATED, FILE, Made, Seen, created, ended, stopped};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_first_machines_are_planned_saved_and_made() {
    let made = Made::new();
    made.plans(&[created("cp-1"), created("cp-2")], false);
    let seen = made.run("infra plan -f made.yaml --out saved");
    seen.is(
        0,
        &[
            "+ aws_instance.k8s_master[\"cp-2\"]",
            "2 resources to make, 0 to change, 0 to end",
            "Saved.",
        ],
    );
    assert_eq!(
        fs::metadata(made.at("saved")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    made.run("infra apply saved --yes").is(
        0,
        &[
            "aws_instance.a: Creating...",
            "made 2 resources, changed 0 and ended 1",
        ],
    );
    assert_eq!(
        made.asked(),
        ["version", "plan", "show", "version", "show", "apply"]
    );
    let asked = made.text("asked");
    let machines = made
        .at("machines")
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    assert!(
        asked.lines().all(|line| line.starts_with(&machines)),
        "{asked}"
    );
    // Exactly what was planned, in files that are ours alone, of which none is left.
    assert_eq!(made.text("applied"), "a plan with a sensitive value\n");
    for line in made.text("modes").lines() {
        let mode = if line.ends_with("/plan") {
            "600 "
        } else {
            "700 "
        };
        assert!(line.starts_with(mode), "{line}");
    }
    assert_eq!(made.left(), [""; 0]);
    assert!(!made.at("saved").exists());
}

#[test]
fn nothing_to_do_is_nothing_to_apply() {
    let made = Made::new();
    made.plans(&[], false);
    made.says("plan.code", "0");
    made.run("infra plan -f made.yaml --out saved")
        .is(0, &["nothing to do", "no plan was saved"]);
    assert!(!made.at("saved").exists());
    let seen = made
        .run("infra apply -f made.yaml --yes -o json")
        .is(0, &[]);
    let told: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(
        (&told["kind"], &told["applied"]),
        (&json!("InfraApply"), &json!(false))
    );
    assert!(!made.asked().contains(&"apply".to_owned()));
}

#[test]
fn programs_read_what_would_be_done() {
    let made = Made::new();
    made.plans(&[created("cp-1"), stopped("cp-2", 12)], false);
    let seen = made.run("infra plan -f made.yaml -o json").is(3, &[]);
    let told: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(told["kind"], "InfraPlan");
    assert_eq!(
        told["changes"][1],
        json!({"address": "aws_instance.k8s_master[\"cp-2\"]", "action": "update", "attributes": ["instance_type"]})
    );
    assert_eq!(told["members"], json!({"seen": "noCluster"}));
    assert_eq!(told["lint"]["findings"][0]["code"], "master-stopped");
    assert!(
        !seen.out.contains("t3.xlarge"),
        "values are nobody's: {}",
        seen.out
    );
}

#[test]
fn where_no_cluster_is_known_nothing_happens_to_a_master() {
    let made = Made::new();
    made.plans(&[created("cp-4"), ended("cp-2", 12)], false);
    made.run("infra plan -f made.yaml --out saved")
        .is(3, &["error[master-destroyed]"]);
    assert!(!made.at("saved").exists());
    made.run("infra apply -f made.yaml --yes")
        .is(3, &["error[master-destroyed]"]);
    assert!(!made.asked().contains(&"apply".to_owned()));
    assert_eq!(made.left(), [""; 0]);
}

#[test]
fn only_versions_that_are_known() {
    let made = Made::new();
    made.plans(&[], false);
    made.says("version.json", r#"{"terraform_version": "1.5.7"}"#);
    made.run("infra plan -f made.yaml").is(
        2,
        &["expected a version from 1.6 on and before 2.0", "is 1.5.7"],
    );
    made.says("version.json", r#"{"terraform_version": "2.0.0\u001b[2J"}"#);
    let seen = made
        .run("infra plan -f made.yaml")
        .is(2, &["2.0.0\\u{1b}[2J"]);
    assert!(!seen.err.contains('\u{1b}'), "{}", seen.err);
    made.says("version.json", "Terraform v1.11.4");
    made.run("infra plan -f made.yaml")
        .is(2, &["did not tell its version as JSON"]);
    assert_eq!(made.asked(), ["version"; 3]);
    // One plan, two versions.
    made.says("version.json", r#"{"terraform_version": "1.11.4"}"#);
    made.plans(&[created("cp-1")], false);
    made.run("infra plan -f made.yaml --out saved").is(0, &[]);
    made.says("version.json", r#"{"terraform_version": "1.12.0"}"#);
    made.run("infra apply saved --yes")
        .is(3, &["was made with version 1.11.4"]);
    assert!(made.at("saved").exists(), "nothing was begun");
}

#[test]
fn nothing_changes_what_is_asked_behind_our_back() {
    let made = Made::new();
    let mut command = made.command("infra plan -f made.yaml");
    let output = command
        .env("TF_CLI_ARGS_plan", "-destroy")
        .output()
        .unwrap();
    Seen::of(&output).is(2, &["TF_CLI_ARGS_plan is set"]);
    assert_eq!(made.asked(), [""; 0]);
}

#[test]
fn what_goes_wrong_is_said_with_terraforms_words() {
    let made = Made::new();
    made.plans(&[created("cp-1")], false);
    let wrong = r#"{"@message":"x","type":"diagnostic","diagnostic":{"severity":"error","summary":"no \u001b[31mroom","detail":"none\nat all","address":"aws_instance.a"}}"#;
    made.says("plan", wrong);
    made.says("plan.code", "1");
    let seen = made.run("infra plan -f made.yaml").is(
        2,
        &[
            "could not plan: it ended with 1",
            "aws_instance.a: no \\u{1b}[31mroom",
            "at all",
        ],
    );
    assert!(!seen.err.contains('\u{1b}'), "{}", seen.err);
    // Noise: no JSON, bytes that are no text, lines without an end, and a thousand of them.
    made.says("plan.code", "2");
    let noise = format!(
        "\u{1b}[2Jpanic\n{}\n{}",
        "x".repeat(1 << 20),
        "again\n".repeat(1000)
    );
    made.says("plan", &noise);
    let seen = made
        .run("infra plan -f made.yaml --out saved")
        .is(0, &["terraform: \\u{1b}[2Jpanic"]);
    assert!(seen.err.len() < 10_000, "{} bytes", seen.err.len());
    // It ends half way: what it did, it did.
    made.applies(&format!(
        "cat <<'END'\n{CREATED}{wrong}\nEND\nprintf 'last \\033[1mwords' >&2; exit 1"
    ));
    made.run("infra apply saved --yes").is(
        4,
        &[
            "did not do all of it: it ended with 1",
            "at all",
            "last \\u{1b}[1mwords",
            "what is left",
        ],
    );
    assert!(!made.at("saved").exists(), "it fits nothing any more");
    made.run("infra plan -f made.yaml --out saved").is(0, &[]);
    made.applies("kill -9 $$");
    made.run("infra apply saved --yes")
        .is(4, &["signal 9 ended it"]);
    assert_eq!(made.left(), [""; 0]);
}

#[test]
fn a_plan_that_was_saved_is_bound() {
    let made = Made::new();
    made.plans(&[created("cp-1")], false);
    let save = || made.run("infra plan -f made.yaml --out saved").is(0, &[]);
    save();
    fs::write(made.at("made.yaml"), FILE.replace("admin", "root")).unwrap();
    made.run("infra apply saved --yes").is(
        3,
        &["does not fit any more", "the cluster file", "has changed"],
    );
    fs::write(made.at("made.yaml"), FILE).unwrap();
    let text = made.text("saved");
    let saved: Value = serde_json::from_str(&text).unwrap();
    let with = |key: &str, value: Value| {
        let mut other = saved.clone();
        other[key] = value;
        fs::write(made.at("saved"), other.to_string()).unwrap();
        made.run("infra apply saved --yes")
    };
    with("plan", json!("YW5vdGhlcg==")).is(3, &["the plan in it is damaged"]);
    with("cluster", json!("other")).is(3, &["it was made for other, seen no cluster"]);
    with("members", json!({"seen": "noEtcd"})).is(3, &["etcd's members are others"]);
    with("kind", json!("SavedPlan")).is(2, &["is no saved plan"]);
    with("more", json!(1)).is(2, &["is no saved plan"]);
    with("kind", saved["kind"].clone()).is(0, &["Applied"]);
    // A plan of `quorate plan` is none, and neither is Terraform's own.
    fs::write(made.at("saved"), b"PK\x03\x04\xff").unwrap();
    made.run("infra apply saved --yes")
        .is(2, &["could not read the plan"]);
}

#[test]
fn somebody_has_to_say_yes() {
    let made = Made::new();
    made.plans(&[created("cp-1")], false);
    made.run("infra apply -f made.yaml")
        .is(2, &["there is no terminal to ask on", "quorate infra plan"]);
    assert_eq!(made.asked(), [""; 0]);
    let file = "apiVersion: quorate/v1\nname: here\ncontrolPlane: { count: 1 }\nendpoint: { balancer: { count: 1 } }\nprovider: { kind: local }\n";
    fs::write(made.at("local.yaml"), file).unwrap();
    made.run("infra plan -f local.yaml")
        .is(2, &["not Terraform's"]);
    fs::remove_dir(made.at("machines")).unwrap();
    made.run("infra plan -f made.yaml")
        .is(2, &["there is no directory"]);
}

/// A process that says things.
struct Running {
    process: Child,
    lines: mpsc::Receiver<String>,
    said: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens any more when a case has failed.
                let _ = tell.send(line);
            }
        });
        Self {
            process,
            lines,
            said: String::new(),
        }
    }

    fn says(&mut self, words: &str) {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said += &format!("{line}\n");
                    if line.contains(words) {
                        return;
                    }
                }
                Err(_) => panic!("it does not say `{words}`, but:\n{}", self.said),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(process, signal).unwrap();
    }

    fn ends(mut self) -> (i32, String) {
        let status = self.process.wait().unwrap();
        self.said.extend(self.lines.iter().map(|line| line + "\n"));
        (status.code().unwrap(), self.said)
    }
}

/// What it is interrupted with is counted; it ends when the file `end` is there.
const SLOW: &str = r#"
trap 'echo interrupted >> "$here/interrupts"; echo "{\"type\":\"apply_progress\",\"@message\":\"stopping\"}"' INT
echo '{"type":"apply_start","@message":"aws_instance.a: Creating..."}'
while [ ! -e "$here/end" ]; do sleep 0.05; done
exit "$(cat "$here/end")"
"#;

#[test]
fn ctrl_c_asks_once_and_waits() {
    let made = Made::new();
    made.plans(&[created("cp-1")], false);
    made.applies(SLOW);
    let mut running = Running::start(made.command("infra apply -f made.yaml --yes"));
    running.says("Creating");
    running.signal(Signal::SIGINT);
    running.says("was asked to end, and is waited for");
    running.says("stopping");
    running.signal(Signal::SIGINT);
    running.says("Still waiting for Terraform");
    // Neither a closed terminal nor a service that is stopped.
    running.signal(Signal::SIGHUP);
    running.says("Still waiting for Terraform");
    running.signal(Signal::SIGTERM);
    running.says("Still waiting for Terraform");
    fs::write(made.at("end"), "1").unwrap();
    let (exit, said) = running.ends();
    assert_eq!(exit, 130, "{said}");
    assert!(said.contains("what is left"), "{said}");
    assert_eq!(made.text("interrupts"), "interrupted\n");
    assert_eq!(made.left(), [""; 0]);
}

#[test]
fn what_was_done_all_the_same_is_done() {
    let made = Made::new();
    made.plans(&[created("cp-1")], false);
    made.applies(SLOW);
    let mut running = Running::start(made.command("infra apply -f made.yaml --yes"));
    running.says("Creating");
    running.signal(Signal::SIGTERM);
    running.says("was asked to end, and is waited for");
    fs::write(made.at("end"), "0").unwrap();
    let (exit, said) = running.ends();
    assert_eq!(exit, 0, "{said}");
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// One that is deaf and says nothing while it plans is killed, with all that it started.
#[tokio::test]
async fn a_plan_that_hangs_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    nix::unistd::mkfifo(&started, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!(
        "trap '' INT; sleep 600 > {} & wait; wait",
        started.display()
    );
    // Its child holds the pipe for as long as it lives.
    let child = thread::spawn(move || {
        let mut rest = Vec::new();
        fs::File::open(started)
            .unwrap()
            .read_to_end(&mut rest)
            .unwrap();
    });
    let short = Duration::from_millis(200);
    let patience = Patience::Until {
        silent: short,
        grace: short,
    };
    let mut silences = 0;
    let interrupts = Interrupts::listen().unwrap();
    let mut tell = |heard: Heard<'_>| {
        silences += usize::from(matches!(heard, Heard::Silence(_)));
    };
    let ended = drive(shell(&script), patience, &interrupts, &mut tell);
    let ended = ended.await.unwrap();
    assert!(
        ended.silent && !ended.interrupted && ended.status.code().is_none(),
        "{ended:?}"
    );
    assert_eq!(silences, 1);
    child.join().unwrap();
}

/// One that applies is told of, and left alone.
#[tokio::test]
async fn one_that_applies_is_never_ended() {
    let directory = tempfile::tempdir().unwrap();
    let end = directory.path().join("end");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        end.display()
    );
    let patience = Patience::Forever {
        tell: Duration::from_millis(100),
    };
    let interrupts = Interrupts::listen().unwrap();
    let mut silences = 0;
    let mut tell = |heard: Heard<'_>| {
        silences += usize::from(matches!(heard, Heard::Silence(_)));
        if silences == 3 {
            fs::write(&end, "").unwrap();
        }
    };
    let ended = drive(shell(&script), patience, &interrupts, &mut tell);
    let ended = ended.await.unwrap();
    assert_eq!(ended.status.code(), Some(7));
    assert!(silences >= 3 && !ended.silent);
}
