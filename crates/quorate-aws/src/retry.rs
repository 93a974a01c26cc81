//! What is tried again, how often and after what pause. Start at [`Retries`].

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::AwsError;
use crate::http::HttpError;

/// How often a call is made at most, and how long the pauses between are.
///
/// The pause before attempt n+1 is anything between nothing and `pause_min` · 2ⁿ⁻¹, but at most `pause_max` ("full jitter"): clients that were
/// refused together do not come back together. The deadline of the call holds for all of it: a pause that would pass it is not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Attempts, the first among them; at least 1.
    pub attempts_max: u32,
    /// Bound of the first pause.
    pub pause_min: Duration,
    /// Bound of every pause.
    pub pause_max: Duration,
    /// Longest time for one attempt, so that a silent server does not use up the whole call.
    pub attempt_max: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries {
            // The seven pauses between eight take 26 s at most and half of that most often: AWS measures how often it is asked over seconds.
            attempts_max: 8,
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(10),
            attempt_max: Duration::from_secs(15),
        }
    }
}

impl Retries {
    /// The longest pause after so many attempts.
    fn bound(&self, attempts: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.pause_min.saturating_mul(doubled).min(self.pause_max)
    }

    /// A pause after so many attempts.
    pub(crate) fn pause(&self, attempts: u32) -> Duration {
        let mut bytes = [0; 4];
        // A system without randomness has greater worries; the whole pause is right too.
        let share = match SystemRandom::new().fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        };
        self.bound(attempts).mul_f64(share)
    }
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Try again after a pause.
    Again,
    /// Look for new credentials, and try again if there are others.
    Renew,
    /// It is an answer.
    None,
}

/// Codes by which services ask to be asked less often.
const THROTTLED: [&str; 8] = [
    "EC2ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// Codes for a fault that passes.
const TRANSIENT: [&str; 6] = [
    "InternalError",
    "InternalFailure",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "Unavailable",
];

pub(crate) fn recovery(error: &AwsError) -> Recovery {
    match error {
        AwsError::Refused {
            status, code, skew, ..
        } => match code.as_str() {
            "ExpiredToken" | "ExpiredTokenException" => Recovery::Renew,
            // Some services say so of a session that is over, and others of a clock that is wrong.
            "RequestExpired" if skew.is_none() => Recovery::Renew,
            code if THROTTLED.contains(&code) || TRANSIENT.contains(&code) => Recovery::Again,
            _ if matches!(status, 429 | 500 | 502 | 503 | 504) => Recovery::Again,
            _ => Recovery::None,
        },
        AwsError::Http { source, .. } => match source {
            HttpError::Unreachable { .. }
            | HttpError::Broken { .. }
            | HttpError::Deadline { .. } => Recovery::Again,
            HttpError::Url { .. }
            | HttpError::Header { .. }
            | HttpError::NoAuthorities { .. }
            | HttpError::Authorities { .. }
            | HttpError::Tls { .. }
            | HttpError::TooLarge { .. } => Recovery::None,
        },
        // An answer that is not understood is not understood the next time either.
        AwsError::Unfit { .. }
        | AwsError::Credentials(_)
        | AwsError::Profile(_)
        | AwsError::Region(_)
        | AwsError::GaveUp { .. }
        | AwsError::Deadline { .. } => Recovery::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_bound_and_are_spread_below_it() {
        let retries = Retries::default();
        let bounds: Vec<u128> = (1..9).map(|n| retries.bound(n).as_millis()).collect();
        assert_eq!(bounds, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(retries.bound(u32::MAX), retries.pause_max);
        let pauses: Vec<Duration> = (0..200).map(|_| retries.pause(6)).collect();
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(8)));
        // The chance that 200 of them leave a half of the range empty is one in 2^199.
        assert!(pauses.iter().any(|pause| *pause < Duration::from_secs(4)));
        assert!(pauses.iter().any(|pause| *pause >= Duration::from_secs(4)));
    }
}
