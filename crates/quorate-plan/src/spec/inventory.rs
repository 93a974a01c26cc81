//! Hosts that Terraform made, as whoever ran it tells. Start at [`fill`], which puts them where a file would list them.

use std::{collections::BTreeMap, ops::Range};

use super::{
    EtcdDevice,
    findings::Findings,
    hosts::no_meaning,
    raw::{At, Balancer, BalancerKind, ControlPlane, Endpoint, Host, Key, Workers},
};
use crate::diagnostic::Code;

/// What Terraform says of a cluster. Texts are checked like those of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The cluster's name.
    pub name: String,
    /// Name of the endpoint.
    pub host: String,
    /// Port of the endpoint.
    pub port: u16,
    /// Masters that shall be there; one that is about to leave is not among them.
    pub masters: Vec<Listed>,
    /// Workers.
    pub workers: Vec<Listed>,
    /// Where masters are registered as targets.
    pub target_group: TargetGroup,
}

/// The group that masters are registered in at a Network Load Balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: String,
    /// Instances by the name of the master, of those too that are about to leave.
    pub instances: BTreeMap<String, String>,
}

/// A host that Terraform made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its failure zone.
    pub zone: Option<String>,
    /// The block device that is there for etcd.
    pub etcd_device: Option<EtcdDevice>,
}

/// The groups of a file that Terraform fills.
pub(super) struct Groups<'f> {
    pub(super) control_plane: &'f mut ControlPlane,
    pub(super) workers: &'f mut Option<Workers>,
    pub(super) endpoint: &'f mut Endpoint,
}

/// Puts the hosts and the endpoint into the groups, all of them marked at `place`, where the file leads to them.
pub(super) fn fill(
    findings: &mut Findings<'_>,
    inventory: Inventory,
    name: Option<&At<String>>,
    place: &Range<usize>,
    groups: Groups<'_>,
) {
    let Groups {
        control_plane,
        workers,
        endpoint,
    } = groups;
    if let Some(name) = name
        && name.value != inventory.name
    {
        let other: String = inventory.name.chars().take(60).collect();
        let found = findings.report(
            Code::OtherCluster,
            name.span.clone(),
            format!("Terraform made the cluster `{other}`"),
        );
        found.label = "expected the same name".into();
    }
    let why = "Terraform says which hosts there are";
    let at = |value: String| {
        Some(At {
            value,
            span: place.clone(),
        })
    };
    let list = |hosts: Vec<Listed>| {
        let hosts = hosts.into_iter().map(|listed| Host {
            name: at(listed.name),
            address: at(listed.address),
            zone: listed.zone.and_then(at),
            etcd_volume: listed.etcd_device,
            span: place.clone(),
            ..Host::default()
        });
        Some(At {
            value: hosts.collect(),
            span: place.clone(),
        })
    };
    without(findings, &mut control_plane.count, "count", why);
    without(findings, &mut control_plane.hosts, "hosts", why);
    control_plane.hosts = list(inventory.masters);
    control_plane.span = place.clone();
    let workers = workers.get_or_insert_default();
    without(findings, &mut workers.count, "count", why);
    without(findings, &mut workers.hosts, "hosts", why);
    workers.hosts = list(inventory.workers);
    workers.span = place.clone();

    let why = "Terraform says what the endpoint is";
    without(findings, &mut endpoint.host, "host", why);
    without(findings, &mut endpoint.port, "port", why);
    endpoint.host = at(inventory.host);
    endpoint.host_written = true;
    endpoint.port = Some(At {
        value: inventory.port,
        span: place.clone(),
    });
    if endpoint.span.is_empty() {
        endpoint.span = place.clone();
    }
    let balancer = endpoint.balancer.get_or_insert_with(|| Balancer {
        span: place.clone(),
        ..Balancer::default()
    });
    // Terraform's balancer is there; its targets are quorate's, unless the file says that they are somebody else's.
    balancer.kind.get_or_insert(At {
        value: BalancerKind::Nlb,
        span: place.clone(),
    });
    balancer.target_group = Some(inventory.target_group);
}

fn without<T>(findings: &mut Findings<'_>, key: &mut Key<T>, name: &str, why: &str) {
    if let Some(written) = key.take() {
        no_meaning(findings, written.span, name, why);
    }
}
