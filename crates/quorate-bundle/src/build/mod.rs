//! Building a bundle from Go modules. Start at [`build`].
//!
//! A component is the unit of work: one `go build`, and the files and images made of it. Its *inputs* are a digest
//! over the recipe, its folder of sources (with `go.sum` that is all code there is), the toolchain and, for the
//! network images, the files of the Debian root. Equal inputs give equal files, so a component with equal inputs
//! whose files are whole is left alone.

mod error;
mod source;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub use self::error::BuildError;
use self::source::Source;
use self::work::Work;
use crate::cache;
use crate::component::{Component, components};
use crate::folder::{Folder, at};
use crate::go::{Go, Toolchain};
use crate::manifest::{BundleId, FORMAT, FileEntry, IMAGE_REPOSITORY, Manifest, Origin};
use crate::network_root::NetworkRoot;
use crate::progress::{Outcome, Progress};
use crate::version::{Arch, KubernetesVersion};

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest<'a> {
    /// The Kubernetes version; the sources must have its minor and pin exactly this patch.
    pub kubernetes: KubernetesVersion,
    /// The repository's folder `bundle`: one folder of `go.mod` and `go.sum` per component.
    pub sources: &'a Path,
    /// The bundle's folder: absent, empty, or an earlier bundle.
    pub out: &'a Path,
    /// Where finished components are kept between bundles, by the digest of their inputs; `None` keeps nothing.
    pub cache: Option<&'a Path>,
    /// The Debian root that `nft`, `iptables` and their libraries are taken from; `None`: this machine's `/`.
    pub root: Option<&'a Path>,
    /// Which Go toolchain builds.
    pub toolchain: Toolchain,
}

/// What a build did.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// The bundle.
    pub id: BundleId,
    /// Each component's outcome, in the order they were worked on.
    pub components: Vec<(String, Outcome)>,
    /// Bytes of all files.
    pub size: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Builds a bundle. Blocking: minutes with an empty Go cache, seconds with a warm one, the time to hash all files
/// when nothing changed.
///
/// # Errors
/// See [`BuildError`]. What was finished before an error is kept and not done again.
pub fn build(
    request: &BuildRequest<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<BuildReport, BuildError> {
    let tags = request.kubernetes.kubeadm_tags()?;
    build_components(request, &components(request.kubernetes, tags), progress)
}

pub(crate) fn build_components(
    request: &BuildRequest<'_>,
    components: &[Component],
    progress: &mut dyn FnMut(Progress),
) -> Result<BuildReport, BuildError> {
    let began = Instant::now();
    let arch = Arch::here().ok_or(BuildError::Processor(std::env::consts::ARCH))?;
    // All that can be wrong with the sources is found before anything is compiled.
    let sources = components
        .iter()
        .map(|component| Source::find(request, component))
        .collect::<Result<Vec<_>, BuildError>>()?;
    let network = match components
        .iter()
        .flat_map(|component| &component.images)
        .any(|image| image.network)
    {
        true => Some(NetworkRoot::read(
            request.root.unwrap_or(Path::new("/")),
            arch,
        )?),
        false => None,
    };
    let pin = request.sources.join("toolchain");
    let pinned = fs::read_to_string(&pin).map_err(at("read", &pin))?;
    let go = Go::find(request.toolchain, pinned.trim(), arch).map_err(BuildError::Toolchain)?;
    let folder = Folder::lock(request.out)?;

    let mut files: Vec<FileEntry> = Vec::new();
    let mut images = BTreeMap::new();
    let mut outcomes = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let (name, number, of) = (source.component.name.to_owned(), i + 1, sources.len());
        progress(Progress::Started {
            name: name.clone(),
            number,
            of,
        });
        let started = Instant::now();
        let work = Work {
            source,
            arch,
            go: &go,
            network: network.as_ref(),
            folder: &folder,
        };
        let inputs = work.inputs()?;
        let (entries, outcome) = match work.unchanged(inputs) {
            Some(entries) => (entries, Outcome::Unchanged),
            None => match cache::take(request.cache, source.component.name, inputs, &folder)? {
                Some(entries) => (entries, Outcome::Cached),
                None => {
                    let entries = work.make(inputs)?;
                    cache::put(
                        request.cache,
                        source.component.name,
                        inputs,
                        &entries,
                        &folder,
                    )?;
                    (entries, Outcome::Built)
                }
            },
        };
        images.extend(
            source
                .component
                .images
                .iter()
                .map(|image| (image.role, source.reference(image))),
        );
        let bytes = entries.iter().map(|entry| entry.size).sum();
        files.extend(entries);
        if outcome != Outcome::Unchanged {
            folder.record(&keep(&files, &folder.previous))?;
        }
        progress(Progress::Finished {
            name: name.clone(),
            number,
            of,
            outcome,
            elapsed: started.elapsed(),
            bytes,
        });
        outcomes.push((name, outcome));
    }

    let manifest = Manifest {
        format: FORMAT,
        kubernetes: request.kubernetes,
        arch,
        origin: Origin::Built {
            toolchain: go.version,
            debian: network.map(|root| root.packages).unwrap_or_default(),
        },
        image_repository: IMAGE_REPOSITORY.to_owned(),
        images,
        files,
    };
    let bytes = manifest.to_bytes();
    folder.finish(&bytes, &manifest.files)?;
    Ok(BuildReport {
        id: BundleId::of(&bytes),
        components: outcomes,
        size: manifest.size(),
        elapsed: began.elapsed(),
    })
}

/// The new entries, and the old ones of paths that have no new one yet.
fn keep(new: &[FileEntry], old: &[FileEntry]) -> Vec<FileEntry> {
    let left = old
        .iter()
        .filter(|old| !new.iter().any(|new| new.path == old.path));
    new.iter().chain(left).cloned().collect()
}
