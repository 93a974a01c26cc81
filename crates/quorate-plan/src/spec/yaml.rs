//! The cluster file's text as a tree in which everything knows its place. Start at [`tree`].
//!
//! Scalars stay text: whether `1.35` is a number or a version is decided by the key it stands at, so nothing is lost to a float.

use std::ops::Range;

use serde_saphyr::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span};

use super::findings::Findings;
use crate::diagnostic::Code;

/// Longest cluster file in bytes: a hundred hosts are 10 KiB.
const BYTES_MAX: usize = 1 << 20;

/// Deepest nesting: the file needs 5.
const DEPTH_MAX: usize = 32;

/// A value with its place.
#[derive(Debug)]
pub(super) struct Node {
    /// Its bytes; of a group or list, those to mark when the whole is meant: the key it stands at, or its first key.
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar {
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a group with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    pub(super) node: Node,
}

impl Node {
    /// Nothing after the colon, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a group of keys",
        }
    }
}

/// Reads the text. `None`: it is not a plain YAML document with a group at the top, and `findings` say why.
pub(super) fn tree(findings: &mut Findings<'_>) -> Option<Node> {
    let text = findings.text();
    if text.len() > BYTES_MAX {
        findings.report(
            Code::TooLarge,
            0..0,
            format!(
                "a cluster file has at most {BYTES_MAX} bytes, this one has {}",
                text.len()
            ),
        );
        return None;
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        findings,
        end: text.trim_end().len(),
    };
    let root = reader.document().ok()?;
    match root {
        Some(node) if matches!(node.value, Value::Map(_)) => Some(node),
        other => {
            let (span, seen) = other.map_or((0..0, "an empty file"), |node| {
                let seen = if node.is_null() {
                    "an empty file"
                } else {
                    node.kind()
                };
                (node.span, seen)
            });
            findings
                .report(
                    Code::NotACluster,
                    span,
                    format!("expected a cluster file, seen {seen}"),
                )
                .help
                .push("`quorate init cluster.yaml` writes one to start from".into());
            None
        }
    }
}

/// The tree cannot be built; it was reported.
struct Broken;

struct Reader<'a, 'f, 't> {
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    findings: &'f mut Findings<'a>,
    /// Where the text ends but for white space: marks of what is missing go there.
    end: usize,
}

