//! Hosts of the cluster file: names, addresses, the way in, and what must be unique.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{
    EtcdDevice, Machine, Ssh, device,
    findings::Findings,
    network::{Net, unusable},
    raw::{self, At, Host, ProviderKind},
};
use crate::{
    NodeName,
    diagnostic::{Also, Code},
    quorum,
};

/// A group of hosts: how it is called, and the rule by which local hosts get names and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// In messages.
    key: &'static str,
    /// cp-1, cp-2, …
    prefix: &'static str,
    /// Last byte of the first one's address.
    first: u32,
    /// Fewest hosts of it.
    least: u64,
    /// How many there is room for.
    most: u64,
}

impl Group {
    pub(super) const MASTERS: Self = Self {
        key: "controlPlane",
        prefix: "cp",
        first: 11,
        // Their number has a message of its own.
        least: 0,
        most: 89,
    };
    pub(super) const WORKERS: Self = Self {
        key: "workers",
        prefix: "w",
        first: 101,
        least: 0,
        most: 99,
    };
    pub(super) const BALANCERS: Self = Self {
        key: "endpoint.balancer",
        prefix: "lb",
        first: 201,
        least: 1,
        most: 9,
    };
}

impl Group {
    /// The place, from 0, that `count` gives to a host of that name. `None`: it is called otherwise.
    fn number_of(self, name: &NodeName) -> Option<u32> {
        let number = name.as_str().strip_prefix(self.prefix)?.strip_prefix('-')?;
        let number: u32 = number.parse().ok()?;
        (u64::from(number) <= self.most).then(|| number.checked_sub(1))?
    }
}

/// A host whose name and address are known.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: NodeName,
    pub(super) name_span: Range<usize>,
    pub(super) address: Ipv4Addr,
    pub(super) address_span: Range<usize>,
    pub(super) group: Group,
    pub(super) machine: Machine,
}

/// How hosts are come by.
pub(super) struct Ways<'p> {
    pub(super) kind: Option<ProviderKind>,
    /// Of local hosts.
    pub(super) subnet: Option<Net>,
    pub(super) provider: &'p raw::Provider,
}

