//! One operator's session on a host: looking, the fence, sealing, and one action at a time. Start at [`Session::answer`].

use std::{
    fs::{File, TryLockError},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use quorate_plan::{
    Claim, Ensure, Fence, HostEnsure, NodeName, Refusal, Request, Seen, Spec, admit,
    observation::{Fencing, HostReport, Look},
    spec::EtcdDevice,
    standing::{Difference, differences},
    wire::{Answer, Call, Carried, Outcome},
};
use serde::{Deserialize, Serialize};

use crate::{
    binary,
    command::Tools,
    durable::{self, FileError},
    ensure::{Progress, Work, act},
    error::ActionError,
    facts,
    fence::{FenceError, Fences, Held},
    give::give,
    kubeadm::Private,
    paths::Paths,
    seal::Identity,
    shown, ticket,
};

/// One operator's session.
pub(crate) struct Session {
    paths: Paths,
    binary: String,
    identity: OnceLock<Identity>,
    heard: facts::Heard,
    held: Mutex<Holding>,
}

/// Whether this session stands for the operator in force.
enum Holding {
    Not,
    Held(Held),
    /// The channel is closed: whatever still runs here runs for nobody.
    Over,
}

/// What a session that finds the host locked tells about the action of the other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    action: String,
    /// Milliseconds since boot.
    since_ms: u64,
    fence: Fence,
}

impl Session {
    /// A session on the host at `paths`.
    ///
    /// # Errors
    /// When our own binary cannot be read.
    pub(crate) fn begin(paths: Paths) -> Result<Self, FileError> {
        Ok(Self {
            binary: binary::own_hash(&paths)?,
            paths,
            identity: OnceLock::new(),
            heard: facts::Heard::default(),
            held: Mutex::new(Holding::Not),
        })
    }

    /// The hash of the binary that answers.
    pub(crate) fn binary(&self) -> &str {
        &self.binary
    }

    /// The operator is gone: others may take over from now on. What runs goes on.
    pub(crate) fn disconnected(&self) {
        *self.held.lock().expect("nobody panics with it") = Holding::Over;
    }

    /// Answers one call. `progress` gets a line now and then.
    pub(crate) async fn answer(&self, call: Call, progress: &Progress) -> Answer {
        let result = match call {
            Call::Report(look) => {
                let report =
                    Box::pin(facts::report(&self.paths, &look, &self.binary, &self.heard)).await;
                Ok(Answer::Report(Box::new(report)))
            }
            Call::Claim(claim) => self.claim(*claim),
            Call::Release(fence) => self.release(fence),
            Call::Recipient => Ok(Answer::Recipient(self.identity().recipient())),
            Call::Ticket => ticket::issue(&self.paths).map(Answer::Recipient),
            Call::Seal { fence, what, to } => match self.in_force(fence) {
                Ok(_) => Box::pin(give(&self.paths, &what, &to))
                    .await
                    .map(Answer::Sealed),
                Err(err) => Err(err),
            },
            Call::Ensure(request) => Box::pin(self.ensure(*request, progress)).await,
        };
        result.unwrap_or_else(|err| match err {
            ActionError::Refused(refusal) => Answer::Refused(refusal),
            err => Answer::Failed {
                error: shown::chain(&err),
            },
        })
    }

    /// Answers a request that somebody else carried here.
    pub(crate) async fn carried(&self, carried: Carried, progress: &Progress) -> Answer {
        let Carried {
            ticket,
            mut request,
        } = carried;
        let ticket = match ticket::take(&self.paths, &ticket) {
            Ok(ticket) => ticket,
            Err(err) => {
                return Answer::Failed {
                    error: shown::chain(&err),
                };
            }
        };
        request.testimony.grow_older(ticket.age);
        // A session that answers one request has no identity yet; one that has was asked for a recipient, and keeps that.
        let _kept = self.identity.set(ticket.identity);
        self.answer(Call::Ensure(Box::new(request)), progress).await
    }

