//! `quorate bundle`: the components of one Kubernetes version as a verified directory.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use quorate_bundle::{
    Arch, BuildError, BuildRequest, Bundle, FetchError, FetchRequest, KubernetesVersion, Progress,
    Toolchain, build, fetch, list, show, verify,
};

use crate::{
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    show::{bundle::Parts, counted, duration, size, table::Table},
    state::Directories,
};

/// The components of one Kubernetes version as a directory whose every file is named and hashed.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate bundle build --kubernetes 1.35.4   from Go modules; minutes the first time
  quorate bundle fetch --mirror https://mirror.example.org
  quorate bundle list
  quorate bundle verify                      every file against its hash")]
pub enum Command {
    /// Build the components from Go modules. What is there and unchanged is left alone.
    Build(BuildArguments),
    /// Fetch the components from a mirror of the official release, each verified. What is there and right is left alone.
    Fetch(FetchArguments),
    /// Compare every file with its hash.
    Verify(PathArguments),
    /// List bundles.
    List(ListArguments),
    /// Show what is in a bundle, with versions and sources.
    Show(PathArguments),
}

/// What to build.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// Kubernetes version.
    #[arg(long, value_name = "VERSION", default_value = "1.35.4")]
    kubernetes: KubernetesVersion,
    /// The folder of sources: one folder of go.mod and go.sum for each component.
    #[arg(long, value_name = "DIR", default_value = "bundle")]
    sources: PathBuf,
    /// Where to. Default: the standard place.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where finished components are kept between bundles. Default: nowhere.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Build with the Go toolchain that is installed, whichever it is: other bytes come out than with the pinned one.
    #[arg(long)]
    installed_toolchain: bool,
}

/// What to fetch.
#[derive(Debug, Args)]
pub struct FetchArguments {
    /// The address that /release/vVERSION/bin/… lies under.
    #[arg(long, value_name = "URL")]
    mirror: String,
    /// The address of the image registry. Default: the mirror's server.
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// A PEM file with the certificate authorities to trust. Default: the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Kubernetes version.
    #[arg(long, value_name = "VERSION", default_value = "1.35.4")]
    kubernetes: KubernetesVersion,
    /// The hosts' processor: amd64 or arm64. Default: this machine's.
    #[arg(long, value_name = "ARCH", value_parser = processor)]
    arch: Option<Arch>,
    /// Where to. Default: the standard place.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A processor by its name in releases.
fn processor(name: &str) -> Result<Arch, String> {
    match name {
        "amd64" | "x86_64" => Ok(Arch::Amd64),
        "arm64" | "aarch64" => Ok(Arch::Arm64),
        _ => Err("expected amd64 or arm64".to_owned()),
    }
}

/// Which bundle.
#[derive(Debug, Args)]
pub struct PathArguments {
    /// The bundle's directory. Default: the standard place of --kubernetes.
    path: Option<PathBuf>,
    /// Kubernetes version.
    #[arg(long, value_name = "VERSION", default_value = "1.35.4")]
    kubernetes: KubernetesVersion,
}

/// Where to look.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// The directory that holds bundles. Default: the standard place.
    path: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// When the bundle cannot be made or read, or is not whole.
pub async fn run(command: &Command, console: &mut Console) -> Result<(), Failure> {
    match command {
        Command::Build(arguments) => run_build(arguments, console),
        Command::Fetch(arguments) => run_fetch(arguments, console).await,
        Command::Verify(arguments) => run_verify(&path(arguments)?, console),
        Command::List(arguments) => run_list(arguments, console),
        Command::Show(arguments) => {
            let bundle = open(&path(arguments)?)?;
            console.data(&show(&bundle))
        }
    }
}

fn path(arguments: &PathArguments) -> Result<PathBuf, Failure> {
    match &arguments.path {
        Some(path) => Ok(path.clone()),
        None => {
            let kubernetes = arguments.kubernetes.to_string();
            Ok(Directories::of_process()?.bundle(&kubernetes))
        }
    }
}

fn open(path: &Path) -> Result<Bundle, Failure> {
    Bundle::open(path).map_err(|error| Failure::from_error(Exit::Usage, &error))
}

fn run_build(arguments: &BuildArguments, console: &mut Console) -> Result<(), Failure> {
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => Directories::of_process()?.bundle(&arguments.kubernetes.to_string()),
    };
    let request = BuildRequest {
        kubernetes: arguments.kubernetes,
        sources: &arguments.sources,
        out: &out,
        cache: arguments.cache.as_deref(),
        root: None,
        toolchain: if arguments.installed_toolchain {
            Toolchain::Installed
        } else {
            Toolchain::Pinned
        },
    };
    let mut parts = Parts::new(console);
    let built = build(&request, &mut |progress: Progress| parts.show(&progress));
    parts.end();
    let report = built.map_err(|error| {
        let exit = match &error {
            BuildError::Minor(_)
            | BuildError::NoSources { .. }
            | BuildError::NoVersion { .. }
            | BuildError::OtherVersion { .. } => Exit::Usage,
            _ => Exit::StepFailed,
        };
        Failure::from_error(exit, &error)
    })?;
    console.say(format!(
        "{}: {}, {} in {}",
        console.paint_err().paint(Style::Bold, out.display()),
        counted(report.components.len(), "component"),
        size(report.size),
        duration(report.elapsed)
    ));
    console.line(report.id)
}

