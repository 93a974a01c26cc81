//! The other end of a channel, with canned answers.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use quorate_plan::{
    Fence, HostEnsure, Intent, Refusal, Request, Sealed, Seen,
    admit::Recipient,
    observation::{Fencing, HostFacts, HostReport},
    wire::{Answer, Call, GREETING, Outcome},
};
use sha2::{Digest as _, Sha256};

/// What this host gives as its backup.
pub const BACKUP: &[u8] = b"age-encryption.org/v1\nnobody here can read it";

fn greet() {
    let own = std::fs::read("/proc/self/exe").expect("this program");
    let hash: String = Sha256::digest(own)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("{GREETING} {hash}");
}

/// Gives a backup in two parts; to one recipient the first of them alone.
pub fn give_backup(recipient: &str) {
    greet();
    let mut out = std::io::stdout();
    let mut give = |bytes: &[u8]| out.write_all(bytes).expect("the channel takes it");
    for part in BACKUP.chunks(30) {
        give(&u32::try_from(part.len()).expect("short").to_be_bytes());
        give(part);
        if recipient == "age1cut" {
            eprintln!("error: the disk is broken");
            std::process::exit(1);
        }
    }
    give(&0u32.to_be_bytes());
    give(&(BACKUP.len() as u64).to_be_bytes());
    give(&Sha256::digest(BACKUP));
    out.flush().expect("the channel takes it");
}

/// Answers calls on standard input until it ends.
pub fn serve() {
    greet();
    let mut held = Fence(0);
    while let Some(call) = next() {
        match call {
            Call::Report(_) => answer(&Answer::Report(Box::new(report()))),
            Call::Claim(claim) => {
                held = claim.fence;
                answer(&Answer::Claimed(Box::new(Fencing {
                    highest: claim.fence,
                    claim: Some(*claim),
                    connected: true,
                })));
            }
            Call::Release(fence) if fence == held => {
                answer(&Answer::Claimed(Box::new(Fencing {
                    highest: fence,
                    claim: None,
                    connected: false,
                })));
            }
            Call::Release(fence) => answer(&Answer::Refused(Box::new(Refusal::Fenced {
                token: fence,
                highest: held,
                holder: "somebody".into(),
            }))),
            Call::Recipient | Call::Ticket => answer(&Answer::Recipient(Recipient("age1x".into()))),
            Call::Seal { to, .. } => answer(&Answer::Sealed(Sealed(format!("to {}", to.0)))),
            Call::Ensure(request) => ensure(&request),
        }
    }
}

fn ensure(request: &Request) {
    let mut changed = Vec::new();
    match &request.ensure {
        HostEnsure::BackupOffHost { .. } => {
            let receipt = request.receipt.as_ref().expect("a receipt");
            let count = usize::try_from(receipt.bytes).expect("short") + receipt.recipients.len();
            changed.resize(count, quorate_plan::standing::Difference("one".into()));
        }
        HostEnsure::Guarded {} => std::process::exit(3),
        HostEnsure::Network { .. } => std::thread::sleep(Duration::from_secs(2)),
        HostEnsure::Bundle { id } => {
            let place = format!("/var/lib/quorate/bundles/{id}.partial/manifest.json");
            if !std::path::Path::new(&place).exists() {
                answer(&Answer::Failed {
                    error: "no bundle\u{7} here".into(),
                });
                return;
            }
            changed.push(quorate_plan::standing::Difference("bundle".into()));
        }
        _ => answer(&Answer::Progress("halfway \u{1b}[2J".into())),
    }
    answer(&Answer::Outcome(Box::new(Outcome {
        changed,
        report: report(),
    })));
}

fn report() -> HostReport {
    HostReport {
        facts: HostFacts::blank(&"cp-1".parse().expect("a name")),
        etcd: Seen::now(None),
        api: Seen::now(None),
    }
}

fn next() -> Option<Call> {
    let mut length = [0; 4];
    std::io::stdin().read_exact(&mut length).ok()?;
    let mut json = vec![0; u32::from_be_bytes(length) as usize];
    std::io::stdin().read_exact(&mut json).ok()?;
    Some(serde_json::from_slice(&json).expect("a call"))
}

fn answer(answer: &Answer) {
    let json = serde_json::to_vec(answer).expect("plain data");
    let mut out = std::io::stdout().lock();
    let length = u32::try_from(json.len()).expect("short").to_be_bytes();
    let written = out
        .write_all(&length)
        .and_then(|()| out.write_all(&json))
        .and_then(|()| out.flush());
    if written.is_err() {
        std::process::exit(0);
    }
}

/// Some intent: what is in it does not matter here.
pub fn intent() -> Intent {
    let json = serde_json::json!({
        "spec": {
            "name": "demo", "kubernetes": "1.35.4",
            "endpoint": {"host": "api.demo", "port": 6443},
            "balancer": "external", "hostsFile": false,
            "controlPlane": {}, "bringUp": "together", "workers": {},
            "network": {"cni": "none", "pods": "10.244.0.0/16", "services": "10.96.0.0/12"},
            "provider": "ssh", "bundle": null,
        },
        "bundle": {"id": "b", "kubernetes": "1.35.4", "images": {}},
        "binary": "q", "goal": "converge", "accepted": [], "retired": {},
    });
    serde_json::from_value(json).expect("an intent")
}
