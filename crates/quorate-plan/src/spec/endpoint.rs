//! The endpoint of the cluster file: its name, and what stands behind it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{
    BalancerSpec, TargetGroup,
    check::machines,
    findings::Findings,
    hosts::{self, Found, Group, Ways},
    nets::Nets,
    raw::{self, At, BalancerKind, BalancerOn, HostsFile, ProviderKind},
};
use crate::{ClusterName, diagnostic::Code, observation::EndpointName};

/// kube-apiserver's own port, and the one people expect.
const PORT: u16 = 6443;

/// Where the address that local masters share lies in their network, unless the file says otherwise: behind those of nine balancers.
const SHARED: u32 = 210;

/// What stands behind the endpoint.
pub(super) enum Balancers {
    Quorate { hosts: Vec<Found> },
    Shared(Shared),
    External,
    Dns,
    Nlb(TargetGroup),
}

/// The address that the masters share.
pub(super) struct Shared {
    pub(super) address: Ipv4Addr,
    /// What to mark: the value, or the group it would be in.
    pub(super) span: Range<usize>,
}

impl Balancers {
    pub(super) fn spec(self) -> BalancerSpec {
        match self {
            Self::Quorate { hosts } => BalancerSpec::Quorate {
                hosts: machines(hosts),
            },
            Self::Shared(shared) => BalancerSpec::Shared {
                address: shared.address.into(),
            },
            Self::External => BalancerSpec::External,
            Self::Dns => BalancerSpec::Dns,
            Self::Nlb(group) => BalancerSpec::Nlb {
                target_group: group.arn,
                // A name that is none is reported where the masters are read.
                instances: group
                    .instances
                    .into_iter()
                    .filter_map(|(name, instance)| Some((name.parse().ok()?, instance)))
                    .collect(),
            },
        }
    }
}

/// The endpoint with its defaults.
pub(super) struct Resolved {
    pub(super) name: EndpointName,
    pub(super) hosts_file: bool,
}

/// The balancers. `None`: nobody can say, which was reported.
pub(super) fn balancers(
    findings: &mut Findings<'_>,
    ways: &Ways<'_>,
    endpoint: &raw::Endpoint,
    file: &Range<usize>,
) -> Option<Balancers> {
    let missing = raw::Balancer::default();
    let written = endpoint.balancer.as_ref();
    let balancer = written.unwrap_or(&missing);
    let kind = balancer
        .kind
        .as_ref()
        .map_or(BalancerKind::Quorate, |at| at.value);
    let span = [&balancer.span, &endpoint.span, file]
        .into_iter()
        .find(|span| !span.is_empty())
        .cloned()
        .unwrap_or_default();
    match kind {
        BalancerKind::External | BalancerKind::Nlb | BalancerKind::Dns => {
            let keys = [
                ("on", balancer.on.as_ref().map(|at| &at.span)),
                ("count", balancer.count.as_ref().map(|at| &at.span)),
                ("hosts", balancer.hosts.as_ref().map(|at| &at.span)),
                ("address", balancer.address.as_ref().map(|at| &at.span)),
            ];
            for (key, span) in keys {
                if let Some(span) = span {
                    let why = match kind {
                        BalancerKind::Nlb => "quorate installs nothing for a balancer at AWS",
                        BalancerKind::Dns => "with `dns` there is no balancer",
                        BalancerKind::External | BalancerKind::Quorate => {
                            "quorate installs nothing for an external balancer"
                        }
                    };
                    hosts::no_meaning(findings, span.clone(), key, why);
                }
            }
            match (kind, &balancer.target_group) {
                (BalancerKind::External | BalancerKind::Quorate, _) => Some(Balancers::External),
                (BalancerKind::Dns, _) => {
                    findings
                        .report(
                            Code::DnsOnly,
                            span,
                            "nothing stands between the API's clients and the masters",
                        )
                        .label = "each client finds another master by itself, or does not".into();
                    Some(Balancers::Dns)
                }
                (BalancerKind::Nlb, Some(group)) => Some(Balancers::Nlb(group.clone())),
                (BalancerKind::Nlb, None) => {
                    // Terraform could not be asked: that is said elsewhere.
                    if ways.kind? != ProviderKind::Terraform {
                        let found = findings.report(
                            Code::UnknownValue,
                            span,
                            "`nlb` is the balancer that Terraform made, and nothing is made by it here",
                        );
                        found.label = "needs `provider: { kind: terraform }`".into();
                        found
                            .help
                            .push("or say that it is yours: `balancer: { kind: external }`".into());
                    }
                    None
                }
            }
        }
        BalancerKind::Quorate
            if balancer.on.as_ref().map(|at| at.value) == Some(BalancerOn::Masters) =>
        {
            shared(findings, ways, balancer, span).map(Balancers::Shared)
        }
        BalancerKind::Quorate => {
            if let Some(address) = &balancer.address {
                let why = "only masters that balance themselves share one: `on: masters`";
                hosts::no_meaning(findings, address.span.clone(), "address", why);
            }
            let default = At {
                value: 1,
                span: span.clone(),
            };
            let given = balancer.count.is_some() || balancer.hosts.is_some();
            let count = match ways.kind? {
                _ if given => balancer.count.as_ref(),
                ProviderKind::Local => Some(&default),
                ProviderKind::Ssh | ProviderKind::Terraform => {
                    let found = findings.report(
                        Code::MissingKey,
                        span,
                        "quorate's balancer needs hosts of its own",
                    );
                    found.label = "no balancer hosts here".into();
                    found.help.extend([
                        "list them: `balancer: { hosts: [{ name: lb-1, address: … }] }`".to_owned(),
                        "or say that you have one: `balancer: { kind: external }`".to_owned(),
                    ]);
                    return None;
                }
            };
            let hosts = ways.group(
                findings,
                Group::BALANCERS,
                count,
                balancer.hosts.as_ref(),
                &span,
            );
            if hosts.len() == 1 {
                findings
                    .report(
                        Code::OneBalancer,
                        span,
                        "there is one balancer: its loss is the loss of the endpoint",
                    )
                    .label = "two would survive it".into();
            }
            Some(Balancers::Quorate { hosts })
        }
    }
}

