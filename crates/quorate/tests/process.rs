//! `apply` as a process of its own, with what only a process meets: Ctrl-C, a disk that is full, files that it may not write. The cluster is
//! one in memory; this program is its own operator, see [`operate`].

mod lab;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, setgid, setuid},
};
use quorate::{
    console::{Console, Terminal},
    run_in,
    state::Directories,
};
use quorate_exec::Journal;
use quorate_plan::Event;
use quorate_testkit::fixture::node;

use lab::Lab;

/// The cases, by name.
const CASES: &[(&str, fn())] = &[
    ("ctrl_c_once_ends_what_is_in_hand", once),
    ("ctrl_c_twice_ends_at_once", twice),
    ("ctrl_c_while_waiting_for_a_host", waiting),
    ("ctrl_c_at_the_question", asked),
    ("a_disk_that_is_full_from_the_start", full),
    ("a_disk_that_fills_in_the_middle", fills),
    ("a_state_directory_that_is_not_ours", forbidden),
];

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [operates, directory, settings @ ..] = args.as_slice()
        && operates == "operate"
    {
        operate(Path::new(directory), settings);
    }
    let listed = args.iter().any(|arg| arg == "--list");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    for (name, case) in CASES {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        if listed {
            println!("{name}: test");
        } else {
            case();
            println!("test {name} ... ok");
        }
    }
}

