//! OCI image archives, byte for byte the same from the same files. Start at [`Image::write`].
//!
//! One layer, uncompressed: an import then copies instead of inflating, and no compressor's version shows in the bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::digest::{Content, Hashing, Sha256};
use crate::version::Arch;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// What lies at one path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A folder with these permissions. Parents of other entries need not be listed.
    Folder { mode: u32 },
    /// A copy of a file of this machine.
    File { from: PathBuf, mode: u32 },
    /// A file with this text.
    Text(&'static str),
    /// A symbolic link to this target.
    Link(String),
}

/// The tree of an image, by absolute path without the leading `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Puts an entry at a path and a folder at each of its parents that has nothing yet.
    pub(crate) fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0
                .entry(path[..at].to_owned())
                .or_insert(Entry::Folder { mode: 0o755 });
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// Every entry, parents before what they hold.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry))
    }
}

/// An image to write.
#[derive(Debug)]
pub(crate) struct Image {
    /// The full reference it is imported under.
    pub(crate) reference: String,
    pub(crate) arch: Arch,
    pub(crate) entrypoint: String,
    pub(crate) tree: Tree,
}

impl Image {
    /// Writes the archive: an OCI layout in a tar, which `ctr image import` reads.
    ///
    /// # Errors
    /// When a file of the tree cannot be read, changes while it is read, or `out` cannot be written.
    pub(crate) fn write<W: Write>(&self, out: W) -> io::Result<(W, Content)> {
        // The layer is written twice: its digest names the blob, and a tar's header precedes its content.
        // The second pass reads from the page cache.
        let layer = self.layer(io::sink())?.1;
        let config = to_bytes(&json!({
            "architecture": self.arch.name(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": [self.entrypoint],
            },
            "rootfs": { "type": "layers", "diff_ids": [oci(&layer.sha256)] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "quorate bundle build" }],
        }));
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": oci(&Sha256::of(&config)), "size": config.len() },
            "layers": [{ "mediaType": LAYER_TYPE, "digest": oci(&layer.sha256), "size": layer.size }],
        }));
        let mut archive =
            Archive::start(out, &self.reference, self.arch, MANIFEST_TYPE, &manifest)?;
        archive.blob(&config)?;
        archive.stream(layer, |out| self.layer(out).map(|(_, written)| written))?;
        archive.finish()
    }

    fn layer<W: Write>(&self, out: W) -> io::Result<(W, Content)> {
        let mut tar = tar::Builder::new(Hashing::new(out));
        for (path, entry) in self.tree.entries() {
            match entry {
                Entry::Folder { mode } => {
                    tar.append_data(
                        &mut header(tar::EntryType::Directory, *mode, 0),
                        format!("{path}/"),
                        io::empty(),
                    )?;
                }
                Entry::File { from, mode } => {
                    let file = File::open(from).map_err(|err| named(from, &err))?;
                    let size = file.metadata().map_err(|err| named(from, &err))?.len();
                    let mut exact = Exact {
                        inner: file.take(size),
                        left: size,
                    };
                    tar.append_data(
                        &mut header(tar::EntryType::Regular, *mode, size),
                        path,
                        &mut exact,
                    )
                    .map_err(|err| named(from, &err))?;
                }
                Entry::Text(text) => {
                    let size = text.len() as u64;
                    tar.append_data(
                        &mut header(tar::EntryType::Regular, 0o644, size),
                        path,
                        text.as_bytes(),
                    )?;
                }
                Entry::Link(target) => {
                    tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?.finish())
    }
}

/// A reader that fails when its file turns out shorter than its length said: the tar would be silently wrong.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if n == 0 && self.left > 0 && !buf.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// An OCI layout in a tar, written front to back.
pub(crate) struct Archive<W: Write> {
    tar: tar::Builder<Hashing<W>>,
}

impl<W: Write> Archive<W> {
    /// Begins an archive of one image: the layout's two files, and the manifest as a blob.
    pub(crate) fn start(
        out: W,
        reference: &str,
        arch: Arch,
        media_type: &str,
        manifest: &[u8],
    ) -> io::Result<Self> {
        let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let index = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type,
                "digest": oci(&Sha256::of(manifest)),
                "size": manifest.len(),
                // containerd takes the full name from the first; the second is the layout's own field, a tag only.
                "annotations": { "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag },
                "platform": { "architecture": arch.name(), "os": "linux" },
            }],
        }));
        let mut archive = Self {
            tar: tar::Builder::new(Hashing::new(out)),
        };
        archive.file("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        archive.file("index.json", &index)?;
        archive.blob(manifest)?;
        Ok(archive)
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.tar.append_data(
            &mut header(tar::EntryType::Regular, 0o644, bytes.len() as u64),
            path,
            bytes,
        )
    }

    /// Adds a blob.
    pub(crate) fn blob(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file(&format!("blobs/sha256/{}", Sha256::of(bytes)), bytes)
    }

    /// Adds a blob whose content is known beforehand and written by `write`.
    pub(crate) fn stream(
        &mut self,
        content: Content,
        write: impl FnOnce(&mut dyn Write) -> io::Result<Content>,
    ) -> io::Result<()> {
        let mut head = header(tar::EntryType::Regular, 0o644, content.size);
        head.set_path(format!("blobs/sha256/{}", content.sha256))?;
        head.set_cksum();
        self.tar.get_mut().write_all(head.as_bytes())?;
        let written = write(self.tar.get_mut())?;
        if written != content {
            return Err(io::Error::other(
                "a file of the image changed while it was read",
            ));
        }
        let padding = (512 - content.size % 512) % 512;
        self.tar.get_mut().write_all(&[0; 512][..padding as usize])
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<(W, Content)> {
        Ok(self.tar.into_inner()?.finish())
    }
}

