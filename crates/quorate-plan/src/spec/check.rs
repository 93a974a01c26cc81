//! From the shape to the [`Spec`]: defaults, and everything that several keys have to agree on. One file per matter:
//! [`hosts`](super::hosts), [`nets`](super::nets), [`endpoint`](super::endpoint).

use std::collections::BTreeMap;

use super::{
    BringUp, Cni, NetworkSpec, Provider, Spec,
    endpoint::{self, Balancers},
    findings::Findings,
    hosts::{self, Found, Group},
    inventory::{self, Groups, Inventory},
    nets, packages,
    raw::{At, CniKey, File, Host, Key, ProviderKind},
};
use crate::{
    ClusterName,
    diagnostic::Code,
    spec::{Machine, raw},
};

/// Kubernetes where the file names no version.
const KUBERNETES: &str = "1.35.4";

/// Where a Terraform configuration is, unless the file says otherwise: beside the file.
const HERE: &str = ".";

/// Minor versions that were brought up with this version of quorate.
const MINORS: std::ops::RangeInclusive<u32> = 34..=36;

/// The cluster as it shall be. `None` when something of it is missing, which was reported.
pub(super) fn check(
    findings: &mut Findings<'_>,
    file: File,
    inventory: impl FnOnce(&str) -> Option<Inventory>,
) -> Option<Spec> {
    let provider_span = file
        .provider
        .as_ref()
        .map_or(file.span.clone(), |provider| provider.span.clone());
    let provider = file.provider.unwrap_or_default();
    let kind = provider.kind.as_ref().map(|kind| kind.value);
    keys_of_provider(findings, &provider, kind);
    let mut control_plane = file.control_plane.unwrap_or_default();
    let mut workers = file.workers;
    let mut endpoint = file.endpoint.unwrap_or_default();
    let directory = provider
        .directory
        .as_ref()
        .map_or(HERE, |at| at.value.as_str());
    match kind {
        Some(ProviderKind::Terraform) => {
            let place = provider
                .directory
                .as_ref()
                .map_or(provider_span.clone(), |at| at.span.clone());
            let groups = Groups {
                control_plane: &mut control_plane,
                workers: &mut workers,
                endpoint: &mut endpoint,
            };
            // Without its hosts the rest cannot be judged.
            let inventory = inventory(directory)?;
            inventory::fill(findings, inventory, file.name.as_ref(), &place, groups);
        }
        Some(ProviderKind::Local | ProviderKind::Ssh) | None => {}
    }
    let name = file
        .name
        .as_ref()
        .and_then(|name| cluster_name(findings, name));
    let kubernetes = kubernetes(findings, file.kubernetes.as_ref());

    let subnet = match kind {
        Some(ProviderKind::Local) => {
            nets::subnet(findings, provider.subnet.as_ref(), provider_span)
        }
        Some(ProviderKind::Ssh | ProviderKind::Terraform) | None => None,
    };
    let ways = hosts::Ways {
        kind,
        subnet: subnet.as_ref().map(|subnet| subnet.net),
        provider: &provider,
    };

    let bring_up = control_plane.bring_up.map(|at| at.value);
    let masters = ways.group(
        findings,
        Group::MASTERS,
        control_plane.count.as_ref(),
        control_plane.hosts.as_ref(),
        &control_plane.span,
    );
    let workers = workers.map_or_else(Vec::new, |group| {
        ways.group(
            findings,
            Group::WORKERS,
            group.count.as_ref(),
            group.hosts.as_ref(),
            &group.span,
        )
    });
    let voters = given(control_plane.count.as_ref(), control_plane.hosts.as_ref());
    if let Some(At {
        value: voters,
        span,
    }) = voters
    {
        voter_count(findings, voters, span);
    }

    let balancers = endpoint::balancers(findings, &ways, &endpoint, &file.span);
    let balancer_hosts = match &balancers {
        Some(Balancers::Quorate { hosts, .. }) => hosts.as_slice(),
        Some(Balancers::Shared(_) | Balancers::External | Balancers::Dns | Balancers::Nlb(_))
        | None => &[],
    };
    let everyone: Vec<&Found> = balancer_hosts
        .iter()
        .chain(&masters)
        .chain(&workers)
        .collect();
    hosts::unique(findings, &everyone);
    hosts::zones(findings, &masters);

    let network = file.network.unwrap_or_default();
    let nets = nets::networks(findings, &network, subnet.as_ref(), &everyone, &file.span);
    endpoint::is_free(findings, balancers.as_ref(), &everyone, nets.as_ref());
    nets::room_for_nodes(findings, nets.as_ref(), masters.len() + workers.len());
    let resolved = endpoint::endpoint(
        findings,
        &endpoint,
        kind,
        name.as_ref(),
        balancers.as_ref(),
        &masters,
        &file.span,
    );
    let cni = cni(network.cni);
    let packages = packages::packages(findings, file.components.as_ref(), kubernetes.as_deref());

    let (kind, nets, resolved, balancers) = (kind?, nets?, resolved?, balancers?);
    Some(Spec {
        name: name?,
        kubernetes: kubernetes?,
        endpoint: resolved.name,
        balancer: balancers.spec(),
        hosts_file: resolved.hosts_file,
        control_plane: machines(masters),
        bring_up: bring_up.unwrap_or(match kind {
            ProviderKind::Local => BringUp::Together,
            ProviderKind::Ssh | ProviderKind::Terraform => BringUp::OneByOne,
        }),
        workers: machines(workers),
        network: NetworkSpec {
            cni,
            pods: nets.pods.net.to_string(),
            services: nets.services.net.to_string(),
        },
        provider: match kind {
            ProviderKind::Local => Provider::Local {
                subnet: subnet?.net.to_string(),
            },
            ProviderKind::Ssh => Provider::Ssh,
            ProviderKind::Terraform => Provider::Terraform {
                directory: directory.to_owned(),
            },
        },
        bundle: file
            .components
            .and_then(|components| components.path)
            .map(|path| path.value),
        packages: packages?,
    })
}

