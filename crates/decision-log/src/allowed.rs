//! Which allowed calls are logged. Denials always are.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// So many lines a second about allowed calls that were the first of their kind, for each recorder; more would drive the denials out of a
/// log of bounded size.
const FIRST_PER_SECOND: u32 = 50;

/// Which allowed calls have a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// None.
    None,
    /// The first of those that are alike in all that policies read: the policies were evaluated for it, and for the others remembered. At most
    /// 50 a second and worker.
    #[default]
    First,
    /// One in so many.
    OneIn(u32),
    /// Each.
    All,
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not one of first, all, none and a percentage like 1%");
        Ok(match text {
            "none" => Self::None,
            "first" => Self::First,
            "all" => Self::All,
            _ => {
                let share: f64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
                if !(share > 0.0 && share <= 100.0) {
                    return Err(format!("{share}% is not more than 0% and at most 100%"));
                }
                Self::OneIn((100.0 / share).round() as u32)
            }
        })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::First => f.write_str("first"),
            Self::OneIn(n) => write!(f, "{}%", 100.0 / f64::from(*n)),
            Self::All => f.write_str("all"),
        }
    }
}

/// Chooses among the allowed calls of one recorder.
#[derive(Debug)]
pub(crate) struct Chooser {
    allowed: Allowed,
    seen: u32,
    second: Instant,
    taken: u32,
    /// Left out since the last that was taken.
    skipped: u64,
}

impl Chooser {
    pub(crate) fn new(allowed: Allowed) -> Self {
        Self { allowed, seen: 0, second: Instant::now(), taken: 0, skipped: 0 }
    }

    /// Whether an allowed call has a line, and then how many of its kind were left out before it.
    pub(crate) fn takes(&mut self, was_evaluated: bool) -> Option<u64> {
        let takes = match self.allowed {
            Allowed::None => return None,
            Allowed::All => true,
            Allowed::OneIn(n) => {
                self.seen = (self.seen + 1) % n;
                self.seen == 1 % n
            }
            Allowed::First if !was_evaluated => return None,
            Allowed::First => self.has_room(),
        };
        if !takes {
            self.skipped += 1;
            return None;
        }
        Some(std::mem::take(&mut self.skipped))
    }

    fn has_room(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.taken) = (Instant::now(), 0);
        }
        self.taken += 1;
        self.taken <= FIRST_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["none", "first", "all", "1%", "0.1%", "50%", "100%"] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), text);
        }
        assert_eq!("1%".parse(), Ok(Allowed::OneIn(100)));
        for text in ["", "some", "1", "0%", "-1%", "101%", "x%", "NaN%", "inf%"] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_a_share() {
        for (allowed, taken) in
            [(Allowed::OneIn(1), 1000), (Allowed::OneIn(10), 100), (Allowed::All, 1000), (Allowed::None, 0)]
        {
            let mut chooser = Chooser::new(allowed);
            assert_eq!((0..1000).filter(|n| chooser.takes(n % 2 == 0).is_some()).count(), taken, "{allowed}");
        }
        let mut chooser = Chooser::new(Allowed::OneIn(10));
        let skipped: Vec<u64> = (0..30).filter_map(|_| chooser.takes(true)).collect();
        assert_eq!(skipped, [0, 9, 9]);
    }

    #[test]
    fn the_first_of_each_kind_are_bounded() {
        let mut chooser = Chooser::new(Allowed::First);
        assert_eq!(chooser.takes(false), None);
        let taken = (0..FIRST_PER_SECOND * 3).filter(|_| chooser.takes(true).is_some()).count();
        // A slow machine may come into the next second.
        assert!((FIRST_PER_SECOND as usize..=2 * FIRST_PER_SECOND as usize).contains(&taken), "{taken}");
        chooser.second -= Duration::from_secs(1);
        assert_eq!(
            chooser.takes(true),
            Some(u64::from(FIRST_PER_SECOND * 3) - taken as u64),
            "and it is told how many were left out"
        );
    }
}