/// A tar header with nothing of this machine in it.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn oci(digest: &Sha256) -> String {
    format!("sha256:{digest}")
}

fn to_bytes(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value serializes")
}

fn named(path: &std::path::Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("{}: {err}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn sample(dir: &std::path::Path) -> Image {
        std::fs::write(dir.join("tool"), b"#!tool").unwrap();
        let mut tree = Tree::default();
        tree.put(
            "/usr/bin/tool",
            Entry::File {
                from: dir.join("tool"),
                mode: 0o755,
            },
        );
        tree.put("/bin", Entry::Link("usr/bin".into()));
        tree.put("/tmp", Entry::Folder { mode: 0o1777 });
        tree.put("/etc/hello", Entry::Text("hello\n"));
        Image {
            reference: "quorate.local/tool:v1".into(),
            arch: Arch::Amd64,
            entrypoint: "/usr/bin/tool".into(),
            tree,
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, _) = sample(a.path()).write(Vec::new()).unwrap();
        let image = sample(b.path());
        // Neither permissions nor times of the source file show.
        std::fs::set_permissions(b.path().join("tool"), PermissionsExt::from_mode(0o600)).unwrap();
        let (second, content) = image.write(Vec::new()).unwrap();
        assert!(first == second);
        assert_eq!(
            content,
            Content {
                size: second.len() as u64,
                sha256: Sha256::of(&second)
            }
        );
    }

    #[test]
    fn the_layout_holds_together() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, _) = sample(dir.path()).write(Vec::new()).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path, content);
        }
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let blob = |digest: &serde_json::Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = files.get(&format!("blobs/sha256/{hex}")).unwrap();
            assert_eq!(Sha256::of(bytes).to_string(), hex);
            bytes.clone()
        };
        let index = json(&files["index.json"]);
        assert_eq!(
            index["manifests"][0]["annotations"]["io.containerd.image.name"],
            "quorate.local/tool:v1"
        );
        let manifest = json(&blob(&index["manifests"][0]["digest"]));
        let config = json(&blob(&manifest["config"]["digest"]));
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/tool");
        let layer = blob(&manifest["layers"][0]["digest"]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );

        let unpacked = tempfile::tempdir().unwrap();
        let mut tar = tar::Archive::new(&layer[..]);
        tar.set_preserve_permissions(true);
        tar.unpack(unpacked.path()).unwrap();
        let at = |path: &str| unpacked.path().join(path);
        assert_eq!(std::fs::read(at("bin/tool")).unwrap(), b"#!tool");
        assert_eq!(
            std::fs::metadata(at("usr/bin/tool")).unwrap().mode() & 0o7777,
            0o755
        );
        assert_eq!(
            std::fs::metadata(at("tmp")).unwrap().mode() & 0o7777,
            0o1777
        );
        assert_eq!(std::fs::read(at("etc/hello")).unwrap(), b"hello\n");
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path());
        std::fs::remove_file(dir.path().join("tool")).unwrap();
        let err = image.write(Vec::new()).unwrap_err();
        assert!(err.to_string().contains("tool"), "{err}");
    }
}
