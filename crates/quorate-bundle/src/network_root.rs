//! What the images of kube-proxy and Flannel need beside their own program: `nft`, `iptables`, `ip`, `conntrack`,
//! a shell and `cp`, with their libraries, taken from a Debian root. Start at [`NetworkRoot::read`].
//!
//! The root is only read, never run in: it may be another Debian's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::digest::{Inputs, hash_file};
use crate::elf::Needs;
use crate::image::{Entry, Tree};
use crate::version::Arch;

/// A program of the network images and the Debian package it comes from.
struct Program {
    name: &'static str,
    package: &'static str,
    /// Further names it goes by in the image.
    links: &'static [&'static str],
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "nft",
        package: "nftables",
        links: &[],
    },
    Program {
        name: "xtables-nft-multi",
        package: "iptables",
        links: &[
            "iptables",
            "iptables-save",
            "iptables-restore",
            "ip6tables",
            "ip6tables-save",
            "ip6tables-restore",
            "iptables-nft",
            "iptables-nft-save",
            "iptables-nft-restore",
            "ip6tables-nft",
            "ip6tables-nft-save",
            "ip6tables-nft-restore",
        ],
    },
    Program {
        name: "ip",
        package: "iproute2",
        links: &[],
    },
    Program {
        name: "conntrack",
        package: "conntrack",
        links: &[],
    },
    Program {
        name: "dash",
        package: "dash",
        links: &["sh"],
    },
    Program {
        name: "cp",
        package: "coreutils",
        links: &[],
    },
];

/// The protocols `nft` and `iptables` look up by name. Written here, since `/etc/protocols` is the administrator's file.
const PROTOCOLS: &str = "ip 0 IP\nicmp 1 ICMP\nigmp 2 IGMP\nipencap 4 IP-ENCAP\ntcp 6 TCP\nudp 17 UDP\ndccp 33 DCCP\n\
ipv6 41 IPv6\ngre 47 GRE\nesp 50 IPSEC-ESP\nah 51 IPSEC-AH\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\nudplite 136 UDPLite\n";

/// Folders a program is looked for in, inside the root.
const PROGRAM_FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// Symbolic links are followed at most this often before they count as a loop; the kernel's own limit.
const LINKS_MAX: usize = 40;

/// Why the files of the network images could not be gathered.
#[derive(Debug, Error)]
pub enum NetworkRootError {
    /// The folder is not a Debian system.
    #[error(
        "{root} is not a Debian system: {file} is missing\nhint: name a Debian root folder, such as one made by debootstrap"
    )]
    NotDebian {
        /// The folder.
        root: PathBuf,
        /// The file a Debian system has.
        file: &'static str,
    },
    /// Programs are missing.
    #[error("{root} lacks programs the network images need\nhint: in it, run `apt-get install --no-install-recommends {packages}`", packages = .packages.join(" "))]
    Missing {
        /// The folder.
        root: PathBuf,
        /// The packages that hold them.
        packages: Vec<String>,
    },
    /// A library one of the programs names is not in the root.
    #[error("{needed_by} needs {library}, which is in no library folder of {root}")]
    Library {
        /// The folder.
        root: PathBuf,
        /// The file name of the library.
        library: String,
        /// The file that names it.
        needed_by: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// The Debian packages that hold programs the network images need and `root` (`None`: this machine) lacks.
/// Empty when nothing is missing.
pub fn missing_packages(root: Option<&Path>) -> Vec<String> {
    let root = Root(root.unwrap_or(Path::new("/")));
    let missing = PROGRAMS
        .iter()
        .filter(|program| root.program(program.name).is_none());
    missing
        .map(|program| program.package.to_owned())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The files of the network images.
#[derive(Debug, Clone)]
pub(crate) struct NetworkRoot {
    pub(crate) tree: Tree,
    /// Version of each package a file was taken from.
    pub(crate) packages: BTreeMap<String, String>,
}

impl NetworkRoot {
    /// Gathers programs and libraries from a Debian root for an image of `arch`.
    ///
    /// # Errors
    /// When the folder is not Debian, lacks a program or a library, or cannot be read.
    pub(crate) fn read(root: &Path, arch: Arch) -> Result<Self, NetworkRootError> {
        let status = root.join("var/lib/dpkg/status");
        if !status.is_file() {
            return Err(NetworkRootError::NotDebian {
                root: root.to_owned(),
                file: "/var/lib/dpkg/status",
            });
        }
        let packages = missing_packages(Some(root));
        if !packages.is_empty() {
            return Err(NetworkRootError::Missing {
                root: root.to_owned(),
                packages,
            });
        }
        let mut gathering = Gathering {
            root: Root(root),
            arch,
            files: BTreeMap::new(),
        };
        let mut links = Vec::new();
        for program in PROGRAMS {
            let path = gathering
                .root
                .program(program.name)
                .expect("missing_packages found it");
            let folder = under_usr(
                path.strip_suffix(program.name)
                    .expect("a program's path ends with its name"),
            );
            links.extend(
                program
                    .links
                    .iter()
                    .map(|link| (format!("{folder}{link}"), program.name)),
            );
            gathering.add(path)?;
        }
        let modules = format!("usr/lib/{}/xtables", arch.triplet());
        for module in gathering
            .root
            .list(&modules)
            .map_err(|err| read_error(&root.join(&modules), err))?
        {
            // libxt_NAME.so and libipt_NAME.so; some are links to others.
            if module.ends_with(".so") {
                gathering.add(format!("{modules}/{module}"))?;
            }
        }
        let files = gathering.files;

        let mut tree = Tree::default();
        for (link, target) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/sbin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            tree.put(link, Entry::Link(target.to_owned()));
        }
        tree.put("tmp", Entry::Folder { mode: 0o1777 });
        tree.put("run", Entry::Folder { mode: 0o755 });
        tree.put("etc/protocols", Entry::Text(PROTOCOLS));
        tree.put("etc/passwd", Entry::Text("root:x:0:0:root:/:/bin/sh\n"));
        tree.put("etc/group", Entry::Text("root:x:0:\n"));
        for (path, from) in &files {
            let mode = if path.contains("/bin/") || path.contains("/sbin/") || path.contains("/ld-")
            {
                0o755
            } else {
                0o644
            };
            tree.put(
                path,
                Entry::File {
                    from: from.clone(),
                    mode,
                },
            );
        }
        for (path, program) in links {
            tree.put(&path, Entry::Link(program.to_owned()));
        }
        let packages = owners(root, files.values())?;
        Ok(Self { tree, packages })
    }

    /// Adds the content of every file to a digest, so that an upgraded package makes the image anew.
    pub(crate) fn add_to(&self, inputs: &mut Inputs) -> Result<(), NetworkRootError> {
        for (path, entry) in self.tree.entries() {
            match entry {
                Entry::File { from, mode } => {
                    let content =
                        hash_file(from, &mut |_| {}).map_err(|err| read_error(from, err))?;
                    inputs.add(path, format!("{mode:o} {}", content.sha256));
                }
                other => inputs.add(path, format!("{other:?}")),
            }
        }
        for (package, version) in &self.packages {
            inputs.add(package, version);
        }
        Ok(())
    }
}

struct Gathering<'a> {
    root: Root<'a>,
    arch: Arch,
    /// Path in the image (under `usr`) to the file on this machine.
    files: BTreeMap<String, PathBuf>,
}

