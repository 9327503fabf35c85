//! One request at this hop, from its first byte to the last of its response: what the log line and the metrics tell of it.
//!
//! Header values and paths are held by reference count, not copied; the line is written once, when the exchange ends, however
//! it ends.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, uri::PathAndQuery};
use tokio::time::Instant;
use weft_telemetry::Failure;
use weft_telemetry::metrics::{Reporter, RequestLabels};
use weft_telemetry::trace::TraceContext;

use crate::config::{ClusterRef, Config, Listener, ListenerKind};
use crate::serve::Connection;
use crate::worker::Worker;

/// What became of the request at the policy.
#[derive(Clone)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) id: [u8; 32],
    /// The determining policies as `file:line`, or why there is none.
    pub(crate) policy: Arc<str>,
}

/// The record of one request, or of one TCP connection.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    pub(crate) connection: Rc<Connection>,
    /// The configuration that the request began with and ends with.
    pub(crate) config: Arc<Config>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    /// `None` for TCP, and where it could not be read.
    pub(crate) method: Option<Method>,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) authority: Option<HeaderValue>,
    /// `None` for TCP.
    pub(crate) protocol: Option<Version>,
    pub(crate) grpc: bool,
    /// Values of the request headers that the log format names.
    pub(crate) logged_headers: Vec<(HeaderName, HeaderValue)>,
    /// `None` for TCP, and where it could not be read.
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) trace: TraceContext,
    pub(crate) received: Rc<Cell<u64>>,
    pub(crate) sent: u64,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) cluster: Option<Arc<ClusterRef>>,
    pub(crate) upstream_id: Option<Arc<str>>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) upstream_local: Option<SocketAddr>,
    pub(crate) attempts: u32,
    pub(crate) upstream_ms: Option<u64>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) failure: Option<Failure>,
    pub(crate) transport_reason: Option<String>,
    /// Whether the response came to its end.
    pub(crate) complete: bool,
}

impl Exchange {
    /// A request of which nothing is known yet but where and when it came.
    pub(crate) fn new(
        worker: Rc<Worker>,
        connection: Rc<Connection>,
        config: Arc<Config>,
        listener: Arc<Listener>,
        trace: TraceContext,
    ) -> Box<Self> {
        worker.begun();
        Box::new(Self {
            worker,
            connection,
            config,
            listener,
            trace,
            started: Instant::now(),
            started_at: SystemTime::now(),
            method: None,
            path: None,
            authority: None,
            protocol: None,
            grpc: false,
            logged_headers: Vec::new(),
            request_id: None,
            received: Rc::new(Cell::new(0)),
            sent: 0,
            route: None,
            cluster: None,
            upstream_id: None,
            upstream: None,
            upstream_local: None,
            attempts: 0,
            upstream_ms: None,
            verdict: None,
            status: None,
            grpc_status: None,
            failure: None,
            transport_reason: None,
            complete: false,
        })
    }

    /// Takes note of the response's `grpc-status`, in its head or its trailers.
    pub(crate) fn note_grpc_status(&mut self, headers: &HeaderMap) {
        if self.grpc {
            let status = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
            self.grpc_status = status.or(self.grpc_status);
        }
    }

    /// Milliseconds since the request came.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }

    /// The method, as policies and routes know it; empty for TCP.
    pub(crate) fn method(&self) -> &str {
        self.method.as_ref().map_or("", Method::as_str)
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.protocol == Some(Version::HTTP_2)
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
            self.worker.clone().log(format, |line| crate::log_line::write(line, format, self, duration_ms as u64));
        }
        self.worker.ended();
    }
}
