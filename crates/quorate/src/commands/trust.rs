//! `quorate trust`: host keys of hosts that you have, shown, compared by you, and pinned. Never silently: a key that nobody compared is
//! worth nothing.

use std::{
    collections::BTreeMap, fmt, fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _,
    path::Path, process::Stdio, time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use clap::Args;
use quorate_exec::hostile;
use quorate_plan::{NodeName, spec::Provider};
use sha2::{Digest as _, Sha256};

use crate::{
    args::FileArgument,
    cluster::ClusterFile,
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    show::counted,
    state::Directories,
};

/// How long one host may take to tell its keys.
const SCAN_MAX: Duration = Duration::from_secs(15);

/// Kinds of keys that are pinned, the best first.
const KINDS: [&str; 5] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
];

/// Show the host keys of your hosts, and pin them after you compared them.
///
/// Compare each fingerprint with what the host itself says, over another way than this one: on its console,
/// `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`. A key that differs from a pinned one is refused.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate trust -f prod.yaml
  quorate trust --expect SHA256:Nh0Me49Zh9fDw/VYUfq43IJmI1T+XrjiYONPND8GzaM   in scripts, from the console's log")]
pub struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    /// A fingerprint that was compared already. A host is pinned without a question when one of its keys has it. May be repeated.
    #[arg(long, value_name = "FINGERPRINT")]
    expect: Vec<String>,
}

/// A host key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HostKey {
    kind: String,
    /// In base64, as known_hosts has it.
    key: String,
    fingerprint: String,
}

impl HostKey {
    /// From `TYPE BASE64`. `None`: it is no key that is pinned.
    fn parse(kind: &str, key: &str) -> Option<Self> {
        if !KINDS.contains(&kind) {
            return None;
        }
        let bytes = STANDARD.decode(key).ok()?;
        Some(Self {
            kind: kind.to_owned(),
            key: key.to_owned(),
            fingerprint: format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&bytes))),
        })
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<19} {}", self.kind, self.fingerprint)
    }
}

/// Runs it.
///
/// # Errors
/// When a host does not tell its keys, one differs from a pinned one, or the operator says no.
pub async fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, Directories::of_process()?, console)?;
    match cluster.spec.provider {
        Provider::Ssh | Provider::Terraform { .. } => {}
        Provider::Local { .. } => {
            console.say("Keys of local hosts are made with them: there is nothing to compare.");
            return Ok(());
        }
    }
    let known_hosts = cluster.state().known_hosts();
    let pinned = read_pinned(&known_hosts)?;
    let mut fresh: Vec<(NodeName, String, Vec<HostKey>)> = Vec::new();
    let mut trouble = Vec::new();
    for (node, machine, _) in cluster.spec.machines() {
        let host = match machine.ssh.port {
            22 => machine.address.to_string(),
            port => format!("[{}]:{port}", machine.address),
        };
        let keys = match scan(&machine.address.to_string(), machine.ssh.port).await {
            Ok(keys) => keys,
            Err(why) => {
                trouble.push(format!("{node}: {why}"));
                continue;
            }
        };
        match compare(pinned.get(&host).map_or(&[], Vec::as_slice), &keys) {
            Standing::Pinned => console.say(format!("{node} ({host}): pinned already")),
            Standing::Differs => trouble.push(format!(
                "{node} ({host}): its keys differ from the pinned ones: it is another machine, or somebody is in between"
            )),
            Standing::New => {
                console.say(console.paint_err().paint(Style::Bold, format!("{node} ({host})")));
                for key in &keys {
                    console.say(format!("  {key}"));
                }
                fresh.push((node.clone(), host, keys));
            }
        }
    }
    let fresh = agreed(arguments, fresh, &mut trouble, console)?;
    if !fresh.is_empty() {
        cluster.state().make()?;
        pin(&known_hosts, &fresh)?;
        console.say(format!(
            "{} pinned in `{}`",
            counted(fresh.len(), "host"),
            known_hosts.display()
        ));
    }
    if trouble.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(
        Exit::Refused,
        format!("{} not trusted", counted(trouble.len(), "host")),
    );
    failure.causes = trouble;
    Err(failure.hint(format!(
        "where a machine was made anew, look at it first, then forget the old key: `ssh-keygen -R ADDRESS -f {}`",
        known_hosts.display()
    )))
}

/// Asks once for all, or takes those whose fingerprint was expected.
fn agreed(
    arguments: &Arguments,
    fresh: Vec<(NodeName, String, Vec<HostKey>)>,
    trouble: &mut Vec<String>,
    console: &mut Console,
) -> Result<Vec<(String, Vec<HostKey>)>, Failure> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    if arguments.expect.is_empty() {
        console.say("Compare each with what the host's own console says.");
        let question = format!("Pin the keys of {}", counted(fresh.len(), "host"));
        let otherwise = "give fingerprints that were compared with --expect";
        if !console.confirm(&question, "yes", otherwise)? {
            return Err(Failure::usage("nothing was pinned"));
        }
        return Ok(fresh
            .into_iter()
            .map(|(_, host, keys)| (host, keys))
            .collect());
    }
    let mut taken = Vec::new();
    for (node, host, keys) in fresh {
        // Only what was compared is pinned: the host's other keys were not.
        let compared: Vec<HostKey> = keys
            .into_iter()
            .filter(|key| arguments.expect.contains(&key.fingerprint))
            .collect();
        if compared.is_empty() {
            trouble.push(format!(
                "{node} ({host}): none of its keys has an expected fingerprint"
            ));
        } else {
            taken.push((host, compared));
        }
    }
    Ok(taken)
}

