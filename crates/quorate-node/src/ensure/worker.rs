//! This host is a worker of the cluster, joined with a token that was made for it and sealed to it.

use quorate_plan::{
    kubeadm::{ClusterSettings, Peer},
    observation::Cgroup,
};
use zeroize::Zeroizing;

use super::{ANSWER_WITHIN, TOOL_WITHIN, Work, kubelet};
use crate::{
    command::Command, durable, error::ActionError, facts, kubeadm::Private, seal::JoinToken,
};

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let kubeconfig = work.paths.kubernetes("kubelet.conf");
    if !kubeconfig.exists() {
        clear(work).await?;
        join(work, settings, node, &work.open()?).await?;
    }
    kubelet::start(work).await?;
    registered(work, node).await
}

/// What a join that was killed leaves behind would stop the next one: kubeadm refuses to find its own files, and a kubelet on its port.
async fn clear(work: &Work<'_>) -> Result<(), ActionError> {
    let bootstrap = work.paths.kubernetes("bootstrap-kubelet.conf");
    let ca = work.paths.pki("ca.crt");
    if work.paths.pki("ca.key").exists() || work.paths.manifest("kube-apiserver").exists() {
        return Err(ActionError::unexpected(
            "a host that is no control plane host",
            "it has a certificate authority or an apiserver",
            "remove it from the control plane first",
        ));
    }
    let stop = Command::new("systemctl", TOOL_WITHIN).args(["stop", "kubelet.service"]);
    work.tools.run(stop).await?;
    durable::remove(&bootstrap)?;
    durable::remove(&ca)?;
    Ok(())
}

async fn join(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
    token: &JoinToken,
) -> Result<(), ActionError> {
    let text = Zeroizing::new(settings.join_configuration(node, &token.token, &token.ca_hash));
    let config = Private::file(work.paths, "join.yaml", text.as_bytes())?;
    let mut join = Command::new("kubeadm", work.patience)
        .arg("join")
        .arg("--config")
        .arg(config.path());
    match settings.kind.cgroup {
        // kubeadm's check of the system wants v2; the kubelet was told that it is v1 on purpose.
        Cgroup::V1 => join = join.arg("--ignore-preflight-errors=SystemVerification"),
        Cgroup::V2 => {}
    }
    work.tools.run(join).await?;
    Ok(())
}

/// The kubelet's own credentials tell whether the cluster knows it.
async fn registered(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
    let path = format!("/api/v1/nodes/{}", node.name);
    work.wait("this host's Node object", || async {
        let client = crate::clients::through_endpoint(work.paths, work.tools, "kubelet.conf")
            .await
            .map_err(|err| crate::shown::line(&crate::shown::chain(&err)))?;
        match facts::present(client.get(&path, ANSWER_WITHIN).await) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("node {} is not registered", node.name)),
            Err(err) => Err(crate::shown::line(&crate::shown::chain(&err))),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// What kubeadm reads, with a token in it, is root's alone; it is gone afterwards, whatever became of the join.
    #[tokio::test]
    async fn the_token_goes_with_the_join() {
        let machine = testing::machine();
        let node = Peer {
            name: "w-1".parse().unwrap(),
            address: "10.0.0.9".parse().unwrap(),
        };
        let token = JoinToken {
            token: Zeroizing::new("abcdef.0123456789abcdef".into()),
            ca_hash: "sha256:00".into(),
        };
        let text = crate::kubeadm::tests::settings().join_configuration(
            &node,
            &token.token,
            &token.ca_hash,
        );
        assert!(text.contains("abcdef.0123456789abcdef"));
        let file = Private::file(&machine.paths, "join.yaml", text.as_bytes()).unwrap();
        let meta = std::fs::metadata(file.path()).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777,
            0o600
        );
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
    }
}