impl Ways<'_> {
    /// The hosts of a group. Those with something wrong about them were reported and are left out.
    pub(super) fn group(
        &self,
        findings: &mut Findings<'_>,
        group: Group,
        count: Option<&At<u64>>,
        hosts: Option<&At<Vec<Host>>>,
        span: &Range<usize>,
    ) -> Vec<Found> {
        match (count, hosts) {
            (Some(count), Some(hosts)) => {
                let found = findings.report(
                    Code::CountOrHosts,
                    hosts.span.clone(),
                    format!("{} has both `count` and `hosts`", group.key),
                );
                found.label = "the list".into();
                found.also.push(Also {
                    span: count.span.clone(),
                    label: "the count".into(),
                });
                Vec::new()
            }
            // A group that is missing altogether has no bytes of its own, and was reported as missing.
            (None, None) if span.is_empty() => Vec::new(),
            (None, None) => {
                findings
                    .report(
                        Code::CountOrHosts,
                        span.clone(),
                        format!("{} has neither `count` nor `hosts`", group.key),
                    )
                    .label = "how many, or which?".into();
                Vec::new()
            }
            (Some(count), None) => self.counted(findings, group, count),
            (None, Some(hosts)) => {
                if !(group.least..=group.most).contains(&(hosts.value.len() as u64)) {
                    out_of_range(findings, group, hosts.value.len() as u64, &hosts.span);
                }
                hosts
                    .value
                    .iter()
                    .zip(0..)
                    .filter_map(|(host, i)| self.listed(findings, group, host, i))
                    .collect()
            }
        }
    }

    fn counted(&self, findings: &mut Findings<'_>, group: Group, count: &At<u64>) -> Vec<Found> {
        if let Some(ProviderKind::Ssh | ProviderKind::Terraform) = self.kind {
            let found = findings.report(
                Code::CountNeedsLocal,
                count.span.clone(),
                "`count` makes hosts, and only provider `local` makes any",
            );
            found.label = "which ones?".into();
            found
                .help
                .push("list them: `hosts: [{ name: …, address: … }, …]`".into());
            return Vec::new();
        }
        if !(group.least..=group.most).contains(&count.value) {
            out_of_range(findings, group, count.value, &count.span);
            return Vec::new();
        }
        let Some(subnet) = self.subnet else {
            return Vec::new();
        };
        (0..)
            .zip(0..count.value)
            .map(|(i, _)| {
                let address = subnet.nth(group.first + i);
                Found {
                    name: format!("{}-{}", group.prefix, i + 1)
                        .parse()
                        .expect("a prefix and a number is a name"),
                    name_span: count.span.clone(),
                    address,
                    address_span: count.span.clone(),
                    group,
                    machine: Machine {
                        address: address.into(),
                        zone: None,
                        etcd_device: None,
                        ssh: local_ssh(),
                    },
                }
            })
            .collect()
    }

    fn listed(
        &self,
        findings: &mut Findings<'_>,
        group: Group,
        host: &Host,
        i: u32,
    ) -> Option<Found> {
        let name = host
            .name
            .as_ref()
            .and_then(|name| match name.value.parse() {
                Ok(parsed) => Some((parsed, name.span.clone())),
                Err(_) => {
                    bad_name(findings, name);
                    None
                }
            });
        let address = match &host.address {
            Some(written) => self
                .address(findings, written)
                .map(|address| (address, written.span.clone())),
            None => match (self.kind, self.subnet) {
                (Some(ProviderKind::Ssh | ProviderKind::Terraform), _) => {
                    let span = host.name.as_ref().map_or(&host.span, |name| &name.span);
                    findings
                        .report(
                            Code::MissingAddress,
                            span.clone(),
                            "a host that you have needs its address",
                        )
                        .label = "no `address` here".into();
                    None
                }
                // One that is called as `count` would call it has the address it would have by that: a name and its address stay
                // together when others come and go.
                (Some(ProviderKind::Local), Some(subnet)) => Some((
                    subnet.nth(
                        group.first
                            + name
                                .as_ref()
                                .and_then(|(name, _)| group.number_of(name))
                                .unwrap_or(i),
                    ),
                    name.as_ref()
                        .map_or(host.span.clone(), |(_, span)| span.clone()),
                )),
                (Some(ProviderKind::Local) | None, _) => None,
            },
        };
        let ssh = match self.kind? {
            ProviderKind::Local => {
                let keys = [
                    ("user", host.user.as_ref().map(|at| &at.span)),
                    ("port", host.port.as_ref().map(|at| &at.span)),
                    ("identity", host.identity.as_ref().map(|at| &at.span)),
                    ("sudo", host.sudo.as_ref().map(|at| &at.span)),
                ];
                for (key, span) in keys {
                    if let Some(span) = span {
                        no_meaning(
                            findings,
                            span.clone(),
                            key,
                            "local hosts are reached as root with a key made for them",
                        );
                    }
                }
                local_ssh()
            }
            ProviderKind::Ssh | ProviderKind::Terraform => self.ssh(host),
        };
        let etcd_device = self.etcd_device(findings, group, host);
        let ((name, name_span), (address, address_span)) = (name?, address?);
        Some(Found {
            name,
            name_span,
            address,
            address_span,
            group,
            machine: Machine {
                address: address.into(),
                zone: host.zone.as_ref().map(|at| at.value.clone()),
                etcd_device,
                ssh,
            },
        })
    }

    fn etcd_device(
        &self,
        findings: &mut Findings<'_>,
        group: Group,
        host: &Host,
    ) -> Option<EtcdDevice> {
        let Some(written) = &host.etcd_device else {
            return host.etcd_volume.clone();
        };
        let why = match self.kind {
            Some(ProviderKind::Local) => "local hosts have one disk",
            Some(ProviderKind::Ssh | ProviderKind::Terraform) | None if group != Group::MASTERS => {
                "etcd runs on masters alone"
            }
            Some(ProviderKind::Ssh | ProviderKind::Terraform) | None => {
                return device::device(findings, written);
            }
        };
        no_meaning(findings, written.span.clone(), "etcdDevice", why);
        None
    }

    fn address(&self, findings: &mut Findings<'_>, written: &At<String>) -> Option<Ipv4Addr> {
        let address = ipv4(findings, written)?;
        let Some(subnet) = self.subnet else {
            return Some(address);
        };
        if !subnet.contains(address) {
            findings
                .report(
                    Code::OutsideSubnet,
                    written.span.clone(),
                    format!("{address} is outside the local hosts' network"),
                )
                .label = format!("expected an address of {subnet}");
            return None;
        }
        let why = match subnet.offset(address) {
            0 => "the network's own",
            1 => "this machine's, on the bridge",
            255 => "the broadcast address",
            _ => return Some(address),
        };
        findings
            .report(
                Code::UnusableAddress,
                written.span.clone(),
                format!("no host can have {address}"),
            )
            .label = format!("it is {why}");
        None
    }

    fn ssh(&self, host: &Host) -> Ssh {
        let user = host
            .user
            .as_ref()
            .or(self.provider.user.as_ref())
            .map_or("root", |at| at.value.as_str());
        let either = |a: Option<&At<bool>>, b: Option<&At<bool>>| a.or(b).map(|at| at.value);
        Ssh {
            user: user.to_owned(),
            port: host
                .port
                .as_ref()
                .or(self.provider.port.as_ref())
                .map_or(22, |at| at.value),
            identity: host
                .identity
                .as_ref()
                .or(self.provider.identity.as_ref())
                .map(|at| at.value.clone()),
            sudo: either(host.sudo.as_ref(), self.provider.sudo.as_ref()).unwrap_or(user != "root"),
        }
    }
}

/// Local hosts are reached as root with a key made for them.
fn local_ssh() -> Ssh {
    Ssh {
        user: "root".into(),
        port: 22,
        identity: None,
        sudo: false,
    }
}

