//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// The longest step.
pub(super) const LAST: Duration = Duration::from_secs(5);

/// Doubles from 100 ms to 5 s; the jitter keeps the clients of one server from coming back all at once.
#[derive(Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// `random` is any number; the result lies between the half and the whole of the step.
    pub(super) fn next(&mut self, random: u32) -> Duration {
        let step = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LAST);
        self.attempts = self.attempts.saturating_add(1);
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_five_seconds_and_starts_again() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..8).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for _ in 0..100 {
            assert_eq!(backoff.next(0).as_millis(), 2500);
        }
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 50);
    }
}
