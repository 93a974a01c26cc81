//! `docs/reference/ports.md`, from the port matrix.

use std::fmt::Write as _;

use quorate_plan::ports::{Feature, LOOPBACK, OPENINGS, Party, Protocol};

/// The page.
pub fn reference() -> String {
    let mut out = String::from(
        "# Ports\n\nWho may open a connection to whom. Everything else may be closed, and on AWS it is: the security groups of the \
         [Terraform modules](../guide/aws.md) are made from this table. Quorate opens and closes no port on hosts that you have.\n\n\
         | to | port | from | only with | why |\n|---|---|---|---|---|\n",
    );
    for row in OPENINGS {
        let from: Vec<&str> = row.from.iter().map(|party| words(*party)).collect();
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            words(row.to),
            match row.protocol {
                Protocol::Tcp | Protocol::Udp => format!("{}/{}", row.ports(), row.protocol.name()),
                Protocol::Vrrp => "IP protocol 112 (VRRP)".to_owned(),
            },
            from.join(", "),
            row.when.map_or("", only_with),
            row.why
        )
        .expect("a String takes everything");
    }
    out.push_str(
        "\nLocal hosts have these rules between each other, so what is tried there is tried behind them.\n\n\
         ## Open to nobody\n\nWhat listens here does so on the loopback address.\n\n| on | port | what |\n|---|---|---|\n",
    );
    for row in LOOPBACK {
        writeln!(
            out,
            "| {} | {}/{} | {} |",
            words(row.on),
            row.port,
            row.protocol.name(),
            row.name
        )
        .expect("a String takes everything");
    }
    out
}

fn words(party: Party) -> &'static str {
    match party {
        Party::Balancer => "balancer",
        Party::Master => "masters",
        Party::Worker => "workers",
        Party::Node => "masters and workers",
        Party::ApiClients => "users of the API, as you name them",
        Party::Operators => "operators, as you name them",
        Party::NodePortClients => "users of services, as you name them",
        Party::Anywhere => "anywhere",
    }
}

fn only_with(feature: Feature) -> &'static str {
    match feature {
        Feature::Public => "a public balancer",
        Feature::MetricsServer => "metrics-server",
        Feature::Vxlan => "Flannel",
        Feature::Bgp => "BGP",
        Feature::Wireguard => "WireGuard",
        Feature::HttpPackages => "package mirrors without TLS",
        Feature::SharedAddress => "`balancer.on: masters`",
    }
}
