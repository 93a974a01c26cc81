//! Networks of the cluster file: form, size, and that none overlaps another or a host.

use std::ops::Range;

use super::{
    findings::Findings,
    hosts::Found,
    network::{Net, NetError, unusable},
    raw::{self, At},
};
use crate::diagnostic::{Also, Code};

/// The local hosts' network where the file names none: inside 10.0.0.0/8, away from what Docker, libvirt, Flannel and kubeadm take.
const SUBNET: &str = "10.177.64.0/24";
/// Flannel's and kubeadm's own examples use this one.
const PODS: &str = "10.244.0.0/16";
/// kubeadm's default.
const SERVICES: &str = "10.96.0.0/12";

/// A network and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) net: Net,
    /// What to mark: the value, or the group it would be in.
    pub(super) span: Range<usize>,
    /// Nobody wrote it.
    defaulted: bool,
}

/// The cluster's networks.
pub(super) struct Nets {
    pub(super) pods: Placed,
    pub(super) services: Placed,
}

fn read(
    findings: &mut Findings<'_>,
    key: Option<&At<String>>,
    default: &str,
    group: Range<usize>,
) -> Option<Placed> {
    let Some(At { value, span }) = key else {
        return Some(Placed {
            net: Net::parse(default).expect("the default is a network"),
            span: group,
            defaulted: true,
        });
    };
    let short: String = value.chars().take(60).collect();
    match Net::parse(value) {
        Ok(net) => {
            if let Some(why) = unusable(net.nth(0)) {
                findings
                    .report(
                        Code::UnusableAddress,
                        span.clone(),
                        format!("{net} cannot be used"),
                    )
                    .label = format!("it is {why}");
                return None;
            }
            Some(Placed {
                net,
                span: span.clone(),
                defaulted: false,
            })
        }
        Err(NetError::Ipv6) => {
            findings
                .report(Code::Ipv6, span.clone(), "IPv6 is not supported")
                .label = "expected an IPv4 network".into();
            None
        }
        Err(NetError::HostBits(net)) => {
            findings
                .report(
                    Code::HostBits,
                    span.clone(),
                    format!("`{short}` is an address inside a network"),
                )
                .label = format!("did you mean {net}?");
            None
        }
        Err(NetError::NotANetwork) => {
            findings
                .report(
                    Code::NotANetwork,
                    span.clone(),
                    format!("`{short}` is not a network"),
                )
                .label = format!("expected one such as {default}");
            None
        }
    }
}

/// The network of local hosts.
pub(super) fn subnet(
    findings: &mut Findings<'_>,
    key: Option<&At<String>>,
    group: Range<usize>,
) -> Option<Placed> {
    let subnet = read(findings, key, SUBNET, group)?;
    if subnet.net.bits() != 24 {
        findings
            .report(
                Code::SubnetSize,
                subnet.span.clone(),
                format!(
                    "the local hosts' network is a /24, this is a /{}",
                    subnet.net.bits()
                ),
            )
            .label = "expected 24 leading bits".into();
        return None;
    }
    Some(subnet)
}

/// Networks of pods and services, when neither overlaps another or holds a host.
pub(super) fn networks(
    findings: &mut Findings<'_>,
    network: &raw::Network,
    subnet: Option<&Placed>,
    everyone: &[&Found],
    file: &Range<usize>,
) -> Option<Nets> {
    let group = if network.span.is_empty() {
        file.clone()
    } else {
        network.span.clone()
    };
    let pods = read(findings, network.pods.as_ref(), PODS, group.clone());
    let services = read(findings, network.services.as_ref(), SERVICES, group);
    let known: Vec<(&str, &Placed)> = [
        ("hosts", subnet),
        ("services", services.as_ref()),
        ("pods", pods.as_ref()),
    ]
    .into_iter()
    .filter_map(|(name, net)| Some((name, net?)))
    .collect();
    for (i, (name, net)) in known.iter().enumerate() {
        for (other_name, other) in &known[..i] {
            if net.net.overlaps(other.net) {
                overlap(findings, (name, net), (other_name, other));
            }
        }
    }
    // Local hosts are inside their subnet, which was compared.
    if subnet.is_none() {
        for (name, net) in [("pods", &pods), ("services", &services)] {
            let Some(net) = net else { continue };
            for host in everyone
                .iter()
                .filter(|host| net.net.contains(host.address))
            {
                let found = findings.report(
                    Code::Overlap,
                    host.address_span.clone(),
                    format!("the address of `{}` is in the network of {name}", host.name),
                );
                found.label = format!("{name}: {}", net.net);
                if !net.defaulted {
                    found.also.push(Also {
                        span: net.span.clone(),
                        label: format!("the network of {name}"),
                    });
                }
            }
        }
    }
    let (pods, services) = (pods?, services?);
    if !(12..=28).contains(&services.net.bits()) {
        size(findings, "services", &services, "12 to 28");
    }
    if !(8..=24).contains(&pods.net.bits()) {
        size(findings, "pods", &pods, "8 to 24");
    }
    Some(Nets { pods, services })
}

fn size(findings: &mut Findings<'_>, name: &str, net: &Placed, expected: &str) {
    findings
        .report(
            Code::NetworkSize,
            net.span.clone(),
            format!(
                "the network of {name} has an unfit size: {} leading bits",
                net.net.bits()
            ),
        )
        .label = format!("expected {expected}");
}

fn overlap(findings: &mut Findings<'_>, a: (&str, &Placed), b: (&str, &Placed)) {
    // The one that somebody wrote is the one to change.
    let ((name, net), (other_name, other)) = if a.1.defaulted { (b, a) } else { (a, b) };
    let found = findings.report(
        Code::Overlap,
        net.span.clone(),
        format!(
            "the networks of {name} and {other_name} overlap: {} and {}",
            net.net, other.net
        ),
    );
    found.label = format!("{name}: {}", net.net);
    if other.defaulted {
        found
            .notes
            .push(format!("{} is the default for {other_name}", other.net));
    } else {
        found.also.push(Also {
            span: other.span.clone(),
            label: format!("{other_name}: {}", other.net),
        });
    }
}

/// Every node needs a /24 of the pods' network.
pub(super) fn room_for_nodes(findings: &mut Findings<'_>, nets: Option<&Nets>, nodes: usize) {
    let Some(Nets { pods, .. }) = nets else {
        return;
    };
    if !(8..=24).contains(&pods.net.bits()) {
        return;
    }
    let room = 1_usize << (24 - pods.net.bits());
    if room < nodes {
        findings
            .report(
                Code::NetworkSize,
                pods.span.clone(),
                format!(
                    "{} has room for {room} nodes, the file has {nodes}",
                    pods.net
                ),
            )
            .label = "every node gets a /24 of it".into();
    }
}
