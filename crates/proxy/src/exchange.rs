//! One request at this hop, from its first byte to the last of its response. Its end writes the log line and counts, once,
//! however it ends.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use weft_proxy_config::{Config, Listener, ListenerKind};
use weft_telemetry::Failure;
use weft_telemetry::metrics::{Reporter, RequestLabels};
use weft_telemetry::trace::TraceContext;

use crate::connection::Connection;
use crate::log_line;
use crate::record::Record;
use crate::worker::Worker;

/// A request, or a TCP connection, under way.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    record: Record,
    /// Whether the response came to its end.
    pub(crate) complete: bool,
}

impl Deref for Exchange {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Record {
        &mut self.record
    }
}

impl Exchange {
    /// Begins it: until it ends, the worker is not idle.
    pub(crate) fn new(
        worker: Rc<Worker>,
        connection: Rc<Connection>,
        config: Arc<Config>,
        listener: Arc<Listener>,
        trace: TraceContext,
    ) -> Box<Self> {
        worker.begun();
        Box::new(Self { worker, record: Record::new(connection, config, listener, trace), complete: false })
    }

    /// The way is open.
    pub(crate) fn begin_bytes(&mut self) {
        self.is_open = true;
    }

    /// So many bytes came from the client.
    pub(crate) fn add_received(&mut self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// So many bytes went to the client.
    pub(crate) fn add_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    fn count(&self, duration_ms: f64) {
        let own = &self.connection.own_id;
        let unknown = || Arc::<str>::from("unknown");
        let upstream = || self.upstream_id.clone().unwrap_or_else(unknown);
        let (reporter, source, destination, service) = if self.connection.is_tls {
            let peer = self.connection.peer_id.clone().unwrap_or_else(unknown);
            (Reporter::Destination, peer, own.clone(), self.worker.shared.own_host.clone())
        } else {
            let service = self.cluster.as_ref().map_or_else(unknown, |cluster| cluster.service.clone());
            (Reporter::Source, own.clone(), upstream(), service)
        };
        let facts = self.failure.map(Failure::facts);
        let labels = RequestLabels {
            reporter,
            source,
            destination,
            service,
            code: self.status.map_or(0, |status| status.as_u16()),
            flags: facts.map_or("-", |facts| facts.flag),
            layer: facts.map_or("-", |facts| facts.layer.as_str()),
            protocol: if self.grpc { "grpc" } else { "http" },
            grpc_status: self.grpc_status,
            mutual_tls: self.connection.is_tls || self.upstream_id.is_some(),
        };
        self.worker.metrics.borrow_mut().request(&labels).record(duration_ms, self.received.get(), self.sent);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete && self.failure.is_none() {
            self.failure = Some(Failure::ClientGone);
        }
        let duration_ms = self.elapsed_ms();
        if matches!(self.listener.kind, ListenerKind::Http(_)) {
            self.count(duration_ms);
        }
        if let Some(format) = &self.listener.access_log {
            self.worker.clone().log(format, |line| log_line::write(line, format, &self.record, duration_ms as u64));
        }
        self.worker.ended();
    }
}