/// The address that the masters share, in front of the balancers that they run themselves.
fn shared(
    findings: &mut Findings<'_>,
    ways: &Ways<'_>,
    balancer: &raw::Balancer,
    span: Range<usize>,
) -> Option<Shared> {
    let keys = [
        ("count", balancer.count.as_ref().map(|at| &at.span)),
        ("hosts", balancer.hosts.as_ref().map(|at| &at.span)),
    ];
    for (key, span) in keys {
        if let Some(span) = span {
            hosts::no_meaning(findings, span.clone(), key, "the balancers are the masters");
        }
    }
    let kind = ways.kind?;
    if kind == ProviderKind::Terraform {
        let on = balancer.on.as_ref().map_or(span, |at| at.span.clone());
        findings
            .report(
                Code::NothingToShare,
                on,
                "an address cannot move from master to master in a cloud's network",
            )
            .label = "leave the balancer to Terraform".into();
        return None;
    }
    let Some(written) = &balancer.address else {
        if let (ProviderKind::Local, Some(subnet)) = (kind, ways.subnet) {
            let address = subnet.nth(SHARED);
            return Some(Shared { address, span });
        }
        let found = findings.report(
            Code::MissingKey,
            span,
            "masters that balance themselves need an address to share",
        );
        found.label = "`address` belongs here".into();
        found
            .help
            .push("a free one in the network of the masters: `address: 10.0.0.9`".into());
        return None;
    };
    let address = hosts::ipv4(findings, written)?;
    if let Some(subnet) = ways.subnet.filter(|subnet| !subnet.contains(address)) {
        findings
            .report(
                Code::OutsideSubnet,
                written.span.clone(),
                format!("{address} is outside {subnet}"),
            )
            .label = "local hosts are in that network".into();
        return None;
    }
    Some(Shared {
        address,
        span: written.span.clone(),
    })
}

/// Whether the address that masters share is free for it.
pub(super) fn is_free(
    findings: &mut Findings<'_>,
    balancers: Option<&Balancers>,
    everyone: &[&Found],
    nets: Option<&Nets>,
) {
    let Some(Balancers::Shared(shared)) = balancers else {
        return;
    };
    let address = shared.address;
    if let Some(host) = everyone.iter().find(|host| host.address == address) {
        findings
            .report(
                Code::SharedAddress,
                shared.span.clone(),
                format!("the shared address is that of `{}`", host.name),
            )
            .label = format!("{address}: expected a free one");
    }
    let nets = nets.map(|nets| [("pods", &nets.pods), ("services", &nets.services)]);
    for (name, placed) in nets.into_iter().flatten() {
        if placed.net.contains(address) {
            findings
                .report(
                    Code::Overlap,
                    shared.span.clone(),
                    format!("the shared address is in the network of {name}"),
                )
                .label = format!("{name}: {}", placed.net);
        }
    }
}