impl Gathering<'_> {
    /// Adds a file and, by their names, all libraries it needs.
    fn add(&mut self, path: String) -> Result<(), NetworkRootError> {
        let mut todo = vec![path];
        while let Some(path) = todo.pop() {
            let in_image = under_usr(&path);
            if self.files.contains_key(&in_image) {
                continue;
            }
            let from = self
                .root
                .resolve(&path)
                .map_err(|err| read_error(&self.root.0.join(&path), err))?;
            let bytes = fs::read(&from).map_err(|err| read_error(&from, err))?;
            let needs = Needs::of(&bytes).map_err(|err| read_error(&from, err))?;
            self.files.insert(in_image, from);
            todo.extend(
                needs
                    .loader
                    .iter()
                    .map(|loader| loader.trim_start_matches('/').to_owned()),
            );
            for library in &needs.libraries {
                todo.push(self.library(library, &needs.folders, &path)?);
            }
        }
        Ok(())
    }

    fn library(
        &self,
        name: &str,
        folders: &[String],
        needed_by: &str,
    ) -> Result<String, NetworkRootError> {
        let triplet = self.arch.triplet();
        let usual = [
            format!("usr/lib/{triplet}"),
            format!("lib/{triplet}"),
            "usr/lib".into(),
            "usr/lib64".into(),
            "lib".into(),
        ];
        let own = folders
            .iter()
            .filter(|folder| folder.starts_with('/'))
            .map(|folder| folder.trim_matches('/').to_owned());
        own.chain(usual)
            .map(|folder| format!("{folder}/{name}"))
            .find(|path| self.root.resolve(path).is_ok_and(|file| file.is_file()))
            .ok_or_else(|| NetworkRootError::Library {
                root: self.root.0.to_owned(),
                library: name.to_owned(),
                needed_by: needed_by.to_owned(),
            })
    }
}

