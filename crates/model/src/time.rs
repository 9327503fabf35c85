//! Moments and lengths of time as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A moment in RFC 3339 with its offset, like `2026-03-29T09:00:00+02:00`, from 1970 on.
pub fn parse(text: &str) -> Option<SystemTime> {
    let seconds = text.parse::<Timestamp>().ok()?.as_second();
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// A length of time as people write it: `90s`, `30m`, `24h`, `7d`.
///
/// # Errors
/// What is wrong, and how it is written.
pub fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no length of time: write 90s, 30m, 24h or 7d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number = number.parse::<u64>().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_its_offset() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(parse("2026-03-29T09:00:00+02:00"), at(1_774_767_600));
        assert_eq!(parse("2026-03-29T07:00:00Z"), at(1_774_767_600));
        for wrong in ["2026-03-29T09:00:00", "2026-03-29", "1969-12-31T23:59:59Z", "now", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(length("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(length("7d"), Ok(Duration::from_secs(604_800)));
        for text in ["", "5", "m", "-1h", "1w", "1é", "99999999999999999d"] {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
