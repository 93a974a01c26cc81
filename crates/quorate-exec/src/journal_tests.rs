use quorate_plan::{Fence, event::Verdict};

use super::*;

fn fenced(token: u64) -> Event {
    Event::Fenced {
        fence: Fence(token),
    }
}

fn three_lines(runs: &Path) -> PathBuf {
    let mut journal = Journal::open(runs, "r1").unwrap();
    for token in 1..=3 {
        journal.append_at(&fenced(token), 1000 + token).unwrap();
    }
    journal.path().to_owned()
}

#[test]
fn what_was_written_is_read_and_continued() {
    let runs = tempfile::tempdir().unwrap();
    let path = three_lines(runs.path());
    let mut journal = Journal::open(runs.path(), "r1").unwrap();
    let ended = Event::Ended {
        verdict: Verdict::Done,
    };
    journal.append_at(&ended, 2000).unwrap();
    let recording = Journal::read(runs.path(), "r1").unwrap();
    assert!(!recording.torn);
    let told: Vec<_> = recording
        .entries
        .iter()
        .map(|entry| (entry.seq, entry.at, entry.event.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (1, 1001, fenced(1)),
            (2, 1002, fenced(2)),
            (3, 1003, fenced(3)),
            (4, 2000, ended)
        ]
    );
    assert_eq!(
        Journal::list(runs.path()).unwrap(),
        [Run {
            id: "r1".into(),
            path: path.clone()
        }]
    );
    assert_eq!(Journal::list(&runs.path().join("none")).unwrap(), []);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn every_cut_of_the_last_line_is_torn_and_not_damaged() {
    let runs = tempfile::tempdir().unwrap();
    let path = three_lines(runs.path());
    let whole = fs::read(&path).unwrap();
    let second = whole
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(1)
        .unwrap()
        .0
        + 1;
    for length in second..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let recording = Journal::read(runs.path(), "r1").unwrap();
        assert_eq!(
            (recording.entries.len(), recording.torn),
            (2, length > second),
            "{length} bytes"
        );
    }
    // The next writer goes on after the last whole line.
    let mut journal = Journal::open(runs.path(), "r1").unwrap();
    journal.append_at(&fenced(9), 9).unwrap();
    let recording = Journal::read(runs.path(), "r1").unwrap();
    assert!(!recording.torn);
    assert_eq!(recording.entries[2].event, fenced(9));
}

#[test]
fn a_line_of_zeros_at_the_end_is_what_a_crash_leaves() {
    let runs = tempfile::tempdir().unwrap();
    let path = three_lines(runs.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 64]);
    bytes.push(b'\n');
    fs::write(&path, &bytes).unwrap();
    let recording = Journal::read(runs.path(), "r1").unwrap();
    assert_eq!((recording.entries.len(), recording.torn), (3, true));
}

#[test]
fn every_changed_byte_is_told_by_its_line() {
    let runs = tempfile::tempdir().unwrap();
    let path = three_lines(runs.path());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() - 1 {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let line = 1 + whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        match Journal::read(runs.path(), "r1") {
            Err(JournalError::Damaged { line: named, .. }) => {
                assert_eq!(named, line, "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        assert!(
            Journal::open(runs.path(), "r1").is_err(),
            "nothing is appended to a damaged journal"
        );
    }
}

#[test]
fn a_missing_line_is_told() {
    let runs = tempfile::tempdir().unwrap();
    let path = three_lines(runs.path());
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&path, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
    let error = Journal::read(runs.path(), "r1").unwrap_err().to_string();
    assert!(
        error.contains("line 2") && error.contains("expected number 2, seen 3"),
        "{error}"
    );
}

#[test]
fn runs_are_file_names() {
    let runs = tempfile::tempdir().unwrap();
    for bad in ["", "../x", "a/b", "A", "\u{1b}[2J", &"x".repeat(81)] {
        let error = Journal::open(runs.path(), bad).unwrap_err();
        assert!(matches!(error, JournalError::BadRun { .. }), "{bad:?}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

/// Takes so many bytes and is full then, as a disk is: what fits of a line is written.
#[derive(Debug)]
struct SmallDisk {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room - self.bytes.len());
        if fits == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store for SmallDisk {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.bytes.truncate(usize::try_from(length).unwrap());
        Ok(())
    }
}

#[test]
fn a_full_disk_stops_the_run_and_leaves_whole_lines() {
    let stop = StopSignal::new();
    let disk = SmallDisk {
        bytes: Vec::new(),
        room: 250,
    };
    let mut recorder = Recorder::new(Journal::on(disk, Path::new("j")), stop.clone());
    let mut recorded = 0;
    while recorder.error().is_none() {
        assert_eq!(stop.asked(), Stop::No);
        recorder.record(&fenced(7));
        recorded += 1;
        assert!(recorded < 100, "the disk never fills");
    }
    assert_eq!(stop.asked(), Stop::BeforeNextEffect);
    assert!(matches!(recorder.error(), Some(JournalError::Full { .. })));
    assert_eq!(
        recorder.error().unwrap().to_string(),
        "no space is left for the journal `j`: make room and run the same command again, it goes on where it stopped"
    );
    let bytes = recorder.journal.file.bytes.clone();
    assert_eq!(bytes.last(), Some(&b'\n'));
    assert_eq!(
        bytes.iter().filter(|byte| **byte == b'\n').count(),
        recorded - 1
    );
    // There is room again: a journal with a gap would tell lies, so nothing more is written to it.
    recorder.journal.file.room = 10_000;
    recorder.record(&fenced(8));
    assert_eq!(recorder.journal.file.bytes, bytes);
}

/// A real full disk, where one can be mounted.
#[test]
fn a_full_file_system_is_told_by_name() {
    let place = tempfile::tempdir().unwrap();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        place.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=16k"),
    );
    if let Err(error) = mounted {
        let reason = format!("a tmpfs cannot be mounted here: {error}");
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let mut journal = Journal::open(place.path(), "r1").unwrap();
        let error = (1..1000)
            .find_map(|token| journal.append(&fenced(token)).err())
            .expect("16 KiB take less than 1000 lines");
        assert!(matches!(error, JournalError::Full { .. }), "{error}");
        drop(journal);
        let recording = Journal::read(place.path(), "r1").unwrap();
        assert!(!recording.torn && recording.entries.len() > 10);
    });
    nix::mount::umount(place.path()).unwrap();
    outcome.unwrap();
}