async fn run_fetch(arguments: &FetchArguments, console: &mut Console) -> Result<(), Failure> {
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => Directories::of_process()?.bundle(&arguments.kubernetes.to_string()),
    };
    let arch = arguments.arch.or_else(Arch::here).ok_or_else(|| {
        Failure::usage("there are no components for this machine's processor")
            .hint("say which the hosts have with --arch")
    })?;
    let request = FetchRequest {
        kubernetes: arguments.kubernetes,
        arch,
        mirror: &arguments.mirror,
        registry: arguments.registry.as_deref(),
        ca: arguments.ca.as_deref(),
        out: &out,
    };
    let mut parts = Parts::new(console);
    let fetched = fetch(&request, &mut |progress: Progress| parts.show(&progress)).await;
    parts.end();
    let report =
        fetched.map_err(|error: FetchError| Failure::from_error(Exit::StepFailed, &error))?;
    console.say(format!(
        "{}: {}, {} in {}",
        console.paint_err().paint(Style::Bold, out.display()),
        counted(report.files.len(), "file"),
        size(report.size),
        duration(report.elapsed)
    ));
    console.line(report.id)
}

fn run_verify(path: &Path, console: &mut Console) -> Result<(), Failure> {
    let mut parts = Parts::new(console);
    let compared = verify(path, &mut |progress: Progress| parts.count(&progress));
    parts.end();
    let differences = compared.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    for difference in &differences {
        console.line(difference)?;
    }
    let id = open(path)?.id();
    if differences.is_empty() {
        console.say(format!("`{}` is whole", path.display()));
        return console.line(id);
    }
    Err(Failure::new(
        Exit::StepFailed,
        format!(
            "`{}` is not what its manifest says: {}",
            path.display(),
            counted(differences.len(), "difference")
        ),
    )
    .hint("build or fetch it again: files that are right are kept"))
}

fn run_list(arguments: &ListArguments, console: &mut Console) -> Result<(), Failure> {
    let parent = match &arguments.path {
        Some(path) => path.clone(),
        None => Directories::of_process()?.bundles(),
    };
    let found = match list(&parent) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Default::default(),
        Err(error) => {
            let doing = format!("could not list `{}`", parent.display());
            return Err(Failure::doing(Exit::Usage, doing, &error));
        }
    };
    if found.is_empty() {
        console.say(format!("There is no bundle in `{}`.", parent.display()));
        return Ok(());
    }
    let mut table = Table::new(["DIRECTORY", "KUBERNETES", "ORIGIN", "SIZE", "ID"]);
    for (dir, bundle) in found {
        let dir = dir.display().to_string();
        match bundle {
            Ok(summary) => table.row([
                dir,
                summary.kubernetes.to_string(),
                if summary.built {
                    "built by you"
                } else {
                    "fetched"
                }
                .to_owned(),
                size(summary.size),
                summary.id.to_string().chars().take(12).collect(),
            ]),
            Err(error) => {
                let first = error
                    .to_string()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                table.row([dir, "-".into(), first, "-".into(), "-".into()]);
            }
        }
    }
    console.data(&table.text(console.columns()))
}