fn out_of_range(findings: &mut Findings<'_>, group: Group, seen: u64, span: &Range<usize>) {
    findings
        .report(
            Code::CountRange,
            span.clone(),
            format!("{} cannot have {seen} hosts", group.key),
        )
        .label = format!("expected {} to {}", group.least, group.most);
}

pub(super) fn bad_name(findings: &mut Findings<'_>, name: &At<String>) {
    let short: String = name.value.chars().take(60).collect();
    let found = findings.report(
        Code::BadName,
        name.span.clone(),
        format!("`{short}` is not a name"),
    );
    found.label = "expected 1 to 40 of a-z, 0-9 and `-`".into();
    let lower = name
        .value
        .to_ascii_lowercase()
        .replace(['_', '.', ' '], "-");
    if lower.parse::<NodeName>().is_ok() {
        found.help.push(format!("`{lower}` would be one"));
    }
}

pub(super) fn no_meaning(findings: &mut Findings<'_>, span: Range<usize>, key: &str, why: &str) {
    findings
        .report(
            Code::NoMeaning,
            span,
            format!("`{key}` has no meaning here"),
        )
        .label = why.to_owned();
}

/// An IPv4 address that a host can have.
pub(super) fn ipv4(findings: &mut Findings<'_>, written: &At<String>) -> Option<Ipv4Addr> {
    let raw = written.value.trim_start_matches('[').trim_end_matches(']');
    if raw.parse::<Ipv6Addr>().is_ok() {
        findings
            .report(Code::Ipv6, written.span.clone(), "IPv6 is not supported")
            .label = "expected an IPv4 address".into();
        return None;
    }
    let Ok(address) = written.value.parse::<Ipv4Addr>() else {
        let short: String = written.value.chars().take(60).collect();
        let found = findings.report(
            Code::NotAnAddress,
            written.span.clone(),
            format!("`{short}` is not an IP address"),
        );
        found.label = "expected an address such as 10.0.1.11".into();
        if written.value.contains('/') {
            found
                .help
                .push("write it without the network's bits".into());
        } else if written.value.contains(':') {
            found
                .help
                .push("the SSH port has a key of its own: `port`".into());
        }
        return None;
    };
    if let Some(why) = unusable(address) {
        findings
            .report(
                Code::UnusableAddress,
                written.span.clone(),
                format!("no host can have {address}"),
            )
            .label = format!("it is {why}");
        return None;
    }
    Some(address)
}

/// No two hosts have one name or one address.
pub(super) fn unique(findings: &mut Findings<'_>, everyone: &[&Found]) {
    let mut names: BTreeMap<&NodeName, &Found> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, &Found> = BTreeMap::new();
    for host in everyone {
        if let Some(first) = names.insert(&host.name, host) {
            let found = findings.report(
                Code::DuplicateName,
                host.name_span.clone(),
                format!("two hosts are called `{}`", host.name),
            );
            found.label = format!("in {}", host.group.key);
            if first.name_span != host.name_span {
                found.also.push(Also {
                    span: first.name_span.clone(),
                    label: format!("and in {}", first.group.key),
                });
            }
        }
        if let Some(first) = addresses.insert(host.machine.address, host) {
            let balances = |found: &Found| found.group == Group::BALANCERS;
            let shared = balances(first) != balances(host);
            let (code, message) = if shared {
                (
                    Code::BalancerOnMaster,
                    format!(
                        "the balancer `{}` and `{}` are one host",
                        first.name, host.name
                    ),
                )
            } else {
                (
                    Code::DuplicateAddress,
                    format!(
                        "`{}` and `{}` have one address, {}",
                        first.name, host.name, host.address
                    ),
                )
            };
            let found = findings.report(code, host.address_span.clone(), message);
            found.label = format!("`{}`", host.name);
            if shared {
                found
                    .notes
                    .push("kube-apiserver holds port 6443 on every address of its host".into());
            }
            if first.address_span != host.address_span {
                found.also.push(Also {
                    span: first.address_span.clone(),
                    label: format!("`{}`", first.name),
                });
            }
        }
    }
}

/// Whether the masters' zones give what their number promises.
pub(super) fn zones(findings: &mut Findings<'_>, masters: &[Found]) {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for master in masters {
        // Zones are judged only when every master has one.
        let Some(zone) = &master.machine.zone else {
            return;
        };
        *zones.entry(zone).or_default() += 1;
    }
    let Some((zone, most)) = zones
        .iter()
        .map(|(zone, n)| (*zone, *n))
        .max_by_key(|(_, n)| *n)
    else {
        return;
    };
    let span = masters[0].name_span.clone();
    if masters.len() > 1 && zones.len() == 1 {
        findings
            .report(
                Code::OneZone,
                span,
                format!("all {most} masters are in zone `{zone}`"),
            )
            .label = "spread them over three zones".into();
    } else if masters.len() > 1 && masters.len() - most < quorum::needed(masters.len()) {
        findings
            .report(
                Code::TwoZones,
                span,
                format!(
                    "{most} of {} masters are in zone `{zone}`: its loss stops the cluster",
                    masters.len()
                ),
            )
            .label = "spread them over three zones".into();
    }
}
