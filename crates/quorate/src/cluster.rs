//! A cluster as the operator's machine knows it: its file, read and checked, the components, and the intent they make.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use quorate_bundle::Bundle;
use quorate_exec::{Backups, NodeBinary};
use quorate_plan::{
    Acceptance, Goal, Intent, Observation, Spec,
    diagnostic::{self, Diagnostic},
    intent::BundleRef,
    spec::{self, Cni, Inventory},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    known::Known,
    state::{ClusterState, Directories},
    terraform,
};

/// Largest cluster file or manifest that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Longest key of a package repository, in bytes: one with many signatures has a few KiB.
const KEY_BYTES_MAX: usize = 64 << 10;

/// A cluster file that was read and is right.
#[derive(Clone, Debug)]
pub struct ClusterFile {
    /// The file, absolute.
    pub path: PathBuf,
    /// What it says.
    pub spec: Spec,
    /// What its author should know although it works.
    pub warnings: Vec<Diagnostic>,
    /// Directories of this operator.
    pub directories: Directories,
    /// Where a backup goes that leaves its host, as far as the command line says so.
    pub backup: BackupPlace,
}

/// Where a backup goes that leaves its host, and whom it is sealed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupPlace {
    /// The folder. `None`: among what is kept of the cluster here.
    pub folder: Option<PathBuf>,
    /// age recipients. Empty: an identity of this operator, which is made when it is needed first.
    pub recipients: Vec<String>,
}

impl ClusterFile {
    /// Reads it. What is wrong with it is printed; warnings are kept for the commands that act on it.
    ///
    /// # Errors
    /// When it cannot be read or is wrong.
    pub fn read(
        file: &Path,
        directories: Directories,
        console: &mut Console,
    ) -> Result<Self, Failure> {
        Self::read_with(file, directories, console, terraform::inventory)
    }

    /// As [`Self::read`], with another way to know what Terraform made in a directory.
    ///
    /// # Errors
    /// As [`Self::read`], and when that way does not tell.
    pub fn read_with(
        file: &Path,
        directories: Directories,
        console: &mut Console,
        inventory: impl FnOnce(&Path) -> Result<Inventory, Failure>,
    ) -> Result<Self, Failure> {
        let text = read_text("the cluster file", file).map_err(|failure| {
            if file.exists() {
                failure
            } else {
                failure.hint(format!(
                    "`quorate init {}` writes one to start from",
                    file.display()
                ))
            }
        })?;
        let path = std::path::absolute(file).map_err(|error| {
            Failure::doing(Exit::Unexpected, "there is no working directory", &error)
        })?;
        let mut asked = None;
        let read = spec::parse_with(
            &text,
            &file.display().to_string(),
            |directory| match inventory(&beside(&path, directory)) {
                Ok(inventory) => Some(inventory),
                Err(failure) => {
                    asked = Some(failure);
                    None
                }
            },
        );
        let (mut spec, warnings) = match (read, asked) {
            (Ok(read), _) => read,
            (Err(found), Some(failure)) if found.is_empty() => return Err(failure),
            (Err(found), _) => return Err(mistakes(&found, &text, console)),
        };
        if let Cni::Manifest { file, text } = &mut spec.network.cni {
            let manifest = beside(&path, file);
            *text = read_text("the manifest of the pod network", &manifest)?;
            if text.trim().is_empty() {
                return Err(Failure::usage(format!(
                    "the manifest of the pod network, `{}`, is empty",
                    manifest.display()
                )));
            }
        }
        if let Some(packages) = &mut spec.packages {
            packages.key = public_key(&beside(&path, &packages.key_file))?;
        }
        Ok(Self {
            path,
            spec,
            warnings,
            directories,
            backup: BackupPlace::default(),
        })
    }

    /// Says what its author should know although it works.
    pub fn say_warnings(&self, console: &mut Console) {
        for warning in &self.warnings {
            say_warning(warning, console);
        }
    }

    /// Where a host could not be seen and no host key was ever pinned, that is the likely cause.
    pub fn hint_at_trust(&self, seen: &Observation, console: &mut Console) {
        let unseen = seen.hosts.values().any(|host| host.get().is_err());
        if !self.spec.local() && unseen && !self.state().known_hosts().exists() {
            let label = console.paint_err().paint(Style::Bold, "hint:");
            console.say(format!(
                "{label} `quorate trust -f {}` shows the hosts' keys and pins them",
                self.path.display()
            ));
        }
    }

