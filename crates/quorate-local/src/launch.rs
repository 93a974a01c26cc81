//! Starting a host: the script that enters the host's cgroups and mounts, and becomes its `systemd-nspawn`. Begin at
//! [`start`].
//!
//! The script holds a lock for as long as the host runs, so that two of them never use the same disks, whatever
//! became of the commands that started them. Its mounts are its own: they are never seen on the machine and go with
//! its last process. It goes round again when the host reboots by itself.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::cgroup::{HostCgroup, until};
use crate::error::{During, Error, Result, tail};
use crate::names::HostName;
use crate::program::{self, PATH};
use crate::{process, store};

/// How long until a host has a first process. Measured: 0.1 s.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// The exit status by which `systemd-nspawn --keep-unit` says that the host wants to boot again.
const REBOOT: i32 = 133;

/// The launcher's exit status when another one has the host: EX_TEMPFAIL of sysexits.h.
const BUSY: i32 = 75;

/// How much of the console is kept when a host is powered on, in bytes; older text moves aside once.
const CONSOLE_MAX: u64 = 1 << 20;

/// How much of the console an error shows, in bytes.
pub(crate) const CONSOLE_SHOWN: usize = 2000;

/// Everything the script holds.
#[derive(Debug, Clone)]
pub(crate) struct Launch<'a> {
    pub(crate) host: &'a HostName,
    /// The host's directory: `upper`, `work`, `rootfs`, and what the script itself needs.
    pub(crate) dir: &'a Path,
    /// Lower directories, the first on top.
    pub(crate) lower: Vec<PathBuf>,
    /// The machine name for nspawn.
    pub(crate) machine: String,
    pub(crate) bridge: &'a str,
    /// `SOURCE:TARGET`, writable or not.
    pub(crate) binds: Vec<(String, bool)>,
    pub(crate) cgroup: &'a HostCgroup,
}

/// Text as one word of a shell script.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

impl Launch<'_> {
    fn nspawn(&self) -> Vec<String> {
        let mut args: Vec<String> = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--settings=no",
            "--link-journal=no",
            "--timezone=off",
            "--resolv-conf=off",
            "--capability=all",
            "--private-users=no",
            // What container runtimes need beyond the default.
            "--system-call-filter=add_key keyctl bpf perf_event_open",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--directory={}", self.dir.join("rootfs").display()));
        args.push(format!("--machine={}", self.machine));
        args.push(format!("--hostname={}", self.host));
        args.push(format!("--network-bridge={}", self.bridge));
        for (bind, writable) in &self.binds {
            args.push(format!(
                "--bind{}={bind}",
                if *writable { "" } else { "-ro" }
            ));
        }
        args
    }

    fn script(&self, hide_run: &str) -> String {
        let at = |name: &str| quoted_path(&self.dir.join(name));
        let lower: Vec<_> = self
            .lower
            .iter()
            .map(|path| path.to_string_lossy())
            .collect();
        let paths = |paths: Vec<PathBuf>| {
            paths
                .iter()
                .map(|p| quoted_path(p))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            self.dir.join("upper").display(),
            self.dir.join("work").display()
        );
        let nspawn: Vec<_> = self.nspawn().iter().map(|arg| quoted(arg)).collect();
        format!(
            r#"#!/bin/sh
set -eu
exec 9>>{lock}
flock --nonblock 9 || {{ echo 'quorate-local: this host runs already'; exit {BUSY}; }}
for entry in {launcher}; do echo 0 > "$entry"; done
# nspawn notes things in /run: in one of our own, so that the machine's stays clean.
mount -t tmpfs -o mode=0755 quorate-local {hide_run}
mount -t overlay -o {options} overlay {rootfs}
while :; do
  code=0
  (
    for entry in {machine}; do echo 0 > "$entry"; done
    exec 9>&-
    exec env -i PATH={PATH} {nspawn}
  ) || code=$?
  [ "$code" = {REBOOT} ] || break
  # What a host leaves behind in its cgroups slows down its next boot.
  find {swept} -mindepth 1 -depth -type d -exec rmdir {{}} + 2>/dev/null || :
done
exit "$code"
"#,
            lock = at("running"),
            launcher = paths(self.cgroup.launcher_entries()),
            options = quoted(&options),
            rootfs = at("rootfs"),
            machine = paths(self.cgroup.machine_entries()),
            nspawn = nspawn.join(" "),
            swept = paths(self.cgroup.swept_on_reboot()),
        )
    }
}

