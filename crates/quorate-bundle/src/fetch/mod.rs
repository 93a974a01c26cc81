//! Fetching a bundle from a mirror of the official release. Start at [`fetch`].
//!
//! The layout is in `docs/reference/bundle.md`. Every file is written under another name, verified and renamed; what an
//! interrupted run left is continued.

mod error;
mod http;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::http::header::HeaderMap;

pub use self::error::FetchError;
use self::http::{Client, Expected, Url};
use self::registry::Registry;
use crate::component::{FLANNEL_OBJECTS, path};
use crate::digest::{Content, Sha256};
use crate::folder::{Folder, PARTIAL, at};
use crate::manifest::{
    BundleId, BundlePath, FORMAT, FileEntry, IMAGE_REPOSITORY, ImageRole, Manifest, Origin, Role,
};
use crate::progress::{Outcome, Progress};
use crate::version::{Arch, KubeadmTags, KubernetesVersion};

/// The tag of Flannel's image that belongs to [`FLANNEL_TEXT`]; a test compares it with the sources.
const FLANNEL_TAG: &str = "v0.28.4";
/// Our own Kubernetes objects for Flannel.
const FLANNEL_TEXT: &str = include_str!("../../../../bundle/flannel/kube-flannel.yml");

/// A `.sha256` file is one line.
const CHECKSUM_BYTES_MAX: u64 = 4 << 10;

/// What to fetch.
#[derive(Debug, Clone)]
pub struct FetchRequest<'a> {
    /// The Kubernetes version.
    pub kubernetes: KubernetesVersion,
    /// The processor the hosts have.
    pub arch: Arch,
    /// Address that `/release/vX/bin/…` lies under: `http` or `https`, no login in it.
    pub mirror: &'a str,
    /// Address of the registry; a path in it is put before every image's name. `None`: the mirror's own server.
    pub registry: Option<&'a str>,
    /// A PEM file with the certificate authorities to trust; `None`: the system's.
    pub ca: Option<&'a Path>,
    /// The bundle's folder: absent, empty, or an earlier bundle.
    pub out: &'a Path,
}

/// What a fetch did.
#[derive(Debug, Clone)]
pub struct FetchReport {
    /// The bundle.
    pub id: BundleId,
    /// Each file's or image's outcome, by path.
    pub files: BTreeMap<BundlePath, Outcome>,
    /// Bytes of all files.
    pub size: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// One thing to fetch.
enum Item {
    Program {
        path: BundlePath,
        role: Role,
        url: Url,
        required: bool,
        version: String,
    },
    Image {
        role: ImageRole,
        name: &'static str,
        tag: String,
        required: bool,
    },
}

impl Item {
    fn path(&self) -> BundlePath {
        match self {
            Self::Program { path, .. } => path.clone(),
            Self::Image { role, .. } => role.path(),
        }
    }

