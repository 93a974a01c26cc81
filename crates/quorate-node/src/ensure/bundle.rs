//! The bundle lies on the host, every file with its hash.
//!
//! The operator's machine copies it to `bundles/<id>.partial`; here every file is held to the manifest before the folder gets its name.

use std::fs::File;

use nix::unistd::syncfs;

use super::Work;
use crate::{
    bundle::{self, Manifest},
    durable::{self, FileError},
    error::ActionError,
    paths::Paths,
};

pub(super) async fn ensure(work: &Work<'_>, id: &str) -> Result<(), ActionError> {
    let (paths, id) = (work.paths.clone(), id.to_owned());
    tokio::task::spawn_blocking(move || place(&paths, &id))
        .await
        .expect("checking files does not panic")
}

fn place(paths: &Paths, id: &str) -> Result<(), ActionError> {
    if !bundle::is_id(id) {
        return Err(ActionError::unexpected(
            "a bundle's ID of 64 hexadecimal digits",
            id,
            "use the ID that `quorate bundle` prints",
        ));
    }
    let place = paths.bundle(id);
    if place.join("manifest.json").exists() {
        return Ok(());
    }
    let partial = paths.bundle(&format!("{id}.partial"));
    let manifest = Manifest::read(&partial, id)?;
    for file in &manifest.files {
        file.check(&partial, &mut std::io::sink())?;
    }
    // The name promises whole files: what was copied has to be on the disk before it.
    File::open(&partial)
        .and_then(|folder| syncfs(folder).map_err(Into::into))
        .map_err(FileError::new("sync", &partial))?;
    Ok(durable::rename(&partial, &place)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::tests::write, testing};

    #[test]
    fn a_whole_bundle_gets_its_name() {
        let machine = testing::machine();
        let id = write(&machine, ".partial", &[("bin/a", "binary", "a")]);
        place(&machine.paths, &id).unwrap();
        assert!(machine.paths.bundle(&id).join("bin/a").exists());
        place(&machine.paths, &id).unwrap();
    }

    #[test]
    fn a_damaged_or_absent_one_does_not() {
        let machine = testing::machine();
        let id = write(&machine, ".partial", &[("bin/a", "binary", "a")]);
        machine.write(&format!("/var/lib/quorate/bundles/{id}.partial/bin/a"), "b");
        assert!(place(&machine.paths, &id).is_err());
        assert!(!machine.paths.bundle(&id).exists());
        let err = place(&machine.paths, &"0".repeat(64)).unwrap_err();
        assert!(err.to_string().contains("no manifest.json"), "{err}");
        assert!(place(&machine.paths, "../../etc").is_err());
    }
}
