//! What Terraform tells while it plans or applies: a line of JSON for each thing that happens. Start at [`Lines`], which cuts bytes into lines, and
//! [`Said::of`], which reads one.
//!
//! It is for people to see. What is decided, is decided by exit codes and by the plan itself: a line that is not understood is no reason to stop.

use quorate_exec::hostile;
use serde::{Deserialize, Serialize};

/// Longest line that is kept, in bytes; what is longer is cut. A diagnostic with a page of source is a few kilobytes.
const LINE_BYTES_MAX: usize = 1 << 16;

/// Bytes that come in pieces, as lines.
#[derive(Debug, Default)]
pub struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// Takes the next piece, and gives the lines that it ends.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut ended = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ends) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.open.len());
            self.open.extend_from_slice(&piece[..piece.len().min(room)]);
            if ends {
                ended.push(std::mem::take(&mut self.open));
            }
        }
        ended
    }

    /// The line that was never ended, when there is one.
    pub fn rest(self) -> Option<Vec<u8>> {
        (!self.open.is_empty()).then_some(self.open)
    }
}

/// What a line says, harmless to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Something happens to a resource.
    Happens(String),
    /// What is wrong.
    Wrong(Trouble),
    /// How many resources were, or are to be, made and ended.
    Counts(Counts),
    /// What is of no interest here: versions, planned changes, outputs.
    Nothing,
    /// No line of that kind.
    Other(String),
}

/// A diagnostic of Terraform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// An error; else a warning.
    pub error: bool,
    /// In one line, with the resource that it is about.
    pub summary: String,
    /// More of it. May be empty.
    pub detail: String,
}

/// Resources by what happened to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Made.
    pub add: u64,
    /// Changed in place.
    pub change: u64,
    /// Ended.
    pub remove: u64,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "@message", default)]
    message: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diagnostic: Option<Diagnostic>,
    #[serde(default)]
    changes: Option<Counts>,
}

#[derive(Deserialize)]
struct Diagnostic {
    severity: String,
    summary: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    address: String,
}

impl Said {
    /// Reads a line.
    pub fn of(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            return Self::Nothing;
        }
        let Ok(line) = serde_json::from_str::<Line>(&text) else {
            return Self::Other(hostile::line(&text));
        };
        match (line.kind.as_str(), line.diagnostic, line.changes) {
            ("diagnostic", Some(diagnostic), _) => Self::Wrong(diagnostic.read()),
            ("change_summary", _, Some(counts)) => Self::Counts(counts),
            // What a provisioner prints is whatever its author wanted, secrets too: not shown.
            (
                "apply_start" | "apply_progress" | "apply_complete" | "apply_errored"
                | "provision_start" | "provision_complete" | "provision_errored",
                _,
                _,
            ) => Self::Happens(hostile::line(&line.message)),
            // Kinds are added: one that is not known is nothing to worry about.
            (_, _, _) => Self::Nothing,
        }
    }
}

impl Diagnostic {
    fn read(self) -> Trouble {
        let about = match self.address.is_empty() {
            true => String::new(),
            false => format!("{}: ", self.address),
        };
        Trouble {
            error: self.severity == "error",
            summary: hostile::line(&format!("{about}{}", self.summary)),
            detail: hostile::text(&self.detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_is_between_ends_and_never_long() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"one\ntw"), [b"one".to_vec()]);
        assert_eq!(lines.take(b"o\n\nthree"), [b"two".to_vec(), b"".to_vec()]);
        assert_eq!(lines.rest(), Some(b"three".to_vec()));
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert!(lines.take(&[b'x'; 10_000]).is_empty());
        }
        let cut = lines.take(b"y\nnext\n");
        assert_eq!(
            (cut[0].len(), cut[1].as_slice()),
            (LINE_BYTES_MAX, &b"next"[..])
        );
        assert_eq!(lines.rest(), None);
    }

    /// As Terraform 1.11 wrote them.
    #[test]
    fn what_terraform_says() {
        let said = |line: &str| Said::of(line.as_bytes());
        let start = r#"{"@level":"info","@message":"terraform_data.a: Creating...","@module":"terraform.ui","@timestamp":"2025-01-01T00:00:00.000000Z","hook":{"resource":{"addr":"terraform_data.a"},"action":"create"},"type":"apply_start"}"#;
        assert_eq!(
            said(start),
            Said::Happens("terraform_data.a: Creating...".into())
        );
        let counts = r#"{"@level":"info","@message":"Apply complete! Resources: 1 added, 0 changed, 0 destroyed.","@module":"terraform.ui","changes":{"add":1,"change":0,"import":0,"remove":2,"operation":"apply"},"type":"change_summary"}"#;
        let expected = Counts {
            add: 1,
            change: 0,
            remove: 2,
        };
        assert_eq!(said(counts), Said::Counts(expected));
        let wrong = r#"{"@level":"error","@message":"Error: no","diagnostic":{"severity":"error","summary":"no","detail":"at\nall","address":"a.b"},"type":"diagnostic"}"#;
        let expected = Trouble {
            error: true,
            summary: "a.b: no".into(),
            detail: "at\nall".into(),
        };
        assert_eq!(said(wrong), Said::Wrong(expected));
        assert_eq!(
            said(r#"{"@message":"x","type":"outputs","outputs":{"a":{"value":"secret"}}}"#),
            Said::Nothing
        );
        assert_eq!(
            said(r#"{"@message":"secret","type":"provision_progress"}"#),
            Said::Nothing
        );
        assert_eq!(said(r#"{"type":"kind of tomorrow"}"#), Said::Nothing);
    }

    #[test]
    fn hostile_lines_are_harmless() {
        let said = |line: &[u8]| Said::of(line);
        assert_eq!(
            said(b"\x1b[2Jpanic: \xff"),
            Said::Other("\\u{1b}[2Jpanic: \u{fffd}".into())
        );
        assert_eq!(said(b"[]"), Said::Other("[]".into()));
        let start = br#"{"@message":"a\u001b[31m\nb","type":"apply_start"}"#;
        assert_eq!(said(start), Said::Happens("a\\u{1b}[31m\\u{a}b".into()));
        // Half a diagnostic is none.
        assert_eq!(
            said(br#"{"type":"diagnostic","@message":"x"}"#),
            Said::Nothing
        );
        let wrong =
            br#"{"type":"diagnostic","diagnostic":{"severity":"error","summary":"\u001b[2J"}}"#;
        let Said::Wrong(wrong) = said(wrong) else {
            panic!()
        };
        assert_eq!(wrong.summary, "\\u{1b}[2J");
    }
}
