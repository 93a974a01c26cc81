//! `quorate destroy`: a cluster of local hosts is gone, with its machines.

use clap::Args;
use quorate_plan::spec::Provider;

use super::local;
use crate::{
    args::FileArgument,
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    reach::{self, Reach as _, Ssh},
    state::Directories,
};

/// Destroy a cluster of local hosts, with its machines and their disks.
///
/// Asks for the cluster's name. What was changed on this machine for the sake of local hosts is put back with the last cluster.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  quorate destroy -f demo.yaml\n  quorate destroy -f demo.yaml --yes     in scripts"
)]
pub struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    /// Do not ask for the name.
    #[arg(long)]
    yes: bool,
}

/// Runs it.
///
/// # Errors
/// When the hosts are somebody's own, the name was not typed, or something could not be removed.
pub async fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, Directories::of_process()?, console)?;
    match cluster.spec.provider {
        Provider::Local { .. } => {}
        Provider::Terraform { .. } => {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "the hosts of `{}` are Terraform's: quorate made none of them",
                    cluster.spec.name
                ),
            )
            .hint("`terraform destroy` ends them, when their protection is lifted"));
        }
        Provider::Ssh => {
            return Err(Failure::new(
                Exit::Refused,
                format!("the hosts of `{}` are yours: quorate made none of them", cluster.spec.name),
            )
            .hint("to take Kubernetes off a host, run `kubeadm reset` there; the hosts themselves are yours to remove"));
        }
    }
    let name = local::name_of(&cluster)?;
    // While the keys are there: connections to hosts that are gone would be found by the next cluster of the same addresses.
    close_connections(&cluster).await;
    let directories = &cluster.directories;
    local::destroy(&reach::local()?, &name, directories, arguments.yes, console).await
}

async fn close_connections(cluster: &ClusterFile) {
    let Ok(intent) = cluster.intent_for_looking() else {
        return;
    };
    if let Ok(world) = Ssh.world(cluster, &intent).await {
        world.hosts.close(true).await;
    }
}
