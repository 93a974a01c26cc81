//! Plans in files: what was approved by whoever saved it. Applying one looks and plans afresh, and goes on only if that yields the same.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use quorate_plan::{Intent, Plan, Stage};
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{self, BackupPlace, ClusterFile},
    exit::Exit,
    failure::Failure,
    show::{
        json::API_VERSION,
        plan::{what_of, where_of},
    },
    state::Directories,
};

/// What `kind` says in the file.
const KIND: &str = "SavedPlan";

/// A plan in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedPlan {
    api_version: String,
    kind: String,
    /// The cluster file it was made from, absolute: paths in the intent are relative to it.
    cluster_file: PathBuf,
    /// What was wanted.
    pub intent: Intent,
    /// What was planned.
    pub plan: Plan,
}

impl SavedPlan {
    /// A plan that was just made.
    pub fn new(cluster: &ClusterFile, intent: &Intent, plan: &Plan) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            cluster_file: cluster.path.clone(),
            intent: intent.clone(),
            plan: plan.clone(),
        }
    }

    /// Writes it. Only its owner can read it; what is there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        write_kept(path, "plan", self)
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = cluster::read_text("the plan", path)?;
        let no_plan = |detail: String| {
            Failure::usage(format!("`{}` is no saved plan: {detail}", path.display()))
                .hint("a cluster file is given with -f; `quorate plan --out FILE` saves a plan")
        };
        let saved: Self = serde_json::from_str(&text)
            .map_err(|error| no_plan(quorate_exec::hostile::line(&error.to_string())))?;
        if saved.api_version != API_VERSION || saved.kind != KIND {
            return Err(no_plan(format!(
                "expected {API_VERSION} {KIND}, seen {} {}",
                quorate_exec::hostile::line(&saved.api_version),
                quorate_exec::hostile::line(&saved.kind)
            )));
        }
        Ok(saved)
    }

    /// The cluster it is for, as far as it is needed to reach it.
    ///
    /// # Errors
    /// When it was made with other components or another binary than are here.
    pub fn cluster(&self, directories: Directories) -> Result<ClusterFile, Failure> {
        let again = "plan again: `quorate plan --out FILE`";
        cluster_of(&self.cluster_file, &self.intent, "plan", again, directories)
    }
}

/// Writes what is kept for another command. Only its owner can read it; what is there is replaced.
///
/// # Errors
/// When it cannot be written.
pub fn write_kept(path: &Path, what: &str, kept: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(kept).expect("what is kept is plain data");
    text.push('\n');
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| {
            let doing = format!("could not write the {what} `{}`", path.display());
            Failure::doing(Exit::Usage, doing, &error)
        })
}

/// The cluster that a kept intent is for, as far as it is needed to reach it.
///
/// # Errors
/// When it was made with other components or another binary than are here: `what` was, and `again` says how to make another.
pub fn cluster_of(
    file: &Path,
    intent: &Intent,
    what: &str,
    again: &str,
    directories: Directories,
) -> Result<ClusterFile, Failure> {
    let cluster = ClusterFile {
        path: file.to_owned(),
        spec: intent.spec.clone(),
        warnings: Vec::new(),
        directories,
        backup: BackupPlace::default(),
    };
    let now = cluster.intent(intent.goal.clone(), &[])?;
    let differs = |part: &str, saved: &str, here: &str| {
        Failure::new(
            Exit::Refused,
            format!("the {what} was made with {part} {saved}, here is {here}"),
        )
        .hint(again)
    };
    if now.bundle.id != intent.bundle.id {
        return Err(differs("the bundle", &intent.bundle.id, &now.bundle.id));
    }
    if now.binary != intent.binary {
        return Err(differs("the binary", &intent.binary, &now.binary));
    }
    Ok(cluster)
}

/// Where two plans differ: lines beginning with `-` are in the first only, with `+` in the second only. Empty: they are equal.
pub fn difference(saved: &Plan, fresh: &Plan) -> Vec<String> {
    if saved == fresh {
        return Vec::new();
    }
    let lines = |plan: &Plan| -> Vec<String> { plan.stages.iter().flat_map(stage_lines).collect() };
    let (old, new) = (lines(saved), lines(fresh));
    let mut out: Vec<String> = old
        .iter()
        .filter(|line| !new.contains(line))
        .map(|line| format!("- {line}"))
        .collect();
    out.extend(
        new.iter()
            .filter(|line| !old.contains(line))
            .map(|line| format!("+ {line}")),
    );
    if out.is_empty() {
        // The same steps with other settings, or in another order.
        let value = |plan: &Plan| serde_json::to_value(plan).expect("a plan is plain data");
        let mut place = String::new();
        if let Some((saved, fresh)) = first_difference(&value(saved), &value(fresh), &mut place) {
            out.push(format!("- {place} = {saved}"));
            out.push(format!("+ {place} = {fresh}"));
        }
    }
    out
}

fn stage_lines(stage: &Stage) -> Vec<String> {
    stage
        .steps
        .iter()
        .map(|step| format!("{}: {}: {}", stage.title, where_of(step), what_of(step)))
        .collect()
}

/// The first place where two values differ, with both.
fn first_difference(
    a: &serde_json::Value,
    b: &serde_json::Value,
    place: &mut String,
) -> Option<(String, String)> {
    use serde_json::Value;
    if a == b {
        return None;
    }
    let before = place.len();
    let children: Vec<(String, Option<&Value>, Option<&Value>)> = match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.dedup();
            keys.into_iter()
                .map(|key| (key.clone(), a.get(key), b.get(key)))
                .collect()
        }
        (Value::Array(a), Value::Array(b)) => (0..a.len().max(b.len()))
            .map(|i| (i.to_string(), a.get(i), b.get(i)))
            .collect(),
        _ => return Some((short(Some(a)), short(Some(b)))),
    };
    for (key, a, b) in children {
        if a == b {
            continue;
        }
        place.push('.');
        place.push_str(&key);
        let found = match (a, b) {
            (Some(a), Some(b)) => first_difference(a, b, place),
            (a, b) => Some((short(a), short(b))),
        };
        if found.is_some() {
            return found;
        }
        place.truncate(before);
    }
    None
}

fn short(value: Option<&serde_json::Value>) -> String {
    value.map_or_else(
        || "nothing".to_owned(),
        |value| quorate_exec::hostile::line(&value.to_string()),
    )
}
