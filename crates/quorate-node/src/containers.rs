//! Containers of Kubernetes on this host, as containerd knows them. The kubelet starts and ends them; here they are looked at, and ended
//! where no kubelet does.

use std::collections::BTreeSet;

use crate::{
    command::{Command, CommandError, Tools},
    ensure::TOOL_WITHIN,
};

/// Those of the static pod of that name that run.
///
/// # Errors
/// When containerd does not tell.
pub(crate) async fn of(tools: &Tools, component: &str) -> Result<BTreeSet<String>, CommandError> {
    let filter = format!("labels.\"io.kubernetes.container.name\"=={component}");
    let named = list(tools, &["containers", "list", "-q", &filter]).await?;
    let running = running(tools).await?;
    Ok(named.intersection(&running).cloned().collect())
}

/// All that run, those that hold pods together among them.
///
/// # Errors
/// When containerd does not tell.
pub(crate) async fn running(tools: &Tools) -> Result<BTreeSet<String>, CommandError> {
    list(tools, &["tasks", "list", "-q"]).await
}

/// Asks a container to end.
///
/// # Errors
/// When containerd refuses.
pub(crate) async fn end(tools: &Tools, id: &str) -> Result<(), CommandError> {
    tools
        .run(ctr().args(["tasks", "kill", "--signal", "SIGTERM", id]))
        .await
        .map(drop)
}

async fn list(tools: &Tools, args: &[&str]) -> Result<BTreeSet<String>, CommandError> {
    let out = tools.run(ctr().args(args)).await?;
    Ok(ids(&out.text()))
}

fn ctr() -> Command {
    Command::new("ctr", TOOL_WITHIN).args(["--namespace", "k8s.io"])
}

/// One a line.
fn ids(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_line() {
        assert_eq!(ids(""), BTreeSet::new());
        assert_eq!(ids("a1\nb2\n\n"), ["a1", "b2"].map(str::to_owned).into());
    }
}
