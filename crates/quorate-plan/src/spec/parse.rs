//! The cluster file's text. Start at [`parse`]: the text becomes a tree in which everything knows its place (`yaml`), the tree a shape
//! (`raw`, filled by `read`), the shape a [`Spec`] (`check`). Each stage goes on after a mistake, so that all of them are told at once.

use super::{check, findings::Findings, inventory::Inventory, read, yaml};
use crate::{Spec, diagnostic::Diagnostic};

/// Reads a cluster file; `file` is its name in messages. With it comes what its author should know although it works.
///
/// The text of a CNI manifest is left empty: whoever may read files fills it in.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text. Warnings wait until nothing is.
pub fn parse(text: &str, file: &str) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    parse_with(text, file, |_| None)
}

/// As [`parse`], for whoever can run Terraform: `inventory` is asked for what the output of the configuration in a directory says, when the
/// file leads to one.
///
/// # Errors
/// As [`parse`]. Nothing at all where `inventory` had nothing to tell, and the rest is right: whoever was asked knows why.
pub fn parse_with(
    text: &str,
    file: &str,
    inventory: impl FnOnce(&str) -> Option<Inventory>,
) -> Result<(Spec, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut findings = Findings::new(text, file);
    let spec = yaml::tree(&mut findings).and_then(|root| {
        let shape = read::file(&mut findings, &root)?;
        check::check(&mut findings, shape, inventory)
    });
    findings.outcome(spec)
}
