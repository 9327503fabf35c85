//! The control plane's own numbers, under the names that istiod's dashboards query, and `weft_` where there is no such name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::status::FederationStatus;

/// Grows only.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each value of one label.
#[derive(Default)]
pub(crate) struct Family(Mutex<BTreeMap<String, u64>>);

impl Family {
    pub(crate) fn add(&self, label: &str, n: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(label.to_owned()).or_default() += n;
    }

    fn get(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts of what was at most each bound; the last is everything.
pub(crate) struct Histogram {
    bounds: &'static [f64],
    buckets: Mutex<(Vec<u64>, f64)>,
}

impl Histogram {
    const SECONDS: &'static [f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
    const BYTES: &'static [f64] = &[1e3, 1e4, 1e5, 1e6, 4e6, 1e7];

    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: Mutex::new((vec![0; bounds.len() + 1], 0.0)) }
    }

    pub(crate) fn observe(&self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.0[at] += 1;
        buckets.1 += value;
    }
}

pub(crate) struct Metrics {
    pub(crate) pushes: Family,
    pub(crate) rejects: Family,
    pub(crate) connections: Counter,
    pub(crate) validation_passed: Counter,
    pub(crate) validation_failed: Counter,
    pub(crate) config_size: Histogram,
    pub(crate) proxy_convergence: Histogram,
    pub(crate) commit_convergence: Histogram,
    pub(crate) push_time: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            pushes: Family::default(),
            rejects: Family::default(),
            connections: Counter::default(),
            validation_passed: Counter::default(),
            validation_failed: Counter::default(),
            config_size: Histogram::new(Histogram::BYTES),
            proxy_convergence: Histogram::new(Histogram::SECONDS),
            commit_convergence: Histogram::new(Histogram::SECONDS),
            push_time: Histogram::new(Histogram::SECONDS),
        }
    }
}

/// What is read at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) connected: usize,
    pub(crate) refused: usize,
    pub(crate) pending: usize,
    pub(crate) services: usize,
    pub(crate) routes: usize,
    pub(crate) services_without_endpoints: usize,
    pub(crate) endpoints: usize,
    pub(crate) uptime_seconds: u64,
    pub(crate) root_expiry: u64,
}

/// What is counted of identities; nothing before the first commit.
pub(crate) struct IdentityCounts {
    /// How often each event has happened, by its name.
    pub(crate) events: Vec<(&'static str, u64)>,
    /// Records that the disk did not take.
    pub(crate) lost: u64,
    /// Certificates that live, and those that should have been renewed by now.
    pub(crate) living: usize,
    pub(crate) late: usize,
    /// When the first of those that live ends, seconds since the Unix epoch; 0 if there are none.
    pub(crate) first_end: u64,
}

impl IdentityCounts {
    /// Prometheus text format 0.0.4.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        let name = "weft_identity_events_total";
        header(out, name, "What became of identities since the start, by event.", "counter");
        for (event, count) in &self.events {
            let _ = writeln!(out, "{name}{{event=\"{event}\"}} {count}");
        }
        counter(out, "weft_identity_records_lost_total", "Records that the disk did not take.", self.lost);
        gauge(out, "weft_identity_certificates", "Certificates that live.", self.living as f64);
        let late = "Certificates in the last quarter of their life, which should have been renewed.";
        gauge(out, "weft_identity_certificates_late", late, self.late as f64);
        let first = "When the first certificate that lives ends, seconds since the Unix epoch.";
        gauge(out, "weft_identity_first_expiry_timestamp", first, self.first_end as f64);
        text
    }
}

