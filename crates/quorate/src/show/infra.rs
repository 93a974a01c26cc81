//! What Terraform would do, as text and for programs: each resource in the plan's order, and what that costs the control plane.

use std::path::Path;

use quorate_infra::{Action, Resource, TerraformPlan};
use quorate_plan::ClusterName;
use serde::Serialize;

use super::{counted, harmless, lint};
use crate::{
    console::{Paint, Style},
    saved_infra::Members,
    terraform::tool::Made,
};

/// A plan that was made and judged.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'a> {
    /// The cluster that runs on the machines, where one is known.
    pub cluster: Option<&'a ClusterName>,
    /// The configuration.
    pub directory: &'a Path,
    /// What planned it.
    pub terraform: &'a Made,
    /// What was seen of etcd's members.
    pub members: &'a Members,
    /// Whether anything would be done; outputs may change alone.
    pub nothing_to_do: bool,
    /// What happens to resources that do not stay, in the plan's order.
    pub changes: Vec<Change<'a>>,
    /// What was found.
    pub lint: lint::Report<'a>,
}

/// What happens to a resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change<'a> {
    address: &'a str,
    action: Action,
    /// Of an update: what changes, without the values, some of which are sensitive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<&'a str>,
}

/// What happens to each resource that does not stay.
pub fn changes(plan: &TerraformPlan) -> Vec<Change<'_>> {
    let changed = |resource: &&Resource| match resource.action {
        Action::Keep => false,
        Action::Create | Action::Update | Action::Destroy | Action::Replace | Action::Forget => {
            true
        }
    };
    plan.resources
        .iter()
        .filter(changed)
        .map(|resource| Change {
            address: &resource.address,
            action: resource.action,
            attributes: match resource.action {
                Action::Update => resource.changing(),
                Action::Keep
                | Action::Create
                | Action::Destroy
                | Action::Replace
                | Action::Forget => Vec::new(),
            },
        })
        .collect()
}

/// As text.
pub fn text(report: &Report<'_>, paint: Paint) -> String {
    let mut out = String::new();
    for change in &report.changes {
        let (style, sign) = match change.action {
            Action::Keep => continue,
            Action::Create => (Style::Good, "+"),
            Action::Update => (Style::Warn, "~"),
            Action::Destroy => (Style::Bad, "-"),
            Action::Replace => (Style::Bad, "-/+"),
            Action::Forget => (Style::Dim, "."),
        };
        let what = match change.action {
            Action::Update => format!(": {}", change.attributes.join(", ")),
            Action::Forget => " is forgotten, and stays".to_owned(),
            Action::Keep | Action::Create | Action::Destroy | Action::Replace => String::new(),
        };
        let line = harmless(&format!("{}{what}", change.address)).replace('\n', " ");
        out += &format!("{} {line}\n", paint.paint(style, format!("{sign:>3}")));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out += &lint::text(&report.lint, paint);
    if report.nothing_to_do {
        out += "nothing to do\n";
    } else {
        out += &format!("{}\n", tally(&report.changes));
    }
    out
}

/// `2 to make, 1 to change, 0 to end`, one that is replaced counting for both.
fn tally(changes: &[Change<'_>]) -> String {
    let count = |actions: &[Action]| {
        let of = changes
            .iter()
            .filter(|change| actions.contains(&change.action));
        of.count()
    };
    format!(
        "{} to make, {} to change, {} to end",
        counted(count(&[Action::Create, Action::Replace]), "resource"),
        count(&[Action::Update]),
        count(&[Action::Destroy, Action::Replace])
    )
}