pub(super) fn machines(found: Vec<Found>) -> BTreeMap<crate::NodeName, Machine> {
    found
        .into_iter()
        .map(|found| (found.name, found.machine))
        .collect()
}

/// How many hosts a group names, whatever is wrong with them.
fn given(count: Option<&At<u64>>, hosts: Option<&At<Vec<Host>>>) -> Key<u64> {
    match (count, hosts) {
        (Some(count), None) => Some(count.clone()),
        (None, Some(hosts)) => Some(At {
            value: hosts.value.len() as u64,
            span: hosts.span.clone(),
        }),
        // Reported where the group is read.
        (None, None) | (Some(_), Some(_)) => None,
    }
}

fn cluster_name(findings: &mut Findings<'_>, name: &At<String>) -> Option<ClusterName> {
    match name.value.parse() {
        Ok(parsed) => Some(parsed),
        Err(_) => {
            hosts::bad_name(findings, name);
            None
        }
    }
}

fn kubernetes(findings: &mut Findings<'_>, key: Option<&At<String>>) -> Option<String> {
    let Some(At { value, span }) = key else {
        return Some(KUBERNETES.to_owned());
    };
    let parts: Vec<&str> = value.split('.').collect();
    let number = |raw: &&str| {
        (raw.bytes().all(|b| b.is_ascii_digit()) && (raw.len() == 1 || !raw.starts_with('0')))
            .then(|| raw.parse::<u32>().ok())
            .flatten()
    };
    let numbers: Option<Vec<u32>> = parts.iter().map(number).collect();
    let supported = format!("1.{} to 1.{}", MINORS.start(), MINORS.end());
    match numbers.as_deref() {
        Some([1, minor, _]) if MINORS.contains(minor) => Some(value.clone()),
        Some([1, minor]) if MINORS.contains(minor) => {
            let found = findings.report(
                Code::InexactVersion,
                span.clone(),
                format!("`{value}` is not an exact version"),
            );
            found.label = "expected three numbers, as in 1.35.4".into();
            None
        }
        Some([_, _, _] | [_, _]) => {
            findings
                .report(
                    Code::UnsupportedVersion,
                    span.clone(),
                    format!("Kubernetes {value} is not supported"),
                )
                .label = format!("expected {supported}");
            None
        }
        _ => {
            let short: String = value.chars().take(60).collect();
            let found = findings.report(
                Code::InexactVersion,
                span.clone(),
                format!("`{short}` is not an exact version"),
            );
            found.label = "expected three numbers, as in 1.35.4".into();
            if value.starts_with('v') {
                found.help.push("write it without `v`".into());
            }
            None
        }
    }
}

