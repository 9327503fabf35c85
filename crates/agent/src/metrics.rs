//! What an agent counts, as Prometheus reads it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What became of a process that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attestation {
    /// It is one service at least.
    Granted,
    /// It is none.
    Denied,
    /// It could not be looked at, or it is not known yet whose identities there are.
    Failed,
    /// It was something, and is no more: another program, another user, another commit.
    Withdrawn,
}

impl Attestation {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Granted, "granted"),
        (Self::Denied, "denied"),
        (Self::Failed, "failed"),
        (Self::Withdrawn, "withdrawn"),
    ];
}

/// What was asked of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Issue {
    /// An X.509-SVID.
    X509,
    /// A JWT-SVID.
    Jwt,
}

/// Counters of one agent.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    attestations: [AtomicU64; 4],
    issued: [AtomicU64; 2],
    failed: [AtomicU64; 2],
}

impl Metrics {
    pub(crate) fn attested(&self, outcome: Attestation) {
        self.attestations[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn asked(&self, what: Issue, came: bool) {
        let counters = if came { &self.issued } else { &self.failed };
        counters[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// With the certificates in use, each service's end, and the agent's own.
    pub(crate) fn render(&self, expiries: &[(String, SystemTime)], own: Option<SystemTime>) -> String {
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n"); // writing to a String does not fail
        };
        head(&mut out, "weft_agent_workloads", "gauge", "Services of which this agent has a certificate in use.");
        let _ = writeln!(out, "weft_agent_workloads {}", expiries.len());
        let name = "weft_agent_svid_expiry_seconds";
        head(&mut out, name, "gauge", "Unix time at which the certificate of a service expires.");
        for (service, ends) in expiries {
            let _ = writeln!(out, "{name}{{service=\"{service}\"}} {}", seconds(*ends));
        }
        let name = "weft_agent_attestations_total";
        head(&mut out, name, "counter", "Looks at processes that asked for an identity, by what became of them.");
        for (outcome, label) in Attestation::ALL {
            let count = self.attestations[outcome as usize].load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}{{outcome=\"{label}\"}} {count}");
        }
        for (name, help, counters) in [
            ("weft_agent_issued_total", "Identities that the control plane has issued to this agent.", &self.issued),
            ("weft_agent_issue_failures_total", "Attempts to get one that failed.", &self.failed),
        ] {
            head(&mut out, name, "counter", help);
            for (what, label) in [(Issue::X509, "x509"), (Issue::Jwt, "jwt")] {
                let count = counters[what as usize].load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}{{kind=\"{label}\"}} {count}");
            }
        }
        let name = "weft_certificate_expiry_seconds";
        head(&mut out, name, "gauge", "Unix time at which the agent's own certificate expires; 0 before there is one.");
        let _ = writeln!(out, "{name} {}", own.map_or(0, seconds));
        out
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_scrape_has_each_count_under_its_own_name() {
        let metrics = Metrics::default();
        metrics.attested(Attestation::Granted);
        metrics.attested(Attestation::Withdrawn);
        metrics.asked(Issue::Jwt, true);
        metrics.asked(Issue::X509, false);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let text = metrics.render(&[("prod/web".to_owned(), at(77))], Some(at(88)));
        for line in [
            "weft_agent_workloads 1",
            "weft_agent_svid_expiry_seconds{service=\"prod/web\"} 77",
            "weft_agent_attestations_total{outcome=\"granted\"} 1",
            "weft_agent_attestations_total{outcome=\"denied\"} 0",
            "weft_agent_attestations_total{outcome=\"withdrawn\"} 1",
            "weft_agent_issued_total{kind=\"jwt\"} 1",
            "weft_agent_issued_total{kind=\"x509\"} 0",
            "weft_agent_issue_failures_total{kind=\"x509\"} 1",
            "weft_certificate_expiry_seconds 88",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
