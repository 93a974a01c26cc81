//! `quorate init`: a commented cluster file to start from. Nothing else is touched.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use quorate_plan::{ClusterName, spec};

use crate::{console::Console, exit::Exit, failure::Failure, show::counted};

/// Write a commented cluster file to start from.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate init                                     three masters as local hosts, in cluster.yaml
  quorate init --name prod --provider ssh prod.yaml
  quorate init --masters 5 --workers 3 lab.yaml")]
pub struct Arguments {
    /// The file to write.
    #[arg(value_name = "FILE", default_value = "cluster.yaml")]
    file: PathBuf,
    /// The cluster's name.
    #[arg(long, default_value = "demo")]
    name: ClusterName,
    /// Masters: 1, 3, 5 or 7.
    #[arg(long, value_name = "N", default_value_t = 3)]
    masters: u8,
    /// Workers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u8,
    /// Where the hosts come from.
    #[arg(long, value_enum, default_value_t)]
    provider: ProviderChoice,
    /// Kubernetes version.
    #[arg(long, value_name = "VERSION", default_value = "1.35.4")]
    kubernetes: String,
    /// The directory of Kubernetes' components. Default: the standard place.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Overwrite a file that is there.
    #[arg(long)]
    force: bool,
}

/// Where the hosts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
enum ProviderChoice {
    /// Local hosts, made on this machine.
    #[default]
    Local,
    /// Hosts that you have.
    Ssh,
}

/// Runs it.
///
/// # Errors
/// When the arguments make no right cluster file, or the file is there.
pub fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let text = text(arguments)?;
    let shown = arguments.file.display();
    if let Err(found) = spec::parse(&text, &shown.to_string()) {
        let first = found.first().map_or("", |one| one.message.as_str());
        return Err(Failure::usage(format!(
            "that would not be a right cluster file: {first}"
        )));
    }
    write(&arguments.file, &text, arguments.force)?;
    console.say(format!(
        "Wrote `{shown}`: {} and {}.",
        counted(arguments.masters.into(), "master"),
        counted(arguments.workers.into(), "worker")
    ));
    match arguments.provider {
        ProviderChoice::Local => {}
        ProviderChoice::Ssh => {
            console.say("Put the addresses of your hosts in before you go on.");
        }
    }
    console.say(format!("Next: `quorate plan -f {shown}`"));
    Ok(())
}

fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let doing = format!("could not write `{}`", file.display());
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            Failure::new(
                Exit::Usage,
                format!("`{}` is there already", file.display()),
            )
            .hint("give another name, or --force to overwrite it")
        } else {
            Failure::doing(Exit::Usage, doing, &error)
        }
    })
}

fn text(arguments: &Arguments) -> Result<String, Failure> {
    let Arguments {
        name,
        masters,
        workers,
        provider,
        kubernetes,
        ..
    } = arguments;
    let mut out = format!(
        "\
# A Quorate cluster file. `quorate plan -f FILE` says what it would do; nothing happens before `quorate apply`.
# Every key: docs/reference/cluster-file.md, or `quorate schema` for your editor.
apiVersion: quorate/v1
name: {name}
kubernetes: {kubernetes}          # exact; 1.34, 1.35 and 1.36 are supported

"
    );
    out += &match provider {
        ProviderChoice::Local => format!(
            "\
# The name of the API, in every certificate and kubeconfig. Local hosts find it in /etc/hosts.
endpoint:
  host: api.{name}.internal
  port: 6443
  balancer: {{ kind: quorate, on: hosts, count: 1 }}   # 2 would survive the loss of one

controlPlane: {{ count: {masters} }}     # 3 survive the loss of one, 5 of two
workers: {{ count: {workers} }}

network:
  cni: flannel               # or none, or {{ manifest: FILE }}
  pods: 10.244.0.0/16
  services: 10.96.0.0/12

# Real Debian hosts in namespaces on this machine, in a network of their own.
provider: {{ kind: local, subnet: 10.177.64.0/24 }}
"
        ),
        ProviderChoice::Ssh => {
            let group = |prefix: &str, first: u32, n: u8| -> String {
                (1..)
                    .zip(0..n)
                    .map(|(i, _)| {
                        format!(
                            "  - {{ name: {prefix}-{i}, address: 192.0.2.{} }}\n",
                            first + i
                        )
                    })
                    .collect()
            };
            let workers = match workers {
                0 => "workers: { hosts: [] }\n".to_owned(),
                n => format!("workers:\n  hosts:\n{}", group("w", 100, *n)),
            };
            format!(
                "\
# The name of the API, in every certificate and kubeconfig, for as long as the cluster lives: a DNS name that you own,
# pointing at the balancer. It has to resolve before you apply; `hostsFile: managed` writes it into /etc/hosts instead.
endpoint:
  host: api.{name}.example.org
  port: 6443
  balancer:                  # or {{ kind: external }}, for a TCP balancer that you have
    kind: quorate
    hosts:
    - {{ name: lb-1, address: 192.0.2.5 }}
    - {{ name: lb-2, address: 192.0.2.6 }}

# Addresses are those the hosts reach each other at. 3 masters survive the loss of one, 5 of two.
controlPlane:
  hosts:
{}{workers}
network:
  cni: flannel               # or none, or {{ manifest: FILE }}
  pods: 10.244.0.0/16
  services: 10.96.0.0/12

# How the hosts are reached; each host may say otherwise with keys of the same names.
provider: {{ kind: ssh, user: root, port: 22 }}
",
                group("cp", 10, *masters)
            )
        }
    };
    if let Some(bundle) = &arguments.bundle {
        // The file may lie elsewhere: a relative path in it would be read from there.
        let absolute = std::path::absolute(bundle).map_err(|error| {
            Failure::doing(Exit::Unexpected, "there is no working directory", &error)
        })?;
        let path = absolute.to_str().ok_or_else(|| {
            Failure::usage(format!("the path `{}` is no UTF-8", absolute.display()))
        })?;
        let quoted = serde_json::to_string(path).expect("a text is plain data");
        out += &format!("\ncomponents: {{ source: bundle, path: {quoted} }}\n");
    }
    Ok(out)
}
