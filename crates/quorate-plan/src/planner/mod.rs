//! From what is wanted and what was seen to what is done. One file per goal.

use crate::{Intent, Observation, plan::Planning};

/// Plans. It never fails: it waits or refuses.
pub fn plan(_intent: &Intent, _seen: &Observation) -> Planning {
    Planning {
        plan: crate::Plan::default(),
        waiting: Vec::new(),
        refused: Vec::new(),
    }
}
