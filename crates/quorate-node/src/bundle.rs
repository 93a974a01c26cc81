//! A bundle that lies on this host: its manifest, and whether its files are what the manifest says. Start at [`Manifest::read`].

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{
    durable::{self, FileError},
    error::ActionError,
    facts::hex,
};

/// The format of manifests that is read here.
const FORMAT: u64 = 1;

/// Read at once when hashing, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// What a bundle holds.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    format: u64,
    /// Every file but the manifest itself.
    pub(crate) files: Vec<BundleFile>,
}

/// One file of a bundle.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BundleFile {
    /// Where it lies in the bundle.
    pub(crate) path: String,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Digest of its bytes, hex.
    pub(crate) sha256: String,
    /// What it is for.
    pub(crate) role: Role,
    /// The reference of an image archive.
    #[serde(default)]
    pub(crate) image: Option<String>,
}

/// What a file of a bundle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// An executable of the host.
    Binary,
    /// A CNI plugin.
    CniPlugin,
    /// An OCI image archive.
    Image,
    /// Kubernetes objects to apply.
    Addon,
}

/// Whether a name is that of a bundle: SHA-256 in hex.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Manifest {
    /// The manifest of the bundle in `folder`, which must be the one with that ID.
    pub(crate) fn read(folder: &Path, id: &str) -> Result<Self, ActionError> {
        let path = folder.join("manifest.json");
        let bytes = durable::read(&path)?.ok_or_else(|| {
            ActionError::unexpected(
                format!("the bundle at `{}`", folder.display()),
                "no manifest.json there",
                "copy the bundle to the host first",
            )
        })?;
        let seen = hex(&Sha256::digest(&bytes));
        if seen != id {
            return Err(ActionError::unexpected(
                format!("bundle {id} at `{}`", folder.display()),
                format!("bundle {seen}"),
                "copy the right bundle to the host",
            ));
        }
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|err| FileError::senseless(&path, err))?;
        if manifest.format != FORMAT {
            return Err(ActionError::unexpected(
                format!("a bundle of format {FORMAT}"),
                format!("format {}", manifest.format),
                "use the quorate that made the bundle, or build it again",
            ));
        }
        for file in &manifest.files {
            if !stays_inside(&file.path) {
                return Err(FileError::senseless(&path, "it names a file outside").into());
            }
        }
        Ok(manifest)
    }

    /// The files of one role.
    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &BundleFile> {
        self.files.iter().filter(move |file| file.role == role)
    }
}

impl BundleFile {
    /// Where it lies.
    pub(crate) fn under(&self, folder: &Path) -> PathBuf {
        folder.join(&self.path)
    }

    /// Its last name.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Reads it whole, copying it to `to`, and says whether it is what the manifest says.
    pub(crate) fn check(&self, folder: &Path, to: &mut dyn Write) -> Result<(), ActionError> {
        let path = self.under(folder);
        let (size, sha256) = copy(&path, to)?;
        if size == self.size && sha256 == self.sha256 {
            return Ok(());
        }
        Err(ActionError::unexpected(
            format!(
                "`{}` of {} bytes with hash {}",
                path.display(),
                self.size,
                self.sha256
            ),
            format!("{size} bytes with hash {sha256}"),
            "copy the bundle to the host again",
        ))
    }
}

/// Plain names with `/` between them.
fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && path
            .split('/')
            .all(|name| !name.is_empty() && !name.starts_with('.'))
}

fn copy(path: &Path, to: &mut dyn Write) -> Result<(u64, String), FileError> {
    let mut file = File::open(path).map_err(FileError::new("read", path))?;
    let mut digest = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((size, hex(&digest.finalize()))),
            Ok(n) => {
                digest.update(&chunk[..n]);
                size += n as u64;
                to.write_all(&chunk[..n])
                    .map_err(FileError::new("copy", path))?;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(FileError::new("read", path)(err)),
        }
    }
}

/// The digest of a file, hex.
pub(crate) fn digest_of(path: &Path) -> Result<String, FileError> {
    copy(path, &mut io::sink()).map(|(_, sha256)| sha256)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::Machine;

    /// Writes a bundle of these files (path, role, content) and returns its ID.
    pub(crate) fn write(machine: &Machine, suffix: &str, files: &[(&str, &str, &str)]) -> String {
        let entries: Vec<_> = files
            .iter()
            .map(|(path, role, content)| {
                serde_json::json!({
                    "path": path, "role": role, "size": content.len(),
                    "sha256": hex(&Sha256::digest(content)), "image": "quorate.local/x:1",
                })
            })
            .collect();
        let manifest = serde_json::json!({ "format": 1, "files": entries }).to_string();
        let id = hex(&Sha256::digest(&manifest));
        let folder = format!("/var/lib/quorate/bundles/{id}{suffix}");
        machine.write(&format!("{folder}/manifest.json"), &manifest);
        for (path, _, content) in files {
            machine.write(&format!("{folder}/{path}"), content);
        }
        id
    }

    #[test]
    fn files_are_held_to_the_manifest() {
        let machine = crate::testing::machine();
        let id = write(
            &machine,
            "",
            &[("bin/a", "binary", "aaa"), ("cni/b", "cni-plugin", "b")],
        );
        let folder = machine.paths.bundle(&id);
        let manifest = Manifest::read(&folder, &id).unwrap();
        let file = manifest.of(Role::Binary).next().unwrap();
        let mut copied = Vec::new();
        file.check(&folder, &mut copied).unwrap();
        assert_eq!((copied.as_slice(), file.name()), (&b"aaa"[..], "a"));
        for (content, why) in [("aab", "another hash"), ("aa", "another length")] {
            std::fs::write(file.under(&folder), content).unwrap();
            assert!(file.check(&folder, &mut io::sink()).is_err(), "{why}");
        }
        std::fs::remove_file(file.under(&folder)).unwrap();
        assert!(matches!(
            file.check(&folder, &mut io::sink()),
            Err(ActionError::File(_))
        ));
    }

    #[test]
    fn other_manifests_are_refused() {
        let machine = crate::testing::machine();
        let escape = write(&machine, "", &[("bin/../../x", "binary", "x")]);
        assert!(Manifest::read(&machine.paths.bundle(&escape), &escape).is_err());
        let id = write(&machine, "", &[]);
        let err = Manifest::read(&machine.paths.bundle(&id), &"0".repeat(64)).unwrap_err();
        assert!(err.to_string().contains("expected bundle 0000"), "{err}");
        assert!(Manifest::read(&machine.paths.bundle(&"1".repeat(64)), &id).is_err());
        assert!(!is_id("../etc") && is_id(&id));
    }
}
