//! Exit codes: one documented enum. A code keeps its meaning for ever; scripts rely on it.

use std::fmt::Write as _;

macro_rules! exits {
    ($($variant:ident = $code:literal, $meaning:literal;)*) => {
        /// How a command ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Exit {
            $(#[doc = $meaning] $variant = $code,)*
        }

        impl Exit {
            /// All of them, by code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What it means, as a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

exits! {
    Done = 0, "It was done, or there was nothing to do; for `status`: the cluster is healthy.";
    Unexpected = 1, "Something that should not happen: a bug, or a machine that is in the way. The message says what it was.";
    Usage = 2, "The command line, the cluster file or another input is wrong. Nothing was done.";
    Refused = 3, "A guard said no, with numbers. Nothing was done after it.";
    StepFailed = 4, "A step failed, or its end state did not stand in time. What was done before it stands; the same command goes on from there.";
    Unseen = 5, "Something could not be observed, so nobody can say whether it is safe or done.";
    InvariantBroken = 6, "A drill found a broken promise: an acknowledged write was lost, or the history contradicts itself.";
    Degraded = 10, "The cluster serves, and something is missing.";
    QuorumLost = 11, "etcd has no quorum: no write is answered.";
    Absent = 12, "There is no cluster yet.";
    Interrupted = 130, "It was interrupted with Ctrl-C. `apply` says what is left.";
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// `docs/reference/exit-codes.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Exit codes\n\nA code keeps its meaning. Codes from 10 to 19 are what `status`, and `apply` at its end, say about the cluster.\n\n\
         | code | meaning |\n|---:|---|\n",
    );
    for exit in Exit::ALL {
        writeln!(out, "| {} | {} |", exit.code(), exit.meaning())
            .expect("a String takes everything");
    }
    out
}
