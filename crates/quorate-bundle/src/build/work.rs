//! Making the files and images of one component. Start at [`Work::make`].

use std::fs;
use std::path::{Path, PathBuf};

use super::BuildError;
use super::source::{Source, copy, files_under};
use crate::component::{ImageRecipe, path};
use crate::digest::{Content, Inputs, Sha256, hash_file};
use crate::folder::{Folder, at};
use crate::go::{Go, GoBuild};
use crate::image::{Entry, Image, Tree};
use crate::manifest::{FileEntry, ImageRole, Role};
use crate::network_root::NetworkRoot;
use crate::version::Arch;

/// Raised when this program makes other bytes of the same inputs, so that nothing old is kept.
const RECIPE: &str = "1";

/// The folder of a component that holds replacements for folders of its module's source.
const INSTEAD: &str = "instead";

/// One component being worked on.
pub(super) struct Work<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) arch: Arch,
    pub(super) go: &'a Go,
    pub(super) network: Option<&'a NetworkRoot>,
    pub(super) folder: &'a Folder,
}

impl Work<'_> {
    pub(super) fn inputs(&self) -> Result<Sha256, BuildError> {
        let component = self.source.component;
        let mut inputs = Inputs::new();
        inputs.add("recipe", RECIPE);
        inputs.add("component", format!("{component:?}"));
        inputs.add("version", &self.source.version);
        inputs.add("toolchain", &self.go.version);
        inputs.add("arch", self.arch.name());
        for file in files_under(&self.source.dir)? {
            let content = hash_file(&self.source.dir.join(&file), &mut |_| {});
            let content = content.map_err(at("read", &self.source.dir.join(&file)))?;
            inputs.add(&file, content.sha256.to_string());
        }
        if component.images.iter().any(|image| image.network) {
            self.network
                .expect("gathered when any image needs it")
                .add_to(&mut inputs)?;
        }
        Ok(inputs.finish())
    }

    /// The entries of this component's files, if all are there and were made from the same inputs.
    pub(super) fn unchanged(&self, inputs: Sha256) -> Option<Vec<FileEntry>> {
        let paths = self.source.component.paths();
        let entries = paths.iter().map(|path| {
            let entry = self
                .folder
                .previous
                .iter()
                .find(|entry| entry.path == *path)?;
            (entry.inputs == Some(inputs) && self.folder.holds(entry)).then(|| entry.clone())
        });
        entries.collect()
    }

    pub(super) fn make(&self, inputs: Sha256) -> Result<Vec<FileEntry>, BuildError> {
        let (component, folder) = (self.source.component, self.folder);
        let failed = |err| BuildError::Go {
            component: component.name,
            err,
        };
        let scratch = folder.scratch()?;
        let module = scratch.path().join("module");
        let programs = scratch.path().join("programs");
        copy(&self.source.dir, &module)?;
        fs::create_dir(&programs).map_err(at("create", &programs))?;
        self.check_constants(&module)?;
        self.replace_folders(&module)?;
        let linker_flags = self.source.linker_flags();
        let go_build = GoBuild {
            tags: component.tags,
            linker_flags: &linker_flags,
            packages: component
                .programs
                .iter()
                .map(|program| program.package)
                .collect(),
        };
        self.go
            .build(&module, &programs, &go_build)
            .map_err(failed)?;

        let mut entries = Vec::new();
        let entry = |path, role, content: Content, built| FileEntry {
            path,
            size: content.size,
            sha256: content.sha256,
            role,
            version: self.source.version.clone(),
            source: self.source.origin.clone(),
            built,
            inputs: Some(inputs),
            image: None,
        };
        for recipe in &component.images {
            let reference = self.source.reference(recipe);
            let image = self.image(recipe, &reference, &programs);
            let content = folder.write(&recipe.role.path(), false, |out| {
                image.write(out).map(|(_, content)| content)
            })?;
            let tools = if recipe.network {
                ", with packet filter tools of the Debian packages above"
            } else {
                ""
            };
            let built = format!("one layer: {}{tools}", go_build.describe());
            entries.push(FileEntry {
                image: Some(reference),
                ..entry(recipe.role.path(), Role::Image, content, built)
            });
        }
        for program in &component.programs {
            let Some((role, place)) = program.place else {
                continue;
            };
            let from = programs.join(program.name);
            let content = hash_file(&from, &mut |_| {}).map_err(at("read", &from))?;
            folder.take(&from, &path(place, program.name), role.runs())?;
            entries.push(entry(
                path(place, program.name),
                role,
                content,
                go_build.describe(),
            ));
        }
        for addon in &component.addons {
            let from = self.source.dir.join(addon.file);
            let text = fs::read_to_string(&from).map_err(at("read", &from))?;
            let text = text.replace("${IMAGE}", &self.reference_of(addon.image));
            let content = Content {
                size: text.len() as u64,
                sha256: Sha256::of(text.as_bytes()),
            };
            folder.write(&path("manifests", addon.file), false, |out| {
                out.write_all(text.as_bytes()).map(|()| content)
            })?;
            let source = format!("bundle/{}/{}", component.name, addon.file);
            let built = "a text of ours, with the image's reference".to_owned();
            entries.push(FileEntry {
                source,
                ..entry(path("manifests", addon.file), Role::Addon, content, built)
            });
        }
        Ok(entries)
    }

    fn reference_of(&self, role: ImageRole) -> String {
        let mut images = self.source.component.images.iter();
        let recipe = images
            .find(|image| image.role == role)
            .expect("an addon names an image of its own component");
        self.source.reference(recipe)
    }

    fn image(&self, recipe: &ImageRecipe, reference: &str, programs: &Path) -> Image {
        let mut tree = match (recipe.network, self.network) {
            (true, Some(root)) => root.tree.clone(),
            _ => Tree::default(),
        };
        for (program, place) in &recipe.programs {
            tree.put(
                place,
                Entry::File {
                    from: programs.join(program),
                    mode: 0o755,
                },
            );
        }
        let entrypoint = recipe
            .programs
            .first()
            .map(|(_, place)| format!("/{place}"))
            .unwrap_or_default();
        Image {
            reference: reference.to_owned(),
            arch: self.arch,
            entrypoint,
            tree,
        }
    }

    /// Compares this program's table with the source that is about to be compiled.
    fn check_constants(&self, module: &Path) -> Result<(), BuildError> {
        let Some(constants) = &self.source.component.constants else {
            return Ok(());
        };
        let dir = self.module_source(module)?;
        let path = dir.join(constants.file);
        let text = fs::read_to_string(&path).map_err(at("read", &path))?;
        for &(name, expected) in &constants.values {
            let found = text
                .lines()
                .find_map(|line| {
                    line.trim()
                        .strip_prefix(name)?
                        .trim_start()
                        .strip_prefix('=')
                })
                .map_or("nothing", str::trim);
            if found != format!("{expected:?}") {
                return Err(BuildError::Constant {
                    file: constants.file,
                    name,
                    found: found.to_owned(),
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Where the component has a folder `instead`, builds from a copy of the module's source in which each folder that
    /// `instead` has files for holds only those.
    fn replace_folders(&self, module: &Path) -> Result<(), BuildError> {
        let instead = module.join(INSTEAD);
        if !instead.is_dir() {
            return Ok(());
        }
        let copied = module.join("src");
        copy(&self.module_source(module)?, &copied)?;
        for file in files_under(&instead)? {
            let folder = copied.join(&file);
            let folder = folder.parent().expect("a file has a folder above it");
            if folder.is_dir() {
                fs::remove_dir_all(folder).map_err(at("remove", folder))?;
            }
        }
        copy(&instead, &copied)?;
        let path = module.join("go.mod");
        let mut text = fs::read_to_string(&path).map_err(at("read", &path))?;
        let name = self
            .source
            .component
            .module
            .expect("only a module's source has folders to replace");
        // A relative path: the folder's own name would show in the program.
        text.push_str(&format!("\nreplace {name} => ./src\n"));
        fs::write(&path, text).map_err(at("write", &path))?;
        Ok(())
    }

    fn module_source(&self, module: &Path) -> Result<PathBuf, BuildError> {
        let component = self.source.component;
        let name = component
            .module
            .expect("only a component of a module has its source");
        self.go.source(module, name).map_err(|err| BuildError::Go {
            component: component.name,
            err,
        })
    }
}
