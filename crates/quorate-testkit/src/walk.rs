//! Walking through a plan by hand, without a runner and without faults: for properties of plans. Start at [`take`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use quorate_plan::{
    Change, Claim, Ensure, Fence, Handover, HostEnsure, InfraEnsure, Intent, NodeName, Observation,
    Place, Plan, Request, Seen, Stage, Step, permit_infra, wire::Outcome,
};

use crate::{World, fixture::operator, world::ActError};

/// Ticks that one step may need: more than a learner and the 5 s of a newly connected voter take together.
const TICKS_MAX: u32 = 60;

/// Asks for one step with token `fence`, waits until its host is done, and lets the world come to rest. `None` for what the provider does.
///
/// # Errors
/// What the host says.
pub fn take(
    world: &mut World,
    intent: &Intent,
    step: &Step,
    change: Option<&Change>,
    fence: Fence,
) -> Result<Option<Outcome>, ActError> {
    match request(world, intent, step, change, fence)? {
        Some((node, request)) => act(world, &node, &request).map(Some),
        None => Ok(None),
    }
}

/// The request of a step, with all that others hand over; what the provider does is done instead.
///
/// # Errors
/// What the giving host says.
pub fn request(
    world: &mut World,
    intent: &Intent,
    step: &Step,
    change: Option<&Change>,
    fence: Fence,
) -> Result<Option<(NodeName, Request)>, ActError> {
    let (node, ensure) = match (&step.ensure, &step.on) {
        (Ensure::Infra(infra), _) => {
            match infra {
                InfraEnsure::Machine { node, .. } => world.provide(node),
                InfraEnsure::MachineOff { node } => world.power_off(node),
                InfraEnsure::Target { node, .. } => {
                    permit_infra(&world.observe(intent), infra)?;
                    world.register(node);
                }
                InfraEnsure::TargetGone { node, .. } => {
                    permit_infra(&world.observe(intent), infra)?;
                    world.deregister(node);
                }
            }
            world.settle();
            return Ok(None);
        }
        (Ensure::Host(ensure), Place::Host(node)) => (node, ensure),
        (Ensure::Host(_), Place::Operator) => unreachable!("a host's step on no host"),
    };
    let mut claimed = vec![node];
    claimed.extend(step.handover.as_ref().map(Handover::from));
    for host in claimed {
        let claim = Claim {
            fence,
            operator: operator(0),
            since: 0,
            intent: intent.clone(),
        };
        world.claim(host, &claim)?;
    }
    let mut sealed = Vec::new();
    if let Some(handover) = &step.handover {
        let recipient = world.recipient(node)?;
        sealed.push(world.seal(fence, handover, &recipient)?);
    }
    let request = Request {
        fence,
        ensure: ensure.clone(),
        change: change.cloned(),
        sealed,
        receipt: None,
        accepted: BTreeSet::new(),
        testimony: aged(world.observe(intent), Duration::from_millis(50)),
    };
    Ok(Some((node.clone(), request)))
}

/// The same look, that much later.
pub fn aged(mut seen: Observation, by: Duration) -> Observation {
    fn add<T>(seen: &mut BTreeMap<NodeName, Seen<T>>, by: Duration) {
        for seen in seen.values_mut() {
            match seen {
                Seen::Known { age, .. } => *age += by,
                Seen::Unknown(_) => {}
            }
        }
    }
    add(&mut seen.hosts, by);
    add(&mut seen.etcd, by);
    add(&mut seen.api, by);
    add(&mut seen.infra, by);
    add(&mut seen.targets, by);
    seen
}

/// Asks until the host is done, and lets the world come to rest.
///
/// # Errors
/// What the host says.
pub fn act(world: &mut World, node: &NodeName, request: &Request) -> Result<Outcome, ActError> {
    let accepted = world.accept(node, request)?;
    for _ in 0..TICKS_MAX {
        match world.carry_out(node, &accepted) {
            Err(ActError::NotYet(_)) => {
                world.tick();
            }
            Ok(outcome) => {
                world.settle();
                return Ok(outcome);
            }
            Err(error) => return Err(error),
        }
    }
    world.carry_out(node, &accepted)
}

/// A step and the change of its stage.
pub type Turn<'a> = (&'a Step, Option<&'a Change>);

/// The steps of a stage by the place they queue at: those of one place in order, places side by side.
pub fn lanes(stage: &Stage) -> Vec<Vec<Turn<'_>>> {
    let mut lanes: Vec<(String, Vec<Turn<'_>>)> = Vec::new();
    for step in &stage.steps {
        let place = match &step.ensure {
            Ensure::Infra(infra) => infra.node().to_string(),
            Ensure::Host(_) => step.on.to_string(),
        };
        let turn = (step, stage.change.as_ref());
        match lanes.iter_mut().find(|(lane, _)| *lane == place) {
            Some((_, turns)) => turns.push(turn),
            None => lanes.push((place, vec![turn])),
        }
    }
    lanes.into_iter().map(|(_, turns)| turns).collect()
}

/// Every step of a plan in the order of stages; within one, places take turns, as they do side by side. One founder alone would wait for
/// ever for the others.
pub fn turns(plan: &Plan) -> Vec<Turn<'_>> {
    let mut turns = Vec::new();
    for stage in &plan.stages {
        let mut lanes: Vec<_> = lanes(stage).into_iter().map(Vec::into_iter).collect();
        let before = turns.len();
        while turns.len() < before + stage.steps.len() {
            turns.extend(lanes.iter_mut().filter_map(Iterator::next));
        }
    }
    turns
}

/// The title of the stage in which founders start.
const FOUNDS: &str = "Found the control plane";

/// A world in the middle of its founding: all masters hold the certificate authorities, and these have started.
///
/// # Panics
/// When the intent's first plan does not found, or a step fails.
pub fn founded_by(intent: &Intent, started: &[NodeName]) -> World {
    let mut world = World::new(&intent.spec);
    let mut planned = quorate_plan::plan(intent, &world.observe(intent)).plan;
    let founds = planned
        .stages
        .iter()
        .position(|stage| stage.title == FOUNDS)
        .expect("a plan that founds");
    planned.stages.truncate(founds + 1);
    let starts = |step: &Step| match (&step.on, &step.ensure) {
        // Alone a founder waits for the others for ever.
        (_, Ensure::Host(HostEnsure::Serving { .. })) => false,
        (Place::Host(node), _) => started.contains(node),
        (Place::Operator, _) => false,
    };
    planned.stages[founds].steps.retain(starts);
    for (step, change) in turns(&planned) {
        take(&mut world, intent, step, change, Fence(1))
            .unwrap_or_else(|error| panic!("{}: {error:?}", crate::render::step(step)));
    }
    // Whoever walked so far has gone.
    let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
    for node in nodes {
        world.machine_mut(&node).memory.connected = false;
    }
    world
}