/// How a host's keys stand to the pinned ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    New,
    Pinned,
    Differs,
}

fn compare(pinned: &[HostKey], seen: &[HostKey]) -> Standing {
    if pinned.is_empty() {
        return Standing::New;
    }
    let differs = pinned.iter().any(|old| {
        seen.iter()
            .any(|key| key.kind == old.kind && key.key != old.key)
    });
    if differs || !pinned.iter().any(|old| seen.contains(old)) {
        Standing::Differs
    } else {
        Standing::Pinned
    }
}

/// The keys a host tells. That it is the host is what the operator has to find out.
async fn scan(address: &str, port: u16) -> Result<Vec<HostKey>, String> {
    let child = tokio::process::Command::new("ssh-keyscan")
        .args([
            "-T",
            "10",
            "-t",
            "ed25519,ecdsa,rsa",
            "-p",
            &port.to_string(),
            "--",
            address,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(SCAN_MAX, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            return Err(format!(
                "could not start ssh-keyscan: {error}; install the OpenSSH client"
            ));
        }
        Err(_) => return Err(format!("no answer within {} s", SCAN_MAX.as_secs())),
    };
    let mut keys = keys_of(&String::from_utf8_lossy(&output.stdout));
    keys.sort_by_key(|key| KINDS.iter().position(|kind| *kind == key.kind));
    keys.dedup();
    if keys.is_empty() {
        let said = hostile::line(&String::from_utf8_lossy(&output.stderr));
        return Err(if said.is_empty() {
            "it tells no host key".to_owned()
        } else {
            format!("it tells no host key: {said}")
        });
    }
    Ok(keys)
}

/// Keys in lines of `HOST TYPE BASE64`; whatever else there is is passed over.
fn keys_of(text: &str) -> Vec<HostKey> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            HostKey::parse(words.next()?, words.next()?)
        })
        .collect()
}

/// Pinned keys by host.
fn read_pinned(path: &Path) -> Result<BTreeMap<String, Vec<HostKey>>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let doing = format!("could not read `{}`", path.display());
            return Err(Failure::doing(Exit::Unexpected, doing, &error));
        }
    };
    let mut pinned: BTreeMap<String, Vec<HostKey>> = BTreeMap::new();
    for line in text.lines() {
        if let (Some(host), Some(key)) = (line.split_whitespace().next(), keys_of(line).pop()) {
            pinned.entry(host.to_owned()).or_default().push(key);
        }
    }
    Ok(pinned)
}

fn pin(path: &Path, hosts: &[(String, Vec<HostKey>)]) -> Result<(), Failure> {
    let mut text = String::new();
    for (host, keys) in hosts {
        for key in keys {
            text += &format!("{host} {} {}\n", key.kind, key.key);
        }
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|error| {
            let doing = format!("could not write `{}`", path.display());
            Failure::doing(Exit::Unexpected, doing, &error)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    // A key made for this test alone; its fingerprint as ssh-keygen -l prints it.
    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIBqOtxnwkQ0Ed4uVHOlvpz2DVStWwg2TvmdCIa2rbi3K";

    #[test]
    fn keys_are_read_and_nothing_else_is() {
        let text = format!(
            "# 10.0.0.1:22 SSH-2.0-OpenSSH\n10.0.0.1 ssh-ed25519 {KEY}\n10.0.0.1 ssh-dss AAAA\n10.0.0.1 ssh-rsa \u{1b}[2J\n\n10.0.0.1\n"
        );
        let keys = keys_of(&text);
        assert_eq!(keys.len(), 1);
        assert!(keys[0].fingerprint.starts_with("SHA256:"));
        assert!(!keys[0].fingerprint.ends_with('='));
    }

    #[test]
    fn a_changed_key_is_another_machine() {
        let key = |kind: &str, key: &str| HostKey {
            kind: kind.into(),
            key: key.into(),
            fingerprint: key.into(),
        };
        let (a, b) = (key("ssh-ed25519", "a"), key("ssh-ed25519", "b"));
        let rsa = key("ssh-rsa", "r");
        assert_eq!(compare(&[], std::slice::from_ref(&a)), Standing::New);
        assert_eq!(
            compare(std::slice::from_ref(&a), &[a.clone(), rsa.clone()]),
            Standing::Pinned
        );
        assert_eq!(
            compare(std::slice::from_ref(&a), std::slice::from_ref(&b)),
            Standing::Differs
        );
        assert_eq!(
            compare(&[a], &[rsa]),
            Standing::Differs,
            "the pinned kind is gone"
        );
    }

    #[test]
    fn what_is_pinned_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("known_hosts");
        let key = HostKey::parse("ssh-ed25519", KEY).expect("a key");
        assert!(read_pinned(&path).expect("none yet").is_empty());
        pin(&path, &[("[10.0.0.1]:2222".into(), vec![key.clone()])]).expect("pinned");
        assert_eq!(read_pinned(&path).expect("there")["[10.0.0.1]:2222"], [key]);
    }
}
