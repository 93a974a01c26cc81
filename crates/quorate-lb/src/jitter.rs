//! How late answers have come lately, and what that makes of the limits. Pure.

use std::time::Duration;

/// An answer's lateness counts half after this time. Long enough that bursts minutes apart are
/// remembered, short enough that one bad hour does not slow detection for a day.
const HALF_LIFE: Duration = Duration::from_secs(300);

/// A backend is dead past this multiple of the worst answer remembered.
const DEAD_FACTOR: f64 = 2.0;

/// It is suspect past this multiple of the usual answer: a wrong suspicion costs nothing, so that the
/// worst does not matter.
const SUSPECT_FACTOR: u32 = 4;

/// The worst answer seen, fading.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Jitter {
    worst: Duration,
    at: Duration,
    smoothed: Option<Duration>,
}

/// How long a PING may stay unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Then new connections go elsewhere.
    pub suspect: Duration,
    /// Then established ones are reset.
    pub dead: Duration,
}

impl Jitter {
    /// Takes one answer into account; `now` is any clock that only goes forward.
    pub(crate) fn answered(&mut self, rtt: Duration, now: Duration) {
        self.worst = self.worst(now).max(rtt);
        self.at = now;
        self.smoothed = Some(match self.smoothed {
            Some(smoothed) => (smoothed * 7 + rtt) / 8,
            None => rtt,
        });
    }

    /// The usual answer, as TCP smooths round trips; none before the first.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The worst answer remembered.
    pub(crate) fn worst(&self, now: Duration) -> Duration {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.worst
            .mul_f64(0.5_f64.powf(age / HALF_LIFE.as_secs_f64()))
    }

    /// The limits to judge by: the configured floors, raised by what was seen, never above `dead_max`.
    pub(crate) fn limits(
        &self,
        suspect: Duration,
        dead: Duration,
        dead_max: Duration,
        now: Duration,
    ) -> Limits {
        let worst = self.worst(now);
        let usual = self.smoothed.unwrap_or_default();
        let dead = dead.max(worst.mul_f64(DEAD_FACTOR)).min(dead_max);
        Limits {
            suspect: suspect.max(usual * SUSPECT_FACTOR).min(dead),
            dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn quiet_answers_leave_the_floors() {
        let mut jitter = Jitter::default();
        for tick in 0..1000 {
            jitter.answered(MS(1), MS(tick * 20));
        }
        assert_eq!(
            jitter.limits(MS(20), MS(45), MS(300), MS(20_000)),
            Limits {
                suspect: MS(20),
                dead: MS(45)
            }
        );
        assert_eq!(jitter.smoothed(), Some(MS(1)));
    }

    #[test]
    fn a_burst_raises_the_limits_and_is_forgotten_slowly() {
        let mut jitter = Jitter::default();
        jitter.answered(MS(1), MS(0));
        jitter.answered(MS(40), MS(0));
        let limits = |jitter: &Jitter, now| jitter.limits(MS(20), MS(45), MS(300), now);
        assert_eq!(limits(&jitter, MS(0)).dead, MS(80));
        // One late answer hardly changes the usual one: the suspicion stays quick.
        assert!(limits(&jitter, MS(0)).suspect < MS(24));
        // Good answers do not erase it at once.
        jitter.answered(MS(1), MS(1000));
        assert!(limits(&jitter, MS(1000)).dead > MS(79));
        jitter.answered(MS(1), HALF_LIFE);
        assert!(limits(&jitter, HALF_LIFE).dead < MS(46));
    }

    #[test]
    fn no_burst_raises_them_past_the_bound() {
        let mut jitter = Jitter::default();
        jitter.answered(Duration::from_secs(5), MS(0));
        assert_eq!(
            jitter.limits(MS(20), MS(45), MS(300), MS(0)),
            Limits {
                suspect: MS(300),
                dead: MS(300)
            }
        );
    }
}
