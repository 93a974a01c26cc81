//! What a lint found, as text: what, where, why, and the way on.

use quorate_infra::{Finding, Severity};
use serde::Serialize;

use super::{counted, harmless};
use crate::console::{Paint, Style};

/// What was judged, and what was found.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'a> {
    /// A file, or an ARN.
    pub subject: &'a str,
    /// How many errors.
    pub errors: usize,
    /// How many warnings.
    pub warnings: usize,
    /// All of them.
    pub findings: &'a [Finding],
}

impl<'a> Report<'a> {
    /// Counts them.
    pub fn new(subject: &'a str, findings: &'a [Finding]) -> Self {
        let errors = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count();
        Self {
            subject,
            errors,
            warnings: findings.len() - errors,
            findings,
        }
    }
}

/// As text.
pub fn text(report: &Report<'_>, paint: Paint) -> String {
    let mut out = String::new();
    for finding in report.findings {
        let (style, word) = match finding.severity {
            Severity::Error => (Style::Bad, "error"),
            Severity::Warning => (Style::Warn, "warning"),
        };
        let label = paint.paint(style, format!("{word}[{}]:", finding.code));
        let (about, seen) = (harmless(&finding.about), harmless(&finding.seen));
        out += &format!("{label} {about}\n    {}\n", seen.replace('\n', "\n    "));
        for (label, text) in [("why:", &finding.why), ("fix:", &finding.fix)] {
            out += &format!("    {} {text}\n", paint.paint(Style::Bold, label));
        }
    }
    out += &format!(
        "{}: {}, {}\n",
        harmless(report.subject),
        counted(report.errors, "error"),
        counted(report.warnings, "warning")
    );
    out
}