/// The endpoint's name and who makes it resolve.
pub(super) fn endpoint(
    findings: &mut Findings<'_>,
    endpoint: &raw::Endpoint,
    kind: Option<ProviderKind>,
    cluster: Option<&ClusterName>,
    balancers: Option<&Balancers>,
    masters: &[Found],
    file: &Range<usize>,
) -> Option<Resolved> {
    let behind: &[Found] = match balancers {
        Some(Balancers::Quorate { hosts }) => hosts,
        // SSH is at the masters' own addresses, the endpoint at the one that they share.
        Some(Balancers::Shared(_) | Balancers::External | Balancers::Dns | Balancers::Nlb(_))
        | None => &[],
    };
    let port = endpoint.port.as_ref().map_or(PORT, |at| at.value);
    if let Some(taken) = behind.iter().find(|host| host.machine.ssh.port == port) {
        let span = endpoint
            .port
            .as_ref()
            .map_or(endpoint.span.clone(), |at| at.span.clone());
        findings
            .report(
                Code::PortTaken,
                span,
                format!("port {port} of `{}` is taken by SSH", taken.name),
            )
            .label = "expected another, such as 6443".into();
    }
    let host = match (&endpoint.host, kind?) {
        (Some(host), _) => host_of(findings, host)?,
        // What is wrong with it was reported where it was read.
        (None, _) if endpoint.host_written => return None,
        (None, ProviderKind::Local) => format!("api.{}.internal", cluster?),
        (None, ProviderKind::Ssh | ProviderKind::Terraform) => {
            let span = if endpoint.span.is_empty() {
                file
            } else {
                &endpoint.span
            };
            let found = findings.report(Code::MissingKey, span.clone(), "endpoint has no `host`");
            found.label = "`endpoint.host` belongs here".into();
            found.help.push(
                "give a DNS name that you own: it stays for as long as the cluster lives".into(),
            );
            return None;
        }
    };
    let address: Option<Ipv4Addr> = host.parse().ok();
    if let Some(written) = &endpoint.host {
        judge(findings, written, address, balancers, masters);
    }
    if let Some(Balancers::Dns) = balancers {
        led_by_records_alone(findings, endpoint, address, port);
    }

    let managed = endpoint.hosts_file.as_ref().map(|at| at.value);
    if let Some(at) = &endpoint.hosts_file
        && at.value == HostsFile::Managed
    {
        match (address, balancers) {
            (Some(_), _) => {
                findings
                    .report(
                        Code::HostsFileUnused,
                        at.span.clone(),
                        "the endpoint is an address: there is no name to write",
                    )
                    .label = "does nothing here".into();
            }
            (None, Some(Balancers::Dns)) => {
                findings
                    .report(
                        Code::NothingToWrite,
                        at.span.clone(),
                        "the name's records are in DNS, which quorate does not change",
                    )
                    .label = "nothing to write into /etc/hosts".into();
            }
            (None, Some(Balancers::External | Balancers::Nlb(_))) => {
                findings
                    .report(
                        Code::NothingToWrite,
                        at.span.clone(),
                        "quorate does not know the address of an external balancer",
                    )
                    .label = "nothing to write into /etc/hosts".into();
            }
            (None, Some(Balancers::Quorate { .. } | Balancers::Shared(_)) | None) => {}
        }
    }
    let hosts_file = address.is_none()
        && match managed {
            Some(HostsFile::Managed) => true,
            Some(HostsFile::Unmanaged) => false,
            None => {
                kind == Some(ProviderKind::Local)
                    && matches!(
                        balancers,
                        Some(Balancers::Quorate { .. } | Balancers::Shared(_))
                    )
            }
        };
    Some(Resolved {
        name: EndpointName { host, port },
        hosts_file,
    })
}

