//! What must hold of a host before anything is done to the cluster: judged before the first step, for all hosts at once, so that a
//! third master's missing memory is known before the second one is touched.

use super::converge::situation;
use crate::{
    Intent, NodeName, Observation, Refusal,
    observation::{HostFacts, Machine, Power, Unit},
    ports,
    seen::Missing,
    spec::Role,
};

/// kubeadm's own minimum for a control plane host, in processors.
const CPUS_MIN: u32 = 2;
/// kubeadm's own minimum for a control plane host, 1700 MB, in bytes.
const MEMORY_BYTES_MIN: u64 = 1_700_000_000;
/// Components, images and some days of logs and etcd, in bytes.
const DISK_BYTES_MIN: u64 = 4 << 30;
/// Certificates are valid from the moment they are made on another host; kubeadm dates them back by five minutes. A second is what
/// time synchronisation keeps without effort, five allow for the look itself taking a while.
const CLOCK_MS_MAX: i64 = 5_000;

/// The power of a machine, where Quorate makes it and its provider tells.
fn power(seen: &Observation, node: &NodeName) -> Option<Power> {
    let view = seen.infra.get(node)?.get().ok()?;
    Some(view.power)
}

/// Machines that somebody holds still.
pub(super) fn held(intent: &Intent, seen: &Observation) -> Vec<Refusal> {
    let machines = intent.spec.machines();
    machines
        .filter(|(node, ..)| power(seen, node) == Some(Power::Frozen))
        .map(|(node, ..)| Refusal::MachineHeld {
            node: node.clone(),
            state: "frozen".into(),
        })
        .collect()
}

/// Refusals about the hosts of the file, none of which a plan can mend.
pub(super) fn refusals(intent: &Intent, seen: &Observation) -> Vec<Refusal> {
    refusals_of(intent, seen, |_| true)
}

/// As [`refusals`], about some of the hosts.
pub(super) fn refusals_of(
    intent: &Intent,
    seen: &Observation,
    meant: impl Fn(&NodeName) -> bool,
) -> Vec<Refusal> {
    let mut found = Vec::new();
    for (node, _, role) in intent.spec.machines().filter(|(node, ..)| meant(node)) {
        match power(seen, node) {
            // It will be made or started by the plan's first stage, and looked at then. One that is held was refused already.
            Some(Power::Absent | Power::Off | Power::Frozen) => continue,
            Some(Power::Running) | None => {}
        }
        match host_refusals(intent, seen, node, role, &mut found) {
            Ok(()) => {}
            Err(missing) => found.push(missing.into()),
        }
    }
    clocks(intent, seen, &mut found);
    found.retain(|refusal| match refusal {
        Refusal::ClockDiffers { node, .. } => meant(node),
        _ => true,
    });
    found.retain(|refusal| !refusal.accepted(&intent.accepted));
    found
}

fn host_refusals(
    intent: &Intent,
    seen: &Observation,
    node: &NodeName,
    role: Role,
    found: &mut Vec<Refusal>,
) -> Result<(), Missing> {
    let facts = seen.host(node)?;
    if let Some(mark) = facts.mark.get()?
        && (mark.cluster != intent.spec.name || mark.node != *node)
    {
        found.push(Refusal::ForeignHost {
            node: node.clone(),
            mark: format!("cluster {} as {}", mark.cluster, mark.node),
            expected: format!("cluster {} as {node}", intent.spec.name),
        });
        return Ok(());
    }
    fitness(node, role, facts.machine.get()?, found);
    ports_in_use(intent, node, role, facts, found)?;
    // What somebody else installed there has its data where it has it.
    if !situation::foreign(seen, node) {
        found.extend(etcd_volume(node, facts)?);
    }
    if let (true, Some(marker)) = (role == Role::ControlPlane, &facts.etcd_data.get()?.marker)
        && !facts.etcd_data.get()?.wal
    {
        found.push(Refusal::DataLost {
            node: node.clone(),
            member: marker.member,
        });
    }
    if !intent.spec.hosts_file
        && let Some(sight) = facts.endpoint.get()?
        && sight.resolves.is_empty()
    {
        found.push(Refusal::EndpointUnresolved {
            node: node.clone(),
            name: intent.spec.endpoint.host.clone(),
        });
    }
    Ok(())
}

