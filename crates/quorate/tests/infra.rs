//! `quorate infra` with a Terraform that says what a test wants (`infra/terraform.sh`): what it is asked, what is made of what it says, and what becomes
//! of it. Clusters are in memory, or there is none yet. The real Terraform is in `terraform/tests/against_moto.py`.

mod lab;

use std::{
    cell::Cell,
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quorate::{
    cluster::ClusterFile,
    console::{Console, Terminal},
    failure::Failure,
    interrupts::Interrupts,
    reach::Reach,
    run_in,
    state::Directories,
    terraform::drive::{Heard, Patience, drive},
};
use quorate_exec::World;
use quorate_plan::Intent;
use quorate_testkit::{
    fixture::node,
    memory::{MemoryHosts, MemoryInfra},
};
use serde_json::{Value, json};

use lab::Lab;

const FILE: &str = "\
apiVersion: quorate/v1
name: given
kubernetes: 1.35.4
provider: { kind: terraform, directory: machines, user: admin }
components: { source: bundle, path: bundle }
";

const CREATED: &str = r#"{"@level":"info","@message":"aws_instance.a: Creating...","type":"apply_start"}
{"@level":"info","@message":"Apply complete!","changes":{"add":2,"change":0,"import":0,"remove":1,"operation":"apply"},"type":"change_summary"}
"#;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A directory with a cluster file, a configuration, and a Terraform.
struct Made {
    directory: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(made.at("machines")).unwrap();
        fs::create_dir(made.at("said")).unwrap();
        fs::write(made.at("made.yaml"), FILE).unwrap();
        let script = include_str!("infra/terraform.sh");
        fs::write(made.at("terraform"), script).unwrap();
        fs::set_permissions(made.at("terraform"), fs::Permissions::from_mode(0o755)).unwrap();
        made.says(
            "version.json",
            r#"{"terraform_version": "1.11.4", "platform": "linux_amd64"}"#,
        );
        made.says(
            "plan",
            r#"{"@message":"Terraform 1.11.4","type":"version","ui":"1.2"}"#,
        );
        made.says("plan.code", "2");
        made.applies(&format!("cat <<'END'\n{CREATED}END"));
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn says(&self, what: &str, text: &str) {
        fs::write(self.at("said").join(what), text).unwrap();
    }

    fn applies(&self, script: &str) {
        fs::write(self.at("apply.sh"), script).unwrap();
    }

    /// What it plans, and whether the state knows a cluster.
    fn plans(&self, changes: &[Value], cluster: bool) {
        let outputs = match cluster {
            true => json!({"quorate_cluster": {"sensitive": false, "value": contract()}}),
            false => json!({}),
        };
        let plan = json!({
            "format_version": "1.2", "terraform_version": "1.11.4", "resource_changes": changes,
            "prior_state": {"format_version": "1.0", "values": {"outputs": outputs}},
        });
        self.says("show.json", &plan.to_string());
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    /// What it was asked, one word each.
    fn asked(&self) -> Vec<String> {
        let asked = self.text("asked");
        let words = asked.lines().filter_map(|line| line.split(' ').nth(1));
        words.map(str::to_owned).collect()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command
            .args(line.split_whitespace())
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path())
            .env("QUORATE_TERRAFORM", self.at("terraform"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> Seen {
        Seen::of(&self.command(line).output().unwrap())
    }

    /// Files of Terraform's that were left in the operator's state.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for state in [".local/state/quorate", "state"] {
            for entry in fs::read_dir(self.at(state)).into_iter().flatten() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                left.extend(name.starts_with("private-").then_some(name));
            }
        }
        left
    }
}

struct Seen {
    exit: i32,
    out: String,
    err: String,
}

impl Seen {
    fn of(output: &Output) -> Self {
        Self {
            exit: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    fn is(self, exit: i32, words: &[&str]) -> Self {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.exit, exit, "{all}");
        for word in words {
            assert!(all.contains(word), "no `{word}` in\n{all}");
        }
        self
    }
}

fn contract() -> Value {
    let text = include_str!("../../../terraform/tests/contract/v1.json");
    let mut contract: Value = serde_json::from_str(text).unwrap();
    contract["name"] = json!("given");
    contract["endpoint"]["host"] = json!("api.example.org");
    contract["masters"][2]["name"] = json!("cp-3");
    for (master, address) in ["10.0.0.11", "10.0.0.12", "10.0.0.13"].iter().enumerate() {
        contract["masters"][master]["address"] = json!(address);
    }
    contract
}

fn change(address: &str, actions: &[&str], before: &Value, after: &Value) -> Value {
    let (kind, name) = address.split_once('.').unwrap();
    let name = name.split('[').next().unwrap();
    json!({"address": address, "mode": "managed", "type": kind, "name": name,
           "change": {"actions": actions, "before": before, "after": after}})
}

fn machine(name: &str, host: u8, kind: &str) -> Value {
    json!({"id": format!("i-{host}"), "private_ip": format!("10.0.0.{host}"), "instance_type": kind,
           "tags": {"quorate/role": "master", "quorate/node": name}})
}

fn created(name: &str) -> Value {
    let address = format!("aws_instance.k8s_master[\"{name}\"]");
    change(
        &address,
        &["create"],
        &Value::Null,
        &json!({"instance_type": "t3.large"}),
    )
}

fn ended(name: &str, host: u8) -> Value {
    let address = format!("aws_instance.k8s_master[\"{name}\"]");
    change(
        &address,
        &["delete"],
        &machine(name, host, "t3.large"),
        &Value::Null,
    )
}

fn stopped(name: &str, host: u8) -> Value {
    let address = format!("aws_instance.k8s_master[\"{name}\"]");
    let (before, after) = (
        machine(name, host, "t3.large"),
        machine(name, host, "t3.xlarge"),
    );
    change(&address, &["update"], &before, &after)
}

// Without a cluster: processes of their own.

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

// With a cluster, which is in memory.

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn run(reach: &impl Reach, directory: &Path, line: &str) -> Seen {
    let (data, conversation) = (Kept::default(), Kept::default());
    let mut console = Console::of(
        Box::new(data.clone()),
        Box::new(conversation.clone()),
        Box::new(io::empty()),
        Terminal::default(),
    );
    let directory = directory.display().to_string();
    let words = line.split_whitespace();
    let words = words.map(|word| OsString::from(word.replace("@/", &format!("{directory}/"))));
    let exit = run_in(words, &mut console, reach).await;
    let text = |kept: &Kept| String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    Seen {
        exit: exit.code().into(),
        out: text(&data),
        err: text(&conversation),
    }
}

/// Three masters that serve. Its bring-up is in virtual time; what Terraform takes is real.
async fn serving(directory: &Path) -> Lab {
    let lab = Lab::new(directory, "given.yaml");
    tokio::time::pause();
    run(&&lab, directory, "quorate apply --yes -f @/given.yaml")
        .await
        .is(0, &["healthy"]);
    tokio::time::resume();
    lab
}

#[tokio::test]
async fn the_guard_has_the_word_about_masters() {
    let made = Made::new();
    let lab = serving(made.directory.path()).await;
    let plan = "quorate infra plan -f @/made.yaml";

    // A member does not go; one that etcd let go of does, and so does what never was one.
    made.plans(&[ended("cp-2", 12)], true);
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["error[master-destroyed]", "10.0.0.12 is member"]);
    run(
        &&lab,
        &lab.directory,
        "quorate infra apply --yes -f @/made.yaml",
    )
    .await
    .is(3, &["error[master-destroyed]"]);
    made.plans(&[created("cp-4"), ended("cp-9", 19)], true);
    run(&&lab, &lab.directory, plan).await.is(0, &["0 errors"]);

    // One may stop while the others keep the majority, never two.
    made.plans(&[stopped("cp-2", 12)], true);
    run(&&lab, &lab.directory, plan)
        .await
        .is(0, &["warning[master-stopped]", "keep the majority"]);
    made.plans(&[stopped("cp-2", 12), stopped("cp-3", 13)], true);
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["error[masters-together]"]);
    made.plans(&[stopped("cp-2", 12)], true);
    lab.shared.change(|world| world.power_off(&node("cp-3")));
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["error[master-stopped]"]);
    assert!(!made.asked().contains(&"apply".to_owned()));

    // Nobody tells: whoever goes may be needed.
    made.plans(&[created("cp-4"), ended("cp-9", 19)], true);
    lab.shared.change(|world| world.power_off(&node("cp-2")));
    run(&&lab, &lab.directory, plan)
        .await
        .is(3, &["members of etcd are not known"]);
    made.plans(&[created("cp-4")], true);
    run(&&lab, &lab.directory, plan).await.is(0, &["0 errors"]);
}

