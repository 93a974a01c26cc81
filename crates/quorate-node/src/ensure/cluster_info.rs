//! Where joiners and kube-proxy are led by what the cluster keeps: `cluster-info` with its signatures, and kube-proxy's kubeconfig.

use super::{Work, config_map::edit, own_api};
use crate::{error::ActionError, facts, servers, shown};

pub(super) async fn ensure(work: &Work<'_>, server: &str) -> Result<(), ActionError> {
    let client = own_api(work)?;
    let place = ("kube-public", "cluster-info", "kubeconfig");
    edit(work, &client, place, |text| led(text, server)).await?;
    // The controller manager signs the new text for every token, within half a second.
    work.wait("cluster-info to be signed for every token", || async {
        match facts::unsigned(&client).await {
            Ok(none) if none.is_empty() => Ok(()),
            Ok(some) => {
                let some: Vec<&str> = some.iter().map(String::as_str).collect();
                Err(format!("not for {}", some.join(", ")))
            }
            Err(err) => Err(shown::line(&shown::chain(&err))),
        }
    })
    .await
}

/// kube-proxy's kubeconfig. Whoever runs has read the old one, and goes on with it until its pod is made anew.
pub(super) async fn proxy(work: &Work<'_>, server: &str) -> Result<(), ActionError> {
    let client = own_api(work)?;
    let place = ("kube-system", "kube-proxy", "kubeconfig.conf");
    edit(work, &client, place, |text| led(text, server)).await
}

/// The same kubeconfig with this server: kubeadm's have one cluster.
fn led(text: &str, server: &str) -> Result<String, ActionError> {
    let new = servers::led(text, |_| Some(server.to_owned()));
    if facts::server_of(&new).as_deref() == Some(server) {
        return Ok(new.to_string());
    }
    Err(ActionError::unexpected(
        "a kubeconfig that names a server",
        "there is none in it",
        "look at the ConfigMaps cluster-info in kube-public and kube-proxy in kube-system",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_server_is_not_made_up() {
        let text = "clusters:\n- cluster:\n    server: https://10.0.0.11:6443\n  name: \"\"\nusers: null\n";
        let new = led(text, "https://api:6443").unwrap();
        assert_eq!(new, text.replace("10.0.0.11", "api"));
        assert_eq!(led(&new, "https://api:6443").unwrap(), new, "twice is once");
        for none in ["", "clusters: []\n", "\u{1b}[2J"] {
            assert!(led(none, "https://api:6443").is_err());
        }
    }
}
