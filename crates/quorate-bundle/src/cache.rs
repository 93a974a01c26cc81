//! Finished components kept between bundles, by the digest of their inputs. Start at [`take`] and [`put`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Hashing, Sha256};
use crate::folder::{Folder, FolderError, at, write_whole};
use crate::manifest::FileEntry;

/// Lists the entries of a kept component; written last, so that a half-written component has none.
const ENTRIES: &str = "entries.json";

fn place(cache: &Path, component: &str, inputs: Sha256) -> PathBuf {
    cache.join(format!("{component}-{inputs}"))
}

/// Copies a kept component into a bundle. `None` when there is none, or when a file of it is not what it was:
/// it is then made anew.
pub(crate) fn take(
    cache: Option<&Path>,
    component: &str,
    inputs: Sha256,
    folder: &Folder,
) -> Result<Option<Vec<FileEntry>>, FolderError> {
    let Some(kept) = cache.map(|cache| place(cache, component, inputs)) else {
        return Ok(None);
    };
    let Some(entries) = fs::read(kept.join(ENTRIES))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Vec<FileEntry>>(&bytes).ok())
    else {
        return Ok(None);
    };
    for entry in &entries {
        let Ok(mut from) = fs::File::open(entry.path.under(&kept)) else {
            return Ok(None);
        };
        let content = folder.write(&entry.path, entry.role.runs(), |out| {
            let mut hashing = Hashing::new(out);
            io::copy(&mut from, &mut hashing)?;
            Ok(hashing.finish().1)
        })?;
        if content.sha256 != entry.sha256 {
            return Ok(None);
        }
    }
    Ok(Some(entries))
}

/// Keeps a component that was just made.
pub(crate) fn put(
    cache: Option<&Path>,
    component: &str,
    inputs: Sha256,
    entries: &[FileEntry],
    folder: &Folder,
) -> Result<(), FolderError> {
    let Some(kept) = cache.map(|cache| place(cache, component, inputs)) else {
        return Ok(());
    };
    for entry in entries {
        let target = entry.path.under(&kept);
        let parent = target
            .parent()
            .expect("a bundle path has a folder above it");
        fs::create_dir_all(parent).map_err(at("create", parent))?;
        // A copy, not a link: whatever happens to the bundle must not happen to the cache.
        fs::copy(entry.path.under(folder.dir()), &target).map_err(at("write", &target))?;
    }
    write_whole(
        &kept.join(ENTRIES),
        &serde_json::to_vec(entries).expect("entries serialize"),
    )
}
