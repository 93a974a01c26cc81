//! An operator's day against a cluster in memory: every story in `memory/` is a list of commands and of things that happen to the cluster,
//! with what the operator sees. Time is virtual. `QUORATE_BLESS=1` writes the stories anew; read the difference before it is committed.
//!
//! Lines: `$ quorate …` runs a command; `> word` types it at the next one's question; `! power-off cp-2` happens to the cluster, and
//! `! apply` brings it up without a word, `! want workers: { count: 2 }` puts that line of the cluster file in place of the one there is.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate::{
    cluster::ClusterFile,
    console::{Console, Terminal},
    failure::Failure,
    reach::Reach,
    run_in,
    state::Directories,
};
use quorate_exec::World as Seams;
use quorate_plan::{
    Intent, NodeName,
    observation::Power,
    spec::{self, Machine},
};
use quorate_testkit::{
    World,
    fixture::{node, operator},
    memory::{MemoryHosts, MemoryInfra, Script, Shared},
};
use serde_json::json;

const FILE: &str = "\
apiVersion: quorate/v1
name: demo
controlPlane: { count: 3 }
workers: { count: 1 }
endpoint: { balancer: { count: 2 } }
provider: { kind: local }
components: { source: bundle, path: bundle }
";

/// The least there is, on hosts that somebody made.
const SMALL: &str = "\
apiVersion: quorate/v1
name: small
controlPlane: { hosts: [{ name: cp-1, address: 10.0.0.11 }] }
endpoint: { host: api.example.org, balancer: { kind: external } }
network: { cni: none }
provider: { kind: ssh }
components: { source: bundle, path: bundle }
";

/// A cluster in memory and the operator's machine.
struct Lab {
    directory: PathBuf,
    shared: Shared,
    runs: Cell<u32>,
    /// Masters that there are machines for.
    masters: BTreeMap<NodeName, Machine>,
}

impl Reach for &Lab {
    type Hosts = MemoryHosts;
    type Infra = MemoryInfra;

    fn directories(&self) -> Result<Directories, Failure> {
        Ok(Directories::below(&self.directory))
    }

    async fn inventory(
        &self,
        cluster: &ClusterFile,
    ) -> Result<BTreeMap<NodeName, Machine>, Failure> {
        let powers = self.shared.change(|world| world.infra());
        let runs = |node: &NodeName| {
            let view = powers.get(node).and_then(|view| view.get().ok());
            view.is_some_and(|view| view.power == Power::Running)
        };
        Ok(self
            .masters
            .iter()
            .filter(|(node, _)| cluster.spec.machine(node).is_none() && runs(node))
            .map(|(node, machine)| (node.clone(), machine.clone()))
            .collect())
    }

    async fn world(
        &self,
        _cluster: &ClusterFile,
        _intent: &Intent,
    ) -> Result<Seams<MemoryHosts, MemoryInfra>, Failure> {
        self.runs.set(self.runs.get() + 1);
        let (seams, _handle) = self
            .shared
            .operator(operator(self.runs.get()), Script::default());
        Ok(seams)
    }
}

#[test]
fn stories() {
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory");
    let bless = std::env::var_os("QUORATE_BLESS").is_some();
    let mut paths: Vec<_> = fs::read_dir(&stories)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    let mut differing = String::new();
    for path in &paths {
        let wanted = fs::read_to_string(path).unwrap();
        let seen = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(tell(&wanted));
        if bless {
            fs::write(path, &seen).unwrap();
        } else if seen != wanted {
            differing += &format!("== {}\n-- seen\n{seen}", path.display());
        }
    }
    assert!(differing.is_empty(), "{differing}");
    assert!(paths.len() >= 3, "only {} stories", paths.len());
}

async fn tell(story: &str) -> String {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().to_owned();
    let file = if story.contains("@/small.yaml") {
        SMALL
    } else {
        FILE
    };
    for (name, text) in [("demo.yaml", FILE), ("small.yaml", SMALL)] {
        fs::write(directory.join(name), text).unwrap();
    }
    write_bundle(&directory.join("bundle"));
    // Machines for masters that may be named later, not made yet.
    let (spec, _) = spec::parse(&file.replace("count: 3", "count: 5"), "cluster.yaml").unwrap();
    let lab = Lab {
        directory,
        shared: Shared::new(World::new(&spec)),
        runs: Cell::new(0),
        masters: if spec.local() {
            spec.control_plane
        } else {
            BTreeMap::new()
        },
    };
    let lab = Rc::new(lab);
    let mut typed = String::new();
    let mut out = String::new();
    for line in story.lines() {
        if line.starts_with("# ") {
            out += &format!("{line}\n");
        } else if let Some(words) = line.strip_prefix("> ") {
            typed += &format!("{words}\n");
            out += &format!("{line}\n");
        } else if let Some(happens) = line.strip_prefix("! ") {
            happen(&lab, happens).await;
            out += &format!("{line}\n\n");
        } else if let Some(command) = line.strip_prefix("$ ") {
            let seen = run(&lab, command, std::mem::take(&mut typed)).await;
            out += &format!("{line}\n{seen}\n");
        }
    }
    assert_eq!(lab.shared.violations(), [""; 0]);
    out
}