    fn identity(&self) -> &Identity {
        self.identity.get_or_init(Identity::generate)
    }

    fn claim(&self, claim: Claim) -> Result<Answer, ActionError> {
        let mark = facts::mark(&self.paths)?;
        let mut held = self.held.lock().expect("nobody panics with it");
        let own = match &*held {
            Holding::Held(held) => Some(held),
            Holding::Not | Holding::Over => None,
        };
        let (fencing, taken) = Fences::new(&self.paths).claim(claim, own, mark.as_ref())?;
        if !matches!(*held, Holding::Over) {
            *held = Holding::Held(taken);
        }
        Ok(Answer::Claimed(Box::new(fencing)))
    }

    fn release(&self, fence: Fence) -> Result<Answer, ActionError> {
        let fencing = Fences::new(&self.paths).release(fence)?;
        // What was asked for in the operation that is over, and never came.
        ticket::forget(&self.paths)?;
        *self.held.lock().expect("nobody panics with it") = Holding::Not;
        Ok(Answer::Claimed(Box::new(fencing)))
    }

    /// The operation that this token is for. Only a token that was granted here acts here; a session that acts stands for its operator.
    fn in_force(&self, fence: Fence) -> Result<(Fencing, Claim), ActionError> {
        let fences = Fences::new(&self.paths);
        let fencing = fences.look()?;
        let holder = || match &fencing.claim {
            Some(claim) => claim.operator.to_string(),
            None => "an operation that has ended".to_owned(),
        };
        if fence < fencing.highest {
            return Err(Refusal::Fenced {
                token: fence,
                highest: fencing.highest,
                holder: holder(),
            }
            .into());
        }
        let Some(claim) = fencing.claim.clone().filter(|claim| claim.fence == fence) else {
            return Err(ActionError::unexpected(
                format!("token {fence} to be granted on this host"),
                format!("the highest is {}, of {}", fencing.highest, holder()),
                "take the fence first: `quorate apply` does",
            ));
        };
        let mut held = self.held.lock().expect("nobody panics with it");
        if matches!(*held, Holding::Not) {
            *held = Holding::Held(fences.hold(fence)?);
        }
        Ok((fencing, claim))
    }

    /// Makes an end state stand, alone on this host.
    pub(crate) async fn ensure(
        &self,
        request: Request,
        progress: &Progress,
    ) -> Result<Answer, ActionError> {
        durable::private_folder(&self.paths.run(""))?;
        let path = self.paths.run("lock");
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FileError::new("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return self.busy(),
            Err(TryLockError::Error(err)) => return Err(FileError::new("lock", &path)(err).into()),
        }
        let running = Running {
            action: request.ensure.to_string(),
            since_ms: since_boot_ms(),
            fence: request.fence,
        };
        durable::write_json(&self.paths.run("action.json"), &running)?;
        Private::sweep(&self.paths)?;
        let tools = Tools::under(lock);
        let result = self.act(request, &tools, progress).await;
        durable::remove(&self.paths.run("action.json"))?;
        Ok(Answer::Outcome(Box::new(result?)))
    }

    fn busy(&self) -> Result<Answer, ActionError> {
        // Between the lock and the note there is a moment without a note.
        let running: Option<Running> = durable::read_json(&self.paths.run("action.json"))?;
        let running = running.unwrap_or_else(|| Running {
            action: "an action that has just begun".to_owned(),
            since_ms: since_boot_ms(),
            fence: Fence::default(),
        });
        Ok(Answer::Busy {
            action: running.action,
            since_ms: since_boot_ms().saturating_sub(running.since_ms),
            fence: running.fence,
        })
    }

