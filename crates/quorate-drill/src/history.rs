//! What was written, what was acknowledged, what is there in the end. Start at [`check`].
//!
//! Each acknowledged write carries the revision at which etcd took it, one order for everything; so no search is needed: the checker
//! sorts, and compares with real time and with the final, consistent list. What was not answered may have happened or not.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// One write of a new object with a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// The object's name, unique in the drill.
    pub name: String,
    /// When it was sent, since the drill began.
    pub sent: Duration,
    /// When its outcome was known.
    pub ended: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Acknowledged, at that revision.
    Acknowledged {
        /// etcd's revision, as the object's resourceVersion tells it.
        revision: u64,
    },
    /// Acknowledged by finding it there when it was tried again.
    FoundThere,
    /// Refused before anything was written.
    NotWritten,
    /// Not answered: it may be there.
    Unknown,
}

/// A rule that the history broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "violation")]
pub enum Violation {
    /// An acknowledged write is not there.
    Lost {
        /// Its name.
        name: String,
    },
    /// It is there at another revision than the acknowledged one: it was lost and written again, or history was rewritten.
    Moved {
        /// Its name.
        name: String,
        /// As acknowledged.
        acknowledged: u64,
        /// As found.
        found: u64,
    },
    /// A write that was refused is there.
    Ghost {
        /// Its name.
        name: String,
    },
    /// A write acknowledged before another was sent has a higher revision: order was not kept.
    OutOfOrder {
        /// Acknowledged first.
        earlier: String,
        /// Sent after that.
        later: String,
    },
    /// The watch did not tell of an acknowledged write.
    Unwatched {
        /// Its name.
        name: String,
    },
    /// The watch told of the same creation twice, or out of order.
    WatchedOutOfOrder {
        /// The name.
        name: String,
        /// The revision before it.
        before: u64,
        /// Its revision.
        revision: u64,
    },
}

/// Checks the writes against the final list (name to revision of creation) and against what the watch told, in its order.
pub fn check(
    writes: &[Write],
    found: &BTreeMap<String, u64>,
    watched: &[(String, u64)],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for write in writes {
        match (&write.outcome, found.get(&write.name)) {
            (Outcome::Acknowledged { .. } | Outcome::FoundThere, None) => {
                violations.push(Violation::Lost {
                    name: write.name.clone(),
                });
            }
            (Outcome::Acknowledged { revision }, Some(seen)) if revision != seen => {
                violations.push(Violation::Moved {
                    name: write.name.clone(),
                    acknowledged: *revision,
                    found: *seen,
                });
            }
            (Outcome::NotWritten, Some(_)) => violations.push(Violation::Ghost {
                name: write.name.clone(),
            }),
            (Outcome::Acknowledged { .. } | Outcome::FoundThere, Some(_)) => {}
            (Outcome::NotWritten, None) | (Outcome::Unknown, _) => {}
        }
    }
    real_time_order(writes, &mut violations);
    watch(writes, watched, &mut violations);
    violations
}

/// Whoever was acknowledged before another was sent has the lower revision.
fn real_time_order(writes: &[Write], violations: &mut Vec<Violation>) {
    let mut acknowledged: Vec<(&Write, u64)> = writes
        .iter()
        .filter_map(|write| match write.outcome {
            Outcome::Acknowledged { revision } => Some((write, revision)),
            Outcome::FoundThere | Outcome::NotWritten | Outcome::Unknown => None,
        })
        .collect();
    acknowledged.sort_by_key(|(write, _)| write.sent);
    let mut by_end = acknowledged.clone();
    by_end.sort_by_key(|(write, _)| write.ended);
    // The highest revision among those that ended before the one at hand was sent.
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<(&Write, u64)> = None;
    for (write, revision) in acknowledged {
        while let Some((earlier, earlier_revision)) =
            ended.next_if(|(earlier, _)| earlier.ended < write.sent)
        {
            if highest.is_none_or(|(_, highest)| earlier_revision > highest) {
                highest = Some((earlier, earlier_revision));
            }
        }
        if let Some((earlier, highest)) = highest
            && highest >= revision
        {
            violations.push(Violation::OutOfOrder {
                earlier: earlier.name.clone(),
                later: write.name.clone(),
            });
        }
    }
}

