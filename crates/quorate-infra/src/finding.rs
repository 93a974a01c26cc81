//! What a lint found, as data.

pub use quorate_plan::diagnostic::Severity;
use serde::Serialize;

use crate::Code;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Which kind.
    pub code: Code,
    /// How bad it is. An error costs the cluster something, or nobody can say that it does not.
    pub severity: Severity,
    /// What it is about: an address in a Terraform plan, an ARN or an id at AWS.
    pub about: String,
    /// What was seen.
    pub seen: String,
    /// Why that is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// An error of that kind, with the reason and the way on that its code has.
    pub(crate) fn error(code: Code, about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            about: about.into(),
            seen: seen.into(),
            why: code.why().to_owned(),
            fix: code.fix().to_owned(),
        }
    }

    /// As [`Self::error`], for what works.
    pub(crate) fn warning(code: Code, about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, about, seen)
        }
    }
}
