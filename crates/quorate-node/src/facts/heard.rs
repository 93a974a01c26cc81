//! Whom this host's etcd has heard of lately. Start at [`Heard::active`].
//!
//! etcd itself notices a peer that went silent only when TCP does, minutes later: until then it says that it has a stream with it. What
//! it has received from whom it counts, though, and a leader is answered by each of its followers ten times a second. So the counters are
//! remembered from one look of a session to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::{Duration, Instant},
};

use quorate_plan::{MemberId, Missing, Seen};

/// A follower that was not heard of for this long is not active: fifty heartbeats, and five times what would make it call an election.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// What etcd counts of its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Peers that it has a stream with, by its own account.
    pub(crate) streams: BTreeSet<MemberId>,
    /// Bytes received from each since it started.
    pub(crate) received: BTreeMap<MemberId, u64>,
}

/// What one session remembers.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Option<Ear>>);

#[derive(Debug)]
struct Ear {
    /// In another term somebody else may have led, whom the followers talked to.
    term: u64,
    /// Bytes received when they last grew, and when that was seen.
    peers: BTreeMap<MemberId, (u64, Instant)>,
}

impl Heard {
    /// Members that answer this one, which leads in that term. `None` for `term`: it does not lead, and followers do not talk to each
    /// other. The first look knows only the streams.
    pub(super) fn active(
        &self,
        term: Option<u64>,
        counted: &Seen<Counted>,
        now: Instant,
    ) -> Seen<BTreeSet<MemberId>> {
        let mut memory = self.0.lock().expect("nobody panics with it");
        let Some(term) = term else {
            *memory = None;
            return Seen::Unknown(Missing::unreadable(
                "who is active",
                "only the leader hears of everybody",
            ));
        };
        let counted = match counted.get() {
            Ok(counted) => counted,
            Err(missing) => return Seen::Unknown(missing),
        };
        let ear = match &mut *memory {
            Some(ear) if ear.term == term => ear,
            other => other.insert(Ear {
                term,
                peers: BTreeMap::new(),
            }),
        };
        let mut active = BTreeSet::new();
        for peer in &counted.streams {
            let bytes = counted.received.get(peer).copied().unwrap_or_default();
            let (last, since) = ear.peers.entry(*peer).or_insert((bytes, now));
            if *last != bytes {
                (*last, *since) = (bytes, now);
            }
            if now.saturating_duration_since(*since) < SILENT_MAX {
                active.insert(*peer);
            }
        }
        Seen::now(active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(peers: &[(u64, u64)]) -> Seen<Counted> {
        Seen::now(Counted {
            streams: peers.iter().map(|(id, _)| MemberId(*id)).collect(),
            received: peers
                .iter()
                .map(|(id, bytes)| (MemberId(*id), *bytes))
                .collect(),
        })
    }

    #[test]
    fn silence_is_counted_by_looks_of_the_same_leader() {
        let heard = Heard::default();
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let active = |term, peers: &[(u64, u64)], s| {
            let seen = heard.active(Some(term), &counted(peers), at(s));
            let ids: Vec<u64> = seen.get().unwrap().iter().map(|id| id.0).collect();
            ids
        };
        assert_eq!(
            active(1, &[(2, 10), (3, 10)], 0),
            [2, 3],
            "only streams yet"
        );
        assert_eq!(active(1, &[(2, 20), (3, 10)], 4), [2, 3]);
        assert_eq!(active(1, &[(2, 30), (3, 10)], 5), [2]);
        assert_eq!(active(1, &[(2, 40), (3, 10)], 60), [2]);
        assert_eq!(active(1, &[(2, 50), (3, 11)], 61), [2, 3], "it is back");
        assert_eq!(active(1, &[(2, 60)], 62), [2], "no stream at all");
        // A new term: whoever talked to another leader is not held to have been silent.
        assert_eq!(active(2, &[(2, 60), (3, 11)], 70), [2, 3]);
        assert_eq!(active(2, &[(2, 0), (3, 11)], 75), [2], "it started anew");
    }

    #[test]
    fn a_follower_cannot_say() {
        let heard = Heard::default();
        let now = Instant::now();
        let seen = heard.active(None, &counted(&[(2, 1)]), now);
        assert!(seen.get().is_err());
        let unseen = Seen::Unknown(Missing::not_looked("metrics"));
        assert!(heard.active(Some(1), &unseen, now).get().is_err());
        // What it had heard as a leader before is forgotten.
        let led = heard.active(Some(1), &counted(&[(2, 1)]), now);
        assert!(led.get().is_ok());
        let _follows = heard.active(None, &counted(&[(2, 1)]), now);
        let later = now + SILENT_MAX;
        let seen = heard.active(Some(1), &counted(&[(2, 1)]), later);
        assert_eq!(seen.get().unwrap().len(), 1);
    }
}
