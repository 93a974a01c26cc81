//! What a founding that failed left here is moved aside, and its note says that it is begun again: once. The host stays prepared.

use std::collections::BTreeSet;

use quorate_plan::{Change, NodeName, Refusal, change::Permit, observation::Founding};

use super::{Work, reset::member_aside, unpermitted};
use crate::{aside::Aside, durable, error::ActionError, facts, paths::Paths};

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    founding: &Founding,
) -> Result<(), ActionError> {
    match permit.change() {
        Change::Found { nodes } if *nodes == founding.nodes => {}
        Change::Found { .. }
        | Change::AddVoter { .. }
        | Change::RemoveMember { .. }
        | Change::Interrupt { .. } => {
            return Err(unpermitted("move what a founding left aside"));
        }
    }
    if !is_own(work.paths, work.node, founding)? {
        return Ok(());
    }
    member_aside(work, &Aside::new(work.paths), facts::ETCD_DATA).await?;
    // Last: until then this host tells of a founding that failed.
    Ok(durable::write_json(
        &work.paths.state("founding.json"),
        founding,
    )?)
}

/// Whether the founding that is noted here is the one that failed, and not the one that was begun again.
fn is_own(paths: &Paths, node: &NodeName, founding: &Founding) -> Result<bool, ActionError> {
    let refuse = |found: String| {
        Err(Refusal::NotBlank {
            node: node.clone(),
            found,
        }
        .into())
    };
    if facts::member_mark(paths)?.is_some() {
        return refuse("the marker of an etcd member".into());
    }
    match facts::founding(paths)? {
        Some(noted) if noted.nodes != founding.nodes => {
            refuse(format!("a founding of {}", list(&noted.nodes)))
        }
        Some(noted) if noted.done => refuse("a founding that is over".into()),
        Some(noted) => Ok(noted.restarts < founding.restarts),
        None => refuse("no founding in progress".into()),
    }
}

fn list(nodes: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_the_founding_that_failed_is_moved_aside() {
        let machine = testing::machine();
        let node = "cp-1".parse().unwrap();
        let again = Founding {
            nodes: ["cp-1", "cp-2", "cp-3"].map(|n| n.parse().unwrap()).into(),
            done: false,
            restarts: 1,
        };
        let judge = || is_own(&machine.paths, &node, &again);
        let note = |names: &str, rest: &str| {
            let names: Vec<String> = names.split(' ').map(|n| format!("\"{n}\"")).collect();
            let text = format!("{{\"nodes\":[{}],{rest}}}", names.join(","));
            machine.write("/var/lib/quorate/founding.json", text);
        };
        assert!(judge().is_err(), "nothing was founded here");
        note("cp-1 cp-2 cp-3", "\"done\":false");
        assert!(
            judge().unwrap(),
            "a note from before foundings were counted"
        );
        note("cp-1 cp-2 cp-3", "\"done\":false,\"restarts\":1");
        assert!(
            !judge().unwrap(),
            "it was done, and what lies here is of the next one"
        );
        note("cp-1 cp-2", "\"done\":false");
        assert!(judge().unwrap_err().to_string().contains("cp-1, cp-2"));
        note("cp-1 cp-2 cp-3", "\"done\":true");
        assert!(judge().is_err(), "over");
        note("cp-1 cp-2 cp-3", "\"done\":false");
        machine.write(
            "/var/lib/quorate/etcd-member.json",
            r#"{"clusterId":"1","member":"2"}"#,
        );
        assert!(judge().is_err(), "a member");
    }
}
