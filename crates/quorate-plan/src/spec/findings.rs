//! Collects what is wrong while a cluster file is read and checked, so that everything is told at once.

use std::ops::Range;

use crate::diagnostic::{Code, Diagnostic, Severity};

/// What was found so far in one text.
pub(super) struct Findings<'a> {
    text: &'a str,
    file: &'a str,
    found: Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(text: &'a str, file: &'a str) -> Self {
        Self {
            text,
            file,
            found: Vec::new(),
        }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Adds one; the caller may add a label, help and notes to what comes back.
    pub(super) fn report(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.found
            .push(Diagnostic::new(code, self.file, self.text, span, message));
        self.found
            .last_mut()
            .expect("one was pushed the line before")
    }

    pub(super) fn wrong_type(
        &mut self,
        span: Range<usize>,
        expected: &str,
        seen: &str,
    ) -> &mut Diagnostic {
        let diagnostic = self.report(
            Code::WrongType,
            span,
            format!("expected {expected}, seen {seen}"),
        );
        diagnostic.label = format!("expected {expected}");
        diagnostic
    }

    /// Adds help to what was reported last.
    pub(super) fn help(&mut self, help: &str) {
        if let Some(last) = self.found.last_mut() {
            last.help.push(help.to_owned());
        }
    }

    /// `value` with the warnings, in the order of the text.
    ///
    /// # Errors
    /// The errors, when there are any.
    pub(super) fn outcome<T>(
        mut self,
        value: Option<T>,
    ) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        self.found.sort_by_key(|found| found.span.start);
        let (errors, warnings): (Vec<_>, Vec<_>) = self
            .found
            .into_iter()
            .partition(|found| found.severity == Severity::Error);
        match value {
            Some(value) if errors.is_empty() => Ok((value, warnings)),
            _ => Err(errors),
        }
    }
}

/// The word of `words` that `word` was probably meant to be: the same but for case and hyphens, or at most two slips away from it.
pub(super) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let plain = |text: &str| -> String {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .flat_map(char::to_lowercase)
            .collect()
    };
    // Long words are not compared: they are not slips.
    if word.len() > 40 {
        return None;
    }
    let given = plain(word);
    words
        .iter()
        .map(|known| (slips(&given, &plain(known)), *known))
        .filter(|(slips, known)| *slips <= 2 && *slips * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other.
fn slips(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        let keys = ["controlPlane", "workers", "network", "name", "kubernetes"];
        for (given, meant) in [
            ("controlplane", Some("controlPlane")),
            ("control-plane", Some("controlPlane")),
            ("wrokers", Some("workers")),
            ("networks", Some("network")),
            ("nmae", Some("name")),
            ("k8s", None),
            ("", None),
            ("\u{1f600}", None),
        ] {
            assert_eq!(nearest(given, &keys), meant, "{given}");
        }
    }
}
