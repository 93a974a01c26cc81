//! How often a run looks, and how long it waits for what passes by itself. Limits for a slow machine, not expectations.

use std::time::Duration;

/// Between the first looks at something that was just acted on: a fraction of what a kubelet needs to start a container.
pub(crate) const LOOK_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Between later looks: seldom enough not to load a host that is busy starting something.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A look at all hosts is taken at most this often while waiting for one step: some end states are told by others than the host that was
/// acted on.
pub(crate) const WHOLE_LOOK_EVERY: Duration = Duration::from_secs(2);

/// The oldest look a host is given as testimony for a change, and the runner acts on.
pub(crate) const TESTIMONY_AGE_MAX: Duration = Duration::from_secs(2);

/// The oldest look at a master that is to get traffic: well below what its balancer's host believes. Stages look more often by themselves,
/// unless one of their hosts kept them waiting.
pub(crate) const READINESS_AGE_MAX: Duration = Duration::from_secs(20);

/// How long a refusal or a departure after an effect may pass by itself: a control plane that restarts, or boots, on a busy machine is
/// away for up to a minute.
pub(crate) const SETTLING_MAX: Duration = Duration::from_secs(90);

/// How long more than was approved may seem to be needed before somebody is asked about it: a unit that restarts is away for seconds.
pub(crate) const UNITS_MAX: Duration = Duration::from_secs(10);

/// How long something that nobody told may stay untold before the first effect, where no host is on its way.
pub(crate) const FIRST_LOOK_MAX: Duration = Duration::from_secs(15);

/// How long a host may fail to take the fence because it does not answer: one that was just started needs that long on a busy machine.
pub(crate) const FENCE_MAX: Duration = Duration::from_secs(30);

/// How long a planning waits to see whether somebody who does not answer is gone: what a verdict takes, and twice as much again for looks
/// that time out.
pub(crate) const VERDICT_MAX: Duration = Duration::from_secs(60);

/// How long a host may take to boot, by its own account: servers check their memory and disks for minutes before they do.
pub(crate) const BOOT_MAX: Duration = Duration::from_secs(300);

/// Between looks at a target: it takes minutes, and the cloud counts how often it is asked.
pub(crate) const TARGET_LOOK_PAUSE: Duration = Duration::from_secs(5);

/// How long a run asks for what the cloud, or the guard before it, does not tell just now.
pub(crate) const TARGET_UNSURE_MAX: Duration = Duration::from_secs(90);

/// How long a host may be silent in the middle of a step before the step is given up.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(90);

/// How long something may be in the way before it is told.
pub(crate) const NEWS_AFTER: Duration = Duration::from_secs(3);

/// How often a step that has to ask again, or a run that waits, says why.
pub(crate) const EXCUSE_EVERY: Duration = Duration::from_secs(10);

/// How soon after one reason another is told.
pub(crate) const OTHER_EXCUSE_AFTER: Duration = Duration::from_secs(1);

/// How often one step is acted on before it is clear that its end state does not last.
pub(crate) const TRIES_MAX: u32 = 3;

/// The pause after `pause`.
pub(crate) fn longer(pause: Duration) -> Duration {
    (pause * 3 / 2).min(LOOK_PAUSE_MAX)
}
