//! A machine in a temporary folder, and what its operator wants.

use std::time::Duration;

use quorate_plan::{
    Claim, Fence, Goal, Intent, Missing, Observation, Operator, Seen, Spec,
    intent::BundleRef,
    observation::{ApiView, EndpointName, Readyz},
    spec::{BalancerSpec, BringUp, Cni, NetworkSpec, Provider},
};

use crate::{
    command::Tools,
    ensure::{Progress, Work},
    paths::Paths,
    seal::Identity,
};

/// A machine; it goes when this is dropped.
pub(crate) struct Machine {
    _folder: tempfile::TempDir,
    pub(crate) paths: Paths,
}

impl Machine {
    /// Writes a file of the machine.
    pub(crate) fn write(&self, absolute: &str, text: impl AsRef<[u8]>) {
        let path = self.paths.at(absolute);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file of the machine.
    pub(crate) fn read(&self, absolute: &str) -> String {
        std::fs::read_to_string(self.paths.at(absolute)).unwrap()
    }
}

/// Work on a machine that is `node` of a cluster nobody looked at.
pub(crate) fn with_work<T>(machine: &Machine, node: &str, f: impl FnOnce(&Work<'_>) -> T) -> T {
    let once = async |work: &Work<'_>| f(work);
    let done = std::pin::pin!(with_work_async(machine, node, once));
    match done.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => unreachable!("nothing is waited for"),
    }
}

/// As [`with_work`], for what waits.
pub(crate) async fn with_work_async<T>(
    machine: &Machine,
    node: &str,
    f: impl AsyncFnOnce(&Work<'_>) -> T,
) -> T {
    with_patience(machine, node, Duration::ZERO, f).await
}

/// As [`with_work`], for what waits and may do so for a while.
pub(crate) async fn with_patience<T>(
    machine: &Machine,
    node: &str,
    patience: Duration,
    f: impl AsyncFnOnce(&Work<'_>) -> T,
) -> T {
    let node = node.parse().unwrap();
    let claim = Claim {
        fence: Fence(1),
        operator: Operator {
            user: "ann".into(),
            machine: "desk".into(),
            pid: 1,
            run: "r".into(),
        },
        since: 0,
        intent: intent(),
    };
    f(&Work {
        paths: &machine.paths,
        node: &node,
        seen: &Observation::default(),
        claim: &claim,
        tools: &Tools::default(),
        identity: &Identity::generate(),
        sealed: Vec::new(),
        receipt: None,
        progress: &Progress(tokio::sync::mpsc::unbounded_channel().0),
        patience,
    })
    .await
}

/// A blank machine.
pub(crate) fn machine() -> Machine {
    let folder = tempfile::tempdir().unwrap();
    Machine {
        paths: Paths::below(folder.path()),
        _folder: folder,
    }
}

/// A cluster without machines.
pub(crate) fn intent() -> Intent {
    Intent {
        spec: Spec {
            name: "demo".parse().unwrap(),
            kubernetes: "1.35.4".into(),
            endpoint: EndpointName {
                host: "api.demo.internal".into(),
                port: 6443,
            },
            balancer: BalancerSpec::External,
            hosts_file: false,
            control_plane: [].into(),
            bring_up: BringUp::Together,
            workers: [].into(),
            network: NetworkSpec {
                cni: Cni::None,
                pods: "10.244.0.0/16".into(),
                services: "10.96.0.0/12".into(),
            },
            provider: Provider::Ssh,
            bundle: None,
            packages: None,
        },
        bundle: BundleRef {
            id: "0".repeat(64),
            kubernetes: "1.35.4".into(),
            images: [].into(),
        },
        binary: "1".repeat(64),
        goal: Goal::Converge,
        accepted: [].into(),
        retired: [].into(),
    }
}

/// An apiserver that says it is ready, and tells nothing else.
pub(crate) fn ready_api() -> ApiView {
    fn untold<T>() -> Seen<T> {
        Seen::Unknown(Missing::not_looked("the API's contents"))
    }
    ApiView {
        readyz: Readyz {
            ready: true,
            status: 200,
            failing: [].into(),
        },
        version: "1.35.4".into(),
        nodes: untold(),
        endpoints: untold(),
        kubeadm: untold(),
        cluster_info: untold(),
        workloads: untold(),
        notes: untold(),
        tokens: untold(),
        uploaded_certs: untold(),
        conversion: untold(),
    }
}
