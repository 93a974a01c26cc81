//! An operator's day against a cluster in memory: every story in `memory/` is a list of commands and of things that happen to the cluster,
//! with what the operator sees. Time is virtual. `QUORATE_BLESS=1` writes the stories anew; read the difference before it is committed.
//!
//! Lines: `$ quorate …` runs a command; `> word` types it at the next one's question; `! power-off cp-2` happens to the cluster, and
//! `! apply` brings it up without a word, `! want workers: { count: 2 }` puts that line of the cluster file in place of the one there is,
//! `! somebody-elses` makes the cluster of one master one that was made by somebody else, `! nothing was done` holds that the last command
//! asked no host for anything but a look.

mod lab;

use std::{
    ffi::OsString,
    fs, io,
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate::{
    console::{Console, Terminal},
    run_in,
};
use quorate_plan::{NodeName, observation::HostMark, spec};
use quorate_testkit::{
    World,
    fixture::node,
    world::{Hardware, USERS_BALANCER},
};

use lab::Lab;

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
    let lab = Rc::new(Lab::new(temporary.path(), file_of(story)));
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
            lab.effects_before.set(lab.shared.effects());
            let seen = run(&lab, command, std::mem::take(&mut typed)).await;
            out += &format!("{line}\n{seen}\n");
        }
    }
    assert_eq!(lab.shared.violations(), [""; 0]);
    out
}

/// Programs read of every stage what people do.
#[tokio::test(start_paused = true)]
async fn a_conversion_says_in_json_what_to_expect() {
    let temporary = tempfile::tempdir().unwrap();
    let lab = Rc::new(Lab::new(temporary.path(), "small.yaml"));
    run(&lab, "quorate apply --yes -f @/small.yaml", String::new()).await;
    let plan = "quorate plan -o json -f @/small.yaml";
    let seen = run(&lab, plan, String::new()).await;
    assert!(!seen.contains("\"expected\""), "{seen}");
    happen(&lab, "somebody-elses").await;
    happen(&lab, "want controlPlane: { hosts: [{ name: cp-1, address: 10.0.0.11 }, { name: cp-2, address: 10.0.0.12 }, { name: cp-3, address: 10.0.0.13 }] }").await;
    let convert = "quorate convert -n -o json -f @/small.yaml";
    let seen = run(&lab, convert, String::new()).await;
    let (_, seen) = seen.split_once("[stdout]\n").unwrap();
    let (data, _) = seen.split_once("[stderr]\n").unwrap();
    let plan: serde_json::Value = serde_json::from_str(data).unwrap();
    let stages = plan["planning"]["plan"]["stages"].as_array().unwrap();
    let expected = plan["expected"].as_array().unwrap();
    assert_eq!(stages.len(), expected.len());
    let ends: Vec<&str> = stages
        .iter()
        .zip(expected)
        .filter(|(_, expected)| expected["pointOfNoReturn"] == true)
        .map(|(stage, _)| stage["title"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["Join cp-2: promote it"]);
    assert!(expected.iter().all(|one| one["interruption"].is_string()));
    let keeps = stages
        .iter()
        .position(|stage| stage["title"] == "Back up before anything is changed");
    assert_eq!(expected[keeps.unwrap()]["undo"], "convert");
}

/// Where the backup goes, and whom it is sealed to, is said once, when the fence is taken: every request after that knows it.
#[tokio::test(start_paused = true)]
async fn a_fence_knows_where_the_backup_goes() {
    let temporary = tempfile::tempdir().unwrap();
    let lab = Rc::new(Lab::new(temporary.path(), "small.yaml"));
    run(&lab, "quorate apply --yes -f @/small.yaml", String::new()).await;
    happen(&lab, "somebody-elses").await;
    happen(&lab, "want controlPlane: { hosts: [{ name: cp-1, address: 10.0.0.11 }, { name: cp-2, address: 10.0.0.12 }, { name: cp-3, address: 10.0.0.13 }] }").await;
    let (_, recipient) = quorate_node::new_backup_identity();
    let take = "quorate lock take -f @/small.yaml --out @/small.fence --backup /tmp/safe";
    for (wrong, words) in [
        (take.to_owned(), "expected --convert"),
        (format!("{take} --convert --undo"), "cannot be used with"),
        (
            format!("{take} --convert --backup-recipient age1x"),
            "age1x",
        ),
    ] {
        let seen = run(&lab, &wrong, String::new()).await;
        assert!(seen.contains("[exit 2]") && seen.contains(words), "{seen}");
    }
    let right = format!("{take} --convert --backup-recipient {recipient}");
    let seen = run(&lab, &right, String::new()).await;
    let told = format!("The backup goes to `/tmp/safe`, sealed to {recipient}.");
    assert!(seen.contains("[exit 0]") && seen.contains(&told), "{seen}");
    let held = fs::read_to_string(lab.directory.join("small.fence")).unwrap();
    let held: serde_json::Value = serde_json::from_str(&held).unwrap();
    assert_eq!(held["backup"]["folder"], "/tmp/safe");
    assert_eq!(held["backup"]["recipients"][0], *recipient);
}

/// Before a conversion by requests: whose each step is in a play, by host, and how the host differs from it.
#[tokio::test(start_paused = true)]
async fn a_conversion_is_told_by_host() {
    let temporary = tempfile::tempdir().unwrap();
    let lab = Rc::new(Lab::new(temporary.path(), "external.yaml"));
    let apply = "quorate apply --yes -f @/external.yaml";
    run(&lab, apply, String::new()).await;
    happen(&lab, "somebody-elses").await;
    let path = lab.directory.join(lab.file);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "network: { cni: none }\n").unwrap();
    happen(&lab, "want controlPlane: { hosts: [{ name: cp-1, address: 10.0.0.11 }, { name: cp-2, address: 10.0.0.12 }, { name: cp-3, address: 10.0.0.13 }] }").await;
    lab.effects_before.set(lab.shared.effects());
    let requests = "quorate requests --convert -f @/external.yaml";
    let seen = run(&lab, requests, String::new()).await;
    happen(&lab, "nothing was done").await;
    let (_, data) = seen
        .split_once("[stdout]\n")
        .unwrap_or_else(|| panic!("{seen}"));
    let data = data.split_once("[stderr]").map_or(data, |(data, _)| data);
    let told: serde_json::Value = serde_json::from_str(data).unwrap();
    let roles = |host: &str, what: &str| -> Vec<String> {
        let steps = told["hosts"][host].as_array().unwrap();
        let about = |step: &&serde_json::Value| step["what"].as_str().unwrap().contains(what);
        let role = |step: &serde_json::Value| step["role"].as_str().unwrap().to_owned();
        steps.iter().filter(about).map(role).collect()
    };
    assert_eq!(roles("cp-1", "are kept and verified"), ["master"]);
    assert_eq!(roles("w-1", "what is changed here is kept"), ["worker"]);
    assert_eq!(roles("w-1", "kubeconfigs"), ["worker"]);
    assert_eq!(roles("cp-1", "kubeadm's configuration names"), ["master"]);
    for step in told["hosts"]["w-1"].as_array().unwrap() {
        assert!(step.get("carried").is_none(), "{step}");
    }
}

