//! The port matrix: who may open a connection to whom, on which port, and why. What it does not name is closed.
//!
//! Start at [`OPENINGS`]. The rules of the Terraform modules (`ports.json`), the page `docs/reference/ports.md` and what preflight looks for on a
//! host are made from it.

use std::fmt;

use crate::spec::Role;

/// Where the balancer on a master listens: kube-apiserver holds its own port on every address of the host.
pub const BALANCER_ON_MASTER: u16 = 7443;

/// Somebody who opens a connection, or to whom one is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// The balancer behind the endpoint's name.
    Balancer,
    /// Control plane hosts.
    Master,
    /// Workers.
    Worker,
    /// Masters and workers.
    Node,
    /// Those outside whom the operator lets use the API.
    ApiClients,
    /// Those outside whom the operator lets in by SSH.
    Operators,
    /// Those outside whom the operator lets use services of type NodePort.
    NodePortClients,
    /// Everybody.
    Anywhere,
}

impl Party {
    /// As the Terraform modules call it: `api_clients`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Master => "master",
            Self::Worker => "worker",
            Self::Node => "node",
            Self::ApiClients => "api_clients",
            Self::Operators => "operators",
            Self::NodePortClients => "node_port_clients",
            Self::Anywhere => "anywhere",
        }
    }

    /// Whether a machine of that role is one.
    pub fn includes(self, role: Role) -> bool {
        match self {
            Self::Balancer => role == Role::Balancer,
            Self::Master => role == Role::ControlPlane,
            Self::Worker => role == Role::Worker,
            Self::Node => role == Role::ControlPlane || role == Role::Worker,
            Self::ApiClients | Self::Operators | Self::NodePortClients | Self::Anywhere => false,
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// IP's protocol 112, which has no ports: they are 0 here.
    Vrrp,
}

impl Protocol {
    /// `tcp`, `udp` or `vrrp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Vrrp => "vrrp",
        }
    }
}

/// What a row holds only with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// A balancer that faces the internet.
    Public,
    /// metrics-server.
    MetricsServer,
    /// Flannel's VXLAN.
    Vxlan,
    /// A pod network that speaks BGP.
    Bgp,
    /// A pod network inside WireGuard.
    Wireguard,
    /// Package mirrors without TLS.
    HttpPackages,
    /// Masters that balance themselves behind an address that they share.
    SharedAddress,
}

impl Feature {
    /// As the Terraform modules call it: `metrics_server`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::MetricsServer => "metrics_server",
            Self::Vxlan => "vxlan",
            Self::Bgp => "bgp",
            Self::Wireguard => "wireguard",
            Self::HttpPackages => "http_packages",
            Self::SharedAddress => "shared_address",
        }
    }
}

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its name, unique; Terraform's rules are called by it.
    pub name: &'static str,
    /// Who may open a connection.
    pub from: &'static [Party],
    /// To whom.
    pub to: Party,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port, the same for a single one.
    pub last: u16,
    /// What it holds only with. `None`: always.
    pub when: Option<Feature>,
    /// The process of the cluster that listens there, and cannot do without that port. `None`: the kernel, or what is no part of a cluster.
    pub listener: Option<&'static str>,
    /// Why.
    pub why: &'static str,
}

/// A port that is open to nobody: what listens there does so on the loopback address, or is meant to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loopback {
    /// Its name, unique.
    pub name: &'static str,
    /// Who listens.
    pub on: Party,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// As in [`Opening`]. kube-proxy goes on without its two.
    pub listener: Option<&'static str>,
}

macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

// A table with a row in a line, which keeps it readable as one.
macro_rules! openings {
    ($($name:literal: $($from:ident),+ => $to:ident, $protocol:ident $first:literal..=$last:literal $(, with $when:ident)? $(, by $listener:literal)?, $why:literal;)+) => {
        /// Who may open connections.
        pub const OPENINGS: &[Opening] = &[$(Opening {
            name: $name,
            from: &[$(Party::$from),+],
            to: Party::$to,
            protocol: Protocol::$protocol,
            first: $first,
            last: $last,
            when: optional!($(Feature::$when)?),
            listener: optional!($($listener)?),
            why: $why,
        },)+];
    };
}

macro_rules! loopback {
    ($($name:literal: $on:ident, $protocol:ident $port:literal $(, by $listener:literal)?;)+) => {
        /// Ports that are open to nobody.
        pub const LOOPBACK: &[Loopback] = &[$(Loopback {
            name: $name,
            on: Party::$on,
            protocol: Protocol::$protocol,
            port: $port,
            listener: optional!($($listener)?),
        },)+];
    };
}

