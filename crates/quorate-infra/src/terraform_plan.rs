//! A plan of Terraform or OpenTofu, as `terraform show -json` writes it. Start at [`TerraformPlan::parse`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest plan that is read, in bytes; one of five masters and a VPC is half a megabyte.
const BYTES_MAX: usize = 256 << 20;

/// What a plan would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerraformPlan {
    /// Every managed resource of it, those that stay among them.
    pub resources: Vec<Resource>,
    /// The output `quorate_cluster` of the state that it starts from, where that has one.
    pub cluster: Option<Value>,
}

/// A resource of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its address: `module.control_plane.aws_instance.k8s_master["cp-1"]`.
    pub address: String,
    /// Its type: `aws_instance`.
    pub kind: String,
    /// Its name in the configuration: `k8s_master`.
    pub name: String,
    /// What happens to it.
    pub action: Action,
    /// It would be made anew only because it is marked as tainted: what made it was interrupted, or somebody marked it.
    pub tainted: bool,
    /// Its attributes before; null where it is made.
    pub before: Value,
    /// Its attributes after, as far as they are known; null where it is destroyed.
    pub after: Value,
}

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Nothing.
    Keep,
    /// It is made.
    Create,
    /// It is changed in place; that may stop a machine.
    Update,
    /// It is destroyed.
    Destroy,
    /// It is destroyed and made anew, in whatever order.
    Replace,
    /// Terraform forgets it, and it stays.
    Forget,
}

/// Why a plan cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no plan as JSON.
    #[error("expected a plan as JSON, {found}\nhint: `terraform show -json SAVED_PLAN` writes it")]
    NotOne {
        /// What was there instead.
        found: String,
    },
    /// It is of a format that is not known.
    #[error("the plan has format {found}, and format 1 is known")]
    Format {
        /// Its format.
        found: String,
    },
    /// Planning failed, so it does not say all.
    #[error("the plan ended with an error: it does not say all that would be done")]
    Failed,
    /// A part of it is not understood.
    #[error("the plan is not understood at {address}: {why}")]
    Shape {
        /// Which resource.
        address: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
struct File {
    format_version: String,
    #[serde(default)]
    errored: Option<bool>,
    #[serde(default)]
    resource_changes: Vec<Written>,
    #[serde(default)]
    prior_state: Value,
}

#[derive(Deserialize)]
struct Written {
    address: String,
    mode: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    change: Change,
    #[serde(default)]
    action_reason: Option<String>,
}

#[derive(Deserialize)]
struct Change {
    actions: Vec<String>,
    #[serde(default)]
    before: Value,
    #[serde(default)]
    after: Value,
}

impl TerraformPlan {
    /// Reads what `terraform show -json SAVED_PLAN` or `tofu show -json SAVED_PLAN` wrote.
    ///
    /// # Errors
    /// See [`PlanError`]; what is not understood is never left out.
    pub fn parse(bytes: &[u8]) -> Result<Self, PlanError> {
        let not_one = |found: String| PlanError::NotOne { found };
        if bytes.len() > BYTES_MAX {
            return Err(not_one(format!("found more than {BYTES_MAX} bytes")));
        }
        if bytes.starts_with(b"PK") {
            return Err(not_one("found a saved plan".to_owned()));
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| not_one(format!("found something else: {error}")))?;
        match value.get("format_version").and_then(Value::as_str) {
            // 1.x: keys are added, none changes its meaning.
            Some(format) if format == "1" || format.starts_with("1.") => {}
            Some(format) => {
                let found = format.chars().take(60).collect();
                return Err(PlanError::Format { found });
            }
            None => return Err(not_one("found JSON without `format_version`".to_owned())),
        }
        // A state, as `terraform show -json` without a plan writes it, has a format too.
        if value.get("resource_changes").is_none() && value.get("planned_values").is_none() {
            return Err(not_one("found no `resource_changes`".to_owned()));
        }
        let file = File::deserialize(&value).map_err(|error| PlanError::Shape {
            address: "its top level".to_owned(),
            why: error.to_string(),
        })?;
        debug_assert!(file.format_version.starts_with('1'));
        if file.errored == Some(true) {
            return Err(PlanError::Failed);
        }
        let managed = file
            .resource_changes
            .into_iter()
            .filter(|written| written.mode == "managed");
        let resources = managed.map(resource).collect::<Result<_, _>>()?;
        let cluster = file
            .prior_state
            .pointer("/values/outputs/quorate_cluster/value")
            .filter(|value| !value.is_null())
            .cloned();
        Ok(Self { resources, cluster })
    }
}

fn resource(written: Written) -> Result<Resource, PlanError> {
    let actions: Vec<&str> = written.change.actions.iter().map(String::as_str).collect();
    let action = match actions.as_slice() {
        ["no-op"] | ["read"] => Action::Keep,
        ["create"] => Action::Create,
        ["update"] => Action::Update,
        ["delete"] => Action::Destroy,
        ["delete", "create"] | ["create", "delete"] => Action::Replace,
        ["forget"] => Action::Forget,
        // Another one is made, and the old one stays where it is.
        ["create", "forget"] | ["forget", "create"] => Action::Forget,
        others => {
            return Err(PlanError::Shape {
                address: written.address,
                why: format!("the actions {others:?} are not known"),
            });
        }
    };
    Ok(Resource {
        address: written.address,
        kind: written.kind,
        name: written.name,
        action,
        tainted: written.action_reason.as_deref() == Some("replace_because_tainted"),
        before: written.change.before,
        after: written.change.after,
    })
}

impl Resource {
    /// A text of before.
    pub(crate) fn was(&self, key: &str) -> Option<&str> {
        self.before
            .get(key)?
            .as_str()
            .filter(|text| !text.is_empty())
    }

    /// A tag of before.
    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.before.get("tags")?.get(key)?.as_str()
    }

    /// Whether an attribute is another one afterwards. One that is not known before applying may be.
    pub(crate) fn changes(&self, key: &str) -> bool {
        self.before.get(key) != self.after.get(key)
            && !(nothing(self.before.get(key)) && nothing(self.after.get(key)))
    }

    /// The attributes that an update changes, by name. Values stay untold: some are sensitive.
    pub fn changing(&self) -> Vec<&str> {
        let maps = [&self.before, &self.after];
        let all: BTreeSet<&str> = maps
            .into_iter()
            .filter_map(Value::as_object)
            .flat_map(|map| map.keys().map(String::as_str))
            .collect();
        all.into_iter().filter(|key| self.changes(key)).collect()
    }

    /// Whether it is not there any more, or another one is in its place.
    pub(crate) fn goes(&self) -> bool {
        match self.action {
            Action::Destroy | Action::Replace => true,
            Action::Keep | Action::Create | Action::Update | Action::Forget => false,
        }
    }
}

fn nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => false,
    }
}
