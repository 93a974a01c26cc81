//! What travels between the operator's machine and `quorate node serve` on a host: one [`Call`], then [`Answer`]s until one ends it.
//!
//! A frame is a length (u32, big endian, at most [`FRAME_BYTES_MAX`]) and that many bytes of JSON. There is no version in it: the
//! operator's machine runs its own binary on the host, by hash. Bulk bytes never travel in frames.

use serde::{Deserialize, Serialize};

use crate::{
    admit::{Recipient, Request, Sealed},
    intent::{Claim, Fence},
    observation::{Fencing, HostReport, Look},
    refusal::Refusal,
    standing::Difference,
    step::Handover,
};

/// Longest frame in bytes: an observation of a large cluster is a few hundred KiB.
pub const FRAME_BYTES_MAX: u32 = 8 << 20;

/// Longest part in bytes of what a host gives its operator's machine of a backup. It comes on a channel of its own: the greeting line, then
/// parts of a length (u32, big endian) and that many sealed bytes; a length of 0 ends them, and how many bytes they were (u64, big endian)
/// and their SHA-256 follow.
pub const BACKUP_PART_BYTES_MAX: u32 = 256 << 10;

/// What the operator's machine asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// Everything about this host. Ends with [`Answer::Report`].
    Report(Look),
    /// Take the fence. Ends with [`Answer::Claimed`] or [`Answer::Refused`].
    Claim(Box<Claim>),
    /// Give the fence back: the operation is over. Its token stays the highest. Ends with [`Answer::Claimed`].
    Release(Fence),
    /// Make an ephemeral recipient for what other hosts will seal to this one. Ends with [`Answer::Recipient`].
    Recipient,
    /// Issue a ticket for a request that comes by another way, as a [`Carried`]: a recipient that is kept for it. Ends with
    /// [`Answer::Recipient`].
    Ticket,
    /// Seal something to another host. Ends with [`Answer::Sealed`] or [`Answer::Failed`].
    Seal {
        /// The operator's token: making a join token is an effect.
        fence: Fence,
        /// What.
        what: Handover,
        /// To whom.
        to: Recipient,
    },
    /// Make an end state stand. Answers with any number of [`Answer::Progress`], then [`Answer::Outcome`], [`Answer::Refused`],
    /// [`Answer::Busy`] or [`Answer::Failed`].
    Ensure(Box<Request>),
}

/// What the host answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Call::Report`].
    Report(Box<HostReport>),
    /// To [`Call::Claim`] and [`Call::Release`]: the fence as it is now.
    Claimed(Box<Fencing>),
    /// To [`Call::Recipient`] and [`Call::Ticket`].
    Recipient(Recipient),
    /// To [`Call::Seal`].
    Sealed(Sealed),
    /// A line about what is going on, escaped and capped by the host; escaped and capped again by whoever shows it.
    Progress(String),
    /// The action was made, or was not needed.
    Outcome(Box<Outcome>),
    /// The fence or a guard said no.
    Refused(Box<Refusal>),
    /// An earlier session's action is still running here. Ask again: it is never started twice.
    Busy {
        /// What runs.
        action: String,
        /// For how long, in milliseconds.
        since_ms: u64,
        /// Whose token started it.
        fence: Fence,
    },
    /// The action failed.
    Failed {
        /// What was expected, what was seen; several lines where a tool said something, escaped and capped.
        error: String,
    },
}

/// A request that somebody else carries to its host, as configuration management does: what `quorate node run` reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Carried {
    /// What the host issued for it, before the testimony was told: the host adds the time since then to all ages.
    pub ticket: Recipient,
    /// The request.
    pub request: Request,
}

/// What an action did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What differed from the end state before. Empty: nothing was changed.
    pub changed: Vec<Difference>,
    /// The host afterwards.
    pub report: HostReport,
}

/// The first line of `quorate node serve`: which binary answers. Not JSON frames yet, so that an old or wrong binary is told by name.
pub const GREETING: &str = "quorate-node";