    fn required(&self) -> bool {
        match self {
            Self::Program { required, .. } | Self::Image { required, .. } => *required,
        }
    }
}

/// Fetches a bundle. Files that are there already and are the mirror's are not fetched again.
///
/// # Errors
/// See [`FetchError`]. What was fetched before an error is kept and not fetched again.
pub async fn fetch(
    request: &FetchRequest<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<FetchReport, FetchError> {
    let began = Instant::now();
    let tags = request.kubernetes.kubeadm_tags()?;
    let mirror = Url::parse(request.mirror)?;
    let registry = match request.registry {
        Some(text) => Url::parse(text)?,
        None => mirror.with_path("/")?,
    };
    let items = items(request, tags, &mirror)?;
    let folder = Folder::lock(request.out)?;
    let partial = request.out.join(PARTIAL);
    fs::create_dir_all(&partial).map_err(at("create", &partial))?;
    let fetching = Fetching {
        client: Client::new(request.ca),
        registry,
        arch: request.arch,
        folder: &folder,
        partial,
    };

    let mut files: Vec<FileEntry> = Vec::new();
    let mut outcomes = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        let (name, number, of) = (item.path().to_string(), i + 1, items.len());
        progress(Progress::Started {
            name: name.clone(),
            number,
            of,
        });
        let started = Instant::now();
        let (entry, outcome) = match fetching.item(item, progress).await {
            Ok((entry, outcome)) => (Some(entry), outcome),
            Err(err) if !item.required() && err.is_absent() => (None, Outcome::Absent),
            Err(err) => return Err(err),
        };
        let bytes = entry.as_ref().map_or(0, |entry| entry.size);
        files.extend(entry);
        if outcome == Outcome::Fetched {
            let left = folder
                .previous
                .iter()
                .filter(|old| !files.iter().any(|new| new.path == old.path));
            let known: Vec<FileEntry> = files.iter().chain(left).cloned().collect();
            folder.record(&known)?;
        }
        progress(Progress::Finished {
            name,
            number,
            of,
            outcome,
            elapsed: started.elapsed(),
            bytes,
        });
        outcomes.insert(item.path(), outcome);
    }

    let images: BTreeMap<ImageRole, String> = items
        .iter()
        .filter_map(|item| match item {
            Item::Image { role, tag, .. } => Some((*role, role.reference(tag))),
            Item::Program { .. } => None,
        })
        .filter(|(role, _)| files.iter().any(|file| file.path == role.path()))
        .collect();
    if let Some(image) = images.get(&ImageRole::Flannel) {
        files.push(flannel_objects(&folder, image)?);
    }
    let manifest = Manifest {
        format: FORMAT,
        kubernetes: request.kubernetes,
        arch: request.arch,
        origin: Origin::Fetched,
        image_repository: IMAGE_REPOSITORY.to_owned(),
        images,
        files,
    };
    let bytes = manifest.to_bytes();
    folder.finish(&bytes, &manifest.files)?;
    Ok(FetchReport {
        id: BundleId::of(&bytes),
        files: outcomes,
        size: manifest.size(),
        elapsed: began.elapsed(),
    })
}

/// Everything a mirror may have, what is small and needed first.
fn items(
    request: &FetchRequest<'_>,
    tags: &KubeadmTags,
    mirror: &Url,
) -> Result<Vec<Item>, FetchError> {
    let version = request.kubernetes.tag();
    let folder = format!(
        "{}/release/{version}/bin/linux/{}",
        mirror.path(),
        request.arch
    );
    let mut items = Vec::new();
    let mut program = |file: &str,
                       role: Role,
                       place: &str,
                       required: bool,
                       version: &str|
     -> Result<(), FetchError> {
        let name = file.rsplit('/').next().unwrap_or(file);
        let url = mirror.with_path(&format!("{folder}/{file}"))?;
        items.push(Item::Program {
            path: path(place, name),
            role,
            url,
            required,
            version: version.to_owned(),
        });
        Ok(())
    };
    for name in ["kubeadm", "kubelet", "kubectl"] {
        program(name, Role::Binary, "bin", true, &version)?;
    }
    // What the release itself does not have; a private mirror can.
    for name in [
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "etcd",
        "etcdctl",
        "etcdutl",
    ] {
        program(name, Role::Binary, "bin", false, "as on the mirror")?;
    }
    for name in ["bridge", "flannel", "host-local", "loopback", "portmap"] {
        program(
            &format!("cni/{name}"),
            Role::CniPlugin,
            "cni",
            false,
            "as on the mirror",
        )?;
    }
    let image = |role: ImageRole, name, tag: &str, required| Item::Image {
        role,
        name,
        tag: tag.to_owned(),
        required,
    };
    items.extend([
        image(ImageRole::Pause, "pause", tags.pause, true),
        image(ImageRole::Etcd, "etcd", tags.etcd, true),
        image(ImageRole::KubeApiserver, "kube-apiserver", &version, true),
        image(
            ImageRole::KubeControllerManager,
            "kube-controller-manager",
            &version,
            true,
        ),
        image(ImageRole::KubeScheduler, "kube-scheduler", &version, true),
        image(ImageRole::KubeProxy, "kube-proxy", &version, true),
        image(ImageRole::Coredns, "coredns/coredns", tags.coredns, true),
        image(ImageRole::Flannel, "flannel-io/flannel", FLANNEL_TAG, false),
    ]);
    Ok(items)
}

fn flannel_objects(folder: &Folder, image: &str) -> Result<FileEntry, FetchError> {
    let text = FLANNEL_TEXT.replace("${IMAGE}", image);
    let content = Content {
        size: text.len() as u64,
        sha256: Sha256::of(text.as_bytes()),
    };
    let place = path("manifests", FLANNEL_OBJECTS);
    let entry = FileEntry {
        path: place,
        size: content.size,
        sha256: content.sha256,
        role: Role::Addon,
        version: FLANNEL_TAG.to_owned(),
        source: format!("bundle/flannel/{FLANNEL_OBJECTS}"),
        built: "a text of ours, with the image's reference".into(),
        inputs: None,
        image: None,
    };
    if !folder.holds(&entry) {
        folder.write(&entry.path, false, |out| {
            out.write_all(text.as_bytes()).map(|()| content)
        })?;
    }
    Ok(entry)
}

struct Fetching<'a> {
    client: Client,
    registry: Url,
    arch: Arch,
    folder: &'a Folder,
    partial: PathBuf,
}

