//! The masters as targets of a Network Load Balancer at AWS: what it says of them, registering and taking out. Start at [`Nlb`].
//!
//! Whether something may be asked of it is decided before: see `target.rs`. Here every call is a question or an end state.

use std::{collections::BTreeMap, time::Duration};

use quorate_aws::{Arn, Aws, Options, TargetHealth, TargetState};
use quorate_plan::{
    InfraEnsure, Missing, NodeName, Seen, Spec, observation::Target, spec::BalancerSpec,
};

use crate::{
    hostile,
    machines::{chain, given},
    seam::InfraError,
};

/// How long a look may take, retries after throttling included. Hosts are looked at meanwhile.
const LOOK_MAX: Duration = Duration::from_secs(15);

/// How long registering or taking out may take until it is answered, retries included.
const ASK_MAX: Duration = Duration::from_secs(30);

/// A target group and the masters that are, or may be, in it.
#[derive(Debug)]
pub struct Nlb {
    aws: Aws,
    group: Arn,
    instances: BTreeMap<NodeName, String>,
}

impl Nlb {
    /// The balancer of a cluster file; `None` where another one stands there. Nothing is asked of AWS yet.
    ///
    /// # Errors
    /// When the ARN is none, or this machine's AWS configuration cannot be read.
    pub async fn of(spec: &Spec, options: Options) -> Result<Option<Self>, InfraError> {
        let (target_group, instances) = match &spec.balancer {
            BalancerSpec::Nlb {
                target_group,
                instances,
            } => (target_group, instances),
            BalancerSpec::Quorate { .. }
            | BalancerSpec::Shared { .. }
            | BalancerSpec::External
            | BalancerSpec::Dns => {
                return Ok(None);
            }
        };
        let bad = |detail: String| InfraError {
            what: format!("the target group {target_group}"),
            detail: hostile::text(&detail),
        };
        let group: Arn = target_group.parse().map_err(bad)?;
        let options = Options {
            region: Some(group.region().clone()),
            ..options
        };
        let aws = Aws::open(options, ASK_MAX)
            .await
            .map_err(|error| bad(chain(&error)))?;
        Ok(Some(Self {
            aws,
            group,
            instances: instances.clone(),
        }))
    }

    /// What AWS says of each master.
    pub(crate) async fn targets(&self) -> BTreeMap<NodeName, Seen<Target>> {
        let told = self.aws.target_health(&self.group, LOOK_MAX).await;
        let of = |instance: &String| match &told {
            Ok(told) => Seen::now(target(told.iter().filter(|one| one.id == *instance))),
            Err(error) => Seen::Unknown(Missing::no_answer(
                format!("the target group {}", self.group),
                hostile::line(&chain(error)),
            )),
        };
        self.instances
            .iter()
            .map(|(node, instance)| (node.clone(), of(instance)))
            .collect()
    }

    /// Makes an end state of a target begin: AWS takes minutes until it stands.
    pub(crate) async fn ensure(&self, what: &InfraEnsure) -> Result<(), InfraError> {
        let target = |instance: &String| {
            [quorate_aws::Target {
                id: instance.clone(),
                port: None,
            }]
        };
        let (doing, asked) = match what {
            InfraEnsure::Machine { .. } | InfraEnsure::MachineOff { .. } => {
                return Err(given(what));
            }
            InfraEnsure::Target { instance, .. } => (
                "registering",
                self.aws
                    .register_targets(&self.group, &target(instance), ASK_MAX)
                    .await,
            ),
            InfraEnsure::TargetGone { instance, .. } => (
                "deregistering",
                self.aws
                    .deregister_targets(&self.group, &target(instance), ASK_MAX)
                    .await,
            ),
        };
        asked.map_err(|error| InfraError {
            what: format!("{doing} {} in {}", what.node(), self.group),
            detail: hostile::text(&chain(&error)),
        })
    }
}

/// One instance may be there with several ports: what is not healthy of it counts, and what still drains before that.
fn target<'a>(told: impl Iterator<Item = &'a TargetHealth>) -> Target {
    let one = |one: &TargetHealth| match &one.state {
        TargetState::Healthy => Target::Healthy,
        TargetState::Draining => Target::Draining,
        TargetState::Unused if one.reason.as_deref() == Some("Target.NotRegistered") => {
            Target::Absent
        }
        state @ (TargetState::Initial
        | TargetState::Unhealthy
        | TargetState::UnhealthyDraining
        | TargetState::Unused
        | TargetState::Unavailable
        | TargetState::Other(_)) => Target::Unhealthy {
            told: hostile::line(&match &one.reason {
                Some(reason) => format!("{state} ({reason})"),
                None => state.to_string(),
            }),
        },
    };
    // The order of the states: absent, healthy, unhealthy, draining.
    told.map(one).max().unwrap_or(Target::Absent)
}
