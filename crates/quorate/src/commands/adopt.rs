//! `quorate adopt`: looks at a cluster that somebody else made, changes nothing, and says whether it can be converted.

mod via;

use std::{fmt::Write as _, fs, io::Write as _, net::Ipv4Addr, path::PathBuf, str::FromStr};

use clap::{ArgGroup, Args};
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
/// With --master and the other hosts, or with a kubeconfig by which the cluster itself tells them, a cluster file is written first; without
/// either the file that is there is read. The cluster is then looked at and judged: ready, ready after so many fixes, or not convertible and
/// why. Next: `quorate convert`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").args(["master", "via"]))]
#[command(before_help = "\
Examples:
  quorate adopt demo.yaml --endpoint api.example.com \\
    --master cp1=10.0.0.11 --join cp2=10.0.0.12 --join cp3=10.0.0.13 \\
    --worker w1=10.0.0.21 --balancer lb1=10.0.0.5
  quorate adopt demo.yaml --endpoint api.example.com --via ~/.kube/config \\
    --join cp2=10.0.0.12 --join cp3=10.0.0.13 --balancer lb1=10.0.0.5
  quorate adopt demo.yaml                   look again at what that file names
  quorate adopt demo.yaml --accept unproven=cp1
  quorate adopt demo.yaml -o json | jq .verdict")]
pub struct Arguments {
    /// The cluster file: written with --master or --via, read without.
    #[arg(value_name = "FILE", default_value = "cluster.yaml")]
    file: PathBuf,
    /// The master that is there, as its node is called, with its address.
    #[arg(long, value_name = "NAME=ADDRESS", requires_all = ["join", "endpoint"])]
    master: Option<Host>,
    /// A kubeconfig that leads to the cluster from here: its API tells who is the master, who the workers are and which version it has.
    #[arg(long, value_name = "KUBECONFIG", requires_all = ["join", "endpoint"], conflicts_with_all = ["master", "worker"])]
    via: Option<PathBuf>,
    /// A host that is to become a master. Twice, or four times.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "who")]
    join: Vec<Host>,
    /// A worker that is there. All of them have to be named.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "master")]
    worker: Vec<Host>,
    /// A host for Quorate's balancer. None: you have a balancer of your own behind the endpoint.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "who")]
    balancer: Vec<Host>,
    /// The stable name of the API, a DNS name that you own.
    #[arg(long, value_name = "NAME", requires = "who")]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Who is in the cluster that is adopted.
#[derive(Debug, PartialEq, Eq)]
struct Whose {
    master: Host,
    /// All of them, in order.
    workers: Vec<Host>,
    /// The version of its apiserver, as `1.35.4`, where that was asked. `None`: the one that Quorate is built for.
    kubernetes: Option<String>,
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
    if let Some(whose) = whose(arguments).await? {
        write_new(&arguments.file, &text(arguments, &whose))?;
        console.say(format!("Wrote `{}`.", arguments.file.display()));
    }
    if !arguments.file.exists() {
        let message = format!(
            "there is no cluster file `{}`, and neither --master nor --via to write one for",
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

/// Whose cluster it is: the arguments name them, or its API does. `None`: the file that is there does.
///
/// # Errors
/// When the API tells nothing that can be used.
async fn whose(arguments: &Arguments) -> Result<Option<Whose>, Failure> {
    if let Some(kubeconfig) = &arguments.via {
        return via::ask(kubeconfig).await.map(Some);
    }
    Ok(arguments.master.clone().map(|master| Whose {
        master,
        workers: arguments.worker.clone(),
        kubernetes: None,
    }))
}

/// The cluster file of the arguments.
fn text(arguments: &Arguments, whose: &Whose) -> String {
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
    write!(out, "apiVersion: quorate/v1\nname: {}\n", arguments.name)
        .expect("a String takes everything");
    if let Some(kubernetes) = &whose.kubernetes {
        out += &format!("kubernetes: {kubernetes}\n");
    }
    out += &format!("endpoint:\n  host: {endpoint}\n");
    if arguments.balancer.is_empty() {
        out += "  balancer: { kind: external }\n";
    } else {
        out += "  balancer:\n    hosts:\n";
        for line in list(&arguments.balancer.iter().collect::<Vec<_>>()).lines() {
            out += &format!("  {line}\n");
        }
    }
    let masters: Vec<&Host> = [&whose.master].into_iter().chain(&arguments.join).collect();
    out += "controlPlane:\n  hosts:\n";
    out += &list(&masters);
    if !whose.workers.is_empty() {
        out += "workers:\n  hosts:\n";
        out += &list(&whose.workers.iter().collect::<Vec<_>>());
    }
    out += "network: { cni: none }\n";
    out += &format!("provider: {{ kind: ssh, user: {} }}\n", arguments.user);
    out
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
                .hint("without --master and --via the file that is there is read")
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

    fn named(line: &Line) -> Whose {
        Whose {
            master: line.arguments.master.clone().unwrap(),
            workers: line.arguments.worker.clone(),
            kubernetes: None,
        }
    }

    #[test]
    fn what_is_written_is_a_cluster_file() {
        let words = "adopt x.yaml --endpoint api.example.com --master cp1=10.0.0.11 --join cp2=10.0.0.12 \
                     --join cp3=10.0.0.13 --worker w1=10.0.0.21 --balancer lb1=10.0.0.5 --balancer lb2=10.0.0.6 --user admin";
        let line = Line::parse_from(words.split_whitespace());
        let text = text(&line.arguments, &named(&line));
        let (spec, _) = quorate_plan::spec::parse(&text, "x.yaml").unwrap();
        assert_eq!(spec.control_plane.len(), 3);
        assert_eq!(spec.balancers().count(), 2);
        assert_eq!(spec.workers.len(), 1);
        assert_eq!(spec.network.cni, quorate_plan::spec::Cni::None);
        let external = words.split(" --balancer").next().unwrap();
        let line = Line::parse_from(external.split_whitespace());
        let text = super::text(&line.arguments, &named(&line));
        assert!(quorate_plan::spec::parse(&text, "x.yaml").is_ok(), "{text}");
    }

    #[test]
    fn who_is_in_it_is_named_by_hand_or_by_a_kubeconfig() {
        let join = "--endpoint api.example.com --join cp2=10.0.0.12 --join cp3=10.0.0.13";
        let parse = |words: &str| {
            let words = format!("adopt x.yaml {words}");
            Line::try_parse_from(words.split_whitespace())
        };
        let line = parse(&format!("--via admin.conf {join}")).unwrap();
        let whose = Whose {
            master: "cp1=10.0.0.11".parse().unwrap(),
            workers: vec!["w1=10.0.0.21".parse().unwrap()],
            kubernetes: Some("1.34.2".into()),
        };
        let text = text(&line.arguments, &whose);
        let (spec, _) = quorate_plan::spec::parse(&text, "x.yaml").unwrap();
        assert_eq!((spec.control_plane.len(), spec.workers.len()), (3, 1));
        assert_eq!(spec.kubernetes, "1.34.2");
        for wrong in [
            join.to_owned(),
            "--via admin.conf".into(),
            format!("--via admin.conf --master cp1=10.0.0.11 {join}"),
            format!("--via admin.conf --worker w1=10.0.0.21 {join}"),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong}");
        }
        assert!(parse("").is_ok());
    }
}
