//! containerd has the images, from the archives of the bundle, and the kubelet keeps them: they are in no registry to pull them from again.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Work;
use crate::{
    bundle::{BundleFile, Manifest, Role},
    command::Command,
    error::ActionError,
    facts::{PINNED, list_images},
};

/// Archives imported at once. Unpacking is bound by the disk; a second one fills the gaps of the first.
const IMPORTS_MAX: usize = 2;

pub(super) async fn ensure(
    work: &Work<'_>,
    bundle: &str,
    images: &BTreeSet<String>,
) -> Result<(), ActionError> {
    let there = list_images(work.tools, false, work.patience).await?;
    let pinned = list_images(work.tools, true, work.patience).await?;
    for image in images
        .intersection(&there)
        .filter(|image| !pinned.contains(*image))
    {
        pin(work, image).await?;
    }
    let folder = work.paths.bundle(bundle);
    let manifest = Manifest::read(&folder, bundle)?;
    let mut imports = Vec::new();
    for image in images.difference(&there) {
        let archive = manifest
            .of(Role::Image)
            .find(|file| file.image.as_ref() == Some(image))
            .ok_or_else(|| {
                ActionError::unexpected(
                    format!("image {image} in the bundle"),
                    format!("no such image in bundle {bundle}"),
                    "build the bundle again, or use the one the plan was made with",
                )
            })?;
        imports.push(import(work, &folder, archive, image));
    }
    stream::iter(imports)
        .buffer_unordered(IMPORTS_MAX)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn import(
    work: &Work<'_>,
    folder: &std::path::Path,
    archive: &BundleFile,
    image: &str,
) -> Result<(), ActionError> {
    let (file, from) = (archive.clone(), folder.to_owned());
    tokio::task::spawn_blocking(move || file.check(&from, &mut std::io::sink()))
        .await
        .expect("checking a file does not panic")?;
    let import = Command::new("ctr", work.patience)
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive.under(folder));
    work.tools.run(import).await?;
    // A step of its own: the `ctr` of a distribution's containerd cannot label what it imports.
    pin(work, image).await?;
    work.progress.say(format!("imported {image}"));
    Ok(())
}

/// Lets the kubelet keep an image.
async fn pin(work: &Work<'_>, image: &str) -> Result<(), ActionError> {
    let label = ["--namespace", "k8s.io", "images", "label", image, PINNED];
    let label = Command::new("ctr", work.patience).args(label);
    work.tools.run(label).await?;
    Ok(())
}
