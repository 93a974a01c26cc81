//! Plans of Terraform in files, bound to what was seen when they were approved: the cluster file, and the members of etcd. Start at [`SavedInfra`].
//!
//! Terraform's own plan may hold sensitive values, so the file is its owner's alone, and goes when the plan was applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use quorate_plan::{ClusterName, MemberId, Observation, Quorum};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    cluster::Configured, exit::Exit, failure::Failure, show::json::API_VERSION,
    terraform::tool::Made,
};

/// What `kind` says in the file.
const KIND: &str = "SavedInfraPlan";

/// Largest file that is read, in bytes. A plan of Terraform is packed, and below a megabyte for a cluster.
const BYTES_MAX: u64 = 64 << 20;

/// A plan of Terraform in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedInfra {
    api_version: String,
    kind: String,
    /// The cluster file, absolute.
    pub cluster_file: PathBuf,
    cluster_file_sha256: String,
    /// The cluster that runs on the machines, where one was known.
    pub cluster: Option<ClusterName>,
    /// What was seen of its members.
    pub members: Members,
    /// What planned it.
    pub terraform: Made,
    plan_sha256: String,
    plan: Packed,
}

/// What was seen of etcd's members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "seen")]
pub enum Members {
    /// The state knows of no cluster: nothing was there to look at.
    NoCluster,
    /// Nobody could say.
    Unknown,
    /// Every host that was looked at is known to run no etcd.
    NoEtcd,
    /// These are they.
    #[serde(rename_all = "camelCase")]
    Known {
        /// Which cluster.
        cluster_id: String,
        /// By ID.
        members: BTreeMap<MemberId, Member>,
    },
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// Where its peers reach it.
    pub peer_urls: BTreeSet<String>,
    /// It does not vote yet.
    pub learner: bool,
}

/// Terraform's file, as text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Packed(String);

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packed")
    }
}

impl Members {
    /// As a look tells.
    pub fn of(seen: &Observation) -> Self {
        match Quorum::of(seen) {
            Ok(None) => Self::NoEtcd,
            Err(_) => Self::Unknown,
            Ok(Some(quorum)) => Self::Known {
                cluster_id: quorum.cluster_id,
                members: quorum
                    .members
                    .into_iter()
                    .map(|(id, member)| {
                        let kept = Member {
                            peer_urls: member.peer_urls,
                            learner: member.learner,
                        };
                        (id, kept)
                    })
                    .collect(),
            },
        }
    }

    /// In a few words.
    pub fn words(&self) -> String {
        match self {
            Self::NoCluster => "no cluster".to_owned(),
            Self::Unknown => "nobody who could tell".to_owned(),
            Self::NoEtcd => "no etcd".to_owned(),
            Self::Known { members, .. } => {
                let each = members.iter().map(|(id, member)| {
                    let urls: Vec<&str> = member.peer_urls.iter().map(String::as_str).collect();
                    let learner = if member.learner { ", a learner" } else { "" };
                    format!("{id} ({}{learner})", urls.join(" "))
                });
                let each: Vec<String> = each.collect();
                quorate_exec::hostile::line(&each.join(", "))
            }
        }
    }
}

/// SHA-256, as hex.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl SavedInfra {
    /// A plan that was just made.
    pub fn new(
        configured: &Configured,
        cluster: Option<&ClusterName>,
        members: &Members,
        terraform: Made,
        plan: &[u8],
    ) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            cluster_file: configured.path.clone(),
            cluster_file_sha256: digest(configured.text.as_bytes()),
            cluster: cluster.cloned(),
            members: members.clone(),
            terraform,
            plan_sha256: digest(plan),
            plan: Packed(BASE64_STANDARD.encode(plan)),
        }
    }

    /// Writes it. Only its owner can read it, whoever could read what was there before; what is there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).expect("what is kept is plain data");
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        // A temporary file is its owner's alone.
        let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.persist(path).map_err(|error| error.error)
        });
        written.map(drop).map_err(|error| {
            let doing = format!("could not write the plan `{}`", path.display());
            Failure::doing(Exit::Usage, doing, &error)
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let doing = || format!("could not read the plan, `{}`", path.display());
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?;
        let no_plan = |detail: String| {
            Failure::usage(format!("`{}` is no saved plan: {detail}", path.display())).hint(
                "a cluster file is given with -f; `quorate infra plan --out FILE` saves a plan",
            )
        };
        if text.len() as u64 > BYTES_MAX {
            return Err(no_plan(format!("it has more than {BYTES_MAX} bytes")));
        }
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

    /// Terraform's plan, if it and the cluster file are what they were.
    ///
    /// # Errors
    /// When one of them is not: it is said which.
    pub fn plan(&self, configured: &Configured) -> Result<Vec<u8>, Failure> {
        if digest(configured.text.as_bytes()) != self.cluster_file_sha256 {
            return Err(unfit(format!(
                "the cluster file `{}` has changed",
                configured.path.display()
            )));
        }
        let plan = BASE64_STANDARD.decode(&self.plan.0).ok();
        let plan = plan.filter(|plan| digest(plan) == self.plan_sha256);
        plan.ok_or_else(|| unfit("the plan in it is damaged"))
    }

    /// The cluster is the one that the plan was approved for, with the same members.
    ///
    /// # Errors
    /// When it is not: it is said what differs.
    pub fn fits(&self, cluster: Option<&ClusterName>, members: &Members) -> Result<(), Failure> {
        if self.cluster.as_ref() != cluster {
            let name = |name: Option<&ClusterName>| {
                name.map_or_else(|| "no cluster".to_owned(), ToString::to_string)
            };
            return Err(unfit(format!(
                "it was made for {}, seen {}",
                name(self.cluster.as_ref()),
                name(cluster)
            )));
        }
        same(&self.members, members)
    }
}

/// Two looks saw the same members.
///
/// # Errors
/// When they did not: it is said what each saw.
pub fn same(before: &Members, now: &Members) -> Result<(), Failure> {
    if before == now {
        return Ok(());
    }
    Err(unfit("etcd's members are others").because(format!(
        "expected {}, seen {}",
        before.words(),
        now.words()
    )))
}

fn unfit(why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Refused,
        format!("the plan does not fit any more: {why}"),
    )
    .hint("look at it and save it again: `quorate infra plan --out FILE`")
}
