//! When to renew, and how long to wait after a failure. Pure: time and randomness are arguments.

use std::time::{Duration, Instant, SystemTime};

/// The moment at which half of the life that remained at issue is over.
pub fn half_life(issued_at: SystemTime, not_after: SystemTime) -> SystemTime {
    issued_at + not_after.duration_since(issued_at).unwrap_or_default() / 2
}

/// The moment of renewal: half life, moved by up to a tenth of it either way, so that workloads that started together do not
/// come back together. `random` is in 0..1.
pub fn renewal(issued_at: SystemTime, not_after: SystemTime, random: f64) -> SystemTime {
    let half = not_after.duration_since(issued_at).unwrap_or_default() / 2;
    issued_at + half.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
}

/// When something is to be done, on a clock that may be set meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// When it was planned.
    pub begun: SystemTime,
    /// When it is to be done.
    pub due: SystemTime,
    /// The certificate in use is not valid before.
    pub not_before: SystemTime,
}

impl Plan {
    /// Whether it is time. `elapsed` is the time since the plan on a clock that nobody can set: so a wall clock that is set back does
    /// not put off what is due for those whose clocks are right. And a certificate from the future is of no use now.
    pub fn is_due(&self, now: SystemTime, elapsed: Duration) -> bool {
        let planned = self.due.duration_since(self.begun).unwrap_or_default();
        now >= self.due || elapsed >= planned || now < self.not_before
    }
}

/// Tidying up, now and then, of what is over by a clock that may be set: what is thrown away while it is wrong does not come back.
#[derive(Clone, Copy, Debug)]
pub struct Sweeps {
    every: Duration,
    last: (Instant, SystemTime),
}

impl Sweeps {
    /// With so much time between two of them; `begun` is a moment on a clock that nobody can set, and on the wall.
    pub fn every(every: Duration, begun: (Instant, SystemTime)) -> Self {
        Self { every, last: begun }
    }

    /// Whether it is time: `every` has passed since the last one, and on the wall as much, give or take a tenth. Else, where the clock on the
    /// wall was set meanwhile, it begins anew.
    pub fn is_time(&mut self, now: (Instant, SystemTime)) -> bool {
        let steady = now.0.saturating_duration_since(self.last.0);
        if steady < self.every {
            return false;
        }
        let on_the_wall = now.1.duration_since(self.last.1).unwrap_or_default();
        self.last = now;
        on_the_wall.abs_diff(steady) <= self.every / 10
    }
}

/// How long to wait after `failures` (1 or more) in a row: doubling from 100 ms, at most 30 s and at most a twentieth of the whole
/// life, then halved at most by `random` in 0..1.
pub fn backoff(failures: u32, life: Duration, random: f64) -> Duration {
    let cap = (life / 20).clamp(Duration::from_millis(100), Duration::from_secs(30));
    let full = Duration::from_millis(100).saturating_mul(1 << failures.saturating_sub(1).min(16)).min(cap);
    full.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

/// How long to sleep before looking at the clock again: until `due`, but at most half a minute, because a machine that was
/// suspended or whose clock was set wakes up with another time than its timers think.
pub fn nap(now: SystemTime, due: SystemTime) -> Duration {
    let until = due.duration_since(now).unwrap_or_default();
    until.clamp(Duration::from_millis(20), Duration::from_secs(30))
}

/// How long to pause before the next attempt: `pause`, but not past the end of the present certificate, because that is to be told of.
/// Its last second counts as valid.
pub fn until_end(pause: Duration, now: SystemTime, not_after: SystemTime) -> Duration {
    match (not_after + Duration::from_secs(1)).duration_since(now) {
        Ok(left) => pause.min(left),
        Err(_) => pause,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_certificate_is_renewed_at_half_life_give_or_take_a_tenth() {
        let end = START + Duration::from_secs(3600);
        assert_eq!(half_life(START, end), START + Duration::from_secs(1800));
        assert_eq!(renewal(START, end, 0.0), START + Duration::from_secs(1620));
        assert_eq!(renewal(START, end, 0.5), START + Duration::from_secs(1800));
        assert_eq!(renewal(START, end, 1.0), START + Duration::from_secs(1980));
        assert_eq!(renewal(end, START, 0.5), end, "an expired one is due at once");
    }

    #[test]
    fn nothing_is_tidied_up_by_a_clock_that_was_set_meanwhile() {
        let (steady, hour) = (Instant::now(), Duration::from_secs(3600));
        let mut sweeps = Sweeps::every(hour, (steady, START));
        assert!(!sweeps.is_time((steady + hour / 2, START + hour / 2)), "too soon");
        assert!(sweeps.is_time((steady + hour, START + hour)));
        assert!(!sweeps.is_time((steady + hour, START + hour)), "it was just done");
        assert!(!sweeps.is_time((steady + 2 * hour, START + 9_000 * hour)), "set forward");
        assert!(!sweeps.is_time((steady + 3 * hour, START + 3 * hour)), "and back");
        assert!(sweeps.is_time((steady + 4 * hour, START + 4 * hour)), "and right for an hour");
        assert!(!sweeps.is_time((steady + 5 * hour, START)), "set back");
    }

    #[test]
    fn a_clock_that_is_set_neither_puts_off_a_renewal_nor_hides_that_it_is_late() {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
        let start = START + 10 * day;
        let plan = Plan { begun: start, due: start + 30 * minute, not_before: start - minute / 2 };
        assert!(!plan.is_due(start + 29 * minute, 29 * minute));
        assert!(plan.is_due(start + 30 * minute, 30 * minute));
        // A day forward, and a machine that slept: the wall clock says so.
        assert!(plan.is_due(start + minute + day, minute));
        // A few seconds back: nothing happens early, and nothing late.
        assert!(!plan.is_due(start - Duration::from_secs(5), Duration::from_secs(1)));
        assert!(!plan.is_due(start + 24 * minute, 29 * minute));
        assert!(plan.is_due(start + 25 * minute, 30 * minute));
        // A day back: the certificate is not valid yet, so another is needed at once.
        assert!(plan.is_due(start - day, minute));
    }

    #[test]
    fn failures_back_off_within_what_a_short_life_allows() {
        let hour = Duration::from_secs(3600);
        let waits: Vec<_> = (1..12).map(|failures| backoff(failures, hour, 1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(backoff(40, Duration::from_secs(10), 1.0), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn at_least_five_attempts_fit_between_the_renewal_and_the_end(life in 10u64..86_400, random in 0.0..1.0) {
            let life = Duration::from_secs(life);
            let mut at = renewal(START, START + life, random);
            let mut attempts = 0;
            while at < START + life {
                attempts += 1;
                at += backoff(attempts, life, 1.0);
            }
            prop_assert!(attempts >= 5, "{attempts}");
        }

        #[test]
        fn naps_end_when_due_or_within_half_a_minute(now in 0u64..1_000_000, due in 0u64..1_000_000) {
            let wait = nap(START + Duration::from_secs(now), START + Duration::from_secs(due));
            prop_assert!(wait >= Duration::from_millis(20) && wait <= Duration::from_secs(30));
            prop_assert!(due <= now || wait <= Duration::from_secs(due - now));
        }
    }
}
