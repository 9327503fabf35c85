//! Prometheus metrics of a data plane, sharded by worker: a request touches only counters that no other worker writes.
//!
//! Names and labels are Istio's standard metrics, so that the dashboards and canary tools that query them work; what is our own
//! begins with `weft_`. A scrape adds the shards up.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt as _};

const DURATION_MS: [f64; 18] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6];
const SIZE_BYTES: [f64; 18] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6];

/// Which end of the call reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Reporter {
    /// The caller's sidecar (egress).
    Source,
    /// The callee's sidecar (ingress).
    Destination,
}

/// What one series of `istio_requests_total` is counted by.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RequestLabels {
    /// Which end reports.
    pub reporter: Reporter,
    /// Caller's SPIFFE ID, `unknown` where there is none.
    pub source: Arc<str>,
    /// Callee's SPIFFE ID, `unknown` where there is none.
    pub destination: Arc<str>,
    /// Host of the called service, like `board.prod`.
    pub service: Arc<str>,
    /// Status sent to the caller, 0 where none was.
    pub code: u16,
    /// Envoy response flag, `-` for none.
    pub flags: &'static str,
    /// Layer of a mesh-made failure, `-` for none.
    pub layer: &'static str,
    /// `http` or `grpc`.
    pub protocol: &'static str,
    /// `grpc-status`, if one was seen.
    pub grpc_status: Option<u8>,
    /// Whether the hop between the sidecars was mutual TLS.
    pub mutual_tls: bool,
}

/// What one series of `istio_tcp_*` is counted by.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TcpLabels {
    /// Which end reports.
    pub reporter: Reporter,
    /// Caller's SPIFFE ID, `unknown` where there is none.
    pub source: Arc<str>,
    /// Callee's SPIFFE ID, `unknown` where there is none.
    pub destination: Arc<str>,
    /// Host of the called service.
    pub service: Arc<str>,
    /// Envoy response flag, `-` for none.
    pub flags: &'static str,
    /// Whether the hop between the sidecars was mutual TLS.
    pub mutual_tls: bool,
}

/// Counters and histograms of one set of request labels in one worker.
#[derive(Default)]
pub struct RequestSeries {
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl RequestSeries {
    /// Counts one finished request: milliseconds of the whole, bytes of both bodies.
    pub fn record(&self, duration_ms: f64, request_bytes: u64, response_bytes: u64) {
        self.duration.record(duration_ms, &DURATION_MS);
        self.request_bytes.record(request_bytes as f64, &SIZE_BYTES);
        self.response_bytes.record(response_bytes as f64, &SIZE_BYTES);
    }
}

/// Counters of one set of TCP labels in one worker, which alone writes them. Directions are Istio's, at both ends: what the caller
/// says is received, what it is told is sent.
#[derive(Default)]
pub struct TcpSeries {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl TcpSeries {
    /// A connection has begun.
    pub fn add_opened(&self) {
        bump(&self.opened, 1);
    }

    /// A connection has ended.
    pub fn add_closed(&self) {
        bump(&self.closed, 1);
    }

    /// So many bytes came from the caller.
    pub fn add_received(&self, bytes: u64) {
        bump(&self.received, bytes);
    }

    /// So many bytes went to the caller.
    pub fn add_sent(&self, bytes: u64) {
        bump(&self.sent, bytes);
    }
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; 19],
    /// In thousandths, so that whole additions lose nothing that matters.
    sum_milli: AtomicU64,
}

/// A histogram added up over the shards: its buckets, and the sum in thousandths.
type Summed = ([u64; 19], u64);

impl Histogram {
    fn record(&self, value: f64, bounds: &[f64; 18]) {
        let bucket = bounds.iter().position(|&bound| value <= bound).unwrap_or(bounds.len());
        bump(&self.buckets[bucket], 1);
        bump(&self.sum_milli, (value * 1000.0) as u64);
    }
}

/// Adds without a locked instruction: only the worker that owns the series writes it, others read.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// A gauge or counter of the proxy as a whole, written rarely.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

type Extra = Box<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

/// All metrics of one process.
#[derive(Default)]
pub struct Registry {
    requests: Mutex<Vec<(RequestLabels, Arc<RequestSeries>)>>,
    tcp: Mutex<Vec<(TcpLabels, Arc<TcpSeries>)>>,
    extras: Mutex<Vec<(&'static str, &'static str, Kind, Extra)>>,
}

/// A worker's own view: finds its series without a lock once they are there.
pub struct Shard {
    registry: Arc<Registry>,
    requests: HashMap<RequestLabels, Arc<RequestSeries>>,
    tcp: HashMap<TcpLabels, Arc<TcpSeries>>,
}

/// Series a worker keeps at most; past it, new label sets are counted under the label values `other`.
const SERIES_MAX: usize = 4096;

impl Registry {
    /// A worker's own view.
    pub fn shard(self: &Arc<Self>) -> Shard {
        Shard { registry: self.clone(), requests: HashMap::new(), tcp: HashMap::new() }
    }

