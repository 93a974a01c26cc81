//! `quorate adopt`: looks at a cluster that somebody else made, changes nothing, and says whether it can be converted.

use std::{fmt::Write as _, fs, io::Write as _, net::Ipv4Addr, path::PathBuf, str::FromStr};

use clap::Args;
use quorate_exec::observe;
use quorate_plan::{
    ClusterName, Goal, Intent, NodeName, Observation,
    planner::adoption::{self, Adoption, Verdict},
};
use serde::Serialize;

use crate::{
    args::{AcceptArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    reach::Reach,
    show::{self, json},
};

/// Look at a cluster that somebody else made with kubeadm, and say whether it can be converted. Nothing is changed on any host.
///
/// With --master and the other hosts a cluster file is written first; without them the file that is there is read. Either way the cluster is
/// then looked at and judged: ready, ready after so many fixes, or not convertible and why. Next: `quorate convert`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate adopt demo.yaml --endpoint api.example.com \\
    --master cp1=10.0.0.11 --join cp2=10.0.0.12 --join cp3=10.0.0.13 \\
    --worker w1=10.0.0.21 --balancer lb1=10.0.0.5
  quorate adopt demo.yaml                   look again at what that file names
  quorate adopt demo.yaml --accept unproven=cp1
  quorate adopt demo.yaml -o json | jq .verdict")]
pub struct Arguments {
    /// The cluster file: written with --master, read without.
    #[arg(value_name = "FILE", default_value = "cluster.yaml")]
    file: PathBuf,
    /// The master that is there, as its node is called, with its address.
    #[arg(long, value_name = "NAME=ADDRESS", requires_all = ["join", "endpoint"])]
    master: Option<Host>,
    /// A host that is to become a master. Twice, or four times.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "master")]
    join: Vec<Host>,
    /// A worker that is there. All of them have to be named.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "master")]
    worker: Vec<Host>,
    /// A host for Quorate's balancer. None: you have a balancer of your own behind the endpoint.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "master")]
    balancer: Vec<Host>,
    /// The stable name of the API, a DNS name that you own.
    #[arg(long, value_name = "NAME", requires = "master")]
    endpoint: Option<String>,
    /// What the cluster is called here.
    #[arg(long, value_name = "NAME", default_value = "adopted")]
    name: ClusterName,
    /// The SSH user of all hosts; others than root become it with sudo.
    #[arg(long, value_name = "USER", default_value = "root")]
    user: String,
    #[command(flatten)]
    accept: AcceptArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// A host on the command line.
#[derive(Clone, Debug)]
struct Host {
    name: NodeName,
    address: Ipv4Addr,
}

impl FromStr for Host {
    type Err = String;
    fn from_str(raw: &str) -> Result<Self, String> {
        let expected = "expected NAME=ADDRESS, as in `cp1=10.0.0.11`";
        let (name, address) = raw.split_once('=').ok_or(expected)?;
        Ok(Self {
            name: name.parse().map_err(|_| expected)?,
            address: address.parse().map_err(|_| expected)?,
        })
    }
}

#[derive(Serialize)]
struct Object<'a> {
    cluster: String,
    #[serde(flatten)]
    adoption: &'a Adoption,
    observation: &'a Observation,
}

/// Runs it.
///
/// # Errors
/// When the file cannot be written or read; when the cluster is not ready to be converted, after it was printed.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    if let Some(text) = text(arguments) {
        write_new(&arguments.file, &text)?;
        console.say(format!("Wrote `{}`.", arguments.file.display()));
    }
    if !arguments.file.exists() {
        let message = format!(
            "there is no cluster file `{}`, and no --master to write one for",
            arguments.file.display()
        );
        return Err(Failure::usage(message).hint(format!(
            "`quorate adopt {} --endpoint NAME --master NAME=ADDRESS --join NAME=ADDRESS --join NAME=ADDRESS` writes one, and looks",
            arguments.file.display()
        )));
    }
    let cluster = ClusterFile::read(&arguments.file, reach.directories()?, console)?;
    cluster.say_warnings(console);
    let intent = Intent {
        goal: Goal::Convert { pause_after: None },
        accepted: arguments.accept.accept.iter().cloned().collect(),
        ..cluster.intent_for_looking()?
    };
    let world = reach.world(&cluster, &intent).await?;
    let seen = observe(&world, &intent).await;
    let adoption = adoption::assess(&intent, &seen);
    match arguments.output.output {
        Output::Json => console.data(&json::text(
            "Adoption",
            &Object {
                cluster: intent.spec.name.to_string(),
                adoption: &adoption,
                observation: &seen,
            },
        ))?,
        Output::Text => {
            let paint = console.paint_out();
            console.data(&show::adoption::text(&intent, &seen, &adoption, paint))?;
        }
    }
    let paint = console.paint_err();
    console.ask(show::refusal::all(&adoption.findings, paint));
    cluster.hint_at_trust(&seen, console);
    let file = cluster.path.display();
    match adoption.verdict {
        Verdict::Ready => {
            console.say(format!("Next: `quorate convert -f {file} --plan-only`"));
            Ok(())
        }
        Verdict::ReadyAfterFixes => Err(Failure::silent(Exit::Refused).hint(format!(
            "mend them, or accept by name what can be, then `quorate adopt {file}` looks again"
        ))),
        Verdict::NotConvertible => Err(Failure::silent(Exit::Refused)),
        Verdict::Unseen => Err(Failure::silent(Exit::Unseen)),
    }
}