#[tokio::test]
async fn a_saved_plan_is_for_the_members_that_were_seen() {
    let made = Made::new();
    let lab = serving(made.directory.path()).await;
    made.plans(&[created("cp-4")], true);
    run(
        &&lab,
        &lab.directory,
        "quorate infra plan -f @/made.yaml --out @/saved",
    )
    .await
    .is(0, &["Saved."]);
    for name in ["cp-2", "cp-3"] {
        lab.shared.change(|world| world.power_off(&node(name)));
    }
    let seen = run(&&lab, &lab.directory, "quorate infra apply --yes @/saved").await;
    seen.is(
        3,
        &[
            "does not fit any more: etcd's members are others",
            "https://10.0.0.12:2380",
            "nobody who could tell",
        ],
    );
    assert!(!made.asked().contains(&"apply".to_owned()));
    for name in ["cp-2", "cp-3"] {
        lab.shared.change(|world| world.power_on(&node(name)));
    }
    tokio::time::pause();
    lab.shared.rest().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    tokio::time::resume();
    let seen = run(
        &&lab,
        &lab.directory,
        "quorate infra apply --yes @/saved -o json",
    )
    .await
    .is(0, &[]);
    let told: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(
        told,
        json!({"apiVersion": "quorate/v1", "kind": "InfraApply", "cluster": "given", "applied": true, "add": 2, "change": 0, "remove": 1})
    );
    assert_eq!(lab.shared.violations(), [""; 0]);
}

