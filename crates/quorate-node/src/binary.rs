//! Which binary this is.

use std::path::Path;

use crate::{
    bundle::{digest_of, is_id},
    durable::FileError,
    paths::Paths,
};

/// SHA-256 of the running program, hex.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn own_hash(paths: &Paths) -> Result<String, FileError> {
    let own = Path::new("/proc/self/exe");
    if let Ok(program) = std::fs::read_link(own)
        && let Some(hash) = named(&program, &paths.binaries())
    {
        return Ok(hash.to_owned());
    }
    digest_of(own)
}

/// The hash in the name of a program that lies where programs are kept by hash. It was held to it when it was put there, and reading it
/// again would be half the cost of a look at a host.
fn named<'a>(program: &'a Path, folder: &Path) -> Option<&'a str> {
    if program.parent() != Some(folder) {
        return None;
    }
    let hash = program.file_name()?.to_str()?.strip_prefix("quorate-")?;
    is_id(hash).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_only_where_they_are_kept() {
        let hash = "ab".repeat(32);
        let folder = Path::new("/var/lib/quorate/bin");
        let program = folder.join(format!("quorate-{hash}"));
        assert_eq!(named(&program, folder), Some(hash.as_str()));
        assert_eq!(named(&program, Path::new("/usr/bin")), None);
        assert_eq!(named(&folder.join("quorate-1.0"), folder), None);
    }

    #[test]
    fn otherwise_it_is_read() {
        let own = std::env::current_exe().unwrap();
        let hash = own_hash(&Paths::host()).unwrap();
        assert_eq!(hash, digest_of(&own).unwrap());
    }
}
