//! What building, fetching and verifying tell while they run.

use std::time::Duration;

/// One thing that happened. Whoever shows it decides how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Work on a part began.
    Started {
        /// The part: a component, a file or an image.
        name: String,
        /// Which one, counted from 1.
        number: usize,
        /// Of how many.
        of: usize,
    },
    /// Bytes of the part in hand that are done.
    Advanced {
        /// The part.
        name: String,
        /// Bytes done so far.
        done: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// A part is finished.
    Finished {
        /// The part.
        name: String,
        /// Which one, counted from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// How.
        outcome: Outcome,
        /// How long it took.
        elapsed: Duration,
        /// Bytes of its files in the bundle.
        bytes: u64,
    },
}

/// How a part came to be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Compiled and packed.
    Built,
    /// Nothing it is made from changed, and its files are whole.
    Unchanged,
    /// Copied from the cache.
    Cached,
    /// Downloaded and verified.
    Fetched,
    /// The mirror does not have it, and a bundle can be without it.
    Absent,
    /// Its hash was computed.
    Verified,
}