/// A cluster that loses a master between the first look and the second.
struct Dying {
    lab: Lab,
    looks: Cell<u32>,
}

impl Reach for &Dying {
    type Hosts = MemoryHosts;
    type Infra = MemoryInfra;

    fn directories(&self) -> Result<Directories, Failure> {
        (&self.lab).directories()
    }

    fn terraform(&self) -> Result<PathBuf, Failure> {
        (&self.lab).terraform()
    }

    async fn world(
        &self,
        cluster: &ClusterFile,
        intent: &Intent,
    ) -> Result<World<MemoryHosts, MemoryInfra>, Failure> {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == 2 {
            self.lab
                .shared
                .change(|world| world.power_off(&node("cp-3")));
        }
        (&self.lab).world(cluster, intent).await
    }
}

/// What is seen last counts, whatever was shown and approved.
#[tokio::test]
async fn it_is_looked_at_again_right_before() {
    let made = Made::new();
    let lab = serving(made.directory.path()).await;
    made.plans(&[stopped("cp-2", 12)], true);
    let dying = Dying {
        lab,
        looks: Cell::new(0),
    };
    let seen = run(
        &&dying,
        made.directory.path(),
        "quorate infra apply --yes -f @/made.yaml",
    )
    .await;
    let seen = seen.is(3, &["warning[master-stopped]", "error[master-stopped]"]);
    assert!(!made.asked().contains(&"apply".to_owned()), "{}", seen.err);
    assert_eq!(dying.looks.get(), 2);
}
