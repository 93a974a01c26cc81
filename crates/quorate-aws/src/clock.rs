//! Wall-clock time as AWS writes it. Signatures carry it, and credentials end by it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time of day. Waiting is done with tokio's clock; this one is for signatures and for when credentials end.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock(..)")
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock(Arc::new(SystemTime::now))
    }
}

impl Clock {
    /// A clock of one's own: tests whose time is virtual have one.
    pub fn of(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0)()
    }
}

/// `20150830T123600Z`, as signatures want it. A time before 1970 becomes 1970.
pub(crate) fn stamp(at: SystemTime) -> String {
    let seconds = at
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Reads `2026-11-26T06:04:45Z`, with or without a fraction, also with `UTC` or `+00:00` at its end as older tools write it.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = ["Z", "UTC", "+00:00"]
        .iter()
        .find_map(|end| text.strip_suffix(end))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (date, time) = whole.split_once('T')?;
    let date = numbers(date, '-', [4, 2, 2])?;
    let time = numbers(time, ':', [2, 2, 2])?;
    at(date, time)
}

/// Reads `Thu, 26 Nov 2026 06:04:45 GMT`, the `Date` of an HTTP answer.
pub(crate) fn parse_http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.strip_suffix(" GMT")?.split(' ');
    let day = numbers(parts.next()?, ' ', [2])?[0];
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year = numbers(parts.next()?, ' ', [4])?[0];
    let time = numbers(parts.next()?, ':', [2, 2, 2])?;
    if parts.next().is_some() {
        return None;
    }
    at([year, month, day], time)
}

/// Numbers of exactly so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut out = [0; N];
    let mut parts = text.split(between);
    for (number, digits) in out.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn at([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> Option<SystemTime> {
    // 60 is a leap second.
    if year < 1970 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(year, month, day)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Days since 1970 of a date that exists.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // In years that begin in March the leap day comes last.
    let (from_march, year_of_march) = ((month + 9) % 12, year - u64::from(month < 3));
    let days = year_of_march * 365 + year_of_march / 4 - year_of_march / 100
        + year_of_march / 400
        + (from_march * 153 + 2) / 5
        + day
        - 1;
    let days = days.checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
}

/// The date so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month < 3), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn stamps_are_civil_time() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(unix(seconds)), expected);
        }
    }

    #[test]
    fn every_day_is_read_back() {
        for day in 0..60_000 {
            let (year, month, dom) = civil(day);
            assert_eq!(days(year, month, dom), Some(day));
        }
    }

    #[test]
    fn times_are_read_as_tools_write_them() {
        let expected = Some(unix(1_440_938_160));
        for text in [
            "2015-08-30T12:36:00Z",
            "2015-08-30T12:36:00.123456Z",
            "2015-08-30T12:36:00UTC",
            "2015-08-30T12:36:00+00:00",
        ] {
            assert_eq!(parse_rfc3339(text), expected, "{text}");
        }
        assert_eq!(parse_http_date("Sun, 30 Aug 2015 12:36:00 GMT"), expected);
        for text in [
            "",
            "2015-08-30",
            "2015-08-30T12:36:00",
            "2015-08-30T12:36:00+02:00",
            "2015-02-30T12:36:00Z",
            "2015-13-01T12:36:00Z",
            "2015-08-30T24:36:00Z",
            "2015-8-30T12:36:00Z",
            "2015-08-30T12:36:00.Z",
            "+015-08-30T12:36:00Z",
            "1969-12-31T23:59:59Z",
            "99999-08-30T12:36:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
        assert_eq!(parse_http_date("Sun, 30 Aug 2015 12:36:00"), None);
        assert_eq!(parse_http_date("Sun, 30 Foo 2015 12:36:00 GMT"), None);
    }
}
