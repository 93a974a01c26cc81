//! What one stream of requests saw, in time. Start at [`Timeline::gap`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One request of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When it was sent, since the drill began.
    pub sent: Duration,
    /// When its answer came, or was given up.
    pub ended: Duration,
    /// Why it failed. `None`: it succeeded.
    pub error: Option<String>,
    /// It was the one retry of a request that failed.
    pub retry: bool,
}

/// All requests of one stream, in order of their ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub Vec<Sample>);

/// What a stream went through in a window of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Requests that ended in the window, retries included.
    pub requests: usize,
    /// Requests that failed, each counted once; retries are not.
    pub failed: usize,
    /// Requests whose retry failed too.
    pub failed_after_retry: usize,
    /// Longest time between the ends of two successes that follow each other, in milliseconds.
    pub longest_gap_ms: u64,
    /// When that gap began, in milliseconds since the window's beginning.
    pub gap_began_ms: u64,
    /// Different errors, the first few.
    pub errors: Vec<String>,
}

/// Different errors that a summary keeps.
const ERRORS_MAX: usize = 5;

impl Timeline {
    /// Longest time between the ends of two successes that follow each other within the window, and when it began. The window's two
    /// ends count as successes: a stream that never succeeds has a gap as long as the window.
    pub fn gap(&self, from: Duration, to: Duration) -> (Duration, Duration) {
        let mut last = from;
        let mut longest = (Duration::ZERO, from);
        let ends = self
            .0
            .iter()
            .filter(|sample| sample.error.is_none() && sample.ended > from && sample.ended < to);
        for ended in ends.map(|sample| sample.ended).chain([to]) {
            let gap = ended.saturating_sub(last);
            if gap > longest.0 {
                longest = (gap, last);
            }
            last = ended;
        }
        longest
    }

    /// What happened in the window.
    pub fn summary(&self, from: Duration, to: Duration) -> Summary {
        let (gap, began) = self.gap(from, to);
        let mut summary = Summary {
            longest_gap_ms: gap.as_millis() as u64,
            gap_began_ms: began.saturating_sub(from).as_millis() as u64,
            ..Summary::default()
        };
        for sample in self
            .0
            .iter()
            .filter(|sample| sample.ended > from && sample.ended <= to)
        {
            summary.requests += 1;
            let Some(error) = &sample.error else { continue };
            if sample.retry {
                summary.failed_after_retry += 1;
            } else {
                summary.failed += 1;
            }
            if summary.errors.len() < ERRORS_MAX && !summary.errors.contains(error) {
                summary.errors.push(error.clone());
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ended_ms: u64, ok: bool, retry: bool) -> Sample {
        Sample {
            sent: Duration::from_millis(ended_ms.saturating_sub(5)),
            ended: Duration::from_millis(ended_ms),
            error: (!ok).then(|| "reset".to_owned()),
            retry,
        }
    }

    #[test]
    fn gaps_are_between_successes() {
        let timeline = Timeline(vec![
            sample(100, true, false),
            sample(150, true, false),
            sample(300, false, false),
            sample(900, true, true),
        ]);
        let summary = timeline.summary(Duration::ZERO, Duration::from_millis(1000));
        assert_eq!(summary.longest_gap_ms, 750);
        assert_eq!(summary.gap_began_ms, 150);
        assert_eq!(
            (summary.requests, summary.failed, summary.failed_after_retry),
            (4, 1, 0)
        );
    }

    #[test]
    fn a_stream_that_never_succeeds_has_one_long_gap() {
        let timeline = Timeline(vec![sample(100, false, false), sample(200, false, true)]);
        let summary = timeline.summary(Duration::ZERO, Duration::from_secs(2));
        assert_eq!(summary.longest_gap_ms, 2000);
        assert_eq!((summary.failed, summary.failed_after_retry), (1, 1));
    }
}
