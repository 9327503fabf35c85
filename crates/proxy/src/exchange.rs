//! One request at this hop, from its first byte to the last of its response. Its end writes the log line and counts, once,
//! however it ends. A connection of bytes also counts while it lasts.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use weft_proxy_config::{Config, Direction, Listener, ListenerKind};
use weft_telemetry::Failure;
use weft_telemetry::metrics::{Reporter, RequestLabels, TcpLabels, TcpSeries};
use weft_telemetry::trace::TraceContext;

use crate::connection::Connection;
use crate::log_line;
use crate::record::Record;
use crate::worker::Worker;

/// A request, or a TCP connection, under way.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    record: Record,
    /// The counters of an open connection of bytes.
    tcp: Option<Arc<TcpSeries>>,
    /// Whether the response came to its end.
    pub(crate) complete: bool,
}

/// Who speaks to whom, for the metrics.
struct Ends {
    reporter: Reporter,
    source: Arc<str>,
    destination: Arc<str>,
    service: Arc<str>,
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
        Box::new(Self { worker, record: Record::new(connection, config, listener, trace), tcp: None, complete: false })
    }

    /// The way is open: from now on its bytes are counted as they move. WebSockets count as the requests that they began as.
    pub(crate) fn begin_bytes(&mut self) {
        self.is_open = true;
        if self.is_tcp() {
            let series = self.tcp_series();
            series.add_opened();
            self.tcp = Some(series);
        }
    }

    /// So many bytes came from the client.
    pub(crate) fn add_received(&mut self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
        if let Some(series) = &self.tcp {
            series.add_received(bytes);
        }
    }

    /// So many bytes went to the client.
    pub(crate) fn add_sent(&mut self, bytes: u64) {
        self.sent += bytes;
        if let Some(series) = &self.tcp {
            series.add_sent(bytes);
        }
    }

    /// Whether it is bytes to a host and port: a TCP service's ingress, or the CONNECT that leads there.
    fn is_tcp(&self) -> bool {
        matches!(self.listener.kind, ListenerKind::Tcp(_)) || self.method == Some(Method::CONNECT)
    }

    /// The counters for what is known by now.
    fn tcp_series(&self) -> Arc<TcpSeries> {
        let Ends { reporter, source, destination, service } = self.ends();
        let flags = self.failure.map_or("-", |failure| failure.facts().flag);
        let labels = TcpLabels { reporter, source, destination, service, flags, mutual_tls: self.is_mutual_tls() };
        self.worker.metrics.borrow_mut().tcp(&labels)
    }

    fn count_tcp(&self) {
        let series = self.tcp_series();
        if self.tcp.is_none() {
            series.add_opened(); // and failed
        }
        series.add_closed();
    }

    fn ends(&self) -> Ends {
        let own = self.connection.own_id.clone();
        let unknown = || Arc::<str>::from("unknown");
        if self.listener.direction == Direction::Inbound {
            Ends {
                reporter: Reporter::Destination,
                source: self.connection.peer_id.clone().unwrap_or_else(unknown),
                destination: own,
                service: self.worker.shared.own_host.clone(),
            }
        } else {
            Ends {
                reporter: Reporter::Source,
                source: own,
                destination: self.upstream_id.clone().unwrap_or_else(unknown),
                service: self.cluster.as_ref().map_or_else(unknown, |cluster| cluster.service.clone()),
            }
        }
    }

    fn is_mutual_tls(&self) -> bool {
        self.connection.is_tls || self.upstream_id.is_some()
    }

    fn count(&self, duration_ms: f64) {
        let Ends { reporter, source, destination, service } = self.ends();
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
            mutual_tls: self.is_mutual_tls(),
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
        if self.is_tcp() {
            self.count_tcp();
        } else {
            self.count(duration_ms);
        }
        if let Some(format) = &self.listener.access_log {
            self.worker.clone().log(format, |line| log_line::write(line, format, &self.record, duration_ms as u64));
        }
        self.worker.ended();
    }
}
