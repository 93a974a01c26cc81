//! Running debootstrap and making progress of what it prints. Begin at [`run`].

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::BaseProgress;
use super::apt::Source;
use crate::error::{During, Error, Result, tail};
use crate::program::PATH;
use crate::store;

/// What is being done for the base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Another command is making it; this one waits.
    Waiting,
    /// Packages are fetched and their digests checked.
    Downloading,
    /// The first packages are laid out without their scripts.
    Extracting,
    /// Packages are unpacked by dpkg.
    Unpacking,
    /// Packages are configured by dpkg.
    Configuring,
    /// Caches and identities are removed.
    Tidying,
    /// It is there.
    Done,
}

impl Phase {
    /// The phase in a word, to be followed by an item.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting for another command that makes it",
            Phase::Downloading => "downloading",
            Phase::Extracting => "extracting",
            Phase::Unpacking => "unpacking",
            Phase::Configuring => "configuring",
            Phase::Tidying => "tidying",
            Phase::Done => "done",
        }
    }
}

/// How much of debootstrap's output is kept for the error, in bytes.
const TAIL_MAX: usize = 2000;

/// Longest line of debootstrap that is looked at, in bytes: foreign output, so bounded.
const LINE_MAX: u64 = 4096;

/// Counts lines into percent. The weights are the share of the time each phase took when measured (2 cores, a near
/// mirror), the counts the number of lines it printed; a mirror with other packages only makes a step uneven.
struct Meter {
    seen: [usize; 4],
    percent: u8,
}

/// Phase, the word debootstrap begins the line with, lines expected, share of the whole in percent.
const STEPS: [(Phase, &str, usize, usize); 4] = [
    (Phase::Downloading, "Retrieving", 178, 15),
    (Phase::Extracting, "Extracting", 88, 10),
    (Phase::Unpacking, "Unpacking", 162, 30),
    (Phase::Configuring, "Configuring", 165, 40),
];

impl Meter {
    fn line(&mut self, line: &str) -> Option<BaseProgress> {
        let mut words = line.strip_prefix("I: ")?.split(' ');
        let (verb, item) = (words.next()?, words.next().unwrap_or_default());
        let at = STEPS.iter().position(|&(_, word, ..)| word == verb)?;
        self.seen[at] += 1;
        let done = STEPS
            .iter()
            .zip(self.seen)
            .map(|(&(_, _, expected, share), seen)| share * seen.min(expected) / expected);
        self.percent = self.percent.max(done.sum::<usize>().min(95) as u8);
        let item = tail(item.trim_end_matches("...").as_bytes(), 80);
        Some(BaseProgress {
            phase: STEPS[at].0,
            percent: self.percent,
            item,
        })
    }
}

