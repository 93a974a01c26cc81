//! All runs of one cluster, one after the other. Start at [`follow_runs`].

use std::{fmt, path::Path};

use quorate_exec::{Journal, journal::JournalError};
use quorate_plan::{Event, Step};

use super::{Dated, Departed, Followed, Left, follow, imagine, together};
use crate::render;

/// What became of one run's journal.
#[derive(Clone, Debug)]
pub struct Told {
    /// The run.
    pub run: String,
    /// What its journal was found to be.
    pub found: Found,
}

/// What a journal was found to be.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing but the beginning of a file.
    Empty,
    /// A way of the model, from a world that the runs before may have left.
    GoesOn(Followed),
    /// A way of the model, from a world in which this was planned; what happened before it no journal tells.
    Anew {
        /// The way.
        followed: Followed,
        /// What would have been planned instead where the runs before it ended; `None` when that is not known.
        instead: Option<String>,
    },
    /// Nothing is known of a world in which this was planned. Something happened to the machines that cannot be imagined from a plan.
    Unexplained(String),
    /// No way of the model.
    Departed(Departed),
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (followed, from, instead) = match &self.found {
            Found::Empty => return write!(f, "{}: nothing was begun", self.run),
            Found::Unexplained(why) => {
                return write!(f, "{}: not followed, from no known world: {why}", self.run);
            }
            Found::Departed(departed) => return write!(f, "{}: {departed}", self.run),
            Found::GoesOn(followed) => (followed, "where the runs before it ended", &None),
            Found::Anew { followed, instead } => (followed, "in a world of its own", instead),
        };
        let end = followed
            .verdict
            .as_ref()
            .map_or_else(|| "broken off".into(), render::verdict);
        write!(
            f,
            "{}: begins {from}; {} effects, each permitted and in order; {} prefixes, from each of which the goal is reached; {end}",
            self.run, followed.effects, followed.prefixes
        )?;
        match instead {
            Some(instead) => write!(f, "; where the runs before it ended: {instead}"),
            None => Ok(()),
        }
    }
}

/// Follows the journals of all runs below `runs`, the oldest first: each from the worlds that those before it may have left, and what
/// happened to machines since, or, where it was planned in none of them, from one that is imagined. `happened`: in the order of time.
///
/// # Errors
/// When a journal cannot be read or is damaged.
pub fn follow_runs(runs: &Path, happened: &[Dated]) -> Result<Vec<Told>, JournalError> {
    let mut told = Vec::new();
    let mut left = Left::default();
    let mut recordings = Vec::new();
    for run in Journal::list(runs)? {
        let recording = Journal::read(runs, &run.id)?;
        recordings.push((run, recording));
    }
    // IDs tell no runs apart that began within one second.
    recordings.sort_by_key(|(_, recording)| recording.entries.first().map(|entry| entry.at));
    let mut happened = happened.iter().peekable();
    for (run, recording) in recordings {
        let began = recording.entries.first().map(|entry| entry.at);
        while let Some(earlier) = happened.next_if(|other| Some(other.at_ms) <= began) {
            left = earlier.what.to(left);
        }
        let events: Vec<Event> = recording
            .entries
            .into_iter()
            .map(|entry| entry.event)
            .collect();
        let (found, after) = one(&events, &left);
        // A run that began nothing leaves everything as it was.
        left = after.unwrap_or(left);
        told.push(Told { run: run.id, found });
    }
    Ok(told)
}

/// One journal, and what its run left.
fn one(events: &[Event], before: &Left) -> (Found, Option<Left>) {
    let Some(Event::Started { intent, plan, .. }) = events.first() else {
        return (Found::Empty, None);
    };
    let mut instead = None;
    let known =
        before
            .worlds
            .iter()
            .any(|world| match imagine::begins(world.clone(), intent, plan) {
                Ok(_) => true,
                Err(planned) => {
                    instead.get_or_insert(planned);
                    false
                }
            });
    // What hosts have in hand they finish, whether or not anything is known of the world.
    let unknown = || {
        Some(Left {
            worlds: Vec::new(),
            in_hand: together(&before.in_hand, &not_seen_to_stand(events)),
        })
    };
    // What would have been planned in a world that is known says more than what is wrong with one that is imagined.
    let unexplained = |imagined: String| {
        let known = (!before.worlds.is_empty()).then(|| follow(events, before).err());
        let why = known.flatten().map_or(imagined, |departed| departed.what);
        (Found::Unexplained(why), unknown())
    };
    if !known && let Err(why) = imagine::imagine(intent, plan) {
        return unexplained(why);
    }
    let anew = Left {
        worlds: Vec::new(),
        in_hand: before.in_hand.clone(),
    };
    match follow(events, if known { before } else { &anew }) {
        Ok(followed) => {
            // Beside another one that goes on it may even have been planned in what that one has changed since.
            let nothing = followed.effects == 0 && !before.worlds.is_empty();
            let left = (!nothing).then(|| followed.left.clone());
            let found = if known {
                Found::GoesOn(followed)
            } else {
                Found::Anew { followed, instead }
            };
            (found, left)
        }
        Err(departed) if departed.event == 1 => unexplained(departed.what),
        Err(departed) => (Found::Departed(departed), unknown()),
    }
}

/// What was begun and is not told to stand.
fn not_seen_to_stand(events: &[Event]) -> Vec<Step> {
    let mut begun: Vec<Step> = Vec::new();
    for event in events {
        match event {
            Event::StepStarted { step } if !begun.contains(step) => begun.push(Step::clone(step)),
            Event::StepStands { step, .. } => begun.retain(|other| *other != **step),
            _ => {}
        }
    }
    begun
}
