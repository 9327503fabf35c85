//! Moments as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A moment in RFC 3339 with its offset, like `2026-03-29T09:00:00+02:00`, from 1970 on.
pub fn parse(text: &str) -> Option<SystemTime> {
    let seconds = text.parse::<Timestamp>().ok()?.as_second();
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
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
}