/// Where nothing stands in between, clients come to the masters' own port by a name with several addresses.
fn led_by_records_alone(
    findings: &mut Findings<'_>,
    endpoint: &raw::Endpoint,
    address: Option<Ipv4Addr>,
    port: u16,
) {
    if let (Some(address), Some(written)) = (address, &endpoint.host) {
        findings
            .report(
                Code::RecordsNeedAName,
                written.span.clone(),
                format!("`dns` is a name with a record for every master, and {address} is no name"),
            )
            .label = "expected a name such as api.example.org".into();
    }
    if let (true, Some(written)) = (port != PORT, &endpoint.port) {
        findings
            .report(
                Code::RecordsNeedAName,
                written.span.clone(),
                format!(
                    "with `dns` clients come to the apiservers themselves, which listen on {PORT}"
                ),
            )
            .label = format!("expected {PORT}");
    }
}

/// A DNS name or an IPv4 address.
fn host_of(findings: &mut Findings<'_>, written: &At<String>) -> Option<String> {
    let raw = written.value.as_str();
    if let Ok(address) = raw.parse::<Ipv4Addr>() {
        return hosts::ipv4(findings, written).map(|_| address.to_string());
    }
    if raw.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok() {
        findings
            .report(Code::Ipv6, written.span.clone(), "IPv6 is not supported")
            .label = "expected a DNS name or an IPv4 address".into();
        return None;
    }
    if dns_name(raw) && raw != "localhost" {
        return Some(raw.to_owned());
    }
    let short: String = raw.chars().take(80).collect();
    let found = findings.report(
        Code::BadEndpoint,
        written.span.clone(),
        format!("`{short}` is neither a DNS name nor an IPv4 address"),
    );
    found.label = "expected a name such as api.example.org".into();
    if raw == "localhost" {
        found
            .notes
            .push("`localhost` is another machine on every host".into());
    } else if raw.contains("://") {
        found.help.push("write it without the scheme".into());
    } else if let Some((host, port)) = raw.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        found.help.push(format!(
            "the port has a key of its own: `{{ host: {host}, port: {port} }}`"
        ));
    } else if dns_name(&raw.to_ascii_lowercase()) {
        found.help.push("write it in small letters".into());
    } else if raw.starts_with("*.") {
        found
            .notes
            .push("a wildcard is not a name that can be resolved".into());
    }
    None
}

/// Parts of letters, digits and `-`, in small letters as kubeadm wants them; the last one is not a number.
fn dns_name(raw: &str) -> bool {
    let part = |part: &str| {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        (1..=63).contains(&bytes.len())
            && edge(bytes[0])
            && edge(bytes[bytes.len() - 1])
            && bytes.iter().all(|&b| edge(b) || b == b'-')
    };
    raw.len() <= 253
        && raw.split('.').all(part)
        && raw
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a well-formed endpoint leads to what it should.
fn judge(
    findings: &mut Findings<'_>,
    written: &At<String>,
    address: Option<Ipv4Addr>,
    balancers: Option<&Balancers>,
    masters: &[Found],
) {
    let span = || written.span.clone();
    let master = masters.iter().find(|master| match address {
        Some(address) => master.address == address,
        None => master.name.as_str() == written.value,
    });
    if let Some(master) = master {
        let found = findings.report(
            Code::EndpointIsMaster,
            span(),
            format!("the endpoint is one master, `{}`", master.name),
        );
        found.label = "its loss would be the loss of the API".into();
        found
            .help
            .push("use a DNS name that you own, or a balancer's address".into());
        return;
    }
    if let (Some(address), Some(Balancers::Quorate { hosts })) = (address, balancers)
        && !hosts.is_empty()
        && !hosts.iter().any(|host| host.address == address)
    {
        let first = &hosts[0];
        findings
            .report(
                Code::EndpointElsewhere,
                span(),
                format!("no balancer has the address {address}"),
            )
            .label = format!("`{}` has {}", first.name, first.address);
    }
    if let (Some(address), Some(Balancers::Shared(shared))) = (address, balancers)
        && shared.address != address
    {
        findings
            .report(
                Code::EndpointElsewhere,
                span(),
                format!("the masters do not share the address {address}"),
            )
            .label = format!("they share {}", shared.address);
    }
    let name = written.value.trim_end_matches(".cn");
    if name.ends_with(".amazonaws.com") && name.contains(".elb.") {
        let found = findings.report(
            Code::LoadBalancerName,
            span(),
            "the endpoint is a cloud load balancer's own name",
        );
        found.label = "it goes away with that load balancer".into();
        found
            .help
            .push("use a name in a zone you own, as an alias of this one".into());
        found.notes.push(
            "an ALB cannot stand here: it ends TLS; it must be a Network Load Balancer".into(),
        );
    }
}