async fn happen(lab: &Lab, what: &str) {
    let words: Vec<&str> = what.split_whitespace().collect();
    match words.as_slice() {
        ["power-off", name] => lab.shared.change(|world| world.power_off(&node(name))),
        ["power-on", name] => lab.shared.change(|world| world.power_on(&node(name))),
        ["boot", name, silent, starting] => lab.shared.change(|world| {
            world.power_off(&node(name));
            world.boot(
                &node(name),
                silent.parse().unwrap(),
                starting.parse().unwrap(),
            );
        }),
        ["freeze", name] => lab.shared.change(|world| world.freeze(&node(name))),
        ["thaw", name] => lab.shared.change(|world| world.thaw(&node(name))),
        ["alarm", name, kind] => lab
            .shared
            .change(|world| world.raise_alarm(&node(name), kind)),
        ["damage", file] => fs::write(lab.directory.join(file), "x").unwrap(),
        ["want", key, ..] => {
            let path = lab.directory.join("demo.yaml");
            let old = fs::read_to_string(&path).unwrap();
            let line = what.strip_prefix("want ").unwrap();
            let new: String = old
                .lines()
                .map(|old| format!("{}\n", if old.starts_with(key) { line } else { old }))
                .collect();
            assert_ne!(old, new, "the file has a line `{key}`");
            fs::write(&path, &new).unwrap();
            let (spec, _) = spec::parse(&new, "cluster.yaml").unwrap();
            lab.shared.change(|world| world.know(&spec));
        }
        ["rest"] => lab.shared.rest().await,
        ["wait", seconds] => {
            tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
        }
        ["apply"] => {
            let seen = run(lab, "quorate apply --yes -f @/demo.yaml", String::new()).await;
            assert!(seen.starts_with("[exit 0]"), "{seen}");
        }
        other => panic!("a story does not know {other:?}"),
    }
}

/// What is written, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

async fn run(lab: &Lab, line: &str, typed: String) -> String {
    let (data, conversation) = (Kept::default(), Kept::default());
    let terminal = Terminal {
        stdin: !typed.is_empty(),
        ..Terminal::default()
    };
    let mut console = Console::of(
        Box::new(data.clone()),
        Box::new(conversation.clone()),
        Box::new(io::Cursor::new(typed)),
        terminal,
    );
    let directory = lab.directory.display().to_string();
    let arguments = line
        .split_whitespace()
        .map(|word| OsString::from(word.replace("@/", &format!("{directory}/"))));
    let exit = run_in(arguments, &mut console, &lab).await;
    let mut out = format!("[exit {}]\n", exit.code());
    for (name, text) in [("stdout", data.text()), ("stderr", conversation.text())] {
        let text = redacted(&text.replace(&directory, "@"));
        if !text.is_empty() {
            out += &format!("[{name}]\n{}\n", text.trim_end());
        }
    }
    out
}

/// Run IDs, operators and durations differ from run to run, and with them the width of columns.
fn redacted(text: &str) -> String {
    let operator = quorate_exec::identity::operator("x");
    let text = text
        .replace(
            &format!("{}@{}", operator.user, operator.machine),
            "ada@laptop",
        )
        .replace(&format!("(process {},", operator.pid), "(process 1000,");
    text.lines()
        .map(|line| {
            let mut words: Vec<String> = line.split(' ').map(redacted_word).collect();
            if line.contains("@laptop") || line.starts_with("RUN ") {
                words.retain(|word| !word.is_empty());
            }
            // A number before a unit of time.
            for i in 1..words.len() {
                let unit = matches!(
                    words[i].trim_matches([')', ':', ',', '.']),
                    "ms" | "s" | "min" | "h"
                );
                let number = words[i - 1].trim_start_matches('(');
                if unit && number.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
                    let bracket = if words[i - 1].starts_with('(') {
                        "("
                    } else {
                        ""
                    };
                    words[i - 1] = format!("{bracket}0");
                    words[i] = words[i].replace("ms", "s");
                }
            }
            let line = words.join(" ").trim_end().to_owned() + "\n";
            // A column of durations is right-aligned.
            match line.trim_start().strip_prefix("0 s  ") {
                Some(rest) => format!("      0 s  {rest}"),
                None => line,
            }
        })
        .collect()
}

fn redacted_word(word: &str) -> String {
    let bare = word.trim_matches(['`', ':', ',', ')', '(']);
    let is_run = bare.len() == 25 && bare.starts_with("20") && bare.contains("z-");
    if is_run {
        word.replace(bare, "[RUN]")
    } else {
        word.to_owned()
    }
}

/// SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A bundle as the operator's machine reads it: its manifest, and files that are what it says.
fn write_bundle(directory: &Path) {
    let images = [
        ("kube-apiserver", "v1.35.4"),
        ("kube-controller-manager", "v1.35.4"),
        ("kube-scheduler", "v1.35.4"),
        ("kube-proxy", "v1.35.4"),
        ("etcd", "3.6.6-0"),
        ("coredns", "v1.13.1"),
        ("pause", "3.10.1"),
        ("flannel", "v0.28.4"),
    ];
    let reference = |name: &str, tag: &str| format!("quorate.local/{name}:{tag}");
    let mut files: Vec<_> = images
        .iter()
        .map(|(name, tag)| {
            json!({
                "path": format!("images/{name}.tar"), "size": 0, "sha256": EMPTY, "role": "image",
                "version": tag, "source": name, "built": "fetched", "image": reference(name, tag),
            })
        })
        .collect();
    files.sort_by_key(|file| file["path"].as_str().unwrap().to_owned());
    let manifest = json!({
        "format": 1, "kubernetes": "1.35.4", "arch": "amd64", "origin": { "kind": "fetched" },
        "imageRepository": "quorate.local",
        "images": images.iter().map(|(name, tag)| ((*name).to_owned(), json!(reference(name, tag)))).collect::<serde_json::Map<_, _>>(),
        "files": files,
    });
    fs::create_dir_all(directory.join("images")).unwrap();
    for (name, _) in images {
        fs::write(directory.join(format!("images/{name}.tar")), "").unwrap();
    }
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
}
