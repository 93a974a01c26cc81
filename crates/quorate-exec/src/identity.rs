//! Who acts: this process on this machine, in this run.

use std::time::{SystemTime, UNIX_EPOCH};

use quorate_plan::Operator;
use sha2::{Digest as _, Sha256};

use crate::hostile;

/// This process as an operator, in the run of that ID.
///
/// Names are for people and for knowing oneself again: a user without an entry in the password database is shown by number, a machine
/// whose name cannot be read as `unknown`.
pub fn operator(run: &str) -> Operator {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| format!("uid {uid}"), |user| user.name);
    let machine = nix::unistd::gethostname().map_or_else(
        |_| "unknown".into(),
        |name| name.to_string_lossy().into_owned(),
    );
    Operator {
        user: hostile::line(&user),
        machine: hostile::line(&machine),
        pid: std::process::id(),
        run: run.to_owned(),
    }
}

/// A new run's ID: when it began (UTC), and enough more to tell two apart that began in the same second: `20261105t101500z-3f9a17c2`.
/// It is a file name and sorts by time.
pub fn new_run_id() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(since.as_nanos().to_le_bytes());
    hash.update(std::process::id().to_le_bytes());
    let unique = hash.finalize();
    format!(
        "{}-{:02x}{:02x}{:02x}{:02x}",
        stamp(since.as_secs()),
        unique[0],
        unique[1],
        unique[2],
        unique[3]
    )
}

/// UTC by this machine's clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `20261105t101500z` of seconds since 1970.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, in years that begin in March so that the leap day comes last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}t{:02}{:02}{:02}z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_civil_time() {
        for (seconds, expected) in [
            (0, "19700101t000000z"),
            (951_782_400, "20000229t000000z"),
            (1_709_251_199, "20240229t235959z"),
            (1_794_960_000, "20261118t000000z"),
        ] {
            assert_eq!(stamp(seconds), expected);
        }
    }

    #[test]
    fn runs_have_names_of_their_own() {
        let (a, b) = (new_run_id(), new_run_id());
        assert_ne!(a, b);
        assert!(
            a.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "{a}"
        );
        assert_eq!(operator(&a).pid, std::process::id());
    }
}
