//! The journal of a run: one line of JSON for each event, appended, on disk before and after every effect. It is for people and for
//! checking afterwards; no decision reads it.
//!
//! Start at [`Journal::open`]; [`Recorder`] ties a journal to a run and stops it when it can no longer be written.
//!
//! Each line carries a digest over itself and everything before it, so that a damaged, missing or edited line is told by its number. It
//! protects against accidents, not against somebody who can write the file. A last line that is cut off is what a crash leaves behind:
//! readers pass over it, and the next writer removes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use quorate_plan::Event;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    identity,
    stop::{Stop, StopSignal},
};

/// The file of a run, in the directory named for it.
const FILE: &str = "events.jsonl";

/// Longest line that is read: an event holds at most a plan and an intent.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What stands between a line's text and its digest.
const DIGEST_KEY: &str = ",\"digest\":\"";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its number, from 1.
    pub seq: u64,
    /// When, UTC by the operator's clock, in milliseconds since 1970.
    pub at: u64,
    /// What happened.
    pub event: Event,
    /// The first 16 bytes of SHA-256 over the digest of the line before and this line up to here, hex.
    pub digest: String,
}

/// What a journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Its lines, in order.
    pub entries: Vec<Entry>,
    /// The last line was cut off: whoever wrote it did not live to end it. It is not among the entries.
    pub torn: bool,
}

/// A run that has a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its ID.
    pub id: String,
    /// Its journal.
    pub path: PathBuf,
}

/// Why a journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("failed to {doing} `{}`", path.display())]
    Io {
        /// What was being done: `open`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk is full. What was there is still whole.
    #[error(
        "no space is left for the journal `{}`: make room and run the same command again, it goes on where it stopped",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not what was written there.
    #[error("line {line} of the journal `{}` is damaged: {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What was expected and seen.
        found: String,
    },
    /// A run's ID has to be a plain file name.
    #[error("`{run}` is no run's ID: expected 1 to 80 of a-z, 0-9 and `-`")]
    BadRun {
        /// What was given, escaped.
        run: String,
    },
    /// An earlier line could not be written; after that nothing is.
    #[error("the journal `{}` ended with an earlier error", path.display())]
    Ended {
        /// The file.
        path: PathBuf,
    },
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal<W = File> {
    file: W,
    path: PathBuf,
    /// Length of the whole lines in bytes.
    length: u64,
    seq: u64,
    digest: String,
    ended: bool,
}

/// What a journal is written to: a file, or something that fails on purpose.
pub trait Store: Write {
    /// Has what was written on disk.
    ///
    /// # Errors
    /// When it is not.
    fn sync(&mut self) -> io::Result<()>;

    /// Forgets everything after `length` bytes.
    ///
    /// # Errors
    /// When it could not.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Store for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length))?;
        Ok(())
    }
}

impl Journal<File> {
    /// Opens the journal of a run below `runs`, and makes it where there is none. Only its owner can read it.
    ///
    /// # Errors
    /// When it cannot be made, or what is there is damaged.
    pub fn open(runs: &Path, run: &str) -> Result<Self, JournalError> {
        let path = path_of(runs, run)?;
        let directory = path
            .parent()
            .expect("a journal lies in its run's directory");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io_error("make", directory))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let mut length = 0;
        let mut last = (0, String::new());
        let mut entries = Reader::new(&file, &path);
        while let Some(entry) = entries.next()? {
            last = (entry.seq, entry.digest);
            length = entries.length;
        }
        let mut file = file;
        // A torn last line was never acknowledged to anybody.
        file.cut(length).map_err(io_error("truncate", &path))?;
        // The file's name has to be on disk too.
        for directory in [directory, runs] {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(io_error("sync", directory))?;
        }
        Ok(Self {
            file,
            path,
            length,
            seq: last.0,
            digest: last.1,
            ended: false,
        })
    }

    /// Reads the journal of a run below `runs`.
    ///
    /// # Errors
    /// When it cannot be read, or a line that is not the last is damaged: the error names it.
    pub fn read(runs: &Path, run: &str) -> Result<Recording, JournalError> {
        let path = path_of(runs, run)?;
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let mut reader = Reader::new(&file, &path);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            entries.push(entry);
        }
        Ok(Recording {
            entries,
            torn: reader.torn,
        })
    }

    /// Runs that have a journal below `runs`, the oldest first. None when there is no such directory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(runs: &Path) -> Result<Vec<Run>, JournalError> {
        let entries = match fs::read_dir(runs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", runs)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("read", runs))?.file_name();
            if let Some(id) = name.to_str()
                && let Ok(path) = path_of(runs, id)
                && path.is_file()
            {
                found.push(Run {
                    id: id.to_owned(),
                    path,
                });
            }
        }
        // IDs begin with the time.
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }
}

