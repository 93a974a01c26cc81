//! What was seen, and what was not. [`Seen`] has no default, no deref and no way to ask for a value "or else": a reader either has
//! the value or has to say what becomes of not having it, and `?` makes that a refusal.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value somebody looked for. "Known to be absent" is `Seen<Option<T>>`; `Unknown` means that nobody can say.
#[must_use = "not knowing has to be handled: use get()?"]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Seen<T> {
    /// The value, and how long ago it was seen by the observer's own monotonic clock.
    Known {
        /// What was seen.
        value: T,
        /// How long ago, by the observer's clock, never by a host's.
        age: Duration,
    },
    /// It was looked for and not seen.
    Unknown(Missing),
}

impl<T> Seen<T> {
    /// A value seen just now.
    pub fn now(value: T) -> Self {
        Self::Known {
            value,
            age: Duration::ZERO,
        }
    }

    /// The value, however old.
    ///
    /// # Errors
    /// [`Missing`] when it was not seen.
    pub fn get(&self) -> Result<&T, Missing> {
        match self {
            Self::Known { value, .. } => Ok(value),
            Self::Unknown(missing) => Err(missing.clone()),
        }
    }

    /// The value, when it is at most `age_max` old.
    ///
    /// # Errors
    /// [`Missing`] when it was not seen, or longer ago than that.
    pub fn within(&self, age_max: Duration) -> Result<&T, Missing> {
        match self {
            Self::Known { value, age } if *age <= age_max => Ok(value),
            Self::Known { age, .. } => Err(Missing {
                what: "a fresh look".into(),
                why: Why::TooOld { age: *age, age_max },
            }),
            Self::Unknown(missing) => Err(missing.clone()),
        }
    }

    /// It was seen that much longer ago.
    pub fn grow_older(&mut self, by: Duration) {
        match self {
            Self::Known { age, .. } => *age = age.saturating_add(by),
            Self::Unknown(_) => {}
        }
    }

    /// The same sighting of a part or consequence of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Known { value, age } => Seen::Known {
                value: f(value),
                age,
            },
            Self::Unknown(missing) => Seen::Unknown(missing),
        }
    }
}

/// What was looked for and why it was not seen.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// What was looked for, as a noun: `the facts of cp-2`.
    pub what: String,
    /// Why it was not seen.
    pub why: Why,
}

impl Missing {
    /// `what` was not looked for at all.
    pub fn not_looked(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: Why::NotLooked,
        }
    }

    /// `what` did not answer; `detail` is the observer's one-line account, already free of control characters.
    pub fn no_answer(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: Why::NoAnswer {
                detail: detail.into(),
            },
        }
    }

    /// Nobody answered for `what`, and somebody may in a while: a machine that boots looks like this, and one that is gone. `detail` as
    /// in [`Missing::no_answer`].
    pub fn not_yet(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: Why::NotYet {
                detail: detail.into(),
            },
        }
    }

    /// `what` answered something that could not be understood.
    pub fn unreadable(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: Why::Unreadable {
                detail: detail.into(),
            },
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.why {
            Why::NotLooked => write!(f, "{} was not looked at", self.what),
            Why::NoAnswer { detail } | Why::NotYet { detail } => {
                write!(f, "{} could not be seen: {detail}", self.what)
            }
            Why::Unreadable { detail } => {
                write!(f, "{} could not be understood: {detail}", self.what)
            }
            Why::TooOld { age, age_max } => {
                write!(
                    f,
                    "{} is missing: the last one is {} s old, at most {} s are allowed",
                    self.what,
                    age.as_secs(),
                    age_max.as_secs()
                )
            }
        }
    }
}

/// Why something was not seen.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// Nobody asked: the verb does not need it, or the way there was already known to be closed.
    NotLooked,
    /// No answer, or an error, on the way to it.
    NoAnswer {
        /// One line, escaped, length-capped.
        detail: String,
    },
    /// Nobody answers there: it may be on its way, as a machine that boots is.
    NotYet {
        /// One line, escaped, length-capped.
        detail: String,
    },
    /// An answer that could not be parsed.
    Unreadable {
        /// One line, escaped, length-capped.
        detail: String,
    },
    /// It was seen, but too long ago.
    TooOld {
        /// How long ago.
        age: Duration,
        /// How long ago would have been accepted.
        age_max: Duration,
    },
}
