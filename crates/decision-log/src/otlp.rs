//! Decisions as OTLP log records (OpenTelemetry Protocol 1.x, `opentelemetry.proto.collector.logs.v1`), beside the file.
//!
//! The file is what counts: a collector that is away costs records, which are counted, and never a line or a wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use weft_telemetry::lines::LineCopy;

use crate::entry::{Entry, Outcome};

/// Buffers of lines that wait for the collector.
const QUEUED: usize = 256;
/// Records that are sent together.
const BATCH: usize = 512;
/// How long records wait for others.
const PAUSE: Duration = Duration::from_secs(1);
/// For one export, and for the connection.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the last records may take at the end.
const END_BOUND: Duration = Duration::from_secs(2);

/// Whose decisions they are, in the words of OpenTelemetry's semantic conventions.
#[derive(Clone, Debug)]
pub struct Source {
    /// `service.namespace`.
    pub namespace: String,
    /// `service.name`.
    pub name: String,
    /// `service.instance.id`.
    pub instance: String,
}

/// Sends decisions to a collector, on the runtime that made it.
pub struct Exporter {
    lines: mpsc::Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Exporter {
    /// To the collector at `url`, like `http://127.0.0.1:4317` (gRPC, in clear). Connects when there is something to send.
    ///
    /// # Errors
    /// The text is no such URL.
    pub fn start(url: &str, source: Source) -> Result<Self, String> {
        if !url.starts_with("http://") {
            return Err(format!(
                "`{url}` is not of the form http://HOST:4317; a collector elsewhere is best reached by one on this machine"
            ));
        }
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| format!("`{url}` is no URL: {error}"))?;
        let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
        let (lines, queue) = mpsc::channel(QUEUED);
        let (end, ended) = oneshot::channel();
        let lost = Arc::<AtomicU64>::default();
        let sender = Sender { client: LogsServiceClient::new(channel), source, lost: lost.clone(), failing: false };
        let task = tokio::spawn(sender.run(queue, ended));
        Ok(Self { lines, lost, end, task })
    }

    /// What a [`crate::DecisionLog`] gives its lines to.
    pub fn copy(&self) -> LineCopy {
        let (lines, lost) = (self.lines.clone(), self.lost.clone());
        Box::new(move |written| {
            if lines.try_send(written.to_vec()).is_err() {
                lost.fetch_add(written.iter().filter(|byte| **byte == b'\n').count() as u64, Ordering::Relaxed);
            }
        })
    }

    /// Records lost so far.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    /// Sends what there is, within two seconds, and ends.
    pub async fn end(self) {
        let _ = self.end.send(());
        let _ = tokio::time::timeout(END_BOUND, self.task).await;
    }
}

struct Sender {
    client: LogsServiceClient<Channel>,
    source: Source,
    lost: Arc<AtomicU64>,
    failing: bool,
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<Vec<u8>>, mut ended: oneshot::Receiver<()>) {
        loop {
            let first = tokio::select! {
                lines = queue.recv() => lines,
                _ = &mut ended => {
                    queue.close();
                    break;
                }
            };
            let Some(first) = first else { return };
            let mut records = records(&first);
            let deadline = Instant::now() + PAUSE;
            let mut is_ended = false;
            while records.len() < BATCH && !is_ended {
                tokio::select! {
                    lines = queue.recv() => match lines {
                        Some(lines) => records.extend(self::records(&lines)),
                        None => break,
                    },
                    () = tokio::time::sleep_until(deadline) => break,
                    _ = &mut ended => is_ended = true,
                }
            }
            self.deliver(records, is_ended).await;
            if is_ended {
                queue.close();
                break;
            }
        }
        let mut rest = Vec::new();
        while let Ok(lines) = queue.try_recv() {
            rest.extend(records(&lines));
        }
        self.deliver(rest, true).await;
    }

    /// Tries until it is taken or certainly never will be; once only, if it is the `last`.
    async fn deliver(&mut self, records: Vec<LogRecord>, last: bool) {
        let mut pause = PAUSE;
        for batch in records.chunks(BATCH) {
            loop {
                match self.client.export(request(&self.source, batch)).await {
                    Ok(answer) => {
                        let refused =
                            answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_log_records);
                        self.lose(refused.max(0) as u64, "the collector refused some");
                        if std::mem::take(&mut self.failing) {
                            tracing::info!("decisions go to the collector again");
                        }
                        break;
                    }
                    Err(status) if is_transient(status.code()) && !last => {
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::warn!(error = %status.message(), "decisions do not reach the collector; the decision log has them");
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    Err(status) => {
                        self.lose(batch.len() as u64, status.message());
                        break;
                    }
                }
            }
        }
    }

    fn lose(&mut self, count: u64, why: &str) {
        if count > 0 && self.lost.fetch_add(count, Ordering::Relaxed) == 0 {
            tracing::warn!(count, why, "decisions were not taken by the collector; the decision log has them");
        }
    }
}

