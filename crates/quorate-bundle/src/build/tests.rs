//! Builds of a tiny program, through the whole path a real component takes.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::component::{Component, ImageRecipe, Program, Stamp, StampValue, Tag};
use crate::manifest::{ImageRole, Role};
use crate::{Bundle, verify};

/// Whether `go` is there. Where continuous integration runs it must be.
fn go_is_there() -> bool {
    let there = std::process::Command::new("go")
        .arg("version")
        .output()
        .is_ok_and(|out| out.status.success());
    if !there {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "the program `go` is absent"
        );
        eprintln!("SKIPPED: the program `go` is absent");
    }
    there
}

const MAIN: &str =
    "package main\n\nvar version string\n\nfunc main() { println(\"hello\", version) }\n";

fn hello() -> Component {
    Component {
        name: "hello",
        module: None,
        version: Some("v1".into()),
        tags: "",
        stamps: vec![Stamp {
            variable: "main.version".into(),
            value: StampValue::Version,
        }],
        programs: vec![Program {
            package: ".",
            name: "hello",
            place: Some((Role::Binary, "bin")),
        }],
        images: vec![ImageRecipe {
            role: ImageRole::Pause,
            tag: Tag::Version,
            programs: vec![("hello", "hello")],
            network: false,
        }],
        addons: vec![],
        constants: None,
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A folder with sources of one program.
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(place.source("")).unwrap();
        fs::write(
            place.source("go.mod"),
            "module example.org/hello\n\ngo 1.21\n",
        )
        .unwrap();
        fs::write(place.source("main.go"), MAIN).unwrap();
        fs::write(place.dir.path().join("sources/toolchain"), "go1.0\n").unwrap();
        place
    }

    fn source(&self, file: &str) -> PathBuf {
        self.dir.path().join("sources/hello").join(file)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn build(&self, cache: Option<&Path>) -> Result<(BundleId, Outcome), BuildError> {
        let (sources, out) = (self.dir.path().join("sources"), self.out());
        let request = BuildRequest {
            kubernetes: "1.35.4".parse().unwrap(),
            sources: &sources,
            out: &out,
            cache,
            root: None,
            toolchain: Toolchain::Installed,
        };
        let mut told = Vec::new();
        let report = build_components(&request, &[hello()], &mut |progress| told.push(progress))?;
        assert!(
            matches!(
                &told[..],
                [
                    Progress::Started {
                        number: 1,
                        of: 1,
                        ..
                    },
                    Progress::Finished { .. }
                ]
            ),
            "{told:?}"
        );
        assert_eq!(verify(&out, &mut |_| {}).unwrap(), []);
        assert_eq!(Bundle::open(&out).unwrap().id(), report.id);
        Ok((report.id, report.components[0].1))
    }
}

fn chain(err: &dyn std::error::Error) -> String {
    match err.source() {
        Some(source) => format!("{err}: {}", chain(source)),
        None => err.to_string(),
    }
}

#[test]
fn two_folders_give_the_same_bundle() {
    if !go_is_there() {
        return;
    }
    let (a, b) = (Place::new(), Place::new());
    let (first, _) = a.build(None).unwrap();
    let (second, _) = b.build(None).unwrap();
    assert_eq!(first, second);
    for path in ["bin/hello", "images/pause.tar", "manifest.json"] {
        assert!(
            fs::read(a.out().join(path)).unwrap() == fs::read(b.out().join(path)).unwrap(),
            "{path}"
        );
    }
    let said = std::process::Command::new(a.out().join("bin/hello"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stderr), "hello v1\n");
}

#[test]
fn only_what_changed_is_built() {
    if !go_is_there() {
        return;
    }
    let place = Place::new();
    let (first, outcome) = place.build(None).unwrap();
    assert_eq!(outcome, Outcome::Built);
    let modified = || {
        fs::metadata(place.out().join("manifest.json"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = modified();
    assert_eq!(place.build(None).unwrap(), (first, Outcome::Unchanged));
    assert_eq!(
        modified(),
        before,
        "a build without a change writes nothing"
    );

    // A damaged file is made again, to the same bytes.
    let program = place.out().join("bin/hello");
    let mut bytes = fs::read(&program).unwrap();
    bytes[1000] ^= 1;
    fs::write(&program, bytes).unwrap();
    assert_eq!(place.build(None).unwrap(), (first, Outcome::Built));

    fs::write(place.source("main.go"), MAIN.replace("hello", "goodbye")).unwrap();
    let (second, outcome) = place.build(None).unwrap();
    assert_eq!(outcome, Outcome::Built);
    assert_ne!(first, second);
}

#[test]
fn the_cache_serves_other_bundles_and_is_not_trusted() {
    if !go_is_there() {
        return;
    }
    let (a, b, c) = (Place::new(), Place::new(), Place::new());
    let cache = tempfile::tempdir().unwrap();
    let (id, _) = a.build(Some(cache.path())).unwrap();
    assert_eq!(b.build(Some(cache.path())).unwrap(), (id, Outcome::Cached));

    let kept = fs::read_dir(cache.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(kept.join("bin/hello"), "something else").unwrap();
    assert_eq!(c.build(Some(cache.path())).unwrap(), (id, Outcome::Built));
}

#[test]
fn a_compile_error_is_shown_and_leaves_what_was_there() {
    if !go_is_there() {
        return;
    }
    let place = Place::new();
    let (first, _) = place.build(None).unwrap();
    fs::write(place.source("main.go"), MAIN.replace("println", "printn")).unwrap();
    let err = chain(&place.build(None).unwrap_err());
    for part in [
        "building hello failed",
        "go build -trimpath",
        "undefined: printn",
    ] {
        assert!(err.contains(part), "{err}");
    }
    assert_eq!(Bundle::open(&place.out()).unwrap().id(), first);
    assert_eq!(verify(&place.out(), &mut |_| {}).unwrap(), []);

    // Back to the old source: nothing to do.
    fs::write(place.source("main.go"), MAIN).unwrap();
    assert_eq!(place.build(None).unwrap(), (first, Outcome::Unchanged));
}

#[test]
fn wrong_sources_are_named_before_anything_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let request = |kubernetes: &str| BuildRequest {
        kubernetes: kubernetes.parse().unwrap(),
        sources: dir.path(),
        out: Path::new("/nonexistent/out"),
        cache: None,
        root: None,
        toolchain: Toolchain::Pinned,
    };
    let err = build(&request("1.35.4"), &mut |_| {}).unwrap_err();
    assert!(
        matches!(
            err,
            BuildError::NoSources {
                component: "pause",
                ..
            }
        ),
        "{err}"
    );
    let err = build(&request("1.2.3"), &mut |_| {}).unwrap_err();
    assert!(matches!(err, BuildError::Minor(_)), "{err}");

    let kube = Component {
        name: "kubernetes",
        module: Some("k8s.io/kubernetes"),
        ..hello()
    };
    let kube = Component {
        constants: Some(crate::component::Constants {
            file: "c.go",
            values: vec![],
        }),
        ..kube
    };
    fs::create_dir(dir.path().join("kubernetes-1.35")).unwrap();
    fs::write(
        dir.path().join("kubernetes-1.35/go.mod"),
        "require k8s.io/kubernetes v1.35.4\n",
    )
    .unwrap();
    let err = build_components(&request("1.35.5"), &[kube], &mut |_| {}).unwrap_err();
    assert!(
        err.to_string()
            .starts_with("asked for Kubernetes 1.35.5, but "),
        "{err}"
    );
    assert!(err.to_string().contains("pins 1.35.4"), "{err}");
}

#[test]
fn the_repository_has_sources_of_every_known_minor() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundle");
    for asked in ["1.34.4", "1.35.4", "1.36.3"] {
        let kubernetes: KubernetesVersion = asked.parse().unwrap();
        let request = BuildRequest {
            kubernetes,
            sources: &sources,
            out: Path::new("/nonexistent/out"),
            cache: None,
            root: None,
            toolchain: Toolchain::Pinned,
        };
        let tags = kubernetes.kubeadm_tags().unwrap();
        for component in components(kubernetes, tags) {
            let source = Source::find(&request, &component).unwrap();
            assert!(
                component.module.is_none() || source.origin.contains(" h1:"),
                "{}: go.sum pins it",
                component.name
            );
            if component.name == "coredns" {
                // kubeadm upgrades only the versions of CoreDNS it knows; its default is one of them.
                assert_eq!(source.version, tags.coredns);
            }
        }
    }
}
