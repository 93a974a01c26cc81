//! Comparing a bundle's files with its manifest. Start at [`verify`].

use std::fmt;
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::bundle::{Bundle, BundleError};
use crate::digest::{Content, Sha256, hash_file};
use crate::folder::{MANIFEST, is_work, runnable};
use crate::manifest::FileEntry;
use crate::progress::{Outcome, Progress};

/// One way in which a bundle is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The file, relative to the bundle.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: Wrong,
}

/// What is wrong with a file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It is listed and not there.
    Missing,
    /// It is there and not listed.
    Extra,
    /// It is a link, a folder or something else that is not a file.
    NotAFile,
    /// It must run and lacks the executable bit.
    NotExecutable,
    /// Its length differs.
    Size {
        /// Bytes the manifest lists.
        listed: u64,
        /// Bytes found.
        found: u64,
    },
    /// Its bytes differ.
    Hash {
        /// The digest the manifest lists.
        listed: Sha256,
        /// The digest found.
        found: Sha256,
    },
    /// It cannot be read.
    Unreadable(io::ErrorKind),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name that is not listed may hold anything.
        write!(f, "{}: ", self.path.to_string_lossy().escape_debug())?;
        match &self.what {
            Wrong::Missing => f.write_str("missing"),
            Wrong::Extra => f.write_str("not listed in the manifest"),
            Wrong::NotAFile => f.write_str("expected a plain file, found something else"),
            Wrong::NotExecutable => f.write_str("lacks the executable bit"),
            Wrong::Size { listed, found } => write!(f, "expected {listed} bytes, found {found}"),
            Wrong::Hash { listed, found } => write!(f, "expected sha256 {listed}, found {found}"),
            Wrong::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
        }
    }
}

/// Reads every file of a bundle and compares it with the manifest. Empty: the bundle is whole.
/// The manifest itself is what [`Bundle::id`] names; compare that with the id you expect.
///
/// # Errors
/// When the manifest cannot be read or a folder cannot be listed.
pub fn verify(
    dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Difference>, BundleError> {
    let bundle = Bundle::open(dir)?;
    let mut differences = extras(&bundle)?;
    // Large files first, so that no thread is left alone with one at the end.
    let mut files: Vec<&FileEntry> = bundle.manifest().files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.size));
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    let threads = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (send, files, next) = (send.clone(), &files, &next);
            scope.spawn(move || {
                while let Some(&file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let wrong = check(file, dir);
                    // The receiver lives as long as this scope.
                    let _ = send.send((file, wrong, started.elapsed()));
                }
            });
        }
        drop(send);
        let done: &mut dyn FnMut(usize, &FileEntry, Duration) = &mut |number, file, elapsed| {
            let (name, of, bytes) = (file.path.to_string(), files.len(), file.size);
            progress(Progress::Finished {
                name,
                number,
                of,
                outcome: Outcome::Verified,
                elapsed,
                bytes,
            });
        };
        for (i, (file, wrong, elapsed)) in results.iter().enumerate() {
            differences.extend(wrong.map(|what| Difference {
                path: file.path.as_str().into(),
                what,
            }));
            done(i + 1, file, elapsed);
        }
    });
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(differences)
}

fn check(file: &FileEntry, dir: &Path) -> Option<Wrong> {
    let path = file.path.under(dir);
    let meta = match fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Some(Wrong::Missing),
        Err(err) => return Some(Wrong::Unreadable(err.kind())),
    };
    if !meta.is_file() {
        return Some(Wrong::NotAFile);
    }
    if meta.len() != file.size {
        return Some(Wrong::Size {
            listed: file.size,
            found: meta.len(),
        });
    }
    match hash_file(&path, &mut |_| {}) {
        Err(err) => Some(Wrong::Unreadable(err.kind())),
        Ok(Content { sha256, .. }) if sha256 != file.sha256 => Some(Wrong::Hash {
            listed: file.sha256,
            found: sha256,
        }),
        Ok(_) => (file.role.runs() && !runnable(&meta)).then_some(Wrong::NotExecutable),
    }
}

/// Everything below the bundle's folder that is neither the manifest nor listed in it, nor what an interrupted run left
/// for the next one.
fn extras(bundle: &Bundle) -> Result<Vec<Difference>, BundleError> {
    let mut extras = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let here = bundle.dir().join(&below);
        let unread = |err| BundleError::Read {
            path: here.clone(),
            err,
        };
        for entry in fs::read_dir(&here).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let path = below.join(entry.file_name());
            if is_work(&path) {
                continue;
            }
            if entry.file_type().map_err(unread)?.is_dir() {
                todo.push(path);
            } else {
                let listed = bundle
                    .manifest()
                    .files
                    .iter()
                    .any(|file| Path::new(file.path.as_str()) == path);
                if !listed && path != Path::new(MANIFEST) {
                    extras.push(Difference {
                        path,
                        what: Wrong::Extra,
                    });
                }
            }
        }
    }
    Ok(extras)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Role;
    use crate::manifest::tests::manifest_of;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn bundle_at(dir: &Path) {
        let files: Vec<(String, Vec<u8>)> = (0..5)
            .map(|i| (format!("bin/tool-{i}"), vec![i; 300_000]))
            .collect();
        let listed: Vec<(&str, Role, &[u8])> = files
            .iter()
            .map(|(path, c)| (path.as_str(), Role::Binary, &c[..]))
            .collect();
        fs::create_dir(dir.join("bin")).unwrap();
        for (path, content) in &files {
            fs::write(dir.join(path), content).unwrap();
            fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(dir.join(MANIFEST), manifest_of(&listed).to_bytes()).unwrap();
    }

    #[test]
    fn a_whole_bundle_has_no_differences() {
        let dir = tempfile::tempdir().unwrap();
        bundle_at(dir.path());
        let mut finished = Vec::new();
        let differences = verify(dir.path(), &mut |progress| {
            if let Progress::Finished { number, of, .. } = progress {
                finished.push((number, of));
            }
        });
        assert_eq!(differences.unwrap(), []);
        assert_eq!(finished, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        bundle_at(dir.path());
        let at = |name: &str| dir.path().join("bin").join(name);
        // One flipped bit in the middle of a file.
        let mut bytes = fs::read(at("tool-0")).unwrap();
        bytes[150_000] ^= 1;
        fs::write(at("tool-0"), bytes).unwrap();
        fs::write(at("tool-1"), b"short").unwrap();
        fs::remove_file(at("tool-2")).unwrap();
        fs::remove_file(at("tool-3")).unwrap();
        symlink("tool-0", at("tool-3")).unwrap();
        fs::set_permissions(at("tool-4"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(dir.path().join("bin/ev\u{1b}il"), b"").unwrap();

        let shown: Vec<String> = verify(dir.path(), &mut |_| {})
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown.len(), 6, "{shown:#?}");
        for (line, want) in shown.iter().zip([
            "bin/ev\\u{1b}il: not listed in the manifest",
            "bin/tool-0: expected sha256 ",
            "bin/tool-1: expected 300000 bytes, found 5",
            "bin/tool-2: missing",
            "bin/tool-3: expected a plain file, found something else",
            "bin/tool-4: lacks the executable bit",
        ]) {
            assert!(line.starts_with(want), "{line} <> {want}");
        }
    }
}