fn watch(writes: &[Write], watched: &[(String, u64)], violations: &mut Vec<Violation>) {
    let mut before = 0;
    let mut told = BTreeMap::new();
    for (name, revision) in watched {
        if *revision <= before {
            violations.push(Violation::WatchedOutOfOrder {
                name: name.clone(),
                before,
                revision: *revision,
            });
        }
        before = *revision;
        told.insert(name.as_str(), *revision);
    }
    for write in writes {
        match write.outcome {
            Outcome::Acknowledged { .. } | Outcome::FoundThere
                if !told.contains_key(write.name.as_str()) =>
            {
                violations.push(Violation::Unwatched {
                    name: write.name.clone(),
                });
            }
            Outcome::Acknowledged { .. }
            | Outcome::FoundThere
            | Outcome::NotWritten
            | Outcome::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u64, outcome: Outcome) -> Write {
        Write {
            name: format!("w-{number}"),
            sent: Duration::from_millis(number * 10),
            ended: Duration::from_millis(number * 10 + 5),
            outcome,
        }
    }

    fn acknowledged(number: u64, revision: u64) -> Write {
        write(number, Outcome::Acknowledged { revision })
    }

    #[expect(clippy::type_complexity, reason = "the three arguments of `check`")]
    fn history() -> (Vec<Write>, BTreeMap<String, u64>, Vec<(String, u64)>) {
        let writes: Vec<Write> = (1..=20)
            .map(|number| acknowledged(number, 100 + number))
            .collect();
        let found: BTreeMap<String, u64> = (1..=20)
            .map(|number| (format!("w-{number}"), 100 + number))
            .collect();
        let mut watched: Vec<(String, u64)> = found.clone().into_iter().collect();
        watched.sort_by_key(|(_, revision)| *revision);
        (writes, found, watched)
    }

    #[test]
    fn a_good_history_breaks_nothing() {
        let (mut writes, found, watched) = history();
        writes.push(write(21, Outcome::Unknown));
        writes.push(write(22, Outcome::NotWritten));
        assert_eq!(check(&writes, &found, &watched), vec![]);
    }

    #[test]
    fn every_seeded_violation_is_found() {
        let (writes, mut found, watched) = history();
        found.remove("w-7");
        assert_eq!(
            check(&writes, &found, &watched),
            vec![Violation::Lost { name: "w-7".into() }]
        );

        let (writes, mut found, watched) = history();
        found.insert("w-7".into(), 300);
        assert_eq!(
            check(&writes, &found, &watched),
            vec![Violation::Moved {
                name: "w-7".into(),
                acknowledged: 107,
                found: 300
            }]
        );

        let (mut writes, mut found, mut watched) = history();
        writes.push(write(30, Outcome::NotWritten));
        found.insert("w-30".into(), 400);
        watched.push(("w-30".into(), 400));
        assert_eq!(
            check(&writes, &found, &watched),
            vec![Violation::Ghost {
                name: "w-30".into()
            }]
        );

        let (mut writes, mut found, watched) = history();
        writes[4] = acknowledged(5, 90);
        found.insert("w-5".into(), 90);
        assert!(matches!(
            check(&writes, &found, &watched)[0],
            Violation::OutOfOrder { .. }
        ));

        let (writes, found, mut watched) = history();
        watched.remove(3);
        assert_eq!(
            check(&writes, &found, &watched),
            vec![Violation::Unwatched { name: "w-4".into() }]
        );

        let (writes, found, mut watched) = history();
        watched.swap(3, 4);
        assert!(matches!(
            check(&writes, &found, &watched)[0],
            Violation::WatchedOutOfOrder { .. }
        ));
    }

    #[test]
    fn writes_side_by_side_may_have_any_order() {
        let mut writes = vec![acknowledged(1, 12), acknowledged(1, 11)];
        writes[1].name = "w-1b".into();
        let found = [("w-1".to_owned(), 12), ("w-1b".to_owned(), 11)].into();
        let watched = [("w-1b".to_owned(), 11), ("w-1".to_owned(), 12)];
        assert_eq!(check(&writes, &found, &watched), vec![]);
    }
}