/// Starts the host and returns when it has a first process. Its cgroup must exist and be empty.
pub(crate) fn start(launch: &Launch<'_>) -> Result<()> {
    for name in ["upper", "work", "rootfs"] {
        store::public_dir(&launch.dir.join(name))?;
    }
    let hide_run = if Path::new("/run/systemd").is_dir() {
        "/run/systemd"
    } else {
        "/run"
    };
    let script = launch.dir.join("launch");
    store::write(&script, launch.script(hide_run).as_bytes(), 0o700)?;
    let console = open_console(launch.dir)?;
    let copy = console
        .try_clone()
        .during("open again", &console_file(launch.dir))?;
    // A session of its own, so that nothing sent to the terminal of whoever started it arrives there.
    let mut command = program::command("setsid");
    command
        .args([
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "--",
            "/bin/sh",
        ])
        .arg(&script);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(copy);
    program::keeps_nothing_open(&mut command);
    let mut child = command.spawn().during("run", Path::new("setsid"))?;
    let mut ended = false;
    let started = until(STARTED_WITHIN, || {
        let status = child
            .try_wait()
            .during("wait for", Path::new("the launcher"))?;
        // One left by a command that was killed may have been first: then that one starts the host.
        ended = status.is_some_and(|status| status.code() != Some(BUSY));
        Ok(ended || process::init(&launch.cgroup.processes()?).is_some())
    });
    if matches!(started, Ok(true)) && !ended {
        // Somebody has to take its exit status while this program lives; afterwards init does.
        std::thread::spawn(move || child.wait());
        return Ok(());
    }
    process::clear(launch.cgroup, launch.host)?;
    // Already gone unless it had not entered the cgroup yet; either way nothing is left to be done about a failure.
    let _ = child.kill();
    let _ = child.wait();
    started?;
    let console = console_tail(launch.dir, CONSOLE_SHOWN)?;
    Err(Error::NotStarted {
        host: launch.host.clone(),
        console,
    })
}

fn console_file(dir: &Path) -> PathBuf {
    dir.join("console")
}

fn open_console(dir: &Path) -> Result<fs::File> {
    let path = console_file(dir);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > CONSOLE_MAX) {
        let old = dir.join("console.old");
        fs::rename(&path, &old).during("move aside", &path)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .during("open", &path)
}

/// The end of what a host wrote to its console, at most `limit` bytes, made fit to be shown.
pub(crate) fn console_tail(dir: &Path, limit: usize) -> Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let path = console_file(dir);
    let mut file = match fs::File::open(&path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other.during("open", &path)?,
    };
    let length = file.metadata().during("look at", &path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))
        .during("read", &path)?;
    let mut text = Vec::new();
    file.take(limit as u64)
        .read_to_end(&mut text)
        .during("read", &path)?;
    Ok(tail(&text, limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroups;

    #[test]
    fn the_script_is_a_script_and_enters_before_it_mounts() {
        let Ok(cgroups) = Cgroups::of_this_machine() else {
            eprintln!("SKIPPED: no cgroups on this machine");
            assert!(
                std::env::var_os("CI").is_none(),
                "there are cgroups where CI is"
            );
            return;
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let host: HostName = "cp-1".parse().expect("a name");
        let cgroup = cgroups.host(&"one-00000000".parse().expect("a key"), &host);
        let launch = Launch {
            host: &host,
            dir: Path::new("/state/hosts/cp-1"),
            lower: vec!["/layer".into(), "/base/rootfs".into()],
            machine: "qr0-11".to_owned(),
            bridge: "qr0",
            binds: vec![("/a:/b".to_owned(), true), ("/c:/d".to_owned(), false)],
            cgroup: &cgroup,
        };
        let text = launch.script("/run/systemd");
        let file = dir.path().join("launch");
        fs::write(&file, &text).expect("written");
        crate::program::run("sh", [Path::new("-n"), &file]).expect("the shell can parse it");
        let at = |what: &str| {
            text.find(what)
                .unwrap_or_else(|| panic!("no {what} in {text}"))
        };
        assert!(at("flock --nonblock 9") < at("echo 0 >") && at("echo 0 >") < at("mount -t tmpfs"));
        at(
            "-o 'lowerdir=/layer:/base/rootfs,upperdir=/state/hosts/cp-1/upper,workdir=/state/hosts/cp-1/work' overlay '/state/hosts/cp-1/rootfs'\n",
        );
        at(
            "'--machine=qr0-11' '--hostname=cp-1' '--network-bridge=qr0' '--bind=/a:/b' '--bind-ro=/c:/d'\n",
        );
    }

    #[test]
    fn one_word_stays_one_word() {
        let given = "it's $HOME `x` \"y\"";
        let printed = crate::program::run("sh", ["-c", &format!("printf %s {}", quoted(given))])
            .expect("printed");
        assert_eq!(printed, given);
    }

    #[test]
    fn the_console_is_cut_and_escaped() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(console_tail(dir.path(), 10).expect("read"), "");
        fs::write(console_file(dir.path()), b"a long line\n\x1b[0mend\n").expect("written");
        assert_eq!(
            console_tail(dir.path(), 9).expect("read"),
            "\n\\u{1b}[0mend"
        );
    }
}
