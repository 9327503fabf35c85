//! Moments and lengths of time as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A moment in RFC 3339 with its offset, like `2026-03-29T09:00:00+02:00`, from 1970 on.
pub fn parse(text: &str) -> Option<SystemTime> {
    let seconds = text.parse::<Timestamp>().ok()?.as_second();
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// A length of time as people write it: `90s`, `30m`, `24h`, `7d`, or a sum like `1h30m`. The fields of intent have a grammar of their
/// own (GEP-2257).
///
/// # Errors
/// What is wrong, and how it is written.
pub fn length(text: &str) -> Result<Duration, String> {
    seconds(text)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no length of time: write 90s, 30m, 24h, 7d or 1h30m"))
}

fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0u64, None::<u64>);
    for byte in text.bytes() {
        let unit = match byte {
            b'0'..=b'9' => {
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(byte - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    (number.is_none() && !text.is_empty()).then_some(total)
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
        for (text, seconds) in [("90s", 90), ("10m", 600), ("24h", 86_400), ("7d", 604_800), ("1h30m", 5400), ("0s", 0)]
        {
            assert_eq!(length(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let too_long = ["99999999999999999999s", "9999999999999999h", "99999999999999999d"];
        for text in ["", "5", "m", "1h30", "-1h", "+1h", "1.5h", "1 h", "1w", "1é"].into_iter().chain(too_long) {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
