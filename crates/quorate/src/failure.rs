//! Why a command did not do what it was asked: a message, the chain of causes, and the way on.

use std::error::Error;

use crate::exit::Exit;

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the command ends.
    pub exit: Exit,
    /// What was expected and what was seen. Empty: everything was said already.
    pub message: String,
    /// Causes, the nearest first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without a cause.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let (message, hints) = split_hints(&message.into());
        Self {
            exit,
            message,
            causes: Vec::new(),
            hints,
        }
    }

    /// The command line or an input is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Everything was said already; only the code is left.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// An error with its chain of sources.
    pub fn from_error(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(exit, error.to_string());
        failure.add_chain(error.source());
        failure
    }

    /// What was being done when `error` happened.
    pub fn doing(exit: Exit, doing: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(exit, doing);
        failure.add_chain(Some(error));
        failure
    }

    /// With what it came of.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// With the way on.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn add_chain(&mut self, mut source: Option<&(dyn Error + 'static)>) {
        while let Some(error) = source {
            let (cause, hints) = split_hints(&error.to_string());
            self.causes.push(cause);
            self.hints.extend(hints);
            source = error.source();
        }
    }
}

/// Libraries end a message with lines that begin with `hint:`; they are shown last, after the causes.
fn split_hints(message: &str) -> (String, Vec<String>) {
    let mut lines = Vec::new();
    let mut hints = Vec::new();
    for line in message.lines() {
        match line.strip_prefix("hint: ") {
            Some(hint) => hints.push(hint.to_owned()),
            None => lines.push(line),
        }
    }
    (lines.join("\n"), hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no bundle at x\nhint: build one")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn hints_come_last_and_causes_in_order() {
        let outer = Outer(std::io::Error::other("disk"));
        let failure = Failure::doing(Exit::Usage, "cannot plan", &outer).hint("look");
        assert_eq!(failure.message, "cannot plan");
        assert_eq!(failure.causes, ["no bundle at x", "disk"]);
        assert_eq!(failure.hints, ["build one", "look"]);
    }
}