openings! {
    "endpoint": Node, ApiClients => Balancer, Tcp 6443..=6443, "the API, at the name that everybody uses";
    "endpoint-outside": Node => Anywhere, Tcp 6443..=6443, with Public, "an internet-facing balancer is reached at its public addresses, from inside too";
    "shared-address": Node, ApiClients => Master, Tcp 6443..=6443, with SharedAddress, "the API, at the address that the masters share; the master that holds it redirects to 7443";
    "shared-address-balancer": Node, ApiClients => Master, Tcp 7443..=7443, with SharedAddress, "where the balancer on a master listens, as a packet filter of that master sees it";
    "vrrp": Master => Master, Vrrp 0..=0, with SharedAddress, "keepalived: whoever holds the shared address tells the other masters";
    "apiserver-balanced": Balancer => Master, Tcp 6443..=6443, by "kube-apiserver", "traffic and health checks of the balancer";
    "apiserver": Node => Master, Tcp 6443..=6443, by "kube-apiserver", "pods and hosts that use the service `kubernetes`, whose endpoints are the masters; masters look at each other's API servers";
    "etcd-client": Master => Master, Tcp 2379..=2379, by "etcd", "masters look at each other's etcd members";
    "etcd-peer": Master => Master, Tcp 2380..=2380, by "etcd", "etcd among its members";
    "kubelet": Master => Node, Tcp 10250..=10250, by "kubelet", "API server to kubelet: logs, exec, metrics";
    "kubelet-metrics": Worker => Node, Tcp 10250..=10250, with MetricsServer, by "kubelet", "metrics-server, wherever it runs";
    "vxlan": Node => Node, Udp 8472..=8472, with Vxlan, "Flannel; unauthenticated: who can send here can inject pod traffic";
    "bgp": Node => Node, Tcp 179..=179, with Bgp, "a pod network that speaks BGP";
    "wireguard": Node => Node, Udp 51820..=51820, with Wireguard, "a pod network inside WireGuard";
    "ssh": Operators => Node, Tcp 22..=22, "operators";
    "node-ports-tcp": NodePortClients => Worker, Tcp 30000..=32767, "services of type NodePort";
    "node-ports-udp": NodePortClients => Worker, Udp 30000..=32767, "services of type NodePort";
    "out-https": Node => Anywhere, Tcp 443..=443, "registries, packages";
    "out-http": Node => Anywhere, Tcp 80..=80, with HttpPackages, "package mirrors without TLS, as Debian's default; packages are signed";
    "out-dns-tcp": Node => Anywhere, Tcp 53..=53, "resolvers other than the VPC's own";
    "out-dns-udp": Node => Anywhere, Udp 53..=53, "resolvers other than the VPC's own";
    "out-ntp": Node => Anywhere, Udp 123..=123, "time servers other than AWS's own";
}

loopback! {
    "etcd-metrics": Master, Tcp 2381, by "etcd";
    "kubelet-health": Node, Tcp 10248, by "kubelet";
    "kube-proxy-metrics": Node, Tcp 10249;
    "kube-proxy-health": Node, Tcp 10256;
    "controller-manager": Master, Tcp 10257, by "kube-controller-manager";
    "scheduler": Master, Tcp 10259, by "kube-scheduler";
}

impl Opening {
    /// `6443`, or `30000–32767`. Empty where there are none.
    pub fn ports(&self) -> String {
        if self.protocol == Protocol::Vrrp {
            return String::new();
        }
        match self.first == self.last {
            true => self.first.to_string(),
            false => format!("{}–{}", self.first, self.last),
        }
    }
}

/// TCP ports that a master or worker needs for itself, each with the process that listens there, by port. A balancer's own is the endpoint's,
/// which the cluster file says.
pub fn needed(role: Role) -> Vec<(u16, &'static str)> {
    let open = OPENINGS
        .iter()
        .filter(|row| row.to.includes(role) && row.protocol == Protocol::Tcp)
        .filter_map(|row| Some((row.first, row.listener?)));
    let inside = LOOPBACK
        .iter()
        .filter(|row| row.on.includes(role) && row.protocol == Protocol::Tcp)
        .filter_map(|row| Some((row.port, row.listener?)));
    let mut all: Vec<_> = open.chain(inside).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a machine of one role may open to another of another role, in a cluster with `features`.
pub fn between(
    from: Role,
    to: Role,
    features: &[Feature],
) -> impl Iterator<Item = &'static Opening> {
    OPENINGS.iter().filter(move |row| {
        row.from.iter().any(|party| party.includes(from))
            && row.to.includes(to)
            && row.when.is_none_or(|feature| features.contains(&feature))
    })
}

/// `ports.json` of the Terraform modules: one line for each row.
pub fn terraform() -> String {
    use serde_json::to_string as json;
    let text = |text: &str| json(text).expect("a text is JSON");
    // A cloud's network carries no address that moves.
    let rows = OPENINGS
        .iter()
        .filter(|row| row.when != Some(Feature::SharedAddress));
    let rules = rows.map(|row| {
        let from: Vec<String> = row.from.iter().map(|party| text(party.name())).collect();
        let when = row.when.map_or_else(String::new, |feature| {
            format!("\"when\": {}, ", text(feature.name()))
        });
        format!(
            "    {{ \"name\": {}, \"from\": [{}], \"to\": {}, \"protocol\": {}, \"first\": {}, \"last\": {}, {when}\"why\": {} }}",
            text(row.name),
            from.join(", "),
            text(row.to.name()),
            text(row.protocol.name()),
            row.first,
            row.last,
            text(row.why)
        )
    });
    let loopback = LOOPBACK.iter().map(|row| {
        format!(
            "    {{ \"name\": {}, \"on\": {}, \"protocol\": {}, \"port\": {} }}",
            text(row.name),
            text(row.on.name()),
            text(row.protocol.name()),
            row.port
        )
    });
    let lines = |rows: Vec<String>| rows.join(",\n");
    format!(
        "{{\n  \"version\": 1,\n  \"rules\": [\n{}\n  ],\n  \"loopback\": [\n{}\n  ]\n}}\n",
        lines(rules.collect()),
        lines(loopback.collect())
    )
}
