//! Calls about which no authorization server could be asked: counted, and said aloud, also when it is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// One line of the log in so many seconds, however many calls there are; and it is over when there was none for as long.
const TELL_EVERY: u64 = 10;

/// Counts of all workers, or of a data plane that counts itself.
#[derive(Debug, Default)]
pub struct Undecided {
    passed: AtomicU64,
    failed: AtomicU64,
    /// Seconds since 1970.
    told_at: AtomicU64,
    /// When the last of them came, in seconds since 1970; 0 while calls are decided.
    last: AtomicU64,
}

impl Undecided {
    /// So many calls that passed, or failed, because `server` gave no answer.
    pub fn count(&self, passed: bool, calls: u64, server: &str, why: &str) {
        let counter = if passed { &self.passed } else { &self.failed };
        let count = counter.fetch_add(calls, Ordering::Relaxed) + calls;
        let now = seconds();
        self.last.store(now, Ordering::Relaxed);
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

    /// A call was decided. That all are again is said when none was without a decision for some time: a server that answers now and
    /// then is not well.
    pub fn decided(&self) {
        let last = self.last.load(Ordering::Relaxed);
        if last == 0 || seconds().abs_diff(last) < TELL_EVERY {
            return;
        }
        if self.last.compare_exchange(last, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.told_at.store(0, Ordering::Relaxed); // the next time is told at once
            tracing::info!(passed = self.passed(), refused = self.failed(), "the authorization server decides again");
        }
    }

    /// Calls that passed without a decision.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Calls that failed for want of one.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
