//! What a stage of a conversion costs, and how it is taken back: read off its steps, so that no plan says other than what it does. Start at
//! [`of`].

use serde::Serialize;

use crate::{
    plan::Stage,
    step::{Ensure, HostEnsure},
};

/// What is to be expected of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// What somebody who uses the cluster notices.
    pub interruption: &'static str,
    /// How it is taken back.
    pub undo: Undo,
    /// Once it is done there is no way back but through the guard.
    pub point_of_no_return: bool,
}

/// The way back from a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Nothing has to be.
    Stays,
    /// `convert --undo`.
    Convert,
    /// `repair`, which takes back a join that was begun.
    Repair,
    /// `remove`, through the guard, never below a majority.
    Remove,
}

impl Undo {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Stays => "nothing to take back",
            Self::Convert => "`quorate convert --undo`",
            Self::Repair => "`quorate repair`, then `quorate convert --undo`",
            Self::Remove => "`quorate remove`, through the guard",
        }
    }
}

/// What one end state costs, the worst of a stage first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    None,
    NoRestart,
    Joins,
    Pods,
    Proxy,
    Kubelet,
    Moment,
}

impl Cost {
    fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoRestart => "none: nothing restarts, open connections stay",
            Self::Joins => "none, but for a node that joins within half a second",
            Self::Pods => "none: pods are made anew one by one",
            Self::Proxy => "none: its pod is made anew, the node's rules stay",
            Self::Kubelet => "none: the kubelet restarts, pods do not, the node stays Ready",
            Self::Moment => "requests may wait for a moment, below a second by hand",
        }
    }
}

/// What is to be expected of a stage of a conversion, of which `joined` says that a second master votes by then.
pub fn of(stage: &Stage, joined: bool) -> Expected {
    let steps = stage.steps.iter().map(|step| cost(&step.ensure));
    let (worst, undo) = steps.fold((Cost::None, Undo::Stays), |(cost, undo), (more, back)| {
        (cost.max(more), undo.max(back))
    });
    let promotes = stage.steps.iter().any(|step| promotes(&step.ensure));
    Expected {
        interruption: worst.text(),
        undo: if (joined || promotes) && undo > Undo::Stays {
            Undo::Remove
        } else {
            undo
        },
        point_of_no_return: promotes && !joined,
    }
}

/// All stages of a plan that converts, in order; `joined` says that a second master votes already.
pub fn of_all(stages: &[Stage], mut joined: bool) -> Vec<Expected> {
    let mut all = Vec::new();
    for stage in stages {
        let expected = of(stage, joined);
        joined |= expected.point_of_no_return;
        all.push(expected);
    }
    all
}

fn promotes(ensure: &Ensure) -> bool {
    matches!(ensure, Ensure::Host(HostEnsure::Voter { .. }))
}