/// The cluster file that a story is about: the world is made for it.
fn file_of(story: &str) -> &'static str {
    let named = |name: &&str| story.contains(&format!("@/{name}"));
    let names = ["small.yaml", "given.yaml", "external.yaml"];
    names.into_iter().find(named).unwrap_or("demo.yaml")
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
            let path = lab.directory.join(lab.file);
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
        ["host", name, settings @ ..] => lab.shared.change(|world| {
            for setting in settings {
                set(world, &node(name), setting);
            }
        }),
        ["name", resolves] => lab.shared.change(|world| {
            world.resolves = match *resolves {
                "resolves" => [USERS_BALANCER].into(),
                _ => [].into(),
            };
        }),
        ["balancer", answers] => lab.shared.change(|world| {
            world.users_balancer = *answers == "answers";
        }),
        ["nothing", "was", "done"] => {
            assert_eq!(lab.shared.effects(), lab.effects_before.get(), "{what}");
        }
        ["somebody-elses"] => lab.shared.change(World::somebody_elses),
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

/// `cpus=1` and the like, of a host; a setting without a value is as it should be again.
fn set(world: &mut World, name: &NodeName, setting: &str) {
    let (key, value) = setting.split_once('=').unwrap();
    let machine = world.machine_mut(name);
    let hardware = &mut machine.hardware;
    let good = Hardware::default();
    let number = |good: u64| value.parse().unwrap_or(good);
    match key {
        "arch" if value.is_empty() => hardware.arch = good.arch,
        "arch" => hardware.arch = value.into(),
        "systemd" => hardware.systemd = good.systemd.filter(|_| value != "none"),
        "cpus" => hardware.cpus = u32::try_from(number(good.cpus.into())).unwrap(),
        "memory" => hardware.memory_bytes = number(good.memory_bytes),
        "disk" => hardware.disk_free_bytes = number(good.disk_free_bytes),
        "clock" => hardware.clock_off_ms = value.parse().unwrap_or(0),
        "listens" => {
            hardware.listening = match value.split_once(':') {
                Some((port, process)) => [(port.parse().unwrap(), process.to_owned())].into(),
                None => [].into(),
            }
        }
        "mark" => {
            machine.disk.mark = (!value.is_empty()).then(|| HostMark {
                cluster: value.parse().unwrap(),
                node: name.clone(),
                disposable: false,
            });
        }
        "authority" => machine.disk.pki.cluster_ca = (!value.is_empty()).then(|| value.into()),
        other => panic!("a story does not know `{other}` of a host"),
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
            // How wide a column with an operator is depends on whoever runs the test, and so does the one of runs.
            let header = line.starts_with("RUN ") || line.starts_with("HOST   TOKEN ");
            if header || line.contains("@laptop") {
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