/// The cluster file of the arguments. `None`: they name no hosts.
fn text(arguments: &Arguments) -> Option<String> {
    let master = arguments.master.as_ref()?;
    let mut out = String::from(
        "# Written by `quorate adopt`. The pod network stays as it is: Quorate installs none.\n",
    );
    let list = |hosts: &[&Host]| {
        let entries = hosts.iter().map(|host| {
            format!(
                "    - {{ name: {}, address: {} }}\n",
                host.name, host.address
            )
        });
        entries.collect::<String>()
    };
    let endpoint = arguments.endpoint.as_deref().unwrap_or_default();
    write!(
        out,
        "apiVersion: quorate/v1\nname: {}\nendpoint:\n  host: {endpoint}\n",
        arguments.name
    )
    .expect("a String takes everything");
    if arguments.balancer.is_empty() {
        out += "  balancer: { kind: external }\n";
    } else {
        out += "  balancer:\n    hosts:\n";
        for line in list(&arguments.balancer.iter().collect::<Vec<_>>()).lines() {
            out += &format!("  {line}\n");
        }
    }
    let masters: Vec<&Host> = [master].into_iter().chain(&arguments.join).collect();
    out += "controlPlane:\n  hosts:\n";
    out += &list(&masters);
    if !arguments.worker.is_empty() {
        out += "workers:\n  hosts:\n";
        out += &list(&arguments.worker.iter().collect::<Vec<_>>());
    }
    out += "network: { cni: none }\n";
    out += &format!("provider: {{ kind: ssh, user: {} }}\n", arguments.user);
    Some(out)
}

fn write_new(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    let doing = format!("could not write `{}`", path.display());
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| {
            Failure::doing(Exit::Usage, doing, &error)
                .hint("without --master the file that is there is read")
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_is_written_is_a_cluster_file() {
        let words = "adopt x.yaml --endpoint api.example.com --master cp1=10.0.0.11 --join cp2=10.0.0.12 \
                     --join cp3=10.0.0.13 --worker w1=10.0.0.21 --balancer lb1=10.0.0.5 --balancer lb2=10.0.0.6 --user admin";
        let line = Line::parse_from(words.split_whitespace());
        let text = text(&line.arguments).unwrap();
        let (spec, _) = quorate_plan::spec::parse(&text, "x.yaml").unwrap();
        assert_eq!(spec.control_plane.len(), 3);
        assert_eq!(spec.balancers().count(), 2);
        assert_eq!(spec.workers.len(), 1);
        assert_eq!(spec.network.cni, quorate_plan::spec::Cni::None);
        let external = words.split(" --balancer").next().unwrap();
        let line = Line::parse_from(external.split_whitespace());
        let text = super::text(&line.arguments).unwrap();
        assert!(quorate_plan::spec::parse(&text, "x.yaml").is_ok(), "{text}");
        let line = Line::parse_from(["adopt", "x.yaml"]);
        assert!(super::text(&line.arguments).is_none());
    }
}
