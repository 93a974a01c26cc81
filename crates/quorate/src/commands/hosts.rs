//! `quorate hosts`: the hosts of a cluster file and the ways to them, as an inventory reads them. Nobody is asked anything.

use std::collections::BTreeMap;

use clap::Args;
use quorate_plan::{NodeName, observation::EndpointName, spec::Role};
use serde::Serialize;

use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::Console,
    failure::Failure,
    reach::{self, Reach},
    show::{json, table::Table},
};

/// Show the hosts that a cluster file names, and the ways to them. No host is asked.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate hosts -f demo.yaml
  quorate hosts -o json | jq '.hosts | keys'")]
pub struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Hosts<'a> {
    cluster: String,
    endpoint: &'a EndpointName,
    hosts: BTreeMap<&'a NodeName, Host>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    role: &'static str,
    address: String,
    port: u16,
    user: String,
    sudo: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Files with its key, the first ones pinned by `quorate trust`.
    known_hosts: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// When the cluster file is wrong, or local hosts are not made yet.
pub fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    let mut hosts = BTreeMap::new();
    for (node, machine, role) in cluster.spec.machines() {
        let access = reach::access(&cluster, node, machine)?;
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        let host = Host {
            role: match role {
                Role::ControlPlane => "master",
                Role::Worker => "worker",
                Role::Balancer => "loadbalancer",
            },
            address: access.address.to_string(),
            port: access.port,
            user: access.user,
            sudo: access.sudo,
            identity: access.identity.as_ref().map(shown),
            known_hosts: access.known_hosts.iter().map(shown).collect(),
        };
        hosts.insert(node, host);
    }
    match arguments.output.output {
        Output::Json => console.data(&json::text(
            "Hosts",
            &Hosts {
                cluster: cluster.spec.name.to_string(),
                endpoint: &cluster.spec.endpoint,
                hosts,
            },
        )),
        Output::Text => {
            let mut table = Table::new(["HOST", "ROLE", "ADDRESS", "PORT", "USER", "SUDO"]);
            for (node, host) in &hosts {
                table.row([
                    node.to_string(),
                    host.role.to_owned(),
                    host.address.clone(),
                    host.port.to_string(),
                    host.user.clone(),
                    if host.sudo { "yes" } else { "no" }.to_owned(),
                ]);
            }
            console.data(&table.text(console.columns()))
        }
    }
}