impl<W: Store> Journal<W> {
    /// A journal that begins in an empty store; `path` is only for messages.
    pub fn on(store: W, path: &Path) -> Self {
        Self {
            file: store,
            path: path.to_owned(),
            length: 0,
            seq: 0,
            digest: String::new(),
            ended: false,
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an event; when this returns, it is on disk, unless it is mere progress.
    ///
    /// # Errors
    /// [`JournalError::Full`] or [`JournalError::Io`]; from then on [`JournalError::Ended`], since a journal with a gap tells lies.
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        self.append_at(event, identity::now_ms())
    }

    fn append_at(&mut self, event: &Event, at: u64) -> Result<(), JournalError> {
        if self.ended {
            return Err(JournalError::Ended {
                path: self.path.clone(),
            });
        }
        let seq = self.seq + 1;
        let text = serde_json::to_string(event).expect("events are plain data");
        let body = format!("{{\"seq\":{seq},\"at\":{at},\"event\":{text}");
        let digest = digest(&self.digest, &body);
        let line = format!("{body}{DIGEST_KEY}{digest}\"}}\n");
        let written = self.file.write_all(line.as_bytes()).and_then(|()| {
            if lasts(event) {
                self.file.sync()
            } else {
                Ok(())
            }
        });
        if let Err(source) = written {
            self.ended = true;
            // Half a line may be there. When it cannot be cut off either, readers pass over it.
            if let Err(error) = self.file.cut(self.length) {
                tracing::warn!(%error, path = %self.path.display(), "could not cut off half a line");
            }
            let path = self.path.clone();
            return Err(if is_full(&source) {
                JournalError::Full { path, source }
            } else {
                JournalError::Io {
                    doing: "write",
                    path,
                    source,
                }
            });
        }
        self.seq = seq;
        self.digest = digest;
        self.length += line.len() as u64;
        Ok(())
    }
}

/// Ties a journal to a run: what cannot be written stops it before the next effect.
#[derive(Debug)]
pub struct Recorder<W = File> {
    journal: Journal<W>,
    stop: StopSignal,
    error: Option<JournalError>,
}

impl<W: Store> Recorder<W> {
    /// Records into `journal`, and asks `stop` when it fails.
    pub fn new(journal: Journal<W>, stop: StopSignal) -> Self {
        Self {
            journal,
            stop,
            error: None,
        }
    }

    /// Records one event. When it is not on disk afterwards, no further effect is made.
    pub fn record(&mut self, event: &Event) {
        if let Err(error) = self.journal.append(event) {
            self.stop.ask(Stop::BeforeNextEffect);
            self.error.get_or_insert(error);
        }
    }

    /// The first error: why the run was stopped.
    pub fn error(&self) -> Option<&JournalError> {
        self.error.as_ref()
    }
}

/// Whether an event has to be on disk before the run goes on.
fn lasts(event: &Event) -> bool {
    match event {
        Event::StepProgress { .. } | Event::Waiting { .. } => false,
        Event::Started { .. }
        | Event::Fenced { .. }
        | Event::StageStarted { .. }
        | Event::StepStarted { .. }
        | Event::StepStands { .. }
        | Event::StepFailed { .. }
        | Event::Refused { .. }
        | Event::Ended { .. } => true,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero
    )
}

fn digest(before: &str, body: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(body);
    let hash = hash.finalize();
    hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn path_of(runs: &Path, run: &str) -> Result<PathBuf, JournalError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if run.is_empty() || run.len() > 80 || !run.bytes().all(plain) {
        return Err(JournalError::BadRun {
            run: crate::hostile::line(run),
        });
    }
    Ok(runs.join(run).join(FILE))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io {
        doing,
        path,
        source,
    }
}

/// Reads line by line and checks the chain.
struct Reader<'a> {
    lines: BufReader<&'a File>,
    path: &'a Path,
    seq: u64,
    digest: String,
    /// Length of the whole lines so far, in bytes.
    length: u64,
    torn: bool,
}

impl<'a> Reader<'a> {
    fn new(file: &'a File, path: &'a Path) -> Self {
        Self {
            lines: BufReader::new(file),
            path,
            seq: 0,
            digest: String::new(),
            length: 0,
            torn: false,
        }
    }

    fn next(&mut self) -> Result<Option<Entry>, JournalError> {
        let mut line = Vec::new();
        let read = (&mut self.lines)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(io_error("read", self.path))?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            if read as u64 == LINE_BYTES_MAX {
                return Err(self.damaged("it is longer than a line can be".into()));
            }
            self.torn = true;
            return Ok(None);
        }
        match self.entry(&line) {
            Ok(entry) => {
                self.seq = entry.seq;
                self.digest.clone_from(&entry.digest);
                self.length += read as u64;
                Ok(Some(entry))
            }
            Err(found) => {
                // Blocks can reach the disk out of order: a crash may also leave a last line that has its end and not its middle.
                let last = self
                    .lines
                    .fill_buf()
                    .map_err(io_error("read", self.path))?
                    .is_empty();
                if last && line.contains(&0) {
                    self.torn = true;
                    return Ok(None);
                }
                Err(self.damaged(found))
            }
        }
    }

    fn entry(&self, line: &[u8]) -> Result<Entry, String> {
        let line = str::from_utf8(line).map_err(|_| "it is no text".to_owned())?;
        let entry: Entry = serde_json::from_str(line)
            .map_err(|error| format!("it is no entry of a journal ({error})"))?;
        if entry.seq != self.seq + 1 {
            return Err(format!(
                "expected number {}, seen {}: lines are missing",
                self.seq + 1,
                entry.seq
            ));
        }
        let whole = line
            .rsplit_once(DIGEST_KEY)
            .is_some_and(|(body, _)| digest(&self.digest, body) == entry.digest);
        if whole {
            Ok(entry)
        } else {
            Err("its digest is another than that of what it says".into())
        }
    }

    fn damaged(&self, found: String) -> JournalError {
        JournalError::Damaged {
            path: self.path.to_owned(),
            line: self.seq + 1,
            found,
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
