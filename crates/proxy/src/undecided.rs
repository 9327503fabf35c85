//! Calls about which no authorization server could be asked: counted, and said aloud.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// One line of the log in so many seconds, however many calls there are.
const TELL_EVERY: u64 = 10;

/// Counts of all workers.
#[derive(Debug, Default)]
pub(crate) struct Undecided {
    passed: AtomicU64,
    failed: AtomicU64,
    /// Seconds since 1970.
    told_at: AtomicU64,
}

impl Undecided {
    /// A call that passed, or failed, because `server` gave no answer.
    pub(crate) fn count(&self, passed: bool, server: &str, why: &str) {
        let counter = if passed { &self.passed } else { &self.failed };
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let told = self.told_at.load(Ordering::Relaxed);
        let is_due = now.abs_diff(told) >= TELL_EVERY;
        // Of several workers that come together one tells.
        if !is_due || self.told_at.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        if passed {
            tracing::warn!(
                server,
                why,
                count,
                "calls PASS WITHOUT A DECISION: the authorization server cannot be asked, and the service fails open"
            );
        } else {
            tracing::warn!(server, why, count, "calls are refused: the authorization server cannot be asked");
        }
    }

    /// Calls that passed without a decision.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Calls that failed for want of one.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
