//! A directory with a cluster file, a configuration and a Terraform that is a script, and plans for it to tell. Start at [`Made`].

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

pub(super) const FILE: &str = "\
apiVersion: quorate/v1
name: given
kubernetes: 1.35.4
provider: { kind: terraform, directory: machines, user: admin }
components: { source: bundle, path: bundle }
";

pub(super) const CREATED: &str = r#"{"@level":"info","@message":"aws_instance.a: Creating...","type":"apply_start"}
{"@level":"info","@message":"Apply complete!","changes":{"add":2,"change":0,"import":0,"remove":1,"operation":"apply"},"type":"change_summary"}
"#;

/// A directory with a cluster file, a configuration, and a Terraform.
pub(super) struct Made {
    pub(super) directory: tempfile::TempDir,
}

impl Made {
    pub(super) fn new() -> Self {
        let made = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(made.at("machines")).unwrap();
        fs::create_dir(made.at("said")).unwrap();
        fs::write(made.at("made.yaml"), FILE).unwrap();
        let script = include_str!("terraform.sh");
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

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn says(&self, what: &str, text: &str) {
        fs::write(self.at("said").join(what), text).unwrap();
    }

    pub(super) fn applies(&self, script: &str) {
        fs::write(self.at("apply.sh"), script).unwrap();
    }

    /// What it plans, and whether the state knows a cluster.
    pub(super) fn plans(&self, changes: &[Value], cluster: bool) {
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

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    /// What it was asked, one word each.
    pub(super) fn asked(&self) -> Vec<String> {
        let asked = self.text("asked");
        let words = asked.lines().filter_map(|line| line.split(' ').nth(1));
        words.map(str::to_owned).collect()
    }

    pub(super) fn command(&self, line: &str) -> Command {
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

    pub(super) fn run(&self, line: &str) -> Seen {
        Seen::of(&self.command(line).output().unwrap())
    }

    /// Files of Terraform's that were left in the operator's state.
    pub(super) fn left(&self) -> Vec<String> {
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

pub(super) struct Seen {
    pub(super) exit: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Seen {
    pub(super) fn of(output: &Output) -> Self {
        Self {
            exit: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    pub(super) fn is(self, exit: i32, words: &[&str]) -> Self {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.exit, exit, "{all}");
        for word in words {
            assert!(all.contains(word), "no `{word}` in\n{all}");
        }
        self
    }
}

pub(super) fn contract() -> Value {
    let text = include_str!("../../../../terraform/tests/contract/v1.json");
    let mut contract: Value = serde_json::from_str(text).unwrap();
    contract["name"] = json!("given");
    contract["endpoint"]["host"] = json!("api.example.org");
    contract["masters"][2]["name"] = json!("cp-3");
    for (master, address) in ["10.0.0.11", "10.0.0.12", "10.0.0.13"].iter().enumerate() {
        contract["masters"][master]["address"] = json!(address);
    }
    contract
}

pub(super) fn change(address: &str, actions: &[&str], before: &Value, after: &Value) -> Value {
    let (kind, name) = address.split_once('.').unwrap();
    let name = name.split('[').next().unwrap();
    json!({"address": address, "mode": "managed", "type": kind, "name": name,
           "change": {"actions": actions, "before": before, "after": after}})
}

pub(super) fn machine(name: &str, host: u8, kind: &str) -> Value {
    json!({"id": format!("i-{host}"), "private_ip": format!("10.0.0.{host}"), "instance_type": kind,
           "tags": {"quorate/role": "master", "quorate/node": name}})
}

pub(super) fn created(name: &str) -> Value {
    let address = format!("aws_instance.k8s_master[\"{name}\"]");
    change(
        &address,
        &["create"],
        &Value::Null,
        &json!({"instance_type": "t3.large"}),
    )
}

pub(super) fn ended(name: &str, host: u8) -> Value {
    let address = format!("aws_instance.k8s_master[\"{name}\"]");
    change(
        &address,
        &["delete"],
        &machine(name, host, "t3.large"),
        &Value::Null,
    )
}

pub(super) fn stopped(name: &str, host: u8) -> Value {
    let address = format!("aws_instance.k8s_master[\"{name}\"]");
    let (before, after) = (
        machine(name, host, "t3.large"),
        machine(name, host, "t3.xlarge"),
    );
    change(&address, &["update"], &before, &after)
}