impl Metrics {
    /// Prometheus text format 0.0.4.
    pub(crate) fn render(&self, gauges: Gauges) -> String {
        let mut text = String::new();
        let out = &mut text;
        gauge(out, "pilot_xds", "Proxies with a live ADS stream.", gauges.connected as f64);
        gauge(out, "pilot_services", "Services of the commit that is served.", gauges.services as f64);
        gauge(out, "pilot_virt_services", "Services with route rules of their own.", gauges.routes as f64);
        gauge(out, "pilot_eds_no_instances", "Services without an endpoint.", gauges.services_without_endpoints as f64);
        gauge(out, "istiod_uptime_seconds", "How long this control plane has run.", gauges.uptime_seconds as f64);
        gauge(
            out,
            "citadel_server_root_cert_expiry_timestamp",
            "When the root certificate expires, seconds since the Unix epoch.",
            gauges.root_expiry as f64,
        );
        gauge(out, "weft_endpoints", "Registered endpoints.", gauges.endpoints as f64);
        gauge(
            out,
            "weft_proxies_refusing",
            "Proxies that refuse a part of their configuration.",
            gauges.refused as f64,
        );
        gauge(
            out,
            "weft_proxies_pending",
            "Proxies that have not answered the newest configuration.",
            gauges.pending as f64,
        );

        family(out, "pilot_xds_pushes", "Responses sent, by type.", &self.pushes.get());
        let rejects = self.rejects.get();
        for (kind, name) in [("CDS", "cds"), ("EDS", "eds"), ("LDS", "lds"), ("RDS", "rds")] {
            let count = rejects.get(kind).copied().unwrap_or(0);
            counter(
                out,
                &format!("pilot_xds_{name}_reject"),
                &format!("{kind} responses that a proxy refused."),
                count,
            );
        }
        counter(out, "pilot_total_xds_rejects", "Responses that a proxy refused.", rejects.values().sum());
        counter(out, "weft_xds_streams_total", "Streams opened.", self.connections.get());
        counter(out, "galley_validation_passed", "Commits that passed the check.", self.validation_passed.get());
        counter(out, "galley_validation_failed", "Commits that were refused.", self.validation_failed.get());

        let seconds = "seconds";
        histogram(out, "pilot_xds_config_size_bytes", "Size of a response, bytes.", &self.config_size);
        histogram(
            out,
            "pilot_proxy_convergence_time",
            &format!("From publishing a commit to a proxy's answer, {seconds}."),
            &self.proxy_convergence,
        );
        histogram(
            out,
            "weft_commit_convergence_seconds",
            &format!("From publishing a commit to the last proxy's answer, {seconds}."),
            &self.commit_convergence,
        );
        histogram(
            out,
            "pilot_xds_push_time",
            &format!("Compiling and handing out one round, {seconds}."),
            &self.push_time,
        );
        text
    }
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n"); // writing to a String does not fail
}

fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    header(out, name, help, "gauge");
    let _ = writeln!(out, "{name} {value}");
}

fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    header(out, name, help, "counter");
    let _ = writeln!(out, "{name} {value}");
}

fn family(out: &mut String, name: &str, help: &str, values: &BTreeMap<String, u64>) {
    header(out, name, help, "counter");
    for (label, value) in values {
        let _ = writeln!(out, "{name}{{type=\"{}\"}} {value}", label.to_lowercase());
    }
}

fn histogram(out: &mut String, name: &str, help: &str, histogram: &Histogram) {
    header(out, name, help, "histogram");
    let (buckets, sum) = histogram.buckets.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut count = 0;
    for (bound, n) in histogram.bounds.iter().zip(&buckets) {
        count += n;
        let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    count += buckets[histogram.bounds.len()];
    let _ = write!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n");
}

/// The other trust domains, by name.
pub(crate) fn federation(all: &[FederationStatus]) -> String {
    if all.is_empty() {
        return String::new();
    }
    type Value = fn(&FederationStatus) -> u64;
    let families: [(&str, &str, &str, Value); 4] = [
        ("weft_federation_fetches_total", "counter", "Fetches of the bundle of another trust domain.", |one| {
            one.fetches
        }),
        ("weft_federation_failures_total", "counter", "Those that brought nothing.", |one| one.failures),
        ("weft_federation_roots", "gauge", "Roots of another trust domain that are in force.", |one| one.roots as u64),
        ("weft_federation_sequence", "gauge", "Number of the bundle that is in force.", |one| {
            one.sequence.unwrap_or(0)
        }),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in families {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for one in all {
            let _ = writeln!(text, "{name}{{trust_domain=\"{}\"}} {}", one.trust_domain, value(one));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_istiods_names_and_cumulative_buckets() {
        let metrics = Metrics::default();
        metrics.rejects.add("CDS", 2);
        metrics.pushes.add("EDS", 3);
        for seconds in [0.002, 0.003, 99.0] {
            metrics.proxy_convergence.observe(seconds);
        }
        let text = metrics.render(Gauges { connected: 4, ..Gauges::default() });
        for line in [
            "pilot_xds 4",
            "pilot_xds_cds_reject 2",
            "pilot_xds_lds_reject 0",
            "pilot_total_xds_rejects 2",
            "pilot_xds_pushes{type=\"eds\"} 3",
            "pilot_proxy_convergence_time_bucket{le=\"0.001\"} 0",
            "pilot_proxy_convergence_time_bucket{le=\"0.005\"} 2",
            "pilot_proxy_convergence_time_bucket{le=\"+Inf\"} 3",
            "pilot_proxy_convergence_time_count 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
