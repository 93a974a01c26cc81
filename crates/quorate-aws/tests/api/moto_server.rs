//! moto's server, where this machine has one: also for the tests of those who use this crate. Start at [`Moto::start`].

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use quorate_aws::Environment;
use serde_json::Value;

/// For moto to start on a busy machine.
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
pub struct Moto {
    child: Child,
    /// What is there, as `at_moto.py` made it.
    pub made: Value,
}

impl Moto {
    /// A server with a cluster's things. `None` where there is no moto, which is said.
    pub fn start() -> Option<Moto> {
        match interpreter() {
            Ok(python) => Some(Moto::of(&python)),
            Err(reason) => {
                // Past the test runner, which keeps to itself what a test that passes prints.
                writeln!(std::io::stderr(), "SKIPPED: {reason}").expect("stderr is there");
                None
            }
        }
    }

    fn of(python: &Path) -> Moto {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../quorate-aws/tests/api/at_moto.py"
        );
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

    /// One of the things.
    pub fn text(&self, name: &str) -> &str {
        self.made[name].as_str().expect("the script says it")
    }

    /// The instances, by their names' order.
    pub fn instances(&self) -> Vec<&str> {
        let list = self.made["instances"].as_array().expect("a list");
        list.iter().filter_map(Value::as_str).collect()
    }

    /// The way to it.
    pub fn environment(&self) -> Environment {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_ENDPOINT_URL", self.text("url")),
        ];
        Environment::of(variables, None)
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