    async fn act(
        &self,
        request: Request,
        tools: &Tools,
        progress: &Progress,
    ) -> Result<Outcome, ActionError> {
        let (fencing, claim) = self.in_force(request.fence)?;
        let node = self.node(&request.ensure)?;
        // Neither the endpoint nor DNS decides whether an end state stands, and both may be slow to say that they are not there. Only a
        // conversion is about the endpoint.
        let conversion = claim.intent.conversion_look();
        let endpoint = claim.intent.spec.endpoint.clone();
        let look = Look {
            cluster: claim.intent.spec.name.clone(),
            endpoint: conversion.is_some().then_some(endpoint),
            dns: None,
            etcd_device: etcd_device(&request.ensure, &claim.intent.spec, &node),
            conversion,
        };
        let report = Box::pin(facts::report(&self.paths, &look, &self.binary, &self.heard)).await;
        check_host(&request.ensure, &node, &report)?;
        let mut seen = request.testimony.clone();
        seen.record(&node, Seen::now(report.clone()));
        let receipt = request.receipt.clone();
        let admitted = admit(request, &fencing, &seen)?;
        let changed = match differences(&admitted.ensure, &node, &seen) {
            Ok(none) if none.is_empty() => {
                return Ok(Outcome {
                    changed: none,
                    report,
                });
            }
            Ok(some) => some,
            Err(missing) => vec![Difference(missing.to_string())],
        };
        let patience = Ensure::Host(admitted.ensure.clone()).patience();
        let mut work = Work {
            paths: &self.paths,
            node: &node,
            seen: &seen,
            claim: &claim,
            tools,
            identity: self.identity(),
            sealed: Vec::new(),
            receipt,
            progress,
            patience,
        };
        Box::pin(act(&mut work, admitted)).await?;
        let report = Box::pin(facts::report(&self.paths, &look, &self.binary, &self.heard)).await;
        Ok(Outcome { changed, report })
    }

    /// This host's name in the cluster: its mark says so, and before it has one, the mark it shall get.
    fn node(&self, ensure: &HostEnsure) -> Result<NodeName, ActionError> {
        if let HostEnsure::Prepared { mark, .. } = ensure {
            return Ok(mark.node.clone());
        }
        let mark = facts::mark(&self.paths)?;
        mark.map(|mark| mark.node).ok_or_else(|| {
            ActionError::unexpected(
                "a host that carries a cluster's mark",
                "it carries none",
                "run `quorate apply`: it prepares hosts first",
            )
        })
    }
}

/// The block device that is asked for, or that the cluster file has for etcd on this host.
fn etcd_device(ensure: &HostEnsure, spec: &Spec, node: &NodeName) -> Option<EtcdDevice> {
    match ensure {
        HostEnsure::EtcdVolume { device, .. } => Some(device.clone()),
        _ => spec.machine(node)?.etcd_device.clone(),
    }
}