/// The operator's process: `quorate apply` in that directory, on a world made by the settings.
fn operate(directory: &Path, settings: &[String]) -> ! {
    let has = |name: &str| settings.iter().any(|setting| setting == name);
    let file = if has("given") {
        "given.yaml"
    } else {
        "demo.yaml"
    };
    let lab = if has("kept") {
        Lab::of_files(directory, file)
    } else {
        Lab::new(directory, file)
    };
    if has("silent") {
        lab.shared.change(|world| {
            world.power_off(&node("cp-2"));
            world.boot(&node("cp-2"), 1_000_000, 0);
        });
    }
    if has("nobody") {
        setgid(NOBODY.into()).expect("root may become anybody");
        setuid(NOBODY.into()).expect("root may become anybody");
    }
    // Virtual time wants one thread, an open question two, as the real thing has.
    let mut runtime = match has("at-once") {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    if has("at-once") {
        runtime.start_paused(true);
    }
    let runtime = runtime.enable_all().build().expect("a runtime");
    let file = directory.join(file).display().to_string();
    let mut arguments = vec!["quorate", "apply", "-f", &file];
    let mut console = if has("asks") {
        Console::of(
            Box::new(io::stdout()),
            Box::new(io::stderr()),
            Box::new(BufReader::new(io::stdin())),
            Terminal {
                stdin: true,
                ..Terminal::default()
            },
        )
    } else {
        arguments.push("--yes");
        Console::of_process()
    };
    let arguments = arguments.into_iter().map(Into::into);
    let exit = runtime.block_on(run_in(arguments, &mut console, &&lab));
    println!("effects: {}", lab.shared.effects());
    std::process::exit(exit.code().into());
}

/// Who owns nothing.
const NOBODY: u32 = 65534;

/// An operator's process, and what it says.
struct Operator {
    process: Child,
    lines: mpsc::Receiver<String>,
    said: String,
}

impl Operator {
    fn start(directory: &Path, settings: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program");
        Self::start_as(&program, directory, settings)
    }

    fn start_as(program: &Path, directory: &Path, settings: &[&str]) -> Self {
        let mut process = Command::new(program)
            .arg("operate")
            .arg(directory)
            .args(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let (tell, lines) = mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().expect("piped"));
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens any more when a case has failed.
                let _ = tell.send(line);
            }
        });
        Self {
            process,
            lines,
            said: String::new(),
        }
    }

    /// Waits for a line that has these words.
    fn says(&mut self, words: &str) {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said += &format!("{line}\n");
                    if line.contains(words) {
                        return;
                    }
                }
                Err(_) => panic!("it does not say `{words}`, but:\n{}", self.said),
            }
        }
    }

    fn interrupt(&self) {
        let process = Pid::from_raw(i32::try_from(self.process.id()).expect("a process number"));
        kill(process, Signal::SIGINT).expect("it runs");
    }

    /// How it ended: its exit code, what it said in all, and how many effects it asked hosts for.
    fn end(mut self) -> (i32, String, u64) {
        let mut stdout = String::new();
        let mut pipe = self.process.stdout.take().expect("piped");
        pipe.read_to_string(&mut stdout).expect("text");
        let status = self.process.wait().expect("it ends");
        self.said.extend(self.lines.iter().map(|line| line + "\n"));
        let code = status
            .code()
            .unwrap_or_else(|| panic!("{status}; it said:\n{}", self.said));
        let effects = stdout
            .lines()
            .find_map(|line| line.strip_prefix("effects: ")?.parse().ok())
            .expect("told at the end");
        (code, self.said, effects)
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Waits until the journal says that such a step has begun: unlike one that stands, it is not told on the terminal.
fn begins(directory: &Path, step: &str) {
    let runs = Directories::below(directory)
        .cluster(&"demo".parse().expect("a name"))
        .runs();
    let until = Instant::now() + LONG;
    while !begun(&runs).iter().any(|begun| begun.contains(step)) {
        assert!(Instant::now() < until, "no such step begins: {step}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Steps that have begun, as far as the journal can be read: its last line may be half written.
fn begun(runs: &Path) -> Vec<String> {
    let last = Journal::list(runs).ok().and_then(|mut runs| runs.pop());
    let read = last.and_then(|run| Journal::read(runs, &run.id).ok());
    let entries = read.map(|recording| recording.entries).unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::StepStarted { step } => Some(step.ensure.to_string()),
            _ => None,
        })
        .collect()
}

fn once() {
    let directory = directory();
    let mut operator = Operator::start(directory.path(), &[]);
    begins(directory.path(), "balancer listens");
    operator.interrupt();
    operator.says("Stopping at the next safe point. Ctrl-C again stops at once.");
    let (code, said, _) = operator.end();
    assert_eq!(code, 130, "{said}");
    let (_, after) = said
        .split_once("Stopping at the next safe point")
        .expect("it was said");
    assert!(
        after.contains("  ok lb-1: balancer listens"),
        "what is in hand is finished:\n{said}"
    );
    assert!(
        !after.contains("containerd has"),
        "and nothing begins that comes later:\n{said}"
    );
    assert!(after.contains("error: stopped, "), "{said}");
    assert!(after.contains("steps left"), "{said}");
    assert!(
        after.contains("hint: run the same command again to go on; `quorate journal explain"),
        "{said}"
    );
}

fn twice() {
    let directory = directory();
    let mut operator = Operator::start(directory.path(), &[]);
    begins(directory.path(), "balancer listens");
    operator.interrupt();
    operator.says("Stopping at the next safe point");
    operator.interrupt();
    operator.says("Stopping now. Hosts finish the action they are at.");
    let (code, said, _) = operator.end();
    assert_eq!(code, 130, "{said}");
    let (_, after) = said.split_once("Stopping now").expect("it was said");
    // Others may have been ready by then; this step takes a second.
    assert!(
        !after.contains("balancer listens"),
        "nothing is waited for:\n{said}"
    );
    assert!(after.contains("error: stopped, "), "{said}");
}

fn waiting() {
    let directory = directory();
    let mut operator = Operator::start(directory.path(), &["given", "silent"]);
    operator.says("waiting: cp-2 to answer");
    operator.interrupt();
    let (code, said, effects) = operator.end();
    assert_eq!((code, effects), (130, 0), "{said}");
}

fn asked() {
    let directory = directory();
    let mut operator = Operator::start(directory.path(), &["asks"]);
    operator.says("demo: 12 stages");
    // It would be closed by the wait, which is an answer.
    let _open = operator.process.stdin.take();
    operator.interrupt();
    let status = operator.process.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
}

/// A small file system of its own, for the state of the operator's machine.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` after saying that, and why, the case is skipped: in CI that is a failure.
    fn mount(directory: &Path, bytes: u64) -> Option<Self> {
        let place = directory.join("state");
        fs::create_dir_all(&place).expect("made");
        let size = format!("size={bytes}");
        match mount(
            Some("tmpfs"),
            &place,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        ) {
            Ok(()) => Some(Self(place)),
            Err(error) => {
                let reason = format!("a tmpfs cannot be mounted here: {error}");
                assert!(std::env::var_os("CI").is_none(), "{reason}");
                eprintln!("SKIPPED: {reason}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount(&self.0).expect("nobody is in it any more");
    }
}

fn full() {
    let directory = directory();
    // Room for directories and for nothing of what a run writes.
    let Some(_disk) = SmallDisk::mount(directory.path(), 4 << 10) else {
        return;
    };
    let (code, said, effects) = Operator::start(directory.path(), &["at-once"]).end();
    assert_eq!((code, effects), (1, 0), "nothing was done:\n{said}");
    assert!(said.contains("no space is left for the journal"), "{said}");
    assert!(
        said.contains("make room and run the same command again"),
        "{said}"
    );
}

fn fills() {
    // How much a whole run writes.
    let whole = directory();
    let (code, said, effects_of_all) = Operator::start(whole.path(), &["at-once"]).end();
    assert_eq!(code, 0, "{said}");
    let bytes = size_of(&whole.path().join("state"));

    let directory = directory();
    let Some(disk) = SmallDisk::mount(directory.path(), bytes * 3 / 4) else {
        return;
    };
    let (code, said, effects) = Operator::start(directory.path(), &["at-once"]).end();
    assert_eq!(code, 1, "{said}");
    assert!(effects > 0 && effects < effects_of_all, "{effects}\n{said}");
    assert!(said.contains("no space is left for the journal"), "{said}");
    assert!(said.contains("error: stopped, "), "{said}");
    drop(disk);
}

/// Bytes of all files below a directory.
fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries
        .map(|entry| match entry.file_type().expect("a kind").is_dir() {
            true => size_of(&entry.path()),
            false => entry.metadata().expect("a file").len(),
        })
        .sum()
}

fn forbidden() {
    let directory = directory();
    let state = directory.path().join("state");
    // Everything is there and can be read; what is kept about clusters belongs to somebody else.
    Lab::new(directory.path(), "demo.yaml");
    fs::create_dir(&state).expect("made");
    // It reads itself, and where it was built may be nobody's business.
    let program = directory.path().join("operator");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("copied");
    for path in [directory.path(), &state] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).expect("set");
    }
    let mut settings = vec!["at-once", "kept"];
    if Uid::effective().is_root() {
        settings.push("nobody");
    }
    let (code, said, effects) = Operator::start_as(&program, directory.path(), &settings).end();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
    assert_eq!((code, effects), (1, 0), "nothing was done:\n{said}");
    let shown = state.join("clusters/demo").display().to_string();
    assert!(
        said.contains(&format!("error: could not make the directory `{shown}`")),
        "{said}"
    );
    assert!(said.contains("Permission denied"), "{said}");
}