impl Fetching<'_> {
    async fn item(
        &self,
        item: &Item,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(FileEntry, Outcome), FetchError> {
        let name = item.path().to_string();
        let mut seen = |done, total| {
            progress(Progress::Advanced {
                name: name.clone(),
                done,
                total,
            })
        };
        match item {
            Item::Program {
                path,
                role,
                url,
                version,
                ..
            } => self.program(path, *role, url, version, &mut seen).await,
            Item::Image {
                role, name, tag, ..
            } => self.image(*role, name, tag, &mut seen).await,
        }
    }

    async fn program(
        &self,
        path: &BundlePath,
        role: Role,
        url: &Url,
        version: &str,
        seen: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(FileEntry, Outcome), FetchError> {
        let beside = url.with_path(&format!("{}.sha256", url.path()))?;
        let (_, bytes) = self
            .client
            .bytes(&beside, &HeaderMap::new(), CHECKSUM_BYTES_MAX)
            .await?;
        let sha256 = checksum(&beside, &bytes)?;
        let entry = |content: Content| FileEntry {
            path: path.clone(),
            size: content.size,
            sha256: content.sha256,
            role,
            version: version.to_owned(),
            source: url.path().trim_start_matches('/').to_owned(),
            built: "fetched, verified with the .sha256 file beside it".into(),
            inputs: None,
            image: None,
        };
        if let Some(old) = self.kept(path, |old| old.sha256 == sha256) {
            return Ok((
                entry(Content {
                    size: old.size,
                    sha256,
                }),
                Outcome::Unchanged,
            ));
        }
        // Named by its digest: what another version left is never continued.
        let partial = self.partial.join(sha256.to_string());
        let expected = Expected { sha256, size: None };
        let content = self
            .client
            .file(url, &HeaderMap::new(), &partial, expected, seen)
            .await?;
        self.folder.take(&partial, path, role.runs())?;
        Ok((entry(content), Outcome::Fetched))
    }

    async fn image(
        &self,
        role: ImageRole,
        name: &str,
        tag: &str,
        seen: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(FileEntry, Outcome), FetchError> {
        let mut registry = Registry::image(&self.client, &self.registry, name);
        let manifest = registry.manifest(tag, self.arch).await?;
        let source = format!("{name}:{tag}@sha256:{}", manifest.digest());
        let reference = role.reference(tag);
        if let Some(old) = self.kept(&role.path(), |old| old.source == source) {
            return Ok((old.clone(), Outcome::Unchanged));
        }
        let blobs = registry.blobs(&manifest, &self.partial, seen).await?;
        let content = self.folder.write(&role.path(), false, |out| {
            manifest.archive(&reference, self.arch, &blobs, out)
        })?;
        for (path, _) in &blobs {
            fs::remove_file(path).map_err(at("remove", path))?;
        }
        let entry = FileEntry {
            path: role.path(),
            size: content.size,
            sha256: content.sha256,
            role: Role::Image,
            version: tag.to_owned(),
            source,
            built: "fetched, each blob verified with its digest; archived under a name of its own"
                .into(),
            inputs: None,
            image: Some(reference),
        };
        Ok((entry, Outcome::Fetched))
    }

    /// The entry of a path that an earlier run fetched, if it fits and its file is whole.
    fn kept(&self, path: &BundlePath, fits: impl Fn(&FileEntry) -> bool) -> Option<&FileEntry> {
        let old = self.folder.previous.iter().find(|old| old.path == *path)?;
        // Built files have inputs; a fetched bundle takes none of them.
        (old.inputs.is_none() && fits(old) && self.folder.holds(old)).then_some(old)
    }
}

/// The digest in a `.sha256` file: alone, or with the file's name after it.
fn checksum(url: &Url, bytes: &[u8]) -> Result<Sha256, FetchError> {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| FetchError::ChecksumFile {
            url: url.to_string(),
            found: text.chars().take(80).collect(),
        })
}
