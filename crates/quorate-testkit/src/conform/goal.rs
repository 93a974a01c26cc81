//! Whether a new run reaches the goal from a world. Start at [`Goal::reached_from`].

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use quorate_plan::{Fence, Intent, Planning, plan};

use super::highest;
use crate::{
    World, render,
    walk::{take, turns},
    world::ActError,
};

/// Runs that may be needed to the goal: machines are started by one of their own.
const RUNS_MAX: usize = 4;

/// Worlds from which the goal is reached, by what is left of them when nobody is at them.
#[derive(Debug, Default)]
pub(super) struct Goal(HashSet<u64>);

impl Goal {
    /// Walks to the goal, or until it comes where an earlier walk came by.
    pub(super) fn reached_from(&mut self, intent: &Intent, mut world: World) -> Result<(), String> {
        // The next operator has a higher token.
        let fence = highest(&world).next();
        let mut way = Vec::new();
        world.settle();
        for _ in 0..RUNS_MAX {
            let Planning { plan, refused, .. } = plan(intent, &world.observe(intent));
            if let Some(refusal) = refused.first() {
                return Err(format!("from here the goal is not reached: {refusal}"));
            }
            if plan.is_empty() {
                self.0.extend(way);
                return Ok(());
            }
            for (step, change) in turns(&plan) {
                let place = place(&world);
                if self.0.contains(&place) {
                    self.0.extend(way);
                    return Ok(());
                }
                way.push(place);
                match take(&mut world, intent, step, change, fence) {
                    // A founder waits for the others, whose turn comes later.
                    Ok(_) | Err(ActError::NotYet(_)) => {}
                    Err(error) => {
                        return Err(format!(
                            "from here the goal is not reached: {}: {error:?}",
                            render::step(step)
                        ));
                    }
                }
            }
        }
        Err("from here the goal is not reached: there is always something left".into())
    }
}

/// A world without those who are at it.
fn place(world: &World) -> u64 {
    let mut world = world.clone();
    for machine in world.machines.values_mut() {
        let machine = Arc::make_mut(machine);
        machine.disk.claim = None;
        machine.disk.fence = Fence::default();
        machine.memory.connected = false;
        machine.memory.recipients = 0;
    }
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
