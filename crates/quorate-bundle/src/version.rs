//! The Kubernetes version a bundle is for, and the names kubeadm of that minor expects.
//! Start at [`KubernetesVersion`]; nothing here does I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A released Kubernetes version, such as 1.35.4. Pre-releases are not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KubernetesVersion {
    /// The first number.
    pub major: u16,
    /// The second number: the line that kubeadm, kubelet and API server must share.
    pub minor: u16,
    /// The third number.
    pub patch: u16,
}

/// A text that is not a released Kubernetes version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a Kubernetes version like 1.35.4, got {0:?}")]
pub struct VersionError(String);

impl KubernetesVersion {
    /// The version with the leading `v` that image tags and git tags carry.
    pub fn tag(&self) -> String {
        format!("v{self}")
    }

    /// The minor line, such as `1.35`: names the folder of sources.
    pub fn line(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// The image tags kubeadm of this minor asks for by itself.
    ///
    /// # Errors
    /// When this minor is not in the table: its tags are then unknown, and a guess would make kubeadm pull them.
    pub fn kubeadm_tags(&self) -> Result<&'static KubeadmTags, UnknownMinor> {
        TAGS.iter()
            .find(|tags| (tags.major, tags.minor) == (self.major, self.minor))
            .ok_or(UnknownMinor(*self))
    }
}

/// The minor of this version is not one this program has the image tags of.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Kubernetes {0}: this program knows the image tags of {known} only", known = known_lines())]
pub struct UnknownMinor(pub KubernetesVersion);

fn known_lines() -> String {
    let lines: Vec<String> = TAGS
        .iter()
        .map(|tags| format!("{}.{}", tags.major, tags.minor))
        .collect();
    match lines.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => lines.concat(),
    }
}

/// The tags of the images that do not carry the Kubernetes version.
/// From `cmd/kubeadm/app/constants/constants.go` of each minor; a build compares them with the source it compiles.
#[derive(Debug, PartialEq, Eq)]
pub struct KubeadmTags {
    major: u16,
    minor: u16,
    /// `PauseVersion`.
    pub pause: &'static str,
    /// `CoreDNSVersion`.
    pub coredns: &'static str,
    /// `DefaultEtcdVersion`.
    pub etcd: &'static str,
}

const TAGS: &[KubeadmTags] = &[
    KubeadmTags {
        major: 1,
        minor: 34,
        pause: "3.10.1",
        coredns: "v1.12.1",
        etcd: "3.6.5-0",
    },
    KubeadmTags {
        major: 1,
        minor: 35,
        pause: "3.10.1",
        coredns: "v1.13.1",
        etcd: "3.6.6-0",
    },
    KubeadmTags {
        major: 1,
        minor: 36,
        pause: "3.10.2",
        coredns: "v1.14.2",
        etcd: "3.6.8-0",
    },
];

impl FromStr for KubernetesVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError(text.chars().take(40).collect());
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.');
        let mut next = || -> Option<u16> {
            let digits = numbers.next()?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit())
                && (digits == "0" || !digits.starts_with('0'));
            plain.then(|| digits.parse().ok())?
        };
        let (major, minor, patch) = (next(), next(), next());
        if numbers.next().is_some() {
            return Err(wrong());
        }
        match (major, minor, patch) {
            (Some(major), Some(minor), Some(patch)) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl TryFrom<String> for KubernetesVersion {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<KubernetesVersion> for String {
    fn from(version: KubernetesVersion) -> String {
        version.to_string()
    }
}

/// The processor a bundle is for, by the name Go, OCI images and the release layout use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Arch {
    /// The processor this program runs on; `None` when bundles are not made for it.
    pub fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// The name Go and OCI use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The folder name Debian keeps this processor's libraries under.
    pub(crate) fn triplet(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        for (text, want) in [
            ("1.35.4", Some("1.35.4")),
            ("v1.36.3", Some("1.36.3")),
            ("1.0.0", Some("1.0.0")),
        ] {
            assert_eq!(
                text.parse::<KubernetesVersion>()
                    .ok()
                    .map(|v| v.to_string())
                    .as_deref(),
                want,
                "{text}"
            );
        }
        for text in [
            "",
            "1",
            "1.35",
            "1.35.4.1",
            "1.35.4-rc.1",
            "1.035.4",
            "vv1.35.4",
            "1.-3.4",
            "1. 3.4",
            "1.70000.0",
        ] {
            let err = text.parse::<KubernetesVersion>().unwrap_err();
            assert!(err.to_string().contains("like 1.35.4"), "{text}: {err}");
        }
    }

    #[test]
    fn an_unknown_minor_names_the_known_ones() {
        let version: KubernetesVersion = "1.20.0".parse().unwrap();
        let err = version.kubeadm_tags().unwrap_err();
        assert_eq!(
            err.to_string(),
            "Kubernetes 1.20.0: this program knows the image tags of 1.34, 1.35 and 1.36 only"
        );
    }
}