    /// What is kept about it here.
    pub fn state(&self) -> ClusterState {
        self.directories.cluster(&self.spec.name)
    }

    /// Where backups of its hosts go.
    pub fn backup_folder(&self) -> PathBuf {
        let named = self.backup.folder.clone();
        named.unwrap_or_else(|| self.state().backups())
    }

    /// Where backups of its hosts go, and whom they are sealed to. `None`: that goal has none leave its host.
    pub fn backups(&self, goal: &Goal) -> Option<Backups> {
        let (place, directories) = (self.backup.clone(), self.directories.clone());
        matches!(goal, Goal::Convert { .. }).then(|| Backups {
            folder: self.backup_folder(),
            recipients: Arc::new(move || {
                if place.recipients.is_empty() {
                    own_identity(&directories)
                } else {
                    Ok(place.recipients.clone())
                }
            }),
        })
    }

    /// Where its components lie.
    pub fn bundle_path(&self) -> PathBuf {
        bundle_path(&self.path, &self.spec, &self.directories)
    }

    /// What is wanted, with the masters that left the file as far as this operator knows the way to them.
    ///
    /// # Errors
    /// When there are no components, or our own binary or the known masters cannot be read.
    pub fn intent(&self, goal: Goal, accepted: &[Acceptance]) -> Result<Intent, Failure> {
        let bundle = open_bundle(&self.bundle_path(), &self.spec.kubernetes)?;
        Ok(Intent {
            spec: self.spec.clone(),
            bundle: bundle_ref(&bundle),
            binary: own_binary()?.hash().to_owned(),
            retired: Known::read(&self.state())?.retired(&self.spec, &goal),
            goal,
            accepted: BTreeSet::from_iter(accepted.iter().cloned()),
        })
    }

    /// As [`Self::intent`], for looking: without components when there are none.
    ///
    /// # Errors
    /// When our own binary or the known masters cannot be read.
    pub fn intent_for_looking(&self) -> Result<Intent, Failure> {
        let bundle = match Bundle::open(&self.bundle_path()) {
            Ok(bundle) => bundle_ref(&bundle),
            Err(_) => BundleRef {
                id: String::new(),
                kubernetes: self.spec.kubernetes.clone(),
                images: BTreeMap::new(),
            },
        };
        Ok(Intent {
            spec: self.spec.clone(),
            bundle,
            binary: own_binary()?.hash().to_owned(),
            goal: Goal::Converge,
            accepted: BTreeSet::new(),
            retired: Known::read(&self.state())?.retired(&self.spec, &Goal::Converge),
        })
    }
}

/// A cluster file whose machines are Terraform's, before anybody asked Terraform for them.
#[derive(Clone, Debug)]
pub struct Configured {
    /// The file, absolute.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The directory of the configuration, absolute.
    pub directory: PathBuf,
}

impl Configured {
    /// Reads it as far as that goes without knowing the machines.
    ///
    /// # Errors
    /// When it cannot be read, is wrong, or its machines are not Terraform's.
    pub fn read(file: &Path, console: &mut Console) -> Result<Self, Failure> {
        let text = read_text("the cluster file", file)?;
        let path = std::path::absolute(file).map_err(|error| {
            Failure::doing(Exit::Unexpected, "there is no working directory", &error)
        })?;
        let mut configuration = None;
        let read = spec::parse_with(&text, &file.display().to_string(), |directory| {
            configuration = Some(beside(&path, directory));
            None
        });
        match (read, configuration) {
            (Err(found), _) if !found.is_empty() => Err(mistakes(&found, &text, console)),
            (_, Some(directory)) => {
                terraform::exists(&directory)?;
                Ok(Self {
                    path,
                    text,
                    directory,
                })
            }
            (_, None) => Err(Failure::usage(format!(
                "the machines of `{}` are not Terraform's",
                file.display()
            ))
            .hint("`provider: { kind: terraform }` says that they are")),
        }
    }
}

/// Where the components of a cluster lie: where its file says, or in the standard place.
pub fn bundle_path(file: &Path, spec: &Spec, directories: &Directories) -> PathBuf {
    match &spec.bundle {
        Some(path) => beside(file, path),
        None => directories.bundle(&spec.kubernetes),
    }
}

