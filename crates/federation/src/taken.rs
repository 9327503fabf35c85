//! Whether a document that was fetched counts, and when to look again. Pure.

use std::time::Duration;

use weft_identity::Document;

/// Without a hint (SPIFFE Trust Domain and Bundle s.6.1).
const WITHOUT_HINT: Duration = Duration::from_secs(300);
/// What a hint may ask for.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(3600);
/// While there is no bundle from the endpoint yet, it is tried again after this, then after twice as long.
const FIRST_TRY: Duration = Duration::from_secs(1);

/// What becomes of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the newest.
    Newer,
    /// It says what the present one says.
    Same,
    /// It is older than the present one: somebody replays it, or the other side was restored from a backup.
    Older {
        /// Of the present one.
        present: u64,
        /// Of this one.
        fetched: u64,
    },
}

/// Compares a fetched document with the present one: by sequence where both have one, else what was fetched last counts
/// (SPIFFE Federation s.4.2).
pub(crate) fn judge(present: Option<&Document>, fetched: &Document) -> Verdict {
    let Some(present) = present else { return Verdict::Newer };
    if let (Some(present), Some(fetched)) = (present.sequence, fetched.sequence)
        && fetched < present
    {
        return Verdict::Older { present, fetched };
    }
    let same = present.bundle.says_the_same(&fetched.bundle)
        && present.sequence == fetched.sequence
        && present.refresh_hint == fetched.refresh_hint;
    if same { Verdict::Same } else { Verdict::Newer }
}

/// From one look to the next: the hint, from 10 s to an hour, or five minutes without one. After the first of several `failures` in a row it
/// is twice as long and no longer: a root is published for three hints before it signs (SPIFFE Federation s.4.1), and must be seen by then.
/// As long as nothing was fetched at all (`is_first`) it begins with a second and doubles.
pub fn interval(hint: Option<Duration>, failures: u32, is_first: bool) -> Duration {
    let whole = hint.unwrap_or(WITHOUT_HINT).clamp(SHORTEST, LONGEST);
    match failures {
        0 => whole,
        failures if is_first => whole.min(FIRST_TRY * 2_u32.saturating_pow(failures - 1).min(3600)),
        1 => whole,
        _ => (2 * whole).min(LONGEST),
    }
}

/// A tenth shorter at the most, so that not all servers of all meshes come in one moment. `random` is in 0..1.
pub fn spread(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 - random / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(sequence: &str) -> Document {
        let text = format!(r#"{{"keys": []{sequence}}}"#);
        Document::read(&"west.test".parse().expect("legal"), text.as_bytes()).expect("a document")
    }

    #[test]
    fn a_smaller_sequence_never_counts_and_without_one_the_last_does() {
        let [none, five, six] = ["", r#", "spiffe_sequence": 5"#, r#", "spiffe_sequence": 6"#].map(document);
        assert_eq!(judge(None, &five), Verdict::Newer);
        assert_eq!(judge(Some(&five), &six), Verdict::Newer);
        assert_eq!(judge(Some(&six), &five), Verdict::Older { present: 6, fetched: 5 });
        assert_eq!(judge(Some(&six), &six), Verdict::Same);
        assert_eq!(judge(Some(&none), &none), Verdict::Same);
        assert_eq!(judge(Some(&six), &none), Verdict::Newer);
    }

    #[test]
    fn the_next_look_is_when_the_hint_says_within_bounds() {
        let seconds = Duration::from_secs;
        for (hint, failures, is_first, wait) in [
            (None, 0, false, 300),
            (Some(60), 0, false, 60),
            (Some(0), 0, false, 10),
            (Some(u64::MAX), 0, false, 3600),
            (Some(60), 1, false, 60),
            (Some(60), 2, false, 120),
            (Some(60), 5, false, 120),
            (Some(u64::MAX), 5, false, 3600),
            (None, 1, true, 1),
            (None, 4, true, 8),
            (None, 40, true, 300),
        ] {
            assert_eq!(interval(hint.map(seconds), failures, is_first), seconds(wait), "{hint:?} {failures}");
        }
        assert_eq!(spread(seconds(10), 0.0), seconds(10));
        assert_eq!(spread(seconds(10), 1.0), seconds(9));
    }
}
