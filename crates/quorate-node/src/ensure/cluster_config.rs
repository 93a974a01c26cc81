//! What kubeadm keeps in the cluster: its configuration, the rules of joining, `cluster-info` and kube-proxy.
//!
//! kubeadm would ask the endpoint, which may have no backend yet, or lead elsewhere: it is given a copy of admin.conf that leads to this
//! host's own apiserver. What kubeadm then writes about the way to the API is put right here.

use quorate_kube::{Client, PatchKind, Reason};
use quorate_plan::kubeadm::{ClusterSettings, Peer};
use serde_json::json;

use super::{ANSWER_WITHIN, Work, apiserver, note};
use crate::{
    clients, durable,
    durable::FileError,
    error::ActionError,
    kubeadm::{Extra, Kubeadm, Private},
    token::{self, Token},
};

/// The group of admin.conf, and the rule that makes it an administrator.
const ADMINISTRATORS: &str = "kubeadm:cluster-admins";

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let address = apiserver(node);
    let client = clients::api(work.paths, "admin.conf", address)?;
    administrators(work, settings, node, &client).await?;

    let kubeconfig = local_kubeconfig(work, node)?;
    let flags = [("--kubeconfig", kubeconfig.path())];
    let token = Token::generate()?;
    let extra = Extra {
        token: Some(token.reveal()),
        ..Extra::default()
    };
    let kubeadm = Kubeadm::new(
        work.paths,
        work.tools,
        settings,
        node,
        &extra,
        work.patience,
    )?;
    work.progress.say("uploading kubeadm's configuration");
    kubeadm
        .phase_with(&["upload-config", "all"], &flags)
        .await?;
    // The phase makes the rules of joining, and a token that nobody has asked for.
    let made = kubeadm
        .phase_with(&["bootstrap-token", "--skip-token-print"], &flags)
        .await;
    token::withdraw(&client, token.id(), ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("deleting the bootstrap token"))?;
    made?;
    point_joiners(settings, &client, work).await?;
    work.progress.say("installing kube-proxy");
    kubeadm.phase_with(&["addon", "kube-proxy"], &flags).await?;
    note(&client, "kubernetes", &settings.kubernetes).await
}

/// Makes admin.conf an administrator. Only a member of the built-in super-user group may do that first.
async fn administrators(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
    client: &Client,
) -> Result<(), ActionError> {
    if bind(client).await? {
        return Ok(());
    }
    let address = apiserver(node);
    let name = "super-admin.conf";
    let bound = if work.paths.kubernetes(name).exists() {
        bind(&clients::api(work.paths, name, address)?).await?
    } else {
        // A host that joined has none: one is made for this moment, in memory.
        let folder = Private::folder(work.paths, "super-admin")?;
        let extra = Extra::default();
        Kubeadm::new(
            work.paths,
            work.tools,
            settings,
            node,
            &extra,
            work.patience,
        )?
        .phase_with(
            &["kubeconfig", "super-admin"],
            &[("--kubeconfig-dir", folder.path())],
        )
        .await?;
        bind(&clients::api_with(&folder.path().join(name), address)?).await?
    };
    if bound {
        return Ok(());
    }
    Err(ActionError::unexpected(
        "super-admin.conf to be allowed everything",
        "the API forbids it to make a rule",
        "look at --authorization-mode of kube-apiserver.yaml",
    ))
}

/// `false`: this client may not.
async fn bind(client: &Client) -> Result<bool, ActionError> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": ADMINISTRATORS },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": ADMINISTRATORS }],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    match client.create(path, &binding, ANSWER_WITHIN).await {
        Ok(_) => Ok(true),
        Err(err) => match err.reason() {
            Some(Reason::AlreadyExists) => Ok(true),
            Some(Reason::Forbidden) => Ok(false),
            _ => Err(ActionError::kube("making admin.conf an administrator")(err)),
        },
    }
}

/// admin.conf with this host's own apiserver as the server.
pub(super) fn local_kubeconfig(work: &Work<'_>, node: &Peer) -> Result<Private, ActionError> {
    let path = work.paths.kubernetes("admin.conf");
    let text = durable::read_text(&path)?
        .ok_or_else(|| FileError::new("read", &path)(std::io::ErrorKind::NotFound.into()))?;
    let text = zeroize::Zeroizing::new(text);
    let local =
        zeroize::Zeroizing::new(with_server(&text, &format!("https://{}", apiserver(node))));
    Private::file(work.paths, "local-admin.conf", local.as_bytes())
}

fn with_server(kubeconfig: &str, server: &str) -> String {
    let mut out = String::with_capacity(kubeconfig.len() + server.len());
    for line in kubeconfig.lines() {
        match line.trim_start().strip_prefix("server:") {
            Some(_) => {
                out.push_str(&line[..line.len() - line.trim_start().len()]);
                out.push_str("server: ");
                out.push_str(server);
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// `cluster-info` leads those who join: not to this host, where kubeadm was sent, but to the endpoint. The controller manager signs the
/// new text for every token.
async fn point_joiners(
    settings: &ClusterSettings,
    client: &Client,
    work: &Work<'_>,
) -> Result<(), ActionError> {
    let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    let map = client
        .get(path, ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("reading cluster-info"))?;
    let text = map["data"]["kubeconfig"].as_str().unwrap_or_default();
    let wanted = with_server(text, &format!("https://{}", settings.endpoint));
    if wanted == text {
        return Ok(());
    }
    work.progress.say("pointing cluster-info at the endpoint");
    let patch = json!({ "data": { "kubeconfig": wanted } });
    client
        .patch(path, PatchKind::Merge, &patch, ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("writing cluster-info"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_is_replaced() {
        let text = "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: abc\n    \
                    server: https://api:6443\n  name: demo\n";
        let local = with_server(text, "https://10.0.0.1:6443");
        assert_eq!(
            local,
            text.replace("https://api:6443", "https://10.0.0.1:6443")
        );
        assert_eq!(with_server(&local, "https://api:6443"), text);
    }
}