/// A folder that is some system's `/`: links inside it are followed as that system would.
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn program(&self, name: &str) -> Option<String> {
        PROGRAM_FOLDERS
            .iter()
            .map(|folder| format!("{folder}/{name}"))
            .find(|path| self.resolve(path).is_ok_and(|file| file.is_file()))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.resolve(folder)?)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// The file a path of that system means, with every link followed inside the root.
    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let mut todo: Vec<PathBuf> = vec![path.into()];
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(path) = todo.pop() {
            let mut parts = path.components();
            let Some(first) = parts.next() else { continue };
            let rest = parts.as_path().to_owned();
            todo.push(rest);
            match first {
                Component::RootDir => done = PathBuf::new(),
                // `..` at the top stays at the top, as in any root.
                Component::ParentDir => drop(done.pop()),
                Component::CurDir | Component::Prefix(_) => {}
                Component::Normal(name) => {
                    let here = self.0.join(&done).join(name);
                    if fs::symlink_metadata(&here)?.is_symlink() {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(io::Error::new(
                                io::ErrorKind::InvalidInput,
                                "too many symbolic links",
                            ));
                        }
                        todo.push(fs::read_link(&here)?);
                    } else {
                        done.push(name);
                    }
                }
            }
        }
        Ok(self.0.join(done))
    }
}

/// Debian's merged `/usr`: `/lib/x` and `/usr/lib/x` are one file, and the image has it under `usr`.
fn under_usr(path: &str) -> String {
    let path = path.trim_start_matches('/');
    if path.starts_with("usr/") {
        path.to_owned()
    } else {
        format!("usr/{path}")
    }
}

/// Name and version of the package of each file.
fn owners<'a>(
    root: &Path,
    files: impl Iterator<Item = &'a PathBuf>,
) -> Result<BTreeMap<String, String>, NetworkRootError> {
    let wanted: BTreeSet<String> = files
        .filter_map(|file| file.strip_prefix(root).ok())
        .filter_map(|path| path.to_str().map(under_usr))
        .collect();
    let mut names = BTreeSet::new();
    let info = root.join("var/lib/dpkg/info");
    for entry in fs::read_dir(&info).map_err(|err| read_error(&info, err))? {
        let path = entry.map_err(|err| read_error(&info, err))?.path();
        let Some(package) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".list"))
        else {
            continue;
        };
        let list = fs::read(&path).map_err(|err| read_error(&path, err))?;
        if String::from_utf8_lossy(&list)
            .lines()
            .any(|line| wanted.contains(&under_usr(line)))
        {
            // libc6:amd64 where packages of several processors can be installed side by side
            names.insert(package.split(':').next().unwrap_or(package).to_owned());
        }
    }
    let status = root.join("var/lib/dpkg/status");
    let status = fs::read(&status).map_err(|err| read_error(&status, err))?;
    let status = String::from_utf8_lossy(&status);
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(": ")
                .map(str::to_owned)
        })
    };
    Ok(status
        .split("\n\n")
        .filter_map(|stanza| Some((field(stanza, "Package")?, field(stanza, "Version")?)))
        .filter(|(package, _)| names.contains(package))
        .collect())
}

fn read_error(path: &Path, err: io::Error) -> NetworkRootError {
    NetworkRootError::Read {
        path: path.to_owned(),
        err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib/libx.so.1.2"), b"x").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/lib/libx.so.1", root.join("usr/lib/libx.so")).unwrap();
        symlink(
            "../../../../usr/lib/libx.so.1.2",
            root.join("usr/lib/libx.so.1"),
        )
        .unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let at = Root(root);
        assert_eq!(
            at.resolve("lib/libx.so").unwrap(),
            root.join("usr/lib/libx.so.1.2")
        );
        assert!(at.resolve("loop").is_err());
        assert!(at.resolve("lib/absent").is_err());
    }

    #[test]
    fn names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let err = NetworkRoot::read(root, Arch::Amd64).unwrap_err();
        assert!(err.to_string().contains("is not a Debian system"), "{err}");

        for folder in ["var/lib/dpkg/info", "usr/sbin", "usr/bin"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
        for program in PROGRAMS
            .iter()
            .filter(|program| program.package != "iptables")
        {
            fs::write(root.join("usr/sbin").join(program.name), b"").unwrap();
        }
        assert_eq!(missing_packages(Some(root)), ["iptables"]);
        let err = NetworkRoot::read(root, Arch::Amd64).unwrap_err();
        assert!(
            err.to_string()
                .contains("apt-get install --no-install-recommends iptables"),
            "{err}"
        );
    }

    #[test]
    fn finds_the_owners_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
        fs::write(
            root.join("var/lib/dpkg/info/libc6:amd64.list"),
            "/.\n/lib\n/lib/libc.so.6\n",
        )
        .unwrap();
        fs::write(
            root.join("var/lib/dpkg/info/other.list"),
            "/usr/bin/other\n",
        )
        .unwrap();
        let status = "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\nPackage: other\nVersion: 1\n";
        fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
        let files = [root.join("usr/lib/libc.so.6")];
        let owners = owners(root, files.iter()).unwrap();
        assert_eq!(
            owners,
            BTreeMap::from([("libc6".to_owned(), "2.36-9".to_owned())])
        );
    }
}
