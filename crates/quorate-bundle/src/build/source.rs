//! The folder of a component's sources and what it pins. Start at [`Source::find`].

use std::fs;
use std::path::{Path, PathBuf};

use super::{BuildError, BuildRequest};
use crate::component::{Component, ImageRecipe, StampValue};
use crate::folder::{FolderError, at};
use crate::go_mod;

/// A component's folder and what it pins.
pub(super) struct Source<'a> {
    pub(super) component: &'a Component,
    pub(super) dir: PathBuf,
    /// As the module's maker writes it, with the `v` where there is one.
    pub(super) version: String,
    /// `module@version`, and the checksum of its content.
    pub(super) origin: String,
}

impl<'a> Source<'a> {
    pub(super) fn find(
        request: &BuildRequest<'_>,
        component: &'a Component,
    ) -> Result<Self, BuildError> {
        let of_minor =
            request
                .sources
                .join(format!("{}-{}", component.name, request.kubernetes.line()));
        let dir = if of_minor.is_dir() {
            of_minor
        } else {
            request.sources.join(component.name)
        };
        let path = dir.join("go.mod");
        let Ok(go_mod) = fs::read_to_string(&path) else {
            return Err(BuildError::NoSources {
                path,
                component: component.name,
            });
        };
        let Some(module) = component.module else {
            let version = component.version.clone().unwrap_or_default();
            return Ok(Self {
                component,
                dir,
                version,
                origin: format!("bundle/{}", component.name),
            });
        };
        let version = go_mod::required(&go_mod, module).ok_or(BuildError::NoVersion {
            path: path.clone(),
            module,
        })?;
        if component.constants.is_some() && version != request.kubernetes.tag() {
            let pinned = version.trim_start_matches('v').to_owned();
            return Err(BuildError::OtherVersion {
                asked: request.kubernetes,
                pinned,
                path,
            });
        }
        let sums = fs::read_to_string(dir.join("go.sum")).unwrap_or_default();
        let sum = go_mod::sum(&sums, module, &version)
            .map(|sum| format!(" {sum}"))
            .unwrap_or_default();
        Ok(Self {
            component,
            dir,
            origin: format!("{module}@{version}{sum}"),
            version,
        })
    }

    pub(super) fn reference(&self, image: &ImageRecipe) -> String {
        image
            .role
            .reference(&self.component.tag(image, &self.version))
    }

    /// What the linker is told: no symbol table, and the versions the programs answer with.
    pub(super) fn linker_flags(&self) -> String {
        let mut flags = String::from("-s -w");
        for stamp in &self.component.stamps {
            let value = match &stamp.value {
                StampValue::Is(text) => text,
                StampValue::Version => &self.version,
            };
            flags.push_str(&format!(" -X {}={value}", stamp.variable));
        }
        flags
    }
}

/// Every file below a folder, by its relative path, ordered.
pub(super) fn files_under(dir: &Path) -> Result<Vec<String>, FolderError> {
    let mut files = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        let here = dir.join(&below);
        for entry in fs::read_dir(&here).map_err(at("list", &here))? {
            let entry = entry.map_err(at("list", &here))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() {
                name
            } else {
                format!("{below}/{name}")
            };
            let kind = entry.file_type().map_err(at("read", &entry.path()))?;
            if kind.is_dir() {
                todo.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Copies a tree of plain files; permissions become the default ones, since a module cache is read-only.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), FolderError> {
    for file in files_under(from)? {
        let (source, target) = (from.join(&file), to.join(&file));
        let folder = target.parent().expect("a file has a folder above it");
        fs::create_dir_all(folder).map_err(at("create", folder))?;
        let bytes = fs::read(&source).map_err(at("read", &source))?;
        fs::write(&target, bytes).map_err(at("write", &target))?;
    }
    Ok(())
}
