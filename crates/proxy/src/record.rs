//! What the log line and the metrics tell of one request at this hop, as the phases learn it.
//!
//! Header values and paths are held by reference count, not copied.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, uri::PathAndQuery};
use tokio::time::Instant;
use weft_policy::Shadow;
use weft_proxy_config::{ClusterRef, Config, Listener};
use weft_telemetry::Failure;
use weft_telemetry::trace::TraceContext;

use crate::connection::Connection;
use crate::mutation::Mutation;

/// What became of the request at the policy.
#[derive(Clone)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) id: [u8; 32],
    /// The determining policies as `file:line`, or why there is none.
    pub(crate) policy: Arc<str>,
    /// What the shadow policies would have changed.
    pub(crate) shadow: Option<Shadow>,
}

/// What an authorization server says of its decision, for the log.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) decision: Option<Box<str>>,
    pub(crate) decision_id: Option<Box<str>>,
    pub(crate) policy: Option<Box<str>>,
    pub(crate) shadow: Option<Box<str>>,
}

/// What is known of one request, or of one TCP connection.
pub(crate) struct Record {
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
    /// Whether a tunnel or a TCP connection has its way to the endpoint.
    pub(crate) is_open: bool,
    pub(crate) upstream_ms: Option<u64>,
    pub(crate) verdict: Option<Verdict>,
    /// In place of a verdict, where an authorization server was asked.
    pub(crate) told: Option<Box<Told>>,
    /// Nobody could be asked whether it is allowed, and it passed.
    pub(crate) failed_open: bool,
    /// What an authorization server wants changed in the answer.
    pub(crate) answer_mutations: Vec<Mutation>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) failure: Option<Failure>,
    pub(crate) transport_reason: Option<String>,
}

impl Record {
    /// A request of which nothing is known yet but where and when it came.
    pub(crate) fn new(
        connection: Rc<Connection>,
        config: Arc<Config>,
        listener: Arc<Listener>,
        trace: TraceContext,
    ) -> Self {
        Self {
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
            is_open: false,
            upstream_ms: None,
            verdict: None,
            told: None,
            failed_open: false,
            answer_mutations: Vec::new(),
            status: None,
            grpc_status: None,
            failure: None,
            transport_reason: None,
        }
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
}

/// As in `%PROTOCOL%` and `context.protocol`.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
