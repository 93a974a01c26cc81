//! `quorate kubeconfig`: the administrator's kubeconfig, from a control plane host. It is a secret: it goes into a file that only its owner
//! can read, and nowhere else.

use std::{
    fs::OpenOptions,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::{Args, Subcommand};
use quorate_exec::{Control, SshAccess, hostile};
use zeroize::Zeroizing;

use crate::{
    args::FileArgument, cluster::ClusterFile, console::Console, exit::Exit, failure::Failure,
    reach, state::Directories,
};

/// Where kubeadm puts it.
const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// How long one host may take: connecting alone may take ten seconds.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Longest kubeconfig in bytes; kubeadm's are below 10 KiB.
const BYTES_MAX: usize = 1 << 20;

/// Write the administrator's kubeconfig into a file that only you can read.
///
/// It points at the endpoint. For local hosts, whose endpoint this machine cannot resolve, it points at the balancer's address and says
/// under which name to expect it.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate kubeconfig -f demo.yaml           writes demo.kubeconfig
  kubectl --kubeconfig demo.kubeconfig get nodes
  quorate kubeconfig --out - | kubectl --kubeconfig /dev/stdin get nodes
  quorate kubeconfig rewrite ~/.kube/config -f demo.yaml   lead one that is there to the endpoint")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: FileArgument,
    /// Where to; `-` is stdout. Default: NAME.kubeconfig.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite a file that is there.
    #[arg(long)]
    force: bool,
}

/// What else is done with kubeconfigs.
#[derive(Debug, Subcommand)]
enum Command {
    /// Lead a kubeconfig that is there to the cluster's endpoint. Only the server changes: who you are stays.
    Rewrite(RewriteArguments),
}

/// Which file, and away from where.
#[derive(Debug, Args)]
struct RewriteArguments {
    /// The kubeconfig.
    #[arg(value_name = "KUBECONFIG")]
    kubeconfig: PathBuf,
    #[command(flatten)]
    file: FileArgument,
    /// The server it leads away from, as it stands there. May be repeated. Default: the addresses of the masters.
    #[arg(long, value_name = "SERVER")]
    from: Vec<String>,
}

/// Leads a kubeconfig to the endpoint.
fn rewrite(arguments: &RewriteArguments, console: &mut Console) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, Directories::of_process()?, console)?;
    let path = &arguments.kubeconfig;
    if !path.exists() {
        return Err(Failure::usage(format!("there is no `{}`", path.display())));
    }
    let masters = cluster.spec.control_plane.values();
    let own = masters.map(|machine| format!("https://{}", quorate_plan::Spec::apiserver(machine)));
    let from: Vec<String> = if arguments.from.is_empty() {
        own.collect()
    } else {
        arguments.from.clone()
    };
    let to = format!("https://{}", cluster.spec.endpoint);
    let changed = quorate_node::lead_kubeconfig(path, |server| {
        from.iter().any(|old| old == server).then(|| to.clone())
    })
    .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
    console.say(if changed {
        format!("`{}` leads to {to} now", path.display())
    } else {
        format!(
            "`{}` leads to none of {}: nothing was changed",
            path.display(),
            from.join(", ")
        )
    });
    Ok(())
}

/// Runs it.
///
/// # Errors
/// When no control plane host gives one, or it cannot be written.
pub async fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    if let Some(Command::Rewrite(arguments)) = &arguments.command {
        return rewrite(arguments, console);
    }
    let cluster = ClusterFile::read(&arguments.file.file, Directories::of_process()?, console)?;
    let text = fetch(&cluster).await?;
    let out = match &arguments.out {
        Some(out) if out.as_os_str() == "-" => return console.data(&text),
        Some(out) => out.clone(),
        None => format!("{}.kubeconfig", cluster.spec.name).into(),
    };
    write(&out, &text, arguments.force)?;
    let shown = out.display();
    console.say(format!(
        "Wrote `{shown}`. Next: `kubectl --kubeconfig {shown} get nodes`"
    ));
    Ok(())
}

/// The administrator's kubeconfig, pointing at the endpoint as it is reached from here.
///
/// # Errors
/// When no control plane host gives one.
pub(super) async fn fetch(cluster: &ClusterFile) -> Result<Zeroizing<String>, Failure> {
    let control = Control::new(cluster.directories.sockets());
    control
        .prepare()
        .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
    let mut causes = Vec::new();
    for (node, machine) in &cluster.spec.control_plane {
        let access = reach::access(cluster, node, machine)?;
        match read(&control, &access).await {
            Ok(text) => return pointed(cluster, &text),
            Err(why) => causes.push(format!("{node}: {why}")),
        }
    }
    let mut failure = Failure::new(Exit::Unseen, "no control plane host gives a kubeconfig");
    failure.causes = causes;
    Err(failure.hint(format!(
        "`quorate status -f {}` says how the cluster is",
        cluster.path.display()
    )))
}