/// OTLP s.Failures: what may be sent again.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn request(source: &Source, batch: &[LogRecord]) -> ExportLogsServiceRequest {
    let attributes = [
        ("service.namespace", &source.namespace),
        ("service.name", &source.name),
        ("service.instance.id", &source.instance),
    ];
    let attributes = attributes.map(|(key, value)| attribute(key, text(value))).into();
    let scope = InstrumentationScope { name: "weft.decision".to_owned(), ..Default::default() };
    let logs = ScopeLogs { scope: Some(scope), log_records: batch.to_vec(), ..Default::default() };
    let resource = Some(Resource { attributes, ..Default::default() });
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource, scope_logs: vec![logs], ..Default::default() }],
    }
}

/// Of the lines of a decision log.
fn records(lines: &[u8]) -> Vec<LogRecord> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .filter_map(|line| serde_json::from_slice::<Entry<'static>>(line).ok().map(|entry| record(&entry, line)))
        .collect()
}

fn record(entry: &Entry<'_>, line: &[u8]) -> LogRecord {
    let at = entry.time.parse::<Timestamp>().ok().and_then(|at| u64::try_from(at.as_nanosecond()).ok());
    let (severity, name) = match entry.decision {
        Outcome::Allow => (SeverityNumber::Info, "INFO"),
        Outcome::Deny => (SeverityNumber::Warn, "WARN"),
    };
    let fields = match serde_json::from_slice(line) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let fields = fields.into_iter().filter(|(key, _)| !["time", "reason", "trace_id"].contains(&&**key));
    LogRecord {
        time_unix_nano: at.unwrap_or_default(),
        observed_time_unix_nano: at.unwrap_or_default(),
        severity_number: severity.into(),
        severity_text: name.to_owned(),
        body: Some(text(&entry.reason)),
        attributes: fields.map(|(key, value)| attribute(&key, any(value))).collect(),
        trace_id: entry.trace_id.as_deref().and_then(unhex).unwrap_or_default(),
        event_name: "weft.decision".to_owned(),
        ..Default::default()
    }
}

fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

fn any(value: serde_json::Value) -> AnyValue {
    let value = match value {
        serde_json::Value::Null => return AnyValue { value: None },
        serde_json::Value::Bool(value) => Value::BoolValue(value),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::DoubleValue(number.as_f64().unwrap_or_default()), Value::IntValue)
        }
        serde_json::Value::String(value) => Value::StringValue(value),
        serde_json::Value::Array(values) => {
            Value::ArrayValue(ArrayValue { values: values.into_iter().map(any).collect() })
        }
        serde_json::Value::Object(fields) => Value::KvlistValue(opentelemetry_proto::tonic::common::v1::KeyValueList {
            values: fields.into_iter().map(|(key, value)| attribute(&key, any(value))).collect(),
        }),
    };
    AnyValue { value: Some(value) }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (text.len() == 32).then(|| (0..32).step_by(2).map(digits).collect())?
}

#[cfg(test)]
mod tests;