/// Why etcd's own disk of that host cannot be taken for it.
pub(super) fn etcd_volume(node: &NodeName, facts: &HostFacts) -> Result<Option<Refusal>, Missing> {
    let Some(volume) = facts.etcd_volume.get()? else {
        return Ok(None);
    };
    Ok(volume.obstacle().map(|seen| Refusal::EtcdVolume {
        node: node.clone(),
        device: volume.device.clone(),
        seen,
    }))
}

fn fitness(node: &NodeName, role: Role, machine: &Machine, found: &mut Vec<Refusal>) {
    let mut unfit = |expected: String, seen: String| {
        found.push(Refusal::UnfitHost {
            node: node.clone(),
            expected,
            seen,
        });
    };
    if machine.arch != "x86_64" {
        unfit("architecture x86_64".into(), machine.arch.clone());
    }
    if machine.systemd.is_none() {
        unfit("systemd as the first process".into(), "another init".into());
    }
    match role {
        Role::ControlPlane => {
            if machine.cpus < CPUS_MIN {
                unfit(
                    format!("at least {CPUS_MIN} processors"),
                    machine.cpus.to_string(),
                );
            }
            if machine.memory_bytes < MEMORY_BYTES_MIN {
                unfit(
                    "at least 1700 MB of memory".into(),
                    format!("{} MB", machine.memory_bytes / 1_000_000),
                );
            }
        }
        Role::Worker | Role::Balancer => {}
    }
    match role {
        Role::ControlPlane | Role::Worker => {
            if machine.disk_free_bytes < DISK_BYTES_MIN {
                unfit(
                    "at least 4 GiB free for /var/lib".into(),
                    format!("{} MiB", machine.disk_free_bytes >> 20),
                );
            }
        }
        Role::Balancer => {}
    }
}

fn ports_in_use(
    intent: &Intent,
    node: &NodeName,
    role: Role,
    facts: &HostFacts,
    found: &mut Vec<Refusal>,
) -> Result<(), Missing> {
    let listening = facts.listening.get()?;
    if role == Role::ControlPlane
        && intent.spec.shared_address().is_some()
        && facts.balancer.get()?.is_none()
        && let Some(process) = listening.get(&ports::BALANCER_ON_MASTER)
    {
        found.push(Refusal::PortInUse {
            node: node.clone(),
            port: ports::BALANCER_ON_MASTER,
            process: process.clone(),
        });
    }
    // Where our own components run, they are the ones that listen.
    let ours = match role {
        Role::Balancer => facts.balancer.get()?.is_some(),
        Role::ControlPlane | Role::Worker => {
            !facts.manifests.get()?.is_empty()
                || facts.kubeconfigs.get()?.contains_key("kubelet.conf")
        }
    };
    if ours {
        return Ok(());
    }
    let needed = match role {
        Role::ControlPlane | Role::Worker => ports::needed(role),
        Role::Balancer => vec![(intent.spec.endpoint.port, "quorate")],
    };
    // A join that was cut off leaves a kubelet that runs before it has its kubelet.conf.
    let own_kubelet = facts
        .units
        .get()?
        .get("kubelet")
        .is_some_and(Unit::kept_running);
    for (port, listener) in needed {
        if let Some(process) = listening.get(&port)
            && !(own_kubelet && listener == "kubelet" && process == "kubelet")
        {
            found.push(Refusal::PortInUse {
                node: node.clone(),
                port,
                process: process.clone(),
            });
        }
    }
    Ok(())
}

fn clocks(intent: &Intent, seen: &Observation, found: &mut Vec<Refusal>) {
    let mut clocks: Vec<(i64, &NodeName)> = Vec::new();
    for (node, ..) in intent.spec.machines() {
        if let Some(crate::Seen::Known { value, age }) = seen.hosts.get(node)
            && let Ok(machine) = value.machine.get()
        {
            clocks.push((machine.clock_ms as i64 + age.as_millis() as i64, node));
        }
    }
    clocks.sort_unstable();
    let Some((median, _)) = clocks.get(clocks.len() / 2).copied() else {
        return;
    };
    for (clock, node) in clocks {
        let by_ms = clock - median;
        if by_ms.abs() > CLOCK_MS_MAX {
            found.push(Refusal::ClockDiffers {
                node: node.clone(),
                by_ms,
                allowed_ms: CLOCK_MS_MAX,
            });
        }
    }
}