fn cost(ensure: &Ensure) -> (Cost, Undo) {
    let host = match ensure {
        Ensure::Infra(_) => return (Cost::None, Undo::Stays),
        Ensure::Host(host) => host,
    };
    match host {
        HostEnsure::Prepared { .. }
        | HostEnsure::EtcdVolume { .. }
        | HostEnsure::Bundle { .. }
        | HostEnsure::Components { .. }
        | HostEnsure::Images { .. }
        | HostEnsure::Balancer { .. }
        | HostEnsure::Backend { .. }
        | HostEnsure::Rehearsed { .. }
        | HostEnsure::Authority { .. }
        | HostEnsure::Certificates { .. }
        | HostEnsure::Guarded {}
        | HostEnsure::FoundingOver {}
        | HostEnsure::FoundingAside { .. }
        | HostEnsure::BackendGone { .. }
        | HostEnsure::EndpointGone { .. }
        | HostEnsure::UploadedCertsGone {}
        | HostEnsure::TokensGone {}
        | HostEnsure::NodeGone { .. }
        | HostEnsure::Reset { .. }
        | HostEnsure::Serving { .. }
        | HostEnsure::BackupOffHost { .. }
        | HostEnsure::OldAddress { .. }
        | HostEnsure::Keepalived {}
        | HostEnsure::SharedAddress { .. }
        | HostEnsure::SharedAddressPeerGone { .. }
        | HostEnsure::SharedAddressGone {}
        | HostEnsure::BackupAside {} => (Cost::None, Undo::Stays),
        HostEnsure::BackedUp { .. } => (Cost::None, Undo::Convert),
        HostEnsure::ServingCertificate { .. } | HostEnsure::ServingCertificateKept { .. } => {
            (Cost::NoRestart, Undo::Convert)
        }
        HostEnsure::Configuration { .. }
        | HostEnsure::ConfigurationKept { .. }
        | HostEnsure::ProxyConfig { .. }
        | HostEnsure::Kubeconfigs { master: true, .. }
        | HostEnsure::KubeconfigsKept { master: true, .. } => (Cost::None, Undo::Convert),
        HostEnsure::ClusterInfo { .. } => (Cost::Joins, Undo::Convert),
        HostEnsure::Proxy { .. } => (Cost::Proxy, Undo::Convert),
        HostEnsure::Kubeconfigs { master: false, .. }
        | HostEnsure::KubeconfigsKept { master: false, .. } => (Cost::Kubelet, Undo::Convert),
        HostEnsure::Registered { .. } => (Cost::None, Undo::Repair),
        HostEnsure::DnsSpread {} => (Cost::Pods, Undo::Stays),
        HostEnsure::EtcdMember { .. }
        | HostEnsure::ControlPlane { .. }
        | HostEnsure::Kubelet { .. }
        | HostEnsure::Learner { .. }
        | HostEnsure::Voter { .. }
        | HostEnsure::LeaderMoved { .. }
        | HostEnsure::ControlPlaneGone { .. }
        | HostEnsure::MemberGone { .. } => (Cost::Moment, Undo::Repair),
        // None of them belongs to a conversion.
        HostEnsure::ClusterConfig { .. }
        | HostEnsure::ClusterDns { .. }
        | HostEnsure::Network { .. }
        | HostEnsure::Worker { .. } => (Cost::None, Undo::Stays),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kubeadm::Peer,
        step::{Reason, Step},
    };

    fn stage(ensures: Vec<HostEnsure>) -> Stage {
        let node = "cp-1".parse().unwrap();
        let step = |ensure| Step::on_host(&node, ensure, Reason::Converts);
        Stage {
            title: "x".into(),
            change: None,
            steps: ensures.into_iter().map(step).collect(),
        }
    }

    fn peer(name: &str, last: u8) -> Peer {
        Peer {
            name: name.parse().unwrap(),
            address: [10, 0, 0, last].into(),
        }
    }

    #[test]
    fn the_way_back_ends_at_the_first_promotion_alone() {
        let learner = |name, last| HostEnsure::Learner {
            joiner: peer(name, last),
        };
        let voter = |name, last| HostEnsure::Voter {
            joiner: peer(name, last),
        };
        let server = "https://api.demo.internal:6443".to_owned();
        let stages = [
            stage(vec![HostEnsure::Guarded {}]),
            stage(vec![HostEnsure::ClusterInfo { server }]),
            stage(vec![learner("cp-2", 12)]),
            stage(vec![voter("cp-2", 12)]),
            stage(vec![learner("cp-3", 13)]),
            stage(vec![voter("cp-3", 13)]),
            stage(vec![HostEnsure::DnsSpread {}]),
        ];
        let ways = |joined| {
            of_all(&stages, joined)
                .iter()
                .map(|one| (one.undo, one.point_of_no_return))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ways(false),
            [
                (Undo::Stays, false),
                (Undo::Convert, false),
                (Undo::Repair, false),
                (Undo::Remove, true),
                (Undo::Remove, false),
                (Undo::Remove, false),
                (Undo::Stays, false),
            ]
        );
        assert!(ways(true).iter().all(|(_, end)| !end), "it lies behind");
    }

    #[test]
    fn a_stage_costs_what_its_worst_step_does() {
        let node = peer("w-1", 101);
        let kept = HostEnsure::BackedUp {
            node: node.clone(),
            master: false,
        };
        let led = HostEnsure::KubeconfigsKept {
            node,
            master: false,
        };
        assert_eq!(of(&stage(vec![kept.clone()]), false).interruption, "none");
        let both = of(&stage(vec![led, kept]), false);
        assert!(both.interruption.contains("kubelet restarts"));
        assert_eq!(both.undo, Undo::Convert);
    }
}
