//! What goes wrong, and at which effect of an operator. Start at [`Script`].

use std::{collections::BTreeMap, time::Duration};

use quorate_plan::NodeName;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operator's process ends before the host is asked.
    KillBefore,
    /// It ends while the host is at it.
    KillDuring,
    /// It ends when the host is done, before it hears of it.
    KillAfter,
    /// The operator's machine sleeps before the host is asked, until it is woken.
    Sleep,
    /// The effect is made; the answer is lost.
    DropReply,
    /// The host that is asked does not answer the operator for that long; what it has in hand goes on.
    Silence(Duration),
    /// A machine loses power for that long.
    PowerCut(NodeName, Duration),
    /// A machine is cut off from its peers for that long.
    Isolate(NodeName, Duration),
    /// Every process of a machine stops for that long.
    Freeze(NodeName, Duration),
    /// A machine's member comes to lead etcd.
    Elect(NodeName),
    /// Looks at a machine tell what is so now, for that long.
    Stale(NodeName, Duration),
    /// A machine boots, and the volume with etcd's data does not come with it. Held back where the data of a majority would be gone with
    /// it: nobody promises anything then.
    LoseData(NodeName),
    /// A machine is made anew with nothing on it, whatever is gone with it.
    Reinstall(NodeName),
}

/// Faults of one operator's run: by the number of its effect, from 1 (what it asks hosts and the provider to do, taking fences and
/// sealing included), and by words of the effect, for the first one that has them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Script {
    /// By number.
    pub at: BTreeMap<u64, Vec<Fault>>,
    /// By words.
    pub on: Vec<(String, Fault)>,
}

impl Script {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// One fault at the effect of that number.
    pub fn at(effect: u64, fault: Fault) -> Self {
        Self {
            at: [(effect, vec![fault])].into(),
            on: Vec::new(),
        }
    }

    /// One fault at the first effect that has these words: `cp-1: etcd has a learner for cp-2`.
    pub fn on(words: &str, fault: Fault) -> Self {
        Self {
            at: BTreeMap::new(),
            on: vec![(words.to_owned(), fault)],
        }
    }

    /// What goes wrong at this effect; each fault happens once.
    pub(super) fn take(&mut self, effect: u64, line: &str) -> Vec<Fault> {
        let mut faults = self.at.remove(&effect).unwrap_or_default();
        let (now, later) = std::mem::take(&mut self.on)
            .into_iter()
            .partition(|(words, _)| line.contains(words.as_str()));
        self.on = later;
        faults.extend(
            Vec::from_iter(now)
                .into_iter()
                .map(|(_, fault): (String, Fault)| fault),
        );
        faults
    }
}
