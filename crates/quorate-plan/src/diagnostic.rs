//! What is wrong with an input, with its place: data first, then a message in the manner of rustc.
//!
//! Start at [`Diagnostic`]; [`render`] makes the text, [`explain`] says more about a code. The codes and their pages are one table, in
//! [`Code`].

mod code;

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};
use serde::Serialize;

pub use code::{Code, explain};

/// Longest line of the source that is shown whole, in columns; longer ones are cut around what is marked.
const WIDTH: usize = 110;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Nothing is done with such an input.
    Error,
    /// It works, and whoever wrote it should know this.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Which kind of mistake: `Q0102`.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence: what was expected and what was seen.
    pub message: String,
    /// The file, as the caller named it.
    pub file: String,
    /// The marked bytes of the text.
    pub span: Range<usize>,
    /// Line of its first byte, from 1.
    pub line: usize,
    /// Column of its first byte in characters, from 1.
    pub column: usize,
    /// What to say at the mark. May be empty.
    pub label: String,
    /// Other places that matter, each with what to say there.
    pub also: Vec<Also>,
    /// What to do, one sentence each.
    pub help: Vec<String>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// A second place that matters: the first of two equal names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Also {
    /// Its bytes.
    pub span: Range<usize>,
    /// What to say there.
    pub label: String,
}

impl Diagnostic {
    /// A diagnostic for the bytes `span` of `text`. A span beyond the text, or one that cuts a character, is moved to where it fits.
    pub fn new(
        code: Code,
        file: &str,
        text: &str,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let span = fit(text, span);
        let before = &text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            code,
            severity: code.severity(),
            message: message.into(),
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span,
            label: String::new(),
            also: Vec::new(),
            help: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// The nearest span that lies in `text`, on borders of characters.
fn fit(text: &str, span: Range<usize>) -> Range<usize> {
    let border = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = border(span.start);
    start..border(span.end).max(start)
}

/// The diagnostics as text, in the order given, each with its line and a caret. `text` is what they were made from. Control characters
/// of the input do not reach the terminal.
pub fn render(diagnostics: &[Diagnostic], text: &str, colour: bool) -> String {
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
    .term_width(WIDTH);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&[group(diagnostic, text)]));
        out.push_str("\n\n");
    }
    out
}

fn group<'a>(diagnostic: &'a Diagnostic, text: &'a str) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    // The renderer makes titles, messages and the source harmless, but not labels.
    let label = |label: &str| (!label.is_empty()).then(|| normalize_untrusted_str(label));
    // An empty span still gets a caret.
    let shown = |span: &Range<usize>| {
        if span.is_empty() {
            fit(text, span.start..span.end + 1)
        } else {
            span.clone()
        }
    };
    let snippet = Snippet::source(text)
        .path(diagnostic.file.as_str())
        .annotation(
            AnnotationKind::Primary
                .span(shown(&diagnostic.span))
                .label(label(&diagnostic.label)),
        )
        .annotations(diagnostic.also.iter().map(|also| {
            AnnotationKind::Context
                .span(shown(&fit(text, also.span.clone())))
                .label(label(&also.label))
        }));
    let mut group = level
        .primary_title(diagnostic.message.as_str())
        .id(diagnostic.code.name())
        .element(snippet);
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    for note in &diagnostic.notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let text = "a: 1\näö: 2\n";
        let at = text.find('2').unwrap();
        let d = Diagnostic::new(Code::WrongType, "f", text, at..at + 1, "m");
        assert_eq!((d.line, d.column), (2, 5));
    }

    #[test]
    fn spans_that_do_not_fit_are_moved() {
        let text = "ä";
        for span in [0..9, 1..2, 7..9, 1..1] {
            let d = Diagnostic::new(Code::WrongType, "f", text, span, "m");
            assert!(text.get(d.span.clone()).is_some());
            assert!(!render(&[d], text, true).is_empty());
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = "a: \u{1b}[2J\u{7}\n";
        let mut d = Diagnostic::new(Code::WrongType, "f", text, 3..4, "\u{1b}[31mred");
        d.label = "\u{1b}]0;x\u{7}".into();
        let shown = render(&[d], text, false);
        assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown:?}");
    }

    #[test]
    fn every_code_is_explained_and_named_once() {
        let mut names = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(names.insert(code.name()), "{code:?}");
            assert!(code.explanation().len() > 80, "{code:?}");
            assert_eq!(explain(code.name()), Some(code.explanation()));
            assert_eq!(
                code.severity() == Severity::Warning,
                code.name().starts_with("Q05"),
                "{code:?}"
            );
        }
        assert_eq!(explain("Q9999"), None);
    }
}
