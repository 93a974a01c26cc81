//! What is wrong with an input, with its place: data for a message in the manner of rustc.

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// `Q0102`.
    pub code: &'static str,
}
