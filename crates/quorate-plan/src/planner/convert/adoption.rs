//! A cluster that somebody else made, judged before anything is done to it. Start at [`assess`].

use serde::{Deserialize, Serialize};

use super::{Foreign, census, foreseen};
use crate::{
    Intent, Missing, Observation, Refusal, observation::Stored, planner::plan, refusal::RefusalCode,
};

/// What comes of judging it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// `convert` may begin.
    Ready,
    /// Once every finding was mended, or accepted by name.
    ReadyAfterFixes,
    /// No fix helps.
    NotConvertible,
    /// What decides it was not seen.
    Unseen,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// In one word.
    pub verdict: Verdict,
    /// What is in the way, each with the way out.
    pub findings: Vec<Refusal>,
    /// What differs from an ordinary cluster and is taken care of, or is good to know.
    pub notes: Vec<Note>,
    /// Objects of the cluster that hold an old address: nobody joins before they lead elsewhere, or were accepted.
    pub stored: Vec<Stored>,
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// About what.
    pub about: String,
    /// A sentence.
    pub what: String,
}

impl Adoption {
    /// Findings that have to be mended: those that no `--accept` is for.
    pub fn fixes(&self) -> usize {
        self.findings.len() - self.risks()
    }

    /// Findings that may be accepted by name instead.
    pub fn risks(&self) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|one| one.acceptable_for().is_some())
            .count()
    }
}

/// Judges the cluster for an intent whose goal is to convert it.
pub fn assess(intent: &Intent, seen: &Observation) -> Adoption {
    let planning = plan(intent, seen);
    let mut findings = planning.refused;
    findings.extend(planning.waiting.iter().map(|waiting| Refusal::Missing {
        missing: Missing::not_looked(waiting.what.clone()),
    }));
    let mut notes = Vec::new();
    let mut stored = Vec::new();
    // What makes it no cluster to look at is among the findings by now.
    if let Ok(foreign) = Foreign::of(intent, seen) {
        match foreseen::fixes(&foreign) {
            Ok(more) => findings.extend(more),
            Err(refusal) => add(&mut findings, refusal),
        }
        match foreseen::notes(&foreign) {
            Ok(all) => notes = all,
            Err(missing) => add(&mut findings, missing.into()),
        }
        match census::stored(&foreign) {
            Ok(refusals) => {
                for refusal in refusals {
                    match refusal {
                        Refusal::OldAddressStored { stored: found, .. } => stored.extend(found),
                        other => add(&mut findings, other),
                    }
                }
            }
            Err(missing) => add(&mut findings, missing.into()),
        }
    }
    findings.retain(|finding| !finding.accepted(&intent.accepted));
    Adoption {
        verdict: verdict(&findings),
        findings,
        notes,
        stored,
    }
}

fn add(findings: &mut Vec<Refusal>, finding: Refusal) {
    if !findings.contains(&finding) {
        findings.push(finding);
    }
}

fn verdict(findings: &[Refusal]) -> Verdict {
    let never = |finding: &Refusal| {
        matches!(
            finding,
            Refusal::NotConvertible {
                mendable: false,
                ..
            }
        )
    };
    let unseen = |finding: &Refusal| finding.code() == RefusalCode::Missing;
    if findings.iter().any(never) {
        Verdict::NotConvertible
    } else if findings.iter().any(unseen) {
        Verdict::Unseen
    } else if findings.is_empty() {
        Verdict::Ready
    } else {
        Verdict::ReadyAfterFixes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_mended_is_no_fix() {
        let obstacle = |mendable| Refusal::NotConvertible {
            what: "x".into(),
            seen: "y".into(),
            way: "z".into(),
            mendable,
        };
        assert_eq!(verdict(&[]), Verdict::Ready);
        assert_eq!(verdict(&[obstacle(true)]), Verdict::ReadyAfterFixes);
        let both = [obstacle(true), obstacle(false)];
        assert_eq!(verdict(&both), Verdict::NotConvertible);
        let unseen = Missing::not_looked("x").into();
        assert_eq!(verdict(&[obstacle(true), unseen]), Verdict::Unseen);
    }
}