    /// Adds a family whose values are read at each scrape: `read` gives label text (like `{a="b"}` or nothing) and value.
    pub fn extra(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        read: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static,
    ) {
        lock(&self.extras).push((name, help, kind, Box::new(read)));
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.render_requests(&mut out);
        self.render_tcp(&mut out);
        for (name, help, kind, read) in lock(&self.extras).iter() {
            header(&mut out, name, help, if *kind == Kind::Counter { "counter" } else { "gauge" });
            for (labels, value) in read() {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        }
        out
    }

    fn render_requests(&self, out: &mut String) {
        let mut merged: BTreeMap<RequestLabels, [Summed; 3]> = BTreeMap::new();
        for (labels, series) in lock(&self.requests).iter() {
            let sums = merged.entry(labels.clone()).or_default();
            for (sum, histogram) in
                sums.iter_mut().zip([&series.duration, &series.request_bytes, &series.response_bytes])
            {
                for (total, bucket) in sum.0.iter_mut().zip(&histogram.buckets) {
                    *total += bucket.load(Ordering::Relaxed);
                }
                sum.1 += histogram.sum_milli.load(Ordering::Relaxed);
            }
        }
        let texts: Vec<(String, &[Summed; 3])> =
            merged.iter().map(|(labels, sums)| (request_label_text(labels), sums)).collect();

        header(out, "istio_requests_total", "Requests finished at this hop.", "counter");
        for (labels, sums) in &texts {
            let _ = writeln!(out, "istio_requests_total{{{labels}}} {}", sums[0].0.iter().sum::<u64>());
        }
        let families = [
            (
                "istio_request_duration_milliseconds",
                "Time from the first byte of the request to the last of the response.",
                &DURATION_MS,
            ),
            ("istio_request_bytes", "Bytes of request bodies.", &SIZE_BYTES),
            ("istio_response_bytes", "Bytes of response bodies.", &SIZE_BYTES),
        ];
        for (index, (name, help, bounds)) in families.into_iter().enumerate() {
            header(out, name, help, "histogram");
            for (labels, sums) in &texts {
                let (buckets, sum_milli) = &sums[index];
                let mut seen = 0;
                for (bound, count) in bounds.iter().zip(buckets) {
                    seen += count;
                    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {seen}");
                }
                let total = seen + buckets[bounds.len()];
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
                let _ = writeln!(out, "{name}_sum{{{labels}}} {}", *sum_milli as f64 / 1000.0);
                let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
            }
        }
    }

    fn render_tcp(&self, out: &mut String) {
        let mut merged: BTreeMap<TcpLabels, [u64; 4]> = BTreeMap::new();
        for (labels, series) in lock(&self.tcp).iter() {
            let sums = merged.entry(labels.clone()).or_default();
            for (sum, counter) in sums.iter_mut().zip([&series.opened, &series.closed, &series.sent, &series.received])
            {
                *sum += counter.load(Ordering::Relaxed);
            }
        }
        let families = [
            ("istio_tcp_connections_opened_total", "TCP connections opened."),
            ("istio_tcp_connections_closed_total", "TCP connections closed."),
            ("istio_tcp_sent_bytes_total", "Bytes that callers of TCP services were sent."),
            ("istio_tcp_received_bytes_total", "Bytes that came from callers of TCP services."),
        ];
        for (index, (name, help)) in families.into_iter().enumerate() {
            header(out, name, help, "counter");
            for (labels, sums) in &merged {
                let ends = ends_label_text(labels.reporter, &labels.source, &labels.destination, &labels.service);
                let _ = writeln!(
                    out,
                    "{name}{{{ends},request_protocol=\"tcp\",response_flags=\"{}\",connection_security_policy=\"{}\"}} {}",
                    labels.flags,
                    security_policy(labels.reporter, labels.mutual_tls),
                    sums[index]
                );
            }
        }
    }
}

impl Shard {
    /// The series of these labels, made on first sight.
    pub fn request(&mut self, labels: &RequestLabels) -> Arc<RequestSeries> {
        if let Some(series) = self.requests.get(labels) {
            return series.clone();
        }
        let mut labels = labels.clone();
        if self.requests.len() >= SERIES_MAX {
            labels.source = "other".into();
            labels.destination = "other".into();
            labels.service = "other".into();
        }
        let series = self.requests.entry(labels.clone()).or_insert_with(|| {
            let series = Arc::<RequestSeries>::default();
            lock(&self.registry.requests).push((labels, series.clone()));
            series
        });
        series.clone()
    }

