//! kubeadm rendered this host's static pod manifests as it would for a join, and nothing was put in place: what matters of them is kept in
//! memory, to be compared with those of running masters.

use quorate_plan::{
    kubeadm::{ClusterSettings, Peer},
    observation::Rehearsal,
};

use super::{TOOL_WITHIN, Work, control_plane::rendered_nothing};
use crate::{
    durable,
    error::ActionError,
    facts,
    kubeadm::{Extra, Kubeadm},
};

/// Everything a master runs as a static pod.
const COMPONENTS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let extra = Extra::default();
    let kubeadm = Kubeadm::new(work.paths, work.tools, settings, node, &extra, TOOL_WITHIN)?;
    let mut rendered = kubeadm.manifests(&["control-plane", "all"]).await?;
    rendered.extend(kubeadm.manifests(&["etcd", "local"]).await?);
    let mut rehearsal = Rehearsal {
        settings: settings.digest(),
        manifests: [].into(),
    };
    for name in COMPONENTS {
        let text = rendered.get(name).ok_or_else(|| rendered_nothing(name))?;
        let manifest = facts::parse_manifest(&work.paths.manifest(name), text)?;
        rehearsal.manifests.insert(name.to_owned(), manifest);
    }
    Ok(durable::write_json(
        &work.paths.run(facts::REHEARSAL),
        &rehearsal,
    )?)
}
