//! Somebody else's cluster as it was found, and what came of judging it: what `adopt` prints. Start at [`text`].

use std::fmt::Write as _;

use quorate_plan::{
    Intent, Observation,
    planner::adoption::{Adoption, Verdict},
};

use super::{counted, harmless};
use crate::console::{Paint, Style};

/// What was seen of it, what to know, and the verdict. The findings are refusals, and are shown like them.
pub fn text(intent: &Intent, seen: &Observation, adoption: &Adoption, paint: Paint) -> String {
    let mut out = facts(intent, seen);
    for note in &adoption.notes {
        line(&mut out, &note.about, &note.what);
    }
    if !adoption.stored.is_empty() {
        out += "The old address is stored in these objects. Nobody joins before they lead elsewhere, or were\naccepted:\n";
        for stored in &adoption.stored {
            writeln!(out, "  {}", harmless(&stored.to_string()))
                .expect("a String takes everything");
        }
    }
    let name = paint.paint(Style::Bold, &intent.spec.name);
    writeln!(out, "{name}: {}", verdict(adoption)).expect("a String takes everything");
    out
}

fn verdict(adoption: &Adoption) -> String {
    match adoption.verdict {
        Verdict::Ready => "ready to be converted".to_owned(),
        Verdict::ReadyAfterFixes => match (adoption.fixes(), adoption.risks()) {
            (0, risks) => format!("ready once you accept {} by name", counted(risks, "risk")),
            (fixes, 0) => format!("ready after {}", counted_fixes(fixes)),
            (fixes, risks) => format!(
                "ready after {}, once you accept {} by name",
                counted_fixes(fixes),
                counted(risks, "risk")
            ),
        },
        Verdict::NotConvertible => "not convertible".to_owned(),
        Verdict::Unseen => "not everything could be seen".to_owned(),
    }
}

fn counted_fixes(fixes: usize) -> String {
    match fixes {
        1 => "1 fix".to_owned(),
        fixes => format!("{fixes} fixes"),
    }
}

fn line(out: &mut String, what: &str, value: &str) {
    writeln!(out, "  {what:<18} {}", harmless(value)).expect("a String takes everything");
}

/// What was seen of the cluster, in a few lines.
fn facts(intent: &Intent, seen: &Observation) -> String {
    let mut out = String::new();
    let Ok(Some(api)) = seen.api() else {
        return out;
    };
    line(&mut out, "Kubernetes", &api.version);
    if let Ok(Some(config)) = api.kubeadm.get() {
        let before = match config.endpoint.as_str() {
            "" => "none",
            some => some,
        };
        line(&mut out, "endpoint now", before);
        let wanted = intent.spec.endpoint.to_string();
        line(&mut out, "endpoint to be", &wanted);
    }
    if let Ok(nodes) = api.nodes.get() {
        let ready = nodes.values().filter(|node| node.ready).count();
        let text = format!("{} ({ready} ready)", nodes.len());
        line(&mut out, "nodes", &text);
    }
    if let Ok(conversion) = api.conversion()
        && let Ok(networks) = conversion.networks.get()
    {
        for network in networks {
            line(&mut out, "pod network", network);
        }
    }
    for (node, view) in &seen.etcd {
        if let Ok(Some(view)) = view.get() {
            let voters = view.members.values().filter(|member| !member.learner);
            let text = format!(
                "{} on {node}, {} voting, {} MiB",
                view.version,
                voters.count(),
                view.db_bytes >> 20
            );
            line(&mut out, "etcd", &text);
        }
    }
    for (node, facts) in &seen.hosts {
        let Ok(facts) = facts.get() else { continue };
        let Ok(own) = facts.conversion() else {
            continue;
        };
        if let Ok(files) = own.kubeconfigs.get() {
            for (path, servers) in files {
                let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
                let text = format!("{path}: {}", servers.join(", "));
                line(&mut out, node.as_str(), &text);
            }
        }
        if let Ok(callers) = own.callers.get() {
            for caller in callers {
                line(&mut out, node.as_str(), &format!("connected: {caller}"));
            }
        }
    }
    out
}