/// Keys that belong to another provider.
fn keys_of_provider(
    findings: &mut Findings<'_>,
    provider: &raw::Provider,
    kind: Option<ProviderKind>,
) {
    let ssh_keys = [
        ("user", provider.user.as_ref().map(|at| &at.span)),
        ("port", provider.port.as_ref().map(|at| &at.span)),
        ("identity", provider.identity.as_ref().map(|at| &at.span)),
        ("sudo", provider.sudo.as_ref().map(|at| &at.span)),
    ];
    match kind {
        Some(ProviderKind::Local) => {
            for (key, span) in ssh_keys {
                if let Some(span) = span {
                    hosts::no_meaning(
                        findings,
                        span.clone(),
                        key,
                        "local hosts are reached as root with a key made for them",
                    );
                }
            }
        }
        Some(ProviderKind::Ssh | ProviderKind::Terraform) => {
            if let Some(subnet) = &provider.subnet {
                hosts::no_meaning(
                    findings,
                    subnet.span.clone(),
                    "subnet",
                    "only local hosts get a network from quorate",
                );
            }
        }
        None => {}
    }
    match (kind, &provider.directory) {
        (Some(ProviderKind::Local | ProviderKind::Ssh), Some(directory)) => hosts::no_meaning(
            findings,
            directory.span.clone(),
            "directory",
            "only hosts that Terraform made are read from a configuration",
        ),
        (Some(ProviderKind::Terraform) | None, _) | (_, None) => {}
    }
}

/// What a number of voters survives, and whether quorate builds it.
fn voter_count(findings: &mut Findings<'_>, voters: u64, span: raw::Span) {
    let (message, label) = match voters {
        1 => {
            findings
                .report(
                    Code::OneMaster,
                    span,
                    "one master survives the loss of none",
                )
                .label = "3 survive the loss of one".into();
            return;
        }
        3 | 5 | 7 => return,
        0 => (
            "a cluster needs masters".to_owned(),
            "expected 1, 3, 5 or 7".to_owned(),
        ),
        2 => (
            "2 masters survive the loss of none, and either of them can fail".to_owned(),
            "expected 1 or 3".to_owned(),
        ),
        n if n > 7 => (
            format!("{n} masters are more than 7"),
            "expected 1, 3, 5 or 7".to_owned(),
        ),
        n => {
            let survive = n.saturating_sub(n / 2 + 1);
            (
                format!("{n} masters survive the loss of {survive}, as {} do", n - 1),
                format!("expected {} or {}", n - 1, n + 1),
            )
        }
    };
    findings.report(Code::VoterCount, span, message).label = label;
}

/// The plugin. A manifest's text is read by whoever may read files.
fn cni(key: Key<CniKey>) -> Cni {
    match key.map(|at| at.value) {
        None | Some(CniKey::Flannel) => Cni::Flannel,
        Some(CniKey::None) => Cni::None,
        Some(CniKey::Manifest(file)) => Cni::Manifest {
            file,
            text: String::new(),
        },
    }
}
