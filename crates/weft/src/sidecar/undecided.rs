//! Calls through Envoy about which no authorization server could be asked. Envoy counts them and says nothing; this says it in the log,
//! as our data plane does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use weft_proxy::Undecided;

use super::envoy::Envoy;

/// Between two looks at Envoy's counters.
const COUNT: Duration = Duration::from_secs(1);
/// What Envoy counts of calls to the app, HTTP and TCP; the same stands once more by cluster.
const STATS: &str =
    "/stats?filter=^(http\\.ingress\\.ext_authz|ext_authz\\.ingress)\\.(ok|denied|error|failure_mode_allowed)$";
const SERVER: &str = "weft_authz";
const WHY: &str = "Envoy got no answer in time";

/// Watches the Envoy for as long as the process lives.
pub(super) async fn watch(envoy: Arc<Envoy>) -> Infallible {
    let undecided = Undecided::default();
    let mut before = Counts::default();
    loop {
        tokio::time::sleep(COUNT).await;
        let Ok(stats) = envoy.ask(STATS).await else { continue };
        let now = Counts::read(&stats.text());
        let new = now.since(before);
        before = now;
        for (passed, calls) in [(true, new.passed), (false, new.refused)] {
            if calls > 0 {
                undecided.count(passed, calls, SERVER, WHY);
            }
        }
        if new.decided > 0 {
            undecided.decided();
        }
    }
}

/// Calls since Envoy was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    decided: u64,
    passed: u64,
    refused: u64,
}

impl Counts {
    /// From lines like `http.ingress.ext_authz.error: 3`.
    fn read(stats: &str) -> Self {
        let mut counts = Self::default();
        let mut errors = 0;
        for line in stats.lines() {
            let Some((name, count)) = line.rsplit_once(": ") else { continue };
            let Ok(count) = count.trim().parse::<u64>() else { continue };
            match name.rsplit('.').next() {
                Some("ok" | "denied") => counts.decided += count,
                Some("failure_mode_allowed") => counts.passed += count,
                Some("error") => errors += count,
                _ => {}
            }
        }
        counts.refused = errors.saturating_sub(counts.passed);
        counts
    }

    /// An Envoy that was started again counts from zero.
    fn since(self, before: Self) -> Self {
        let is_new = self.decided < before.decided || self.passed < before.passed || self.refused < before.refused;
        if is_new {
            return self;
        }
        Self {
            decided: self.decided - before.decided,
            passed: self.passed - before.passed,
            refused: self.refused - before.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_counters_are_read_also_of_one_that_was_started_again() {
        let stats = "ext_authz.ingress.error: 1\next_authz.ingress.failure_mode_allowed: 0\nhttp.ingress.ext_authz.denied: 2\n\
                     http.ingress.ext_authz.error: 7\nhttp.ingress.ext_authz.failure_mode_allowed: 5\nhttp.ingress.ext_authz.ok: 9\nnonsense\n";
        let counts = Counts::read(stats);
        assert_eq!(counts, Counts { decided: 11, passed: 5, refused: 3 });
        let later = Counts { decided: 12, passed: 6, refused: 3 };
        assert_eq!(later.since(counts), Counts { decided: 1, passed: 1, refused: 0 });
        let restarted = Counts { decided: 12, passed: 0, refused: 1 };
        assert_eq!(restarted.since(counts), restarted);
    }
}