/// Opens a bundle.
///
/// # Errors
/// When there is none.
pub fn open_bundle(path: &Path, kubernetes: &str) -> Result<Bundle, Failure> {
    Bundle::open(path).map_err(|error| {
        Failure::doing(
            Exit::Usage,
            format!("there are no components of Kubernetes {kubernetes}"),
            &error,
        )
    })
}

fn bundle_ref(bundle: &Bundle) -> BundleRef {
    BundleRef {
        id: bundle.id().to_string(),
        kubernetes: bundle.manifest().kubernetes.to_string(),
        images: bundle
            .images()
            .map(|image| (image.role.name().to_owned(), image.reference))
            .collect(),
    }
}

/// The binary that runs here: the same one runs on the hosts. Read once: it is many megabytes, and does not change under us.
///
/// # Errors
/// When it cannot be read.
pub fn own_binary() -> Result<NodeBinary, Failure> {
    static OWN: OnceLock<NodeBinary> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own.clone());
    }
    let path = std::env::current_exe().map_err(|error| {
        Failure::doing(Exit::Unexpected, "could not find our own binary", &error)
    })?;
    let own =
        NodeBinary::open(&path).map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
    Ok(OWN.get_or_init(|| own).clone())
}

/// The recipients of this operator's own identity, which is made where there is none yet.
fn own_identity(directories: &Directories) -> Result<Vec<String>, String> {
    let path = directories.backup_identity();
    let failed = |error: std::io::Error| {
        format!(
            "cannot keep the backup's identity, `{}`: {error}",
            path.display()
        )
    };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            quorate_node::backup_recipients(&path, &text).map_err(|error| error.to_string())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (text, recipient) = quorate_node::new_backup_identity();
            write_new_secret(&path, &text).map_err(failed)?;
            Ok(vec![recipient])
        }
        Err(error) => Err(failed(error)),
    }
}

/// A new file that only its owner reads: there under its name once it is whole and on disk.
fn write_new_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // Readable by its owner alone from the start, and never one that is there already.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()
}

/// A path in a file is relative to that file; `~/` is the home directory.
pub fn beside(file: &Path, path: &str) -> PathBuf {
    if let Some(rest) = path.strip_prefix("~/")
        && let Ok(home) = etcetera::home_dir()
    {
        return home.join(rest);
    }
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Reads a text file of a sensible size.
///
/// # Errors
/// When it cannot be read, is larger, or is no text.
pub fn read_text(what: &str, path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let doing = || format!("could not read {what}, `{}`", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{}: it has more than {FILE_BYTES_MAX} bytes",
            doing()
        )));
    }
    String::from_utf8(bytes).map_err(|error| Failure::doing(Exit::Usage, doing(), &error))
}

/// The public key that signs a package repository. It travels with every request, and into every journal: a private one is refused.
fn public_key(path: &Path) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "the key of the package repository, `{}`, {why}",
            path.display()
        ))
        .hint("save the key that the repository publishes, as it is: a text that begins with `-----BEGIN PGP PUBLIC KEY BLOCK-----`")
    };
    let text = read_text("the key of the package repository", path)?;
    if text.contains("PRIVATE KEY") {
        return Err(wrong("is a private key"));
    }
    if !text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        return Err(wrong("is not a public key in ASCII armour"));
    }
    if text.len() > KEY_BYTES_MAX {
        return Err(wrong("is longer than any key"));
    }
    Ok(text)
}

/// Prints what is wrong with a cluster file.
fn mistakes(found: &[Diagnostic], text: &str, console: &mut Console) -> Failure {
    let colour = console.paint_err().colour;
    console.ask(diagnostic::render(found, text, colour));
    let codes: BTreeSet<_> = found.iter().map(|one| one.code).collect();
    let first = codes.first().map_or("", |code| code.name());
    Failure::usage(match found.len() {
        1 => "the cluster file has a mistake".to_owned(),
        n => format!("the cluster file has {n} mistakes"),
    })
    .hint(format!("`quorate explain {first}` says more about {first}"))
}

/// A warning in one line: the file is right.
fn say_warning(warning: &Diagnostic, console: &mut Console) {
    let paint = console.paint_err();
    let label = paint.paint(Style::Warn, format!("warning[{}]:", warning.code));
    let place = format!("({}:{}:{})", warning.file, warning.line, warning.column);
    console.say(format!(
        "{label} {} {}",
        warning.message,
        paint.paint(Style::Dim, place)
    ));
}