    /// The series of these labels, made on first sight.
    pub fn tcp(&mut self, labels: &TcpLabels) -> Arc<TcpSeries> {
        self.tcp
            .entry(labels.clone())
            .or_insert_with(|| {
                let series = Arc::<TcpSeries>::default();
                lock(&self.registry.tcp).push((labels.clone(), series.clone()));
                series
            })
            .clone()
    }
}

/// A poisoned registry still holds plain counters.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Escapes a label value (backslash, quote, line feed).
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn request_label_text(labels: &RequestLabels) -> String {
    format!(
        "{},request_protocol=\"{}\",response_code=\"{}\",grpc_response_status=\"{}\",response_flags=\"{}\",weft_layer=\"{}\",connection_security_policy=\"{}\"",
        ends_label_text(labels.reporter, &labels.source, &labels.destination, &labels.service),
        labels.protocol,
        labels.code,
        labels.grpc_status.map(|status| status.to_string()).unwrap_or_default(),
        labels.flags,
        labels.layer,
        security_policy(labels.reporter, labels.mutual_tls),
    )
}

/// Istio's words: only the callee's end knows that a call came in plain text.
fn security_policy(reporter: Reporter, mutual_tls: bool) -> &'static str {
    match (mutual_tls, reporter) {
        (true, _) => "mutual_tls",
        (false, Reporter::Destination) => "none",
        (false, Reporter::Source) => "unknown",
    }
}

fn ends_label_text(reporter: Reporter, source: &str, destination: &str, service: &str) -> String {
    let (source_name, source_namespace) = workload(source);
    let (destination_name, destination_namespace) = workload(destination);
    let (service_name, service_namespace) = service.split_once('.').unwrap_or((service, "unknown"));
    let reporter = match reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
    };
    let [source, destination, service, service_name, service_namespace] =
        [source, destination, service, service_name, service_namespace].map(escape);
    format!(
        "reporter=\"{reporter}\",source_workload=\"{source_name}\",source_workload_namespace=\"{source_namespace}\",source_principal=\"{source}\",\
         source_app=\"{source_name}\",source_canonical_service=\"{source_name}\",destination_workload=\"{destination_name}\",\
         destination_workload_namespace=\"{destination_namespace}\",destination_principal=\"{destination}\",destination_app=\"{destination_name}\",\
         destination_canonical_service=\"{destination_name}\",destination_service=\"{service}\",destination_service_name=\"{service_name}\",\
         destination_service_namespace=\"{service_namespace}\""
    )
}

/// Name and namespace of a workload's SPIFFE ID.
fn workload(id: &str) -> (String, String) {
    match id.parse::<weft_model::SpiffeId>().ok().and_then(|id| id.service()) {
        Some(service) => (service.name().to_owned(), service.namespace().to_owned()),
        None => ("unknown".to_owned(), "unknown".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(code: u16) -> RequestLabels {
        RequestLabels {
            reporter: Reporter::Destination,
            source: "spiffe://acme.internal/ns/prod/sa/web".into(),
            destination: "spiffe://acme.internal/ns/prod/sa/board".into(),
            service: "board.prod".into(),
            code,
            flags: "-",
            layer: "-",
            protocol: "http",
            grpc_status: None,
            mutual_tls: true,
        }
    }

    #[test]
    fn shards_of_two_workers_add_up() {
        let registry = Arc::new(Registry::default());
        for _ in 0..2 {
            let mut shard = registry.shard();
            shard.request(&labels(200)).record(3.0, 10, 2000);
            shard.request(&labels(200)).record(700.0, 0, 0);
        }
        let text = registry.render();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert!(line("istio_requests_total{").ends_with(" 4"), "{text}");
        assert!(line("istio_requests_total{").contains("source_workload=\"web\""), "{text}");
        let bucket = |le: &str| {
            text.lines()
                .find(|l| {
                    l.starts_with("istio_request_duration_milliseconds_bucket") && l.contains(&format!("le=\"{le}\""))
                })
                .unwrap_or_default()
                .to_owned()
        };
        assert!(bucket("5").ends_with(" 2"), "{text}");
        assert!(bucket("1000").ends_with(" 4"), "{text}");
        assert!(line("istio_request_duration_milliseconds_sum").ends_with(" 1406"), "{text}");
    }

    #[test]
    fn label_sets_are_bounded() {
        let registry = Arc::new(Registry::default());
        let mut shard = registry.shard();
        for number in 0..SERIES_MAX + 100 {
            let labels = RequestLabels { service: format!("s{number}.prod").into(), ..labels(200) };
            shard.request(&labels).record(1.0, 0, 0);
        }
        assert!(lock(&registry.requests).len() <= SERIES_MAX + 1);
        assert!(registry.render().contains("destination_service=\"other\""));
    }
}