impl<'t> Reader<'_, '_, 't> {
    fn next(&mut self) -> Result<(Event<'t>, Range<usize>), Broken> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..) | Event::Anchor(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, self.bytes(span))),
                Some(Err(error)) => {
                    let at = error.marker().byte_offset().unwrap_or(self.end);
                    self.broken(at, error.kind());
                    return Err(Broken);
                }
                None => return Ok((Event::StreamEnd, self.end..self.end)),
            }
        }
    }

    fn bytes(&self, span: Span) -> Range<usize> {
        span.byte_range().unwrap_or(self.end..self.end)
    }

    fn broken(&mut self, at: usize, kind: &ErrorKind) {
        let text = self.findings.text();
        // A tab anywhere in the indentation of this line or the one before is the cause, whatever the reader stumbled over.
        if let Some(tab) = tab_in_indentation(text, at) {
            self.findings
                .report(
                    Code::Tab,
                    tab..tab + 1,
                    "the indentation has a tab, YAML takes spaces only",
                )
                .help
                .push("replace it by spaces, two for each level".into());
            return;
        }
        match kind {
            ErrorKind::RecursionLimitExceeded => {
                self.too_deep(at..at + 1);
            }
            ErrorKind::UnknownAnchor => self.not_plain(at..at + 1, "an alias"),
            _ => {
                let at = at.min(self.end);
                let mut said = kind.to_string();
                if said.is_empty() {
                    said = "it is not well-formed".into();
                }
                let found = self.findings.report(
                    Code::Syntax,
                    at..(at + 1).min(text.len()),
                    format!("this is not YAML: {said}"),
                );
                found.help.extend(cause(kind).map(str::to_owned));
                found
                    .notes
                    .push("the rest of the file is checked once it can be read".into());
            }
        }
    }

    fn too_deep(&mut self, span: Range<usize>) {
        self.findings.report(
            Code::TooLarge,
            span,
            format!("groups may be nested {DEPTH_MAX} deep, these are deeper"),
        );
    }

    fn not_plain(&mut self, span: Range<usize>, what: &str) {
        self.findings
            .report(
                Code::NotPlainYaml,
                span,
                format!("a cluster file is plain YAML, this is {what}"),
            )
            .help
            .push("write the value out here".into());
    }

    fn document(&mut self) -> Result<Option<Node>, Broken> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(None),
                first => {
                    let root = self.node(first, None, 0)?;
                    self.nothing_more()?;
                    return Ok(Some(root));
                }
            }
        }
    }

    fn nothing_more(&mut self) -> Result<(), Broken> {
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, span) => {
                    self.not_plain(span, "a second document");
                    return Err(Broken);
                }
            }
        }
    }

    /// One value; `at` is the key it stands at.
    fn node(
        &mut self,
        (event, span): (Event<'t>, Range<usize>),
        at: Option<&Range<usize>>,
        depth: usize,
    ) -> Result<Node, Broken> {
        if depth > DEPTH_MAX {
            self.too_deep(span);
            return Err(Broken);
        }
        let tagged = match &event {
            Event::Scalar(_, _, anchor, tag) => tag.is_some() || *anchor != 0,
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => {
                tag.is_some() || *anchor != 0
            }
            _ => false,
        };
        if tagged {
            self.not_plain(span.clone(), "an anchor or a tag");
        }
        match event {
            Event::Scalar(text, style, ..) => {
                // Nothing was written: the key is what there is to mark.
                let span = match at {
                    Some(at) if span.is_empty() => at.clone(),
                    _ => span,
                };
                Ok(Node {
                    span,
                    value: Value::Scalar {
                        text: text.into_owned(),
                        plain: style == ScalarStyle::Plain,
                    },
                })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        first => items.push(self.node(first, None, depth + 1)?),
                    }
                }
                Ok(Node {
                    span: at.cloned().unwrap_or(span.start..span.start + 1),
                    value: Value::List(items),
                })
            }
            Event::MappingStart(..) => {
                let mut entries: Vec<Entry> = Vec::new();
                loop {
                    match self.next()? {
                        (Event::MappingEnd, _) => break,
                        first => entries.extend(self.entry(first, depth)?),
                    }
                }
                let first = || entries.first().map(|entry| entry.span.clone());
                Ok(Node {
                    span: at
                        .cloned()
                        .or_else(first)
                        .unwrap_or(span.start..span.start + 1),
                    value: Value::Map(entries),
                })
            }
            Event::Alias(_) => {
                self.not_plain(span, "an alias");
                Err(Broken)
            }
            _ => {
                self.broken(span.start, &ErrorKind::ExpectedNodeContent);
                Err(Broken)
            }
        }
    }

    /// A key with its value. `None`: the key is not a text, which was reported.
    fn entry(
        &mut self,
        first: (Event<'t>, Range<usize>),
        depth: usize,
    ) -> Result<Option<Entry>, Broken> {
        let key = self.node(first, None, depth + 1)?;
        let second = self.next()?;
        let node = self.node(second, Some(&key.span), depth + 1)?;
        match key.value {
            Value::Scalar { text, .. } if text == "<<" => {
                self.not_plain(key.span, "a merge key");
                Ok(None)
            }
            Value::Scalar { text, .. } => Ok(Some(Entry {
                key: text,
                span: key.span,
                node,
            })),
            Value::List(_) | Value::Map(_) => {
                self.findings
                    .wrong_type(key.span, "a key", "a list or group");
                Ok(None)
            }
        }
    }
}

/// What is usually behind it.
fn cause(kind: &ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::SimpleKeyExpected => Some("a key is followed by a colon and a space"),
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::InvalidIndentation => Some("lines of one group are indented alike"),
        ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator
        | ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence => {
            Some("a bracket opened here or above is not closed")
        }
        _ => None,
    }
}

/// A tab before the first character of the line around `at`, or of the line before it.
fn tab_in_indentation(text: &str, at: usize) -> Option<usize> {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let line = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let before = text[..line.saturating_sub(1)]
        .rfind('\n')
        .map_or(0, |n| n + 1);
    [line, before].into_iter().find_map(|start| {
        text[start..]
            .char_indices()
            .take_while(|(_, c)| matches!(c, ' ' | '\t' | '-'))
            .find(|(_, c)| *c == '\t')
            .map(|(offset, _)| start + offset)
    })
}
