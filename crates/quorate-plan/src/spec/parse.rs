//! The cluster file's text.

use crate::{Spec, diagnostic::Diagnostic};

/// Reads a cluster file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn parse(_text: &str, _file: &str) -> Result<Spec, Vec<Diagnostic>> {
    Err(Vec::new())
}