/// The file on one host.
async fn read(control: &Control, access: &SshAccess) -> Result<Zeroizing<String>, String> {
    let args = control
        .shell(access, &format!("exec cat {ADMIN}"))
        .map_err(|error| error.to_string())?;
    let child = tokio::process::Command::new(&control.program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(ANSWER_MAX, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("could not start ssh: {error}")),
        Err(_) => return Err(format!("no answer within {} s", ANSWER_MAX.as_secs())),
    };
    let stdout = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(hostile::line(&String::from_utf8_lossy(&output.stderr)));
    }
    if stdout.len() > BYTES_MAX {
        return Err(format!("{ADMIN} is longer than {BYTES_MAX} bytes"));
    }
    match str::from_utf8(&stdout) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(format!("{ADMIN} is no text")),
    }
}

/// With the server as it is reached from here: the endpoint, or for local hosts its address and the name to expect there.
fn pointed(cluster: &ClusterFile, text: &str) -> Result<Zeroizing<String>, Failure> {
    let endpoint = &cluster.spec.endpoint;
    let named = endpoint.host.parse::<IpAddr>().is_err();
    let address = cluster
        .spec
        .endpoint_address()
        .filter(|_| cluster.spec.local() && named);
    let mut out = Zeroizing::new(String::with_capacity(text.len() + 200));
    let mut servers = 0;
    for line in text.lines() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        if !line.trim_start().starts_with("server: ") {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        servers += 1;
        match address {
            Some(address) => out.push_str(&format!(
                "{indentation}server: https://{address}:{}\n{indentation}tls-server-name: {}\n",
                endpoint.port, endpoint.host
            )),
            None => out.push_str(&format!("{indentation}server: https://{endpoint}\n")),
        }
    }
    if servers == 1 {
        Ok(out)
    } else {
        Err(Failure::new(
            Exit::Unexpected,
            format!("expected a kubeconfig with one server, seen {servers} in {ADMIN}"),
        ))
    }
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            Failure::usage(format!("`{}` is there already", path.display()))
                .hint("give another name with --out, or --force to overwrite it")
        } else {
            let doing = format!("could not write `{}`", path.display());
            Failure::doing(Exit::Usage, doing, error)
        }
    };
    if force {
        // A file that is there may be open to others, or be read by them just now: a new one takes its place.
        let new = path.with_file_name(format!(".kubeconfig.{}", std::process::id()));
        create(&new, text).map_err(|error| failed(&error))?;
        return std::fs::rename(&new, path).map_err(|error| failed(&error));
    }
    create(path, text).map_err(|error| failed(&error))
}

fn create(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn cluster(text: &str) -> ClusterFile {
        let (spec, _) = quorate_plan::spec::parse(text, "f").expect("a right file");
        ClusterFile {
            path: "/c/cluster.yaml".into(),
            spec,
            warnings: Vec::new(),
            directories: Directories::of_process().expect("a home"),
            backup: crate::cluster::BackupPlace::default(),
        }
    }

    const ADMIN_CONF: &str = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: QQ==
    server: https://10.0.0.11:6443
  name: demo
";

    #[test]
    fn it_points_at_what_this_machine_reaches() {
        let local = cluster(
            "apiVersion: quorate/v1\nname: demo\ncontrolPlane: { count: 1 }\nprovider: { kind: local }\n",
        );
        let text = pointed(&local, ADMIN_CONF).expect("one server");
        assert!(
            text.contains(
                "    server: https://10.177.64.201:6443\n    tls-server-name: api.demo.internal\n"
            ),
            "{}",
            *text
        );
        let ssh = cluster(
            "apiVersion: quorate/v1\nname: demo\nendpoint: { host: api.example.org, balancer: { kind: external } }\n\
             controlPlane: { hosts: [{ name: a, address: 10.0.0.11 }] }\nprovider: { kind: ssh }\n",
        );
        let text = pointed(&ssh, ADMIN_CONF).expect("one server");
        assert!(
            text.contains("    server: https://api.example.org:6443\n  name"),
            "{}",
            *text
        );
        pointed(&ssh, "a: b\n").expect_err("no server");
    }

    #[test]
    fn only_its_owner_reads_it_and_nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("k");
        write(&path, "a", false).expect("new");
        write(&path, "b", false).expect_err("there");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
        write(&path, "c", true).expect("forced");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "c");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