/// Makes `rootfs` from `source`; `work` holds the log and the proxy file meanwhile.
pub(super) fn run(
    source: &Source,
    suite: &str,
    packages: &[&str],
    work: &Path,
    rootfs: &Path,
    report: &mut dyn FnMut(BaseProgress),
) -> Result<()> {
    let mut command = Command::new("unshare");
    // Its own mounts and its own processes: what it mounts inside the target never appears on the machine, and
    // nothing of it outlives us.
    command.args([
        "--fork",
        "--pid",
        "--kill-child=SIGKILL",
        "--mount",
        "--propagation=private",
        "--",
    ]);
    command
        .args(arguments(source, suite, packages))
        .arg(suite)
        .arg(rootfs);
    if let Some(mirror) = &source.mirror {
        command.arg(mirror);
    }
    command
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    let wgetrc = work.join("wgetrc");
    if !source.proxies.is_empty() {
        // A file, not the environment: a proxy's address may hold a password.
        let lines: Vec<_> = source
            .proxies
            .iter()
            .map(|(scheme, proxy)| format!("{scheme}_proxy = {proxy}\n"))
            .collect();
        store::write(
            &wgetrc,
            format!("use_proxy = on\n{}", lines.concat()).as_bytes(),
            0o600,
        )?;
        command.env("WGETRC", &wgetrc);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    crate::program::ends_with_us(&mut command);
    let program = Path::new("debootstrap");
    let mut child = command.spawn().during("run", program)?;
    let stderr = child.stderr.take().expect("stderr was set to a pipe");
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        // A limit of its own, and the rest is drained, so that the program never blocks on a full pipe.
        let mut stderr = stderr;
        let _ = (&mut stderr).take(1 << 20).read_to_end(&mut text);
        let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        text
    });
    let mut kept = Vec::new();
    let mut meter = Meter {
        seen: [0; 4],
        percent: 0,
    };
    let mut lines = BufReader::new(child.stdout.take().expect("stdout was set to a pipe"));
    loop {
        let mut line = Vec::new();
        if (&mut lines)
            .take(LINE_MAX)
            .read_until(b'\n', &mut line)
            .during("read from", program)?
            == 0
        {
            break;
        }
        if let Some(progress) = meter.line(String::from_utf8_lossy(&line).trim_end()) {
            report(progress);
        }
        kept.extend(line);
        let over = kept.len().saturating_sub(2 * TAIL_MAX);
        kept.drain(..over);
    }
    let status = child.wait().during("wait for", program)?;
    kept.extend(complaints.join().unwrap_or_default());
    store::remove_file(&wgetrc)?;
    if status.success() {
        return Ok(());
    }
    // The reason is in the log of the package scripts, which debootstrap leaves in the target.
    if let Some(log) = store::read_optional(&rootfs.join("debootstrap/debootstrap.log"))? {
        kept.extend(log.into_bytes());
    }
    Err(Error::Debootstrap {
        status: status.to_string(),
        tail: tail(&kept, TAIL_MAX),
    })
}

fn arguments(source: &Source, suite: &str, packages: &[&str]) -> Vec<String> {
    debug_assert!(!suite.starts_with('-'), "a suite is a word");
    let mut args = vec!["debootstrap".to_owned(), "--variant=minbase".to_owned()];
    match &source.keyring {
        Some(keyring) => {
            args.push("--force-check-gpg".to_owned());
            args.push(format!("--keyring={}", keyring.display()));
        }
        None => args.push("--no-check-gpg".to_owned()),
    }
    args.push(format!("--include={}", packages.join(",")));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_always_checked_unless_the_machine_trusts_it_unsigned() {
        let mut source = Source {
            mirror: None,
            keyring: Some("/k.gpg".into()),
            proxies: Vec::new(),
        };
        let expect = [
            "debootstrap",
            "--variant=minbase",
            "--force-check-gpg",
            "--keyring=/k.gpg",
            "--include=a,b",
        ];
        assert_eq!(arguments(&source, "bookworm", &["a", "b"]), expect);
        source.keyring = None;
        assert_eq!(arguments(&source, "bookworm", &["a"])[2], "--no-check-gpg");
    }

    #[test]
    fn progress_never_goes_back_and_ends_below_the_tidying() {
        let mut meter = Meter {
            seen: [0; 4],
            percent: 0,
        };
        let mut last = 0;
        for (_, verb, lines, _) in STEPS {
            for n in 0..lines * 2 {
                let progress = meter
                    .line(&format!("I: {verb} package-{n}..."))
                    .expect("a line of progress");
                assert!(progress.percent >= last, "{last} to {}", progress.percent);
                assert_eq!(progress.item, format!("package-{n}"));
                last = progress.percent;
            }
        }
        assert_eq!(last, 95);
        assert_eq!(meter.line("W: something"), None);
        assert_eq!(meter.line("I: Resolving dependencies"), None);
    }

    #[test]
    fn a_hostile_line_is_shown_escaped() {
        let mut meter = Meter {
            seen: [0; 4],
            percent: 0,
        };
        let progress = meter
            .line("I: Retrieving \u{1b}[2J")
            .expect("a line of progress");
        assert_eq!(progress.item, "\\u{1b}[2J");
    }
}