/// What is meant for one host is not done on another, whichever way led here.
fn check_host(
    ensure: &HostEnsure,
    node: &NodeName,
    report: &HostReport,
) -> Result<(), ActionError> {
    let meant = match ensure {
        HostEnsure::EtcdVolume { node, .. }
        | HostEnsure::Certificates { node, .. }
        | HostEnsure::EtcdMember { node, .. }
        | HostEnsure::ControlPlane { node, .. }
        | HostEnsure::Kubelet { node, .. }
        | HostEnsure::Serving { node }
        | HostEnsure::ClusterConfig { node, .. }
        | HostEnsure::ClusterDns { node, .. }
        | HostEnsure::Registered { node, .. }
        | HostEnsure::Rehearsed { node, .. }
        | HostEnsure::Reset { node }
        | HostEnsure::BackedUp { node, .. }
        | HostEnsure::BackupOffHost { node }
        | HostEnsure::OldAddress { node, .. }
        | HostEnsure::SharedAddress { node, .. }
        | HostEnsure::ServingCertificate { node, .. }
        | HostEnsure::ServingCertificateKept { node }
        | HostEnsure::Configuration { node, .. }
        | HostEnsure::ConfigurationKept { node }
        | HostEnsure::Kubeconfigs { node, .. }
        | HostEnsure::KubeconfigsKept { node, .. }
        | HostEnsure::Worker { node, .. } => node,
        HostEnsure::Prepared { .. }
        | HostEnsure::Bundle { .. }
        | HostEnsure::Components { .. }
        | HostEnsure::Images { .. }
        | HostEnsure::Balancer { .. }
        | HostEnsure::Keepalived {}
        | HostEnsure::SharedAddressPeerGone { .. }
        | HostEnsure::SharedAddressGone {}
        | HostEnsure::Authority { .. }
        | HostEnsure::FoundingAside { .. }
        | HostEnsure::Backend { .. }
        | HostEnsure::Guarded {}
        | HostEnsure::FoundingOver {}
        | HostEnsure::Learner { .. }
        | HostEnsure::Voter { .. }
        | HostEnsure::Network { .. }
        | HostEnsure::LeaderMoved { .. }
        | HostEnsure::BackendGone { .. }
        | HostEnsure::ControlPlaneGone { .. }
        | HostEnsure::MemberGone { .. }
        | HostEnsure::NodeGone { .. }
        | HostEnsure::EndpointGone { .. }
        | HostEnsure::UploadedCertsGone {}
        | HostEnsure::ClusterInfo { .. }
        | HostEnsure::ProxyConfig { .. }
        | HostEnsure::Proxy { .. }
        | HostEnsure::DnsSpread {}
        | HostEnsure::BackupAside {}
        | HostEnsure::TokensGone {} => return Ok(()),
    };
    let addresses = &report.facts.machine.get()?.addresses;
    if meant.name == *node && addresses.contains(&meant.address) {
        return Ok(());
    }
    let own: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Err(ActionError::unexpected(
        format!("to act on {} at {}", meant.name, meant.address),
        format!("this is {node} at {}", own.join(", ")),
        "look at the hosts' addresses in the cluster file",
    ))
}

impl From<FenceError> for ActionError {
    fn from(err: FenceError) -> Self {
        match err {
            FenceError::File(err) => err.into(),
            FenceError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// Time that no clock setting changes.
pub(crate) fn since_boot_ms() -> u64 {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use quorate_plan::{
        kubeadm::Peer,
        observation::{Cgroup, HostFacts, Machine},
    };

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn what_is_meant_for_another_host_is_not_done() {
        let machine = testing::machine();
        let look = Look {
            cluster: "demo".parse().unwrap(),
            endpoint: None,
            dns: None,
            etcd_device: None,
            conversion: None,
        };
        let (own, other): (NodeName, NodeName) = ("cp-1".parse().unwrap(), "cp-2".parse().unwrap());
        let report = facts::report(&machine.paths, &look, "00", &facts::Heard::default()).await;
        let serving = |name: &NodeName, address: [u8; 4]| HostEnsure::Serving {
            node: Peer {
                name: name.clone(),
                address: address.into(),
            },
        };
        let unknown = check_host(&serving(&own, [10, 0, 0, 1]), &own, &report);
        assert!(
            matches!(unknown, Err(ActionError::Refused(_))),
            "an address nobody saw"
        );

        let seen = Machine {
            machine_id: String::new(),
            boot_id: String::new(),
            hostname: "cp-1".into(),
            arch: "x86_64".into(),
            os: "debian 12".into(),
            kernel: String::new(),
            systemd: Some(252),
            cpus: 2,
            memory_bytes: 0,
            disk_free_bytes: 0,
            cgroup: Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
            clock_ms: 0,
            addresses: ["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()].into(),
            binary: "00".into(),
        };
        let report = HostReport {
            facts: HostFacts {
                machine: Seen::now(seen),
                ..report.facts
            },
            ..report
        };
        let right = serving(&own, [10, 0, 0, 1]);
        check_host(&right, &own, &report).unwrap();
        for wrong in [
            serving(&other, [10, 0, 0, 1]),
            serving(&own, [192, 0, 2, 1]),
        ] {
            let err = check_host(&wrong, &own, &report).unwrap_err();
            assert!(err.to_string().contains("this is cp-1 at"), "{err}");
        }
    }
}
